"""Deleting checkpoints: threads, what certain runs have made, what nobody needs any more. And copying threads.

Rules of this module: plans alone. First the checkpoints go, and then the values that no checkpoint has any more: who
takes over values from a checkpoint commits only while that is there, so what is seen to be without a user stays so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from contextstore import RunDeletedError

from . import ids, records
from .history import Ancestors
from .plans import Faces, Plan, call, under_lease
from .reading import Block, next_runs
from .threads import Threads, run_now
from .writing import begin_anew

_PAGE = 200

STRATEGIES = ("keep_latest", "delete")


class Remover:
    """Plans that delete, and the one that copies."""

    def __init__(self, threads: Threads, stamps: ids.Stamps, serde: SerializerProtocol) -> None:
        self._threads = threads
        self._stamps = stamps
        self._serde = serde

    def delete_thread(self, thread_id: str) -> Plan[None]:
        thread = self._threads.of(thread_id)
        yield call(self._threads.store, "delete_run", thread.flow_run_id, forget=True)
        self._threads.anew(thread)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> Plan[None]:
        """The complete chain of every namespace, with all writes. Begun again, it goes on where it was stopped."""
        store, source, target = self._threads.store, ids.run_id(source_thread_id), self._threads.of(target_thread_id)
        # In this order: the blobs of each checkpoint that is listed here are seen below.
        nodes: list[str] = yield call(store, "list_keys", source, prefix=ids.CHECKPOINTS)
        if not nodes:
            return
        nodes += yield call(store, "list_keys", source, prefix=ids.BLOBS)

        def copy() -> Plan[None]:
            yield call(store, "fork_run", source, new_flow_run_id=target.flow_run_id, node_ids=nodes)

        try:
            yield from copy()
        except RunDeletedError as error:
            if error.flow_run_id != target.flow_run_id:
                raise
            yield from begin_anew(store, target.flow_run_id, copy)
        if target.name_node is not None:
            name = target.thread_id.encode("utf-8", "surrogatepass")
            yield call(store, "put", target.flow_run_id, target.name_node, name, exist_ok="keep")

    def prune(self, thread_ids: Sequence[str], strategy: str) -> Plan[None]:
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids must be a sequence of thread ids, not a str")
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(map(repr, STRATEGIES))}, not {strategy!r}")
        for thread_id in map(str, thread_ids):
            if strategy == "delete":
                yield from self.delete_thread(thread_id)
            else:
                thread = self._threads.of(thread_id)
                plan = self._keep_latest(run_now(self._threads.store, thread.flow_run_id))
                yield from under_lease(self._threads.store, thread.flow_run_id, plan)

    def delete_for_runs(self, run_ids: Sequence[str]) -> Plan[None]:
        if isinstance(run_ids, str):
            raise TypeError("run_ids must be a sequence of run ids, not a str")
        wanted = frozenset(map(str, run_ids))
        behind: list[str] = []
        while wanted and (found := (yield from next_runs(self._threads.store, behind))):
            for flow_run_id in found:
                run = run_now(self._threads.store, flow_run_id)
                if (yield from self._made_by(run, wanted)):
                    plan = self._delete_made_by(run, wanted)
                    yield from under_lease(self._threads.store, flow_run_id, plan)

    # -- of one thread ------------------------------------------------------------------------------------------------

    def _delete_made_by(self, run: Faces, run_ids: Collection[str]) -> Plan[None]:
        yield from self._delete(run, (yield from self._made_by(run, run_ids)))

    def _made_by(self, run: Faces, run_ids: Collection[str]) -> Plan[list[str]]:
        """The nodes of the checkpoints that these runs of graphs have made."""
        nodes = yield from self._nodes(run)
        newest = {block: group[-1] for block, group in _checkpoints(nodes).items()}
        made: list[str] = []
        for record, block in (yield from self._read(run, newest)):
            if records.load(self._serde, record.metadata).get("run_id") in run_ids:
                made.extend(nodes[block])
        return made

    def _keep_latest(self, run: Faces) -> Plan[None]:
        nodes = yield from self._nodes(run)
        newest: dict[str, str] = {}
        for block in sorted(_checkpoints(nodes)):
            newest[ids.parse(block + "c").namespace] = block
        kept = set(newest.values())
        for block in newest.values():
            kept |= yield from self._needed_by(run, nodes, block)
        yield from self._delete(
            run, [node for block, group in nodes.items() if block not in kept and _is_there(group) for node in group]
        )

    def _needed_by(self, run: Faces, nodes: dict[str, list[str]], block: str) -> Plan[set[str]]:
        """The ancestors without which a checkpoint would not be read as it is now."""
        ((record, _),) = yield from self._read(run, {block: _checkpoints(nodes)[block][-1]})
        checkpoint = records.load_plain(self._serde, record, ids.parse(block).checkpoint_id)
        metadata = records.load(self._serde, record.metadata)
        has = set(checkpoint["channel_values"]) | set(record.values) | set(records.blob_of(record))
        missing = set(metadata.get("counters_since_delta_snapshot") or ()) - has
        needed: set[str] = set()
        ancestors = Ancestors(run, record.namespace.decode("utf-8", "surrogatepass"), self._stamps)
        parent, is_old = record.parent, checkpoint["v"] < 4
        while missing or is_old:
            found: Block | None = yield from ancestors.find(parent)
            if found is None:
                break
            # Before version 4 what was sent to tasks stands with the parent's writes.
            sends = is_old and any(write.channel == TASKS for write in records.merge_writes(found.writes))
            if missing or sends:
                needed.add(found.node.block)
            values = records.load_plain(self._serde, found.record, found.node.checkpoint_id)["channel_values"]
            missing -= set(values) | set(found.record.values) | set(records.blob_of(found.record))
            parent, is_old = found.record.parent, False
        return needed

    def _nodes(self, run: Faces) -> Plan[dict[str, list[str]]]:
        """The nodes of a thread by their checkpoints' prefixes."""
        node_ids: list[str] = yield call(run, "list_keys", prefix=ids.CHECKPOINTS)
        nodes: dict[str, list[str]] = {}
        for node_id in node_ids:
            nodes.setdefault(ids.parse(node_id).block, []).append(node_id)
        return nodes

    def _read(self, run: Faces, wanted: dict[str, str]) -> Plan[list[tuple[records.CheckpointRecord, str]]]:
        """Records of checkpoints, each with the prefix that it is asked by. Those that are gone are left out."""
        found: list[tuple[records.CheckpointRecord, str]] = []
        blocks = list(wanted.items())
        for start in range(0, len(blocks), _PAGE):
            some = blocks[start : start + _PAGE]
            rows: dict[str, Any] = yield call(run, "get_many", [node for _, node in some])
            found.extend((records.decode_checkpoint(rows[node]), block) for block, node in some if node in rows)
        return found

    def _delete(self, run: Faces, node_ids: list[str]) -> Plan[None]:
        """Delete these nodes, and then the blobs of which no checkpoint has a value any more."""
        if node_ids:
            yield call(run, "delete_outputs", node_ids)
        # In this order: a blob that is listed here was committed together with its first user, who is seen below.
        blobs: list[str] = yield call(run, "list_keys", prefix=ids.BLOBS)
        if not blobs:
            return
        nodes = yield from self._nodes(run)
        users = {node: node for group in _checkpoints(nodes).values() for node in group}
        used = {blob for record, _ in (yield from self._read(run, users)) for blob in record.blobs}
        unused = [blob for blob in blobs if blob.removeprefix(ids.BLOBS) not in used]
        if unused:
            yield call(run, "delete_outputs", unused)


def _checkpoints(nodes: dict[str, list[str]]) -> dict[str, list[str]]:
    """Of these, those that are checkpoints. What was written for a checkpoint that is not there stays out."""
    return {
        block: [node for node in group if ids.parse(node).kind == "c"]
        for block, group in nodes.items()
        if _is_there(group)
    }


def _is_there(group: list[str]) -> bool:
    return any(ids.parse(node).kind == "c" for node in group)
