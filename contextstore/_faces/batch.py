"""Batches: several writes, gathered by plain calls, for one commit.

Rules of this module: each call checks and encodes at once, and nothing is written before the block ends.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from .._core.core import Core
from .._core.deletion import deletion_of
from .._core.leases import Lease, expectation_of, lease_of
from .._core.outputs import append_operation
from .._core.run_state import upsert_of
from .._engine.operations import DeleteGlobal, ExpectGlobal, Operation, PutGlobal, UpsertGlobal
from .._values.arguments import ExistOk, check_count
from .._values.expiry import microseconds_of
from .._values.keys import Id, flow_run_key, global_key, node_key
from .._waiting.threads import run_now


class BatchBuilder:
    """What is gathered for one commit."""

    def __init__(self, core: Core, lease: Lease | None = None) -> None:
        self._session = core.session
        self._lease = lease_of(core.session, lease)
        self._commit = core.commit_batch
        # In the order of the calls, since the first refusal is the one that is raised. A global stands under its key,
        # and a state value under its run and key, so that its last write takes the place of the ones before; an output
        # under its number, since each counts.
        self._operations: dict[int | str | tuple[str, str], Operation] = {}
        self._numbers = itertools.count()
        self._is_open = False

    def put(
        self, flow_run_id: Id, node_id: Id, value: Any, *, exist_ok: ExistOk = False, tag: str | None = None
    ) -> None:
        """Write an output when the block ends. See the store's ``put``."""
        self._check_open()
        flow_run, node = flow_run_key(flow_run_id), node_key(node_id)
        put = self._session.put_of(flow_run, node, value, exist_ok, tag)
        self._operations[next(self._numbers)] = put

    def append(
        self, flow_run_id: Id, prefix: str, value: Any, *, key: Id | None = None, tag: str | None = None
    ) -> None:
        """Append an output when the block ends, which gives it its id. See the store's ``append``."""
        self._check_open()
        append = append_operation(self._session, flow_run_id, prefix, value, key, tag)
        self._operations[next(self._numbers)] = append

    def delete_outputs(
        self, flow_run_id: Id, node_ids: Iterable[Id] | None = None, *, prefix: str | None = None
    ) -> None:
        """Delete outputs of a run when the block ends: those that are there then, all in its one commit.

        What the batch itself puts before this call is deleted, too; what it puts behind it is a put of a deleted output
        if there was one. See the store's ``delete_outputs``.
        """
        self._check_open()
        self._operations[next(self._numbers)] = deletion_of(flow_run_id, node_ids, prefix)

    def upsert_state(self, flow_run_id: Id, key: Id, value: Any, *, expected_version: int | None = None) -> None:
        """Write or overwrite a state value of a run when the block ends. See ``upsert_state`` of a run."""
        self._check_open()
        upsert = upsert_of(self._session, flow_run_id, key, value, expected_version)
        self._operations[upsert.flow_run_id, upsert.key] = upsert

    def put_global(
        self, key: Id, value: Any, *, exist_ok: bool = False, ttl: float | datetime.timedelta | None = None
    ) -> None:
        """Write a global, once, when the block ends. See the store's ``put_global``."""
        self._check_open()
        name, lasts = global_key(key), microseconds_of(ttl)
        self._operations[name] = PutGlobal(name, self._session.encode(value, name), exist_ok, lasts)

    def upsert_global(
        self,
        key: Id,
        value: Any,
        *,
        expected_version: int | None = None,
        ttl: float | datetime.timedelta | None = None,
    ) -> None:
        """Write or overwrite a global when the block ends. See the store's ``upsert_global``."""
        self._check_open()
        if expected_version is not None:
            check_count("expected_version", expected_version, 0)
        name, lasts = global_key(key), microseconds_of(ttl)
        self._operations[name] = UpsertGlobal(name, self._session.encode(value, name), expected_version, lasts)

    def delete_global(self, key: Id) -> None:
        """Delete a global when the block ends. See the store's ``delete_global``."""
        self._check_open()
        name = global_key(key)
        self._operations[name] = DeleteGlobal(name)

    def expect_global(self, key: Id, version: int) -> None:
        """Store what the batch has only if the global is at this version then, before the batch; 0: it is not there.

        Else ``VersionConflictError``, as from ``upsert_global`` with its ``expected_version``. Any number of times.
        """
        self._check_open()
        check_count("version", version, 0)
        self._operations[next(self._numbers)] = ExpectGlobal(global_key(key), version)

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("the batch is over, or was not begun: write to it within its 'with' block")

    async def _begin(self) -> None:
        if self._is_open:
            raise RuntimeError("the batch was begun already: make another one with batch()")
        await self._session.writable()
        self._is_open = True

    async def _end(self, exc_type: type[BaseException] | None) -> None:
        self._is_open = False
        operations, self._operations = list(self._operations.values()), {}
        if exc_type is None and operations:
            if self._lease is not None:
                operations.insert(0, expectation_of(self._lease))
            await self._commit(operations)


class AsyncBatch(BatchBuilder):
    """What ``AsyncContextStore.batch()`` gives: an async context manager."""

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end(exc_type)


class Batch(BatchBuilder):
    """What ``ContextStore.batch()`` gives: a context manager."""

    def __enter__(self) -> Self:
        run_now(self._begin())
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run_now(self._end(exc_type))
