"""Programs in processes of their own, each forked by a Python that has imported the library: its start costs nearly
nothing, where that of a Python takes longer than what most of the programs do.

Rules of this module: what it has is called as in ``processes``, so that the import says which is taken. It is for what
several processes do and what one leaves behind that is killed: memory, files, connections, number and end are a
process's own. How a Python starts, imports, forks or ends its threads is asked of a Python of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import CodeType
from typing import IO, Any

from . import processes
from .processes import PREAMBLE, ROOT, environment_of, text_of

# What opens a store on either engine is there before the first program asks for it. The program runs at the end of this
# one, as its __main__, and the interpreter then ends as it would have ended.
KEEPER = (
    PREAMBLE
    + """
import contextstore._postgres.engine, contextstore._sqlite.engine, importlib
from tests.support.forked import next_program
control, *imports = sys.argv[1:]
for name in imports:
    importlib.import_module(name)
exec(next_program(int(control)))
"""
)


class Process:
    """What subprocess.Popen would be for a program that this process is not the parent of."""

    def __init__(self, told: socket.socket, stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> None:
        self._told = told
        self._lines = told.makefile("r")
        self.stdin: IO[str] | None = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """The rest of what it says. One that has not ended in time is killed."""
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        open_ones = [stream for stream in (self.stdout, self.stderr) if not stream.closed]
        with ThreadPoolExecutor(2) as readers:
            reading = [readers.submit(stream.read) for stream in open_ones]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            said = [each.result() for each in reading]
        for stream in open_ones:
            stream.close()
        out, err = said or ("", "")
        return out, err


class Keeper:
    """The Python that has the library imported, and what else the programs need, and forks."""

    def __init__(self, imports: tuple[str, ...]) -> None:
        self._owner = os.getpid()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", KEEPER, str(theirs.fileno()), *imports],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=environment_of({}),
                pass_fds=[theirs.fileno()],
            )

    def start(self, program: str, arguments: tuple[Any, ...]) -> Process:
        told, theirs = socket.socketpair()
        (their_in, our_in), (our_out, their_out), (our_err, their_err) = os.pipe(), os.pipe(), os.pipe()
        given = [theirs.fileno(), their_in, their_out, their_err]
        socket.send_fds(self._control, [b"."], given)
        for descriptor in given[1:]:
            os.close(descriptor)
        theirs.close()
        order = {"program": program, "arguments": [*map(str, arguments)], "environment": environment_of({})}
        told.sendall(json.dumps(order).encode() + b"\n")
        return Process(told, open(our_in, "w"), open(our_out), open(our_err))

    def close(self) -> None:
        if os.getpid() == self._owner:  # and no fork of it
            self._control.shutdown(socket.SHUT_RDWR)  # whoever else has inherited it
            self._control.close()
            self._process.wait(60)


@functools.cache
def keeper(imports: tuple[str, ...]) -> Keeper:
    """The one of this process for programs that need these modules; it is gone with this process."""
    made = Keeper(imports)
    atexit.register(made.close)
    return made


def next_program(control: int) -> CodeType:
    """In the keeper: wait for orders, and fork a child for each. Returns in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children that have ended are gone at once
    door = socket.socket(fileno=control)
    while True:
        said, descriptors, _, _ = socket.recv_fds(door, 1, 4)
        if not said:
            raise SystemExit
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    door.close()
    told, *streams = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if child := os.fork():
        _tell_of(child, told, streams)
    order = json.loads(socket.socket(fileno=told).makefile("r").readline())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]
    return compile(order["program"], "<string>", "exec")


def _tell_of(child: int, told: int, streams: list[int]) -> None:
    """Between the two: the parent that waits for the child's end, and tells of it. Ends the process."""
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        os.write(told, f"{child}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(told, f"{status}\n".encode())
    os._exit(0)


class Child(processes.Child):
    """A forked process that runs a program. The modules that it names are imported before the fork."""

    def __init__(self, program: str, *arguments: Any, imports: tuple[str, ...] = ()) -> None:
        self.process = keeper(imports).start(text_of(program), arguments)  # does what Popen does


run = functools.partial(processes.run, by=Child)
children = functools.partial(processes.children, by=Child)
