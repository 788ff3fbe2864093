"""What a write asks of an engine: operations, which commit together in units.

Rules of this module: records of ids and bytes; each says what it means, when it is refused, and what its result is. How
an engine does it is decided in the engines; what it means in words of what is stored, in ``rules``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from .._values.arguments import ExistOk
from .._values.codec import Encoded
from .lease_operations import ExpectLease, LeaseOperation, LoadLastToken
from .records import Cursor, Made
from .run_operations import BeginRun, LoadFacts, LoadFailure, LoadState, RecordFailure, UpdateRun, UpsertState


class PutOutput(NamedTuple):
    """Write an output once. Refused: AlreadyExistsError, OutputDeletedError, RunDeletedError.

    Result: whether this wrote it; else what was there stands, as ``exist_ok`` allows.
    """

    flow_run_id: str
    node_id: str
    value: Encoded
    exist_ok: ExistOk
    run: int | None = None
    """The serial of the run that is meant: refused if the id has another life by now. None: whichever has it."""
    made: Made | None = None
    """The attempt of a step that made it, which is stored with it, and no part of the value. None: there is none."""


class AppendOutput(NamedTuple):
    """Write an output under the next id of a prefix, or none where its key was used before.

    Refused: RunDeletedError; InvalidKeyError, if no id is left for the prefix. Result: Appended.
    """

    flow_run_id: str
    prefix: str
    value: Encoded
    key: str | None
    run: int | None = None
    """As for ``PutOutput``."""


class Appended(NamedTuple):
    """What became of an ``AppendOutput``."""

    node_id: str
    is_new: bool
    """False: its key was used before, for this output, and nothing was written."""


class PutGlobal(NamedTuple):
    """Write a global once. Refused: GlobalAlreadyExistsError. Result: None."""

    key: str
    value: Encoded
    exist_ok: bool
    ttl: int | None = None
    """Microseconds from the commit on, by the engine's clock, for which it is there. None: for good."""


class UpsertGlobal(NamedTuple):
    """Write or overwrite a global. Refused: VersionConflictError. Result: the new version."""

    key: str
    value: Encoded
    expected_version: int | None
    ttl: int | None = None
    keeps_expiry: bool = False
    """Whether a global that is there goes on to expire when it would have, whatever ``ttl`` says."""


class DeleteGlobal(NamedTuple):
    """Delete a global; its version is kept, to be counted on. Result: whether it was there."""

    key: str


class DeleteGlobals(NamedTuple):
    """Delete several globals, as ``DeleteGlobal`` does each: those with these keys, or all that have the prefix.

    Result: how many were there.
    """

    keys: tuple[str, ...] = ()
    prefix: str | None = None  # None: by their keys


class ExpectGlobal(NamedTuple):
    """Look at a global as it was before anything of its unit was done. Refused: VersionConflictError. Result: None."""

    key: str
    version: int  # 0: it is not there


class FreeGlobals(NamedTuple):
    """Remove what is left of at most so many globals that are deleted or expired, and no more bytes than a group has.

    No version of a key that is written anew later is one that it had: they begin above the highest one ever freed.
    Result: Freed.
    """

    limit: int


class Freed(NamedTuple):
    """What became of a ``FreeGlobals``."""

    globals: int
    is_all: bool  # whether there are no more of them


class DeleteOutputs(NamedTuple):
    """Delete outputs of a run: of each a mark stays, so that its id is used up. Ids without an output are passed over.

    By node id, those above ``after``; at most so many, and no more bytes than a commit deletes, one at least. Without a
    limit all of them. Refused: RunDeletedError, where it names the run's serial, and the id has another life by now.
    Result: OutputDeletion.
    """

    flow_run_id: str
    node_ids: frozenset[str] | None
    """None: those that begin with the prefix."""
    prefix: str = ""
    after: str = ""
    limit: int | None = None
    run: int | None = None
    """As for ``PutOutput``."""

    def takes(self, flow_run_id: str, node_id: str) -> bool:
        """Whether an output would be deleted if it is there."""
        if flow_run_id != self.flow_run_id or node_id <= self.after:
            return False
        return node_id.startswith(self.prefix) if self.node_ids is None else node_id in self.node_ids


