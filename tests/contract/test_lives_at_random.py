"""Lives of ids against a model: many run objects, deletions, and processes that write late, or are killed."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from typing import Any

import pytest

from contextstore import AlreadyExistsError, ContextStore, RunDeletedError

from ..conftest import Target
from ..support.doubles import core_of
from ..support.forked import Child
from .test_flow_run import Bound

IDS = ("one", "two")
NODES = ("a", "b", "c")


class Run:
    """A run as the model has it."""

    def __init__(self) -> None:
        self.outputs: dict[str, int] = {}
        self.is_deleted = False


class Model:
    """What is stored under the ids, and to which run each run object belongs."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.bound: dict[int, Run] = {}

    def alive(self, name: str) -> Run | None:
        run = self.runs.get(name)
        return None if run is None or run.is_deleted else run

    def of(self, number: int, name: str) -> Run | None:
        """The run that the run object comes to with this call, if it is alive."""
        alive = self.alive(name)
        if number not in self.bound and alive is not None:
            self.bound[number] = alive
        own = self.bound.get(number)
        return own if own is not None and own is alive else None

    def put(self, number: int | None, name: str, node: str, value: int) -> type[Exception] | None:
        run = self.alive(name) if number is None else self.of(number, name)
        if run is None:
            if (number is not None and number in self.bound) or name in self.runs:
                return RunDeletedError
            run = self.runs[name] = Run()
            if number is not None:
                self.bound[number] = run
        if node in run.outputs:
            return AlreadyExistsError
        run.outputs[node] = value
        return None

    def delete(self, number: int | None, name: str, *, forget: bool) -> int:
        if number is not None:
            self.of(number, name)
            if number in self.bound and self.runs.get(name) is not self.bound[number]:
                return 0
        run = self.runs.setdefault(name, Run())
        outputs = 0 if run.is_deleted else len(run.outputs)
        run.is_deleted = True
        if forget:
            del self.runs[name]
        return outputs


async def outcome_of(awaited: Any) -> Any:
    try:
        return await awaited
    except (RunDeletedError, AlreadyExistsError) as error:
        return type(error)


@pytest.mark.parametrize("round_", range(3))
async def test_calls_of_many_run_objects_do_what_the_model_does(
    make_store: Target, shared_target: None, round_: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    stores = [make_store(), make_store()]
    exact = core_of(stores[0])._session.engine.epochs.is_exact
    if not exact:  # another object's memory may answer for a second more
        stores = stores[:1]
    model = Model()
    objects: list[tuple[str, Bound]] = []
    for step in range(250):
        name, node, store = chance.choice(IDS), chance.choice(NODES), chance.choice(stores)
        if not objects or chance.random() < 0.1:
            objects.append((name, Bound(store, name)))
        number = chance.randrange(max(0, len(objects) - 6), len(objects))
        own, run = objects[number]
        match chance.choice(("put", "put", "get", "get", "list", "step", "store put", "store get", "delete", "store")):
            case "put":
                assert await outcome_of(run.put(node, step)) == model.put(number, own, node, step)
            case "get":
                there = model.of(number, own)
                assert await run.get(node) == (there.outputs.get(node) if there else None)
            case "list":
                there = model.of(number, own)
                assert await run.list_keys() == (sorted(there.outputs) if there else [])
            case "step":
                there = model.of(number, own)
                if there is not None and node in there.outputs:
                    assert await run.step(node, lambda: -1) == there.outputs[node]
                else:
                    expected = model.put(number, own, node, step) or step
                    assert await outcome_of(run.step(node, lambda value: value, step)) == expected
            case "store put":
                assert await outcome_of(store.put(name, node, step)) == model.put(None, name, node, step)
            case "store get":
                there = model.alive(name)
                assert await store.get(name, node) == (there.outputs.get(node) if there else None)
            case "delete":
                forget = chance.random() < 0.5
                assert await run.delete(forget=forget) == model.delete(number, own, forget=forget)
            case "store":
                forget = chance.random() < 0.8
                assert await store.delete_run(name, forget=forget) == model.delete(None, name, forget=forget)


WRITER = """
    import itertools
    with ContextStore(sys.argv[1]) as store:
        say("ready")
        refused = 0
        while store.get_global("end") is None:
            run = store.run("thread")
            life = run.get("life")
            if life is None:
                continue
            try:
                for number in itertools.count():
                    if number % 20 == 0 and store.get_global("end"):
                        break
                    run.put(f"{sys.argv[2]}-{number}", life, exist_ok=True)
            except errors.RunDeletedError:
                refused += 1
        say(refused)
"""
OWNER = """
    with ContextStore(sys.argv[1]) as store:
        for life in range(int(sys.argv[2]), 10**6):
            store.delete_run("thread", forget=True)
            store.put("thread", "life", life)
            say(life)
            time.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_late_writers_of_other_processes_never_write_to_the_next_life(
    engine: str, request: pytest.FixtureRequest
) -> None:
    """A thread of a conversation is deleted and begun anew, again and again, by an owner that is killed meanwhile."""
    place = request.getfixturevalue("url" if engine == "postgres" else "file_path")
    with ContextStore(place) as store, contextlib.ExitStack() as stack:
        writers = [stack.enter_context(Child(WRITER, place, number)) for number in range(2)]
        assert [writer.hear() for writer in writers] == ["ready", "ready"]
        lives = 0
        for _ in range(3):
            with Child(OWNER, place, lives) as owner:
                for _ in range(8):
                    lives = int(owner.hear()) + 1
                time.sleep(random.uniform(0, 0.02))
                owner.signal(signal.SIGKILL)
            present = store.get_run("thread")
            assert len(set(present.values())) <= 1, present
        # In whatever state the last kill has left it.
        with contextlib.suppress(RunDeletedError, AlreadyExistsError):
            store.put("thread", "life", lives)
        store.put_global("end", True)
        assert sum(int(writer.hear()) for writer in writers) > 0
        present = store.get_run("thread")
        assert len(set(present.values())) <= 1, present
        store.delete_run("thread", forget=True)
        assert store.check().ok
        assert (store.stats().tombstones, store.stats().outputs) == (0, 0)
