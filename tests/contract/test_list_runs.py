"""``list_runs`` by its filters: which runs come, in which order, page by page, whatever index leads to them."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import json
import random
import time
from typing import Any

import pytest

from contextstore import FlowRun, InvalidKeyError
from contextstore._core import run_listing

from .runs import runs_of
from .test_batch import begun

STATES = ("open", "completed", "failed", "cancelled")
PREFIXES = ("", "a", "ab", "a%", "none")
PARENTS = (None, "p", "'q")
ATTRIBUTES: tuple[dict[str, Any], ...] = ({}, {"x": 1}, {"x": 1.0, "y": "é"}, {"y": "é", "z": True}, {'"; --': "%"})
HOUR = datetime.timedelta(hours=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


async def said(store: Any, name: str, call: str, **facts: Any) -> Any:
    """What a call of the run object gives, on whichever face."""
    run = store.run(name)
    run = await run if inspect.isawaitable(run) else run
    function = getattr(run, call)
    result = await asyncio.to_thread(function, **facts) if isinstance(run, FlowRun) else function(**facts)
    return await result if inspect.isawaitable(result) else result


async def made(store: Any, name: str, **facts: Any) -> Any:
    """A run that is begun with these, and has an output."""
    info = await said(store, name, "begin", **facts)
    await store.put(name, "node", 1)
    return info


class Model:
    """What was said of runs, and what a listing of them is."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.runs: dict[str, dict[str, Any]] = {}

    async def fill(self, store: Any, count: int) -> None:
        for number in range(count):
            name = self.chance.choice(PREFIXES[1:4]) + str(number)
            facts: dict[str, Any] = {"state": "open", "attributes": {}, "parent": None, "begun_at": None}
            if self.chance.random() < 0.3:
                await store.put(name, "node", 1)
            else:
                facts |= {"attributes": self.chance.choice(ATTRIBUTES), "parent": self.chance.choice(PARENTS)}
                info = await said(store, name, "begin", attributes=facts["attributes"], parent=facts["parent"])
                facts["begun_at"] = info.begun_at
            if self.chance.random() < 0.5:
                facts["state"] = self.chance.choice(STATES)
                await said(store, name, "update", state=facts["state"])
            self.runs[name] = facts | {"serial": number}
        for name in self.chance.sample(sorted(self.runs), count // 10):
            await store.delete_run(name)
            del self.runs[name]

    def query(self) -> dict[str, Any]:
        chance, times = self.chance, [run["begun_at"] for run in self.runs.values() if run["begun_at"]]
        options: dict[str, Any] = {
            "state": chance.choice([*STATES, ("open", "failed"), ("cancelled", "completed", "open"), {"failed"}]),
            "parent": chance.choice(["p", "'q", "nobody"]),
            "attributes": chance.choice([*ATTRIBUTES, {"x": True}, {"x": "1"}]),
            "prefix": chance.choice(PREFIXES),
            "since": chance.choice(times),
            "until": chance.choice(times),
            "oldest_first": True,
        }
        return {name: options[name] for name in options if chance.random() < 0.4}

    def listed(self, query: dict[str, Any]) -> list[str]:
        is_by_begin = "since" in query or "until" in query

        def key(name: str) -> tuple[Any, ...]:
            run = self.runs[name]
            return (run["begun_at"] if is_by_begin else None, run["serial"])[0 if is_by_begin else 1 :]

        fitting = [name for name, run in self.runs.items() if _fits(name, run, query)]
        return sorted(fitting, key=key, reverse="oldest_first" not in query)


def _fits(name: str, run: dict[str, Any], query: dict[str, Any]) -> bool:
    begun_at = run["begun_at"]
    if ("since" in query or "until" in query) and begun_at is None:
        return False
    given = {key: json.dumps(value) for key, value in run["attributes"].items()}
    state = query.get("state", run["state"])
    return (
        name.startswith(query.get("prefix", ""))
        and run["state"] in ([state] if isinstance(state, str) else state)
        and query.get("parent", run["parent"]) == run["parent"]
        and all(given.get(key) == json.dumps(value) for key, value in query.get("attributes", {}).items())
        and ("since" not in query or begun_at >= query["since"])
        and ("until" not in query or begun_at < query["until"])
    )


async def all_pages(store: Any, query: dict[str, Any], limit: int) -> list[str]:
    found: list[str] = []
    while page := await runs_of(store, **query, limit=limit, after=found[-1] if found else None):
        found += page
    return found


@pytest.mark.each_input_once
@pytest.mark.parametrize(("first", "most"), [(1, 1), (3, 2), (7, 5), (2000, 10_000)])
async def test_any_filters_list_what_a_model_lists(
    store: Any, monkeypatch: pytest.MonkeyPatch, first: int, most: int
) -> None:
    monkeypatch.setattr(run_listing, "_FIRST_LOOK", first)
    monkeypatch.setattr(run_listing, "_MOST_LOOKS", most)
    seed = time.time_ns()
    model = Model(random.Random(seed))
    await model.fill(store, 40)
    for _ in range(40):
        query, limit = model.query(), model.chance.choice([1, 2, 7, 100])
        assert await all_pages(store, query, limit) == model.listed(query), (seed, query, limit)


async def test_a_run_shows_what_was_said_of_it_and_how_many_outputs_it_has(store: Any) -> None:
    await made(store, "run", attributes={"who": "ann"}, parent="above")
    await said(store, "run", "update", state="failed", error="boom")
    (info,) = await store.list_runs()
    assert (info.state, info.error, info.attributes, info.parent) == ("failed", "boom", {"who": "ann"}, "above")
    assert (info.outputs, info) == (1, await store.get_run_info("run"))


async def test_a_run_that_was_only_begun_is_listed(store: Any) -> None:
    await said(store, "run", "begin")
    (info,) = await store.list_runs(state="open")
    assert (info.flow_run_id, info.outputs, info.first_written_at) == ("run", 0, None)


async def test_attributes_are_compared_as_json(store: Any) -> None:
    for name, value in {"int": 1, "float": 1.0, "bool": True, "text": "1"}.items():
        await made(store, name, attributes={"a": value})
    for name, value in {"int": 1, "float": 1.0, "bool": True, "text": "1"}.items():
        assert await runs_of(store, attributes={"a": value}) == [name]


async def test_a_page_goes_on_behind_a_run_that_was_deleted_meanwhile(store: Any) -> None:
    for number in range(6):
        await made(store, f"run-{number}", attributes={"a": 1})
    since = now() - HOUR
    await store.delete_run("run-3")
    for query in ({}, {"state": "open"}, {"attributes": {"a": 1}}, {"since": since}, {"prefix": "run"}):
        assert await runs_of(store, after="run-3", **query) == ["run-2", "run-1", "run-0"]
        assert await runs_of(store, after="run-3", oldest_first=True, **query) == ["run-4", "run-5"]


async def test_a_run_that_was_forgotten_altogether_is_no_place_to_go_on(store: Any) -> None:
    await made(store, "run")
    await store.delete_run("run", forget=True)
    with pytest.raises(InvalidKeyError, match="begin anew"):
        await store.list_runs(after="run")


async def test_a_run_that_was_never_begun_is_no_place_in_the_order_of_begins(store: Any) -> None:
    await store.put("run", "node", 1)
    assert await store.list_runs(since=now() - HOUR) == []
    with pytest.raises(InvalidKeyError, match="never begun"):
        await store.list_runs(after="run", until=now())


async def test_since_is_included_and_until_is_not(store: Any) -> None:
    first, second = await made(store, "first"), await made(store, "second")
    assert await runs_of(store, since=first.begun_at) == ["second", "first"]
    assert await runs_of(store, until=second.begun_at, since=first.begun_at) == (
        ["first"] if first.begun_at < second.begun_at else []
    )
    assert await runs_of(store, since=now() + HOUR) == []


async def test_a_time_in_any_zone_is_the_same_time(store: Any) -> None:
    info = await made(store, "run")
    there = info.begun_at.astimezone(datetime.timezone(-11 * HOUR))
    assert await runs_of(store, since=there) == ["run"]


@pytest.mark.parametrize("name", ["since", "until"])
async def test_a_naive_time_is_refused_by_name(store: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be aware"):
        await store.list_runs(**{name: datetime.datetime(2026, 1, 1)})
    with pytest.raises(TypeError, match=name):
        await store.list_runs(**{name: "2026-01-01"})


@pytest.mark.each_input_once
@pytest.mark.parametrize("state", ["Open", "", "deleted", "done"])
async def test_an_unknown_state_is_refused(store: Any, state: str) -> None:
    with pytest.raises(ValueError, match="state must be one of"):
        await store.list_runs(state=state)
    with pytest.raises(ValueError, match="state must be one of"):
        await store.list_runs(state=("open", state))
    with pytest.raises(TypeError, match="state"):
        await store.list_runs(state=5)
    with pytest.raises(ValueError, match="none was passed"):
        await store.list_runs(state=[])


async def test_what_can_be_no_attribute_is_refused(store: Any) -> None:
    for attributes in ({"a": None}, {"a": [1]}, {1: 1}, "a", {"a": float("nan")}):
        with pytest.raises((TypeError, ValueError), match="attributes"):
            await store.list_runs(attributes=attributes)


@pytest.mark.each_input_once
@pytest.mark.parametrize("name", ["'", '"', "%", "_", "; DROP TABLE flow_runs; --", "\\", "é", "$1", ":state", "a\nb"])
async def test_hostile_names_are_data(store: Any, name: str) -> None:
    await made(store, "other", attributes={"plain": "x"}, parent="other")
    await made(store, name, attributes={name: name}, parent=name)
    for query in ({"attributes": {name: name}}, {"parent": name}, {"prefix": name}):
        assert await runs_of(store, **query) == [name]
        assert await runs_of(store, state="open", since=now() - HOUR, **query) == [name]


async def test_no_run_comes_twice_while_others_are_begun_ended_and_deleted(store: Any) -> None:
    async with begun(store) as batch:
        for number in range(60):
            batch.put(f"run-{number:02}", "node", 1)

    async def disturb() -> None:
        for number in range(0, 60, 3):
            await store.put(f"new-{number}", "node", 1)
            await said(store, f"run-{number:02}", "update", state="completed")
            await store.delete_run(f"run-{number + 1:02}")

    disturbing = asyncio.ensure_future(disturb())
    found = await all_pages(store, {}, 5)
    await disturbing
    assert len(found) == len(set(found))
    left = {f"run-{number:02}" for number in range(60) if number % 3 != 1}
    assert left <= set(found)


async def test_a_listing_by_state_shows_no_run_in_another(store: Any) -> None:
    for number in range(8):
        await made(store, f"run-{number}", attributes={"a": 1})
        await said(store, f"run-{number}", "update", state=STATES[number % 4])
    for state in STATES:
        infos = await store.list_runs(state=state, attributes={"a": 1}, prefix="run")
        assert [info.state for info in infos] == [state, state]
