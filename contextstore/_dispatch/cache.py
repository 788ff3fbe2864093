"""What was read or written stays in memory, encoded, up to so many bytes.

Rules of this module: no SQL, no values. Outputs never change, so a cached one is right until its run is deleted, by
whomever: all that is here is good for one epoch of the store (_epoch), and goes with it. The cache is filled only after
an acknowledgement, and never answers a write.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from sys import getsizeof
from typing import NamedTuple

from .._engine.epochs import Epoch, Epochs, is_known
from .._engine.operations import LoadOutput, Operation, PutOutput, runs_deleted_by
from .._engine.records import OutputKey
from .._values.codec import Encoded

ENTRY_BYTES = 310
"""What an entry takes up beside its value and its node's id, as the process measures it: tuples, headers, slots."""

RUN_BYTES = 360
"""The same for a run that has entries, beside its id."""


class _Run(NamedTuple):
    name: str
    """The one string that all entries of the run share: each call brings another."""
    node_ids: set[str]


class OutputCache:
    """The outputs used last, up to so many bytes. Touched by calling threads and the engine's."""

    def __init__(self, max_bytes: int, epochs: Epochs) -> None:
        self._max_bytes = max_bytes
        self._epochs = epochs
        self._epoch: Epoch = None
        """The one that the entries are good for."""
        self._entries: OrderedDict[OutputKey, Encoded] = OrderedDict()
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()
        self.bytes = 0
        # Counted without the lock: under many threads some may be missed.
        self.hits = 0
        self.misses = 0

    def get(self, key: OutputKey) -> Encoded | None:
        # Without the lock, which would double the cost: each of the steps is atomic. The epoch of the entries is looked
        # at first and the store's last, so that what was found between them belongs to the former and is good at the
        # moment of the latter.
        epoch = self._epoch
        try:
            value = self._entries[key]
            if self._epochs.now[0] != epoch:
                raise KeyError
            self._entries.move_to_end(key)  # it may be gone by now
        except KeyError:
            self.misses += 1
            return None
        self.hits += 1
        return value

    def fill(self, found: Iterable[tuple[OutputKey, Encoded]], epoch: Epoch) -> None:
        """Take in what was read in, or after, this epoch."""
        if not is_known(epoch):
            return
        with self._lock:
            if epoch != self._epoch:
                if epoch != self._epochs.latest:
                    return
                self._begin(epoch)
            self._keep(found)

    def committed(self, operations: Iterable[Operation]) -> None:
        """Where the engine writes: this object has committed these in its last turn."""
        before, after = self._epochs.turn
        written: list[tuple[OutputKey, Encoded]] = []
        with self._lock:
            # First, while the entries are good for no epoch but the one before, which is over. Of one turn, what was
            # put into a run that was deleted was put before, in whatever order they were asked for.
            deleted = {
                run
                for operation in operations
                if type(operation) is not PutOutput
                for run in runs_deleted_by(operation)
            }
            for flow_run_id in deleted:
                self._forget_run(flow_run_id)
            if not self._go_on_to(before, after):
                return
            for operation in operations:
                if type(operation) is PutOutput:
                    flow_run_id, node_id, value, exist_ok = operation
                    key = (flow_run_id, node_id)
                    if not exist_ok and flow_run_id not in deleted:
                        written.append((key, value))
                    elif self._entries.get(key) != value:  # equal in another form than what is stored
                        self._drop(key)
                elif type(operation) is LoadOutput:
                    self._drop((operation.flow_run_id, operation.node_id))
            if is_known(before):  # else somebody has deleted something between these writes and the end of the turn
                self._keep(written)

    # -- under the lock -----------------------------------------------------------------------------------------------

    def _begin(self, epoch: Epoch) -> None:
        # In this order, for get(): while the epoch is the old one, no entry is of the new one.
        self._entries.clear()
        self._runs.clear()
        self.bytes = 0
        self._epoch = epoch if is_known(epoch) else None

    def _go_on_to(self, before: Epoch, after: Epoch) -> bool:
        """Have the entries be good for the epoch after a turn of this object's. False: they are of a later one.

        Never back to an earlier epoch: a get that has seen the later one would take what it finds then for good.
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
        for key, value in some:
            if key in entries:  # read by somebody else just now
                self._drop(key)
            flow_run_id, node_id = _own(key)
            size = _size(node_id, value)
            if size + _size_of_run(flow_run_id) > most:
                continue
            run = self._runs.get(flow_run_id)
            if run is None:
                run = self._runs[flow_run_id] = _Run(flow_run_id, set())
                self.bytes += _size_of_run(flow_run_id)
            run.node_ids.add(node_id)
            entries[run.name, node_id] = value
            self.bytes += size
            while self.bytes > most:
                # Not by way of an iterator, which a get that moves an entry at the same moment would break.
                self._reckon_without(*entries.popitem(last=False))

    def _drop(self, key: OutputKey) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._reckon_without(_own(key), old)

    def _reckon_without(self, key: OutputKey, old: Encoded) -> None:
        flow_run_id, node_id = key
        self.bytes -= _size(node_id, old)
        node_ids = self._runs[flow_run_id].node_ids
        node_ids.discard(node_id)
        if not node_ids:
            del self._runs[flow_run_id]
            self.bytes -= _size_of_run(flow_run_id)

    def _forget_run(self, flow_run_id: str) -> None:
        run = self._runs.get(flow_run_id)
        if run is not None:
            for node_id in list(run.node_ids):
                self._drop((flow_run_id, node_id))

    # -- anywhere -----------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        with self._lock:
            self._begin(None)

    def __len__(self) -> int:
        return len(self._entries)


def _own(key: OutputKey) -> OutputKey:
    """The key without the UTF-8 that hangs on strings which were passed to SQLite: as large again, and counted."""
    flow_run_id, node_id = key
    if flow_run_id.isascii() and node_id.isascii():
        return key
    return flow_run_id.encode().decode(), node_id.encode().decode()


def _size(node_id: str, value: Encoded) -> int:
    return ENTRY_BYTES + getsizeof(node_id) + len(value.data)


def _size_of_run(flow_run_id: str) -> int:
    return RUN_BYTES + getsizeof(flow_run_id)
