"""Deleting single outputs: of each a mark stays in its row, so that its id is used up.

Rules of this module: steps within a transaction of ``units``; nothing is tried again here. Who deletes outputs of a run
holds a lock on the run's row, which keeps others from deleting there, and lets puts pass: a put that comes to a row
which is being marked waits for that by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .._engine.operations import DeleteOutputs, LoadMark, OutputDeletion
from .._engine.portions import Portion
from .._engine.records import after_prefix
from .._values.codec import MARK, checksum
from .._waiting.deadline import Deadline
from ..errors import AlreadyExistsError, RunDeletedError, StorageError
from .arrays import integers
from .outputs import OutputRows
from .write import AlreadyDoneError, Write, WriteContext

_DELETE_BYTES = 4 * 2**20
"""How many bytes of outputs a commit deletes, about."""
_MOST = 2**31 - 1


class Marks:
    """What a unit may have of deleted outputs, each within its transaction."""

    def __init__(self, context: WriteContext) -> None:
        self._location = context.location
        self._connection = context.connection
        self._statements = context.statements
        self._rows = OutputRows(context)

    async def lock(self, flow_run_ids: Collection[str], deadline: Deadline) -> dict[str, int]:
        """Until the end of the transaction no one else deletes outputs of these runs. Their serials, if not deleted."""
        rows = await self._connection.fetch(deadline, self._statements.lock_runs, list(flow_run_ids))
        return {flow_run_id: serial for flow_run_id, serial, is_deleted in rows if not is_deleted}

    async def delete(
        self, delete: DeleteOutputs, serial: int | None, spared: Collection[str], write: Write
    ) -> OutputDeletion:
        """Of a locked run; None: there is none. ``spared`` are put by the same unit, behind the deletion."""
        if delete.run is not None and serial != delete.run:
            raise RunDeletedError(delete.flow_run_id)
        if serial is None:
            return OutputDeletion(0)
        most = _MOST if delete.limit is None else delete.limit + 1
        rows = await self._deletable(delete, serial, spared, most, write.deadline)
        some: list[str] = []
        written: list[int] = []
        portion = None if delete.limit is None else Portion(delete.limit, _DELETE_BYTES)
        for node_id, size, written_at in rows:
            if portion is not None and (portion.is_full or not portion.takes(size)):
                break
            some.append(node_id)
            written.append(written_at)
        await self._mark(delete.flow_run_id, serial, some, [write.now] * len(some), written, write)
        return OutputDeletion(len(some), some[-1] if len(some) < len(rows) else None, serial)

    async def _deletable(
        self, delete: DeleteOutputs, serial: int, spared: Collection[str], most: int, deadline: Deadline
    ) -> list[tuple[str, int, int]]:
        statement = self._statements.deletable_by_prefix
        bounds: tuple[object, ...] = (delete.prefix, after_prefix(delete.prefix) or "\U0010ffff" * 1000)
        if delete.node_ids is not None:
            statement, bounds = self._statements.deletable_by_id, (sorted(delete.node_ids),)
        parameters = (serial, delete.after, *bounds, list(spared), most)
        return [tuple(row) for row in await self._connection.fetch(deadline, statement, *parameters)]

    async def _mark(
        self,
        flow_run_id: str,
        serial: int,
        node_ids: Sequence[str],
        times: Sequence[int],
        written: Sequence[int],
        write: Write,
    ) -> None:
        if node_ids:
            columns = _columns(flow_run_id, node_ids, times)
            statement = self._statements.mark_outputs
            await self._connection.execute(write.deadline, statement, serial, *columns, write.write_id)
            await self._count(serial, len(node_ids), written, write.deadline)

    async def _count(self, serial: int, marks: int, written: Sequence[int], deadline: Deadline) -> None:
        times = min(written, default=None), max(written, default=None)
        await self._connection.execute(deadline, self._statements.count_marks, serial, marks, *times)

    async def load(self, loads: Sequence[LoadMark], write: Write) -> set[str]:
        """Take over the marks of one run. Those for which outputs went that were here."""
        run = loads[0].flow_run_id
        serial = (await self._rows.serials_of([run], write))[run]
        if serial is None or run not in await self.lock([run], write.deadline):
            raise RunDeletedError(run)
        by_node = {load.node_id: load for load in sorted(loads, key=lambda load: load.node_id)}
        columns = _columns(run, list(by_node), [load.written_at for load in by_node.values()])
        insert = self._statements.insert_marks
        rows = await self._connection.fetch(write.deadline, insert, serial, *columns, write.write_id)
        new = {node_id for (node_id,) in rows}
        if new:
            await self._count(serial, len(new), (), write.deadline)
        left = DeleteOutputs(run, frozenset(by_node.keys() - new))
        found = await self._deletable(left, serial, (), _MOST, write.deadline)
        replaced = [node for node, _, _ in found]
        for node_id in replaced:
            if not by_node[node_id].replaces:
                raise AlreadyExistsError(run, node_id, False)
        times = [by_node[node_id].written_at for node_id in replaced]
        await self._mark(run, serial, replaced, times, [written_at for _, _, written_at in found], write)
        return set(replaced)

    async def refuse_if_done(self, deleted: dict[str, OutputDeletion], write: Write) -> None:
        """An earlier attempt, which may have been committed, would have deleted these. Raises what became of it."""
        for deletion in deleted.values():
            if deletion.outputs:
                statement = self._statements.has_marked
                if await self._connection.fetch(write.deadline, statement, deletion.run, write.write_id):
                    raise AlreadyDoneError

    def refuse_if_unknown(self, deleted: dict[str, OutputDeletion], serials: dict[str, int]) -> None:
        """The run of such a deletion is gone, and with it all traces of what became of the attempt."""
        if any(deletion.outputs and serials.get(run) != deletion.run for run, deletion in deleted.items()):
            raise StorageError(f"the connection to {self._location} was lost during a commit", True)


def _columns(flow_run_id: str, node_ids: Sequence[str], times: Sequence[int]) -> tuple[list[str], str, str]:
    checksums = [checksum(flow_run_id, node_id, MARK) for node_id in node_ids]
    return list(node_ids), integers(checksums), integers(list(times))
