"""ContextStore: what is called in the middle of a fork is refused, and never waits for what waits for the fork."""

from __future__ import annotations

import itertools
import pathlib

import pytest

from contextstore import ContextStore

from ..support.portions import first_of
from ..support.processes import run

_PROGRAM = """
    import gc, threading
    from contextstore import WrongLoopError
    from contextstore._process import fork

    signal.alarm(30)
    warnings.simplefilter("ignore")
    store = ContextStore(sys.argv[1])
    store.put("run", "node", 1)
    outcomes = []

    def call():
        try:
            CALL
        except WrongLoopError:
            outcomes.append("refused")
        else:
            outcomes.append("served")

    class Cycle:
        def __init__(self):
            self.itself = self

        def __del__(self):
            call()

    def collect():
        Cycle()
        gc.collect()

    def interrupt():
        os.kill(os.getpid(), signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, lambda *_: call())
    # As a program's own hooks that were registered before this package was imported: while all stands still.
    fork._before.insert(0, WHAT)
    fork._in_parent.insert(0, WHAT)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert outcomes == ["refused"] * 6, outcomes
    call()
    assert outcomes[6:] == ["served"], outcomes
    store.put("run", "last", 1)
    store.close()
"""

CALLS = {
    "put": 'store.put("called", str(len(outcomes)), 1)',
    "put_many": 'store.put_many("called", {str(len(outcomes)): 1, "second " + str(len(outcomes)): 1})',
    "get": 'store.get("run", "missing")',
    "stats": "store.stats()",
    "ping": "store.ping()",
}


WHATS = ["collect", "interrupt", "call"]
EACH_ONCE = [*zip(CALLS, itertools.cycle(WHATS))]


@pytest.mark.parametrize(
    ("call", "what"), first_of([*EACH_ONCE, *sorted({*itertools.product(CALLS, WHATS)} - {*EACH_ONCE})], len(EACH_ONCE))
)
def test_a_call_in_the_middle_of_a_fork_is_refused_and_later_ones_are_served(
    file_path: pathlib.Path, what: str, call: str
) -> None:
    """By a finalizer, a signal handler, or another hook."""
    run(_PROGRAM.replace("CALL", CALLS[call]).replace("WHAT", what), file_path)
    with ContextStore(file_path) as store:
        assert store.list_keys("run") == ["last", "node"]
        assert len(store.list_keys("called")) == {"put": 1, "put_many": 2}.get(call, 0)
