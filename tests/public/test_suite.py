"""The suite as it lies there: its files are short enough to read, and those that the documentation names are there."""

from __future__ import annotations

import pathlib
import re

import pytest

from ..support.processes import ROOT

pytestmark = pytest.mark.one_python

LINES = 600


def test_no_test_file_is_longer_than_600_lines() -> None:
    files = list((ROOT / "tests").rglob("*.py"))
    assert len(files) > 100
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


@pytest.mark.parametrize("text", ["docs/durability.md", "CONTRIBUTING.md"])
def test_files_of_the_suite_that_the_documentation_names_are_there(text: str) -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.\w+)`", pathlib.Path(ROOT, text).read_text()))
    assert named
    assert {name for name in named if not (ROOT / name).is_file()} == set()
