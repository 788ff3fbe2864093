"""What is made of errors, without a server: which are tried again, what they are called, and what they keep."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from contextstore import (
    CorruptStoreError,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    StorageError,
    StoreBusyError,
    StoreFullError,
    errors,
)
from contextstore._engine.operations import DeleteRun, ForgetRuns, RemoveOutputs, UpsertGlobal
from contextstore._postgres.errors import ConnectionLostError, TryAgainError, classify, shown_cause
from contextstore._postgres.retry import Retry, halved
from contextstore._postgres.statements import OTHER_FORMAT, Statements, statements_for
from contextstore._postgres.tables import SCHEMA_VERSION
from contextstore._postgres.units import Attempt
from contextstore._postgres.url import parse_url
from contextstore._postgres.write import Write
from contextstore._values.codec import JSON, Encoded
from contextstore._waiting.deadline import Deadline

ADDRESS = parse_url("postgresql://me:s3cr3t@host/db")


class DriverError(Exception):
    def __init__(self, message: str, sqlstate: Any = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class TestClasses:
    @pytest.mark.parametrize("code", ["40001", "40P01", "57014"])
    def test_what_the_server_has_undone_is_tried_again(self, code: str) -> None:
        meaning = classify(DriverError("x", code), "could not use", ADDRESS)
        assert isinstance(meaning, TryAgainError)
        assert (str(meaning), meaning.code, meaning.is_refusal) == (f"x ({code})", code, True)

    @pytest.mark.parametrize(
        ("code", "is_refusal"),
        [("08006", False), ("40003", False), ("57P01", False), ("57P03", True), ("25006", True), ("53300", True)],
    )
    def test_after_others_the_connection_is_lost_and_a_refusal_leaves_no_doubt(
        self, code: str, is_refusal: bool
    ) -> None:
        meaning = classify(DriverError("x", code), "could not use", ADDRESS)
        assert isinstance(meaning, ConnectionLostError)
        assert (meaning.code, meaning.is_refusal) == (code, is_refusal)

    @pytest.mark.parametrize("error", [OSError("gone"), TimeoutError(), ValueError("state 12"), DriverError("x", 7)])
    def test_what_is_not_the_servers_leaves_no_connection_that_is_known_to_be_sound(self, error: Exception) -> None:
        meaning = classify(error, "could not use", ADDRESS)
        assert isinstance(meaning, ConnectionLostError)
        assert (meaning.code, meaning.is_refusal) == (None, False)

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("53100", StoreFullError),
            ("55P03", StoreBusyError),
            ("42501", ReadOnlyStoreError),
            ("XX001", CorruptStoreError),
            ("42P01", IncompatibleStoreError),
            ("42703", StorageError),
        ],
    )
    def test_the_rest_is_permanent_and_keeps_its_code(self, code: str, kind: type[StorageError]) -> None:
        meaning = classify(DriverError("x", code), "could not use", ADDRESS)
        assert type(meaning) is kind
        assert meaning.code == code
        assert str(meaning).startswith(f"could not use postgresql://me@host/db: x ({code})")

    def test_the_refusal_of_another_format_is_not_called_a_division(self) -> None:
        meaning = classify(DriverError("division by zero", OTHER_FORMAT), "could not use", ADDRESS)
        assert type(meaning) is IncompatibleStoreError
        assert meaning.code == OTHER_FORMAT
        assert "it is of another version" in str(meaning)
        assert "division" not in str(meaning)

    def test_neither_a_text_nor_a_cause_shows_the_password(self) -> None:
        error = DriverError("no user with s3cr3t", "28P01")
        assert "s3cr3t" not in str(classify(error, "could not use", ADDRESS))
        assert shown_cause(error, ADDRESS) is None
        quiet = DriverError("x")
        assert shown_cause(quiet, ADDRESS) is quiet
        quiet.__context__ = error
        assert shown_cause(quiet, ADDRESS) is None


class TestCodes:
    @pytest.mark.parametrize("kind", [one for one in vars(errors).values() if type(one) is type])
    def test_every_error_of_an_engine_keeps_its_code_wherever_it_is_carried(self, kind: Any) -> None:
        if not issubclass(kind, StorageError):
            return
        for code in ("53300", 2067, None):
            error = kind("message", True, code=code)
            for back in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
                assert type(back) is kind
                assert (back.code, back.outcome_unknown, back.message) == (code, True, "message")
                assert back.args == error.args
                assert getattr(back, "filename", None) is None


class TestRetries:
    async def test_it_goes_on_until_there_is_no_time_for_an_attempt(self) -> None:
        retry = Retry("here", Deadline(0.2))
        lost = ConnectionLostError("gone")
        attempts = 0
        while await retry.may_go_on(lost):
            attempts += 1
        assert 1 < attempts < 20
        failure = retry.failure(in_doubt=False)
        assert isinstance(failure, StoreBusyError)
        assert failure.__cause__ is lost
        assert not failure.outcome_unknown

    @pytest.mark.parametrize("is_refusal", [True, False])
    async def test_a_standby_that_refuses_is_read_only_and_what_is_in_doubt_is_unknown(self, is_refusal: bool) -> None:
        retry = Retry("here", Deadline(0))
        assert not await retry.may_go_on(ConnectionLostError("read only", is_refusal, "25006"))
        failure = retry.failure(in_doubt=False)
        assert type(failure) is (ReadOnlyStoreError if is_refusal else StoreBusyError)
        unknown = retry.failure(in_doubt=True)
        assert (type(unknown), unknown.outcome_unknown, unknown.code) == (StorageError, True, "25006")


class TestHalves:
    @pytest.mark.parametrize("bad", [set(), {0}, {6}, {2, 3}, set(range(7))])
    async def test_only_what_is_damaged_is_told_so(self, bad: set[int]) -> None:
        calls: list[Sequence[int]] = []

        async def call(items: Sequence[int]) -> list[str]:
            calls.append(items)
            if bad & set(items):
                raise CorruptStoreError("somewhere")
            return [str(item) for item in items]

        parts = await halved(range(7), call, lambda item, error: [f"{item} {error}"])
        expected = [f"{item} somewhere" if item in bad else str(item) for item in range(7)]
        assert [one for part in parts for one in part] == expected
        assert len(parts) == 1 or bad
        assert len(calls) < 2 * 7


class TestAttempts:
    WRITE = Write(uuid.uuid4(), Deadline(1), 0)
    UNIT = (UpsertGlobal("key", Encoded(JSON, b"1"), None),)
    LOST = ConnectionLostError("gone")

    def test_what_was_not_applied_or_was_refused_leaves_no_doubt(self) -> None:
        attempt = Attempt(self.UNIT, self.WRITE)
        assert attempt.after(self.LOST).in_doubt is None
        attempt.is_applied = True
        for error in (ConnectionLostError("starting", True), TryAgainError("undone", "40001")):
            assert attempt.after(error).in_doubt is None

    def test_the_first_that_is_in_doubt_is_the_one_to_go_by(self) -> None:
        first = Attempt(self.UNIT, self.WRITE, is_applied=True)
        second = first.after(self.LOST)
        assert second.in_doubt is first
        assert (second.results, second.seen, second.refused, second.is_applied) == ([None], {}, {}, False)
        second.is_applied = True
        assert second.after(self.LOST).in_doubt is first
        assert second.after(TryAgainError("undone", "40001")).in_doubt is first
        assert second.write is first.write

    def test_what_leaves_no_mark_of_its_own_can_be_told_only_while_nothing_is_in_doubt(self) -> None:
        for operations, may_be_settled in (
            ((RemoveOutputs(("run",), 1),), False),
            ((ForgetRuns(0, 1, 1),), False),
            ((RemoveOutputs(("run",), 1), DeleteRun("run")), True),
        ):
            attempt = Attempt(operations, self.WRITE, is_applied=True)
            assert attempt.may_be_settled
            assert attempt.after(self.LOST).may_be_settled is may_be_settled


class TestStatements:
    def test_every_text_has_the_schema_quoted_and_the_record_cannot_be_changed(self) -> None:
        statements = statements_for("user")
        for name, text in dataclasses.asdict(statements).items():
            assert not re.search(r"\{\w", text), name
            assert '"user"' in text or name in ("has_schema", "settings", "has_standby", "lock_appends"), name
        with pytest.raises(dataclasses.FrozenInstanceError):
            statements.exists = ""  # type: ignore[misc]
        assert type(statements) is Statements

    # What makes a store, looks for one, or is said behind a statement of the same transaction.
    WITHOUT_A_LOOK = frozenset(["has_schema", "create_schema", "create_tables", "format", "epoch", "change_epoch"]) | {
        "clusters",
        "lock_format",
    }
    NAMES = frozenset(["flow_runs", "run_attributes"])  # put into other texts
    OF_THE_SERVER = frozenset(["settings", "has_standby", "size", "lock_appends"])

    def test_every_text_that_reads_or_writes_a_store_looks_at_its_format_once(self) -> None:
        look = f"(version = {SCHEMA_VERSION})::int"
        without = {name for name, text in dataclasses.asdict(statements_for("s")).items() if text.count(look) != 1}
        assert without == self.WITHOUT_A_LOOK | self.OF_THE_SERVER | self.NAMES
