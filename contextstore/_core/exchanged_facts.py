"""What is said of a run, on its way out of a store and into another.

Rules of this module: pure functions. What comes in is checked as what a caller says of a run.
"""

from __future__ import annotations

import dataclasses
import datetime
import re

from .._engine.fact_rules import NOTHING_SAID, attributes_of, attributes_text
from .._engine.records import RUN_STATES, RunFacts
from .._engine.run_operations import LoadFacts
from .._results import ExportedRun, time_of
from .._values.arguments import check_count
from .._values.keys import flow_run_key
from .._values.run_facts import checked_attributes, checked_error, state_number
from .exchanged_times import microseconds

_DIGEST = re.compile("[0-9a-f]{64}")


def with_facts(run: ExportedRun, load: LoadFacts) -> ExportedRun:
    facts = load.facts
    return dataclasses.replace(
        run,
        begun_at=None if facts.begun_at is None else time_of(facts.begun_at),
        begun_attributes=facts.begun_attributes,
        state=RUN_STATES[facts.state],
        state_changed_at=None if facts.state_changed_at is None else time_of(facts.state_changed_at),
        error=facts.error,
        attributes=attributes_of(facts.attributes),
        parent=facts.parent,
        failures=load.failures,
        touched_at=None if load.touched_at is None else time_of(load.touched_at),
    )


def load_of_facts(run: ExportedRun) -> LoadFacts | None:
    """None: nothing is said of it."""
    begun, changed = _time("begun_at", run.begun_at), _time("state_changed_at", run.state_changed_at)
    if (run.begun_attributes is None) != (begun is None):
        raise ValueError("begun_attributes must be there with begun_at, and not without it")
    if run.begun_attributes is not None and not _DIGEST.fullmatch(run.begun_attributes):
        raise ValueError(f"begun_attributes must be 64 hexadecimal digits, not {run.begun_attributes!r:.80}")
    attributes = checked_attributes(run.attributes)
    facts = RunFacts(
        state_number("state", run.state),
        changed,
        begun,
        run.begun_attributes,
        None if run.parent is None else flow_run_key(run.parent, "parent"),
        attributes_text(attributes) if attributes else None,
        None if run.error is None else checked_error(run.error) or None,
    )
    failures = check_count("failures", run.failures, 0)
    touched = _time("touched_at", run.touched_at)
    if touched is None and facts == NOTHING_SAID and not failures:
        return None
    if touched is None:  # it was, by what is there
        touched = max(begun or 0, changed or 0, microseconds("created_at", run.created_at))
    return LoadFacts(flow_run_key(run.flow_run_id), facts, touched, failures, replaces=False)


def _time(name: str, when: datetime.datetime | None) -> int | None:
    return None if when is None else microseconds(name, when)
