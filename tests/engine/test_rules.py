"""What is written, or why it is refused, as tables: each row of what is stored against each operation, without I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    CorruptStoreError,
    GlobalAlreadyExistsError,
    RunAlreadyExistsError,
    RunDeletedError,
    VersionConflictError,
)
from contextstore._engine import rules
from contextstore._engine.attempts import attempt_text
from contextstore._engine.operations import (
    DeleteGlobal,
    ExpectGlobal,
    LoadGlobal,
    LoadOutput,
    LoadRun,
    PutGlobal,
    PutOutput,
    UpsertGlobal,
)
from contextstore._engine.records import GlobalRecord, GlobalRow, Made, OutputRecord, RunRecord
from contextstore._engine.rules import (
    GlobalChange,
    GlobalOperation,
    StoredGlobal,
    damaged_output,
    marks_deleted,
    read_global,
    read_global_row,
    read_output,
    refusal_of_put,
    run_record,
)
from contextstore._values.codec import BYTES, JSON, Encoded, checksum

HERE = "here.db"
NOW = 1000
ONE, TWO = Encoded(JSON, b"1"), Encoded(JSON, b"2")
LAST_TIME = 253_402_300_799_999_999  # the last microsecond of the year 9999
NOT_A_TIME = [None, -1, LAST_TIME + 1, 1.0, "1", True]


def change_global(location: str, stored: StoredGlobal | None, operation: GlobalOperation) -> GlobalChange:
    return rules.change_global(location, stored, operation, NOW)


def put(value: Encoded, exist_ok: bool = False) -> PutOutput:
    return PutOutput("run", "node", value, exist_ok)


class TestAnOutputIsPutWhereOneStands:
    @pytest.mark.parametrize(
        ("stored", "value", "exist_ok", "same_value"),
        [
            pytest.param(ONE, ONE, False, True, id="the same, and it is no retry"),
            pytest.param(ONE, TWO, False, False, id="another"),
            pytest.param(ONE, TWO, True, False, id="another, in what calls itself a retry"),
            pytest.param(Encoded(BYTES, b"1"), ONE, True, False, id="the same bytes by another codec"),
        ],
    )
    def test_it_is_refused_and_told_whether_the_value_is_the_same(
        self, stored: Encoded, value: Encoded, exist_ok: bool, same_value: bool
    ) -> None:
        refusal = refusal_of_put(put(value, exist_ok), stored)
        assert isinstance(refusal, AlreadyExistsError)
        assert (refusal.flow_run_id, refusal.node_id, refusal.same_value) == ("run", "node", same_value)

    @pytest.mark.parametrize(
        ("stored", "value"),
        [
            pytest.param(ONE, ONE, id="the same text"),
            pytest.param(Encoded(JSON, b'{"a":1,"b":2}'), Encoded(JSON, b'{"b":2,"a":1}'), id="keys in another order"),
            pytest.param(Encoded(BYTES, b"1"), Encoded(BYTES, b"1"), id="the same bytes"),
        ],
    )
    def test_a_retry_of_the_same_is_accepted(self, stored: Encoded, value: Encoded) -> None:
        assert refusal_of_put(put(value, exist_ok=True), stored) is None
        assert refusal_of_put(LoadOutput("run", "node", value, 5), stored) is None


class TestTheRowOfAnOutput:
    ROW = ("node", JSON, b"1", checksum("run", "node", ONE), 5, 1, 7, None, None)

    def row(self, **damage: Any) -> tuple[Any, ...]:
        names = ("node_id", "codec", "data", "checksum", "written_at", "size", "run", "tag", "attempt")
        return tuple((dict(zip(names, self.ROW, strict=True)) | damage).values())

    def test_that_is_intact_is_its_record(self) -> None:
        assert read_output(HERE, "run", self.row()).unwrap() == OutputRecord("node", ONE, 5, 7)

    def test_that_a_step_has_made_has_its_attempt(self) -> None:
        made = Made(3, 4, "ab")
        attempt = attempt_text(made, 3)
        row = self.row(attempt=attempt, checksum=checksum("run", "node", ONE, attempt))
        assert read_output(HERE, "run", row).unwrap() == OutputRecord("node", ONE, 5, 7, made)

    @pytest.mark.parametrize(
        "attempt", ["", "null", "[]", "[0,1,null]", "[1,1]", "[1,-1,null]", "[1,1,2]", "[true,1,null]"]
    )
    def test_that_says_of_its_attempt_what_cannot_be_is_damaged(self, attempt: str) -> None:
        row = self.row(attempt=attempt, checksum=checksum("run", "node", ONE, attempt))
        assert isinstance(read_output(HERE, "run", row).error, CorruptStoreError)

    @pytest.mark.parametrize("time", [0, LAST_TIME])
    def test_may_be_of_any_time_of_the_calendar(self, time: int) -> None:
        record = read_output(HERE, "run", self.row(written_at=time)).unwrap()
        assert record is not None
        assert record.written_at == time

    @pytest.mark.parametrize(
        "damage",
        [
            {"codec": None},
            {"codec": BYTES},
            {"codec": 2},
            {"data": None},
            {"data": b""},
            {"data": b"2"},
            {"data": "1"},
            {"data": 1},
            {"checksum": None},
            {"checksum": 0},
            {"size": None},
            {"size": 2},
            {"attempt": "[1,2,null]"},
            {"attempt": b"[1,2,null]"},
            *({"written_at": time} for time in NOT_A_TIME),
        ],
        ids=repr,
    )
    def test_with_any_of_its_columns_damaged_is_an_error_that_names_it(self, damage: dict[str, Any]) -> None:
        outcome = read_output(HERE, "run", self.row(**damage))
        assert isinstance(outcome.error, CorruptStoreError)
        assert str(outcome.error) == (
            "the output of node 'node' of flow run 'run' in here.db is damaged: its checksum does not fit; "
            "restore it from a backup"
        )
        assert (outcome.error.flow_run_id, outcome.error.node_id, outcome.error.key) == ("run", "node", None)
        assert outcome.error.__cause__ is None

    @pytest.mark.parametrize("name", ["other", b"node", None, 1])
    def test_under_another_name_is_damaged_and_its_name_is_given_only_if_it_is_text(self, name: Any) -> None:
        error = read_output(HERE, "run", self.row(node_id=name)).error
        assert isinstance(error, CorruptStoreError)
        assert error.node_id == (name if type(name) is str else None)
        assert f"node {name!r} of flow run 'run'" in str(error)

    def test_of_another_run_is_damaged(self) -> None:
        assert isinstance(read_output(HERE, "other", self.row()).error, CorruptStoreError)

    def test_that_cannot_be_read_is_an_error_that_says_why(self) -> None:
        why = OSError("a page is gone")
        error = damaged_output(HERE, "run", "node", why)
        assert error.__cause__ is why
        assert str(error) == (
            "the output of node 'node' of flow run 'run' in here.db is damaged: a page is gone; "
            "restore it from a backup"
        )


class TestARunIsTakenOver:
    @pytest.mark.parametrize(
        ("deleted_at", "is_deleted", "marks"),
        [
            pytest.param(None, False, False, id="alive there and here"),
            pytest.param(9, False, True, id="deleted there and alive here"),
            pytest.param(9, True, False, id="deleted there and here"),
            pytest.param(0, False, True, id="deleted there at the beginning of time"),
        ],
    )
    def test_it_is_marked_as_deleted_if_it_is_so_there_alone(
        self, deleted_at: int | None, is_deleted: bool, marks: bool
    ) -> None:
        assert marks_deleted(LoadRun("run", 5, deleted_at), is_deleted) is marks

    def test_one_that_is_deleted_here_alone_is_refused(self) -> None:
        with pytest.raises(RunDeletedError) as refusal:
            marks_deleted(LoadRun("run", 5, None), True)
        assert refusal.value.flow_run_id == "run"

    def test_one_that_is_deleted_there_alone_is_refused_if_nothing_is_to_be_replaced(self) -> None:
        with pytest.raises(RunAlreadyExistsError) as refusal:
            marks_deleted(LoadRun("run", 5, 9, replaces=False), False)
        assert refusal.value.flow_run_id == "run"
        assert not marks_deleted(LoadRun("run", 5, 9, replaces=False), True)
        assert not marks_deleted(LoadRun("run", 5, None, replaces=False), False)


class TestTheTimesOfARun:
    def test_are_those_of_its_outputs(self) -> None:
        assert run_record(7, "run", 2, 30, (5, 9)) == RunRecord(7, "run", 2, 30, 5, 9)

    @pytest.mark.parametrize("time", NOT_A_TIME, ids=repr)
    def test_are_both_unknown_if_either_is_damaged(self, time: Any) -> None:
        unknown = RunRecord(7, "run", 2, 30, None, None)
        assert run_record(7, "run", 2, 30, (time, 9)) == unknown
        assert run_record(7, "run", 2, 30, (5, time)) == unknown


STORED = StoredGlobal("key", JSON, b"1", checksum("", "key", ONE), 3, 5, 1)
DELETED = StoredGlobal("key", None, None, None, 3, 5, None)
ABSENT = None

DAMAGED: dict[str, StoredGlobal] = {
    "checksum": STORED._replace(checksum=0),
    "no checksum": STORED._replace(checksum=None),
    "size": STORED._replace(size=2),
    "no size": STORED._replace(size=None),
    "value": STORED._replace(data=b"2"),
    "no value": STORED._replace(data=None),
    "text for a value": STORED._replace(data="1"),
    "codec": STORED._replace(codec=2),
    "no codec": STORED._replace(codec=None),
    "another's name": STORED._replace(key="other"),
    **{f"time {time!r}": STORED._replace(written_at=time) for time in NOT_A_TIME},
}
"""Globals that are there, each with another column damaged; the version is what it was."""

VERSIONS = [None, "3", 3.0, b"3", True]
"""What is no version."""


def refusal_of(stored: StoredGlobal | None, operation: GlobalOperation) -> Any:
    with pytest.raises(Exception) as refusal:
        change_global(HERE, stored, operation)
    return refusal.value


def says_the_value_is_damaged(error: Any, key: object = "key") -> bool:
    return type(error) is CorruptStoreError and str(error) == (
        f"global {key!r} in here.db is damaged: its checksum does not fit; "
        "restore it from a backup, or overwrite it with upsert_global"
    )


def says_the_version_is_damaged(error: Any) -> bool:
    text = "the version of global 'key' in here.db is damaged; restore a backup"
    return type(error) is CorruptStoreError and str(error) == text and error.key == "key"


class TestAGlobalThatIsRead:
    def test_is_its_record(self) -> None:
        assert read_global(HERE, STORED) == GlobalRecord("key", ONE, 3, 5)
        assert read_global_row(HERE, STORED).unwrap() == GlobalRow("key", ONE, 3, 5)

    @pytest.mark.parametrize("row", DAMAGED.values(), ids=DAMAGED)
    def test_is_an_error_with_its_key_if_any_column_is_damaged(self, row: StoredGlobal) -> None:
        with pytest.raises(CorruptStoreError) as damage:
            read_global(HERE, row)
        assert says_the_value_is_damaged(damage.value, row.key)
        assert damage.value.key == row.key
        assert says_the_value_is_damaged(read_global_row(HERE, row).error, row.key)

    @pytest.mark.parametrize("version", VERSIONS, ids=repr)
    def test_is_an_error_that_does_not_advise_to_overwrite_a_damaged_version(self, version: Any) -> None:
        for row in (STORED, STORED._replace(checksum=0)):
            assert says_the_version_is_damaged(read_global_row(HERE, row._replace(version=version)).error)

    @pytest.mark.parametrize("key", [b"key", None, 1])
    def test_has_no_key_to_name_if_it_is_no_text(self, key: Any) -> None:
        for row in (STORED._replace(key=key), STORED._replace(key=key, version=None)):
            error = read_global_row(HERE, row).error
            assert isinstance(error, CorruptStoreError)
            assert error.key is None

    def test_is_a_row_without_a_value_if_it_is_deleted(self) -> None:
        assert read_global_row(HERE, DELETED).unwrap() == GlobalRow("key", None, 3, 5)

    @pytest.mark.parametrize(
        "row", [DELETED._replace(version="x"), DELETED._replace(version=None), DELETED._replace(written_at=-1)]
    )
    def test_is_an_error_if_what_is_left_of_a_deleted_one_is_damaged(self, row: StoredGlobal) -> None:
        assert isinstance(read_global_row(HERE, row).error, CorruptStoreError)

    @pytest.mark.parametrize(
        ("row", "is_deleted"),
        [
            (STORED, False),
            (DELETED, True),
            (DELETED._replace(checksum=1, size=1), True),
            (STORED._replace(data=None), False),
            (STORED._replace(codec=None), False),
        ],
    )
    def test_is_deleted_if_neither_its_codec_nor_its_value_is_there(self, row: StoredGlobal, is_deleted: bool) -> None:
        assert row.is_deleted is is_deleted


def written(version: int, value: Encoded | None, result: Any = None, written_at: int | None = None) -> GlobalChange:
    return GlobalChange(result, version, value, written_at)


NOTHING = GlobalChange(None)


class TestPutGlobal:
    @pytest.mark.parametrize(
        ("stored", "version"), [(ABSENT, 1), (DELETED, 4), (DELETED._replace(written_at=-1), 4)], ids=repr
    )
    def test_writes_where_nothing_is_with_a_version_behind_the_last_one(
        self, stored: StoredGlobal | None, version: int
    ) -> None:
        for exist_ok in (False, True):
            assert change_global(HERE, stored, PutGlobal("key", TWO, exist_ok)) == written(version, TWO)

    @pytest.mark.parametrize(
        ("value", "exist_ok", "same_value"), [(ONE, False, True), (TWO, False, False), (TWO, True, False)]
    )
    def test_is_refused_where_a_value_is_unless_it_is_a_retry(
        self, value: Encoded, exist_ok: bool, same_value: bool
    ) -> None:
        refusal = refusal_of(STORED, PutGlobal("key", value, exist_ok))
        assert type(refusal) is GlobalAlreadyExistsError
        assert (refusal.key, refusal.same_value) == ("key", same_value)

    def test_is_nothing_if_it_is_a_retry_of_the_same(self) -> None:
        assert change_global(HERE, STORED, PutGlobal("key", ONE, True)) == NOTHING

    @pytest.mark.parametrize("row", DAMAGED.values(), ids=DAMAGED)
    def test_does_not_compare_with_what_is_damaged(self, row: StoredGlobal) -> None:
        assert says_the_value_is_damaged(refusal_of(row, PutGlobal("key", ONE, True)), row.key)

    @pytest.mark.parametrize("version", VERSIONS, ids=repr)
    @pytest.mark.parametrize("row", [STORED, DELETED], ids=["there", "deleted"])
    def test_counts_on_from_no_damaged_version(self, row: StoredGlobal, version: Any) -> None:
        refusal = refusal_of(row._replace(version=version), PutGlobal("key", ONE, True))
        assert says_the_version_is_damaged(refusal)


class TestUpsertGlobal:
    @pytest.mark.parametrize(
        ("stored", "expected", "version"),
        [
            (ABSENT, None, 1),
            (ABSENT, 0, 1),
            (STORED, None, 4),
            (STORED, 3, 4),
            (DELETED, None, 4),
            (DELETED, 0, 4),
        ],
        ids=repr,
    )
    def test_writes_and_gives_the_next_version(
        self, stored: StoredGlobal | None, expected: int | None, version: int
    ) -> None:
        change = change_global(HERE, stored, UpsertGlobal("key", TWO, expected))
        assert change == written(version, TWO, result=version)

    @pytest.mark.parametrize(
        ("stored", "expected", "actual"),
        [(ABSENT, 1, 0), (STORED, 0, 3), (STORED, 2, 3), (STORED, 4, 3), (DELETED, 3, 0), (DELETED, 4, 0)],
        ids=repr,
    )
    def test_is_refused_at_another_version_than_expected_where_0_is_not_there(
        self, stored: StoredGlobal | None, expected: int, actual: int
    ) -> None:
        refusal = refusal_of(stored, UpsertGlobal("key", TWO, expected))
        assert type(refusal) is VersionConflictError
        assert (refusal.key, refusal.expected, refusal.actual) == ("key", expected, actual)

    @pytest.mark.parametrize("row", DAMAGED.values(), ids=DAMAGED)
    def test_overwrites_what_is_damaged_and_expects_its_version(self, row: StoredGlobal) -> None:
        for expected in (None, 3):
            assert change_global(HERE, row, UpsertGlobal("key", TWO, expected)) == written(4, TWO, result=4)
        assert type(refusal_of(row, UpsertGlobal("key", TWO, 0))) is VersionConflictError

    @pytest.mark.parametrize("version", VERSIONS, ids=repr)
    @pytest.mark.parametrize("row", [STORED, DELETED], ids=["there", "deleted"])
    def test_counts_on_from_no_damaged_version(self, row: StoredGlobal, version: Any) -> None:
        refusal = refusal_of(row._replace(version=version), UpsertGlobal("key", ONE, None))
        assert says_the_version_is_damaged(refusal)


class TestDeleteGlobal:
    @pytest.mark.parametrize("stored", [ABSENT, DELETED, DELETED._replace(version=None)], ids=repr)
    def test_is_false_and_writes_nothing_where_nothing_is(self, stored: StoredGlobal | None) -> None:
        assert change_global(HERE, stored, DeleteGlobal("key")) == GlobalChange(False)

    @pytest.mark.parametrize("row", [STORED, *DAMAGED.values()], ids=["intact", *DAMAGED])
    def test_is_true_and_keeps_the_version_whatever_is_damaged(self, row: StoredGlobal) -> None:
        assert change_global(HERE, row, DeleteGlobal("key")) == written(3, None, result=True)

    @pytest.mark.parametrize("version", [version for version in VERSIONS if version is not None], ids=repr)
    def test_leaves_a_damaged_version_as_it_is(self, version: Any) -> None:
        row = STORED._replace(version=version)
        assert change_global(HERE, row, DeleteGlobal("key")) == written(version, None, result=True)

    def test_does_not_say_that_it_was_done_where_no_version_can_be_kept(self) -> None:
        assert says_the_version_is_damaged(refusal_of(STORED._replace(version=None), DeleteGlobal("key")))


def load(value: Encoded | None, version: int) -> LoadGlobal:
    return LoadGlobal("key", value, version, 8)


class TestLoadGlobal:
    @pytest.mark.parametrize("stored", [ABSENT, STORED, DELETED], ids=["absent", "there", "deleted"])
    @pytest.mark.parametrize("value", [TWO, None], ids=["a value", "a deletion"])
    def test_is_written_with_its_version_and_time_where_it_has_come_further(
        self, stored: StoredGlobal | None, value: Encoded | None
    ) -> None:
        assert change_global(HERE, stored, load(value, 4)) == written(4, value, written_at=8)

    @pytest.mark.parametrize("stored", [STORED, DELETED], ids=["there", "deleted"])
    def test_is_written_if_it_was_deleted_there_since(self, stored: StoredGlobal) -> None:
        assert change_global(HERE, stored, load(None, 3)) == written(3, None, written_at=8)

    def test_is_nothing_if_it_is_the_same_here(self) -> None:
        assert change_global(HERE, STORED, load(ONE, 3)) == NOTHING

    @pytest.mark.parametrize(
        ("stored", "operation"),
        [
            pytest.param(STORED, load(ONE, 2), id="it has come further here"),
            pytest.param(STORED, load(None, 2), id="it was written here since it was deleted there"),
            pytest.param(DELETED, load(ONE, 2), id="it was deleted here since"),
            pytest.param(DELETED, load(None, 2), id="it was written and deleted here since"),
            pytest.param(STORED, load(TWO, 3), id="another value of the same version"),
            pytest.param(STORED, load(Encoded(BYTES, b"1"), 3), id="another form of the same version"),
            pytest.param(DELETED, load(ONE, 3), id="it is deleted here alone"),
        ],
    )
    def test_is_refused_if_the_two_have_parted(self, stored: StoredGlobal, operation: LoadGlobal) -> None:
        refusal = refusal_of(stored, operation)
        assert type(refusal) is VersionConflictError
        assert (refusal.key, refusal.expected, refusal.actual) == ("key", operation.version, 3)

    @pytest.mark.parametrize("value", [ONE, TWO, None], ids=["the same value", "another", "a deletion"])
    @pytest.mark.parametrize("version", [2, 3, 4])
    def test_replaces_nothing_that_is_there_if_it_is_not_to(self, value: Encoded | None, version: int) -> None:
        operation = load(value, version)._replace(replaces=False)
        if (value, version) == (ONE, 3):
            assert change_global(HERE, STORED, operation) == NOTHING
        else:
            refusal = refusal_of(STORED, operation)
            assert type(refusal) is VersionConflictError
            assert (refusal.expected, refusal.actual) == (version, 3)

    @pytest.mark.parametrize("stored", [ABSENT, DELETED], ids=["absent", "deleted"])
    def test_is_written_where_nothing_is_though_it_is_to_replace_nothing(self, stored: StoredGlobal | None) -> None:
        operation = load(TWO, 4)._replace(replaces=False)
        assert change_global(HERE, stored, operation) == written(4, TWO, written_at=8)

    @pytest.mark.parametrize("row", DAMAGED.values(), ids=DAMAGED)
    def test_overwrites_what_is_damaged_if_it_has_come_further_and_else_compares_with_nothing(
        self, row: StoredGlobal
    ) -> None:
        assert change_global(HERE, row, load(TWO, 4)) == written(4, TWO, written_at=8)
        assert change_global(HERE, row, load(None, 3)) == written(3, None, written_at=8)
        for version in (2, 3):
            assert says_the_value_is_damaged(refusal_of(row, load(ONE, version)), row.key)

    @pytest.mark.parametrize("version", VERSIONS, ids=repr)
    @pytest.mark.parametrize("row", [STORED, DELETED], ids=["there", "deleted"])
    def test_compares_with_no_damaged_version(self, row: StoredGlobal, version: Any) -> None:
        assert says_the_version_is_damaged(refusal_of(row._replace(version=version), load(ONE, 9)))


@pytest.mark.parametrize(
    "act",
    [
        lambda: change_global(HERE, STORED, UpsertGlobal("key", TWO, 1)),
        lambda: read_global(HERE, STORED._replace(checksum=0)),
        lambda: marks_deleted(LoadRun("run", 5, None), True),
    ],
)
def test_each_refusal_is_an_error_object_of_its_own(act: Callable[[], object]) -> None:
    refusals = []
    for _ in range(2):
        with pytest.raises(Exception) as refusal:
            act()
        refusals.append(refusal.value)
    assert refusals[0] is not refusals[1]


EXPIRED, PASSING = STORED._replace(expires_at=NOW), STORED._replace(expires_at=NOW + 1)
DAMAGED_EXPIRY = [STORED._replace(expires_at=when) for when in NOT_A_TIME if when is not None]


class TestAGlobalThatExpires:
    def test_is_there_before_and_not_from_that_time_on(self) -> None:
        assert PASSING.is_there(NOW)
        assert not EXPIRED.is_there(NOW)
        assert not DELETED.is_there(NOW)

    def test_is_read_with_its_time(self) -> None:
        assert read_global(HERE, PASSING) == GlobalRecord("key", ONE, 3, 5, NOW + 1)
        assert read_global_row(HERE, EXPIRED).unwrap() == GlobalRow("key", ONE, 3, 5, NOW)

    @pytest.mark.parametrize("row", DAMAGED_EXPIRY, ids=repr)
    def test_at_no_time_is_there_and_damaged_and_may_be_written_over(self, row: StoredGlobal) -> None:
        assert row.is_there(NOW)
        assert says_the_value_is_damaged(read_global_row(HERE, row).error, "key")
        kept = UpsertGlobal("key", TWO, 3, keeps_expiry=True)
        assert change_global(HERE, row, kept) == written(4, TWO, result=4)

    @pytest.mark.parametrize("stored", [None, DELETED, EXPIRED])
    def test_is_written_for_so_long_from_now_on(self, stored: StoredGlobal | None) -> None:
        version = 1 if stored is None else 4
        change = change_global(HERE, stored, PutGlobal("key", TWO, False, ttl=7))
        assert change == written(version, TWO)._replace(expires_at=NOW + 7)
        change = change_global(HERE, stored, UpsertGlobal("key", TWO, 0, ttl=7))
        assert change == written(version, TWO, result=version)._replace(expires_at=NOW + 7)

    @pytest.mark.parametrize(
        ("stored", "expires_at"), [(PASSING, NOW + 1), (STORED, None), (EXPIRED, None), (DELETED, None), (None, None)]
    )
    def test_keeps_its_time_if_it_is_there_and_told_to(
        self, stored: StoredGlobal | None, expires_at: int | None
    ) -> None:
        kept = UpsertGlobal("key", TWO, None, ttl=None, keeps_expiry=True)
        assert change_global(HERE, stored, kept).expires_at == expires_at

    @pytest.mark.parametrize("operation", [DeleteGlobal("key"), ExpectGlobal("key", 0)])
    def test_is_as_deleted_once_it_has_expired(self, operation: GlobalOperation) -> None:
        assert change_global(HERE, EXPIRED, operation) == change_global(HERE, DELETED, operation)
        with pytest.raises(VersionConflictError):
            change_global(HERE, EXPIRED, ExpectGlobal("key", 3))

    def test_is_taken_over_with_its_time_and_compared_by_it(self) -> None:
        same = LoadGlobal("key", ONE, 3, 8, NOW)
        assert change_global(HERE, EXPIRED, same) == NOTHING
        assert change_global(HERE, None, same) == written(3, ONE, written_at=8)._replace(expires_at=NOW)
        assert type(refusal_of(STORED, same)) is VersionConflictError

    def test_gives_way_to_a_later_version_that_is_to_replace_nothing(self) -> None:
        load = LoadGlobal("key", TWO, 4, 8, replaces=False)
        assert change_global(HERE, EXPIRED, load) == written(4, TWO, written_at=8)
        assert type(refusal_of(PASSING, load)) is VersionConflictError


class TestVersionsOfFreedGlobals:
    @pytest.mark.parametrize("operation", [PutGlobal("key", ONE, False), UpsertGlobal("key", ONE, 0)])
    def test_begin_above_the_highest_where_there_is_no_trace(self, operation: GlobalOperation) -> None:
        assert rules.change_global(HERE, None, operation, NOW, 41).version == 42
        only_locked = StoredGlobal("key", None, None, None, 0, 0, None)
        assert rules.change_global(HERE, only_locked, operation, NOW, 41).version == 42
        assert rules.change_global(HERE, DELETED, operation, NOW, 41).version == 4
