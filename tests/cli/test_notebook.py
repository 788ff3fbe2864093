"""Results and stores as a notebook shows them: escaped, bounded, without I/O."""

from __future__ import annotations

import datetime
import html.parser
import pathlib
import pickle
import sys
from typing import Any

import pytest

from contextstore import (
    AsyncContextStore,
    CheckReport,
    ContextStore,
    GlobalEntry,
    Output,
    Problem,
    RunInfo,
)

TIME = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
EVIL = "<script>alert(1)</script>&\"'\x1b[31m\u202e"


class Looked(html.parser.HTMLParser):
    """The elements and the texts of some HTML, as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data + " "


RECORDS = [
    Output(EVIL, EVIL, {EVIL: EVIL}, TIME, 5),
    RunInfo(EVIL, 3, TIME, None),
    GlobalEntry(EVIL, [EVIL], 1, TIME),
    Problem(EVIL, (EVIL,), EVIL),
    CheckReport(1, 1, 1, (Problem("output", (EVIL, EVIL), EVIL),), (EVIL,)),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_what_a_result_holds_stays_text(record: Any) -> None:
    looked = Looked(record._repr_html_())
    assert looked.elements == {"table", "caption", "tbody", "tr", "th", "td"}
    assert "<script>alert(1)</script>" in looked.text
    assert looked.text.isprintable()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_result_is_still_plain(record: Any) -> None:
    assert pickle.loads(pickle.dumps(record)) == record
    assert not hasattr(record, "__dict__")


@pytest.mark.parametrize("value", ["x" * 20_000_000, b"x" * 20_000_000, [1] * 1_000_000, {"a": {"b": "y" * 10**7}}])
def test_an_output_of_any_size_is_a_line(value: Any) -> None:
    for record in (Output("run", "node", value, TIME, 20_000_000), GlobalEntry("key", value, 1, TIME)):
        assert len(record._repr_html_()) < 5000
        assert len(repr(record)) < 2000


def test_a_small_output_is_as_python_writes_it() -> None:
    assert repr(Output("run", "node", {"a": [1, None]}, TIME, 5)) == (
        "Output(flow_run_id='run', node_id='node', value={'a': [1, None]}, "
        "written_at=datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc), size=5, "
        "tag=None, cursor=None)"
    )


def test_very_many_problems_are_counted_and_the_first_are_shown() -> None:
    report = CheckReport(1, 1, 1, tuple(Problem("output", ("run", str(n)), "bad") for n in range(10_000)), ())
    text = Looked(report._repr_html_()).text
    assert "10000" in text
    assert "9950 more" in text
    assert len(report._repr_html_()) < 20_000


def test_stats_tell_sizes_in_words(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "n", "x" * 5000)
        assert "(4.9 KiB)" in store.stats()._repr_html_()


@pytest.mark.parametrize("kind", [ContextStore, AsyncContextStore])
def test_a_store_shows_where_it_is_without_its_password_and_without_io(kind: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "<b>.db"
    store = kind(path)
    assert Looked(store._repr_html_()).elements == {"table", "caption", "tbody", "tr", "th", "td"}
    assert str(path) in Looked(store._repr_html_()).text
    assert not path.exists()
    secret = kind("postgresql://me:hunter2@db.invalid/flows")
    assert "db.invalid" in secret._repr_html_()
    assert "hunter2" not in secret._repr_html_() + repr(secret)


def test_a_closed_store_shows_itself(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    store.open()
    assert "open" in store._repr_html_()
    store.close()
    assert "closed" in store._repr_html_()


def test_a_repr_needs_nothing_of_a_notebook() -> None:
    assert "IPython" not in sys.modules
