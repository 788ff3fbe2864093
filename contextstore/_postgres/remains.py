"""What deleted runs have beside their outputs, removed: append keys, state values, failures, facts.

Rules of this module: steps within a transaction of ``units``; nothing is tried again here. What one commit removes is
bounded, in rows and in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._engine.remains import attribute_rows
from .._waiting.deadline import Deadline
from .write import WriteContext


class Remains:
    """What a unit may do about them."""

    def __init__(self, context: WriteContext) -> None:
        self._connection = context.connection
        self._statements = context.statements

    async def remove(self, serials: Sequence[int], limit: int, max_bytes: int, deadline: Deadline) -> None:
        """Of deleted runs: so many rows at most, and about so many bytes."""
        runs, left = list(serials), limit
        if left > 0:
            left -= await self._connection.execute(deadline, self._statements.remove_append_keys, runs, left)
        if left > 0:
            left -= await self._connection.execute(deadline, self._statements.remove_append_counters, runs, left)
        if left > 0:
            left -= await self._connection.execute(deadline, self._statements.remove_states, runs, left, max_bytes)
        if left > 0:
            left -= await self._connection.execute(deadline, self._statements.remove_failures, runs, left)
        if left > 0:
            await self._remove_facts(runs, left, deadline)

    async def _remove_facts(self, serials: Sequence[int], limit: int, deadline: Deadline) -> None:
        """Of a run all of its attributes go at once: there are few."""
        found = await self._connection.fetch(deadline, self._statements.with_facts, list(serials), limit)
        done: list[int] = []
        damaged: list[int] = []
        rows: list[tuple[str, str, int]] = []
        for serial, attributes in found:
            if done and len(done) + len(rows) >= limit:
                break
            done.append(serial)
            of_run = [] if attributes is None else attribute_rows(attributes)
            if of_run is None:
                damaged.append(serial)
            else:
                rows += [(name, value, serial) for name, value in of_run]
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            await self._connection.execute(deadline, self._statements.remove_attributes, *columns)
        if damaged:
            await self._connection.execute(deadline, self._statements.remove_all_attributes, damaged)
        if done:
            await self._connection.execute(deadline, self._statements.remove_facts, done)
