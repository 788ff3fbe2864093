"""Holders of leases that die, are stopped, or fork: they are succeeded, and what they write late is refused."""

from __future__ import annotations

import os
import pathlib
import signal
import time

import pytest

from contextstore import ContextStore, LeaseHeldError, StoreBusyError

from ..support.forked import Child
from .programs import run_with_fork

PATIENCE = 60
"""Seconds that guard against a hang, and say nothing else."""

HOLDS = """
    store = ContextStore(sys.argv[1])
    with store.lease("name", ttl=float(sys.argv[2])) as lease:
        run = store.run("run", lease=lease)
        run.append("log/", lease.token)
        say("holds", lease.token)
        sys.stdin.readline()
        try:
            run.append("log/", "late")
            say("written")
        except LeaseLostError:
            say("refused")
        say("lost" if lease.lost else "held")
"""

STOPS_BEFORE_ITS_COMMIT = """
    from contextstore._sqlite.writes import Transactions
    from contextstore._postgres.connection import Connection

    is_armed = False

    def stop():
        global is_armed
        if is_armed:
            is_armed = False
            say("stopped")
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # to this thread: it goes no further

    commit, execute = Transactions._commit, Connection.execute

    def stopped_commit(self, deletes_runs):
        stop()
        return commit(self, deletes_runs)

    async def stopped_execute(self, deadline, query, *arguments):
        if query == "COMMIT":
            stop()
        return await execute(self, deadline, query, *arguments)

    Transactions._commit, Connection.execute = stopped_commit, stopped_execute
    store = ContextStore(sys.argv[1])
    with store.lease("name", ttl=0.3) as lease:
        run = store.run("run", lease=lease)
        run.put("first", lease.token)
        is_armed = True
        try:
            run.put("second", lease.token)
            say("written")
        except LeaseLostError:
            say("refused")
"""


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("url"))
    return str(request.getfixturevalue("tmp_path") / "store.db")


def test_a_holder_that_is_killed_is_succeeded(place: str) -> None:
    with Child(HOLDS, place, 0.5) as child, ContextStore(place) as store:
        assert child.hear() == "holds 1"
        child.kill()
        with store.lease("name", wait=PATIENCE) as lease:
            assert lease.token == 2


def test_a_holder_that_lives_is_not_succeeded(place: str) -> None:
    with Child(HOLDS, place, 0.3) as child, ContextStore(place) as store:
        assert child.hear() == "holds 1"
        with pytest.raises(LeaseHeldError), store.lease("name", wait=1.5):
            pytest.fail("held twice")
        child.tell()
        assert [child.hear(), child.hear()] == ["written", "held"]


def test_a_holder_that_is_stopped_is_succeeded_and_its_late_write_refused(place: str) -> None:
    with Child(HOLDS, place, 0.3) as child, ContextStore(place) as store:
        assert child.hear() == "holds 1"
        child.signal(signal.SIGSTOP)
        with store.lease("name", wait=PATIENCE) as lease:
            assert lease.token == 2
            child.signal(signal.SIGCONT)
            child.tell()
            assert [child.hear(), child.hear()] == ["refused", "lost"]
            store.run("run", lease=lease).append("log/", lease.token)
        assert [output.value for output in store.list_outputs("run")] == [1, 2]


def test_a_holder_that_was_stopped_and_not_succeeded_goes_on(place: str) -> None:
    with Child(HOLDS, place, 0.2) as child, ContextStore(place) as store:
        assert child.hear() == "holds 1"
        child.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while store.list_leases():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.signal(signal.SIGCONT)
        child.tell()
        assert child.hear() == "written"


def test_on_a_server_one_that_is_stopped_between_its_look_at_the_token_and_its_commit_is_succeeded(url: str) -> None:
    with Child(STOPS_BEFORE_ITS_COMMIT, url) as child, ContextStore(url) as store:
        assert child.hear() == "stopped"
        with store.lease("name", wait=PATIENCE) as lease:
            assert lease.token == 2
            assert store.get("run", "second") is None
            child.signal(signal.SIGCONT)
            assert child.hear() == "refused"
        assert store.get_run("run") == {"first": 1}


def test_on_a_file_one_that_is_stopped_within_its_commit_keeps_others_waiting_and_then_is_the_first(
    tmp_path: pathlib.Path,
) -> None:
    place = str(tmp_path / "store.db")
    with Child(STOPS_BEFORE_ITS_COMMIT, place) as child, ContextStore(place, timeout=1) as store:
        assert child.hear() == "stopped"
        with pytest.raises(StoreBusyError), store.lease("name", wait=PATIENCE):
            pytest.fail("held twice")
        child.signal(signal.SIGCONT)
        assert child.hear() == "written"
        with store.lease("name", wait=PATIENCE) as lease:
            assert lease.token == 2
        assert store.get_run("run") == {"first": 1, "second": 1}


def test_a_forked_child_does_not_hold_its_parent_s_lease(tmp_path: pathlib.Path) -> None:
    program = """
        store = ContextStore(sys.argv[1])
        block = store.lease("name", ttl=3600)
        lease = block.__enter__()

        def work():
            global lease, block
            assert lease.lost
            block.__exit__(None, None, None)
            del lease, block
            say("left")

        say(in_child(work))
        say(lease.lost, [one.token for one in store.list_leases()])
        store.run("run", lease=lease).put("node", 1)
        block.__exit__(None, None, None)
        say(store.list_leases())
        store.close()
    """
    said = run_with_fork(program, tmp_path / "store.db")
    assert said == ["left", "0", "False [1]", "[]"]


def test_what_another_process_of_the_same_name_writes_does_not_count_as_the_holder_s(place: str) -> None:
    with Child(HOLDS, place, 3600) as child, ContextStore(place) as store:
        assert child.hear() == "holds 1"
        (listed,) = store.list_leases()
        assert f" pid {child.process.pid} " in listed.holder
        assert listed.holder.startswith(os.uname().nodename)
