"""Commands about the store as a whole: how much there is, and whether it is well.

Rules of this module: each command is a call of the store and the lines that show its result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from .. import StoreStats
from .._display.text import shown_id
from .call import Call
from .options import App


def add_to(app: App) -> None:
    app.command("stats", examples="contextstore stats flows.db\ncontextstore stats flows.db --json")(stats)


def stats(call: Call) -> None:
    """Show how much there is in a store.

    It counts all rows: about a second for a million outputs.
    """
    with call.looked_at() as store:
        call.screen.result(store.stats(), _fields)


def _fields(result: StoreStats) -> Iterator[str]:
    names = [field.name for field in dataclasses.fields(result)]
    width = max(map(len, names))
    for name in names:
        value = getattr(result, name)
        yield f"{name:{width}}  {shown_id(value) if isinstance(value, str) else value}"
