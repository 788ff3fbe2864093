"""A flow run as an object, for blocking code: the store's calls, bound to one run, and steps.

Rules of this module: as in ``run``, whose documentation it takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar, overload

from .._core.core import Core
from .._core.leases import Lease, lease_of
from .._core.lives import Life
from .._results import Attempt, Output, RunAttributeChanges, RunAttributes, RunInfo, RunState, StateEntry
from .._values.arguments import ExistOk
from .._values.codec import decode
from .._values.keys import Id, Outputs
from .._waiting.threads import run_now
from .blocking import documented_as, iterate, wait_for, wait_for_run
from .run import AsyncFlowRun
from .step_notes import note_step

T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")
P = ParamSpec("P")


class FlowRun:
    """The calls of a ``ContextStore``, bound to one run: what ``store.run(flow_run_id)`` gives.

        run = store.run("run-1")
        rows = run.step("extract", extract, "https://example.org")
        total = run.step("sum", sum, rows)

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
        return f"<{type(self).__name__} {self.flow_run_id!r} of <ContextStore {self._core}>>"

    @documented_as(AsyncFlowRun.begin)
    def begin(self, *, attributes: RunAttributes | None = None, parent: Id | None = None) -> RunInfo:
        return run_now(self._core.run_facts.begin(self.flow_run_id, attributes, parent, self._life))

    @documented_as(AsyncFlowRun.update)
    def update(
        self,
        *,
        state: RunState | None = None,
        attributes: RunAttributeChanges | None = None,
        error: str | None = None,
        expected_state: RunState | None = None,
    ) -> RunInfo:
        updating = self._core.run_facts.update(self.flow_run_id, state, attributes, error, expected_state, self._life)
        return run_now(updating)

    @documented_as(AsyncFlowRun.info)
    def info(self) -> RunInfo | None:
        return run_now(self._core.run_facts.info(self.flow_run_id, self._life))

    @documented_as(AsyncFlowRun.put)
    def put(self, node_id: Id, value: Any, *, exist_ok: ExistOk = False, tag: str | None = None) -> None:
        run_now(self._core.outputs.put(self.flow_run_id, node_id, value, exist_ok, tag, self._life))

    @documented_as(AsyncFlowRun.append)
    def append(self, prefix: str, value: Any, *, key: Id | None = None, tag: str | None = None) -> str:
        return run_now(self._core.outputs.append(self.flow_run_id, prefix, value, key, tag, self._life))

    @overload
    def get(self, node_id: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, node_id: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    def get(self, node_id: Id, default: Any = None, *, type: Any = None) -> Any: ...
    @documented_as(AsyncFlowRun.get)
    def get(self, node_id: Id, default: Any = None, *, type: Any = None) -> Any:
        value = self._core.session.cache.find_of((self.flow_run_id, node_id), self._life.epoch)
        if value is None:
            return run_now(self._core.outputs.get(self.flow_run_id, node_id, default, type, self._life))
        return decode(value) if type is None else self._core.converted(value, type, self.flow_run_id, node_id)

    @documented_as(AsyncFlowRun.exists)
    def exists(self, node_id: Id) -> bool:
        return run_now(self._core.outputs.exists(self.flow_run_id, node_id, self._life))

    @documented_as(AsyncFlowRun.get_entry)
    def get_entry(self, node_id: Id, *, type: Any = None) -> Output | None:
        return run_now(self._core.outputs.get_entry(self.flow_run_id, node_id, type, self._life))

    @documented_as(AsyncFlowRun.list_keys)
    def list_keys(
        self, *, prefix: str = "", after: Id | None = None, limit: int | None = None, reverse: bool = False
    ) -> list[str]:
        return run_now(self._core.parts.list_keys(self.flow_run_id, prefix, after, limit, reverse, self._life))

    @documented_as(AsyncFlowRun.put_many)
    def put_many(self, outputs: Outputs, *, exist_ok: ExistOk = False) -> list[str]:
        return run_now(self._core.outputs.put_many(self.flow_run_id, outputs, exist_ok, self._life))

    @documented_as(AsyncFlowRun.delete_outputs)
    def delete_outputs(self, node_ids: Iterable[Id] | None = None, *, prefix: str | None = None) -> int:
        return run_now(self._core.deletions.delete_outputs(self.flow_run_id, node_ids, prefix, self._life))

    @overload
    def get_many(self, node_ids: Iterable[Id], *, type: type[T]) -> dict[str, T]: ...
    @overload
    def get_many(self, node_ids: Iterable[Id], *, type: Any = None) -> dict[str, Any]: ...
    @documented_as(AsyncFlowRun.get_many)
    def get_many(self, node_ids: Iterable[Id], *, type: Any = None) -> dict[str, Any]:
        return run_now(self._core.outputs.get_many(self.flow_run_id, node_ids, type, self._life))

    @documented_as(AsyncFlowRun.list_outputs)
    def list_outputs(
        self,
        *,
        prefix: str = "",
        after: Id | None = None,
        limit: int = 100,
        reverse: bool = False,
        type: Any = None,
    ) -> list[Output]:
        return run_now(self._core.parts.list_outputs(self.flow_run_id, prefix, after, limit, reverse, type, self._life))

    @overload
    def get_run(self, *, prefix: str = "", type: type[T]) -> dict[str, T]: ...
    @overload
    def get_run(self, *, prefix: str = "", type: Any = None) -> dict[str, Any]: ...
    @documented_as(AsyncFlowRun.get_run)
    def get_run(self, *, prefix: str = "", type: Any = None) -> dict[str, Any]:
        return run_now(self._core.parts.get_run(self.flow_run_id, prefix, type, self._life))

    @overload
    def get_or_put(self, node_id: Id, factory: Callable[[], Any], *, type: type[T]) -> T: ...
    @overload
    def get_or_put(self, node_id: Id, factory: Callable[[], Any], *, type: Any = None) -> Any: ...
    @documented_as(AsyncFlowRun.get_or_put)
    def get_or_put(self, node_id: Id, factory: Callable[[], Any], *, type: Any = None) -> Any:
        return run_now(self._core.waits.get_or_put(self.flow_run_id, node_id, factory, type, self._life))

    @documented_as(AsyncFlowRun.step)
    def step(self, node_id: Id, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result: R = run_now(
                self._core.steps.step(self.flow_run_id, node_id, fn, args, kwargs, self._checks_inputs, self._life)
            )
        except Exception as error:  # raised again below: any failure is told in which step it was
            note_step(error, node_id, self.flow_run_id)
            raise
        return result

    @documented_as(AsyncFlowRun.attempts)
    def attempts(self, node_id: Id | None = None) -> list[Attempt]:
        return run_now(self._core.attempts.attempts(self.flow_run_id, node_id, self._life))

    @overload
    def wait_for(self, node_id: Id, *, timeout: float | None = None, type: type[T]) -> T: ...
    @overload
    def wait_for(self, node_id: Id, *, timeout: float | None = None, type: Any = None) -> Any: ...
    @documented_as(AsyncFlowRun.wait_for)
    def wait_for(self, node_id: Id, *, timeout: float | None = None, type: Any = None) -> Any:
        return wait_for(self._core, self.flow_run_id, node_id, timeout, type, self._life)

    @documented_as(AsyncFlowRun.watch)
    def watch(
        self, *, prefix: str = "", after: str | None = None, until: Id | None = None, type: Any = None
    ) -> Generator[Output, None, None]:
        return iterate(self._core.watching.watch(self.flow_run_id, prefix, after, until, type, self._life))

    @documented_as(AsyncFlowRun.wait_for_run)
    def wait_for_run(
        self,
        *,
        state: RunState | Iterable[RunState] = ("completed", "failed", "cancelled"),
        timeout: float | None = None,
    ) -> RunInfo:
        return wait_for_run(self._core, self.flow_run_id, state, timeout, self._life)

    @documented_as(AsyncFlowRun.iter_outputs)
    def iter_outputs(
        self, *, prefix: str = "", after: Id | None = None, reverse: bool = False, type: Any = None
    ) -> Iterator[Output]:
        return self._core.parts.iterate_now(self.flow_run_id, prefix, after, reverse, type, self._life)

    @overload
    def get_state(self, key: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get_state(self, key: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    def get_state(self, key: Id, default: Any = None, *, type: Any = None) -> Any: ...
    @documented_as(AsyncFlowRun.get_state)
    def get_state(self, key: Id, default: Any = None, *, type: Any = None) -> Any:
        return run_now(self._core.run_state.get(self.flow_run_id, key, default, type, self._life))

    @documented_as(AsyncFlowRun.upsert_state)
    def upsert_state(self, key: Id, value: Any, *, expected_version: int | None = None) -> int:
        return run_now(self._core.run_state.upsert(self.flow_run_id, key, value, expected_version, self._life))

    @documented_as(AsyncFlowRun.update_state)
    def update_state(self, key: Id, fn: Callable[[Any], Any], default: Any = None) -> Any:
        return run_now(self._core.run_state.update(self.flow_run_id, key, fn, default, self._life))

    @documented_as(AsyncFlowRun.list_state)
    def list_state(self, prefix: str = "") -> list[StateEntry]:
        return run_now(self._core.run_state.list_all(self.flow_run_id, prefix, self._life))

    @documented_as(AsyncFlowRun.fork)
    def fork(self, *, new_flow_run_id: Id | None = None, node_ids: Iterable[Id] | None = None) -> str:
        return run_now(self._core.runs.fork(self.flow_run_id, new_flow_run_id, node_ids, self._life))

    @documented_as(AsyncFlowRun.delete)
    def delete(self, *, forget: bool = False) -> int:
        return run_now(self._core.retention.delete_run(self.flow_run_id, forget, self._life))