class OutputDeletion(NamedTuple):
    """What became of a ``DeleteOutputs``."""

    outputs: int  # how many it has deleted
    after: str | None = None  # above which node id to go on; None: that was all
    run: int | None = None  # the serial of the run; None: there is none


class DeleteRun(NamedTuple):
    """Mark a run as deleted, for good: a tombstone, also for a run never seen. Its outputs are gone for every reader.

    Refused: RunDeletedError, if another run than ``run`` has the id by now, or none. Result: the serial of the run.
    """

    flow_run_id: str
    run: int | None = None
    """The serial of the run that is meant. None: whichever has the id."""


class DeleteIdleRuns(NamedTuple):
    """Delete those of the runs that are idle: marked as ``DeleteRun`` does, and their outputs removed.

    A run is idle if all that was ever written to it, its outputs and else, was written before ``idle_since``, if it is
    in one of the ``states``, and if no lease that is held has its id for a name. ``cursor`` is that of the ``IdleRuns``
    that named them: what was written before it need not be looked at again.

    As many of the runs, in their order and one at least, as go into one commit: at most so many outputs, and no more
    bytes than a group may have. Of a run that alone has more, the rest is left. Result: IdleDeletion.
    """

    flow_run_ids: tuple[str, ...]
    idle_since: int
    limit: int
    cursor: Cursor | None
    states: tuple[int, ...] | None = None
    """None: any."""


class IdleDeletion(NamedTuple):
    """What became of a ``DeleteIdleRuns``."""

    done: int  # how many of the runs, from the first on, were dealt with: deleted, or not idle
    runs: int  # how many were deleted,
    outputs: int  # how many outputs were removed with them,
    bytes: int  # and their bytes
    left: tuple[str, ...]  # those deleted that still have outputs


class FindRun(NamedTuple):
    """Tell which run has the id, behind what else its unit writes to it. Refused: RunDeletedError, if it is deleted.

    Result: its serial; None: there is none.
    """

    flow_run_id: str


class RemoveOutputs(NamedTuple):
    """Remove what deleted runs have: outputs, at most so many, and no more bytes than a group may have; then what else
    is kept of a run. Result: Removal.
    """

    flow_run_ids: tuple[str, ...]
    limit: int


class Removal(NamedTuple):
    """What became of a ``RemoveOutputs``."""

    outputs: int
    bytes: int
    left: tuple[str, ...]  # those of the runs that still have something


class ForgetRun(NamedTuple):
    """Remove what is left of a deleted run, as ``RemoveOutputs`` does, and once that was all, its tombstone.

    Waits for puts to it that began before it was deleted. Result: Forgetting.
    """

    flow_run_id: str
    limit: int
    run: int | None = None
    """The serial of the run that is meant: nothing is done if it is gone. None: whichever has the id, if deleted."""


class Forgetting(NamedTuple):
    """What became of a ``ForgetRun``."""

    outputs: int
    is_done: bool  # nothing of the run is left


class ForgetRuns(NamedTuple):
    """Remove at most so many tombstones from that time on until before that one, of runs of which nothing else is left.

    Result: how many, and from when on there may be more; None: there are none.
    """

    deleted_from: int
    deleted_before: int
    limit: int


class GiveBackSpace(NamedTuple):
    """Make the storage smaller by at most so many pages. Result: how many."""

    pages: int


class LoadRun(NamedTuple):
    """Take over a run of another store, after those before. Refused: RunDeletedError, if it is deleted only here;
    RunAlreadyExistsError, if it is deleted only there, and what is here is not to be replaced.

    Result: None.
    """

    flow_run_id: str
    created_at: int
    deleted_at: int | None
    replaces: bool = True


class LoadOutput(NamedTuple):
    """Take over an output of another store with its time. Result: whether this wrote it.

    Refused: AlreadyExistsError, if it differs; OutputDeletedError; RunDeletedError.
    """

    flow_run_id: str
    node_id: str
    value: Encoded
    written_at: int
    made: Made | None = None
    """As for ``PutOutput``, with its number."""

    @property
    def exist_ok(self) -> bool:
        return True


