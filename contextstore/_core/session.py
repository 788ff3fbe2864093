"""One face's use of a store: the few verbs by which the services work on it.

Rules of this module: no SQL, no asyncio, no threads. It alone says whether a call may be made now. It awaits nothing
but what its ``Callers`` gave it, so that tasks and blocked threads run the same code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NoReturn, TypeVar

from .._dispatch.host import EngineHost
from .._engine.operations import Operation, PutOutput
from .._engine.records import GlobalRecord, OutputKey, OutputRecord
from .._values.arguments import ExistOk, check_exist_ok, check_tag
from .._values.codec import Encoded, encode
from .._values.keys import named
from .._waiting.callers import Callers
from .._waiting.outcome import Outcome
from ..errors import ReadOnlyStoreError, SerializationError, StoreClosedError
from .backend import Backend, State

T = TypeVar("T")


class Session:
    """The calls of one face, on what it shares with the other.

    Args:
        callers: how the calls of the face wait.
    """

    def __init__(self, backend: Backend, callers: Callers) -> None:
        self.backend = backend
        self.callers = callers
        self.engine = backend.engine
        self.location = backend.location
        self.cache = backend.cache
        self.reader = backend.reader
        self.global_reader = backend.global_reader
        self.writer = backend.writer
        self.subscriptions = backend.subscriptions
        self._max_value_bytes = backend.max_value_bytes
        self.encode_default = backend.options.encode_default
        self._read_only = backend.options.read_only

    def __reduce__(self) -> NoReturn:
        self.backend.__reduce__()

    @property
    def state(self) -> State:
        return self.backend.state

    async def open(self) -> None:
        """Open the store, unless it is open. If several calls ask for it, one opens it and the others wait."""
        await self.backend.open(self.callers)

    async def close(self) -> None:
        """Close the store, for the other face as well: see ``Backend``."""
        await self.backend.close(self.callers)

    async def leave(self) -> None:
        """The end of a ``with`` block."""
        if not self.backend.is_shared:
            await self.close()

    # -- may a call be made? ------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """A call comes: it is admitted here, and the store is open when this returns."""
        self.callers.admit()
        if self.backend.state is not State.OPEN:
            await self.open()

    def refuse_unless_open(self) -> None:
        """The same for a call that goes on with what it has: the store was open, and may be closed by now."""
        self.callers.admit()
        if self.state is not State.OPEN:
            raise StoreClosedError(self.location)

    async def writable(self) -> None:
        """The same for a call that writes."""
        await self.ready()
        self.refuse_if_read_only()

    def refuse_if_read_only(self) -> None:
        if self._read_only:
            raise ReadOnlyStoreError(f"{self.location} was opened with read_only=True; nothing was stored")

    # -- writing ------------------------------------------------------------------------------------------------------

    def encode(self, value: Any, *key: str) -> Encoded:
        """The stored form of what is to stand under this key: that of a global, or a flow run and a node.

        Without one the error names none.
        """
        try:
            return self.encode_only(value)
        except SerializationError as error:
            if not key:
                raise
            raise SerializationError(error.path, f"{error.problem} ({named(*key)})") from error.__cause__

    def encode_only(self, value: Any) -> Encoded:
        """The stored form of a value; what it is refused for names no key."""
        return encode(value, self._max_value_bytes, self.encode_default)

    def put_of(self, flow_run: str, node: str, value: Any, exist_ok: ExistOk, tag: str | None = None) -> PutOutput:
        """The put of an output, by what a caller has passed for it."""
        if exist_ok is not False:
            exist_ok = check_exist_ok(exist_ok)
        if tag is None:
            return PutOutput(flow_run, node, self.encode(value, flow_run, node), exist_ok)
        checked = check_tag(tag)
        return PutOutput(flow_run, node, self.encode(value, flow_run, node)._replace(tag=checked), exist_ok)

    def commit(self, operations: list[Operation]) -> Coroutine[Any, Any, list[Any]]:
        """Commit the operations as one unit; awaited, it gives their results once they are durable.

        It opens the store if need be, so a call that has been admitted encodes first and awaits nothing before: until
        then the caller cannot change what it has passed. Not a coroutine: each put would run through one more.
        """
        if self.backend.state is not State.OPEN:
            return self._open_and_commit(operations)
        if self._read_only:
            self.refuse_if_read_only()
        return self.writer.commit(operations, self.callers)

    async def commit_when_writable(self, operations: list[Operation]) -> list[Any]:
        """The same for a call that has been admitted long ago."""
        await self.writable()
        return await self.writer.commit(operations, self.callers)

    async def _open_and_commit(self, operations: list[Operation]) -> list[Any]:
        await self.open()
        self.refuse_if_read_only()
        return await self.writer.commit(operations, self.callers)

    # -- reading ------------------------------------------------------------------------------------------------------

    def fetch(self, key: OutputKey, *, refuse_deleted: bool = False) -> Coroutine[Any, Any, OutputRecord | None]:
        """One output, in a trip that is shared with whoever asks at the same time.

        Of a deleted one there is nothing; raises OutputDeletedError instead, if that is to be refused.
        """
        return self.reader.fetch(key, self.callers, refuse_deleted=refuse_deleted)

    def fetch_global(self, key: str) -> Coroutine[Any, Any, GlobalRecord | None]:
        """One global, likewise."""
        return self.global_reader.fetch(key, self.callers)

    def fetch_many(self, keys: list[OutputKey]) -> Coroutine[Any, Any, dict[OutputKey, OutputRecord]]:
        """Those of the outputs that are there, all as they were at one moment. Raises if one is damaged."""
        return self.reader.fetch_many(keys, self.callers)

    def read(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Coroutine[Any, Any, T]:
        """What a call of the engine's gives, made where it reads."""
        return self.reader.call(partial(call, *args), self.callers)

    def scan(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Coroutine[Any, Any, T]:
        """The same for a read that may take long, where it keeps the others waiting least."""
        return self.reader.scan(partial(call, *args), self.callers)

    # -- on the engine's thread ---------------------------------------------------------------------------------------

    @property
    def host(self) -> EngineHost:
        """Where the engine lives, of a store that was opened."""
        return self.backend.host

    async def on_host(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a call of the engine's gives, made beside its reads and writes."""
        return self.unwrap(await self.callers.join(self.host.call(call)))

    def unwrap(self, outcome: Outcome[T]) -> T:
        """The result of something that others may ask for, too; its error is this caller's own copy."""
        if outcome.error is not None:
            raise self.backend.of_this_caller(outcome.error)
        return outcome.result

    # -- in the caller ------------------------------------------------------------------------------------------------

    async def result_of(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what the user passed in, here and now: in the calling task, or the calling thread."""
        result = function(*args)
        if inspect.isawaitable(result):
            return await self.callers.awaited(result, function)
        return result
