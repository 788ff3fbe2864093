"""The outputs last read or written, encoded and in memory, up to a limit of bytes.

Rules of this module: no SQL, no values. An output never changes, so a cached one is right until its run is deleted, by
this process or another. Each deletion begins a new epoch of the store (``_engine/epochs.py``): the entries are good for
one epoch, and go with it. The cache is filled only after the engine has acknowledged, and never answers a write. Who
fills it is the thread that has read or written, which may be a caller's, and interrupted between any two steps.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from inspect import currentframe
from sys import getsizeof
from threading import get_ident
from types import FrameType
from typing import Any, NamedTuple

from .._engine.epochs import Epoch, Epochs, is_known
from .._engine.operations import DeleteOutputs, LoadMark, LoadOutput, Operation, PutOutput, runs_deleted_by
from .._engine.records import OutputKey
from .._engine.reports import counted
from .._process.fork import at_fork
from .._process.own_threads import OWNERS
from .._values.codec import Encoded

ENTRY_BYTES = 310
"""Measured memory of an entry beside its value and its node's id: tuples, headers, slots."""

RUN_BYTES = 360
"""The same for a run that has entries, beside its id."""


_PATIENCE = 0.02
"""Seconds that a thread of the store's waits for a caller that fills the cache."""


class _Run(NamedTuple):
    name: str
    """The string that all entries of the run share, in place of the equal one that each call brings."""
    node_ids: set[str]
    bytes: int
    """What it takes up beside its entries."""


class _NoEpochs:
    """Of a store that is over."""

    now = (None,)
    latest = None
    is_exact = True
    turn = (None, None)


_NO_EPOCHS = _NoEpochs()


