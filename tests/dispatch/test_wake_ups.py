"""No wake-up is lost, in any order of what a waiter, this object, another one and the poller do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from contextstore import RunDeletedError
from contextstore._engine.operations import DeleteRun

from ..support.clock import Clock
from ..support.fake_engine import turns
from ..support.interleaving import interleavings
from ..support.waiting import KEY, PUT, Waiting, tell

# -- every interleaving -----------------------------------------------------------------------------------------------


class Waiter:
    """A caller that waits for an output as the store's ``wait_for`` does, and stops before each of its steps."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._gates = {step: asyncio.Event() for step in ("look", "sleep")}
        self.task: asyncio.Task[str] | None = None

    def step(self, step: str) -> None:
        if step == "subscribe":
            self.task = asyncio.ensure_future(self._wait())
        else:
            self._gates[step].set()

    async def _wait(self) -> str:
        place = self._waiting.engine.place
        subscription = self._waiting.subscriptions.subscription(*KEY)
        try:
            await subscription.begin(self._waiting.host, self._waiting.callers)  # type: ignore[arg-type]
            await self._gates["look"].wait()
            while not place.has(KEY):
                if place.is_deleted("run"):
                    raise RunDeletedError("run")
                await self._gates["sleep"].wait()
                await subscription.next(None)
            return "there"
        finally:
            subscription.close()


WAITER = ["subscribe", "look", "sleep"]
OWN = ["store", "tell"]
"""A commit of this object: it is durable first, and told then."""
POLLS = ["poll", "poll"]


async def played(waiting: Waiting, order: Sequence[str]) -> Waiter:
    """The waiter, after the steps in this order and as many looks of the poller as there is something to see."""
    waiter = Waiter(waiting)
    place = waiting.engine.place
    is_stored = False
    for step in order:
        match step:
            case "store":
                is_stored = place.commit_units([[PUT]])[0].error is None
            case "tell":
                tell(waiting.subscriptions, *([PUT] if is_stored else []))
            case "stored elsewhere":
                place.commit_units([[PUT]])
            case "delete" | "deleted elsewhere":
                place.delete("run")
            case "tell deletion":
                tell(waiting.subscriptions, DeleteRun("run"))
            case "close":
                waiting.subscriptions.close()
            case "poll":
                if waiting.engine.is_polled:
                    await waiting.poll()
            case _:
                waiter.step(step)
        await turns(3)
    for _ in range(4):
        if waiting.engine.is_polled:
            await waiting.poll()
    await turns()
    return waiter


def outcome(waiter: Waiter) -> str:
    assert waiter.task is not None
    if not waiter.task.done():
        waiter.task.cancel()
        return "waits"
    error = waiter.task.exception()
    return waiter.task.result() if error is None else type(error).__name__


STORIES: dict[str, tuple[list[list[str]], bool, set[str]]] = {
    "this object's commit": ([WAITER, OWN], False, {"there"}),
    "this object's commit beside a poller": ([WAITER, OWN, POLLS], True, {"there"}),
    "another's commit": ([WAITER, ["stored elsewhere"], POLLS], True, {"there"}),
    "this object's deletion": ([WAITER, ["delete", "tell deletion"]], False, {"RunDeletedError"}),
    "another's deletion": ([WAITER, ["deleted elsewhere"], POLLS], True, {"RunDeletedError"}),
    "close": ([WAITER, ["close"], ["poll"]], True, {"StoreClosedError"}),
    "close without a poller": ([WAITER, ["close"]], False, {"StoreClosedError"}),
    "a commit and then a deletion": (
        [WAITER, [*OWN, "delete", "tell deletion"]],
        False,
        {"there", "RunDeletedError"},
    ),
    "a commit, and another's deletion": (
        [WAITER, ["stored elsewhere", "deleted elsewhere"], POLLS],
        True,
        {"there", "RunDeletedError"},
    ),
    "a commit beside close": ([WAITER, OWN, ["close"]], False, {"there", "StoreClosedError"}),
    "another's commit beside close": (
        [WAITER, ["stored elsewhere"], ["close"], POLLS],
        True,
        {"there", "StoreClosedError"},
    ),
}


@pytest.mark.parametrize("story", STORIES)
async def test_no_wake_up_is_lost_in_any_interleaving_with(story: str, clock: Clock) -> None:
    actors, polls, expected = STORIES[story]
    for order in interleavings(*actors):
        waiting = Waiting(clock, polls=polls)
        waiter = await played(waiting, order)
        assert outcome(waiter) in expected, order
        await waiting.end()
        await turns(1)


async def test_no_wake_up_is_lost_in_orders_of_all_that_can_happen(clock: Clock) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # of what is told of a failure
    choice = random.Random(seed)
    for _ in range(300):
        elsewhere = [["stored elsewhere"], ["deleted elsewhere"], ["delete", "tell deletion"], ["close"], OWN, POLLS]
        order = shuffled(choice, [WAITER, *choice.sample(elsewhere, choice.randrange(1, len(elsewhere)))])
        waiting = Waiting(clock)
        told = outcome(await played(waiting, order))
        place = waiting.engine.place
        possible = {
            "there": "store" in order or "stored elsewhere" in order,
            "RunDeletedError": place.is_deleted("run"),
            "StoreClosedError": "close" in order,
            "waits": not ("close" in order or place.has(KEY) or place.is_deleted("run")),
        }
        assert possible[told], (told, order)
        await waiting.end()


def shuffled(choice: random.Random, actors: Sequence[Sequence[str]]) -> list[str]:
    """The steps of all in some order, each actor's in its own."""
    turns_of = [index for index, steps in enumerate(actors) for _ in steps]
    choice.shuffle(turns_of)
    left = [iter(steps) for steps in actors]
    return [next(left[index]) for index in turns_of]


async def test_who_waits_for_what_does_not_come_waits_in_every_interleaving(clock: Clock) -> None:
    for order in interleavings(WAITER, POLLS):
        waiting = Waiting(clock)
        assert outcome(await played(waiting, order)) == "waits"
        await waiting.end()
