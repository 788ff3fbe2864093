"""What was said of runs, from the command line: runs that fit, attempts, state values, leases; and update."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from contextstore import ContextStore
from contextstore._display.forms import form_of
from contextstore.cli.flow_runs import attributes_of, time_of

from .lines import ran, run

HOSTILE = "\x1b[2J'; DROP TABLE flow_runs; --\n\u202e"


@pytest.fixture
def told(place: str) -> str:
    """A store with a run that is complete, one that has failed and one that has nothing but its begin."""
    with ContextStore(place) as store:
        done = store.run("done-1")
        done.begin(attributes={"flow": "nightly", "tries": 3})
        done.step("extract", lambda: [1, 2])
        done.upsert_state("position", {"page": 1})
        done.upsert_state("seen", b"\x00\xff")
        done.update(state="completed")
        failed = store.run("failed-1")
        failed.begin(attributes={"flow": "weekly", "day": "1"}, parent="done-1")
        failed.step("extract", lambda: [1, 2])
        for problem in ("first", "second"):
            with pytest.raises(ValueError, match=problem):
                failed.step("load", fail, problem)
        failed.update(state="failed", error="the warehouse is away")
        store.run("begun-1").begin()
    return place


def fail(problem: str) -> None:
    raise ValueError(problem)


def ids(*words: object) -> list[str]:
    return [one["flow_run_id"] for one in ran("runs", *words, "--json").json]


def test_runs_are_listed_with_their_states_failures_and_attributes(told: str) -> None:
    titles, *rows = ran("runs", told).lines
    assert titles.split() == ["RUN", "STATE", "OUTPUTS", "FAILURES", "FIRST", "LAST", "ATTRIBUTES"]
    assert [row.split()[:4] for row in rows] == [
        ["begun-1", "open", "0", "0"],
        ["failed-1", "failed", "1", "2"],
        ["done-1", "completed", "1", "0"],
    ]
    assert rows[1].endswith('day="1" flow=weekly') or rows[1].endswith('flow=weekly day="1"')
    assert ran(told).lines[0].split() == titles.split()


def test_runs_as_json_are_what_the_call_returns(told: str) -> None:
    with ContextStore(told, read_only=True) as store:
        assert ran("runs", told, "--json").json == [form_of(info) for info in store.list_runs()]


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    ("filters", "fitting"),
    [
        (["--state", "failed"], ["failed-1"]),
        (["--state", "open"], ["begun-1"]),
        (["--state", "cancelled"], []),
        (["--attribute", "flow=nightly"], ["done-1"]),
        (["--attribute", "tries=3"], ["done-1"]),
        (["--attribute", 'tries="3"'], []),
        (["--attribute", "day=1"], []),
        (["--attribute", 'day="1"'], ["failed-1"]),
        (["--attribute", "flow=weekly", "--state", "failed", "--parent", "done-1"], ["failed-1"]),
        (["--attribute", "flow=weekly", "--state", "completed"], []),
        (["--parent", "done-1"], ["failed-1"]),
        (["--prefix", "failed"], ["failed-1"]),
        (["--since", "1h"], ["begun-1", "failed-1", "done-1"]),
        (["--until", "1h"], []),
        (["--since", "2000-01-01", "--until", "2001-01-01"], []),
        (["--oldest-first"], ["done-1", "failed-1", "begun-1"]),
        (["--attribute", f"{HOSTILE}={HOSTILE}"], []),
    ],
)
def test_only_runs_that_fit_are_listed(told: str, filters: list[str], fitting: list[str]) -> None:
    assert ids(told, *filters) == fitting


def test_pages_of_runs_that_fit_follow_each_other(told: str) -> None:
    first = ran("runs", told, "--oldest-first", "--limit", 2, "--output", "jsonl")
    assert [one["flow_run_id"] for one in first.jsonl] == ["done-1", "failed-1"]
    assert first.err == "contextstore: there are more: go on with --after failed-1\n"
    assert ids(told, "--oldest-first", "--after", "failed-1") == ["begun-1"]


def test_that_no_run_fits_is_told_in_a_note_and_is_no_error(told: str) -> None:
    done = ran("runs", told, "--state", "cancelled")
    assert (done.out, done.err) == ("", "contextstore: no runs that fit\n")


@pytest.mark.parametrize(
    "wrong",
    [["--state", "lost"], ["--attribute", "flow"], ["--attribute", "a=1", "--attribute", "a=2"], ["--since", "soon"]],
)
def test_a_filter_that_cannot_be_meant_is_2(filled_file: str, wrong: list[str]) -> None:
    done = run("runs", filled_file, *wrong)
    assert (done.code, done.out) == (2, "")
    assert wrong[0] in done.err


def test_an_attribute_is_json_or_else_a_text() -> None:
    words = ["flow=nightly", "tries=3", "ratio=0.5", "is_late=true", 'day="1"', "empty=", "a=b=c", "list=[1"]
    assert attributes_of(words) == {
        "flow": "nightly", "tries": 3, "ratio": 0.5, "is_late": True, "day": "1", "empty": "", "a": "b=c", "list": "[1",
    }  # fmt: skip


def test_a_time_is_in_utc_where_it_says_nothing_else() -> None:
    utc = datetime.UTC
    assert time_of("2026-03-01", "--since") == datetime.datetime(2026, 3, 1, tzinfo=utc)
    assert time_of("2026-03-01T12:30+01:00", "--since") == datetime.datetime(2026, 3, 1, 11, 30, tzinfo=utc)
    assert time_of(None, "--since") is None


def test_a_run_without_outputs_is_shown(told: str) -> None:
    done = ran(told, "begun-1")
    assert done.out.startswith("begun-1  open, begun ")
    assert done.err == "contextstore: run 'begun-1' has no outputs yet\n"
    assert ran(told, "begun-1", "--json").json == []
    assert ran(told, "begun-1", "--output", "jsonl").out == ""
    node = run(told, "begun-1", "extract")
    assert (node.code, node.err) == (1, "contextstore: node 'extract' of run 'begun-1' has no output\n")


def test_a_run_is_shown_with_its_state_and_its_failures_on_the_time_line(told: str) -> None:
    head, attributes, error, titles, *rows = ran(told, "failed-1").lines
    assert head.startswith("failed-1  failed ")
    assert head.endswith("2 failed attempts, parent done-1")
    assert set(attributes.split()) == {'day="1"', "flow=weekly"}
    assert (error, titles.split()[0]) == ("the warehouse is away", "NODE")
    assert [row.split()[0] for row in rows] == ["extract", "load", "load"]
    assert "●" in rows[0]
    assert [row.partition("attempt ")[2] for row in rows[1:]] == ["1: ValueError: first", "2: ValueError: second"]
    assert all("×" in row for row in rows[1:])  # noqa: RUF001 - it marks what failed


def test_the_failures_on_a_page_are_those_of_its_nodes(told: str) -> None:
    assert "ValueError" not in ran(told, "failed-1", "--prefix", "ex").out
    assert "ValueError" in ran(told, "failed-1", "--after", "extract").out


def test_a_failure_is_marked_by_an_x_where_only_ascii_can_be_written(told: str) -> None:
    last = run(told, "failed-1", encoding="ascii").lines[-1]
    assert last.split("  attempt 2: ")[0].rstrip().endswith(".x")


def test_attempts_are_shown_by_node_and_number(told: str) -> None:
    titles, *rows = ran("attempts", told, "failed-1").lines
    assert titles.split() == ["NODE", "NUMBER", "STARTED", "TOOK", "OUTCOME"]
    assert [row.split()[:2] for row in rows] == [["extract", "1"], ["load", "1"], ["load", "2"]]
    assert [row.split("  ")[-1] for row in rows] == ["output", "ValueError: first", "ValueError: second"]
    with ContextStore(told, read_only=True) as store:
        attempts = [form_of(attempt) for attempt in store.run("failed-1").attempts()]
    assert ran("attempts", told, "failed-1", "--json").json == attempts
    assert ran("attempts", told, "failed-1", "load", "--output", "jsonl").jsonl == attempts[1:]
    assert ran("attempts", told, "failed-1", "--failed", "--json").json == attempts[1:]
    assert ran("attempts", told, "begun-1").err == "contextstore: no attempts\n"


def test_state_values_are_shown_with_their_versions(told: str) -> None:
    titles, *rows = ran("state", told, "done-1").lines
    assert titles.split() == ["KEY", "VERSION", "WRITTEN", "VALUE"]
    assert [row.split()[:2] for row in rows] == [["position", "1"], ["seen", "1"]]
    position, seen = ran("state", told, "done-1", "--json").json
    assert (position["value"], seen["base64"]) == ({"page": 1}, "AP8=")
    assert ran("state", told, "done-1", "--prefix", "po", "--json").json == [position]
    assert ran("state", told, "done-1", "position", "--json").json == position
    assert ran("state", told, "done-1", "position").lines == ["{", '  "page": 1', "}"]
    assert ran("state", told, "begun-1").err == "contextstore: no state values\n"


def test_what_is_not_there_is_1(told: str) -> None:
    for words in (["attempts", told, "nobody"], ["state", told, "nobody"], ["state", told, "done-1", "nothing"]):
        assert (run(*words).code, run(*words).out) == (1, "")
    with ContextStore(told) as store:
        store.delete_run("done-1")
    assert run("state", told, "done-1").err == "contextstore: run 'done-1' was deleted\n"


def test_leases_are_shown_while_they_are_held(told: str) -> None:
    assert ran("leases", told).err == "contextstore: no leases\n"
    with ContextStore(told) as store, store.lease("done-1") as lease, store.lease("other"):
        titles, *rows = ran("leases", told).lines
        assert titles.split() == ["LEASE", "TOKEN", "EXPIRES", "HOLDER"]
        assert [row.split()[0] for row in rows] == ["done-1", "other"]
        (shown,) = ran("leases", told, "done-", "--json").json
    assert (shown["name"], shown["token"], shown["holder"]) == ("done-1", lease.token, lease.holder)
    assert datetime.datetime.fromisoformat(shown["expires_at"]).tzinfo is not None
    assert ran("leases", told, "--json").json == []


def test_a_run_is_ended_and_opened_again_by_hand(told: str) -> None:
    shown = ran(
        "update", told, "begun-1", "--state", "failed", "--error", "gone", "--attribute", "by=ada", "--json"
    ).json
    assert (shown["state"], shown["error"], shown["attributes"]) == ("failed", "gone", {"by": "ada"})
    conflict = run("update", told, "begun-1", "--state", "open", "--expected-state", "open")
    assert (conflict.code, conflict.out) == (3, "")
    words = ["--state", "open", "--expected-state", "failed", "--error", "", "--attribute", "by=null"]
    assert ran("update", told, "begun-1", *words).out.startswith("begun-1  open ")
    with ContextStore(told, read_only=True) as store:
        info: Any = store.get_run_info("begun-1")
    assert (info.state, info.error, info.attributes) == ("open", None, {})


def test_an_update_of_nothing_or_of_no_run_is_refused(told: str) -> None:
    assert run("update", told, "begun-1").code == 2
    done = run("update", told, "nobody", "--state", "failed")
    assert (done.code, done.err) == (1, "contextstore: there is no run 'nobody'\n")


def test_what_others_have_said_of_a_run_moves_no_cursor(place: str) -> None:
    with ContextStore(place) as store:
        hostile = store.run("run-1")
        hostile.begin(attributes={HOSTILE: HOSTILE})
        hostile.upsert_state(HOSTILE, HOSTILE)
        with pytest.raises(ValueError, match="DROP"):
            hostile.step(HOSTILE.replace("\n", ""), fail, HOSTILE)
        hostile.update(state="failed", error=HOSTILE)
        with store.lease(HOSTILE):
            lines = ran("leases", place).lines
            assert ran("leases", place, "--json").json[0]["name"] == HOSTILE
    for words in (["runs"], ["show"], ["attempts"], ["state"]):
        lines += ran(*words, place, *([] if words == ["runs"] else ["run-1"])).lines
    assert [line for line in lines if not line.isprintable()] == []
    assert ids(place, "--attribute", f"{HOSTILE}={HOSTILE}") == ["run-1"]
