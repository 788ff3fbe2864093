"""What the faces of one store share: its engine with one queue, one cache and one set of threads, from its opening to
its end.

Rules of this module: no SQL, no asyncio, no threads of its own. It alone wires what goes to the engine together. It
awaits nothing but what it is handed ``Callers`` for: each call brings those of its own face. What is shared between
calls may be touched by several threads at once. Nothing here refers to a face but weakly, so that a store which nobody
holds any more goes without the collector.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from .._dispatch.cache import OutputCache
from .._dispatch.global_reader import GlobalReader
from .._dispatch.held_leases import HeldLeases
from .._dispatch.host import EngineHost
from .._dispatch.observed import ObservedCache, ObservedGlobalReader, ObservedReader, ObservedWriter
from .._dispatch.reader import Reader
from .._dispatch.subscriptions import Subscriptions
from .._dispatch.writer import LEAST_PATIENCE, Writer
from .._engine.contract import Engine
from .._engine.failures import error_for_caller
from .._process.log import log
from .._process.log_handover import prepare as prepare_logging
from .._values.arguments import check_count, check_plain_function
from .._waiting.callers import Binding, Callers
from .._waiting.key_lock import KeyedLock
from .._waiting.single_flight import Flights
from .._waiting.tasks import TaskCallers
from ..errors import StoreClosedError
from .options import Options
from .views import Views

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
    global_reader: type[GlobalReader]
    writer: type[Writer]


_PLAIN = _Parts(OutputCache, Reader, GlobalReader, Writer)
_OBSERVED = _Parts(ObservedCache, ObservedReader, ObservedGlobalReader, ObservedWriter)


class Backend:
    """A store without its faces. It lives while a face, a run, a batch or an iterator of either holds it."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.options = options
        self.max_value_bytes = _max_value_bytes(engine, options)
        if options.encode_default is not None:
            check_plain_function("encode_default", options.encode_default)
        engine.reports.tell_to(options.observers)
        self.engine = engine
        self.location = engine.location
        self.binding = Binding(engine.location, engine.own_threads)
        self.views = Views()
        self.flights = Flights()
        self.updates = KeyedLock()
        self.lease_turns = KeyedLock()
        parts = _OBSERVED if options.observers else _PLAIN
        self.cache = parts.cache(options.cache_bytes, engine.epochs)
        self.subscriptions = Subscriptions(engine)
        cache, subscriptions, timeout = self.cache, self.subscriptions, float(options.timeout)
        self.writer = parts.writer(engine, [cache.committed], timeout, cache.committed_inline, subscriptions)
        self.patience = max(timeout, LEAST_PATIENCE)
        """Seconds that most calls wait at most."""
        self.reader = parts.reader(engine, cache, self.patience)
        self.global_reader = parts.global_reader(engine)
        self.leases = leases = HeldLeases(engine.location, self.writer, TaskCallers(self.binding, self.patience))
        writer, reader, global_reader = self.writer, self.reader, self.global_reader

        def refuse_calls() -> None:  # holds no reference to this object, which may be collected while its engine runs
            leases.close()
            writer.close()
            reader.close()
            global_reader.close()
            subscriptions.close()

        self._refuse_calls = refuse_calls
        self._lifecycle = threading.RLock()  # reentrant: a finalizer that runs while it is held may call the store
        self._host: EngineHost | None = None
        self.state = State.NOT_OPENED
        self._withdraw: Callable[[], None] | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the store {self.location} cannot be copied or sent to another process: make a store object there"
        )

    async def open(self, callers: Callers) -> None:
        """Open it, unless it is open. If several calls ask for it, one opens it and the others wait."""
        callers.admit()
        if self.state is State.OPEN:
            return
        self.binding.settle()
        prepare_logging()
        began = time.monotonic()
        host = self._starting_host()
        if host is None:
            return
        error = (await callers.join(host.opened)).error
        with self._lifecycle:
            self._refuse_if_closed()
            if error is None:
                self.binding.bind()
                is_news = self._become(State.OPEN)
            elif self._host is host:
                self._host = None
        self.engine.reports.tell_noted()
        if error is not None:
            raise self.of_this_caller(error)
        if is_news:
            seconds = time.monotonic() - began
            log(logging.INFO, "opened", self.location, "opened in %.3f seconds", seconds, seconds=seconds)

    def _starting_host(self) -> EngineHost | None:
        """The host that opens the engine, for this call and for others; None: it is open by now."""
        new = self._host or EngineHost(self.engine, self._refuse_calls, is_warned_of=self.is_shared)
        with self._lifecycle:
            self._refuse_if_closed()
            if self.state is State.OPEN:
                return None
            if self._host is None:
                self._host = new
            host = self._host
            host.start()  # also if it was there: an interrupted call may have left it empty
        return host

    async def close(self, callers: Callers) -> None:
        """Let accepted writes finish, end all waiting calls, and return when the store's threads and files are gone."""
        if not self.binding.admit_close():
            return
        if self._withdraw is not None:
            self._withdraw()
        with self._lifecycle:
            is_news = self._become(State.CLOSED)
            self.binding.end()
            host = self._host
        # Also if it is not the first close(): an interrupted one may have come to any point of this.
        self._refuse_calls()
        self.cache.close()
        if self.engine.inline is not None:
            self.engine.inline.leave()
        if host is not None:
            host.is_warned_of = True  # it is not forgotten
            host.stop()
            error = (await callers.join(host.closed)).error
            await callers.join_thread(host.thread)
            self.engine.reports.tell_noted()
            if error is not None:
                raise self.of_this_caller(error)
            if is_news:
                log(logging.INFO, "closed", self.location, "closed")

    # -- one for all of the process -----------------------------------------------------------------------------------

    def share(self, withdraw: Callable[[], None]) -> None:
        """From now on it is one for all who ask for its place, and none of them closes it by leaving a block.

        Args:
            withdraw: called as it is closed: it is to be handed out no more. Must not hold this object.
        """
        self._withdraw = withdraw

    @property
    def is_shared(self) -> bool:
        return self._withdraw is not None

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

    @property
    def host(self) -> EngineHost:
        """Where the engine lives, of a store that was opened."""
        host = self._host
        if host is None:
            raise StoreClosedError(self.location)
        return host

    def of_this_caller(self, error: BaseException) -> BaseException:
        """An error that others may be told, too, as one caller's own copy."""
        return error_for_caller(error, self.location) if isinstance(error, Exception) else error


def _max_value_bytes(engine: Engine, options: Options) -> int:
    given = engine.max_value_bytes if options.max_value_bytes is None else options.max_value_bytes
    if check_count("max_value_bytes", given, 1) > LARGEST_VALUE:
        raise ValueError(f"max_value_bytes must be at most {LARGEST_VALUE:,}, not {given:,}")
    return given
