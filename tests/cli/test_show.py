"""Looking at runs, at the outputs of a run, at one output."""

from __future__ import annotations

import base64
import datetime
from typing import Any

import pytest

from contextstore import ContextStore, Output
from contextstore._display.forms import form_of
from contextstore.cli import call

from .lines import ran, run


def entries(place: str, flow_run: str) -> list[Output]:
    with ContextStore(place, read_only=True) as store:
        return list(store.iter_outputs(flow_run))


def test_runs_come_newest_first_with_their_fields(filled: str) -> None:
    shown = ran(filled, "--json").json
    with ContextStore(filled, read_only=True) as store:
        assert shown == [form_of(run) for run in store.list_runs()]
    assert [run["flow_run_id"] for run in shown] == ["run-2", "run-1"]


def test_runs_as_text_have_a_line_each(filled: str) -> None:
    titles, *rows = ran(filled).lines
    assert titles.split() == ["RUN", "STATE", "OUTPUTS", "FIRST", "LAST"]
    assert [row.split()[:3] for row in rows] == [["run-2", "open", "1"], ["run-1", "open", "2"]]


def test_ages_are_reckoned_from_now_and_times_are_in_full_with_iso(
    filled_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (output,) = entries(filled_file, "run-2")
    monkeypatch.setattr(call, "now", lambda: output.written_at + datetime.timedelta(hours=3))
    assert ran(filled_file, "--prefix", "run-2").lines[1].split("  ")[-1] == "3 h ago"
    iso = output.written_at.isoformat(timespec="milliseconds")
    assert ran(filled_file, "--prefix", "run-2", "--time", "iso").lines[1].split()[-1] == iso


def test_pages_of_runs_follow_each_other(place: str) -> None:
    with ContextStore(place) as store:
        for number in range(5):
            store.put(f"run-{number}", "n", number)
    first = ran(place, "--limit", 2, "--output", "jsonl")
    assert [run["flow_run_id"] for run in first.jsonl] == ["run-4", "run-3"]
    second = ran(place, "--limit", 3, "--after", "run-3", "--output", "jsonl")
    assert [run["flow_run_id"] for run in second.jsonl] == ["run-2", "run-1", "run-0"]
    assert second.err == ""
    assert first.err == "contextstore: there are more: go on with --after run-3\n"


def test_a_prefix_is_literal(place: str) -> None:
    with ContextStore(place) as store:
        for name in ("a%b", "a_b", "axb"):
            store.put(name, "n", 1)
    assert [run["flow_run_id"] for run in ran(place, "--prefix", "a_", "--json").json] == ["a_b"]


def test_an_empty_store_is_told_in_a_note_and_is_no_error(place: str) -> None:
    ContextStore(place).__enter__().close()
    done = ran(place)
    assert (done.out, done.err) == ("", "contextstore: no runs\n")
    assert ran(place, "--json").json == []
    assert ran(place, "--output", "jsonl").out == ""


def test_an_after_that_was_never_there_is_a_usage_error(filled: str) -> None:
    assert run(filled, "--after", "nobody").code == 2


def test_a_run_is_shown_by_node_with_whole_values_as_json(filled: str) -> None:
    shown = ran(filled, "run-1", "--json").json
    assert shown == ran(filled, "run-1", "--output", "jsonl").jsonl
    extract, report = entries(filled, "run-1")
    assert shown == [
        {
            "flow_run_id": "run-1",
            "node_id": "extract",
            "value": {"rows": 3},
            "written_at": extract.written_at.isoformat(),
            "size": extract.size,
            "tag": None,
            "cursor": None,
        },
        {
            "flow_run_id": "run-1",
            "node_id": "report",
            "base64": base64.b64encode(b"\x00\xff").decode(),
            "written_at": report.written_at.isoformat(),
            "size": 2,
            "tag": None,
            "cursor": None,
        },
    ]


def test_a_run_is_shown_on_a_time_line_as_text(file_path: Any) -> None:
    with ContextStore(file_path) as store:
        for node in ("last", "first", "middle"):  # by time, and not by id
            store.put("run", node, node)
    lines = ran(file_path, "run").lines
    assert lines[0].split() == ["NODE", "WRITTEN", "GAP", "TIME", "LINE", "SIZE", "VALUE"]
    assert [line.split()[0] for line in lines[1:]] == ["last", "first", "middle"]
    assert [line.split()[-1] for line in lines[1:]] == ['"last"', '"first"', '"middle"']
    assert "●···" in lines[1]
    assert "···●" in lines[3]


def test_a_page_of_outputs_goes_by_node_id(filled: str) -> None:
    done = ran(filled, "run-1", "--limit", 1, "--output", "jsonl")
    assert [output["node_id"] for output in done.jsonl] == ["extract"]
    assert "--after extract" in done.err
    rest = ran(filled, "run-1", "--after", "extract", "--output", "jsonl")
    assert [output["node_id"] for output in rest.jsonl] == ["report"]
    assert rest.err == ""
    some = ran(filled, "run-1", "--prefix", "re", "--output", "jsonl")
    assert [output["node_id"] for output in some.jsonl] == ["report"]


def test_the_last_outputs_of_a_run_are_asked_for_from_its_end(filled: str) -> None:
    done = ran(filled, "run-1", "--reverse", "--limit", 1, "--output", "jsonl")
    assert [output["node_id"] for output in done.jsonl] == ["report"]
    assert "--after report" in done.err
    rest = ran(filled, "run-1", "--reverse", "--after", "report", "--output", "jsonl")
    assert [output["node_id"] for output in rest.jsonl] == ["extract"]
    assert "report" in ran(filled, "run-1", "--reverse", "--limit", 1).out


@pytest.mark.each_input_once
@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
def test_a_run_that_is_not_there_is_1_and_prints_nothing(filled: str, form: str) -> None:
    done = run(filled, "nobody", "--output", form)
    assert (done.code, done.out, done.err) == (1, "", "contextstore: there is no run 'nobody'\n")


def test_a_deleted_run_is_told_to_have_been_deleted(filled: str) -> None:
    with ContextStore(filled) as store:
        store.delete_run("run-1")
    for words in (["run-1"], ["run-1", "extract"]):
        done = run(filled, *words)
        assert (done.code, done.err) == (1, "contextstore: run 'run-1' was deleted\n")


def test_an_output_is_shown_with_its_value_over_several_lines(filled: str) -> None:
    title, *value = ran(filled, "run-1", "extract").lines
    assert title.startswith("run-1  extract  ")
    assert value == ["{", '  "rows": 3', "}"]


def test_bytes_are_shown_in_hexadecimal(filled: str) -> None:
    assert ran(filled, "run-1", "report").lines[1:] == [f"00000000  {'00 ff':47}  ··"]


def test_an_output_as_json_is_its_fields(filled: str) -> None:
    (shown,) = [one for one in ran(filled, "run-1", "--json").json if one["node_id"] == "extract"]
    assert ran(filled, "run-1", "extract", "--json").json == shown
    assert ran("get", filled, "run-1", "extract", "--output", "jsonl").json == shown


def test_a_node_that_is_not_there_is_1(filled: str) -> None:
    done = run(filled, "run-1", "nothing")
    assert (done.code, done.err) == (1, "contextstore: node 'nothing' of run 'run-1' has no output\n")


def test_the_options_of_lists_are_refused_for_one_output(filled_file: str) -> None:
    assert run(filled_file, "run-1", "extract", "--limit", 1).code == 2
    assert run(filled_file, "run-1", "extract", "--reverse").code == 2


def test_runs_are_not_reversed(filled_file: str) -> None:
    assert run(filled_file, "--reverse").code == 2


def test_a_value_of_very_many_lines_is_folded_and_says_so(file_path: Any) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "n", {"items": list(range(10_000)), "name": "x"})
    lines = ran(file_path, "run", "n").lines
    assert len(lines) < 50
    assert lines[1] == "(folded: get prints it whole)"
    assert any(line.strip().startswith("items: [0, 1, 2") and line.endswith("(10000)") for line in lines)
    assert ran("get", file_path, "run", "n").json["items"] == list(range(10_000))


def test_a_run_is_watched_until_the_output_that_was_named(filled: str) -> None:
    lines = ran("watch", filled, "run-1", "--until", "report").lines
    assert [line.split("  ")[1] for line in lines] == ["extract", "report"]
    for form in ("json", "jsonl"):
        shown = ran("watch", filled, "run-1", "--until", "extract", "--output", form).jsonl
        assert [output["value"] for output in shown] == [{"rows": 3}]


def test_what_is_no_cursor_or_has_no_run_is_2(filled: str) -> None:
    done = run("watch", filled, "--after", "no cursor")
    assert done.code == 2
    assert "after" in done.err
    assert run("watch", filled, "--until", "report").code == 2


def test_a_watched_run_that_is_deleted_is_a_conflict(filled: str) -> None:
    with ContextStore(filled) as store:
        store.delete_run("run-1")
    assert run("watch", filled, "run-1").code == 3
