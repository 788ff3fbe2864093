"""The streams of the pages that show the whole store: its runs as they change, its health second by second.

Rules of this module: public calls of the store alone. A stream sends the parts of its page that have changed, rendered
by the templates of the page.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel
import anyio.to_thread
from markupsafe import Markup

from .._results import RunInfo
from .following import follow_runs, place_of, rendered
from .health import health_context
from .look import Look, Refusal
from .outbox import Outbox
from .pages import dom_id
from .runs import Search, search_of

_HEALTH_SECONDS = 1.0


async def runs_live(look: Look, outbox: Outbox) -> None:
    """The runs of a search, as each of them changes, begins to fit, or does not any more."""
    search = search_of(look)
    for name, sentence in search.mistakes.items():
        raise Refusal(f"{name}: {sentence}", 400)
    async with follow_runs(look, place_of(look)) as follower:
        while True:
            for run in await follower.next():
                if run.flow_run_id.startswith(search.filters.prefix):
                    await outbox.put(dom_id(run.flow_run_id, "run"), _run_row(look, search, run), run.cursor)
                else:
                    outbox.move(run.cursor)
            await anyio.lowlevel.checkpoint()


def _run_row(look: Look, search: Search, run: RunInfo) -> str:
    if run.state == "deleted" or not search.filters.fits(run):
        return Markup('<tr id="{}" data-gone></tr>').format(dom_id(run.flow_run_id, "run"))
    arrives = {} if look.text("page") == "later" else {"is_live": True}
    return rendered(look, "_runs_row.html", run=run, search=search, **arrives)


async def health_live(look: Look, outbox: Outbox) -> None:
    """The figures and plots of a store's health, and how far a check has come."""
    while True:
        await anyio.sleep(_HEALTH_SECONDS)
        now, check = await anyio.to_thread.run_sync(_health_now, look)
        await outbox.put("health-now", now)
        await outbox.put("health-check", check)


def _health_now(look: Look) -> tuple[str, str]:
    context = health_context(look.inspector)
    return rendered(look, "_health_now.html", **context), rendered(look, "_health_check.html", **context)
