"""The history of channels that are kept as deltas: the writes since the nearest stored value, along the parents.

Rules of this module: plans alone. Parents mostly stand right before their children, so a page of the namespace holds
many steps of the way; a parent that stands elsewhere is looked up by its id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite
from langgraph.checkpoint.serde.base import SerializerProtocol

from contextstore import Output

from . import ids, records
from .plans import Faces, Plan, call
from .reading import Block, Blocks, Reader, id_of
from .threads import Threads, run_now

_PAGE = 100


class Ancestors:
    """The checkpoints from one on to its first ancestor, each once."""

    def __init__(self, run: Faces, namespace: str, stamps: ids.Stamps) -> None:
        self._run = run
        self._namespace = namespace
        self._stamps = stamps
        self._read: dict[str, Block] = {}
        self._visited: set[str] = set()

    def find(self, checkpoint_id: str | None) -> Plan[Block | None]:
        """The checkpoint, with those before it in memory. None: it is not there, or was visited already."""
        if checkpoint_id is None or checkpoint_id in self._visited:
            return None
        self._visited.add(checkpoint_id)
        prefix = ids.block_prefix(self._namespace, checkpoint_id)
        if prefix not in self._read:
            yield from self._read_down_from(prefix)
        return self._read.pop(prefix, None)

    def _read_down_from(self, prefix: str) -> Plan[None]:
        self._read.clear()
        blocks = Blocks(self._stamps)
        after = prefix + "~"  # behind all kinds of nodes
        while prefix not in self._read:
            page: list[Output] = yield call(
                self._run,
                "list_outputs",
                prefix=ids.namespace_prefix(self._namespace),
                after=after,
                limit=_PAGE,
                reverse=True,
            )
            for block in blocks.read(page):
                self._read.setdefault(block.node.block, block)
            if not page or ids.parse(page[-1].node_id).block < prefix:
                return
            after = page[-1].node_id


def delta_channel_history(
    threads: Threads,
    stamps: ids.Stamps,
    serde: SerializerProtocol,
    reader: Reader,
    config: RunnableConfig,
    channels: Sequence[str],
) -> Plan[Mapping[str, DeltaChannelHistory]]:
    """Of each channel: its writes from the nearest ancestor on that has a value of it, and that value."""
    if not channels:
        return {}
    configurable = config["configurable"]
    run = run_now(threads.store, ids.run_id(str(configurable["thread_id"])))
    namespace = configurable.get("checkpoint_ns", "")
    target = yield from reader.find_block(run, namespace, id_of(config))
    collected: dict[str, list[list[PendingWrite]]] = {channel: [] for channel in channels}
    seeds: dict[str, Any] = {}
    ancestors = Ancestors(run, namespace, stamps)
    parent = None if target is None else target.record.parent
    while len(seeds) < len(collected):
        block = yield from ancestors.find(parent)
        if block is None:
            break
        writes = records.merge_writes(block.writes)
        for channel in collected.keys() - seeds.keys():
            of_channel = [write for write in writes if write.channel == channel]
            collected[channel].append(records.load_writes(serde, of_channel))
        yield from _find_seeds(serde, reader, run, block, collected.keys() - seeds.keys(), seeds)
        parent = block.record.parent
    result: dict[str, DeltaChannelHistory] = {}
    for channel, steps in collected.items():
        history = DeltaChannelHistory(writes=[write for step in reversed(steps) for write in step])
        if channel in seeds:
            history["seed"] = seeds[channel]
        result[channel] = history
    return result


def _find_seeds(
    serde: SerializerProtocol, reader: Reader, run: Faces, block: Block, channels: set[str], seeds: dict[str, Any]
) -> Plan[None]:
    """The values that a checkpoint has of these channels."""
    record = block.record
    plain = records.load_plain(serde, record, block.node.checkpoint_id)["channel_values"]
    blob_of = records.blob_of(record)
    for channel in channels:
        if channel in plain:
            seeds[channel] = plain[channel]
        elif channel in record.values:
            seeds[channel] = records.load(serde, record.values[channel])
        elif channel in blob_of:
            blobs = yield from reader.load_blobs(run, [record])
            seeds[channel] = records.load(serde, blobs[blob_of[channel]][channel])
