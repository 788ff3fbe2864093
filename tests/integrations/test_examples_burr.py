"""examples/burr_persister.py: an application that was killed goes on, and the persister keeps Burr's contract."""

from __future__ import annotations

import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from burr.core import ApplicationBuilder, State, action

from contextstore import AlreadyExistsError, ContextStore

from ..support.examples import EXAMPLES, load, run, start

EXAMPLE = "burr_persister.py"


@pytest.fixture
def store(target: str) -> Iterator[ContextStore]:
    with ContextStore(target) as opened:
        yield opened


@pytest.fixture
def persister(store: ContextStore) -> Any:
    return load(EXAMPLE).ContextStorePersister(store)


def test_it_has_fewer_than_sixty_lines() -> None:
    assert len((EXAMPLES / EXAMPLE).read_text().splitlines()) < 60


@pytest.mark.thorough
def test_a_killed_application_goes_on_after_its_last_step(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows.db"
    with start(EXAMPLE, path) as process:
        assert process.stdout is not None
        before = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGKILL)
        before += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    with ContextStore(path) as store:
        saved = len(store.list_keys("burr//counter"))
    assert saved in (len(before) - 1, len(before))
    assert run(EXAMPLE, path) == (0, [f"counting to {number}" for number in range(saved + 1, 10)])
    assert run(EXAMPLE, path) == (0, [])


def test_a_state_comes_back_by_its_step_or_as_the_newest(persister: Any) -> None:
    assert persister.load("users", "app") is None
    for step in range(12):
        persister.save("users", "app", step, f"action {step}", State({"number": step}), "completed")
    newest = persister.load("users", "app")
    assert newest.keys() == {"partition_key", "app_id", "sequence_id", "position", "state", "created_at", "status"}
    assert (newest["sequence_id"], newest["position"], newest["state"]["number"]) == (11, "action 11", 11)
    assert persister.load("users", "app", 3)["state"]["number"] == 3
    assert persister.load("users", "app", 0)["state"]["number"] == 0
    assert persister.load("users", "app", 12) is None
    assert persister.load(None, "app") is None


def test_applications_are_listed_by_partition_the_newest_first(persister: Any) -> None:
    for partition, app in [("a", "b/c"), ("a/b", "c"), (None, "c"), ("a", "d")]:
        persister.save(partition, app, 0, "count", State({}), "completed")
    assert persister.list_app_ids("a") == ["d", "b/c"]
    assert persister.list_app_ids("a/b") == ["c"]
    assert persister.list_app_ids(None) == ["c"]
    assert persister.list_app_ids("b") == []


@pytest.mark.thorough
def test_more_applications_than_a_page_has_are_all_listed(persister: Any) -> None:
    for number in range(230):
        persister.save("many", str(number), 0, "count", State({}), "completed")
    assert persister.list_app_ids("many") == [str(number) for number in reversed(range(230))]


def test_a_save_may_be_repeated_and_another_state_of_its_step_is_refused(persister: Any) -> None:
    persister.save("users", "app", 0, "count", State({"count": 1}), "completed")
    persister.save("users", "app", 0, "count", State({"count": 1}), "completed")
    with pytest.raises(AlreadyExistsError):
        persister.save("users", "app", 0, "count", State({"count": 2}), "completed")


def test_an_action_that_failed_is_run_again_and_then_the_application_goes_on(persister: Any) -> None:
    calls = []

    @action(reads=["count"], writes=["count"])
    def count(state: State[Any]) -> State[Any]:
        calls.append(state["count"])
        if len(calls) == 2:
            raise ValueError("not now")
        return state.update(count=state["count"] + 1)

    def built() -> Any:
        builder: Any = ApplicationBuilder().with_actions(count).with_transitions(("count", "count"))
        builder.with_identifiers(app_id="app").with_state_persister(persister)
        return builder.initialize_from(persister, True, {"count": 0}, "count").build()

    app = built()
    app.step()
    with pytest.raises(ValueError, match="not now"):
        app.step()
    assert persister.load(None, "app")["status"] == "failed"
    app = built()
    app.step()
    app.step()
    assert (calls, app.state["count"]) == ([0, 1, 1, 2], 3)


def test_an_application_is_forked_from_any_step_of_another(persister: Any) -> None:
    for step in range(5):
        persister.save("users", "app", step, "count", State({"count": step + 1}), "completed")

    @action(reads=["count"], writes=["count"])
    def count(state: State[Any]) -> State[Any]:
        return state.update(count=state["count"] * 10)

    builder: Any = ApplicationBuilder().with_actions(count).with_transitions(("count", "count"))
    builder.with_identifiers(app_id="fork", partition_key="users").with_state_persister(persister)
    builder.initialize_from(
        persister, True, {}, "count", fork_from_app_id="app", fork_from_partition_key="users", fork_from_sequence_id=2
    )
    builder.build().step()
    assert persister.load("users", "fork")["state"]["count"] == 30
    assert persister.load("users", "app")["state"]["count"] == 5
