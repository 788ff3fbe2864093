"""Many appends, one statement: the cheapest way to write a group of single appends.

Rules of this module: no SQL. Each append is refused for itself.

The quick way is one statement, with the numbers that come next as this client knows them. It does nothing for a prefix
where another client is appending just now, or has done so since. Those left go the sure way, a transaction that waits
for its turn: lock, look, write, commit.

If an answer was lost, the lock of the next attempt waits until the one before is over, and then its rows tell whether
it was committed: by their ids, and the id of its write. An attempt on the quick way that arrives later still finds its
counters moved, or was not followed by another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._engine.appending import NextIds
from .._engine.failures import error_for_caller
from .._engine.operations import Appended, AppendOutput
from .._waiting.outcome import Outcome
from ..errors import InvalidKeyError, StorageError
from .errors import UNIQUE_VIOLATION, TransientError, TryAgainError
from .outputs import Outcomes, OutputRows, arrays_of, columns_of
from .placing import Head, Placement, Placing
from .retry import Retry
from .write import Write, WriteContext

_MOST_COUNTERS = 10_000


@dataclass
class _Attempt:
    """One try to write appends, under an id of its own."""

    write: Write
    placement: Placement


@dataclass
class _Group:
    """Appends that go together: which are left, and what became of the others. By index in the commit."""

    left: dict[int, AppendOutput]
    write: Write
    in_doubt: list[_Attempt] = field(default_factory=list)
    """Those that may have been committed: the answer was lost."""
    outcomes: Outcomes = field(default_factory=dict)

    def settle(self, outcomes: Mapping[int, Outcome[Appended]]) -> None:
        for index, outcome in outcomes.items():
            if self.left.pop(index, None) is not None:
                result = Outcome([outcome.result]) if outcome.error is None else Outcome.failure(outcome.error)
                self.outcomes[index] = result

    def attempt(self, placement: Placement) -> _Attempt:
        return _Attempt(Write.new(self.write.deadline, self.write.now), placement)

    def note(self, attempt: _Attempt, error: TransientError) -> None:
        """An attempt has ended so."""
        if not error.is_refusal:
            self.in_doubt.append(attempt)

    def fail(self, error: StorageError, location: str) -> None:
        self.settle({index: Outcome.failure(error_for_caller(error, location)) for index in self.left.copy()})


class Appends:
    """Commits units that are one append each."""

    def __init__(self, context: WriteContext) -> None:
        self._location = context.location
        self._connection = context.connection
        self._statements = context.statements
        self._serials = context.serials
        self._rows = OutputRows(context)
        self._placing = Placing(context)
        self._counters: dict[tuple[int, str], int] = {}
        """The numbers given last, as this client knows them. Others may have come further."""

    async def commit(self, appends: dict[int, AppendOutput], write: Write) -> Outcomes:
        """By index in the commit. Raises StorageError if the server refused for good: then nothing is stored."""
        group = _Group(dict(appends), write)
        retry = Retry(self._location, write.deadline)
        is_quick = True
        while group.left:
            try:
                if is_quick:
                    is_quick = False
                    await self._try_quickly(group)
                else:
                    await self._try(group)
            except TransientError as error:
                if not await retry.may_go_on(error):
                    group.fail(retry.failure(in_doubt=bool(group.in_doubt)), self._location)
            except StorageError as error:  # refused for good
                if error.code == UNIQUE_VIOLATION:  # a put has taken one of the ids meanwhile
                    await self._go_on_behind(error, retry, group)
                elif not group.in_doubt and not group.outcomes:
                    raise
                else:
                    group.fail(retry.unknown(error) if group.in_doubt else error, self._location)
        return group.outcomes

    async def _go_on_behind(self, error: StorageError, retry: Retry, group: _Group) -> None:
        if not await retry.may_go_on(TryAgainError(str(error), UNIQUE_VIOLATION)):
            group.fail(retry.failure(in_doubt=bool(group.in_doubt)), self._location)

    # -- the quick way ------------------------------------------------------------------------------------------------

    async def _try_quickly(self, group: _Group) -> None:
        placement = self._foreseen(group)
        if placement is None:
            return
        attempt = group.attempt(placement)
        locks = self._placing.locks(group.left.values())
        try:
            written = await self._insert(attempt, locks)
        except TransientError as error:
            group.note(attempt, error)
            raise
        self._settle(group, placement, written)

    def _foreseen(self, group: _Group) -> Placement | None:
        """The ids that come next, as this client knows it. None: it does not know them all."""
        placement = Placement()
        firsts: dict[tuple[int, str, str], int] = {}
        for index, append in group.left.items():
            serial = self._serials.get(append.flow_run_id)
            if serial is None or append.run not in (None, serial):
                return None
            head = placement.heads.get((serial, append.prefix))
            if head is None:
                last = self._counters.get((serial, append.prefix))
                if last is None:
                    return None
                head = Head(append.flow_run_id, last, NextIds(append.prefix, last))
                placement.heads[serial, append.prefix] = head
            if append.key is not None:
                first = firsts.setdefault((serial, append.prefix, append.key), index)
                if first != index:
                    placement.twins[index] = first
                    placement.outcomes[index] = Outcome(Appended(placement.outcomes[first].result.node_id, False))
                    continue
            try:
                placement.place(index, append, serial, head)
            except InvalidKeyError:
                return None
        return placement

    # -- the sure way -------------------------------------------------------------------------------------------------

    async def _try(self, group: _Group) -> None:
        deadline = group.write.deadline
        # By their ids, as groups of puts make new runs: or two groups could wait for each other.
        by_run = sorted(group.left.values(), key=lambda append: append.flow_run_id)
        serials = await self._rows.serials_for(by_run, group.write)
        self._rows.remember(serials)
        attempt: _Attempt | None = None
        written: set[tuple[int, str]] = set()
        try:
            async with self._connection.transaction(deadline):
                await self._placing.lock(group.left.values(), deadline)
                await self._settle_doubts(group)
                placement = await self._placing.place(group.left, serials, deadline)
                if placement.rows:
                    attempt = group.attempt(placement)
                    written = await self._insert(attempt, [])
        except TransientError as error:
            if attempt is not None:
                group.note(attempt, error)
            raise
        self._settle(group, placement, written)
        if group.left:
            self._serials.forget({append.flow_run_id for append in group.left.values()})
            raise TryAgainError("a counter was moved meanwhile, or a run deleted", UNIQUE_VIOLATION)

    async def _settle_doubts(self, group: _Group) -> None:
        """With the lock: those of the attempts before that were committed."""
        for attempt in group.in_doubt:
            written = await self._rows.written_by(attempt.write, attempt.placement.rows)
            self._settle(group, attempt.placement, {(row.serial, row.put.node_id) for row in written})

    # -- both ---------------------------------------------------------------------------------------------------------

    async def _insert(self, attempt: _Attempt, locks: list[int]) -> set[tuple[int, str]]:
        """Write the rows of an attempt, with their counters and keys; returns which were written.

        Args:
            locks: to be taken first, if none of them has to be waited for. None at all: they are held.
        """
        write, placement = attempt.write, attempt.placement
        rows, heads = placement.rows, placement.heads
        *columns, flow_run_ids, tags = arrays_of(*columns_of(rows, write.now))
        del flow_run_ids  # those of the heads will do
        arguments = [
            *columns,
            tags,
            write.write_id,
            [placement.prefixes[row.index] for row in rows],
            [placement.keys.get(row.index) for row in rows],
            [serial for serial, _ in heads],
            [prefix for _, prefix in heads],
            [head.flow_run_id for head in heads.values()],
            [head.before for head in heads.values()],
            [head.ids.last for head in heads.values()],
            locks,
        ]
        new = await self._connection.fetch(write.deadline, self._statements.append_outputs, *arguments)
        return {(serial, node_id) for serial, node_id in new}

    def _settle(self, group: _Group, placement: Placement, written: set[tuple[int, str]]) -> None:
        """What was written is known; of the rest, what needed no writing."""
        outcomes = dict(placement.outcomes)
        for row in placement.rows:
            head = (row.serial, placement.prefixes[row.index])
            if (row.serial, row.put.node_id) in written:
                self._counters[head] = placement.heads[head].ids.last
            else:
                self._counters.pop(head, None)
                del outcomes[row.index]
        for index, first in placement.twins.items():
            if first not in outcomes:
                del outcomes[index]
        if len(self._counters) > _MOST_COUNTERS:
            self._counters.clear()
        group.settle(outcomes)
