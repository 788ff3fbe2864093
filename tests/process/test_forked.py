"""The processes of ``tests/support/forked.py`` are what tests take them for."""

from __future__ import annotations

import os
import pathlib
import signal

import pytest

from ..support.forked import Child, children, run


def test_each_is_a_process_of_its_own_and_says_how_it_ended() -> None:
    with children(3, "say(os.getpid()); sys.exit(int(sys.argv[1]))") as started:
        numbers = {int(child.hear()) for child in started}
        assert numbers == {child.process.pid for child in started}
        assert len(numbers - {os.getpid()}) == 3
        assert [child.end()[0] for child in started] == [0, 1, 2]


def test_what_one_has_begun_with_another_does_not_find() -> None:
    program = "say('gone' not in globals(), threading.active_count(), *sys.argv[1:]); gone = os.environ['GONE'] = '1'"
    assert [run(program, "a", 1), run(program, "GONE" in os.environ)] == [["True 1 a 1"], ["True 1 False"]]


def test_one_that_fails_has_its_traceback_on_stderr() -> None:
    with Child("raise ValueError('no')") as child:
        status, said, errors = child.end()
    assert (status, said) == (1, [])
    assert errors.endswith("ValueError: no\n")


def test_a_killed_one_leaves_what_it_said_and_is_gone(file_path: pathlib.Path) -> None:
    program = """
        with ContextStore(sys.argv[1]) as store:
            store.put("run", "node", 1)
            say("stored")
            sys.stdin.readline()
    """
    with Child(program, file_path) as child:
        assert child.hear() == "stored"
        child.kill()
        assert child.process.poll() == -signal.SIGKILL
        assert child.hear_all() == []
        with pytest.raises(ProcessLookupError):
            os.kill(child.process.pid, 0)


def test_an_interrupt_reaches_it() -> None:
    with Child("say('here'); sys.stdin.readline()") as child:
        assert child.hear() == "here"
        child.signal(signal.SIGINT)
        status, _, errors = child.end()
    assert status == -signal.SIGINT
    assert errors.endswith("KeyboardInterrupt\n")


def test_what_is_told_to_it_and_the_end_of_it_reach_it() -> None:
    with Child("for line in sys.stdin: say('heard', line.strip())") as child:
        child.tell("a")
        assert child.hear() == "heard a"
        child.tell("b")
        assert child.end() == (0, ["heard b"], "")


def test_what_it_has_left_open_at_its_end_is_warned_of_as_in_any_python(file_path: pathlib.Path) -> None:
    program = """
        warnings.simplefilter("default")
        store = ContextStore(sys.argv[1])
        store.put("run", "node", 1)
    """
    with Child(program, file_path) as child:
        status, _, errors = child.end()
    assert status == 0
    assert "was not closed" in errors
