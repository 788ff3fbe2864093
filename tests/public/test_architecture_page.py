"""docs/architecture.md says what the source does: its tables and its lists of modules are held against it."""

from __future__ import annotations

import re

from .test_architecture import LAW, MODULES, folder_of, path_of
from .test_readme import ROOT, section_of

PAGE = ROOT / "docs" / "architecture.md"


def code_in(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_its_import_law_is_the_one_that_is_held() -> None:
    rows = re.findall(r"^\| (`.*?) \|", section_of(PAGE, "The import law"), re.MULTILINE)
    assert [tuple(code_in(row)) for row in rows] == LAW


def test_it_has_a_line_for_every_module() -> None:
    named = re.findall(r"^\| `([\w/]+)` \|", section_of(PAGE, "The modules"), re.MULTILINE)
    # A folder's own file has nothing but its sentence.
    files = [module for module in MODULES if module == "__init__" or path_of(module).name != "__init__.py"]
    assert sorted(named) == sorted(module.replace(".", "/") for module in files)
    assert named == sorted(named, key=lambda name: line_of(name.replace("/", ".")))


def line_of(module: str) -> int:
    return next(number for number, line in enumerate(LAW) if folder_of(module) in line)
