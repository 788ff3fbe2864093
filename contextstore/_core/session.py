"""A store that is open, or not: its life, and the few verbs by which the services work on it.

Rules of this module: no SQL, no asyncio, no threads of its own. It alone wires what goes to the engine together, and
it alone says whether a call may be made now. It awaits nothing but what its ``Callers`` gave it, so that tasks and
blocked threads run the same code. What is shared between calls may be touched by several threads at once.
"""

from __future__ import annotations

import enum
import inspect
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeVar

from .._dispatch.cache import OutputCache
from .._dispatch.host import EngineHost
from .._dispatch.observed import ObservedCache, ObservedReader, ObservedWriter
from .._dispatch.reader import Reader
from .._dispatch.subscriptions import Subscriptions
from .._dispatch.writer import Writer
from .._engine.contract import Engine
from .._engine.failures import error_for_caller
from .._engine.operations import Operation
from .._process.log import log
from .._process.log_handover import prepare as prepare_logging
from .._values.arguments import check_count, check_plain_function
from .._values.codec import Encoded, encode
from .._values.keys import named
from .._waiting.callers import Callers
from .._waiting.outcome import Outcome
from ..errors import ReadOnlyStoreError, SerializationError, StoreClosedError
from .options import Options

T = TypeVar("T")

LARGEST_VALUE = 999_000_000  # bytes: SQLite's rows end at 10**9, with the keys in them; PostgreSQL's beyond that


class State(enum.Enum):
    """How far the life of a store has come. A closed one stays closed."""

    NOT_OPENED = "not opened yet"
    OPEN = "open"
    CLOSED = "closed"


class _Parts(NamedTuple):
    """What goes to the engine."""

    cache: type[OutputCache]
    reader: type[Reader]
    writer: type[Writer]


_PLAIN = _Parts(OutputCache, Reader, Writer)
_OBSERVED = _Parts(ObservedCache, ObservedReader, ObservedWriter)


