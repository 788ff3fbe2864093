"""``copy``: everything that is in one store, or some of its runs, to another.

Rules of this module: what is asked for is checked here, and where each store's calls are made is decided; the copying
itself is the core's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Literal, TypeVar, overload

from .._core.archive import EVERYTHING, Archive, Selection, copy_archive, here
from .._core.arguments import several
from .._core.session import Session
from .._results import CopyReport, Problem
from .._values.arguments import check_function
from .._values.keys import Id, flow_run_key
from .._waiting.loops import in_thread
from .._waiting.threads import run_now
from .async_store import AsyncContextStore
from .async_store import core_of as core_of_async
from .sync_store import ContextStore
from .sync_store import core_of as core_of_sync

T = TypeVar("T")
Store = AsyncContextStore | ContextStore
Progress = Callable[[int, int], Any]
Damaged = Literal["raise", "skip"]


@overload
def copy(
    source: ContextStore,
    target: ContextStore,
    *,
    runs: Iterable[Id] | None = None,
    damaged: Damaged = "raise",
    progress: Progress | None = None,
) -> CopyReport: ...
@overload
def copy(
    source: AsyncContextStore,
    target: Store,
    *,
    runs: Iterable[Id] | None = None,
    damaged: Damaged = "raise",
    progress: Progress | None = None,
) -> Awaitable[CopyReport]: ...
@overload
def copy(
    source: Store,
    target: AsyncContextStore,
    *,
    runs: Iterable[Id] | None = None,
    damaged: Damaged = "raise",
    progress: Progress | None = None,
) -> Awaitable[CopyReport]: ...
def copy(
    source: Store,
    target: Store,
    *,
    runs: Iterable[Id] | None = None,
    damaged: Damaged = "raise",
    progress: Progress | None = None,
) -> CopyReport | Awaitable[CopyReport]:
    """Copy everything that is in one store to another, or some of its runs, then prove the two equal.

    Runs, deleted ones too, come over in their order, outputs and globals with their times and versions. Between any two
    stores: a file, memory, PostgreSQL. It is done in commits of bounded size; if it is interrupted, the same call goes
    on. What is written to the source during the copying may or may not come along. The target must not be written then,
    and should be empty or hold an earlier copy: with anything else in it the two are not equal in the end.

    Args:
        source, target: open or not; neither is closed. To be awaited if either is an ``AsyncContextStore``.
        runs: only these runs, by their ids, and no globals; the two are proved equal in these alone, whatever else the
            target holds. One that is not there gives nothing. None: everything.
        damaged: what to do with what is damaged in the source. ``"raise"``, or ``"skip"``: leave it out, and list it in
            ``CopyReport.skipped``. A run with nothing but damaged outputs is not copied; one that was deleted stays so.
            The proof is then of what was copied.
        progress: called with how many runs and globals are done, and how many there are.

    Raises:
        AlreadyExistsError, RunDeletedError, VersionConflictError: the target has something else in the same place.
        CorruptStoreError: something in the source is damaged; it says what.
        StorageError: an engine could not, or the two are not equal in the end.
    """
    for store in (source, target):
        if not isinstance(store, AsyncContextStore | ContextStore):
            raise TypeError(
                f"copy takes two stores, not {type(store).__name__}: open a path or a URL by ContextStore(...)"
            )
    if _session_of(source).backend is _session_of(target).backend:
        raise ValueError("source and target are the same store")
    if damaged not in ("raise", "skip"):
        raise ValueError(f"damaged must be 'raise' or 'skip', not {damaged!r}")
    if progress is not None:
        check_function("progress", progress)
    selection = EVERYTHING
    if runs is not None:
        selection = Selection(frozenset(flow_run_key(run, "runs") for run in several(runs, "runs")), globals=False)
    skipped: list[Problem] | None = [] if damaged == "skip" else None
    is_awaited = isinstance(source, AsyncContextStore) or isinstance(target, AsyncContextStore)
    asked = target if is_awaited and isinstance(source, ContextStore) else source
    told = None if progress is None else partial(_session_of(asked).result_of, progress)
    copying = copy_archive(_archive(source, is_awaited, skipped), _archive(target, is_awaited), told, selection)
    return copying if is_awaited else run_now(copying)


def _archive(store: Store, is_awaited: bool, skipped: list[Problem] | None = None) -> Archive:
    place = _in_thread if is_awaited and isinstance(store, ContextStore) else here
    return Archive(_session_of(store), place, skipped)


async def _in_thread(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """A blocking store beside an awaited one would block the loop."""
    return await in_thread(lambda: run_now(call()))


def _session_of(store: Store) -> Session:
    core = core_of_sync(store) if isinstance(store, ContextStore) else core_of_async(store)
    return core.session
