"""``export_records`` and ``import_records``: what is in a store, for a form of one's own, and back.

Rules of this module: what is asked for is checked here; the work is the core's. Both are plain functions over a
``ContextStore``: what reads and writes records is a program that blocks on files and pipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .._core.archive import Archive, Selection
from .._core.arguments import several
from .._core.exchange import ExportedRecord, Tell, export, load
from .._core.session import Session
from .._results import ImportReport, Problem
from .._values.arguments import check_plain_function
from .._values.keys import Id, flow_run_key, prefix_key
from .._waiting.threads import run_now
from .blocking import iterate
from .sync_store import ContextStore, core_of


def export_records(
    store: ContextStore,
    *,
    runs: Iterable[Id] | None = None,
    prefix: str = "",
    globals: bool | None = None,
    on_damaged: Callable[[Problem], Any] | None = None,
) -> Iterator[ExportedRecord]:
    """Iterate over everything that is in a store, as it is stored: with times, versions, order and deleted runs.

    What ``import_records`` takes to make an equal store, on this engine or the other. Memory is bounded, and nothing is
    held between two records. What is written meanwhile may or may not come along: a ``backup`` is of one moment.

    Args:
        store: it is opened if need be, and not closed.
        runs: only runs with these ids; one that is not there gives nothing. None: all.
        prefix: only runs with ids that begin with it, literally.
        globals: whether to give the globals, too. None: unless runs are selected.
        on_damaged: called with what is damaged, which is then left out. None: it is raised.

    Yields:
        ``ExportedRun``, then the ``ExportedOutput`` of that run by node id, its ``ExportedAppendCounter`` by prefix,
        its ``ExportedAppendKey`` by prefix and key, its ``ExportedFailure`` by node id and number, and its
        ``ExportedState`` by key; in the end ``ExportedGlobal``, by key, those included that have expired, and one
        ``ExportedFreedVersion``, if any global was ever freed.

    Raises:
        CorruptStoreError: something is damaged; it says what.
        StorageError: the engine could not read it.
    """
    session = _session_of(store)
    names = None if runs is None else frozenset(flow_run_key(run, "runs") for run in several(runs, "runs"))
    literal = prefix_key(prefix)
    with_globals = names is None and not literal if globals is None else bool(globals)
    tell = _telling(session, "on_damaged", on_damaged)
    archive = Archive(session, skipped=None if tell is None else [])
    return iterate(export(archive, Selection(names, literal, with_globals), tell))


def import_records(
    store: ContextStore, records: Iterable[ExportedRecord], *, on_conflict: Callable[[Problem], Any] | None = None
) -> ImportReport:
    """Load records that ``export_records`` has given, with their times, versions and order, into a store.

    They are committed in portions of bounded size as they come, so memory is bounded; if it is interrupted, the same
    call goes on. What is there already and equal stays as it is: to import twice changes nothing. Nothing that is there
    is ever replaced or deleted. A run without outputs is not loaded, unless it is a deleted one.

    Args:
        store: it is opened if need be, and not closed.
        records: in the order in which ``export_records`` gives them.
        on_conflict: called with each record that is left out, since something else is there in its place. None: the
            first one is raised, and what came before it is loaded.

    Raises:
        AlreadyExistsError, VersionConflictError: there is another output, state value or global in the same place.
        RunDeletedError, RunAlreadyExistsError: a run is deleted here alone, or there alone.
        InvalidKeyError, SerializationError, TypeError, ValueError: a record is none that a store could have given.
        StorageError: the engine could not write it.
    """
    session = _session_of(store)
    if not isinstance(records, Iterable):
        raise TypeError(f"records must be what export_records gives, not {type(records).__name__}")
    return run_now(load(Archive(session), records, _telling(session, "on_conflict", on_conflict)))


def _session_of(store: object) -> Session:
    if not isinstance(store, ContextStore):
        raise TypeError(f"records are exchanged with a ContextStore, not {type(store).__name__}: open one, in a thread")
    return core_of(store).session


def _telling(session: Session, name: str, told: Callable[[Problem], Any] | None) -> Tell | None:
    if told is None:
        return None
    check_plain_function(name, told)
    return partial(session.result_of, told)
