"""The savers: LangGraph's ``BaseCheckpointSaver``, on either face of a store.

Rules of this module: names, parameters and docstrings. What a call does is a plan of the modules beside this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from contextstore import AsyncContextStore, ContextStore

from . import ids
from .history import delta_channel_history
from .plans import Plan, carry_out, carry_out_awaiting
from .reading import Listing, Reader
from .removal import Remover
from .threads import Threads
from .writing import Writer

T = TypeVar("T")

Version = int | str | float
_BRANCH_BITS = 16
"""Of a version: they are random, above them it counts."""


class _Saver(BaseCheckpointSaver[Any]):
    """What both savers do."""

    def __init__(self, store: ContextStore | AsyncContextStore, *, serde: SerializerProtocol | None = None) -> None:
        super().__init__(serde=serde)
        self._threads = Threads(store)
        self._stamps = ids.Stamps()

    @property
    def _reader(self) -> Reader:
        return Reader(self._threads, self._stamps, self.serde, self.get_next_version)

    @property
    def _writer(self) -> Writer:
        return Writer(self._threads, self._stamps, self.serde, self._reader)

    @property
    def _remover(self) -> Remover:
        return Remover(self._threads, self._stamps, self.serde)

    def _run(self, plan: Plan[T], instead: str) -> T:
        """Carry a plan out in the calling thread. ``instead``: what to call where that cannot be."""
        return carry_out(plan)

    # -- called -------------------------------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that ``config`` names, or the newest of its thread and namespace, with its pending writes."""
        return self._run(self._reader.get_tuple(config), "aget_tuple")

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, the newest first: of a namespace, of all of a thread, or of every thread, one after the other.

        Args:
            config: a thread, and a namespace or a checkpoint of it. None: all threads, the newest first.
            filter: what their metadata must have.
            before: only checkpoints with a lower id than the one that is named here.
            limit: how many at most.
        """
        listing = Listing(self._threads, self._stamps, config, filter, before, limit)
        while found := self._run(self._reader.list_some(listing), "alist"):
            yield from found

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, in one commit. One of the same id takes the place of the one before.

        Raises:
            RunDeletedError: its parent belongs to a life of the thread that was deleted since.
        """
        return self._run(self._writer.put(config, checkpoint, metadata, new_versions), "aput")

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task has written for the step behind a checkpoint, in one commit.

        Raises:
            RunDeletedError: the checkpoint belongs to a life of the thread that was deleted since.
        """
        self._run(self._writer.put_writes(config, writes, task_id, task_path), "aput_writes")

    def delete_thread(self, thread_id: str) -> None:
        """Delete all of a thread, for good. Its id may be used anew; who still writes to the old one is refused."""
        self._run(self._remover.delete_thread(str(thread_id)), "adelete_thread")

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that have one of these as ``run_id`` in their metadata, in all threads."""
        self._run(self._remover.delete_for_runs(run_ids), "adelete_for_runs")

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread to another one, beside what that has."""
        self._run(self._remover.copy_thread(str(source_thread_id), str(target_thread_id)), "acopy_thread")

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete what is old of these threads; safe beside others that go on with them.

        Args:
            strategy: ``"keep_latest"`` leaves the newest checkpoint of each namespace, with its writes, and the
                ancestors without which its delta channels could not be read. ``"delete"`` deletes the threads.
        """
        self._run(self._remover.prune(thread_ids, strategy), "aprune")

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Of each channel the writes since the nearest ancestor that has a value of it, and that value."""
        return self._run(self._history(config, channels), "aget_delta_channel_history")

    # -- awaited ------------------------------------------------------------------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See ``get_tuple``."""
        return await carry_out_awaiting(self._reader.get_tuple(config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See ``list``."""
        listing = Listing(self._threads, self._stamps, config, filter, before, limit)
        while found := await carry_out_awaiting(self._reader.list_some(listing)):
            for checkpoint in found:
                yield checkpoint

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See ``put``. Cancelled, it has stored all of the checkpoint, or nothing."""
        return await carry_out_awaiting(self._writer.put(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See ``put_writes``. Cancelled, it has stored all of the writes, or none."""
        await carry_out_awaiting(self._writer.put_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        """See ``delete_thread``."""
        await carry_out_awaiting(self._remover.delete_thread(str(thread_id)))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See ``delete_for_runs``."""
        await carry_out_awaiting(self._remover.delete_for_runs(run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See ``copy_thread``."""
        await carry_out_awaiting(self._remover.copy_thread(str(source_thread_id), str(target_thread_id)))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See ``prune``."""
        await carry_out_awaiting(self._remover.prune(thread_ids, strategy))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See ``get_delta_channel_history``."""
        return await carry_out_awaiting(self._history(config, channels))

    # -- neither ------------------------------------------------------------------------------------------------------

    def get_next_version(self, current: Version | None, channel: None) -> Version:
        """A version above ``current``, and mostly another one in each branch of a thread.

        A number of at most 53 bits, since each checkpoint has many of them. A thread that came from another saver goes
        on with the kind of versions that it has.
        """
        if isinstance(current, str):
            head = current.partition(".")[0]
            return f"{int(head) + 1:0{len(head)}}.{random.getrandbits(53):016}"
        if isinstance(current, float):
            return math.floor(current) + 1.0
        return ((current or 0) >> _BRANCH_BITS) + 1 << _BRANCH_BITS | random.getrandbits(_BRANCH_BITS)

    def _history(self, config: RunnableConfig, channels: Sequence[str]) -> Plan[Mapping[str, DeltaChannelHistory]]:
        return delta_channel_history(self._threads, self._stamps, self.serde, self._reader, config, channels)


class ContextStoreSaver(_Saver):
    """LangGraph's checkpoints in a store, for graphs that are called: ``invoke``, ``stream``, ``get_state`` …

        with ContextStore("flows.db") as store:
            graph = builder.compile(checkpointer=ContextStoreSaver(store))
            graph.invoke({"messages": []}, {"configurable": {"thread_id": "1"}})

    Any threads may call it. Graphs may be awaited with it as well: its awaited methods go by the store's other face.

    Args:
        store: an open one, of either face; it is not closed.
        serde: makes bytes of values. None: LangGraph's own.
    """

    @classmethod
    @contextlib.contextmanager
    def from_conn_string(
        cls, target: str | Path, *, serde: SerializerProtocol | None = None, **options: Any
    ) -> Iterator[ContextStoreSaver]:
        """A saver on a store of its own, which is closed at the end of the block.

        Args:
            target, options: as ``ContextStore`` takes them.
        """
        with ContextStore(target, **options) as store:
            yield cls(store, serde=serde)


class AsyncContextStoreSaver(_Saver):
    """LangGraph's checkpoints in a store, for graphs that are awaited: ``ainvoke``, ``astream``, ``aget_state`` …

        async with AsyncContextStore("flows.db") as store:
            graph = builder.compile(checkpointer=AsyncContextStoreSaver(store))
            await graph.ainvoke({"messages": []}, {"configurable": {"thread_id": "1"}})

    Any loops may use it. From threads that run no loop its plain methods may be called, too; on the thread of a running
    loop they raise ``asyncio.InvalidStateError``, since they would hold up all that runs there.

    Args:
        store: an open one, of either face; it is not closed.
        serde: makes bytes of values. None: LangGraph's own.
    """

    @classmethod
    @contextlib.asynccontextmanager
    async def from_conn_string(
        cls, target: str | Path, *, serde: SerializerProtocol | None = None, **options: Any
    ) -> AsyncIterator[AsyncContextStoreSaver]:
        """A saver on a store of its own, which is closed at the end of the block.

        Args:
            target, options: as ``AsyncContextStore`` takes them.
        """
        async with AsyncContextStore(target, **options) as store:
            yield cls(store, serde=serde)

    def _run(self, plan: Plan[T], instead: str) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return carry_out(plan)
        plan.close()
        raise asyncio.InvalidStateError(
            f"this would block the loop that runs in this thread: await {instead}() of the saver here, ainvoke() and "
            "the like of the graph, or call it in another thread; a ContextStoreSaver blocks wherever it is called"
        )
