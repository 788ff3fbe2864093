"""What a finalizer waits for may wait for its thread's own place: no thread holds a lock where one may run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from contextstore._process.own_threads import OwnThreads
from contextstore._waiting.callers import Binding
from contextstore._waiting.deadlock import Computation, running, waiting_for
from contextstore._waiting.key_lock import KeyedLock
from contextstore._waiting.single_flight import Flight, Flights
from contextstore._waiting.threads import ThreadCallers, run_now

from ..process.test_interrupts import Interrupt, at_every_instruction, places


class Finalizer(Interrupt):
    """Runs where the collector may, or a signal handler, and waits for what another thread does."""

    def __init__(self, at: int, work: Callable[[], Any]) -> None:
        super().__init__(at)
        self._work = work
        self.has_waited_in_vain = False

    def strike(self) -> None:
        other = threading.Thread(target=self._work, daemon=True)
        other.start()
        other.join(5)
        self.has_waited_in_vain = other.is_alive()


NOWHERE = Binding("nowhere", OwnThreads("nowhere"))


def fly(flights: Flights, key: str) -> None:
    callers = ThreadCallers(NOWHERE, flights)

    async def compute() -> int:
        return 1

    assert run_now(callers.single_flight(key, compute)) == 1


def land_last(flights: Flights, key: str) -> None:
    """The last caller of a task's computation leaves."""
    flight = Flight(None)
    flight.task = object()  # type: ignore[assignment]  # stands for a task
    assert flights.enter(key, flight) is flight
    assert flights.leave(key, flight, flight)


def take_turn(lock: KeyedLock, key: str) -> None:
    async def work() -> int:
        return 1

    assert run_now(lock.run_locked(ThreadCallers(NOWHERE), key, work)) == 1


def join_a_later_one() -> None:
    own, later = Computation(), Computation()
    with running(own), waiting_for(later, "key"):
        pass


flights = Flights()
lock = KeyedLock()
CALLS: dict[str, Callable[[str], None]] = {
    "a flight": lambda key: fly(flights, key),
    "a flight that is left": lambda key: land_last(flights, key),
    "a turn": lambda key: take_turn(lock, key),
    "a wait for what was begun later": lambda _: join_a_later_one(),
}


@at_every_instruction
@pytest.mark.parametrize("call", CALLS)
def test_a_finalizer_may_wait_for_another_thread_that_makes_the_same_call(call: str) -> None:
    for at in places():
        finalizer = Finalizer(at, lambda: CALLS[call]("other"))
        finalizer.run(lambda: CALLS[call]("key"))
        if finalizer.where is None:
            break
        assert not finalizer.has_waited_in_vain, finalizer.where
    assert at > 5
    assert flights.by_key == {}
    assert lock._queues == {}


def test_a_computation_that_its_last_two_callers_leave_at_once_is_cancelled_once() -> None:
    class Task:
        cancelled = 0

        def cancel(self) -> None:
            self.cancelled += 1

    class Callers(set[object]):
        """Of which another thread takes one out, and looks, just as this one has done so."""

        def discard(self, caller: object) -> None:
            super().discard(caller)
            if len(self) == 1:
                left.append(own.leave("key", flight, next(iter(self))))

    class Loop:
        def is_closed(self) -> bool:
            return False

        def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
            callback()

    own, left = Flights(), []
    flight = Flight(Loop())  # type: ignore[arg-type]  # stands for a loop
    task: Any = Task()
    flight.task, flight.callers = task, Callers(["one", "other"])
    own.enter("key", flight)
    left.append(own.leave("key", flight, "one"))
    assert sorted(left) == [False, True]
    assert task.cancelled == 1
    assert own.by_key == {}


def test_threads_that_ask_for_a_key_at_once_again_and_again_compute_it_one_at_a_time() -> None:
    own, here, most, computed = Flights(), [0], [0], [0]
    callers = ThreadCallers(NOWHERE, own)

    async def compute() -> int:
        here[0] += 1
        most[0] = max(most[0], here[0])
        computed[0] += 1
        here[0] -= 1
        return 1

    def work() -> None:
        for _ in range(2000):
            run_now(callers.single_flight("key", compute))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert 0 < computed[0] <= 16_000
    assert own.by_key == {}
