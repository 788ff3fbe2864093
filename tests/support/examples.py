"""The examples of frameworks: each is run as a reader would, or loaded for the class that it shows."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from .processes import ROOT

EXAMPLES = ROOT / "examples"


def load(example: str) -> ModuleType:
    """The example as a module, of which nothing is run."""
    specification = importlib.util.spec_from_file_location(example.removesuffix(".py"), EXAMPLES / example)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def start(
    example: str, *arguments: Any, python: str = sys.executable, folder: pathlib.Path | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Begin it as a group of processes of its own, since a framework may start more of them."""
    return subprocess.Popen(
        [python, EXAMPLES / example, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **environment},
        text=True,
        start_new_session=True,
    )


def run(example: str, *arguments: Any, **options: Any) -> tuple[int, list[str]]:
    """Its exit status, and the lines that it has printed."""
    with start(example, *arguments, **options) as process:
        said, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    return process.returncode, said.splitlines()


def heavy() -> str:
    """A Python that has the frameworks which the tests' own does not have."""
    python = os.environ.get("CONTEXTSTORE_EXAMPLES_PYTHON")
    if not python:
        pytest.skip("it is run by make examples")
    return python
