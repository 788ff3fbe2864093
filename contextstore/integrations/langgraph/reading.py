"""Reading checkpoints: one, the newest, or many, each with its pending writes.

Rules of this module: plans alone. A checkpoint's rows stand side by side, its writes behind it: so in the reverse order
the first checkpoint that is met is the newest, and all of its writes were met before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, get_checkpoint_id
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from contextstore import CorruptStoreError, InvalidKeyError, Output, RunInfo

from . import ids, records
from .plans import Faces, Plan, call
from .threads import Thread, Threads, run_now

_FIRST_PAGE = 6
"""Rows in which the newest checkpoint mostly is: it, and the writes of some tasks."""
_PAGE = 100
_BLOCKS = 32
"""Checkpoints whose values are held at once while many are listed."""
_MOST_BEHIND = 1_000


class Block(NamedTuple):
    """A checkpoint as it stands in the store."""

    node: ids.Node
    record: records.CheckpointRecord
    writes: list[bytes]
    """In the order of their calls."""

    @property
    def namespace(self) -> str:
        return self.record.namespace.decode("utf-8", "surrogatepass")


class Reader:
    """Plans that read. One for each call: ``serde`` is that of the saver which was called."""

    def __init__(self, threads: Threads, stamps: ids.Stamps, serde: SerializerProtocol, next_version: Any) -> None:
        self._threads = threads
        self._stamps = stamps
        self._serde = serde
        self._next_version = next_version

    # -- one ----------------------------------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> Plan[CheckpointTuple | None]:
        configurable = config["configurable"]
        thread_id, namespace = str(configurable["thread_id"]), configurable.get("checkpoint_ns", "")
        checkpoint_id = id_of(config)
        is_known = self._threads.is_known(thread_id)
        thread = self._threads.of(thread_id)
        found = yield from self._get(thread, namespace, checkpoint_id, config)
        if found is None and is_known and (yield call(thread.run, "info")) is None:
            # Its life is over, and another one may have begun since: whoever reads begins with what is there.
            thread = self._threads.anew(thread)
            found = yield from self._get(thread, namespace, checkpoint_id, config)
        return found

    def _get(
        self, thread: Thread, namespace: str, checkpoint_id: str | None, config: RunnableConfig
    ) -> Plan[CheckpointTuple | None]:
        missed = None
        while True:
            block = yield from self.find_block(thread.run, namespace, checkpoint_id)
            if block is None:
                return None
            blobs = yield from self.load_blobs(thread.run, [block.record])
            if all(blob in blobs for blob in block.record.blobs):
                break
            if missed == block.node.node_id:
                raise _missing(thread.flow_run_id, block)
            missed = block.node.node_id  # it was deleted meanwhile, and what it alone had, too: then it is gone by now
        asked = config if checkpoint_id else None
        result = yield from self.to_tuple(thread.run, thread.thread_id, block, blobs, asked)
        thread.note(namespace, source_of(block, result.checkpoint["channel_versions"]))
        return result

    def find_block(self, run: Faces, namespace: str, checkpoint_id: str | None) -> Plan[Block | None]:
        """A checkpoint, or the newest of the namespace."""
        prefix = ids.block_prefix(namespace, checkpoint_id) if checkpoint_id else ids.namespace_prefix(namespace)
        after, limit = None, _FIRST_PAGE
        blocks = Blocks(self._stamps)
        while True:
            page: list[Output] = yield call(run, "list_outputs", prefix=prefix, after=after, limit=limit, reverse=True)
            for block in blocks.read(page):
                return block
            if not page:
                return None
            after, limit = page[-1].node_id, _PAGE

    def load_blobs(
        self, run: Faces, wanted: Iterable[records.CheckpointRecord]
    ) -> Plan[dict[str, dict[str, records.Typed]]]:
        """The blobs that are there of those that these checkpoints have values in, by their stamps."""
        stamps = sorted({blob for record in wanted for blob in record.blobs})
        if not stamps:
            return {}
        found: dict[str, bytes] = yield call(run, "get_many", [ids.BLOBS + stamp for stamp in stamps])
        return {node_id.removeprefix(ids.BLOBS): records.decode_blob(blob) for node_id, blob in found.items()}

    def to_tuple(
        self,
        run: Faces,
        thread_id: str,
        block: Block,
        blobs: dict[str, dict[str, records.Typed]],
        config: RunnableConfig | None,
    ) -> Plan[CheckpointTuple]:
        """What LangGraph gets. ``config``: the one that it asked by, if that named the checkpoint."""
        record, serde = block.record, self._serde
        namespace = block.namespace
        checkpoint = records.load_checkpoint(serde, record, block.node.checkpoint_id, blobs)
        if checkpoint["v"] < 4 and record.parent is not None:
            yield from self._take_over_sends(run, namespace, record.parent, checkpoint)

        def config_of(checkpoint_id: str) -> RunnableConfig:
            return {
                "configurable": {
                    "thread_id": thread_id,
                    "checkpoint_ns": namespace,
                    "checkpoint_id": checkpoint_id,
                }
            }

        return CheckpointTuple(
            config_of(checkpoint["id"]) if config is None else config,
            checkpoint,  # type: ignore[arg-type]  # it was one before it was serialized
            records.load(serde, record.metadata),
            config_of(record.parent) if record.parent else None,
            records.load_writes(serde, records.merge_writes(block.writes)),
        )

    def _take_over_sends(self, run: Faces, namespace: str, parent: str, checkpoint: dict[str, Any]) -> Plan[None]:
        """Before version 4 what was sent to tasks stood with the parent's writes; now it is a channel."""
        prefix = ids.block_prefix(namespace, parent)
        page: dict[str, bytes] = yield call(run, "get_run", prefix=prefix + "w")
        writes = records.merge_writes(page.values())
        sends = [records.load(self._serde, write.value) for write in writes if write.channel == TASKS]
        if sends:
            versions = checkpoint["channel_versions"]
            checkpoint["channel_values"][TASKS] = sends
            versions[TASKS] = max(versions.values()) if versions else self._next_version(None, None)

    # -- many ---------------------------------------------------------------------------------------------------------

    def list_some(self, listing: Listing) -> Plan[list[CheckpointTuple]]:
        """The next of a listing; none: it is over."""
        while not listing.is_over:
            if listing.run is None:
                yield from self._next_thread(listing)
                continue
            blocks = yield from self._some_blocks(listing, listing.run)
            found = yield from self._load(listing, listing.run, blocks)
            if not blocks and listing.is_at_end:
                listing.end_thread()
            if found:
                return found
        return []

    def _next_thread(self, listing: Listing) -> Plan[None]:
        """Go to the next thread of the store."""
        if not listing.runs:
            listing.runs.extend((yield from next_runs(self._threads.store, listing.behind)))
        if listing.runs:
            flow_run_id = listing.runs.popleft()
            thread_id = yield from self.thread_id_of(flow_run_id)
            listing.begin(thread_id, run_now(self._threads.store, flow_run_id))
        else:
            listing.is_over = True

    def thread_id_of(self, flow_run_id: str) -> Plan[str]:
        name = ids.name_node(flow_run_id)
        if name is None:
            return flow_run_id.removeprefix(ids.RUNS)
        named: bytes | None = yield call(self._threads.store, "get", flow_run_id, name)
        return flow_run_id.removeprefix(ids.RUNS) if named is None else named.decode("utf-8", "surrogatepass")

    def _some_blocks(self, listing: Listing, run: Faces) -> Plan[list[Block]]:
        """The next checkpoints of a listing's thread."""
        if listing.namespace is None:
            return (yield from self._some_of_all_namespaces(listing, run))
        page: list[Output] = yield call(
            run, "list_outputs", prefix=listing.prefix, after=listing.after, limit=listing.page, reverse=True
        )
        if page:
            listing.after = page[-1].node_id
        listing.is_at_end = not page
        return list(listing.blocks.read(page))

    def _some_of_all_namespaces(self, listing: Listing, run: Faces) -> Plan[list[Block]]:
        """By their ids, in whichever namespace they are."""
        if listing.waiting is None:
            node_ids: list[str] = yield call(run, "list_keys", prefix=ids.CHECKPOINTS)
            listing.waiting = listing.sort(node_ids)
        chunk = [listing.waiting.popleft() for _ in range(min(_BLOCKS, len(listing.waiting)))]
        listing.is_at_end = not chunk
        blocks: list[Block] = []
        rows: dict[str, bytes] = yield call(run, "get_many", [node_id for nodes in chunk for node_id in nodes])
        for nodes in chunk:
            gathered = Blocks(self._stamps)
            for node_id in reversed(nodes):
                if node_id in rows:
                    blocks.extend(gathered.add(node_id, rows[node_id]))
        return blocks

    def _load(self, listing: Listing, run: Faces, blocks: list[Block]) -> Plan[list[CheckpointTuple]]:
        """Those of the blocks that the listing wants."""
        wanted = [block for block in blocks if listing.wants(self._serde, block)]
        wanted = wanted if listing.left is None else wanted[: listing.left]
        found: list[CheckpointTuple] = []
        for start in range(0, len(wanted), _BLOCKS):
            some = wanted[start : start + _BLOCKS]
            blobs = yield from self.load_blobs(run, [block.record for block in some])
            for block in some:
                if not all(blob in blobs for blob in block.record.blobs):
                    again = yield from self.find_block(run, block.namespace, block.node.checkpoint_id)
                    if again is None or again.node != block.node:
                        continue  # it was deleted meanwhile
                    raise _missing(ids.run_id(listing.thread_id), block)
                found.append((yield from self.to_tuple(run, listing.thread_id, block, blobs, None)))
        listing.count(len(found))
        return found