class Session:
    """One store object's use of its engine, whichever face opens it.

    Args:
        callers: how the calls of the face wait.
    """

    def __init__(self, engine: Engine, callers: Callers, options: Options) -> None:
        max_value_bytes = engine.max_value_bytes if options.max_value_bytes is None else options.max_value_bytes
        self._max_value_bytes = check_count("max_value_bytes", max_value_bytes, 1)
        if max_value_bytes > LARGEST_VALUE:
            raise ValueError(f"max_value_bytes must be at most {LARGEST_VALUE:,}, not {max_value_bytes:,}")
        if options.encode_default is not None:
            check_plain_function("encode_default", options.encode_default)
        self._encode_default = options.encode_default
        self._read_only = options.read_only
        self.engine = engine
        self.location = engine.location
        self.callers = callers
        parts = _OBSERVED if options.observers else _PLAIN
        self.cache = parts.cache(options.cache_bytes, engine.epochs)
        self.subscriptions = Subscriptions(engine, callers)
        cache, subscriptions = self.cache, self.subscriptions
        self.writer = parts.writer(
            engine, callers, [cache.committed], float(options.timeout), cache.committed_inline, subscriptions
        )
        self.reader = parts.reader(engine, callers, self.cache, self.writer.patience)
        writer, reader = self.writer, self.reader

        def refuse_calls() -> None:  # holds no reference to the session, which may be collected while its engine runs
            writer.close()
            reader.close()
            subscriptions.close()

        self._refuse_calls = refuse_calls
        self._lifecycle = threading.RLock()  # reentrant: a finalizer that runs while it is held may call the store
        self._host: EngineHost | None = None
        self.state = State.NOT_OPENED

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the store {self.location} cannot be copied or sent to another process: make a store object there"
        )

    # -- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open it, unless it is open. If several calls ask for it, one opens it and the others wait."""
        self.callers.admit()
        if self.state is State.OPEN:
            return
        self.callers.settle()
        prepare_logging()
        began = time.monotonic()
        host = self._starting_host()
        if host is None:
            return
        error = (await self.callers.join(host.opened)).error
        with self._lifecycle:
            self._refuse_if_closed()
            if error is None:
                self.callers.bind()
                is_news = self._become(State.OPEN)
            elif self._host is host:
                self._host = None
        self.engine.reports.tell_noted()
        if error is not None:
            raise self._of_this_caller(error)
        if is_news:
            seconds = time.monotonic() - began
            log(logging.INFO, "opened", self.location, "opened in %.3f seconds", seconds, seconds=seconds)

    def _starting_host(self) -> EngineHost | None:
        """The host that opens the engine, for this call and for others; None: it is open by now."""
        new = self._host or EngineHost(self.engine, self._refuse_calls)
        with self._lifecycle:
            self._refuse_if_closed()
            if self.state is State.OPEN:
                return None
            if self._host is None:
                self._host = new
            host = self._host
            host.start()  # also if it was there: an interrupted call may have left it empty
        return host

    async def close(self) -> None:
        """Let accepted writes finish, end all waiting calls, and return when the store's threads and files are gone."""
        if not self.callers.admit_close():
            return
        with self._lifecycle:
            is_news = self._become(State.CLOSED)
            self.callers.end()
            host = self._host
        # Also if it is not the first close(): an interrupted one may have come to any point of this.
        self._refuse_calls()
        self.cache.close()
        if self.engine.inline is not None:
            self.engine.inline.leave()
        if host is not None:
            host.is_warned_of = True  # it is not forgotten
            host.stop()
            error = (await self.callers.join(host.closed)).error
            await self.callers.join_thread(host.thread)
            self.engine.reports.tell_noted()
            if error is not None:
                raise self._of_this_caller(error)
            if is_news:
                log(logging.INFO, "closed", self.location, "closed")

    def __del__(self) -> None:
        host: EngineHost | None = getattr(self, "_host", None)
        if host is not None and host.is_running_here():
            host.stop()  # first: the warning may be an error
            if self.state is not State.CLOSED:
                host.warn_unclosed(self)

    def _become(self, state: State) -> bool:
        """Under the lock. Returns whether it is that only now."""
        is_news, self.state = self.state is not state, state
        return is_news

    def _refuse_if_closed(self) -> None:
        if self.state is State.CLOSED:
            raise StoreClosedError(self.location)

    # -- may a call be made? ------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """A call comes: it is admitted here, and the store is open when this returns."""
        self.callers.admit()
        if self.state is not State.OPEN:
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
        """The stored form of what is to stand under this key: that of a global, or a flow run and a node."""
        try:
            return encode(value, self._max_value_bytes, self._encode_default)
        except SerializationError as error:
            raise SerializationError(error.path, f"{error.problem} ({named(*key)})") from error.__cause__

    def commit(self, operations: list[Operation]) -> Coroutine[Any, Any, list[Any]]:
        """Commit the operations as one unit; awaited, it gives their results once they are durable.

        It opens the store if need be, so a call that has been admitted encodes first and awaits nothing before: until
        then the caller cannot change what it has passed. Not a coroutine: each put would run through one more.
        """
        if self.state is not State.OPEN:
            return self._open_and_commit(operations)
        if self._read_only:
            self.refuse_if_read_only()
        return self.writer.commit(operations)

    async def commit_when_writable(self, operations: list[Operation]) -> list[Any]:
        """The same for a call that has been admitted long ago."""
        await self.writable()
        return await self.writer.commit(operations)

    async def _open_and_commit(self, operations: list[Operation]) -> list[Any]:
        await self.open()
        self.refuse_if_read_only()
        return await self.writer.commit(operations)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Coroutine[Any, Any, T]:
        """What a call of the engine's gives, made where it reads."""
        return self.reader.call(partial(call, *args))

    def scan(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Coroutine[Any, Any, T]:
        """The same for a read that may take long, where it keeps the others waiting least."""
        return self.reader.scan(partial(call, *args))

    # -- on the engine's thread ---------------------------------------------------------------------------------------

    @property
    def host(self) -> EngineHost:
        """Where the engine lives, of a store that was opened."""
        host = self._host
        if host is None:
            raise StoreClosedError(self.location)
        return host

    async def on_host(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a call of the engine's gives, made beside its reads and writes."""
        return self.unwrap(await self.callers.join(self.host.call(call)))

    def unwrap(self, outcome: Outcome[T]) -> T:
        """The result of something that others may ask for, too; its error is this caller's own copy."""
        if outcome.error is not None:
            raise self._of_this_caller(outcome.error)
        return outcome.result

    def _of_this_caller(self, error: BaseException) -> BaseException:
        return error_for_caller(error, self.location) if isinstance(error, Exception) else error

    # -- in the caller ------------------------------------------------------------------------------------------------

    async def result_of(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what the user passed in, here and now: in the calling task, or the calling thread."""
        result = function(*args)
        if inspect.isawaitable(result):
            return await self.callers.awaited(result, function)
        return result
