"""The long timers of a page, in a test's hands: what would be due in seconds is due when the test says so."""

from __future__ import annotations

from playwright.sync_api import Page, expect

_SCRIPT = """
window.timers = new Map();
const tell = () => { document.documentElement.dataset.timers = window.timers.size; };
const later = window.setTimeout, never = window.clearTimeout;
window.setTimeout = (call, after, ...given) => {
  if (!(after >= 1000)) return later(call, after, ...given);
  const timer = -1 - Math.random();
  window.timers.set(timer, () => call(...given));
  tell();
  return timer;
};
window.clearTimeout = (timer) => {
  never(timer);
  if (window.timers.delete(timer)) tell();
};
window.letTimePass = () => {
  const due = [...window.timers.values()];
  window.timers.clear();
  tell();
  for (const one of due) one();
};
Object.defineProperty(document, "hidden", { get: () => Boolean(window.isHidden) });
"""


def hold_timers(page: Page) -> None:
    """From the next page on."""
    page.add_init_script(_SCRIPT)


def waits(page: Page, timers: int) -> None:
    """The page comes to wait for so many things."""
    expect(page.locator("html")).to_have_attribute("data-timers", str(timers))


def let_time_pass(page: Page) -> None:
    """What the page waits for is due, once it waits."""
    waits(page, 1)
    page.evaluate("window.letTimePass()")


def turn(page: Page, *, is_hidden: bool) -> None:
    """Another tab is looked at, or this one again."""
    page.evaluate(
        "isHidden => { window.isHidden = isHidden; document.dispatchEvent(new Event('visibilitychange')); }", is_hidden
    )
