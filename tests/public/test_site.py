"""The pages lead where they say: every link of every page, the navigation, and the site as it is built.

Rules of this module: nothing is fetched from elsewhere. A link to another site is looked at for its form alone.
"""

from __future__ import annotations

import html.parser
import pathlib
import re
import tomllib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from docs.tools import markdown, site

ROOT = site.ROOT
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

pytestmark = pytest.mark.one_python


def nav() -> list[str]:
    """The pages of the navigation, in its order."""
    return list(_pages(tomllib.loads((ROOT / site.CONFIGURATION).read_text())["project"]["nav"]))


def _pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from _pages(inner)


# --------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page: pathlib.Path) -> None:
    assert list(wrong_links(page)) == []


def wrong_links(page: pathlib.Path, root: pathlib.Path = ROOT) -> Iterator[str]:
    for link in markdown.links(page.read_text()):
        target, mark, fragment = link.partition("#")
        if markdown.URL.match(link):
            parts = urlsplit(link)
            if parts.scheme != "https" or "." not in parts.netloc:
                yield f"{link}: is no address of a page"
            continue
        path = page.parent / unquote(target) if target else page
        if not path.exists():
            yield f"{link}: is not there"
        elif not path.resolve().is_relative_to(root.resolve()):
            yield f"{link}: is not in this repository"
        elif mark and (path.suffix != ".md" or fragment not in markdown.anchors(path.read_text())):
            yield f"{link}: has no such heading"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a](nowhere.md)", "is not there"),
        ("[a](..)", "not in this repository"),
        ("[a](#nothing)", "no such heading"),
        ("[a](other.md#nothing)", "no such heading"),
        ("[a\nb](../../../etc/passwd)", "is not there"),
        ("[a](http://example.org/)", "is no address"),
        ("[a](https://somewhere)", "is no address"),
        ("![picture](none.svg)", "is not there"),
        ("[a `b](c)` d](nowhere.md)", "is not there"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(text: str, complaint: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "other.md").write_text("# Other\n")
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{text}\n")
    (found,) = wrong_links(page, tmp_path)
    assert complaint in found


def test_a_link_in_code_is_none() -> None:
    assert markdown.links("`[a](b.md)`\n\n```text\n[a](c.md)\n```\n\n``x`[a](d.md)``\n[e](f.md)") == ["f.md"]


def test_headings_have_the_anchors_that_both_readers_give_them() -> None:
    text = "# The `store.get` call\n## Is it?\n## Is it?\n\n```python\n# no heading\n```\n\n### a -- b\n# [x](y.md) z\n"
    assert markdown.anchors(text) == {"the-storeget-call", "is-it", "x-z"}


def test_links_are_replaced_where_they_stand_and_nothing_else_is() -> None:
    text = "`[a](b.md)` [a](b.md) é [c](d.md#e)\n```\n[a](b.md)\n```\n[a](b.md)"
    replaced = markdown.replace_links(text, str.upper)
    assert replaced == "`[a](b.md)` [a](B.MD) é [c](D.MD#E)\n```\n[a](b.md)\n```\n[a](B.MD)"


# ---------------------------------------------------------------------------------------------------------- navigation


def test_each_page_is_in_the_navigation_once() -> None:
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(nav()) == sorted([*pages, *site.PAGES.values()])


def test_the_front_page_leads_to_each_page() -> None:
    led_to = {(DOCS / link.partition("#")[0]).resolve() for link in markdown.links((DOCS / "index.md").read_text())}
    pages = {path.resolve() for path in PAGES if path != DOCS / "index.md"}
    assert pages - led_to == set()


# ------------------------------------------------------------------------------------------------------- how it is laid


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("laid")
    site.lay_out(folder)
    return folder / "docs"


def test_a_link_that_leaves_the_pages_leads_to_a_page_of_that_file(laid_out: pathlib.Path) -> None:
    assert "](source/examples/index.md)" in (laid_out / "index.md").read_text()
    shown = (laid_out / "source/examples/dag_runner.py.md").read_text()
    assert (ROOT / "examples/dag_runner.py").read_text().rstrip() in shown
    assert shown.startswith("# `examples/dag_runner.py`\n\n```python\n")


def test_a_folder_that_is_linked_to_lists_its_files(laid_out: pathlib.Path) -> None:
    listed = markdown.links((laid_out / "source/examples/index.md").read_text())
    assert listed == [f"{path.name}.md" for path in sorted((ROOT / "examples").glob("*.py"))]


def test_fences_that_only_the_tests_know_are_python_to_the_generator(laid_out: pathlib.Path) -> None:
    for page in laid_out.rglob("*.md"):
        assert re.findall(r"^ *```\w+ (?!title=\").*", page.read_text(), re.MULTILINE) == [], page


# ------------------------------------------------------------------------------------------------------ how it is built


class Page(html.parser.HTMLParser):
    """The links, the pictures and the anchors of a built page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.leads_to: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value or "")
            elif name == "href" and tag == "a":
                self.leads_to.append(value or "")
            elif name in {"src", "href"}:
                self.loads.append(value or "")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[pathlib.Path, Page]:
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("built")
    site.lay_out(folder)
    said = site.build(folder)
    assert "warning" not in said.lower(), said
    pages = {path.resolve(): Page(path.read_text()) for path in (folder / "site").rglob("*.html")}
    del pages[(folder / "site" / "404.html").resolve()]  # it is shown at any address, and so links from the root
    return pages


@pytest.mark.slow
class TestBuilt:
    def test_each_page_of_the_navigation_is_there(self, built: dict[pathlib.Path, Page]) -> None:
        assert {page.removesuffix(".md") for page in nav()} - {path.stem for path in built} == set()

    def test_each_link_and_each_anchor_is_there(self, built: dict[pathlib.Path, Page]) -> None:
        wrong = [
            f"{path.name}: {link}"
            for path, page in built.items()
            for link in [*page.leads_to, *page.loads]
            if not markdown.URL.match(link) and not self._is_there(link, path, built)
        ]
        assert wrong == []

    def _is_there(self, link: str, path: pathlib.Path, built: dict[pathlib.Path, Page]) -> bool:
        target, _, fragment = link.partition("#")
        found = (path.parent / unquote(target)).resolve() if target else path
        if found.is_dir():
            found /= "index.html"
        # "__consent" and the like are switches of the page itself.
        return found.exists() and (not fragment or fragment.startswith("__") or fragment in built[found].anchors)

    def test_nothing_is_loaded_from_elsewhere(self, built: dict[pathlib.Path, Page]) -> None:
        assert {link for page in built.values() for link in page.loads if re.match(r"[a-z]+:|//", link)} == set()
