"""The attempts of a run's steps, those that failed and those that made an output.

Rules of this module: pages of the engine; no SQL, no threads. What a step records is not written here: a success goes
with its output, and a failure by the step itself.
"""

from __future__ import annotations

from .._engine.attempts import FIRST, AttemptKey, damaged_failure
from .._engine.records import AttemptRecord
from .._engine.rules import damaged_output
from .._results import Attempt, time_of
from .._values.keys import Id, flow_run_key, node_key
from .lives import Life, Lives
from .session import Session

_PAGE = 2000
"""How many outputs, and how many failures, one look at the store goes through: some milliseconds."""


class AttemptService:
    """What a run object's ``attempts`` does: the awaited face has its documentation."""

    def __init__(self, session: Session, lives: Lives) -> None:
        self._session = session
        self._lives = lives

    async def attempts(self, flow_run_id: Id, node_id: Id | None, life: Life) -> list[Attempt]:
        return await self._lives.read(life, self._attempts(flow_run_id, node_id, life), [])

    async def _attempts(self, flow_run_id: Id, node_id: Id | None, life: Life) -> list[Attempt]:
        session = self._session
        await session.ready()
        flow_run, node = flow_run_key(flow_run_id), None if node_id is None else node_key(node_id)
        run = await self._lives.serial(life)
        found: list[Attempt] = []
        after: AttemptKey | None = FIRST if node is None else (node, 0)
        while run is not None and after is not None:
            read = session.engine.page_attempts
            page = await session.read(read, flow_run, run, node, after, _PAGE)
            if page.has_damaged_failure:
                raise damaged_failure(session.location, flow_run)
            if page.damaged is not None:
                raise damaged_output(session.location, flow_run, page.damaged)
            found += map(_attempt_of, page.attempts)
            after = page.after
        return found


def _attempt_of(record: AttemptRecord) -> Attempt:
    started_at, ended_at = time_of(record.started_at), time_of(record.ended_at)
    return Attempt(record.node_id, record.number, started_at, ended_at, record.error, record.inputs)
