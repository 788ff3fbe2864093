"""Maintenance: how much there is, whether it is whole, and a copy of it as a file.

Rules of this module: the engine does the work, beside its reads and writes; here is how a call waits for it, and how
it learns of the progress.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from typing import Any

from .._results import CheckReport, Counters, StoreStats
from .._values.arguments import check_function
from .._waiting.progress import ProgressChannel
from ..errors import StorageError
from .session import Session


class MaintenanceService:
    """What ``stats``, ``check`` and ``backup`` do: the async face has their documentation."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def stats(self) -> StoreStats:
        session = self._session
        await session.ready()
        counts = await session.scan(session.engine.count)
        engine = await session.on_host(session.engine.stats)
        writer, cache = session.writer, session.cache
        return StoreStats(
            location=session.location,
            runs=counts.runs,
            outputs=counts.outputs,
            globals=counts.globals,
            tombstones=counts.tombstones,
            value_bytes=counts.value_bytes,
            file_bytes=engine.file_bytes,
            wal_bytes=engine.wal_bytes,
            commits=writer.commits + writer.inline_commits,
            writes=writer.writes + writer.inline_commits,
            largest_group=writer.largest_group or min(writer.inline_commits, 1),
            queued_writes=writer.queued,
            cache_hits=cache.hits,
            cache_misses=cache.misses,
            cache_entries=len(cache),
            cache_bytes=cache.bytes,
            checkpoint_pinned=engine.checkpoint_pinned,
            engine=engine.name,
        )

    def counters(self) -> Counters:
        writer, cache, reports = self._session.writer, self._session.cache, self._session.engine.reports
        calls = reports.calls.figures
        if quick := cache.quick_hits:  # gets that a face has answered from memory by itself
            calls["get"] = calls.get("get", 0) + quick
        at = writer.committed_at
        return Counters(
            calls=calls,
            errors=reports.errors.figures,
            waits=reports.waits.figures,
            busy_timeouts=reports.busy_timeouts.figures,
            troubles=reports.troubles.figures,
            commits=writer.commits + writer.inline_commits,
            writes=writer.writes + writer.inline_commits,
            cache_hits=cache.hits,
            cache_misses=cache.misses,
            cache_entries=len(cache),
            cache_bytes=cache.bytes,
            last_commit_at=None if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC),
        )

    async def ping(self) -> float:
        session = self._session
        await session.ready()
        began = time.perf_counter()
        await session.read(session.engine.ping)
        return time.perf_counter() - began

    async def check(self, progress: Callable[[int, int], Any] | None) -> CheckReport:
        session = self._session
        await session.ready()
        if progress is None:
            return await session.on_host(lambda: session.engine.check(None))
        check_function("progress", progress)
        events = _Progress(ProgressChannel(session.callers), f"the check of {session.location}")
        done = session.host.call(lambda: session.engine.check(events.report))
        done.add_done_callback(lambda _: events.channel.end())
        try:
            await self._tell(events, progress)
        except BaseException:
            events.given_up = True  # and it leaves nothing that would be waited for
            raise
        return session.unwrap(done.result())

    async def backup(
        self,
        path: str | os.PathLike[str],
        check: bool,
        overwrite: bool,
        progress: Callable[[int, int], Any] | None,
    ) -> None:
        session = self._session
        await session.ready()
        if not isinstance(path, str | bytes | os.PathLike):
            raise TypeError(f"path must be a str or a Path, not {type(path).__name__}")
        if progress is not None:
            check_function("progress", progress)
        target = os.path.abspath(os.fsdecode(path))
        if "\0" in target:
            raise ValueError(f"path {target!r} has a NUL character")
        if isinstance(path, str) and "://" in path:  # without it: there may be a password in it
            raise ValueError("path must be the path of a file; a store elsewhere is filled by copy()")
        events = _Progress(ProgressChannel(session.callers), f"the backup to {target}")
        done = session.host.call(lambda: session.engine.backup(target, events.report, check, overwrite))
        done.add_done_callback(lambda _: events.channel.end())

        async def end() -> None:
            await session.callers.join(done)

        try:
            await self._tell(events, progress)
        except BaseException:
            events.given_up = True
            # So that nothing of it is left when this call is over, also in a scope that cancels at each step.
            await session.callers.to_the_end(end)
            raise
        session.unwrap(done.result())

    async def _tell(self, events: _Progress, progress: Callable[[int, int], Any] | None) -> None:
        """Where the call was made, until there is no more to be told."""
        while (event := await events.channel.next()) is not None:
            if progress is not None:
                await self._session.result_of(progress, *event)


class _Progress:
    """What the thread that does the work reports, and how it learns that the caller has given up."""

    def __init__(self, channel: ProgressChannel, work: str) -> None:
        self.channel = channel
        self.given_up = False
        self._work = work
        self._told = (-1, 0)

    def report(self, done: int, total: int) -> None:
        """Between two steps, in the thread that does them."""
        if self.given_up:
            raise StorageError(f"{self._work} was given up")
        if (done, total) != self._told:
            self._told = done, total
            self.channel.report(done, total)
