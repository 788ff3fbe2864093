"""The view of runs, in a real browser, at as many as a store comes to have: it costs what it shows."""

from __future__ import annotations

import contextlib
import pathlib
import statistics
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.run_listing import fill_file, run_of
from contextstore import ContextStore
from contextstore.inspector import app

from .site import served

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]

RUNS = 1_000_000
ROUNDS = 9

PAINTED = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, pathlib.Path]]:
    """Stores that have so many runs of one output each."""
    folder = tmp_path_factory.mktemp("scale")
    paths = {runs: folder / f"{runs}.db" for runs in (100_000, RUNS)}
    for runs, path in paths.items():
        with ContextStore(path) as store:
            store.open()
        fill_file(path, runs)
    yield paths
    for path in paths.values():  # they are large, and may lie in memory
        path.unlink()


@contextlib.contextmanager
def shown(path: pathlib.Path) -> Iterator[str]:
    with ContextStore(path, read_only=True) as store, served(app(store)) as address:
        yield address


@pytest.fixture
def site(stores: dict[int, pathlib.Path]) -> Iterator[str]:
    with shown(stores[RUNS]) as address:
        yield address


def names(page: Page) -> list[str]:
    return page.locator("#runs-rows .run-name").all_inner_texts()


def newest(count: int, *, before: int = RUNS, step: int = 1) -> list[str]:
    """The ids of the newest of the runs whose numbers are below this one."""
    return [run_of(number, RUNS)[0] for number in range(before - 1, -1, -step)[:count]]


def first_paint(page: Page) -> float:
    """Milliseconds from the request to the first paint that has anything in it."""
    while not (painted := page.evaluate(PAINTED)):
        page.wait_for_timeout(10)
    return float(painted[0])


def test_a_million_runs_are_paged_without_a_gap_or_a_repeat(page: Page) -> None:
    page.goto("/runs")
    seen = names(page)
    for number in range(1, 5):
        page.get_by_role("link", name="Older").click()
        expect(page.locator("#runs-rows .run-name").first).to_have_text(newest(1, before=RUNS - 50 * number)[0])
        seen += names(page)
    assert seen == newest(250)


def test_one_of_a_million_runs_is_found_by_its_id(page: Page) -> None:
    wanted = run_of(RUNS // 3, RUNS)[0]
    page.goto("/runs")
    page.keyboard.press("/")
    page.keyboard.type(wanted)
    page.keyboard.press("Enter")
    expect(page.locator("#runs-rows > tr")).to_have_count(1)
    assert names(page) == [wanted]
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("#nodes > tr")).to_have_count(1)


def test_those_of_a_million_runs_that_have_an_attribute_are_found(page: Page) -> None:
    page.goto("/runs?attribute=many%3D7")
    assert names(page) == newest(50, before=RUNS - 992, step=1000)


def test_those_of_a_million_runs_that_have_a_state_are_found(page: Page) -> None:
    page.goto("/runs")
    page.get_by_role("link", name="completed", exact=True).first.click()
    expect(page.locator(".toggle.completed[aria-current]")).to_be_visible()
    assert names(page) == newest(50, step=2)


def test_a_new_run_comes_in_before_a_million_others(stores: dict[int, pathlib.Path], page: Page) -> None:
    page.goto("/runs")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    before = names(page)
    with ContextStore(stores[RUNS]) as store:
        store.put("quite-new", "node", 1)
        expect(page.locator("#runs-rows .run-name").first).to_have_text("quite-new")
        assert names(page) == ["quite-new", *before[:-1]]
        store.delete_run("quite-new", forget=True)


@pytest.mark.parametrize("runs", [100_000, RUNS])
def test_what_the_first_paint_takes(runs: int, stores: dict[int, pathlib.Path], browser: Browser) -> None:
    """It prints the figures; what is asserted is a guard against what would be felt as waiting."""
    with shown(stores[runs]) as site:
        context = browser.new_context(base_url=site, viewport={"width": 1280, "height": 800})
        page = context.new_page()
        for path in ("/runs", "/runs?attribute=many%3D7", "/runs?prefix=new-0"):
            taken = []
            for _ in range(ROUNDS):
                page.goto(path)
                taken.append(first_paint(page))
                page.wait_for_timeout(300)  # until it is at rest
            print(f"{path} of {runs:,} runs: {min(taken):.0f}, {statistics.median(taken):.0f}, {max(taken):.0f} ms")
            assert statistics.median(taken) < 5000
        context.close()