def next_runs(store: Faces, behind: list[str]) -> Plan[list[str]]:
    """The flow runs of some more threads: those behind what was found until now, to which they are added."""
    while True:
        after = behind[-1] if behind else None
        try:
            infos: list[RunInfo] = yield call(store, "list_runs", prefix=ids.RUNS, after=after, limit=_PAGE)
        except InvalidKeyError:  # that one was deleted meanwhile, and is forgotten
            behind.pop()
            continue
        found = [info.flow_run_id for info in infos]
        behind.extend(found)
        del behind[:-_MOST_BEHIND]
        return found


class Blocks:
    """Gathers the rows of checkpoints, which come in the reverse order, page by page."""

    def __init__(self, stamps: ids.Stamps) -> None:
        self._stamps = stamps
        self._block = ""
        self._is_whole = False
        self._writes: list[bytes] = []

    def read(self, page: Iterable[Output]) -> Iterator[Block]:
        for row in page:
            yield from self.add(row.node_id, row.value)

    def add(self, node_id: str, value: bytes) -> Iterator[Block]:
        """Take the next row. A checkpoint is whole once its own row has come; an older one under its id is none."""
        node = ids.parse(node_id)
        self._stamps.saw(node.stamp)
        if node.block != self._block:
            self._block, self._is_whole, self._writes = node.block, False, []
        if node.kind == "w":
            self._writes.append(value)
        elif not self._is_whole:
            self._is_whole = True
            yield Block(node, records.decode_checkpoint(value), self._writes[::-1])


