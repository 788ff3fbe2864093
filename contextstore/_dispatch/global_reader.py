"""Reads of globals by the callers that wait for them: many that look at the same time share one trip to the engine.

Rules of this module: no SQL, no values, and no locks (see ``shared_job``). Nothing is kept: a global may change at any
time.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TypeAlias

from .._engine.contract import Engine
from .._engine.failures import error_for_caller
from .._engine.records import GlobalRecord
from .._waiting.callers import Callers
from .._waiting.outcome import Outcome
from .._waiting.waiters import Waiter, resolve
from ..errors import StoreClosedError
from .shared_job import SharedJob

_KEYS = 256
"""How many keys go into one trip to the engine."""

_Found: TypeAlias = Outcome[GlobalRecord | None]


class GlobalReader:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inline = engine.inline
        self._wanted: deque[tuple[str, Waiter[_Found]]] = deque()
        """Callers append, the job that fetches alone takes out."""
        self._fetches = SharedJob(engine.post_read, self._wanted)
        self._closed = False

    def close(self) -> None:
        """Accept no more reads. Those under way are answered."""
        self._closed = True

    async def fetch(self, key: str, callers: Callers) -> GlobalRecord | None:
        """One global. Calls that ask while a fetch is under way are served together by the next one."""
        self._refuse_if_closed()
        if self._inline is not None and callers.may_block:
            found = self._inline.read(partial(self._engine.fetch_global, key))
            if found is not None:
                return found.unwrap()
        waiter: Waiter[_Found] = callers.waiter()
        self._wanted.append((key, waiter))
        try:
            self._fetches.ask(self._fetch_next_group)
        except Exception:  # the engine is at its end, and so this is closed, or it is a bug
            self._refuse_if_closed()
            raise
        self._refuse_if_closed()  # by then the engine may have been at its end, and runs no job that is posted
        return (await callers.wait(waiter)).unwrap()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError(self._engine.location)

    # -- where the engine reads ---------------------------------------------------------------------------------------

    async def _fetch_next_group(self) -> None:
        wanted = [self._wanted.popleft() for _ in range(min(len(self._wanted), _KEYS))]
        answers: list[tuple[Waiter[_Found], _Found]]
        try:
            keys = list(dict.fromkeys(key for key, _ in wanted))
            found = dict(zip(keys, await self._engine.fetch_globals(keys), strict=True))
            answers = [(waiter, self._own(found[key])) for key, waiter in wanted]
        except Exception as error:  # noqa: BLE001 - any error is handed over to the calls that wait
            answers = [(waiter, self._own(Outcome.failure(error))) for _, waiter in wanted]
        resolve(answers)

    def _own(self, found: _Found) -> _Found:
        """What one of several callers is told."""
        if isinstance(found.error, Exception):
            return Outcome.failure(error_for_caller(found.error, self._engine.location))
        return found
