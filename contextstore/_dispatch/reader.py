"""Reads: gets that wait share one trip to the engine, and what was read fills the cache.

Rules of this module: no SQL, no values. What is read goes into the cache under the epoch in which all of it was read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from .._engine.contract import Engine, Inline, Job
from .._engine.failures import error_for_caller
from .._engine.records import Fetched, OutputKey, OutputRecord
from .._waiting.callers import Callers
from .._waiting.outcome import Outcome
from .._waiting.waiters import Waiter, resolve
from ..errors import StoreBusyError, StoreClosedError
from .cache import OutputCache

T = TypeVar("T")


FETCH_KEYS = 256
"""How many keys go into one trip to the engine."""


class Reader:
    def __init__(self, engine: Engine, callers: Callers, cache: OutputCache, timeout: float) -> None:
        self._engine = engine
        self._inline = engine.inline if callers.may_block else None
        self._callers = callers
        self._timeout = timeout
        self._cache = cache
        self._lock = threading.RLock()  # reentrant: a finalizer that runs while it is held may read
        self._wanted: list[tuple[OutputKey, Waiter[Fetched], float]] = []  # with when it was asked for
        self._fetching = False
        self._closed = False

    def close(self) -> None:
        """Accept no more reads. Those under way are answered."""
        with self._lock:
            self._closed = True

    async def fetch(self, key: OutputKey) -> OutputRecord | None:
        """One output. Calls that ask while a fetch is under way are served together by the next one."""
        if self._inline is not None:
            fetched = self._read_inline(self._inline, partial(self._fetch_and_keep, (key,)))
            if fetched is not None:
                return fetched.result[0].unwrap()
        waiter: Waiter[Fetched] = self._callers.waiter()
        with self._lock:
            if self._closed:  # a job posted now would never be run
                raise StoreClosedError(self._engine.location)
            self._wanted.append((key, waiter, time.monotonic()))
            if not self._fetching:
                self._engine.post_read(self._fetch_next_group)
                self._fetching = True
        # Without a deadline, as all reads: an engine that waits for something keeps to the timeout itself.
        outcome = await self._callers.wait(waiter)
        return outcome.unwrap()

    async def fetch_many(self, keys: list[OutputKey]) -> dict[OutputKey, OutputRecord]:
        """Those of the outputs that are there, all as they were at one moment. Raises if one is damaged."""
        outcomes = await self.call(lambda: self._fetch_and_keep(keys))
        records = zip(keys, [outcome.unwrap() for outcome in outcomes], strict=True)
        return {key: record for key, record in records if record is not None}

    async def call(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Any other read of the engine, as a job of its own."""
        if self._inline is not None:
            outcome = self._read_inline(self._inline, read)
            if outcome is not None:
                return outcome.result
        return await self._ask(self._engine.post_read, read)

    async def scan(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A read that may take long, where it keeps the others waiting least."""
        return await self._ask(self._engine.post_scan, read)

    async def _ask(self, post: Callable[[Job], None], read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        waiter: Waiter[Outcome[T]] = self._callers.waiter()
        with self._lock:
            if self._closed:
                raise StoreClosedError(self._engine.location)
            post(partial(self._answer_call, read, waiter))
        outcome = await self._callers.wait(waiter)
        return outcome.unwrap()

    def _read_inline(self, inline: Inline, read: Callable[[], Coroutine[Any, Any, T]]) -> Outcome[T] | None:
        """In the calling thread, which may block. None: not just now."""
        if self._closed:
            raise StoreClosedError(self._engine.location)
        return inline.read(read)

    # -- where the engine reads ---------------------------------------------------------------------------------------

    async def _fetch_next_group(self) -> None:
        with self._lock:
            wanted = [(key, waiter) for key, waiter, _ in self._wanted[:FETCH_KEYS]]
            del self._wanted[:FETCH_KEYS]
        answers: list[tuple[Waiter[Any], Outcome[Any]]] = []
        try:
            answers = await self._fetch_group(wanted)
        finally:
            with self._lock:
                busy_error = answers[0][1].error if answers else None
                if isinstance(busy_error, StoreBusyError):
                    # Calls that have waited as long need not wait for their own groups to come to the same end.
                    late = time.monotonic() - self._timeout
                    busy = [waiter for _, waiter, asked_at in self._wanted if asked_at <= late]
                    self._wanted = [one for one in self._wanted if one[2] > late]
                    answers += [(waiter, self._failure(busy_error)) for waiter in busy]
                self._fetching = bool(self._wanted)
                if self._fetching:
                    self._engine.post_read(self._fetch_next_group)  # behind others' jobs
        resolve(answers)

    async def _fetch_group(
        self, wanted: Sequence[tuple[OutputKey, Waiter[Fetched]]]
    ) -> list[tuple[Waiter[Any], Outcome[Any]]]:
        try:
            found = await self._fetch_and_keep([key for key, _ in wanted])
        except Exception as error:  # noqa: BLE001 - any error is handed over to the calls that wait
            return [(waiter, self._failure(error)) for _, waiter in wanted]
        return [(waiter, outcome) for (_, waiter), outcome in zip(wanted, found, strict=True)]

    def _failure(self, error: Exception) -> Outcome[Any]:
        return Outcome.failure(error_for_caller(error, self._engine.location))

    async def _fetch_and_keep(self, keys: Sequence[OutputKey]) -> list[Fetched]:
        epoch, found = await self._engine.fetch(keys)
        pairs = zip(keys, found, strict=True)
        there = [(key, outcome.result.value) for key, outcome in pairs if outcome.result is not None]
        self._cache.fill(there, epoch)
        return found

    async def _answer_call(self, read: Callable[[], Coroutine[Any, Any, Any]], waiter: Waiter[Any]) -> None:
        outcome: Outcome[Any]
        try:
            outcome = Outcome(await read())
        except LookupError as error:  # the engine's way to say that something it was asked about is not there
            outcome = Outcome.failure(error)
        except Exception as error:  # noqa: BLE001 - any error is handed over to the call that waits
            outcome = self._failure(error)
        resolve([(waiter, outcome)])
