"""What the documentation shows is run, as a reader would paste it.

Rules of this module: every fence is of a kind that is run here, or ``text``; any other fails the tests. Python works on
its own in an empty folder, as a program of its own; ``python continued`` goes on where the Python before it ended, as a
reader would who pastes both. ``python pytest`` is a module of tests, which pytest runs, with a server at
``DATABASE_URL``. A ``console`` fence has commands after ``$`` and what they print; ``bash`` has commands alone. A
command that nobody here knows how to check fails. A fence that needs more than that is of a kind that the page's own
tests run.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from ..cli.lines import interrupted_after_a_line, run, run_process
from ..support.portions import WHOLE, first_of

ROOT = pathlib.Path(__file__).parent.parent.parent
README = ROOT / "README.md"
RUN_ALONE = ("python", "python pytest")
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


RUN_ELSEWHERE = {
    "docs/integrations.md": tuple(  # test_integrations_page.py
        f'python title="examples/{name}.py"'
        for name in ("openai_agents_session", "burr_persister", "prefect_results", "dagster_io")
    ),
    "docs/operating.md": ("sh",),  # test_operating.py
    "docs/postgresql.md": ("sql", "python server"),  # test_postgresql_page.py
    "docs/reference.md": ("python example", "python signature"),  # test_reference.py
    "docs/sql-views.md": ("sql",),  # test_views.py
    "docs/web-service.md": (  # test_web_service_page.py
        "bash",
        "console",
        "yaml",
        'python title="examples/web_service.py"',
        'python title="examples/web_worker.py"',
    ),
}
"""Kinds of fences that a page's own tests run, and show that they run all of them."""


@dataclass(frozen=True)
class Fence:
    """A fenced block: the words after the backticks, and its text."""

    document: str
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def fences_in(markdown: str, document: str) -> list[Fence]:
    """The fenced blocks, with each ``python continued`` joined to the Python that it continues."""
    fences: list[Fence] = []
    lines = enumerate(markdown.splitlines(), 1)
    for number, line in lines:
        if not (opening := re.fullmatch(r"(\s*)(`{3,}|~{3,})\s*(.*?)\s*", line)):
            continue
        indent, marks, info = opening.groups()
        text: list[str] = []
        for _, inner in lines:
            if inner.strip().startswith(marks) and not inner.strip().strip(marks[0]):
                break
            text.append(inner.removeprefix(indent))
        else:
            raise AssertionError(f"{document}:{number}: the fence is not closed")
        if info == "python continued":
            position = max((i for i, fence in enumerate(fences) if fence.info == "python"), default=None)
            assert position is not None, f"{document}:{number}: there is no Python before it"
            begun = fences.pop(position)
            fences.append(Fence(document, begun.line, "python", "\n".join([begun.text, *text])))
        else:
            fences.append(Fence(document, number, info, "\n".join(text)))
    return fences


def fences_of(path: pathlib.Path) -> list[Fence]:
    return fences_in(path.read_text(), str(path.relative_to(ROOT)))


# ------------------------------------------------------------------------------------------------------ running a fence


def run_fence(fence: Fence, folder: pathlib.Path, environment: Mapping[str, str] = {}) -> None:
    match fence.info:
        case kind if kind in RUN_ELSEWHERE.get(fence.document, ()):
            pass
        case "python":
            run_python(fence, folder)
        case "python pytest":
            run_tests(fence, folder, environment)
        case "console" | "bash":
            for command, expected in commands_of(fence):
                check_command(fence, command, expected, folder)
        case "text":
            pass
        case _:
            raise AssertionError(f"{fence}: a fence of the kind {fence.info!r} is not run by any test")


def run_all(markdown: str, folder: pathlib.Path) -> None:
    for fence in fences_in(markdown, "a document"):
        run_fence(fence, folder)


def run_python(fence: Fence, folder: pathlib.Path) -> None:
    """As a program of its own. It must end well and have nothing to complain about."""
    program = folder / "snippet.py"
    program.write_text(fence.text)
    done = subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    program.unlink()
    assert done.returncode == 0, f"{fence}: {done.stderr}"
    assert not done.stderr, f"{fence}: {done.stderr}"