class Listing:
    """How far a ``list`` has come."""

    def __init__(
        self,
        threads: Threads,
        stamps: ids.Stamps,
        config: RunnableConfig | None,
        filter: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> None:
        configurable = config["configurable"] if config else {}
        self.namespace: str | None = configurable.get("checkpoint_ns")
        self._checkpoint_id = id_of(config) if config else None
        self._before = id_of(before) if before else None
        self._filter = filter or {}
        self._stamps = stamps
        self.left = limit
        self.is_over = limit is not None and limit <= 0
        self._is_of_one = config is not None
        self.behind: list[str] = []
        """Flow runs that were found until now, the last ones."""
        self.runs: deque[str] = deque()
        """Those of them that are to be listed."""
        self.run: Faces | None = None
        if config is not None:
            thread_id = str(configurable["thread_id"])
            self.begin(thread_id, run_now(threads.store, ids.run_id(thread_id)))

    def begin(self, thread_id: str, run: Faces) -> None:
        """List this thread."""
        self.thread_id, self.run = thread_id, run
        self.is_at_end = False
        self.blocks = Blocks(self._stamps)
        self.waiting: deque[list[str]] | None = None
        self.after: str | None = None
        if self.namespace is not None:
            self.prefix = ids.namespace_prefix(self.namespace)
            if self._checkpoint_id:
                self.prefix = ids.block_prefix(self.namespace, self._checkpoint_id)
            elif self._before:
                self.after = ids.block_prefix(self.namespace, self._before)

    def end_thread(self) -> None:
        self.run = None
        self.is_over = self._is_of_one

    @property
    def page(self) -> int:
        """How many rows to ask for."""
        return _PAGE if self.left is None or self._filter else min(_PAGE, 4 * self.left + 2)

    def sort(self, node_ids: Sequence[str]) -> deque[list[str]]:
        """The nodes of each checkpoint, the highest id first."""
        blocks: dict[str, list[str]] = {}
        for node_id in node_ids:
            blocks.setdefault(ids.parse(node_id).block, []).append(node_id)
        return deque(sorted(blocks.values(), key=lambda nodes: ids.parse(nodes[0]).checkpoint, reverse=True))

    def wants(self, serde: SerializerProtocol, block: Block) -> bool:
        if self.namespace is None and (self._checkpoint_id or self._before):
            name = block.node.checkpoint
            if self._checkpoint_id and name != ids.escape(self._checkpoint_id):
                return False
            if self._before and name >= ids.escape(self._before):
                return False
        if not self._filter:
            return True
        metadata = records.load(serde, block.record.metadata)
        return all(metadata.get(key) == value for key, value in self._filter.items())

    def count(self, number: int) -> None:
        if self.left is not None:
            self.left -= number
            self.is_over = self.is_over or self.left <= 0


def id_of(config: RunnableConfig) -> str | None:
    """The checkpoint that a config names."""
    checkpoint_id = get_checkpoint_id(config)
    return str(checkpoint_id) if checkpoint_id else None


def source_of(block: Block, versions: dict[str, Any]) -> records.Source:
    return records.Source(block.node.checkpoint_id, block.node.node_id, dict(versions), records.blob_of(block.record))


def _missing(flow_run_id: str, block: Block) -> CorruptStoreError:
    return CorruptStoreError(
        f"the checkpoint {block.node.node_id!r} of the flow run {flow_run_id!r} is there, and channel values of it are "
        "missing",
        flow_run_id=flow_run_id,
        node_id=block.node.node_id,
    )
