"""docs/architecture.md says what the source does: its tables and its lists of modules are held against it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from .test_architecture import LAW, MODULES, folder_of, path_of
from .test_readme import ROOT, section_of

PAGE = ROOT / "docs" / "architecture.md"


def line_of(module: str) -> int:
    return next(number for number, line in enumerate(LAW) if folder_of(module) in line)


def purpose_of(module: str) -> str:
    docstring = ast.get_docstring(ast.parse(path_of(module).read_text())) or ""
    return docstring.partition("\n\n")[0].replace("\n", " ")


def test_its_import_law_is_the_one_that_is_held() -> None:
    rows = re.findall(r"^\| (`.*?) \|", section_of(PAGE, "The import law"), re.MULTILINE)
    assert [tuple(re.findall(r"`([^`]+)`", row)) for row in rows] == LAW


def test_it_has_every_module_with_the_first_sentence_of_its_docstring() -> None:
    rows = re.findall(r"^\| `([\w/]+)` \| (.*) \|$", section_of(PAGE, "The modules"), re.MULTILINE)
    # A folder's own file has nothing but its sentence.
    files = [module for module in MODULES if module == "__init__" or path_of(module).name != "__init__.py"]
    expected = sorted(files, key=lambda module: (line_of(module), module))
    assert rows == [(module.replace(".", "/"), purpose_of(module)) for module in expected]


def modules_in(section: str) -> list[str]:
    return re.findall(r"^\d+\. `([\w/]+)`", section_of(PAGE, section), re.MULTILINE)


@pytest.mark.disk
@pytest.mark.parametrize(("section", "is_get"), [("The life of a put", False), ("The life of a cold get", True)])
def test_a_call_passes_the_modules_that_it_says_in_that_order(section: str, is_get: bool) -> None:
    # In a process that has not imported trio, as pytest's plugins have.
    program = f"from benchmarks import paths; print(*paths.awaited({is_get}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert modules_in(section) == done.stdout.split(), done.stderr


def test_an_error_passes_modules_that_there_are() -> None:
    assert {module.replace("/", ".") for module in modules_in("The life of an error")} <= set(MODULES)


def test_it_explains_ten_words() -> None:
    assert len(re.findall(r"^- \*\*", section_of(PAGE, "Ten words"), re.MULTILINE)) == 10


def test_each_decision_has_a_number_of_its_own() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    numbers = re.findall(r"^- \*\*D-(\d+)", text, re.MULTILINE)
    assert len(numbers) == len(set(numbers)) == len(re.findall(r"^- ", text, re.MULTILINE))