def run_tests(fence: Fence, folder: pathlib.Path, environment: Mapping[str, str]) -> None:
    """As a module of tests: all must pass, none be skipped, and nothing warn."""
    module = folder / "test_snippet.py"
    module.write_text(fence.text)
    # Its own configuration, and not that of a folder above. The scope is what pytest-asyncio asks everybody to set.
    settings = "filterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    (folder / "pytest.ini").write_text(f"[pytest]\n{settings}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", module.name],
        cwd=folder,
        # Other plugins would take longer to load than the tests do.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    module.unlink()
    assert done.returncode == 0, f"{fence}: {done.stdout}{done.stderr}"
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), f"{fence}: {done.stdout}"


def commands_of(fence: Fence) -> Iterator[tuple[str, list[str]]]:
    """Each command with the lines that it prints, as far as these are shown."""
    lines = fence.text.splitlines()
    if fence.info == "bash":
        yield from ((line, []) for line in lines if line.strip() and not line.startswith("#"))
        return
    assert lines, f"{fence}: the fence is empty"
    assert lines[0].startswith("$ "), f"{fence}: a console begins with a command, after '$ '"
    blocks: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            blocks.append((line.removeprefix("$ "), []))
        else:
            blocks[-1][1].append(line)
    yield from blocks


def check_command(fence: Fence, command: str, expected: list[str], folder: pathlib.Path) -> None:
    """Run it where that can be done here; else see that what it names is there."""
    match shlex.split(command, comments=True):
        case ["sqlite3", database, sql]:
            assert (folder / database).exists(), f"{fence}: no snippet before it has made {database}"
            assert query(folder / database, sql) == expected, f"{fence}: {command}"
        case ["make", target, *variables]:
            assert target in make_targets(), f"{fence}: the Makefile has no target {target}"
            for variable in variables:
                name = variable.partition("=")[0]
                assert f"$({name})" in makefile(), f"{fence}: the Makefile does not know {name}"
        case ["python", name]:
            printed = run_first_program(fence, name, folder)
            assert not expected or printed == expected, f"{fence}: {command}"
        case ["contextstore", *words]:
            printed = run_contextstore(words, folder)
            assert not expected or printed == expected, f"{fence}: {command}"
        case ["pip", "install", what] if found := re.fullmatch(r"\.(?:\[([\w,]+)\])?", what):
            wanted = found[1].split(",") if found[1] else []
            assert set(wanted) <= extras(), f"{fence}: there is no extra {what}"
        case [".ci/run"]:
            assert os.access(ROOT / ".ci/run", os.X_OK)
        case _:
            raise AssertionError(f"{fence}: no test knows how to check the command {command!r}")


def run_first_program(fence: Fence, name: str, folder: pathlib.Path) -> list[str]:
    """What the first program of the page prints, saved under the name that the page gives it."""
    text = (ROOT / fence.document).read_text()
    assert f"Save this as `{name}`" in text, f"{fence}: the page names no program {name}"
    (folder / name).write_text(next(each for each in fences_in(text, fence.document) if each.info == "python").text)
    done = subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{fence}: {done.stderr}"
    return done.stdout.splitlines()


def run_contextstore(words: list[str], folder: pathlib.Path) -> list[str]:
    """What a command of our own prints. It must end well."""
    if words[0] == "ui":  # it goes on until Ctrl-C
        done = interrupted_after_a_line(*words, cwd=folder)
        assert done.code == 0, f"contextstore {shlex.join(words)}: {done.err}"
        return done.lines
    with contextlib.chdir(folder):
        done = (run_process if WHOLE else run)(*words)
    assert done.code == 0, f"contextstore {shlex.join(words)}: {done.err}"
    return done.lines


