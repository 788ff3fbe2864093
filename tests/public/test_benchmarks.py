"""The benchmarks run: each measurement at its smallest size, and what the goals and the page ask of it is there.

Rules of this module: what is measured is nobody's business here, only that it is.
"""

from __future__ import annotations

import importlib
import pathlib
import subprocess
import sys

import pytest

from benchmarks import contestants, puts, savers
from benchmarks import postgres as postgres_benchmark
from benchmarks.compare import compared
from benchmarks.contestants import Contestant, LangGraphSaver, Lmdb, Ours, OursBlocking, RawSQLite, RawSQLiteTogether
from benchmarks.goals import GOALS, Goal, Result, results
from benchmarks.measurements import MEASUREMENTS, chosen
from benchmarks.rounds import TINY, Times, bare_tasks, opened

from ..support.servers import Server

pytestmark = pytest.mark.one_python

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def few_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are an extra."""

    def few() -> tuple[list[Contestant], list[str]]:
        missing = [kind.name for kind in (Lmdb, LangGraphSaver) if not is_installed(kind.needs or "")]
        found: list[Contestant] = [Ours(), OursBlocking(), RawSQLite(), RawSQLiteTogether()]
        return found if Lmdb.name in missing else [*found, Lmdb()], missing

    monkeypatch.setattr(contestants, "available", few)


def is_installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


IN_GOALS = {Lmdb.name: "LMDB", LangGraphSaver.name: "LangGraph's saver"}
"""What the peers that goals are set against are called there."""

ASK_AGAIN = ("peers-8-full", "peers-8-normal", "peers-512-full", "peers-512-normal")
"""What differs from ``peers-64`` in numbers alone."""
NAMES = [
    pytest.param(name, marks=pytest.mark.thorough if name in ASK_AGAIN else ())
    for name in MEASUREMENTS
    if not name.endswith("postgres")
]


@pytest.mark.parametrize("name", NAMES)
def test_each_measurement_measures_everybody_once_a_round_and_has_what_its_goals_ask_for(name: str) -> None:
    times = MEASUREMENTS[name](TINY)
    assert times
    assert all(some and min(some) > 0 for some in times.values())
    missing = contestants.available()[1]
    for result in results({name: times}):
        goal = result.goal if isinstance(result, Result) else result
        is_missing = any(peer in missing and word in goal.against for peer, word in IN_GOALS.items())
        if goal.measurement == name and not is_missing:
            assert isinstance(result, Result), f"{goal.what} against {goal.against}: nothing was measured"
            assert result.median > 0


def test_postgres_is_measured_against_plain_asyncpg(postgres: Server) -> None:
    times = postgres_benchmark.measured(postgres.url(), TINY)
    assert len(times) == 2 * len(postgres_benchmark.CALLS)
    found = [one for one in results({"postgres": times}) if isinstance(one, Result)]
    assert len(found) == sum(goal.measurement == "postgres" for goal in GOALS) == 3


def test_on_postgres_our_saver_is_measured_beside_langgraphs(postgres: Server) -> None:
    times = savers.on_postgres(postgres.url(), TINY)
    assert {name.partition(", ")[0] for name in times} >= {savers.OURS}
    assert all(some and min(some) > 0 for some in times.values())
    if is_installed(savers.OnPostgres.needs):
        assert [one.goal.measurement for one in results({"saver-postgres": times}) if isinstance(one, Result)]


def test_each_goal_is_of_something_that_is_measured() -> None:
    assert {goal.measurement for goal in GOALS} <= set(MEASUREMENTS)


def test_what_was_not_asked_for_is_not_measured_and_keeps_its_goal() -> None:
    assert results({}) == GOALS
    assert all(isinstance(one, Goal) for one in results({}))


def test_a_part_is_asked_for_by_names_and_patterns() -> None:
    assert chosen("put, get-*") == ["put", "get-cold", "get-hot"]
    assert chosen(None) == list(MEASUREMENTS)
    with pytest.raises(ValueError, match="there is no measurement 'puts'; there are put, put-normal"):
        chosen("put,puts")


def test_turns_begin_with_another_each_round() -> None:
    order: list[str] = []

    def noted(name: str) -> float:
        order.append(name)
        return 1.0

    with opened([], "full") as turns:
        size = TINY._replace(rounds=3, warm_up_turns=0)
        times = turns.take({name: lambda name=name: noted(name) for name in "abc"}, size)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"
    assert times == {name: [1.0, 1.0, 1.0] for name in "abc"}


def test_the_warm_up_ends_when_the_wal_has_kept_its_length(tmp_path: pathlib.Path) -> None:
    raw = RawSQLite()
    lengths = []

    def work() -> float:
        raw.put_all(some_keys())
        lengths.append(pathlib.Path(f"{raw.path}-wal").stat().st_size)
        return 1.0

    def some_keys() -> list[str]:
        return [f"{len(lengths)}-{number}" for number in range(200)]

    with opened([raw], "normal") as turns:
        turns.take({"sqlite3": work}, TINY._replace(warm_up_turns=60))
    assert 5 < len(lengths) < 60
    assert len(set(lengths[-3:])) == 1
    assert lengths[-1] > 4_000_000


async def test_bare_tasks_all_wait_before_the_first_goes_on() -> None:
    await bare_tasks(["a", "b"])


def test_a_turn_in_a_thread_is_in_another_thread() -> None:
    import threading

    assert puts.in_a_thread(lambda: float(threading.get_ident()))() != threading.get_ident()


def test_two_checkouts_are_compared_turn_by_turn() -> None:
    old: list[Times] = [{"ours": [4.0, 2.0, 9.0]}, {"ours": [3.0, 5.0, 4.0]}]
    new: list[Times] = [{"ours": [1.0, 2.0, 8.0]}, {"ours": [2.0, 4.0, 4.0]}]
    assert list(compared(old, new)) == [("ours", 2.0, 1.0, 0.5, [0.5, 1.0])]


@pytest.mark.thorough
def test_a_checkout_is_compared_with_itself_by_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", ".", ".", "--only", "bytes", "--turns", "1", "--cores", "all"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "bytes of file an output of 200 bytes" in done.stdout
    assert "1.00   1.00 1.00 to 1.00" in done.stdout
