"""``contextstore ui`` as a process of its own that is killed, stopped and started again at the same port."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator

from playwright.sync_api import Browser, BrowserContext

from ..cli.lines import command, environment
from .site import PATIENCE

TOKEN = "one-that-stays-the-same"


class Command:
    """The pages of one place, whichever process serves them just now."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def site(self) -> str:
        """The same for all processes."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Begin a process, at the port of the one before."""
        self._process = subprocess.Popen(
            command("ui", self._place, "--port", self._port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment({"CONTEXTSTORE_UI_TOKEN": TOKEN}),
        )
        assert self._process.stdout is not None
        address = self._process.stdout.readline().decode()
        assert address, self._process.communicate()
        self._port = int(address.partition("/?")[0].rpartition(":")[2])

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal, and wait: the exit status, and what stands on the standard error."""
        assert self._process is not None
        self._process.send_signal(number)
        _, err = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, err.decode()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@contextlib.contextmanager
def commanded(place: str) -> Iterator[Command]:
    """A process that serves a place. Whoever serves it in the end is killed."""
    serving = Command(place)
    try:
        serving.start()
        yield serving
    finally:
        serving.close()


@contextlib.contextmanager
def signed_in(browser: Browser, serving: Command) -> Iterator[BrowserContext]:
    """A browser that nobody has used, which may look at these pages."""
    context = browser.new_context(base_url=serving.site, reduced_motion="reduce")
    try:
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.goto(f"/runs?token={TOKEN}")
        page.wait_for_selector("#runs-list")
        page.close()
        yield context
    finally:
        context.close()
