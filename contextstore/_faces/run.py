"""A flow run as an object, awaited: the store's calls, bound to one run, and steps.

Rules of this module: each call is the one of the core's that the store's makes; what a step adds is the note on its
exceptions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, ParamSpec, TypeVar, overload

from .._core.core import Core
from .._core.leases import Lease, lease_of
from .._core.lives import Life
from .._results import Attempt, Output, RunAttributeChanges, RunAttributes, RunInfo, RunState, StateEntry
from .._values.arguments import ExistOk
from .._values.codec import decode
from .._values.keys import Id, Outputs
from .step_notes import note_step

T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")
P = ParamSpec("P")


class AsyncFlowRun:
    """The calls of an ``AsyncContextStore``, bound to one run: what ``store.run(flow_run_id)`` gives.

        run = store.run("run-1")
        rows = await run.step("extract", extract, "https://example.org")
        total = await run.step("sum", sum, rows)

    A run keeps its store alive. It is of one life of its id: from its first call on that finds the run, or makes it.
    Once that run is deleted, its calls that write or wait raise ``RunDeletedError``, and its reads answer as for a
    deleted run: also if the id was forgotten, and names another run by now.
    """

    def __init__(self, core: Core, flow_run_id: str, *, check_inputs: bool = False, lease: Lease | None = None) -> None:
        self._core = core
        self._checks_inputs = check_inputs
        self._life = Life(flow_run_id, lease_of(core.session, lease))
        self.flow_run_id = flow_run_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.flow_run_id!r} of <AsyncContextStore {self._core}>>"

    async def begin(self, *, attributes: RunAttributes | None = None, parent: Id | None = None) -> RunInfo:
        """Have the run there before its first output; the first ``begin`` says what it is. It changes no state.

        Repeated it does nothing more, as after a restart. What is given is compared with the first begin of the run,
        whatever was updated since: attributes as JSON, so that ``1``, ``1.0`` and ``True`` differ. What is not given is
        not compared. A run that is there without having been begun takes its first begin: it keeps the attributes that
        an ``update`` gave it, but for those of the same names.

        Args:
            attributes: at most 64 in all, by which ``list_runs`` finds the run: names of at most 256 bytes as UTF-8,
                and for each a str of at most 1,024 bytes, an int (from -2**63 to 2**64 - 1), a finite float or a bool;
                no NUL and no lone surrogates. ``{}`` is given, and says that there are none.
            parent: the id of another run, there or not.

        Returns:
            The run, as it is behind this.

        Raises:
            RunAlreadyExistsError: its first begin gave other attributes, or another parent.
            RunDeletedError: it is deleted.
        """
        return await self._core.run_facts.begin(self.flow_run_id, attributes, parent, self._life)

    async def update(
        self,
        *,
        state: RunState | None = None,
        attributes: RunAttributeChanges | None = None,
        error: str | None = None,
        expected_state: RunState | None = None,
    ) -> RunInfo:
        """Say how the run stands. What is not given stays; a run that is not there is made.

        A state is what its runner says: it refuses no outputs, and each may follow each.

        Args:
            state: ``"open"``, ``"completed"``, ``"failed"`` or ``"cancelled"``.
            attributes: as for ``begin``. They are merged with those that it has; one that is None is removed.
            error: what went wrong, cut after 4,096 bytes as UTF-8; NUL and lone surrogates are written out. ``""``:
                there is none any more.
            expected_state: the state that it must be in; a run that is not there is ``"open"``.

        Returns:
            The run, as it is behind this.

        Raises:
            RunStateConflictError: it is in another state than ``expected_state``; nothing was changed.
            RunDeletedError: it is deleted.
            ValueError: it would have more than 64 attributes; nothing was changed.
        """
        return await self._core.run_facts.update(self.flow_run_id, state, attributes, error, expected_state, self._life)

    async def info(self) -> RunInfo | None:
        """The run, with what was said of it: see the store's ``get_run_info``."""
        return await self._core.run_facts.info(self.flow_run_id, self._life)

    async def put(self, node_id: Id, value: Any, *, exist_ok: ExistOk = False, tag: str | None = None) -> None:
        """Write the output of a node, once: see the store's ``put``."""
        await self._core.outputs.put(self.flow_run_id, node_id, value, exist_ok, tag, self._life)

    async def append(self, prefix: str, value: Any, *, key: Id | None = None, tag: str | None = None) -> str:
        """Append an output, under the next id of a prefix: see the store's ``append``."""
        return await self._core.outputs.append(self.flow_run_id, prefix, value, key, tag, self._life)

    @overload
    async def get(self, node_id: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    async def get(self, node_id: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get(self, node_id: Id, default: Any = None, *, type: Any = None) -> Any: ...
    async def get(self, node_id: Id, default: Any = None, *, type: Any = None) -> Any:
        """The output of a node, or ``default``: see the store's ``get``."""
        # The quick way, as the store's face has it.
        value = self._core.session.cache.find_of((self.flow_run_id, node_id), self._life.epoch)
        if value is None:
            return await self._core.outputs.get(self.flow_run_id, node_id, default, type, self._life)
        return decode(value) if type is None else self._core.converted(value, type, self.flow_run_id, node_id)

    async def exists(self, node_id: Id) -> bool:
        """Whether a node has an output."""
        return await self._core.outputs.exists(self.flow_run_id, node_id, self._life)

    async def get_entry(self, node_id: Id, *, type: Any = None) -> Output | None:
        """The output of a node with its time and its size: see the store's ``get_entry``."""
        return await self._core.outputs.get_entry(self.flow_run_id, node_id, type, self._life)

    async def list_keys(
        self, *, prefix: str = "", after: Id | None = None, limit: int | None = None, reverse: bool = False
    ) -> list[str]:
        """The ids of the nodes that have an output, sorted: see the store's ``list_keys``."""
        return await self._core.parts.list_keys(self.flow_run_id, prefix, after, limit, reverse, self._life)

    async def put_many(self, outputs: Outputs, *, exist_ok: ExistOk = False) -> list[str]:
        """Write several outputs in one commit: see the store's ``put_many``."""
        return await self._core.outputs.put_many(self.flow_run_id, outputs, exist_ok, self._life)

    async def delete_outputs(self, node_ids: Iterable[Id] | None = None, *, prefix: str | None = None) -> int:
        """Delete outputs of the run; their ids stay used up: see the store's ``delete_outputs``."""
        return await self._core.deletions.delete_outputs(self.flow_run_id, node_ids, prefix, self._life)

    @overload
    async def get_many(self, node_ids: Iterable[Id], *, type: type[T]) -> dict[str, T]: ...
    @overload
    async def get_many(self, node_ids: Iterable[Id], *, type: Any = None) -> dict[str, Any]: ...
    async def get_many(self, node_ids: Iterable[Id], *, type: Any = None) -> dict[str, Any]:
        """The outputs of these nodes: see the store's ``get_many``."""
        return await self._core.outputs.get_many(self.flow_run_id, node_ids, type, self._life)

    async def list_outputs(
        self,
        *,
        prefix: str = "",
        after: Id | None = None,
        limit: int = 100,
        reverse: bool = False,
        type: Any = None,
    ) -> list[Output]:
        """A page of the outputs, by node id: see the store's ``list_outputs``."""
        return await self._core.parts.list_outputs(self.flow_run_id, prefix, after, limit, reverse, type, self._life)

    @overload
    async def get_run(self, *, prefix: str = "", type: type[T]) -> dict[str, T]: ...
    @overload
    async def get_run(self, *, prefix: str = "", type: Any = None) -> dict[str, Any]: ...
    async def get_run(self, *, prefix: str = "", type: Any = None) -> dict[str, Any]:
        """The outputs by node id: see the store's ``get_run``."""
        return await self._core.parts.get_run(self.flow_run_id, prefix, type, self._life)

    @overload
    async def get_or_put(
        self, node_id: Id, factory: Callable[[], Awaitable[Any]] | Callable[[], Any], *, type: type[T]
    ) -> T: ...
    @overload
    async def get_or_put(
        self, node_id: Id, factory: Callable[[], Awaitable[Any]] | Callable[[], Any], *, type: Any = None
    ) -> Any: ...
    async def get_or_put(
        self, node_id: Id, factory: Callable[[], Awaitable[Any]] | Callable[[], Any], *, type: Any = None
    ) -> Any:
        """The stored output, or ``factory()``'s, stored: see the store's ``get_or_put``."""
        return await self._core.waits.get_or_put(self.flow_run_id, node_id, factory, type, self._life)

    @overload
    async def step(self, node_id: Id, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def step(self, node_id: Id, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def step(
        self, node_id: Id, fn: Callable[P, Awaitable[R]] | Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """``fn(*args, **kwargs)``, computed once and recorded as the node's output before it returns.

        If the output is there, ``fn`` is not called. One computation per store, as for ``get_or_put``; all keywords are
        those of ``fn``. At the first call as on a replay the result is what ``fn``'s return annotation says, of which
        alone the names have to be known at run time; with ``Any`` or ``object``, its JSON form. A function without a
        return annotation, or with a type variable in it, has to return what equals its own JSON form (tuples count as
        lists, numpy's scalars as their numbers). An ``Exception`` of ``fn``, or for its result, carries a note that
        names the step and the run.

        Raises:
            TypeError: the annotation cannot be resolved, no JSON can be made what it says, or it is a union whose
                members write the same JSON. ``fn`` was not called.
            SerializationError: the result would come back as something else than ``fn`` says; nothing was stored. With
                ``check_inputs=True``, an argument has no JSON form; ``fn`` was not called.
            DeserializationError: the output that is there does not fit the annotation.
            InputsChangedError: with ``check_inputs=True``, the output that is there was made from other arguments.
            OutputDeletedError: the output was deleted.
        """
        try:
            result: R = await self._core.steps.step(
                self.flow_run_id, node_id, fn, args, kwargs, self._checks_inputs, self._life
            )
        except Exception as error:  # raised again below: any failure is told in which step it was
            note_step(error, node_id, self.flow_run_id)
            raise
        return result

    async def attempts(self, node_id: Id | None = None) -> list[Attempt]:
        """The calls of functions by ``step`` that have ended, by node and number: of all nodes, or of one.

        One that made an output has no ``error``; it was recorded in the same commit as the output, goes when that is
        deleted, and is forked and copied with it. One that failed has the type and the text of the exception. Of each
        node the newest 100 failures are kept; their numbers go on. No values are read.

        Raises:
            InvalidKeyError: ``node_id`` cannot be one.
            CorruptStoreError: what an output says of its attempt is damaged.
        """
        return await self._core.attempts.attempts(self.flow_run_id, node_id, self._life)

    @overload
    async def wait_for(self, node_id: Id, *, timeout: float | None = None, type: type[T]) -> T: ...
    @overload
    async def wait_for(self, node_id: Id, *, timeout: float | None = None, type: Any = None) -> Any: ...
    async def wait_for(self, node_id: Id, *, timeout: float | None = None, type: Any = None) -> Any:
        """Wait until a node has an output: see the store's ``wait_for``."""
        return await self._core.waits.wait_for(self.flow_run_id, node_id, timeout, type, self._life)

    def watch(
        self, *, prefix: str = "", after: str | None = None, until: Id | None = None, type: Any = None
    ) -> AsyncGenerator[Output, None]:
        """The outputs that are there, and each further one as it is written: see the store's ``watch``."""
        return self._core.watching.watch(self.flow_run_id, prefix, after, until, type, self._life)

    async def wait_for_run(
        self,
        *,
        state: RunState | Iterable[RunState] = ("completed", "failed", "cancelled"),
        timeout: float | None = None,
    ) -> RunInfo:
        """Wait until the run is in a state: see the store's ``wait_for_run``."""
        return await self._core.run_watching.wait_for(self.flow_run_id, state, timeout, self._life)

    def iter_outputs(
        self, *, prefix: str = "", after: Id | None = None, reverse: bool = False, type: Any = None
    ) -> AsyncIterator[Output]:
        """Iterate over the outputs, by node id: see the store's ``iter_outputs``."""
        return self._core.parts.iterate(self.flow_run_id, prefix, after, reverse, type, self._life)

    @overload
    async def get_state(self, key: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    async def get_state(self, key: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get_state(self, key: Id, default: Any = None, *, type: Any = None) -> Any: ...
    async def get_state(self, key: Id, default: Any = None, *, type: Any = None) -> Any:
        """A state value of the run, as it is in the store now; ``default`` where none is written.

        Args:
            key: as that of a global.
            type: as for ``get``.

        Raises:
            DeserializationError: it does not fit ``type``.
            CorruptStoreError: it is damaged; its ``flow_run_id`` and ``key`` name it.
        """
        return await self._core.run_state.get(self.flow_run_id, key, default, type, self._life)

    async def upsert_state(self, key: Id, value: Any, *, expected_version: int | None = None) -> int:
        """Write or overwrite a state value of the run; returns its new version: 1, 2, …

        State values are for what changes while the run goes on: a cursor, a budget, what a user has chosen. They are
        forked, copied and deleted with the run. A run exists from its first one on.

        Args:
            expected_version: write only if it is at this version now; 0: only if there is none.

        Raises:
            VersionConflictError: it is at another version; nothing was written.
            RunDeletedError: the run is deleted.
            SerializationError, StorageError: it cannot be stored as it is, or the engine could not.
        """
        return await self._core.run_state.upsert(self.flow_run_id, key, value, expected_version, self._life)

    async def update_state(self, key: Id, fn: Callable[[Any], Any], default: Any = None) -> Any:
        """Replace a state value by ``fn`` of it, without lost updates; returns the new value, as a get would.

        Args:
            fn: called with a fresh copy of the value, or of ``default``; returns the new one. It may run more than
                once, if another process writes the key at that time. With ``AsyncFlowRun`` it may be a coroutine
                function. It may use the store, but not update the same key.

        Calls on one key of a run from one store object queue, and run one after the other.

        Raises:
            Any exception that ``fn`` raises: then nothing was written.
            RunDeletedError: the run is deleted.
            SerializationError, StorageError: the new value cannot be stored as it is, or the engine could not.
        """
        return await self._core.run_state.update(self.flow_run_id, key, fn, default, self._life)

    async def list_state(self, prefix: str = "") -> list[StateEntry]:
        """The state values of the run whose keys begin with the prefix, with their versions and times, by key.

        Raises:
            CorruptStoreError: one of them is damaged; its ``flow_run_id`` and ``key`` name it.
        """
        return await self._core.run_state.list_all(self.flow_run_id, prefix, self._life)

    async def fork(self, *, new_flow_run_id: Id | None = None, node_ids: Iterable[Id] | None = None) -> str:
        """A new run that begins with (these of) the outputs of this one: see the store's ``fork_run``."""
        return await self._core.runs.fork(self.flow_run_id, new_flow_run_id, node_ids, self._life)

    async def delete(self, *, forget: bool = False) -> int:
        """Delete the run, for good: see the store's ``delete_run``. Of another life of its id nothing is touched."""
        return await self._core.retention.delete_run(self.flow_run_id, forget, self._life)
