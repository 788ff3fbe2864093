"""Lines of the command line, run in this process or in one of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple
from unittest import mock

from contextstore import cli

from ..support.processes import ROOT

NOT_PASSED_ON = (
    "CONTEXTSTORE_URL",
    "CONTEXTSTORE_UI_TOKEN",
    "NO_COLOR",
    "FORCE_COLOR",
    "COLUMNS",
    "PYTHONIOENCODING",
    "PYTHONUNBUFFERED",
)


class Done(NamedTuple):
    """What became of a line."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def err(self) -> str:
        return self.stderr.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def jsonl(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    return {**kept, "PYTHONPATH": str(ROOT), **changes}


def run(*words: object, stdin: bytes = b"", encoding: str = "utf-8", **changes: str) -> Done:
    """Run a line in this process."""
    streams = [io.TextIOWrapper(io.BytesIO(data), encoding=encoding) for data in (stdin, b"", b"")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment(changes), clear=True))
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            stack.enter_context(mock.patch.object(sys, name, stream))
        code = cli.main([str(word) for word in words])
        for stream in streams[1:]:
            stream.flush()
    out, err = (stream.buffer.getvalue() for stream in streams[1:])  # type: ignore[attr-defined]  # a BytesIO
    return Done(code, out, err)


def ran(*words: object, stdin: bytes = b"", **changes: str) -> Done:
    """Run a line that ends well."""
    done = run(*words, stdin=stdin, **changes)
    assert done.code == 0, done
    return done


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "contextstore", *map(str, words)]


def run_process(*words: object, stdin: bytes = b"", **changes: str) -> Done:
    """Run a line in a process of its own."""
    done = subprocess.run(command(*words), input=stdin, capture_output=True, env=environment(changes), timeout=120)
    return Done(done.returncode, done.stdout, done.stderr)


def interrupted_after_a_line(*words: object, cwd: object = None, **changes: str) -> Done:
    """Run in a process of its own what would have no end: Ctrl-C once it has printed its first line."""
    process = subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(changes),
        cwd=str(cwd) if cwd else None,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=120)
        return Done(process.returncode, first + rest, err)
    finally:
        process.kill()
        process.wait()


def words_of(line: str) -> list[str]:
    """The words of an example, without the program's name."""
    program, *words = shlex.split(line)
    assert program == "contextstore", line
    return words
