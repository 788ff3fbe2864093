"""What a runner says of its runs: that they are begun, and how they stand.

Rules of this module: operations and records; no SQL, no threads. Facts are in no cache: a look is a trip to the engine.
"""

from __future__ import annotations

from typing import Any

from .._engine.fact_rules import TooManyAttributes, attributes_text
from .._engine.operations import Operation
from .._engine.records import RunRecord
from .._engine.run_operations import BeginRun, UpdateRun
from .._results import RunInfo
from .._values.keys import Id, flow_run_key
from .._values.run_facts import MAX_ATTRIBUTES, checked_attributes, checked_error, state_number
from .answers import run_info_of
from .lives import Life, Lives
from .session import Session


class RunFactsService:
    """What the calls for the facts of runs do: the async faces have their documentation."""

    def __init__(self, session: Session, lives: Lives) -> None:
        self._session = session
        self._lives = lives

    async def begin(self, flow_run_id: Id, attributes: Any, parent: Id | None, life: Life | None = None) -> RunInfo:
        self._session.callers.admit()
        given = None if attributes is None else attributes_text(checked_attributes(attributes))
        above = None if parent is None else flow_run_key(parent, "parent")
        return await self._say(BeginRun(flow_run_key(flow_run_id), given, above), life)

    async def update(
        self,
        flow_run_id: Id,
        state: Any,
        attributes: Any,
        error: str | None,
        expected_state: Any,
        life: Life | None = None,
    ) -> RunInfo:
        self._session.callers.admit()
        number = None if state is None else state_number("state", state)
        changes = attributes_text({} if attributes is None else checked_attributes(attributes, may_remove=True))
        text = None if error is None else checked_error(error)
        expected = None if expected_state is None else state_number("expected_state", expected_state)
        return await self._say(UpdateRun(flow_run_key(flow_run_id), number, changes, text, expected), life)

    async def _say(self, operation: Operation, life: Life | None) -> RunInfo:
        result: RunRecord | TooManyAttributes
        (result,) = await self._lives.commit(life, [operation])
        if isinstance(result, RunRecord):
            return run_info_of(result)
        raise ValueError(f"attributes must be at most {MAX_ATTRIBUTES}, and the run would have {result.attributes}")

    async def info(self, flow_run_id: Id, life: Life | None = None) -> RunInfo | None:
        await self._session.ready()
        name = flow_run_key(flow_run_id)
        record = await self._lives.read(life, self._session.read(self._session.engine.fetch_run, name), None)
        return None if record is None else run_info_of(record)
