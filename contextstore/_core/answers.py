"""What calls give back: from the records of an engine to the values and the results that users see.

Rules of this module: pure functions. An error of a value names the key that it stands under.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from .._engine.fact_rules import attributes_of
from .._engine.pages import OutputRow
from .._engine.records import RUN_STATES, Fetched, GlobalRecord, OutputRecord, RunRecord
from .._results import GlobalEntry, Output, OutputDraft, RunInfo, time_of
from .._values.codec import JSON, Encoded, decode, json_value
from .._values.keys import named
from .._waiting.outcome import Outcome
from ..errors import DeserializationError


def converted(value: Encoded, type: Any, *key: object) -> Any:
    """The value as one of a type. If it does not fit, the error names the key."""
    try:
        return decode(value, type)
    except DeserializationError as error:
        placed = DeserializationError(error.path, f"{error.problem} ({named(*key)})")
        raise placed from error.__cause__ or error


def output_of(flow_run_id: str, record: OutputRecord, type: Any = None, cursor: str | None = None) -> Output:
    value = converted(record.value, type, flow_run_id, record.node_id)
    size, tag = len(record.value.data), record.value.tag
    return Output(flow_run_id, record.node_id, value, time_of(record.written_at), size, tag, cursor)


def outputs_of(flow_run_id: str, rows: Iterable[OutputRow], type: Any) -> Iterator[Output]:
    """The same for each row of a page, as its turn comes."""
    for row in rows:
        node_id, codec, data, _, written_at, size, _, tag, _ = row
        value = json_value(data) if type is None and codec == JSON else value_of(flow_run_id, row, type)
        output = OutputDraft(flow_run_id, node_id, value, written_at, size, tag)
        output.__class__ = Output
        yield cast("Output", output)


def value_of(flow_run_id: str, row: OutputRow, type: Any) -> Any:
    node_id, codec, data, _, _, _, _, tag, _ = row
    return converted(Encoded(codec, data, tag), type, flow_run_id, node_id)


def global_entry_of(record: GlobalRecord, type: Any = None) -> GlobalEntry:
    value = converted(record.value, type, record.key)
    expires_at = None if record.expires_at is None else time_of(record.expires_at)
    return GlobalEntry(record.key, value, record.version, time_of(record.written_at), expires_at)


def run_info_of(record: RunRecord) -> RunInfo:
    first, last, facts = record.first_written_at, record.last_written_at, record.facts
    return RunInfo(
        record.flow_run_id,
        record.outputs,
        None if first is None else time_of(first),
        None if last is None else time_of(last),
        begun_at=None if facts.begun_at is None else time_of(facts.begun_at),
        state=RUN_STATES[facts.state],
        state_changed_at=None if facts.state_changed_at is None else time_of(facts.state_changed_at),
        error=facts.error,
        attributes=attributes_of(facts.attributes),
        parent=facts.parent,
        failures=record.failures,
    )


def there(some: Iterable[Fetched]) -> list[Outcome[OutputRecord]]:
    """Without what is not there, and without the marks of what was deleted."""
    return [
        outcome  # type: ignore[misc]  # mypy does not narrow a type by what one of its attributes is
        for outcome in some
        if isinstance(outcome.result, OutputRecord) or outcome.error is not None
    ]