class LoadAppendCounter(NamedTuple):
    """Take over how far a prefix of a run has counted, unless it has come further here.

    Refused: RunDeletedError. Result: None.
    """

    flow_run_id: str
    prefix: str
    last: int


class LoadAppendKey(NamedTuple):
    """Take over which output was appended under a key.

    Refused: AlreadyExistsError, if another one was here; RunDeletedError. Result: None.
    """

    flow_run_id: str
    prefix: str
    key: str
    node_id: str


class LoadMark(NamedTuple):
    """Take over the mark of an output that another store has deleted. Result: whether an output here went for it.

    Refused: AlreadyExistsError, if an output is here that is not to be replaced; RunDeletedError.
    """

    flow_run_id: str
    node_id: str
    written_at: int
    replaces: bool = True


class LoadGlobal(NamedTuple):
    """Take over a global of another store with its version and time; None: it is deleted. Result: None.

    Refused: VersionConflictError, if it has come further here, or another one is here that is not to be replaced.
    """

    key: str
    value: Encoded | None
    version: int
    written_at: int
    expires_at: int | None = None
    replaces: bool = True


class LoadFreedVersion(NamedTuple):
    """Take over how far the versions of freed globals have come in another store. Result: None."""

    version: int


Operation: TypeAlias = (
    PutOutput
    | AppendOutput
    | PutGlobal
    | UpsertGlobal
    | DeleteGlobal
    | DeleteGlobals
    | ExpectGlobal
    | FreeGlobals
    | DeleteOutputs
    | DeleteRun
    | DeleteIdleRuns
    | FindRun
    | RemoveOutputs
    | ForgetRun
    | ForgetRuns
    | GiveBackSpace
    | LoadRun
    | LoadOutput
    | LoadAppendCounter
    | LoadAppendKey
    | LoadMark
    | LoadGlobal
    | LoadFreedVersion
    | RecordFailure
    | LoadFailure
    | BeginRun
    | UpdateRun
    | LoadFacts
    | UpsertState
    | LoadState
    | LeaseOperation
    | ExpectLease
    | LoadLastToken
)


Unit: TypeAlias = Sequence[Operation]
"""Operations that commit together or not at all."""


def is_deletion(operation: Operation) -> TypeGuard[DeleteRun | DeleteIdleRuns | LoadRun]:
    """Whether a run may be deleted when this is committed."""
    return type(operation) in (DeleteRun, DeleteIdleRuns) or (
        type(operation) is LoadRun and operation.deleted_at is not None
    )


def runs_deleted_by(operation: Operation) -> Sequence[str]:
    """The runs that may be deleted when this is committed."""
    if not is_deletion(operation):
        return ()
    return operation.flow_run_ids if isinstance(operation, DeleteIdleRuns) else (operation.flow_run_id,)


def as_committed(unit: Unit, results: Sequence[Any]) -> Unit:
    """A committed unit as what it has written, for those who know outputs by their ids: an append as its put."""
    written: list[Operation] = []
    for operation, result in zip(unit, results, strict=True):
        if type(operation) is not AppendOutput:
            written.append(operation)
        elif result.is_new:
            run, node = operation.flow_run_id, result.node_id
            written.append(PutOutput(run, node, operation.value, exist_ok=False, run=operation.run))
    return written


def globals_written_by(operation: Operation) -> Sequence[str]:
    """The globals that may be there anew once this is committed."""
    return (operation.key,) if isinstance(operation, PutGlobal | UpsertGlobal | LoadGlobal) else ()


def may_delete_outputs(operation: Operation) -> TypeGuard[DeleteOutputs | LoadMark]:
    """Whether single outputs may be deleted when this is committed."""
    return type(operation) in (DeleteOutputs, LoadMark)


def value_bytes(operation: Operation) -> int:
    """How much an operation brings with it."""
    value = getattr(operation, "value", None)
    return 0 if value is None else len(value.data)
