"""An error that several callers share is each caller's own, and a bug is logged whatever the handlers do."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    ContextStoreError,
    CorruptStoreError,
    RunDeletedError,
    StorageError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreNotFoundError,
    VersionConflictError,
)
from contextstore._engine.failures import error_for_caller, report_bug

ERRORS: list[ContextStoreError] = [
    AlreadyExistsError("run", "node", True),
    CorruptStoreError("damaged", flow_run_id="run", node_id="node"),
    CorruptStoreError("damaged", key="key"),
    RunDeletedError("run"),
    StorageError("failed", True),
    StoreBusyError("busy"),
    StoreClosedError("here"),
    StoreFullError("full"),
    StoreNotFoundError("not there"),
    VersionConflictError("key", 1, 2),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_each_caller_gets_an_error_of_its_own_with_the_same_facts(error: ContextStoreError) -> None:
    error.__cause__ = OSError("the reason")
    one, other = error_for_caller(error, "here"), error_for_caller(error, "here")
    assert len({id(each) for each in (error, one, other)}) == 3
    for own in (one, other):
        assert type(own) is type(error)
        assert (str(own), vars(own), own.args) == (str(error), vars(error), error.args)
        assert own.__cause__ is error.__cause__


def test_the_traceback_of_one_is_not_that_of_the_others() -> None:
    error = StorageError("failed")
    one, other = error_for_caller(error, "here"), error_for_caller(error, "here")
    with pytest.raises(StorageError):
        raise one
    assert (error.__traceback__, other.__traceback__) == (None, None)


def test_a_note_to_one_is_not_a_note_to_the_others() -> None:
    error = StorageError("failed")
    error.add_note("to all")
    one, other = error_for_caller(error, "here"), error_for_caller(error, "here")
    one.add_note("to one")
    assert (one.__notes__, other.__notes__, error.__notes__) == (["to all", "to one"], ["to all"], ["to all"])


def test_an_error_that_no_one_foresaw_is_reported_and_told_as_one_of_the_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bug = ZeroDivisionError("a bug")
    told = error_for_caller(bug, "here")
    assert type(told) is StorageError
    assert (str(told), told.__cause__) == ("here failed in an unforeseen way (ZeroDivisionError('a bug'))", bug)
    ((record),) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == (
        "contextstore",
        logging.ERROR,
        "here failed in an unforeseen way",
    )
    assert record.exc_info is not None
    assert record.exc_info[1] is bug


def test_a_logging_handler_that_raises_keeps_no_one_from_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(logging.getLogger("contextstore"), "error", broken)
    report_bug("%s failed", "here", error=ValueError())
    assert type(error_for_caller(ValueError(), "here")) is StorageError
