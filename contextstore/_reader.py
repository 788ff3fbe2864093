"""Reads: gets that wait share one trip to the engine, and what was read or written stays in a cache.

Rules of this room: no SQL, no values; the cache holds encoded bytes, and whoever asks decodes them afresh. Outputs
never change, so a cached one is right until its run is deleted. The cache is filled only after an acknowledgement, and
never answers a write.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from ._callers import Callers, Ticket
from ._codec import Encoded
from ._engine import Engine, LoadOutput, Operation, OutputKey, OutputRecord, PutOutput, is_deletion, own_error
from .errors import ContextStoreError, StoreBusyError, StoreClosedError

T = TypeVar("T")


def _keep_waiting() -> None:
    """Reads have no deadline here: an engine that waits for something keeps to the timeout itself."""


ENTRY_BYTES = 400
"""What an entry is reckoned to take up beside its value: the key's strings, the tuples, the dict's slot."""

FETCH_KEYS = 256
"""How many keys go into one trip to the engine."""


class OutputCache:
    """The outputs used last, up to so many bytes. Touched by calling threads and the engine's."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[OutputKey, Encoded] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0
        # Counted without the lock: under many threads some may be missed.
        self.hits = 0
        self.misses = 0
        self.deletions = 0
        """Rises with each deletion. Who read before a deletion must not fill the cache after it."""

    def get(self, key: OutputKey) -> Encoded | None:
        # Without the lock, which would double the cost: each of the two steps is atomic, and between them the entry
        # may at worst be gone.
        try:
            value = self._entries[key]
            self._entries.move_to_end(key)
        except KeyError:
            self.misses += 1
            return None
        self.hits += 1
        return value

    def fill(self, found: Iterable[tuple[OutputKey, Encoded]], deletions: int) -> None:
        """Take in what was read when there had been so many deletions."""
        with self._lock:
            if deletions == self.deletions:
                self._keep(found)

    def note_committed(self, operations: Iterable[Operation]) -> None:
        with self._lock:
            written: list[tuple[OutputKey, Encoded]] = []
            deleted: set[str] = set()
            for operation in operations:
                if type(operation) is PutOutput:
                    flow_run_id, node_id, value, exist_ok = operation
                    key = (flow_run_id, node_id)
                    if not exist_ok:
                        written.append((key, value))
                    elif self._entries.get(key) != value:
                        # Equal in another form than what is stored, or from a run of this name that another object has
                        # deleted, and prune forgotten.
                        self._drop(key)
                elif type(operation) is LoadOutput:
                    self._drop((operation.flow_run_id, operation.node_id))
                elif is_deletion(operation):
                    deleted.add(operation.flow_run_id)
            self._keep(written)
            # Last, in whatever order they were asked for: of one commit, what was put into a run that was deleted was
            # put before.
            self._forget_runs(deleted)

    # -- under the lock -----------------------------------------------------------------------------------------------

    def _keep(self, some: Iterable[tuple[OutputKey, Encoded]]) -> None:
        entries, most = self._entries, self._max_bytes
        for key, value in some:
            if (
                key in entries
            ):  # read by somebody else just now, or of a run of this name that was deleted and forgotten
                self._drop(key)
            size = ENTRY_BYTES + len(value.data)
            if size <= most:
                entries[key] = value
                self.bytes += size
                while self.bytes > most:
                    _, evicted = entries.popitem(last=False)
                    self.bytes -= ENTRY_BYTES + len(evicted.data)

    def _drop(self, key: OutputKey) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self.bytes -= ENTRY_BYTES + len(old.data)

    def _forget_runs(self, flow_run_ids: set[str]) -> None:
        if flow_run_ids:
            self.deletions += 1
            for key in [key for key in self._entries if key[0] in flow_run_ids]:
                self._drop(key)

    # -- anywhere -----------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        with self._lock:
            self.deletions += 1
            self._entries.clear()
            self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)


