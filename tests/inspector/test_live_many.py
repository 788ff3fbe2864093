"""Many browsers at one server: what they cost while nothing happens, what they leave behind; and slow ones."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import socket
import struct
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from contextstore import AsyncContextStore, ContextStore
from contextstore.inspector import app

from .commanded import TOKEN, Command, commanded
from .site import PATIENCE, served
from .test_streams import followed, live, nodes


@pytest.fixture(params=["file"])
def target(request: pytest.FixtureRequest, tmp_path: object) -> str:
    return f"{tmp_path}/store.db"


class Watches:
    """How many iterators of a store are under way, by the name of the call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = {"watch": 0, "watch_runs": 0}
        self.begun = dict(self.open)
        for name in self.open:
            monkeypatch.setattr(AsyncContextStore, name, self._counted(name, getattr(AsyncContextStore, name)))

    def _counted(self, name: str, call: Callable[..., AsyncGenerator[Any, None]]) -> Any:
        async def counted(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            self.open[name] += 1
            self.begun[name] += 1
            try:
                async with contextlib.aclosing(call(*args, **kwargs)) as items:
                    async for item in items:
                        yield item
            finally:
                self.open[name] -= 1

        return counted


class Tasks:
    """An application, and what its server's loop has to do."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        await self._application(scope, receive, send)

    def names(self) -> list[str]:
        """The coroutines of its tasks."""
        assert self.loop is not None
        return sorted(str(getattr(task.get_coro(), "__qualname__", "")) for task in asyncio.all_tasks(self.loop))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def opened(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    return page


@pytest.mark.slow
def test_all_pages_share_two_watches_ask_for_nothing_while_nothing_happens_and_leave_nothing(
    target: str, store: ContextStore, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("run-1", "node-1", 1)
    watches = Watches(monkeypatch)
    with ContextStore(target, read_only=True) as looked_at:
        guard: Any = app(looked_at)
        served_one = Tasks(guard)
        with served(served_one) as site, contextlib.ExitStack() as stack:
            with httpx.Client(base_url=site, timeout=PATIENCE) as http, followed(http, live(http, "/runs")):
                pass  # what stays after a first stream is there
            until(lambda: not any(watches.open.values()))
            until(lambda: len(served_one.names()) <= 2)
            before = served_one.names()
            contexts = [browser.new_context(base_url=site) for _ in range(5)]
            for context in contexts:
                stack.callback(context.close)
            pages = [opened(one, address) for one in contexts for address in ("/runs", "/run?id=run-1")]
            pages.append(opened(contexts[0], "/health"))
            until(lambda: watches.open == {"watch": 1, "watch_runs": 1})
            begun, asked = dict(watches.begun), list[str]()
            for page in pages:
                page.on("request", lambda request: asked.append(request.url))
            pages[0].wait_for_timeout(3000)
            assert asked == []
            assert watches.begun == begun
            store.put("run-1", "node-2", 1)
            for page in pages[:10]:
                expect(page.locator("[data-row] .run-count, #nodes").first).to_contain_text("2")
            assert watches.open == {"watch": 1, "watch_runs": 1}
            stack.close()
            until(lambda: guard._app.state.feeds.count == 0)
            until(lambda: not any(watches.open.values()))
            until(lambda: served_one.names() == before)


def test_the_pages_of_two_stores_in_one_process_live_each_on_its_own(tmp_path: pathlib.Path, browser: Browser) -> None:
    places = [str(tmp_path / name) for name in ("one.db", "two.db")]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(ContextStore(place)) for place in places]
        for writer in writers:
            writer.put("run-1", "first", 1)
        readers = [stack.enter_context(ContextStore(place, read_only=True)) for place in places]
        mounts = [Mount(f"/{name}", app(reader)) for name, reader in zip(("one", "two"), readers, strict=True)]
        site = stack.enter_context(served(Starlette(routes=mounts)))
        context = browser.new_context(base_url=site)
        stack.callback(context.close)
        pages = [opened(context, f"/{name}/run?id=run-1") for name in ("one", "two")]
        writers[0].put("run-1", "of-one", 1)
        writers[1].put("run-1", "of-two", 1)
        writers[0].close()
        expect(pages[0].locator("#nodes a")).to_have_text(["first", "of-one"])
        expect(pages[1].locator("#nodes a")).to_have_text(["first", "of-two"])
        readers[0].close()
        expect(pages[0].locator("#live .live-word")).to_have_text("No longer live")
        writers[1].put("run-1", "after", 1)
        expect(pages[1].locator("#nodes a")).to_have_text(["first", "of-two", "after"])


def raw_stream(site: str, path: str, bearer: str = "") -> socket.socket:
    """A browser that has asked for a stream, and reads nothing of it."""
    host, port = site.removeprefix("http://").split(":")
    taking_little = socket.socket()
    taking_little.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    taking_little.connect((host, int(port)))
    taking_little.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{bearer}\r\n".encode())
    return taking_little


def test_browsers_that_are_killed_while_they_are_told_leave_nothing(target: str, store: ContextStore) -> None:
    store.put("run-1", "node-0", 1)
    with ContextStore(target, read_only=True) as looked_at:
        guard: Any = app(looked_at)
        served_one = Tasks(guard)
        with served(served_one) as site, httpx.Client(base_url=site, timeout=PATIENCE) as http:
            address = live(http, "/run?id=run-1")
            with followed(http, address):
                pass
            until(lambda: len(served_one.names()) <= 2)
            before = served_one.names()
            gone = [raw_stream(site, address) for _ in range(5)]
            until(lambda: guard._app.state.feeds.count)
            with followed(http, address) as events:
                for number in range(1, 300):
                    store.put("run-1", f"node-{number}", "x" * 150)
                    if number == 100:
                        for one in gone:  # no good-bye: the connection is reset
                            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                            one.close()
                assert nodes(events.until("node-299<")) == [f"node-{number}" for number in range(1, 300)]
            until(lambda: served_one.names() == before)
            assert guard._app.state.feeds.count == 0


def resident(process: int) -> int:
    """The bytes of memory that a process has."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


@pytest.fixture
def serving(target: str, store: ContextStore) -> Iterator[Command]:
    store.put("run-1", "node-0", 1)
    with commanded(target) as command:
        yield command


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="tells what a process has by /proc")
def test_a_browser_that_reads_nothing_costs_no_memory_and_no_other_browser_waits_for_it(
    serving: Command, store: ContextStore
) -> None:
    bearer = f"Authorization: Bearer {TOKEN}\r\n"
    headers = {"authorization": f"Bearer {TOKEN}"}
    with (
        httpx.Client(base_url=serving.site, headers=headers, timeout=PATIENCE) as http,
        contextlib.ExitStack() as stack,
    ):
        address = live(http, "/run?id=run-1")
        events = stack.enter_context(followed(http, address))
        seen: list[str] = []
        long = "n" * 400  # some kilobytes in each row: 20,000 of them would be more than 50 MB

        def put(first: int, last: int) -> None:
            for begin in range(first, last, 100):
                store.put_many("run-1", {f"node-{number}": long for number in range(begin, begin + 100)})

        def read(until_node: int) -> None:
            seen.extend(nodes(events.until(f">node-{until_node}<")))

        put(1, 2001)
        read(2000)
        before = resident(serving.pid)
        for _ in range(3):
            stack.enter_context(contextlib.closing(raw_stream(serving.site, address, bearer)))
        writing = threading.Thread(target=put, args=(2001, 20_001))
        writing.start()
        read(20_000)
        writing.join()
        grown = resident(serving.pid) - before
    print(f"grown by {grown / 2**20:.1f} MB")
    assert sorted(seen) == sorted(f"node-{number}" for number in range(1, 20_001))
    assert grown < 40 * 2**20
