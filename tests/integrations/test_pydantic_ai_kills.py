"""Agents in processes that are killed, anywhere: nothing that was recorded is done again, and the end is the same."""

from __future__ import annotations

import pathlib
import random
from collections import Counter

import pytest

pytest.importorskip("pydantic_ai")

from contextstore import ContextStore

from ..support.forked import Child

PROGRAM = """
import pathlib, random
from contextstore.integrations.pydantic_ai import ContextStoreDurability
from pydantic_ai import Agent
from tests.support.agents import Script

target, effects, way, *kill_at = sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:]

def effect(what):
    # As a payment, or a mail: what is done outside of the store, and cannot be taken back.
    descriptor = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (what + "\\n").encode())
    os.close(descriptor)

class Asked(Script):
    def respond(self, messages, info):
        response = super().respond(messages, info)
        effect("asked " + self.name + " " + str(sum(m.kind == "response" for m in messages)))
        return response

planner = Asked(
    [("look", {"number": 1}), ("look", {"number": 2}), ("delegate", {"task": "sum"})],
    [("look", {"number": 3})],
    [("write", {"text": "report"})],
    "planned",
)
planner.name = "planner"
worker = Asked([("look", {"number": 10})], [("look", {"number": 11})], "worked")
worker.name = "worker"

def make(store):
    durability = ContextStoreDurability(store)
    sub = Agent(worker.model(), name="worker", capabilities=[ContextStoreDurability(store)])
    agent = Agent(planner.model(), name="planner", capabilities=[durability])

    @agent.tool_plain
    @sub.tool_plain
    async def look(number: int) -> int:
        await asyncio.sleep(0.001)
        effect(f"look {number}")
        return number * number

    @agent.tool_plain
    async def delegate(task: str) -> str:
        result = await sub.run(task)
        return result.output

    @agent.tool_plain
    def write(text: str) -> str:
        effect(f"write {text}")
        return "written"

    return agent, durability

def ended(first, second):
    say("ended", first.output, second.output, first.usage.requests, second.usage.requests)

async def awaiting():
    async with AsyncContextStore(target) as store:
        agent, durability = make(store)
        say("ready")
        async with durability.flow_run("job", attributes={"kind": "report"}):
            first = await agent.run("begin")
            second = await agent.run("again", message_history=first.all_messages())
        ended(first, second)

def blocking():
    with ContextStore(target) as store:
        agent, durability = make(store)
        say("ready")
        with durability.flow_run("job", attributes={"kind": "report"}):
            first = agent.run_sync("begin")
            second = agent.run_sync("again", message_history=first.all_messages())
        ended(first, second)

planner.turns = planner.turns + ([("look", {"number": 4})], "again planned")
if kill_at:
    # Before the effect with this number is recorded, or after it was done: the worst moments that there are.
    number, when = kill_at
    wanted, count, real = int(number), 0, effect
    def effect(what):
        global count
        count += 1
        if count == wanted and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(what)
        if count == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
blocking() if way == "blocking" else asyncio.run(awaiting())
"""

IMPORTS = ("pydantic_ai", "contextstore.integrations.pydantic_ai", "tests.support.agents")

EFFECTS = Counter(
    {
        **{f"asked planner {number}": 1 for number in range(6)},
        **{f"asked worker {number}": 1 for number in range(3)},
        **{f"look {number}": 1 for number in (1, 2, 3, 4, 10, 11)},
        "write report": 1,
    }
)
END = "ended planned again planned 4 2"


def effects_recorded_in(target: str) -> int:
    """How many steps with an effect the flow run has: all but the delegation."""
    with ContextStore(target) as store:
        return len([node_id for node_id in store.list_keys("job") if not node_id.endswith("delegate/call_0_2")])


def effects_in(path: pathlib.Path) -> Counter[str]:
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def assert_ended(target: str, effects: pathlib.Path, kills: int) -> None:
    """Each effect was had, and one more at most for each kill: that of the step which was not recorded yet."""
    counted = effects_in(effects)
    assert counted.keys() == EFFECTS.keys()
    assert (counted - EFFECTS).total() <= kills * 3  # as many as are in flight at once
    with ContextStore(target) as store:
        info = store.get_run_info("job")
        assert info is not None
        assert (info.state, info.failures, info.attributes) == ("completed", 0, {"kind": "report"})
        assert info.outputs == len(EFFECTS) + 1  # and the delegation


def run(target: str, effects: pathlib.Path, way: str, *kill_at: object) -> list[str]:
    with Child(PROGRAM, target, effects, way, *kill_at, imports=IMPORTS) as child:
        status, said, errors = child.end(timeout=120)
    assert status in (0, -9), errors
    return said


@pytest.mark.parametrize("way", ["awaiting", "blocking"])
def test_undisturbed_each_effect_is_had_once(target: str, tmp_path: pathlib.Path, way: str) -> None:
    assert run(target, tmp_path / "effects", way)[-1] == END
    assert effects_in(tmp_path / "effects") == EFFECTS
    assert run(target, tmp_path / "effects", way)[-1] == END  # a completed one does nothing
    assert effects_in(tmp_path / "effects") == EFFECTS
    assert_ended(target, tmp_path / "effects", kills=0)


@pytest.mark.parametrize(
    ("number", "when"),
    [
        pytest.param(n, when, marks=() if (n, when) == (7, "after") else pytest.mark.slow)
        for n in (1, 2, 3, 5, 7, 9, 11, 12, 14, 16)
        for when in ("before", "after")
    ],
)
def test_killed_at_an_effect_the_run_goes_on_there(target: str, tmp_path: pathlib.Path, number: int, when: str) -> None:
    """A step that is cut off before its result is recorded is done again; no other one is."""
    effects = tmp_path / "effects"
    said = run(target, effects, "awaiting", number, when)
    assert said == ["ready"]
    before, recorded = effects_in(effects), effects_recorded_in(target)
    assert before.total() == (number - 1 if when == "before" else number)
    assert run(target, effects, "awaiting")[-1] == END
    after = effects_in(effects)
    # What was had and not recorded is had again: the one that was cut off, and those that were in flight beside it.
    assert (after - EFFECTS).total() == before.total() - recorded
    assert_ended(target, effects, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["awaiting", "blocking"])
def test_killed_at_random_again_and_again_it_ends_as_if_undisturbed(
    target: str, tmp_path: pathlib.Path, way: str
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    effects, kills = tmp_path / "effects", 0
    for _ in range(40):
        with Child(PROGRAM, target, effects, way, imports=IMPORTS) as child:
            assert child.hear() == "ready"
            # From its first request on to somewhat beyond its end.
            wanted = effects_in(effects).total() + chance.randrange(0, 4)
            while child.process.poll() is None and effects_in(effects).total() < wanted:
                pass
            child.kill()
            kills += 1
            if END in child.hear_all():
                break
    assert run(target, effects, way)[-1] == END
    assert_ended(target, effects, kills)
