"""``contextstore fork``, ``delete`` and ``prune``."""

from __future__ import annotations

import datetime

import pytest

from contextstore import ContextStore, OutputDeletedError, RunDeletedError
from contextstore.cli.errors import WrongUse
from contextstore.cli.lifetime import age_of

from .exports import records_of
from .lines import ran, run
from .terminals import typed

DAY = datetime.timedelta(days=1)


class TestFork:
    def test_the_new_run_begins_with_the_outputs_of_the_other(self, filled: str) -> None:
        new = ran("fork", filled, "run-1").out.strip()
        with ContextStore(filled, read_only=True) as store:
            assert store.get_run(new) == store.get_run("run-1") != {}

    def test_its_id_and_its_outputs_can_be_chosen(self, filled: str) -> None:
        done = ran("fork", filled, "run-1", "--new-id", "mine", "--node", "extract", "--json")
        assert done.json == {"flow_run_id": "mine", "forked_from": "run-1"}
        with ContextStore(filled, read_only=True) as store:
            assert store.get_run("mine") == {"extract": {"rows": 3}}

    @pytest.mark.parametrize("words", [["nope"], ["run-1", "--node", "nope"]], ids=["run", "node"])
    def test_what_is_not_there_is_not_found_and_nothing_is_made(self, filled: str, words: list[str]) -> None:
        before = records_of(filled)
        done = run("fork", filled, *words)
        assert done.code == 1
        assert "nope" in done.err
        assert records_of(filled) == before

    def test_a_deleted_run_is_a_conflict(self, filled: str) -> None:
        ran("delete", filled, "run-1", "--yes")
        assert run("fork", filled, "run-1").code == 3


class TestDelete:
    def test_runs_are_gone_for_good(self, filled: str) -> None:
        done = ran("delete", filled, "run-1", "run-2", "--yes")
        assert done.lines == ["run-1: deleted, with 2 outputs", "run-2: deleted, with 1 output"]
        with ContextStore(filled) as store:
            assert store.list_runs() == []
            with pytest.raises(RunDeletedError):
                store.put("run-1", "late", 1)

    def test_again_finds_nothing_more_and_is_well(self, filled: str) -> None:
        ran("delete", filled, "run-1", "--yes")
        assert ran("delete", filled, "run-1", "--yes", "--output", "jsonl").jsonl == [
            {"flow_run_id": "run-1", "outputs": 0}
        ]

    def test_one_that_was_never_there_ends_it_before_anything_is_deleted(self, filled: str) -> None:
        before = records_of(filled)
        done = run("delete", filled, "run-1", "nope", "--yes")
        assert (done.code, done.err) == (1, "contextstore: there is no run nope; nothing was done\n")
        assert records_of(filled) == before

    def test_a_forgotten_run_leaves_no_trace_and_its_id_is_new(self, filled: str) -> None:
        with ContextStore(filled) as store:
            former = store.run("run-1")
            outputs = len(former.list_keys())
            done = ran("delete", filled, "run-1", "--forget", "--yes")
            assert done.lines == [f"run-1: deleted and forgotten, with {outputs} outputs"]
            assert store.stats().tombstones == 0
            with pytest.raises(RunDeletedError):
                former.put("late", 1)
            store.put("run-1", "new", 1)

    def test_where_nobody_can_answer_it_wants_to_be_told_and_does_not_wait(self, filled: str) -> None:
        before = records_of(filled)
        done = run("delete", filled, "run-1", stdin=b"y\n")
        assert done.code == 2
        assert "--yes" in done.err
        assert records_of(filled) == before

    def test_without_a_run_or_a_store_it_is_said_what_is_missing(self, filled: str, tmp_path: object) -> None:
        assert "RUN is missing" in run("delete", filled, "--yes").err
        assert run("delete", f"{tmp_path}/no.db", "run", "--yes").code == 4

    @pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 1), ("n", 1, 2), ("^C", 130, 2)])
    def test_on_a_terminal_it_asks(self, filled_file: str, answer: str, code: int, left: int) -> None:
        with typed("delete", filled_file, "run-1") as terminal:
            terminal.wait_for("Delete run run-1, for good? [y/N]: ")
            if answer == "^C":
                terminal.interrupt()
            else:
                terminal.type(f"{answer}\n")
            assert terminal.end() == code, terminal.shown
        with ContextStore(filled_file, read_only=True) as store:
            assert len(store.list_runs()) == left


