"""Many puts, one statement: the cheapest way to write a group of single puts.

Rules of this module: no SQL. Each put is refused for itself; of those that are not refused, the ones that were inserted
are stored, also if the others fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .._engine.failures import error_for_caller
from .._engine.operations import PutOutput
from .._waiting.outcome import Outcome
from ..errors import RunDeletedError, StorageError
from .errors import TransientError
from .outputs import Outcomes, OutputRows, PutRow
from .retry import Retry
from .write import Write, WriteContext


@dataclass
class _Group:
    """Puts that go together: which are left, and what became of the others. By index in the commit."""

    left: dict[int, PutOutput]
    write: Write
    in_doubt: bool = False
    """Whether an insert of what is left was sent under this write's id, and the answer to it was lost."""
    outcomes: Outcomes = field(default_factory=dict)

    def settle(self, outcomes: Outcomes) -> None:
        self.outcomes |= outcomes
        self.left = {index: put for index, put in self.left.items() if index not in outcomes}

    def fail(self, error: StorageError, location: str) -> None:
        self.settle({index: Outcome.failure(error_for_caller(error, location)) for index in self.left})


class Puts:
    """Commits units that are one put each."""

    def __init__(self, context: WriteContext) -> None:
        self._location = context.location
        self._rows = OutputRows(context)

    async def commit(self, puts: dict[int, PutOutput], write: Write, *, are_made: bool = False) -> Outcomes:
        """Put them in one statement; each is refused for itself. By index in the commit.

        Args:
            are_made: whether they are of steps whose attempts have no numbers yet. Then those that are not the first
                attempts of their nodes are left out: nothing of them is stored, nor will be by this.

        Raises StorageError if the server refused the statement for good: then nothing is stored.
        """
        group = _Group(puts, write)
        retry = Retry(self._location, write.deadline)
        while group.left:
            try:
                await self._try(group)
                if are_made:
                    break
            except TransientError as error:
                if not await retry.may_go_on(error):
                    group.fail(retry.failure(in_doubt=group.in_doubt), self._location)
            except StorageError as error:  # refused for good
                if not group.in_doubt and not group.outcomes:
                    raise  # nothing is stored: the writer goes on one by one
                group.fail(retry.unknown(error) if group.in_doubt else error, self._location)
        return group.outcomes

    async def _try(self, group: _Group) -> None:
        left = len(group.left)
        # A key once at a time: a later put of the same is refused, or not, by what is there then.
        once = {(put.flow_run_id, put.node_id): index for index, put in reversed(group.left.items())}
        puts = {index: group.left[index] for index in once.values()}
        names = {put.flow_run_id for put in puts.values() if put.run is None}
        serials = await self._rows.serials_of(sorted(names), group.write)
        self._rows.remember(serials)
        rows: list[PutRow] = []
        refused: Outcomes = {}
        for index, put in puts.items():
            serial = serials[put.flow_run_id] if put.run is None else put.run
            if serial is None:
                refused[index] = Outcome.failure(RunDeletedError(put.flow_run_id))
            else:
                rows.append(PutRow(serial, index, put))
        if refused:
            group.settle(refused)
        if rows:
            await self._insert(rows, group)
        if 0 < len(group.left) < left:  # those with keys of their own are done: the rest are other writes
            group.write = Write.new(group.write.deadline, group.write.now)
            group.in_doubt = False

    async def _insert(self, rows: list[PutRow], group: _Group) -> None:
        try:
            inserted = await self._rows.insert(rows, group.write)
        except TransientError as lost:
            group.in_doubt = group.in_doubt or not lost.is_refusal
            raise
        group.settle(dict.fromkeys(inserted, Outcome([True])))
        conflicts = [row for row in rows if row.index not in inserted]
        if conflicts:
            group.settle(await self._rows.resolve_conflicts(conflicts, group.write))
