"""What a program of a test has left in its file, and programs that fork."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3

from ..support.processes import run

FACES = ["async", "sync"]


def stored(path: pathlib.Path, run_id: str = "run") -> set[str]:
    """What is in the file, which is whole."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT node_id FROM outputs WHERE flow_run_id = ?"
        return {node for (node,) in connection.execute(query, (run_id,))}


def acknowledged(said: list[str]) -> set[str]:
    return {line.removeprefix("stored ") for line in said if line.startswith("stored ")}


IN_CHILD = """
import contextlib

def in_child(work, leave=os._exit):
    \"\"\"Fork, and work there; the exit status of the child.\"\"\"
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(50)
            work()
        except BaseException as error:
            say("child failed:", repr(error))
            os._exit(1)
        leave(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

"""


def run_with_fork(program: str, *arguments: object, options: list[str] | None = None) -> list[str]:
    options = [*(options or []), "-W", "ignore:.*fork:DeprecationWarning"]
    return run(IN_CHILD.replace("\n", "\n        ") + program, *arguments, options=options)