class TestDeleteOutputs:
    @pytest.mark.parametrize("words", [["--node", "extract"], ["--prefix", "ext"]], ids=["node", "prefix"])
    def test_they_alone_are_gone_and_their_ids_stay_used_up(self, filled: str, words: list[str]) -> None:
        assert ran("delete", filled, "run-1", *words, "--yes").lines == ["run-1: 1 output deleted"]
        with ContextStore(filled) as store:
            assert (store.list_keys("run-1"), store.list_keys("run-2")) == (["report"], ["extract"])
            with pytest.raises(OutputDeletedError):
                store.put("run-1", "extract", 1)

    def test_several_may_be_named_and_an_empty_prefix_means_all(self, filled: str) -> None:
        done = ran("delete", filled, "run-1", "--node", "extract", "--node", "report", "--yes", "--json")
        assert done.json == [{"flow_run_id": "run-1", "outputs": 2}]
        assert ran("delete", filled, "run-2", "--prefix", "", "--yes", "--output", "jsonl").jsonl[0]["outputs"] == 1

    def test_a_node_without_an_output_is_told_and_passed_over(self, filled: str) -> None:
        done = ran("delete", filled, "run-1", "--node", "nope", "--node", "extract", "--yes")
        assert (done.lines, done.err) == (
            ["run-1: 1 output deleted"],
            "contextstore: run run-1 has no output of node nope\n",
        )

    def test_again_finds_nothing_more_and_is_well(self, filled: str) -> None:
        ran("delete", filled, "run-1", "--prefix", "e", "--yes")
        assert ran("delete", filled, "run-1", "--prefix", "e", "--yes").lines == ["run-1: 0 outputs deleted"]

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (["nope", "--node", "extract", "--yes"], 1),
            (["run-1", "--node", "extract", "--prefix", "r", "--yes"], 2),
            (["run-1", "--node", "extract", "--forget", "--yes"], 2),
            (["run-1", "run-2", "--prefix", "e", "--yes"], 2),
            (["run-1", "--prefix", "e"], 2),
        ],
        ids=["unknown run", "both", "forget", "several runs", "nobody to ask"],
    )
    def test_what_cannot_be_meant_deletes_nothing(self, filled: str, words: list[str], code: int) -> None:
        before = records_of(filled)
        assert run("delete", "--store", filled, *words).code == code
        assert records_of(filled) == before

    @pytest.mark.parametrize(("answer", "left"), [("y", 1), ("n", 2)])
    def test_on_a_terminal_it_asks(self, filled_file: str, answer: str, left: int) -> None:
        with typed("delete", filled_file, "run-1", "--prefix", "ext") as terminal:
            terminal.wait_for("Delete 1 output of run run-1, for good? [y/N]: ")
            terminal.type(f"{answer}\n")
            assert terminal.end() == (0 if answer == "y" else 1), terminal.shown
        with ContextStore(filled_file, read_only=True) as store:
            assert len(store.list_keys("run-1")) == left


class TestPrune:
    def test_a_dry_run_says_what_a_prune_would_do_and_does_nothing(self, filled: str) -> None:
        before = records_of(filled)
        assert ran("prune", filled, "--older-than", "0s", "--dry-run").lines == [
            "would delete 2 runs with 3 outputs, 24 bytes"
        ]
        assert records_of(filled) == before
        assert ran("prune", filled, "--older-than", "0s", "--yes").lines == ["deleted 2 runs with 3 outputs, 24 bytes"]
        with ContextStore(filled, read_only=True) as store:
            assert store.list_runs() == []
            assert store.get_global("latest") == "run-2"

    def test_what_is_younger_stays(self, filled: str) -> None:
        assert ran("prune", filled, "--older-than", "30d", "--yes", "--json").json["runs"] == 0
        with ContextStore(filled, read_only=True) as store:
            assert len(store.list_runs()) == 2

    def test_only_runs_in_the_states_that_are_named_go(self, filled: str) -> None:
        with ContextStore(filled) as store:
            store.run("run-1").update(state="completed")
        old = ("prune", filled, "--older-than", "0s", "--yes", "--json")
        assert ran(*old, "--state", "failed", "--state", "cancelled").json["runs"] == 0
        assert ran(*old, "--state", "failed", "--state", "completed").json["runs"] == 1
        with ContextStore(filled, read_only=True) as store:
            assert [one.flow_run_id for one in store.list_runs()] == ["run-2"]

    @pytest.mark.parametrize("words", [("--older-than", "0s", "--state", "done"), ("--state", "failed")])
    def test_a_state_that_is_none_or_says_nothing_is_refused(self, filled: str, words: tuple[str, ...]) -> None:
        done = run("prune", filled, *words, "--yes")
        assert done.code == 2
        assert "--state" in done.err

    def test_where_nobody_can_answer_it_wants_to_be_told(self, filled: str) -> None:
        done = run("prune", filled, "--older-than", "0s")
        assert done.code == 2
        assert "--yes" in done.err

    def test_without_an_age_it_deletes_no_run_and_asks_nothing(self, filled: str) -> None:
        before = records_of(filled)
        assert ran("prune", filled).lines == ["deleted 0 runs with 0 outputs, 0 bytes"]
        assert ran("prune", filled, "--dry-run", "--json").json["runs"] == 0
        assert records_of(filled) == before

    @pytest.mark.parametrize(("answer", "left"), [("y", 0), ("n", 2)])
    def test_on_a_terminal_it_looks_first_and_asks(self, filled_file: str, answer: str, left: int) -> None:
        with typed("prune", filled_file, "--older-than", "0s") as terminal:
            terminal.wait_for("Do it? [y/N]: ")
            assert "would delete 2 runs with 3 outputs, 24 bytes" in terminal.shown
            terminal.type(f"{answer}\n")
            assert terminal.end() == (0 if answer == "y" else 1), terminal.shown
        with ContextStore(filled_file, read_only=True) as store:
            assert len(store.list_runs()) == left


class TestAges:
    @pytest.mark.parametrize(
        ("text", "age"),
        [
            *(("30d", 30 * DAY), ("12h", DAY / 2), ("90m", DAY / 16), ("1w", 7 * DAY), ("45s", DAY / 1920)),
            *(("1d12h", 1.5 * DAY), ("1.5d", 1.5 * DAY), ("0s", 0 * DAY), (" 2W ", 14 * DAY)),
        ],
    )
    def test_an_age_is_numbers_with_units(self, text: str, age: datetime.timedelta) -> None:
        assert age_of(text) == age

    @pytest.mark.parametrize(
        "text", ["", "30", "d", "30 d", "-1d", "1y", "30days", "1d-2h", "1e3d", "\u0661d", "1d\n2h"]
    )
    def test_what_is_none_is_refused_with_what_is_understood(self, text: str) -> None:
        with pytest.raises(WrongUse, match="such as 30d, 12h, 90m, 1w"):
            age_of(text)

    def test_one_that_is_longer_than_there_is_time_is_refused(self) -> None:
        with pytest.raises(WrongUse, match="longer"):
            age_of("9" * 30 + "w")
