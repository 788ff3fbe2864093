"""Pipes that close, Ctrl-C, and a terminal: through processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pty
import re
import shlex
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from fcntl import ioctl
from typing import Any

import pytest
from rich.cells import cell_len

from contextstore import ContextStore

from ..sqlite.files import left_as_it_was
from ..support.portions import first_of
from ..support.processes import ROOT
from .lines import command, environment, ran, run_process

PATIENCE = 120


@contextlib.contextmanager
def started(*words: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment({}), **options
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# -------------------------------------------------------------------------------------------------------------- pipes


@pytest.fixture
def many(file_path: Any) -> str:
    """More than any pipe holds."""
    with ContextStore(file_path) as store:
        store.put_many("run", {f"node-{number:05}": "x" * 200 for number in range(5000)})
    return str(file_path)


@pytest.mark.parametrize("form", first_of(["text", "jsonl", "json"], 1))
def test_a_reader_that_goes_away_is_no_error(many: str, form: str) -> None:
    with started("show", many, "run", "--limit", 5000, "--output", form) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""


def test_a_reader_that_goes_away_from_a_large_value_is_no_error(file_path: Any) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "n", b"x" * 1_000_000)
    with started("get", file_path, "run", "n") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 0


def test_a_standard_output_that_is_closed_is_no_traceback(filled_file: str) -> None:
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        line = f"{shlex.join(command(filled_file, 'run-1'))} {closed}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment({}), timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_under_the_output_is_told(filled_file: str) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(filled_file), stdout=full, stderr=subprocess.PIPE, env=environment({}), timeout=PATIENCE
        )
    assert done.returncode == 4
    assert done.stderr.startswith(b"contextstore: ")
    assert b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------- Ctrl-C


def test_ctrl_c_ends_a_watch_at_once_and_quietly_and_what_was_told_is_there(filled_file: str) -> None:
    with started("watch", filled_file, "run-1", "--output", "jsonl") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b'"extract"' in process.stdout.readline()
        assert b'"report"' in process.stdout.readline()
        with ContextStore(filled_file) as store:
            store.put("run-1", "later", 1)
        assert b'"later"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == b""
    with ContextStore(filled_file) as store:
        assert store.check().ok


def test_a_watch_of_a_run_that_has_nothing_yet_says_that_it_waits(filled_file: str) -> None:
    with started("watch", filled_file, "run-new", "--until", "first", "--output", "jsonl") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == b"contextstore: run 'run-new' has no outputs yet: waiting for the first\n"
        with ContextStore(filled_file) as store:
            store.put("run-new", "first", 1)
        assert b'"first"' in process.stdout.readline()
        assert process.wait(PATIENCE) == 0


def test_all_runs_are_watched_from_the_cursor_of_a_line_on(filled_file: str) -> None:
    with started("watch", filled_file, "--output", "jsonl", "--prefix", "re") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        with ContextStore(filled_file) as store:
            store.put("another run", "result", 1)
            store.put("another run", "other", 1)
            store.put("run-1", "retry", 2)
        seen = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    assert [(line["flow_run_id"], line["node_id"]) for line in seen] == [("another run", "result"), ("run-1", "retry")]
    after = ("--after", first["cursor"])
    again = ran("watch", filled_file, "run-1", "--until", "retry", *after, "--output", "jsonl").jsonl
    assert again[-1] == seen[1]
    with started("watch", filled_file, *after) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert b"  another run  result  " in b"".join(lines)
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


def test_ctrl_c_while_a_value_is_typed_stores_nothing(filled_file: str) -> None:
    with started("put", filled_file, "run-1", "typed", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"[1, 2")
        process.stdin.flush()
        while ioctl(process.stdin, termios.FIONREAD, b"\0" * 4) != b"\0" * 4:  # until it has read that
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == b""
    with ContextStore(filled_file) as store:
        assert not store.exists("run-1", "typed")


# ---------------------------------------------------------------------------------------------------------- a terminal


class Terminal:
    """What a program has written to a terminal of so many columns."""

    def __init__(self, *words: object, columns: int = 80, **changes: str) -> None:
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            command(*words), stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment(changes)
        )
        os.close(theirs)
        data = b""
        with contextlib.suppress(OSError):  # Linux's way to say that nobody has the other end any more
            while part := os.read(ours, 65536):
                data += part
        os.close(ours)
        assert process.stderr is not None
        self.err = process.stderr.read().decode()
        process.stderr.close()
        self.code = process.wait(PATIENCE)
        self.out = data.decode().replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        return re.sub(r"\x1b\[\d*m", "", self.out).splitlines()


def test_titles_have_a_style_on_a_terminal_alone(filled_file: str) -> None:
    assert Terminal(filled_file, TERM="xterm").out.startswith("\x1b[2mRUN")
    assert Terminal(filled_file, TERM="dumb").out.startswith("RUN")
    assert Terminal(filled_file, TERM="xterm", NO_COLOR="1").out.startswith("RUN")
    assert run_process(filled_file).out.startswith("RUN")
    assert run_process(filled_file, FORCE_COLOR="1").out.startswith("\x1b[2mRUN")
    assert run_process(filled_file, FORCE_COLOR="1", NO_COLOR="1").out.startswith("RUN")


@pytest.mark.parametrize("columns", first_of([40, 20, 1, 80, 300], 2))
def test_no_line_is_wider_than_the_terminal(columns: int, file_path: Any) -> None:
    with ContextStore(file_path) as store:
        store.put("run-" + "日" * 20, "node-" + "é" * 30, {"text": "日本語" * 100})
        store.put("run-2", "n", 1)
    for words in ([], ["run-" + "日" * 20]):
        terminal = Terminal(file_path, *words, columns=columns)
        assert terminal.code == 0
        assert max(map(cell_len, terminal.lines)) <= max(columns, 20)
        assert columns < 40 or terminal.lines[1].startswith(("run-", "node-"))


def test_bytes_are_not_written_to_a_terminal(filled_file: str) -> None:
    terminal = Terminal("get", filled_file, "run-1", "report")
    assert (terminal.code, terminal.out) == (2, "")
    assert "see them with show" in terminal.err
    assert "00 ff" in Terminal("show", filled_file, "run-1", "report").out


def test_an_id_cannot_move_the_cursor_of_a_terminal(file_path: Any) -> None:
    with ContextStore(file_path) as store:
        store.put("\x1b[2Jrun", "\x1b[31mn", "\x1b[0m")
    assert "\x1b" not in Terminal(file_path, NO_COLOR="1").out
    assert "\x1b" not in Terminal("show", file_path, "\x1b[2Jrun", NO_COLOR="1").out


# ------------------------------------------------------------------------------------------------------------ looking


@pytest.mark.parametrize(
    "words",
    first_of([["show"], ["check"], ["show", "run-1"], ["get", "run-1", "extract"], ["globals"], ["stats"]], 2),
)
def test_looking_changes_no_file_and_does_not_disturb_a_writer_beside_it(filled_file: str, words: list[str]) -> None:
    folder = pathlib.Path(filled_file).parent
    with left_as_it_was(folder):
        assert run_process(*words, "--store", filled_file).code == 0
    with ContextStore(filled_file) as store:
        store.put("run-1", "before", 1)
        before = sorted(folder.iterdir())
        assert run_process(*words, "--store", filled_file).code == 0
        assert sorted(folder.iterdir()) == before
        store.put("run-1", "after", 1)
        assert store.check().ok


def test_the_module_is_the_program(filled_file: str) -> None:
    program = "import sys; from contextstore.cli import main; sys.exit(main())"
    done = subprocess.run(
        [command()[0], "-c", program, filled_file, "--json"],
        capture_output=True,
        env=environment({}),
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert done.stdout == run_process(filled_file, "--json").stdout