class Reader:
    def __init__(self, engine: Engine, callers: Callers, cache: OutputCache, timeout: float) -> None:
        self._engine = engine
        self._callers = callers
        self._timeout = timeout
        self._cache = cache
        self._lock = threading.RLock()  # reentrant: a finalizer that runs while it is held may read
        self._wanted: list[tuple[OutputKey, Ticket, float]] = []  # with when it was asked for
        self._fetching = False
        self._closed = False

    def close(self) -> None:
        """Accept no more reads. Those under way are answered."""
        with self._lock:
            self._closed = True

    async def fetch(self, key: OutputKey) -> OutputRecord | None:
        """One output. Those who ask while a fetch is under way are served together by the next one."""
        ticket = self._callers.ticket()
        with self._lock:
            if self._closed:  # a job posted now would never be run
                raise StoreClosedError(self._engine.location)
            self._wanted.append((key, ticket, time.monotonic()))
            if not self._fetching:
                self._engine.post_read(self._fetch_next_group)
                self._fetching = True
        answer = await self._callers.wait(ticket, self._timeout, _keep_waiting)
        if isinstance(answer, ContextStoreError):
            raise answer
        record: OutputRecord | None = answer
        return record

    async def fetch_many(self, keys: list[OutputKey]) -> dict[OutputKey, Encoded]:
        """Those of the outputs that are there. Raises if one is damaged."""
        deletions = self._cache.deletions
        found = {}
        for key, record in zip(keys, await self.call(lambda: self._engine.fetch(keys)), strict=True):
            if isinstance(record, ContextStoreError):
                raise record
            if record is not None:
                found[key] = record.value
        self._cache.fill(found.items(), deletions)
        return found

    async def call(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Any other read of the engine, as a job of its own."""
        ticket = self._callers.ticket()
        with self._lock:
            if self._closed:
                raise StoreClosedError(self._engine.location)
            self._engine.post_read(partial(self._answer_call, read, ticket))
        done, result = await self._callers.wait(ticket, self._timeout, _keep_waiting)
        if not done:
            raise result
        value: T = result
        return value

    # -- where the engine reads ---------------------------------------------------------------------------------------

    async def _fetch_next_group(self) -> None:
        with self._lock:
            wanted = [(key, ticket) for key, ticket, _ in self._wanted[:FETCH_KEYS]]
            del self._wanted[:FETCH_KEYS]
        answers: list[tuple[Ticket, Any]] = []
        try:
            answers = await self._fetch_group(wanted)
        finally:
            with self._lock:
                if any(isinstance(answer, StoreBusyError) for _, answer in answers[:1]):
                    # Those who have waited as long need not wait for their own groups to come to the same end.
                    late = time.monotonic() - self._timeout
                    busy = [ticket for _, ticket, asked_at in self._wanted if asked_at <= late]
                    self._wanted = [one for one in self._wanted if one[2] > late]
                    answers += [(ticket, own_error(answers[0][1], self._engine)) for ticket in busy]
                self._fetching = bool(self._wanted)
                if self._fetching:
                    self._engine.post_read(self._fetch_next_group)  # behind others' jobs
        self._callers.answer(answers)

    async def _fetch_group(self, wanted: Sequence[tuple[OutputKey, Ticket]]) -> list[tuple[Ticket, Any]]:
        deletions = self._cache.deletions
        try:
            found = await self._engine.fetch([key for key, _ in wanted])
        except Exception as error:  # noqa: BLE001 - handed over to those who wait, whatever it is
            return [(ticket, own_error(error, self._engine)) for _, ticket in wanted]
        pairs = zip(wanted, found, strict=True)
        self._cache.fill([(key, record.value) for (key, _), record in pairs if type(record) is OutputRecord], deletions)
        return [(ticket, record) for (_, ticket), record in zip(wanted, found, strict=True)]

    async def _answer_call(self, read: Callable[[], Coroutine[Any, Any, Any]], ticket: Ticket) -> None:
        answer: tuple[bool, Any]
        try:
            answer = (True, await read())
        except LookupError as error:  # the engine's way to say that something it was asked about is not there
            answer = (False, error)
        except Exception as error:  # noqa: BLE001 - handed over to the one who waits, whatever it is
            answer = (False, own_error(error, self._engine))
        self._callers.answer([(ticket, answer)])
