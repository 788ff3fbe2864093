"""Writing checkpoints and what belongs to them: each call is one commit.

Rules of this module: plans alone. A checkpoint that takes over values from its parent commits only while the parent is
there, so no deletion takes them away before it counts as their user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, get_checkpoint_metadata
from langgraph.checkpoint.serde.base import SerializerProtocol

from contextstore import OutputDeletedError, RunDeletedError

from . import ids, records
from .plans import Faces, Plan, call, under_lease
from .reading import Reader, id_of, source_of
from .threads import Thread, Threads

T = TypeVar("T")


class Writer:
    """Plans that write. One for each call: ``serde`` is that of the saver which was called."""

    def __init__(self, threads: Threads, stamps: ids.Stamps, serde: SerializerProtocol, reader: Reader) -> None:
        self._threads = threads
        self._stamps = stamps
        self._serde = serde
        self._reader = reader

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Plan[RunnableConfig]:
        configurable = config["configurable"]
        namespace, parent = configurable.get("checkpoint_ns", ""), id_of(config)
        thread = self._threads.of_writer(str(configurable["thread_id"]), namespace, parent)
        described = get_checkpoint_metadata(config, metadata)
        source = None
        if parent is not None and not new_versions.keys() >= checkpoint["channel_values"].keys():
            source = yield from self._source(thread, namespace, parent)
        node_id = f"{ids.block_prefix(namespace, checkpoint['id'])}c{self._stamps.new()}"

        def prepared(source: records.Source | None) -> records.Prepared:
            return records.serialize(
                self._serde, namespace, parent, checkpoint, described, new_versions, source, self._new_stamps()
            )

        ready = prepared(source)
        try:
            thread = yield from self._commit(thread, node_id, ready, source, begins=parent is None)
        except OutputDeletedError:  # the parent, whose values were to be taken over: all of them are stored anew
            ready = prepared(None)
            thread = yield from self._commit(thread, node_id, ready, None, begins=False)
        thread.note(
            namespace,
            records.Source(checkpoint["id"], node_id, dict(checkpoint["channel_versions"]), ready.blob_of),
        )
        return {
            "configurable": {
                "thread_id": configurable["thread_id"],
                "checkpoint_ns": namespace,
                "checkpoint_id": checkpoint["id"],
            }
        }

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Plan[None]:
        if not writes:
            return
        configurable = config["configurable"]
        namespace, checkpoint_id = configurable.get("checkpoint_ns", ""), str(configurable["checkpoint_id"])
        thread = self._threads.of_writer(str(configurable["thread_id"]), namespace, checkpoint_id)
        record = records.dump_writes(self._serde, writes, task_id, task_path)
        node_id = f"{ids.block_prefix(namespace, checkpoint_id)}w{self._stamps.new()}"
        yield from self._put(thread, {node_id: record}, None)

    def _source(self, thread: Thread, namespace: str, parent: str) -> Plan[records.Source | None]:
        source = thread.source(namespace, parent)
        if source is None:
            block = yield from self._reader.find_block(thread.run, namespace, parent)
            if block is not None:
                checkpoint = records.load_plain(self._serde, block.record, parent)
                source = source_of(block, checkpoint["channel_versions"])
        return source

    def _commit(
        self, thread: Thread, node_id: str, ready: records.Prepared, source: records.Source | None, begins: bool
    ) -> Plan[Thread]:
        """Store a checkpoint. The life of the thread in which it is now: a first checkpoint may begin another one."""
        outputs = {node_id: ready.record}
        outputs.update((ids.BLOBS + stamp, blob) for stamp, blob in ready.blobs.items())
        fence = source.node_id if source is not None and ready.inherits else None
        try:
            yield from self._put(thread, outputs, fence)
        except RunDeletedError:
            if not begins:
                raise

            def begin() -> Plan[Thread]:
                after = self._threads.anew(thread)
                yield from self._put(after, outputs, None)
                return after

            return (yield from begin_anew(self._threads.store, thread.flow_run_id, begin))
        return thread

    def _put(self, thread: Thread, outputs: dict[str, bytes], fence: str | None) -> Plan[None]:
        """Store all of it in one commit, of which nothing is stored if the output ``fence`` has been deleted."""
        if thread.name_node is not None:
            outputs[thread.name_node] = thread.thread_id.encode("utf-8", "surrogatepass")
        if fence is not None:
            outputs[fence] = b""  # it is there, so this is never written
        if len(outputs) == 1:
            ((node_id, value),) = outputs.items()
            yield call(thread.run, "put", node_id, value)
        else:
            yield call(thread.run, "put_many", outputs, exist_ok="keep")

    def _new_stamps(self) -> Iterator[str]:
        while True:
            yield self._stamps.new()


def begin_anew(store: Faces, flow_run_id: str, begin: Callable[[], Plan[T]]) -> Plan[T]:
    """Begin a life of a thread: one after the other, so that nobody deletes what another has begun."""

    def plan() -> Plan[T]:
        try:
            return (yield from begin())
        except RunDeletedError as error:  # a tombstone, or what is left of a deletion that was not finished
            if error.flow_run_id != flow_run_id:
                raise
        yield call(store, "delete_run", flow_run_id, forget=True)
        return (yield from begin())

    return (yield from under_lease(store, flow_run_id, plan()))
