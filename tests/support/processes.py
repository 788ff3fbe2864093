"""Child processes that a test starts, listens to and kills: real ones, with a Python of their own.

``forked`` has the same for programs that do not ask how a Python starts or ends, and starts them quicker.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Self

ROOT = pathlib.Path(__file__).parent.parent.parent

PREAMBLE = """
import asyncio, os, signal, sys, threading, time, warnings
from contextstore import *
from contextstore import errors

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background

def say(*words):
    # One write, so that what was said is in the pipe even if the next instruction is the last.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

"""


def text_of(program: str) -> str:
    """What is run: the program, behind what all of them begin with."""
    return PREAMBLE + textwrap.dedent(program)


def environment_of(changes: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **changes}


class Child:
    """A Python process that runs a program. ``say`` in it is heard here, a line each."""

    def __init__(self, program: str, *arguments: Any, options: list[str] | None = None, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *(options or []), "-c", text_of(program), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=environment_of(environment),
            text=True,
        )

    def hear(self) -> str:
        """The next line, waited for. "" at the end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def hear_all(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.read().splitlines()

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self, timeout: float = 60) -> tuple[int, list[str], str]:
        """Wait for its end: the exit status, what it said since, and what it wrote to stderr."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out.splitlines(), err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.communicate()


def complaints(err: str) -> str:
    """What a program in development mode has written to stderr, but for what asyncio says of a slow machine."""
    return re.sub(r"^Executing <.*> took [\d.]+ seconds\n", "", err, flags=re.MULTILINE)


def run(
    program: str, *arguments: Any, options: list[str] | None = None, timeout: float = 60, by: type[Child] = Child
) -> list[str]:
    """What a program that ends well has said."""
    with by(program, *arguments, **({} if options is None else {"options": options})) as child:
        status, said, err = child.end(timeout)
    assert status == 0, (status, said, err)
    return said


@contextlib.contextmanager
def children(count: int, program: str, *arguments: Any, by: type[Child] = Child) -> Iterator[list[Child]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(by(program, *arguments, number)) for number in range(count)]
