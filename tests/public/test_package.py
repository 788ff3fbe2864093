"""The package as a user gets it: what importing it brings along, and its wheel where nothing else is installed."""

from __future__ import annotations

import email
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import tomllib
import venv
import zipfile
from typing import Any

import pytest

import contextstore

from ..support.processes import ROOT, run

# Optional, or heavy and not needed to import the package.
NOT_IMPORTED = [
    "anyio",
    "asyncpg",
    "attr",
    "attrs",
    "hypothesis",
    "multiprocessing",
    "numpy",
    "pandas",
    "pip",
    "psycopg",
    "pydantic",
    "pytest",
    "rich",
    "setuptools",
    "sniffio",
    "tkinter",
    "trio",
    "unittest",
    "uvloop",
]

USE = """
    import asyncio, importlib.metadata, pathlib, sys
    import contextstore
    from contextstore import AsyncContextStore, ContextStore

    where = pathlib.Path(contextstore.__file__).resolve()
    assert where.is_relative_to(pathlib.Path(sys.prefix).resolve()), where
    assert (where.parent / "py.typed").exists()
    assert contextstore.__version__ == importlib.metadata.version("contextstore")

    with ContextStore(sys.argv[1]) as store:
        store.put("run", "blocking", {"a": [1, None, "x"]})
        store.upsert_global("key", 1)

    async def main():
        async with AsyncContextStore(sys.argv[1]) as store:
            await store.put("run", "async", b"bytes")
            assert await store.get("run", "blocking") == {"a": [1, None, "x"]}
            assert await store.get_global("key", type=int) == 1
            assert await store.list_keys("run") == ["async", "blocking"]

    asyncio.run(main())
    for optional in ("rich", "pydantic", "attr", "asyncpg", "uvloop"):
        assert optional not in sys.modules, optional
    print(contextstore.__version__)
"""


def _project() -> dict[str, Any]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def _run(*command: str | os.PathLike[str], cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([*command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=150)


def _succeeds(*command: str | os.PathLike[str], cwd: pathlib.Path) -> str:
    done = _run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_importing_the_package_brings_nothing_optional_or_heavy_along() -> None:
    program = "import sys; before = set(sys.modules); import contextstore; print(*set(sys.modules) - before)"
    imported = _succeeds(sys.executable, "-c", program, cwd=ROOT)
    names = {name.split(".")[0] for name in imported.split()}
    assert "contextstore" in names
    assert names & set(NOT_IMPORTED) == set()


def test_importing_the_package_starts_no_thread_and_warns_of_nothing() -> None:
    assert run("say(threading.active_count())", options=["-W", "error"]) == ["1"]


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert contextstore.__version__ == importlib.metadata.version("contextstore")


def test_extras_are_declared_for_whatever_is_optional() -> None:
    project = _project()
    required = {requirement.split(">")[0] for requirement in project["dependencies"]}
    assert required & set(NOT_IMPORTED) == {"anyio"}  # for a program with other loops or scopes, which then imports it
    assert "Typing :: Typed" in project["classifiers"]
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in project["classifiers"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    _succeeds(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
@pytest.mark.one_python
class TestWheel:
    def test_it_holds_the_package_and_nothing_else(self, wheel: pathlib.Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
        packed = {name for name in names if ".dist-info/" not in name}
        here = {
            str(path.relative_to(ROOT))
            for path in (ROOT / "contextstore").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert packed == here
        assert "contextstore/py.typed" in packed
        assert any(name.endswith("/licenses/LICENSE") for name in names)

    def test_it_says_what_the_package_says(self, wheel: pathlib.Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            described = email.message_from_bytes(archive.read(metadata))
        assert described["Version"] == contextstore.__version__
        assert wheel.name == f"contextstore-{contextstore.__version__}-py3-none-any.whl"
        assert described["Requires-Python"] == ">=3.11"
        needed = [line for line in described.get_all("Requires-Dist", []) if "extra ==" not in line]
        assert {line.split(">")[0] for line in needed} == {line.split(">")[0] for line in _project()["dependencies"]}

    def test_it_works_in_an_environment_that_has_nothing_else(
        self, wheel: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        venv.create(tmp_path / "venv")
        python = tmp_path / "venv" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet"]
        _succeeds(*pip, "install", wheel, cwd=tmp_path)
        _succeeds(*pip, "check", cwd=tmp_path)
        said = _succeeds(python, "-W", "error", "-c", textwrap.dedent(USE), tmp_path / "store.db", cwd=tmp_path)
        assert said.split() == [contextstore.__version__]


TYPED = ROOT / "tests" / "typing"
MARK = re.compile(r"  # type: ignore\[.*?\]")
CHECKERS = {"mypy": ["mypy", "--no-error-summary"], "pyright": ["pyright"]}


@pytest.fixture(scope="module", params=CHECKERS)
def complaints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    """What a type checker finds wrong in each file, by line."""
    unmarked = tmp_path_factory.mktemp("typing") / "unmarked.py"
    unmarked.write_text(MARK.sub("", (TYPED / "misuses.py").read_text()))
    files = [TYPED / "uses.py", TYPED / "misuses.py", unmarked]
    done = _run(sys.executable, "-m", *CHECKERS[request.param], *files, cwd=ROOT)
    assert done.returncode == 1, done.stdout + done.stderr  # for what is not marked
    found: dict[str, dict[int, str]] = {file.name: {} for file in files}
    for name, line, message in re.findall(r"^\s*(\S+\.py):(\d+):.*?\berror: (.*)", done.stdout, re.MULTILINE):
        found.setdefault(pathlib.Path(name).name, {})[int(line)] = message
    return found


@pytest.mark.slow
@pytest.mark.one_python
class TestTypes:
    def test_the_uses_of_the_public_api_have_the_types_they_should(self, complaints: dict[str, dict[int, str]]) -> None:
        assert complaints["uses.py"] == {}

    def test_every_marked_misuse_needs_its_mark(self, complaints: dict[str, dict[int, str]]) -> None:
        """A mark on a line that is accepted is a complaint, too."""
        assert complaints["misuses.py"] == {}

    def test_without_the_marks_every_misuse_is_refused(self, complaints: dict[str, dict[int, str]]) -> None:
        lines = (TYPED / "misuses.py").read_text().splitlines()
        marked = {number for number, line in enumerate(lines, 1) if MARK.search(line)}
        assert set(complaints["unmarked.py"]) == marked
        assert len(marked) > 30


def test_the_typed_uses_use_every_public_name_and_every_call() -> None:
    text = "".join((TYPED / name).read_text() for name in ("uses.py", "results.py"))
    assert [name for name in contextstore.__all__ if not re.search(rf"\b{name}\b", text)] == []
    for kind in (contextstore.AsyncContextStore, contextstore.AsyncFlowRun):
        calls = [name for name in dir(kind) if not name.startswith("_")]
        assert [name for name in calls if len(re.findall(rf"\.{name}\b", text)) < 2] == []