class OutputCache:
    """The outputs used last, up to a limit of bytes. Used by the calling threads and by those of the engine."""

    def __init__(self, max_bytes: int, epochs: Epochs) -> None:
        self._max_bytes = max_bytes
        self._epochs = epochs
        self._epoch: Epoch = None
        """The epoch that the entries are good for."""
        self._entries: OrderedDict[Any, Encoded] = OrderedDict()
        self._runs: dict[str, _Run] = {}
        self._lock = threading.RLock()  # reentrant: a finalizer that runs while it is held may read
        self._change: FrameType | None = None
        """The call that is changing the entries just now, or was interrupted in it."""
        self.bytes = 0
        # Counted without the lock. CPython passes from one thread to another at calls and at jumps back alone, of which
        # += of a field has none. For the others the time of a next() does not count.
        self.quick_hits = 0
        """How many of the hits were answered by ``find`` alone: gets of a face."""
        self._other_hits, self._misses = itertools.count(), itertools.count()
        _caches.add(self)

    def find(self, key: tuple[object, object], quick: int = 1) -> Encoded | None:
        """The output under the key, if the program may have it from memory just now, and the caller too: none of the
        store's own threads, nor a forked child, nor of a store that was closed. Any ids will do: what is found was
        checked when it went in.
        """
        # Without the lock, which would double the cost: each of the steps is atomic. The epoch of the entries is read
        # first, and that of the store last. So an entry found in between belongs to the former, and is good at the
        # moment of the latter.
        epoch = self._epoch
        try:
            value = self._entries.get(key)
            if value is None or self._epochs.now[0] != epoch or get_ident() in OWNERS:
                return None
            self._entries.move_to_end(key)
        except (KeyError, TypeError):  # gone by now; no id
            return None
        self.quick_hits += quick
        return value

    def find_of(self, key: tuple[object, object], epoch: Epoch, quick: int = 1) -> Encoded | None:
        """The same for a run of which no more is known than that it was alive in this epoch."""
        if self._epoch != epoch:
            return None
        # As above, but that the epoch is given: to call the one from the other would cost a quarter.
        try:
            value = self._entries.get(key)
            if value is None or self._epochs.now[0] != epoch or get_ident() in OWNERS:
                return None
            self._entries.move_to_end(key)
        except (KeyError, TypeError):  # gone by now; no id
            return None
        self.quick_hits += quick
        return value

    def get(self, key: OutputKey) -> Encoded | None:
        """What ``find`` gives, where it counts that there is none."""
        return self.counting(self.find(key, 0))

    def get_of(self, key: OutputKey, epoch: Epoch) -> Encoded | None:
        """What ``find_of`` gives, likewise."""
        return self.counting(self.find_of(key, epoch, 0))

    def get_several(self, keys: list[OutputKey], *, in_part: bool) -> dict[OutputKey, Encoded]:
        """Those that are in memory; unless ``in_part``, all or none of them."""
        found = {key: value for key in keys if (value := OutputCache.find(self, key, 0)) is not None}
        if not in_part and len(found) < len(keys):
            found = {}
        for key in keys:
            self.counting(found.get(key))
        return found

    def epoch_of(self, key: OutputKey, value: Encoded) -> Epoch:
        """An epoch in which the run of this output was alive: that of the entries, if this very value is one of them.

        None: it was not kept.
        """
        epoch = self._epoch
        return epoch if self._entries.get(key) is value and self._epoch == epoch else None

    def counting(self, value: Encoded | None) -> Encoded | None:
        next(self._misses if value is None else self._other_hits)
        return value

    def fill(self, found: Iterable[tuple[OutputKey, Encoded]], epoch: Epoch) -> None:
        """Take in outputs that were read in this epoch or a later one."""
        if not is_known(epoch) or not self._max_bytes:
            return
        if get_ident() in OWNERS:
            self._in_own_thread(lambda: self._fill(found, epoch))
        else:
            with self._lock:
                self._fill(found, epoch)

    def committed_inline(self, put: PutOutput, epoch: Epoch) -> None:
        """Called by a thread of the caller's, which has committed the put in this epoch."""
        if self._max_bytes:
            with self._lock:
                self._fill([((put.flow_run_id, put.node_id), put.value)], epoch)

    def committed(self, operations: Collection[Operation]) -> None:
        """Called by the writer: this store object has committed these operations in its last turn."""
        self._in_own_thread(lambda: self._take_committed(operations))

    def _in_own_thread(self, change: Callable[[], None]) -> None:
        """Change the entries, in a thread of the store's, which no interrupt meets.

        A caller that holds the lock may be in a finalizer that waits for this very thread. What is left out then is not
        remembered, and no more: entries stay right within their epoch, and a deletion has begun another one.
        """
        if self._lock.acquire(timeout=_PATIENCE):
            try:
                change()
            finally:
                self._lock.release()

    # -- under the lock -----------------------------------------------------------------------------------------------

    def _begin_change(self, frame: FrameType | None) -> bool:
        """Whether the call of this frame may change the entries. Each one that may says when it has come to its end.

        One that was interrupted does not, and has left the entries as they were just then: they go.
        """
        if self._change is not None:
            try:
                self._change.clear()
            except RuntimeError:  # it runs: this one is a finalizer's, or a signal handler's, in the middle of it
                return False
            self._begin(None)
        self._change = frame
        return True

    def _fill(self, found: Iterable[tuple[OutputKey, Encoded]], epoch: Epoch) -> None:
        if not self._begin_change(currentframe()):
            return
        if epoch == self._epoch:
            self._keep(found)
        elif epoch == self._epochs.latest:
            self._begin(epoch)
            self._keep(found)
        self._change = None

    def _take_committed(self, operations: Collection[Operation]) -> None:
        if not self._begin_change(currentframe()):
            return
        self._take_turn(operations, *self._epochs.turn)
        self._change = None

    def _take_turn(self, operations: Iterable[Operation], before: Epoch, after: Epoch) -> None:
        written: list[tuple[OutputKey, Encoded]] = []
        # First, while the entries are good for no epoch but the one before, which is over. A deletion counts as the
        # last operation of its turn: the outputs that the turn has put into the run are deleted as well, in any order
        # of the calls.
        deleted = _runs_deleted_by_all(operations)
        for flow_run_id in deleted:
            self._forget_run(flow_run_id)
        deletions = [operation for operation in operations if type(operation) is DeleteOutputs]
        for deletion in deletions:
            self._forget_outputs(deletion)
        if not self._go_on_to(before, after):
            return
        for operation in operations:
            if type(operation) is PutOutput:
                flow_run_id, node_id, value, exist_ok, _, _ = operation
                key = (flow_run_id, node_id)
                if any(deletion.takes(*key) for deletion in deletions):
                    continue
                if not exist_ok and flow_run_id not in deleted:
                    written.append((key, value))
                elif self._entries.get(key) != value:  # the stored value is equal, but may be of another form
                    self._drop(key)
            elif isinstance(operation, LoadOutput | LoadMark):
                self._drop((operation.flow_run_id, operation.node_id))
        # If the epoch before is not known, a run may have been deleted between these writes and the turn's end.
        if is_known(before):
            self._keep(written)

    def _begin(self, epoch: Epoch) -> None:
        # In this order, since get() takes no lock: while the epoch is the old one, no entry is of the new one.
        self._entries.clear()
        self._runs.clear()
        self.bytes = 0
        self._epoch = epoch if is_known(epoch) else None

    def _go_on_to(self, before: Epoch, after: Epoch) -> bool:
        """Make the entries good for the epoch after a turn of this object. Returns False if they are of a later one.

        Never back to an earlier epoch: a get that has seen the later one would take an entry of the earlier for good.
        """
        if not is_known(after):
            self._begin(None)
        elif is_known(self._epoch) and self._epoch in (before, after):
            self._epoch = after
        elif after == self._epochs.latest:
            self._begin(after)
        else:
            return False
        return self._epoch is not None

    def _keep(self, some: Iterable[tuple[OutputKey, Encoded]]) -> None:
        entries, most = self._entries, self._max_bytes
        if not most:
            return
        for key, value in some:
            if key in entries:  # another call has read it, too
                self._drop(key)
            flow_run_id, node_id = _own(key)
            size = _size(node_id, value)
            run = self._runs.get(flow_run_id) or _Run(flow_run_id, set(), _size_of_run(flow_run_id))
            if size + run.bytes > most:
                continue
            if not run.node_ids:
                self._runs[flow_run_id] = run
                self.bytes += run.bytes
            run.node_ids.add(node_id)
            entries[run.name, node_id] = value
            self.bytes += size
            while self.bytes > most:
                # Not by an iterator: a get that moves an entry at the same moment would break it.
                self._reckon_without(*entries.popitem(last=False))

    def _drop(self, key: OutputKey) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._reckon_without(_own(key), old)

    def _reckon_without(self, key: OutputKey, old: Encoded) -> None:
        flow_run_id, node_id = key
        self.bytes -= _size(node_id, old)
        run = self._runs[flow_run_id]
        run.node_ids.discard(node_id)
        if not run.node_ids:
            del self._runs[flow_run_id]
            self.bytes -= run.bytes

    def _forget_run(self, flow_run_id: str) -> None:
        run = self._runs.get(flow_run_id)
        if run is not None:
            for node_id in list(run.node_ids):
                self._drop((flow_run_id, node_id))

    def _forget_outputs(self, deletion: DeleteOutputs) -> None:
        run = self._runs.get(deletion.flow_run_id)
        if run is not None:
            wanted = run.node_ids if deletion.node_ids is None else deletion.node_ids
            for node_id in run.node_ids & wanted:
                if deletion.takes(run.name, node_id):
                    self._drop((run.name, node_id))

    # -- anywhere -----------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        with self._lock:
            self._begin(None)

    def close(self) -> None:
        """Answer nothing from now on, and take nothing in."""
        with self._lock:
            self._epochs = _NO_EPOCHS
            self._begin(None)

    def close_in_child(self) -> None:
        """The same in a forked child, where another thread of the parent's may hold the lock for ever."""
        if self._epoch is not None:  # else it is of a store that nobody has used, and the child may
            self._lock = threading.RLock()
            self._epochs = _NO_EPOCHS
            self._begin(None)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def misses(self) -> int:
        return counted(self._misses)

    @property
    def hits(self) -> int:
        return self.quick_hits + counted(self._other_hits)


_caches: weakref.WeakSet[OutputCache] = weakref.WeakSet()


def _close_in_child() -> None:
    for cache in list(_caches):
        cache.close_in_child()


at_fork(in_child=_close_in_child)


def _own(key: OutputKey) -> OutputKey:
    """A copy of the key, if it is not ASCII. SQLite leaves the UTF-8 text in such a string, which doubles its size."""
    flow_run_id, node_id = key
    if flow_run_id.isascii() and node_id.isascii():
        return key
    return flow_run_id.encode().decode(), node_id.encode().decode()


def _runs_deleted_by_all(operations: Iterable[Operation]) -> set[str]:
    # Most are puts, which delete nothing.
    return {run for operation in operations if type(operation) is not PutOutput for run in runs_deleted_by(operation)}


def _size(node_id: str, value: Encoded) -> int:
    size = ENTRY_BYTES + getsizeof(node_id) + len(value.data)
    return size if value.tag is None else size + getsizeof(value.tag)


def _size_of_run(flow_run_id: str) -> int:
    return RUN_BYTES + getsizeof(flow_run_id)
