"""Pages of the documentation as their tests take them: sections, fences, and the rows of tables."""

from __future__ import annotations

import pathlib
import re

from .test_readme import Fence, fences_in

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"


def section(page: str, title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    text = (DOCS / page).read_text()
    found = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    assert found is not None, f"{page} has no section {title!r}"
    behind = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", behind, re.MULTILINE)
    return behind[: end.start() if end else len(behind)]


def fences(page: str, title: str, kind: str) -> list[Fence]:
    """The fences of one kind in a section; ``python continued`` is one by itself."""
    text = section(page, title).replace("python continued", "python-continued")
    return [
        fence for fence in fences_in(text, f"docs/{page}") if fence.info == kind.replace(" continued", "-continued")
    ]


def rows(page: str, title: str, table: int = 0) -> list[list[str]]:
    """The cells of a table in a section, without its head."""
    tables = re.findall(r"(?:^\|.*\n)+", section(page, title), re.MULTILINE)
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in tables[table].splitlines()[2:]]
