"""The view of runs: newest first, found by id, state, attribute and time.

Rules of this module: public calls of the store alone; no values are loaded.
"""

from __future__ import annotations

from .._inspect.runs import run_page
from .look import Answer, Look

PER_PAGE = 50


def runs(look: Look) -> Answer:
    """A page of runs."""
    found = run_page(look.store, prefix=look.text("prefix"), after=look.text("after"), limit=PER_PAGE)
    return Answer(
        "runs.html",
        {"page": found, "prefix": look.text("prefix")},
        {"runs": found.runs, "next_after": found.next_after},
        {"rows": "_runs_rows.html"},
    )
