"""What is said of flow runs, or why it is refused; and whether the facts of a row are those that were said.

Rules of this module: pure functions, as ``rules`` has them. Attributes are the JSON text of an object whose keys are
sorted: so equal ones have equal texts, and ``1``, ``1.0`` and ``true`` differ.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from .._values.run_facts import MAX_ATTRIBUTES
from ..errors import CorruptStoreError, RunAlreadyExistsError, RunStateConflictError
from .records import RUN_STATES, RunFacts, RunRecord, RunRow, is_time
from .run_operations import BeginRun, LoadFacts, UpdateRun

NOTHING_SAID = RunFacts()


class TooManyAttributes(NamedTuple):
    """The result of a begin or an update that has done nothing: the run would have so many."""

    attributes: int


def attributes_text(attributes: dict[str, Any]) -> str:
    """As they are stored, all of them checked."""
    return orjson.dumps(attributes, option=orjson.OPT_SORT_KEYS).decode()


def attributes_of(text: str | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {} if text is None else orjson.loads(text)
    return attributes


def attribute_rows(text: str | None) -> dict[str, str]:
    """What stands of a run in the table of attributes: each value as JSON, by name."""
    return {name: orjson.dumps(value).decode() for name, value in attributes_of(text).items()}


def said(facts: RunFacts, operation: BeginRun | UpdateRun, now: int) -> RunFacts | TooManyAttributes:
    """What is said of a run behind the operation.

    Raises RunAlreadyExistsError or RunStateConflictError.
    """
    changed = _begun(facts, operation, now) if isinstance(operation, BeginRun) else _updated(facts, operation, now)
    attributes = len(attributes_of(changed.attributes))
    return changed if attributes <= MAX_ATTRIBUTES else TooManyAttributes(attributes)


def _begun(facts: RunFacts, begin: BeginRun, now: int) -> RunFacts:
    digest = _digest(begin.attributes)
    if facts.begun_at is None:
        attributes = _merged(facts.attributes, begin.attributes)
        return facts._replace(begun_at=now, begun_attributes=digest, parent=begin.parent, attributes=attributes)
    if begin.attributes is not None and digest != facts.begun_attributes:
        raise RunAlreadyExistsError(begin.flow_run_id, "other attributes")
    if begin.parent is not None and begin.parent != facts.parent:
        first = "no parent" if facts.parent is None else f"parent {facts.parent!r}"
        raise RunAlreadyExistsError(begin.flow_run_id, first)
    return facts


def _updated(facts: RunFacts, update: UpdateRun, now: int) -> RunFacts:
    if update.expected_state not in (None, facts.state):
        expected = RUN_STATES[update.expected_state or 0]
        raise RunStateConflictError(update.flow_run_id, expected, RUN_STATES[facts.state])
    if update.state is not None:
        facts = facts._replace(state=update.state, state_changed_at=now)
    if update.error is not None:
        facts = facts._replace(error=update.error or None)
    return facts._replace(attributes=_merged(facts.attributes, update.attributes))


def _digest(attributes: str | None) -> str:
    return hashlib.sha256((attributes or "{}").encode()).hexdigest()


def _merged(text: str | None, changes: str | None) -> str | None:
    merged = attributes_of(text) | attributes_of(changes)
    left = {name: value for name, value in merged.items() if value is not None}
    return attributes_text(left) if left else None


def loaded(here: RunFacts, touched_at: int | None, load: LoadFacts) -> bool:
    """Whether the facts of another store are to stand in the place of these.

    Raises RunAlreadyExistsError, if others are here that are not to be replaced.
    """
    if here in (load.facts, NOTHING_SAID):
        return True
    if not load.replaces:
        raise RunAlreadyExistsError(load.flow_run_id, "another state, other attributes, another parent or error")
    return (touched_at or 0) <= (load.touched_at or 0)


# -- rows -------------------------------------------------------------------------------------------------------------


def facts_checksum(flow_run_id: str, facts: RunFacts) -> int | None:
    """CRC-32 over what is said of a run, and of which; None: nothing is."""
    return None if facts == NOTHING_SAID else zlib.crc32(orjson.dumps([flow_run_id, *facts]))


def facts_row(flow_run_id: str, facts: RunFacts) -> tuple[Any, ...]:
    """The columns of ``RunFacts``, and the checksum."""
    return (*facts, facts_checksum(flow_run_id, facts))


def read_facts(location: str, flow_run_id: str, row: Sequence[Any], *, is_deleted: bool = False) -> RunFacts:
    """The facts of a row that ``facts_row`` has made. Raises CorruptStoreError.

    Args:
        is_deleted: whether the run is. Once its facts are removed, when it began alone is left, without a checksum.
    """
    *columns, checksum = row
    facts = RunFacts(*columns)
    if is_deleted and checksum is None:
        facts = facts._replace(begun_at=None)
    if checksum is None and facts == NOTHING_SAID:
        return NOTHING_SAID
    if not _is_intact(flow_run_id, facts, checksum):
        message = (
            f"what is said of flow run {flow_run_id!r} in {location} (state, attributes, parent, error) is damaged: "
            "restore a backup, or delete the run"
        )
        raise CorruptStoreError(message, flow_run_id=flow_run_id)
    return facts


def _is_intact(flow_run_id: str, facts: RunFacts, checksum: object) -> bool:
    times = [time for time in (facts.begun_at, facts.state_changed_at) if time is not None]
    try:
        fits = facts_checksum(flow_run_id, facts) == checksum
    except (TypeError, ValueError):  # orjson's: bytes where text was, say
        return False
    return fits and facts.state in range(len(RUN_STATES)) and all(map(is_time, times))


def with_facts(location: str, record: RunRecord, row: Sequence[Any]) -> RunRecord:
    """A run with its facts: the columns of ``facts_row``, then its failures."""
    *facts, failures = row
    read = read_facts(location, record.flow_run_id, facts)
    if type(failures) is not int or failures < 0:
        name = record.flow_run_id
        message = f"how many attempts of flow run {name!r} in {location} have failed is damaged: restore a backup"
        raise CorruptStoreError(message, flow_run_id=name)
    return record._replace(facts=read, failures=failures)


def row_with_facts(location: str, row: RunRow, columns: Sequence[Any]) -> RunRow:
    """The same for a row of any run: when it was touched, the columns of ``facts_row``, its failures."""
    touched_at, *facts, failures = columns
    try:
        whole = read_facts(location, row.flow_run_id, facts, is_deleted=row.deleted_at is not None)
    except CorruptStoreError:
        return row._replace(facts=None, touched_at=touched_at, failures=failures)
    return row._replace(facts=whole, touched_at=touched_at, failures=failures)
