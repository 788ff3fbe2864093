"""Lines that are typed on a terminal: a process whose standard streams are one."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
from collections.abc import Iterator

from .lines import command, environment


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *words: object, piped_out: bool = False) -> None:
        self._screen, inner = pty.openpty()
        self.process = subprocess.Popen(
            command(*words),
            stdin=inner,
            stdout=subprocess.PIPE if piped_out else inner,
            stderr=inner,
            env=environment({"TERM": "xterm", "COLUMNS": "200"}),
            start_new_session=True,
        )
        os.close(inner)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Until the text is on the screen."""
        while text not in self.shown:
            assert self._read(), self.shown

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, until it ends: one that comes just before the process begins to read waits for what is typed next."""
        while True:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
                return

    def end(self) -> int:
        """Wait for the end of the process; its exit code."""
        while self._read():
            pass
        return self.process.wait(timeout=60)

    def _read(self) -> bool:
        try:
            data = os.read(self._screen, 2**16)
        except OSError:  # what Linux says when nobody has the other side open any more
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._screen)


@contextlib.contextmanager
def typed(*words: object, piped_out: bool = False) -> Iterator[Terminal]:
    terminal = Terminal(*words, piped_out=piped_out)
    try:
        yield terminal
    finally:
        terminal.close()
