"""Reads: gets that wait share one trip to the engine, and what was read fills the cache.

Rules of this module: no SQL, no values, and no locks (see ``shared_job``). What is read goes into the cache under the
epoch in which all of it was read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from .._engine.contract import Engine, Job
from .._engine.failures import error_for_caller
from .._engine.records import Fetched, OutputKey, OutputMark, OutputRecord
from .._waiting.callers import Callers
from .._waiting.outcome import Outcome
from .._waiting.waiters import Waiter, resolve
from ..errors import OutputDeletedError, StoreBusyError, StoreClosedError
from .cache import OutputCache
from .shared_job import SharedJob

T = TypeVar("T")


FETCH_KEYS = 256
"""How many keys go into one trip to the engine."""

_Wanted: TypeAlias = tuple[OutputKey, Waiter[Fetched], float]
"""What is wanted, by whom, and since when."""


class Reader:
    def __init__(self, engine: Engine, cache: OutputCache, timeout: float) -> None:
        self._engine = engine
        self._inline = engine.inline
        self._timeout = timeout
        self._cache = cache
        self._wanted: deque[_Wanted] = deque()
        """Callers append, the job that fetches alone takes out."""
        self._fetches = SharedJob(engine.post_read, self._wanted)
        self._closed = False

    def close(self) -> None:
        """Accept no more reads. Those under way are answered."""
        self._closed = True

    async def fetch(self, key: OutputKey, callers: Callers, *, refuse_deleted: bool = False) -> OutputRecord | None:
        """One output. Calls that ask while a fetch is under way are served together by the next one.

        Of a deleted one there is nothing; raises OutputDeletedError instead, if that is to be refused.
        """
        if self._inline is not None and callers.may_block:
            if self._closed:
                raise StoreClosedError(self._engine.location)
            found = self._inline.fetch_one(key)
            if found is not None:
                epoch, fetched = found
                if type(fetched.result) is OutputRecord:
                    self._cache.fill([(key, fetched.result.value)], epoch)
                return _output_in(key, fetched, refuse_deleted)
        waiter: Waiter[Fetched] = callers.waiter()
        if self._closed:
            raise StoreClosedError(self._engine.location)
        self._wanted.append((key, waiter, time.monotonic()))
        try:
            self._fetches.ask(self._fetch_next_group)
        except Exception:  # the engine is at its end, and so this is closed, or it is a bug
            self._refuse_if_closed()
            raise
        if self._closed:  # see below
            raise StoreClosedError(self._engine.location)
        # Without a deadline, as all reads: an engine that waits for something keeps to the timeout itself.
        outcome = await callers.wait(waiter)
        return _output_in(key, outcome, refuse_deleted)

    def _refuse_if_closed(self) -> None:
        """Once it has asked, too: by then the engine may have been at its end, and runs no job that is posted."""
        if self._closed:
            raise StoreClosedError(self._engine.location)

    async def fetch_many(self, keys: list[OutputKey], callers: Callers) -> dict[OutputKey, OutputRecord]:
        """Those of the outputs that are there, all as they were at one moment. Raises if one is damaged."""
        outcomes = await self.call(lambda: self._fetch_and_keep(keys), callers)
        records = zip(keys, [outcome.unwrap() for outcome in outcomes], strict=True)
        return {key: record for key, record in records if isinstance(record, OutputRecord)}

    async def call(self, read: Callable[[], Coroutine[Any, Any, T]], callers: Callers) -> T:
        """Any other read of the engine, as a job of its own."""
        if self._inline is not None and callers.may_block:
            self._refuse_if_closed()
            outcome = self._inline.read(read)
            if outcome is not None:
                return outcome.result
        return await self._ask(self._engine.post_read, read, callers)

    async def scan(self, read: Callable[[], Coroutine[Any, Any, T]], callers: Callers) -> T:
        """A read that may take long, where it keeps the others waiting least."""
        return await self._ask(self._engine.post_scan, read, callers)

    async def _ask(
        self, post: Callable[[Job], None], read: Callable[[], Coroutine[Any, Any, T]], callers: Callers
    ) -> T:
        waiter: Waiter[Outcome[T]] = callers.waiter()
        self._refuse_if_closed()
        try:
            post(partial(self._answer_call, read, waiter))
        except Exception:  # the engine is at its end, and so this is closed, or it is a bug
            self._refuse_if_closed()
            raise
        self._refuse_if_closed()
        outcome = await callers.wait(waiter)
        return outcome.unwrap()

    # -- where the engine reads ---------------------------------------------------------------------------------------

    async def _fetch_next_group(self) -> None:
        wanted = [self._wanted.popleft() for _ in range(min(len(self._wanted), FETCH_KEYS))]
        try:
            found = await self._fetch_and_keep([key for key, _, _ in wanted])
            answers = [(waiter, outcome) for (_, waiter, _), outcome in zip(wanted, found, strict=True)]
        except StoreBusyError as error:
            # Calls that have waited as long need not wait for their own groups to come to the same end.
            late = time.monotonic() - self._timeout
            while self._wanted and self._wanted[0][2] <= late:
                wanted.append(self._wanted.popleft())
            answers = [(waiter, self._failure(error)) for _, waiter, _ in wanted]
        except Exception as error:  # noqa: BLE001 - any error is handed over to the calls that wait
            answers = [(waiter, self._failure(error)) for _, waiter, _ in wanted]
        resolve(answers)

    def _failure(self, error: Exception) -> Outcome[Any]:
        return Outcome.failure(error_for_caller(error, self._engine.location))

    async def _fetch_and_keep(self, keys: Sequence[OutputKey]) -> list[Fetched]:
        epoch, found = await self._engine.fetch(keys)
        records = [(key, outcome.result) for key, outcome in zip(keys, found, strict=True)]
        self._cache.fill([(key, record.value) for key, record in records if type(record) is OutputRecord], epoch)
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


def _output_in(key: OutputKey, fetched: Fetched, refuse_deleted: bool) -> OutputRecord | None:
    """What a trip has brought. Raises its error, and OutputDeletedError if a mark is to be refused."""
    found = fetched.unwrap()
    if not isinstance(found, OutputMark):
        return found
    if refuse_deleted:
        raise OutputDeletedError(*key)
    return None