def query(database: pathlib.Path, sql: str) -> list[str]:
    """What the sqlite3 shell prints, or would print if it is not installed."""
    if shell := shutil.which("sqlite3"):
        done = subprocess.run([shell, str(database), sql], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return ["|".join("" if field is None else str(field) for field in row) for row in connection.execute(sql)]


def makefile() -> str:
    return (ROOT / "Makefile").read_text()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", makefile(), re.MULTILINE))


def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


# ------------------------------------------------------------------------------------------------- the documents' tests


def order(path: pathlib.Path) -> int:
    """Those first with commands, which are run nowhere else: what is Python is run on its own below."""
    return not any(fence.info in ("console", "bash") for fence in fences_of(path))


BY_ORDER = sorted(DOCUMENTS, key=order)


@pytest.mark.parametrize(
    "path",
    first_of(BY_ORDER, len(DOCUMENTS) - sum(map(order, DOCUMENTS))),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_document_works_as_pasted_from_top_to_bottom_in_one_folder(
    path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for fence in fences_of(path):
        if fence.info != "python pytest":  # which need no folder, and are run below
            run_fence(fence, tmp_path)


@pytest.mark.parametrize(
    "fence", [fence for path in DOCUMENTS for fence in fences_of(path) if fence.info in RUN_ALONE], ids=str
)
def test_each_snippet_works_on_its_own_in_an_empty_folder(
    fence: Fence, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    needs_server = "DATABASE_URL" in fence.text
    run_fence(fence, tmp_path, {"DATABASE_URL": request.getfixturevalue("postgres").url()} if needs_server else {})


def test_the_first_flow_of_the_readme_goes_on_where_sigkill_met_it(tmp_path: pathlib.Path) -> None:
    first = fences_of(README)[0]
    program = tmp_path / "flow.py"
    program.write_text(first.text)
    command = [sys.executable, "-u", str(program)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        before = [process.stdout.readline(), process.stdout.readline()]
        process.kill()
        before += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL

    after = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    computed = [line for line in [*before, *after.stdout.splitlines(keepends=True)] if line.startswith("computed")]
    nodes = [f"computed square/{number:02}\n" for number in range(1, 11)]
    # The kill may come between a write and the line that tells of it: then this one line is missing.
    assert len(computed) == len(set(computed))
    assert set(computed) <= set(nodes)
    assert len(computed) >= len(nodes) - 1
    assert after.stdout.endswith("sum 385\n")


# ------------------------------------------------------------------------------------------------- what they leave out


def section_of(path: pathlib.Path, title: str) -> str:
    return path.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(README.read_text().splitlines()) <= 180


def test_make_help_names_every_target() -> None:
    help_text = makefile().partition("\nhelp:\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"make ([a-z-]+)", help_text)) == make_targets() - {"help"}


# ---------------------------------------------------------------------------------------------- what these tests notice


@pytest.mark.parametrize(
    ("markdown", "complaint"),
    [
        ("```ruby\nputs 1\n```\n", "is not run by any test"),
        ("```\nno kind\n```\n", "is not run by any test"),
        ("  ```python\n  assert 1 == 2\n  ```\n", "AssertionError"),
        ("~~~python\nimport warnings; warnings.warn('odd')\n~~~\n", "odd"),
        ("```console\n$ rm -rf flows.db\n```\n", "no test knows how to check"),
        ("```bash\nmake sandwich\n```\n", "no target sandwich"),
        ("```bash\nmake demo DEMO_ARG=1\n```\n", "does not know DEMO_ARG"),
        ("```console\n$ pip install '.[nothing]'\n```\n", "there is no extra"),
        ("```console\n$ pip install 'contextstore[cli]'\n```\n", "no test knows how to check"),
        ("```console\n$ sqlite3 flows.db 'SELECT 1'\n1\n```\n", "no snippet before it has made"),
        ("```python\nopen('x.db', 'w').close()\n```\n```console\n$ sqlite3 x.db 'SELECT 1'\n2\n```\n", "SELECT 1"),
        ("```python\nassert 1\n", "is not closed"),
        ("```python continued\nassert 1\n```\n", "no Python before it"),
    ],
)
def test_a_fence_that_does_not_work_or_that_nobody_runs_fails(
    markdown: str, complaint: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        run_all(markdown, tmp_path)


def test_a_continued_snippet_knows_what_the_one_before_it_made(tmp_path: pathlib.Path) -> None:
    markdown = "```python\nx = 1\n```\n```python continued\nassert x == 1\n```\n"
    run_all(markdown, tmp_path)
