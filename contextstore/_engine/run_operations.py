"""What a write asks of an engine about flow runs themselves: their facts, their failures, their state values.

Rules of this module: as ``operations`` has them, which takes these in. A run that an operation finds missing is made,
unless the operation means a certain life of its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .._values.codec import Encoded
from .records import RunFacts


class BeginRun(NamedTuple):
    """Have a run there, begun. Refused: RunAlreadyExistsError, if its first begin gave others; RunDeletedError.

    Result: RunRecord, as it is behind this.
    """

    flow_run_id: str
    attributes: str | None
    """A JSON object, its keys sorted. None: they are not given, and not compared."""
    parent: str | None
    """None: it is not given, and not compared."""
    run: int | None = None
    """As for ``PutOutput``."""


class UpdateRun(NamedTuple):
    """Change a run's facts. Refused: RunStateConflictError, RunDeletedError; ValueError, by too many attributes.

    Result: RunRecord, as it is behind this.
    """

    flow_run_id: str
    state: int | None
    """None: it stays."""
    attributes: str
    """A JSON object: those that change. One that is null goes."""
    error: str | None
    """None: it stays. Empty: there is none from now on."""
    expected_state: int | None
    run: int | None = None
    """As for ``PutOutput``."""


class RecordFailure(NamedTuple):
    """Record that an attempt of a step has failed; the oldest failure of the node goes if it has more than a hundred.

    Refused: RunDeletedError. Result: the attempt's number, which is given here: one above the node's highest.
    """

    flow_run_id: str
    node_id: str
    started_at: int  # microseconds since 1970, UTC
    ended_at: int
    error: str
    inputs: str | None
    """The digest of the arguments. None: none was taken."""
    run: int | None = None
    """As for ``PutOutput``."""


class UpsertState(NamedTuple):
    """Write or overwrite a state value of a run. Refused: VersionConflictError, RunDeletedError.

    Result: the new version.
    """

    flow_run_id: str
    key: str
    value: Encoded
    expected_version: int | None
    run: int | None = None
    """As for ``PutOutput``."""


class LoadState(NamedTuple):
    """Take over a state value with its version. Result: None.

    Refused: VersionConflictError, if it has come further here, or another value is here under this version;
    RunDeletedError. The run counts as written to when the value was.
    """

    flow_run_id: str
    key: str
    value: Encoded
    version: int
    written_at: int
    replaces: bool = True


class LoadFailure(NamedTuple):
    """Take over a failed attempt with its number. Refused: RunDeletedError. Result: None.

    What is here under that number stays: numbers are given once. How many have failed is at least how many are kept.
    """

    flow_run_id: str
    node_id: str
    number: int
    started_at: int
    ended_at: int
    error: str
    inputs: str | None


class LoadFacts(NamedTuple):
    """Take over a run's facts, unless it has been written to later here. Refused: RunDeletedError. Result: None."""

    flow_run_id: str
    facts: RunFacts
    touched_at: int | None
    failures: int
    replaces: bool = True


def runs_changed_by(operation: object) -> Sequence[str]:
    """The runs of which more than an output may be another once this is committed: for those who wait for that."""
    if isinstance(operation, BeginRun | UpdateRun | RecordFailure | LoadFacts | LoadFailure):
        return (operation.flow_run_id,)
    return ()
