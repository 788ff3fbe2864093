"""The page of the benchmarks says what the figures say, and the one in docs/ is that of the figures kept beside it."""

from __future__ import annotations

import json
import pathlib
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from benchmarks import gets, goals, page, plots, puts
from benchmarks.__main__ import DOCS, FIGURES, FINDINGS, saved
from benchmarks.goals import GOALS, Goal, Result
from benchmarks.rounds import Times

README = DOCS.parent / "README.md"

pytestmark = pytest.mark.one_python


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(FIGURES.read_text())


def test_a_ratio_is_taken_within_a_round_and_the_median_decides() -> None:
    goal = Goal("a put", "sqlite3", "put", goals.ratio_of("ours", "theirs"), 1.1)
    result = Result(goal, goal.ratios({"ours": [1.0, 6.0, 3.0], "theirs": [1.0, 2.0, 2.0]}))
    assert result.ratios == [1.0, 3.0, 1.5]
    assert (result.median, result.middle, result.is_met) == (1.5, (1.25, 2.25), False)
    assert page.goal_line(result) == (
        "| a put | sqlite3 | ≤ 1.1 | **1.50** | 1.25 to 2.25 | 1.00 to 3.00 | **not met** |"
    )


def test_a_throughput_is_the_inverse_of_a_time_and_is_to_be_at_least_its_goal() -> None:
    goal = Goal("puts", "sqlite3", "puts", goals.throughput_of("ours", "theirs"), 2, at_least=True)
    result = Result(goal, goal.ratios({"ours": [0.5], "theirs": [1.0]}))
    assert page.goal_line(result) == "| puts | sqlite3 | ≥ 2 | **2.00** | 2.00 to 2.00 | 2.00 to 2.00 | met |"


def test_what_was_not_measured_is_not_met_either() -> None:
    goal = Goal("puts", "sqlite3", "puts", goals.ratio_of("ours", "theirs"), 2)
    assert page.goal_line(goal) == "| puts | sqlite3 | ≤ 2 | | | | not measured |"


def test_what_a_loop_allows_is_the_transaction_and_the_tasks() -> None:
    times = {puts.GROUP_OF_OURS: [40.0], puts.TRANSACTION: [10.0], puts.TASKS: [20.0]}
    assert goals.throughput_of_what_a_loop_allows(times) == [0.75]


def test_a_get_among_many_is_held_against_one_and_a_half_and_a_task() -> None:
    assert goals.time_of_a_get_with_its_task({gets.GROUP: [15.0], gets.RAW: [4.0], gets.TASKS: [4.0]}) == [1.5]


def test_the_best_peer_is_one_that_keeps_each_put_atomic() -> None:
    times = {"contextstore": [1.0], "sqlite3, one transaction": [1.0], "aiosqlite": [1.0], "apsw": [3.0], "lmdb": [4.0]}
    assert goals.best_atomic_peer(times) == "apsw"


def test_peers_are_ranked_by_the_first_table_that_has_them() -> None:
    first: Times = {"slow": [9.0], "contextstore": [1.0], "quick": [2.0]}
    second: Times = {"slow": [1.0], "contextstore": [1.0], "late": [0.5]}
    assert page.ranked([first, second]) == ["quick", "slow", "late"]


def test_the_page_of_a_part_says_what_was_not_measured() -> None:
    text = page.written({"about": ["- a machine"], "figures": {}}, "## Found\n\nNothing.\n")
    assert text.count("not measured |") == len(GOALS)
    assert text.endswith("## Found\n\nNothing.\n")


def test_saved_figures_are_read_back_and_have_a_line_for_everybody() -> None:
    some = {"about": ["- a machine", "- versions"], "figures": {"put": {"a": [1.0, 2.0], "b": [3.0, 4.0]}}}
    text = saved(some)
    assert json.loads(text) == some
    assert '"a": [ 1.0, 2.0 ],' in re.sub(r"\s+", " ", text)
    assert sum('"a"' in line or "2.0" in line for line in text.splitlines()) == 1


def test_the_page_is_that_of_the_figures_that_are_kept(document: Any) -> None:
    assert DOCS.joinpath("benchmarks.md").read_text() == page.written(document, FINDINGS.read_text())


@pytest.mark.parametrize(
    ("what", "against", "said"),
    [
        (
            "64 puts at once, throughput",
            "the best peer that keeps each put atomic",
            "at {} times the rate of the best peer",
        ),
        ("sync put, main thread", "sqlite3", "takes {} times as long as an INSERT by plain `sqlite3`"),
        ("awaited put", "sqlite3", "and awaited {} times"),
    ],
)
def test_the_figures_of_the_readme_are_those_of_the_page(what: str, against: str, said: str, document: Any) -> None:
    median = median_of(what, against, document)
    assert said.format(f"{median:.1f}") in " ".join(README.read_text().split())


def test_a_repeated_get_takes_as_long_as_that_peers_of_which_the_readme_says_so(document: Any) -> None:
    assert "A repeated get takes as long as one from LMDB." in README.read_text()
    assert 0.9 < median_of("awaited get, hot", "LMDB with orjson", document) < 1.1


def median_of(what: str, against: str, document: Any) -> float:
    (found,) = (
        result.median
        for result in goals.results(document["figures"])
        if isinstance(result, Result) and (result.goal.what, result.goal.against) == (what, against)
    )
    return found


def test_each_goal_of_the_page_has_been_measured(document: Any) -> None:
    assert [one for one in goals.results(document["figures"]) if isinstance(one, Goal)] == []


@pytest.mark.parametrize("plot", plots.PLOTS, ids=lambda plot: plot.file)
def test_each_plot_shows_the_figures_that_are_kept(plot: plots.Plot, document: Any) -> None:
    text = DOCS.joinpath(plot.file).read_text()
    shown = [element.text for element in ElementTree.fromstring(text).iter() if element.tag.endswith("}text")]
    for bar in plots.bars(plot, document["figures"][plot.measurement]):
        assert bar.label in shown
        assert bar.figure in shown


def test_bars_are_sorted_and_say_their_figures() -> None:
    times: Times = {"contextstore": [1 / 2410], "sqlite3": [2 / 2410], "contextstore (sync)": [0.5 / 2410]}
    assert plots.bars(plots.PUT, times) == [
        plots.Bar("contextstore (sync)", 2.0, "2.00", True),
        plots.Bar("contextstore", 1.0, "1 (2,410 puts a second)", True),
        plots.Bar("sqlite3", 0.5, "0.50", False),
    ]


def test_a_plot_has_no_background_and_one_colour_for_us(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.svg"
    plots.draw(plots.PUT, {"contextstore": [1.0], "sqlite3": [2.0], "lmdb": [4.0]}, path)
    colours = set(re.findall(r"#[0-9a-f]{6}", path.read_text()))
    assert colours <= {plots.TEXT, plots.OURS_COLOUR, plots.PEER_COLOUR}
