"""The view of leases: who holds which, and until when.

Rules of this module: public calls of the store alone. What is on a page is refreshed by the browser: of leases there is
no watch.
"""

from __future__ import annotations

from .._inspect.leases import lease_form, lease_page, run_of_lease
from .look import Answer, Look

PER_PAGE = 50

_WORDS = {"title": "Leases", "path": "/leases", "label": "Name", "rows": "_leases_rows.html"}


def leases(look: Look) -> Answer:
    """A page of leases, by name."""
    prefix = look.text("prefix")
    page = lease_page(look.store, prefix=prefix, after=look.text("after"), limit=PER_PAGE)
    runs = {lease.name: run_of_lease(look.store, lease) for lease in page.leases}
    return Answer(
        "listed.html",
        {**_WORDS, "page": page, "prefix": prefix, "runs": runs},
        {"leases": [lease_form(lease) for lease in page.leases], "next_after": page.next_after},
        {"rows": _WORDS["rows"]},
    )
