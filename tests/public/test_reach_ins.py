"""No object of the package reaches into another: what stands behind one underscore is its class's module's alone."""

from __future__ import annotations

import pathlib

import pytest

import contextstore
from benchmarks.metrics import Source, reach_ins

PACKAGE = pathlib.Path(contextstore.__file__).parent


def reach_ins_of(folder: pathlib.Path, text: str) -> list[str]:
    path = folder / "module.py"
    path.write_text(text, encoding="utf-8")
    return [found.partition(" ")[2] for found in reach_ins(Source(path, folder))]


def test_there_are_none() -> None:
    sources = [Source(path, PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
    assert [place for source in sources for place in reach_ins(source)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(store):\n    return store._core", ["store._core"]),
        ("class A:\n    def f(self):\n        return self.store._core", ["self.store._core"]),
        ("class A:\n    def f(self, other: B):\n        return other.one._core", ["other.one._core"]),
        ("def f(a: A):\n    return a._core", ["a._core"]),
        ("_all: set[A] = set()\ndef f():\n    for a in _all:\n        a._core", ["a._core"]),
    ],
)
def test_they_are_found(tmp_path: pathlib.Path, text: str, found: list[str]) -> None:
    assert reach_ins_of(tmp_path, text) == found


@pytest.mark.parametrize(
    "text",
    [
        "class A:\n    def f(self):\n        return self._core",
        "class A:\n    @classmethod\n    def f(cls):\n        return cls._core",
        "class A(B):\n    def f(self):\n        return super()._core()",
        "class A:\n    def __eq__(self, other):\n        return self._core == other._core",
        "class A: ...\ndef f(a: A):\n    return a._core",
        "class A: ...\ndef f(a: 'A[int]'):\n    return a._core",
        "class A: ...\n_all: set[A] = set()\ndef f():\n    for a in list(_all):\n        a._core",
        "def f(record):\n    return record._replace(a=1)",
        "def f(record):\n    return record.__class__",
    ],
)
def test_what_is_of_the_same_module_is_none(tmp_path: pathlib.Path, text: str) -> None:
    assert reach_ins_of(tmp_path, text) == []
