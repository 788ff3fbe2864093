"""The threads that a saver knows: by which run object it reads and writes each, and what it has last seen of it.

Rules of this module: no I/O; any thread calls it. Everything here may be forgotten: what is known of a thread saves
looks at the store, and refuses the late writers of a life that is over.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from contextstore import AsyncContextStore, ContextStore

from . import ids
from .plans import Faces
from .records import Source

_MOST_THREADS = 10_000
_MOST_NAMESPACES = 64
"""Of a thread: a subgraph has one for each of its calls."""


class Thread:
    """One life of a thread, as a saver knows it."""

    def __init__(self, store: Faces, thread_id: str, before: Thread | None = None) -> None:
        self.thread_id = thread_id
        self.flow_run_id = ids.run_id(thread_id)
        self.run = run_now(store, self.flow_run_id)
        self.name_node = ids.name_node(self.flow_run_id)
        self._lock = threading.Lock()
        self._sources: OrderedDict[str, Source] = OrderedDict()
        self.before: Thread | None = before
        """The life before this one: who goes on from a checkpoint of it belongs to it."""
        if before is not None:
            if not before.has_sources:
                self.before = before.before
            before.before = None

    @property
    def has_sources(self) -> bool:
        return bool(self._sources)

    def note(self, namespace: str, source: Source) -> None:
        """A checkpoint of this life was written, or read by somebody who may go on from it."""
        with self._lock:
            self._sources[namespace] = source
            self._sources.move_to_end(namespace)
            if len(self._sources) > _MOST_NAMESPACES:
                self._sources.popitem(last=False)

    def source(self, namespace: str, checkpoint_id: str) -> Source | None:
        """A checkpoint from which values may be taken over, if it was the last that was noted of its namespace."""
        source = self._sources.get(namespace)
        return source if source is not None and source.checkpoint_id == checkpoint_id else None


class Threads:
    """The threads that a saver has used last."""

    def __init__(self, store: ContextStore | AsyncContextStore) -> None:
        if isinstance(store, AsyncContextStore):
            self.store = Faces(store.blocking, store)
        elif isinstance(store, ContextStore):
            self.store = Faces(store, store.awaitable)
        else:
            raise TypeError(f"a saver takes a ContextStore or an AsyncContextStore, not {type(store).__name__}")
        self._lock = threading.Lock()
        self._threads: OrderedDict[str, Thread] = OrderedDict()

    def of(self, thread_id: str) -> Thread:
        with self._lock:
            thread = self._threads.get(thread_id)
            if thread is None:
                thread = self._add(thread_id, None)
            else:
                self._threads.move_to_end(thread_id)
            return thread

    def of_writer(self, thread_id: str, namespace: str, checkpoint_id: str | None) -> Thread:
        """The thread of one who goes on from a checkpoint: in the life in which that was seen."""
        thread = self.of(thread_id)
        before = thread.before
        if (
            before is not None
            and checkpoint_id is not None
            and thread.source(namespace, checkpoint_id) is None
            and before.source(namespace, checkpoint_id) is not None
        ):
            return before
        return thread

    def anew(self, thread: Thread) -> Thread:
        """The life of the thread that comes after this one."""
        with self._lock:
            now = self._threads.get(thread.thread_id)
            if now is None or now is thread:
                now = self._add(thread.thread_id, thread)
            return now

    def is_known(self, thread_id: str) -> bool:
        return thread_id in self._threads

    def _add(self, thread_id: str, before: Thread | None) -> Thread:
        thread = self._threads[thread_id] = Thread(self.store, thread_id, before)
        self._threads.move_to_end(thread_id)
        while len(self._threads) > _MOST_THREADS:
            self._threads.popitem(last=False)
        return thread


def run_now(store: Faces, flow_run_id: str) -> Faces:
    """A run object of no life yet: for who reads or deletes what is there now."""
    return Faces(store.blocking.run(flow_run_id), store.awaitable.run(flow_run_id))
