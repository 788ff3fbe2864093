"""The pictures of the inspector in the documentation, made anew: of the demo's real flow, and of some small ones.

    python -m docs.tools.screenshots [FOLDER]

Rules of this module: what is seen is what the store's own calls have written, and a Chromium of this machine paints it.
The folder is docs/ if none is named. It needs the extra ``dev``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import uvicorn
from playwright.sync_api import Browser, sync_playwright

from contextstore import ContextStore
from contextstore.inspector import CommitFigures, app

ROOT = pathlib.Path(__file__).parents[2]
FAILED, FORKED = "nightly-2025-01-03", "nightly-2025-01-03-again"


@dataclass(frozen=True)
class Picture:
    """A page as it is to be seen: its address, size and theme."""

    name: str
    path: str
    width: int = 1280
    height: int = 760
    theme: Literal["light", "dark"] = "light"


def pictures(demo_run: str) -> list[Picture]:
    """Those that the documentation shows."""
    return [
        Picture("runs", "/runs"),
        Picture("run", f"/run?id={demo_run}"),
        Picture("run-failed", f"/run?id={FAILED}", theme="dark"),
        Picture("node", f"/node?run={demo_run}&id=survey/report", theme="dark"),
        Picture("compare", f"/compare?a={FAILED}&b={FORKED}"),
        Picture("health", "/health", theme="dark"),
        Picture("narrow", f"/run?id={FAILED}", width=390, height=760),
    ]


def furnish(path: pathlib.Path) -> str:
    """Run the demo, and some nightly flows of which one fails, into a new store. Returns the id of the demo's run."""
    command = [sys.executable, "-m", "demo", "--store", str(path), "--pace", "0.01"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with ContextStore(path) as store:
        (demo_run,) = (run.flow_run_id for run in store.list_runs())
        for day in range(1, 9):
            _nightly(store, day)
        store.fork_run(FAILED, new_flow_run_id=FORKED)
        run = store.run(FORKED)
        run.begin(attributes={"flow": "nightly", "nodes": 7}, parent=FAILED)
        run.put("extract/6", {"rows": 600, "source": "orders-6.csv"})
        run.put("report", b"%PDF-1.7\n" + bytes(range(256)))
        run.update(state="completed")
        for number in range(1, 7):
            store.upsert_global(f"watermark/orders-{number}", {"at": f"2025-01-0{number}", "rows": number * 100})
    return demo_run


def _nightly(store: ContextStore, day: int) -> None:
    run = store.run(f"nightly-2025-01-{day:02}")
    run.begin(attributes={"flow": "nightly", "nodes": 8, "region": "eu-west"}, parent="nightly")
    for number in range(1, 9 if day != 3 else 6):
        extract = _extract(number)
        for _ in range(3):
            with contextlib.suppress(ConnectionError):
                run.step(f"extract/{number}", extract)
                break
    run.upsert_state("watermark", f"2025-01-{day:02}T00:00:00Z")
    if day == 3:
        run.update(state="failed", error="ConnectionError: the warehouse closed the connection")
    else:
        run.update(state="completed")


def _extract(number: int) -> Callable[[], dict[str, Any]]:
    """An extraction; of every fourth source it comes off at the second attempt."""
    attempts = iter(range(2))

    def extract() -> dict[str, Any]:
        time.sleep(0.02 * (1 + number % 3))
        if number % 4 == 0 and next(attempts) == 0:
            raise ConnectionError("the warehouse closed the connection")
        return {"rows": number * 100, "source": f"orders-{number}.csv", "columns": ["id", "amount", "currency"]}

    return extract


@contextlib.contextmanager
def served(path: pathlib.Path) -> Iterator[str]:
    """The pages of a store in which somebody writes: their address."""
    figures, done = CommitFigures(), threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    with ContextStore(path, observers=[figures]) as store:
        server = uvicorn.Server(uvicorn.Config(app(store, figures=figures), log_level="error", lifespan="off"))
        threads = [
            threading.Thread(target=server.run, kwargs={"sockets": [listener]}),
            threading.Thread(target=_write, args=(store, done)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            done.set()
            server.should_exit = True
            for thread in threads:
                thread.join()


def _write(store: ContextStore, done: threading.Event) -> None:
    """What the plots of the health page show: puts, some at the same time, some read again."""
    store.run("orders").begin(attributes={"flow": "orders", "region": "eu-west"})
    number = 0
    while not done.wait(0.02 + 0.02 * (number % 5)):
        number += 1
        with store.batch() as batch:
            for place in range(1 + number % 4):
                batch.put("orders", f"load/{number:05}/{place}", {"rows": number})
        store.get("orders", f"load/{number:05}/0")


def take(browser: Browser, address: str, picture: Picture, folder: pathlib.Path) -> None:
    context = browser.new_context(
        base_url=address,
        viewport={"width": picture.width, "height": picture.height},
        color_scheme=picture.theme,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(picture.path)
    if picture.path == "/health":
        page.wait_for_timeout(40_000)  # plots are of time that has passed
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"inspector-{picture.name}.png")
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=ROOT / "docs")
    folder = parser.parse_args().folder
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        path = pathlib.Path(place, "flows.db")
        demo_run = furnish(path)
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=os.geteuid() != 0)
        with served(path) as address:
            for picture in pictures(demo_run):
                take(browser, address, picture, folder)
        browser.close()


if __name__ == "__main__":
    main()
