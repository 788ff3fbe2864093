"""The reference says what the docstrings say, and leaves out no public name."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import inspect
import pathlib
import re
import typing
from typing import Any

import pytest

import contextstore
from contextstore import AsyncContextStore, AsyncFlowRun, ContextStore, errors
from docs.tools import docstrings, reference
from docs.tools.markdown import anchors, links, titles

from .test_readme import fences_in

pytestmark = pytest.mark.one_python

PAGE = reference.PAGE.read_text()
TITLES = set(titles(PAGE))
EXAMPLES = [fence for fence in fences_in(PAGE, "reference.md") if fence.info == "python example"]
SIGNATURES = [fence for fence in fences_in(PAGE, "reference.md") if fence.info == "python signature"]


def test_the_page_is_that_of_the_docstrings() -> None:
    assert reference.page() == PAGE, "docs/reference.md is out of date: run 'make reference'"


def test_each_public_name_has_a_heading() -> None:
    sections = {"AsyncFlowRun": "Calls of a run", "FlowRun": "Calls of a run"}
    assert {sections.get(name, name) for name in contextstore.__all__} - TITLES == set()
    assert set(errors.__all__) - TITLES == set()


@pytest.mark.parametrize("kind", reference.SUBJECTS, ids=lambda kind: kind.__name__)
def test_each_call_has_a_heading_and_a_signature(kind: type) -> None:
    subject = reference.SUBJECTS[kind]
    calls = {f"{subject}.{name}" for name in reference.public_calls(kind)}
    assert calls
    assert calls - TITLES == set()
    shown = {found[1] for fence in SIGNATURES if (found := re.match(r"(?:await )?([\w.]+)\(", fence.text))}
    assert calls - shown == {f"{subject}.{name}" for name, it in vars(kind).items() if isinstance(it, property)}


def test_each_option_has_a_row_with_its_default() -> None:
    options = PAGE.partition("\n## Options\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", options, re.MULTILINE))
    assert list(rows) == list(inspect.signature(ContextStore).parameters)
    assert (rows["durability"], rows["timeout"], rows["cache_bytes"]) == ('`"full"`', "`30.0`", "`64 * 2**20`")


def test_what_is_awaited_is_marked() -> None:
    assert "| [`put`](#storeput) | **A** |" in PAGE
    assert "| [`iter_outputs`](#storeiter_outputs) |  |" in PAGE
    assert "await store.put(" in PAGE
    assert "await store.iter_outputs(" not in PAGE


@pytest.mark.parametrize("kind", [AsyncContextStore, AsyncFlowRun, contextstore.AtomicWriter])
def test_no_docstring_tells_of_a_parameter_that_is_not_there(kind: type) -> None:
    for name in reference.public_calls(kind):
        member = getattr(kind, name)
        if callable(member):
            assert told_parameters(member) - set(inspect.signature(member).parameters) == set(), name


@pytest.mark.parametrize("function", [contextstore.copy, contextstore.restore, contextstore.shared])
def test_each_parameter_of_a_function_is_told_of(function: Any) -> None:
    assert told_parameters(function) == set(inspect.signature(function).parameters)


def told_parameters(function: Any) -> set[str]:
    blocks = docstrings.blocks_of(inspect.getdoc(function) or "")
    return {
        name
        for block in blocks
        if block.kind == "Args"
        for names, _ in block.entries
        for name in names.replace("*", "").split(", ")
    }


@pytest.mark.parametrize("kind", reference.SUBJECTS, ids=lambda kind: kind.__name__)
def test_each_call_has_a_docstring(kind: type) -> None:
    said = {name: inspect.getdoc(getattr(kind, name)) or "-" for name in reference.public_calls(kind)}
    assert [name for name, docstring in said.items() if len(docstrings.summary(docstring)) < 10] == []


def test_each_name_in_a_signature_is_explained_or_known_to_a_python_user() -> None:
    words = {word for fence in SIGNATURES for word in re.findall(r"(?<![\w.\"])[A-Z]\w+", fence.text)}
    known = {*vars(builtins), *vars(typing), *vars(collections.abc)}
    explained = set(re.findall(r"`(\w+)`", reference.INTRODUCTION)) | TITLES
    assert words - known - explained == set()


def test_each_link_within_the_page_leads_to_a_heading() -> None:
    assert {link.removeprefix("#") for link in links(PAGE) if link.startswith("#")} - anchors(PAGE) == set()


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
async def test_the_examples_of_the_docstrings_work(
    example: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with AsyncContextStore("names.db") as store:
        names: dict[str, Any] = {
            **{name: value for module in reference.public_modules() for name, value in vars(module).items()},
            **{name: getattr(contextstore, name) for name in contextstore.__all__},
            "store": store,
            "extract": lambda url: [1, 2, len(url)],
        }
        code = compile(example.text, str(example), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)  # an example is a program with awaits at its top
        if inspect.iscoroutine(running):
            await running
        if "shared(" in example.text:
            contextstore.shared("flows.db").close()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


# ---------------------------------------------------------------------------------------------- how docstrings are read

DOCSTRING = """Do it, once; for good.

    call(1)

    call(2)

Said of ``it`` and ``other()``.

Args:
    one, two: what is
        meant.
    three: more.

Raises:
    ValueError, KeyError: a mistake.
    Any exception of ``fn``.
"""


def test_a_docstring_is_taken_apart() -> None:
    kinds = [block.kind for block in docstrings.blocks_of(DOCSTRING)]
    assert kinds == ["text", "code", "text", "Args", "Raises"]
    assert docstrings.blocks_of(DOCSTRING)[1].text == "call(1)\n\ncall(2)"
    assert docstrings.blocks_of(DOCSTRING)[3].entries == (("one, two", "what is meant."), ("three", "more."))
    assert docstrings.summary(DOCSTRING) == "Do it, once; for good"


def test_a_docstring_becomes_markdown() -> None:
    said = docstrings.rendered(DOCSTRING, lambda code: f"<{code}>")
    assert "```python example\ncall(1)\n\ncall(2)\n```" in said
    assert "Said of <it> and <other()>." in said
    assert "- `one`, `two`: what is meant." in said
    assert "- <ValueError>, <KeyError>: a mistake." in said
    assert "- Any exception of <fn>." in said


@pytest.mark.parametrize(
    "written",
    ["a, /", "a, /, b", "a: int = 1, *b, c", "*, a: str = 'x'", "a, /, *, b", "*a, **b", "a, /, b, *, c = None", ""],
)
def test_a_signature_is_shown_as_it_is_written(written: str) -> None:
    names: dict[str, Any] = {}
    exec(f"from __future__ import annotations\ndef function({written}): ...", names)
    words = reference.parameter_words(list(inspect.signature(names["function"]).parameters.values()))
    assert ", ".join(words) == written.replace("'", '"')


def test_a_drawing_is_no_program() -> None:
    assert not docstrings.is_python("Error\n├── Other")
    assert docstrings.is_python("async with store: await x()")
