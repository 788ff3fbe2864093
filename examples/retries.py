"""Steps that are tried again, by stamina: each try is an attempt that the store knows.

    pip install contextstore stamina
    python examples/retries.py flows.db         # prints what was tried, and the answer
    python examples/retries.py flows.db         # replays: nothing is tried

The service is a stand-in that fails at first. The tries that a run has had are counted by the store, so a process that
was killed goes on with those that are left.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import stamina

from contextstore import ContextStore, FlowRun

T = TypeVar("T")

MOST_TRIES = 5


class Service:
    """It answers once it has been asked often enough."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def price(self, item: str) -> float:
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError(f"no price of {item}: the service is busy")
        return {"lamp": 20.0, "chair": 45.5}[item]


def tried(run: FlowRun, node_id: str, fn: Callable[[str], T], argument: str) -> T:
    """The step's output. In all processes together it is tried so many times."""
    failed = sum(attempt.error is not None for attempt in run.attempts(node_id))
    left = max(1, MOST_TRIES - failed)
    for attempt in stamina.retry_context(on=ConnectionError, attempts=left, wait_initial=0.01, wait_max=0.1):
        with attempt:
            price = run.step(node_id, fn, argument)
    return price


def main(path: str) -> None:
    with ContextStore(path) as store:
        run = store.run("order-1")
        service = Service(failures=0 if run.list_keys() else 2)
        price = tried(run, "price", service.price, "lamp")
        for attempt in run.attempts("price"):
            print(attempt.number, attempt.error or "made the output")
        print("the lamp costs", price)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: retries.py FILE", file=sys.stderr)
        sys.exit(2)
    main(sys.argv[1])
