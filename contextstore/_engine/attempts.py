"""The attempts of steps: what an output's row says of the one that made it, failures, and the two in one list.

Rules of this module: pure functions on texts and records, the same for every engine; no SQL. A number is given inside
the commit, by the engine; here it only becomes text.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import orjson

from ..errors import CorruptStoreError
from .records import AttemptRecord, Made, is_time

MOST_FAILURES = 100
"""How many failures of a node are kept: the newest. Their numbers go on."""

AttemptKey: TypeAlias = tuple[str, int]
"""node_id, number: the order in which attempts are listed."""

FIRST: AttemptKey = ("", 0)
"""Below every attempt."""
LAST_NUMBER = 2**63 - 1


class MadeRow(NamedTuple):
    """What an output's row says of its attempt, as it was read: any column may be damaged. A plain one says nothing."""

    node_id: str
    attempt: Any
    written_at: Any


class AttemptPage(NamedTuple):
    """Attempts that follow each other, by node and number."""

    attempts: list[AttemptRecord]
    after: AttemptKey | None
    """Behind which to go on; None: that was all."""
    damaged: str | None = None
    """The first node here whose output does not tell any more which attempt made it; that one is left out."""
    has_damaged_failure: bool = False
    """Whether a failure here is none that this library writes: then none is given."""


# -- the text in an output's row ---------------------------------------------------------------------------------------


def attempt_text(made: Made, number: int) -> str:
    """What stands in the row, with the number that it gets, or had before.

    Not by orjson, which takes no named tuple: two steps for each of very many outputs.
    """
    inputs = "null" if made.inputs is None else orjson.dumps(made.inputs).decode()
    ended = "" if made.ended_at is None else f",{made.ended_at}"  # only where it is not the time of the row itself
    return f"[{number},{made.started_at},{inputs}{ended}]"


def made_of(text: object) -> Made | None:
    """What the text says; None: it is none that this library writes."""
    if type(text) is not str:
        return None
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if type(fields) is not list or not 3 <= len(fields) <= 4:
        return None
    number, started_at, inputs, *ended = fields
    is_whole = (
        type(number) is int
        and 1 <= number <= LAST_NUMBER
        and is_time(started_at)
        and (inputs is None or type(inputs) is str)
        and all(map(is_time, ended))
    )
    return Made(*fields) if is_whole else None


# -- failures ----------------------------------------------------------------------------------------------------------


def is_failure(row: AttemptRecord) -> bool:
    """Whether it may have been written so: any column may be damaged."""
    return (
        type(row.node_id) is str
        and type(row.number) is int
        and 1 <= row.number <= LAST_NUMBER
        and is_time(row.started_at)
        and is_time(row.ended_at)
        and type(row.error) is str
        and (row.inputs is None or type(row.inputs) is str)
    )


def damaged_failure(location: str, flow_run_id: str) -> CorruptStoreError:
    message = f"a failed attempt of flow run {flow_run_id!r} in {location} is damaged: restore a backup"
    return CorruptStoreError(message, flow_run_id=flow_run_id)


# -- both, in one list -------------------------------------------------------------------------------------------------


def attempt_page(
    failures: list[AttemptRecord], outputs: Iterable[MadeRow], after: AttemptKey, limit: int
) -> AttemptPage:
    """The attempts behind ``after``.

    Args:
        failures: the next ones behind it, at most so many, by node and number.
        outputs: those from its node on, plain ones too, at most so many, by node.
    """
    if not all(map(is_failure, failures)):
        return AttemptPage([], None, None, True)
    outputs = list(outputs)
    end: AttemptKey | None = None
    if len(failures) == limit:
        end = failures[-1].node_id, failures[-1].number
    if len(outputs) == limit:
        end_of_outputs = outputs[-1].node_id, LAST_NUMBER
        end = end_of_outputs if end is None else min(end, end_of_outputs)
    damaged: str | None = None
    found = list(failures)
    for node_id, attempt, written_at in outputs:
        if attempt is None:
            continue
        made = made_of(attempt)
        if made is None or made.number is None or not is_time(written_at):
            damaged = damaged or node_id
            continue
        ended_at = written_at if made.ended_at is None else made.ended_at
        found.append(AttemptRecord(node_id, made.number, made.started_at, ended_at, None, made.inputs))
    found = [one for one in found if one[:2] > after and (end is None or one[:2] <= end)]
    return AttemptPage(sorted(found, key=_PLACE), end, damaged)


_PLACE = itemgetter(0, 1)
"""Of an attempt: node_id and number."""
