"""docs/command-line.md says what the application does: its tables are held against it."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import pytest

import contextstore
from contextstore.cli import errors

from ..public.test_readme import ROOT, section_of
from .commands import COMMON, commands, help_of, options_of, usage_of
from .lines import ran

PAGE = ROOT / "docs" / "command-line.md"


def rows_of(title: str, page: pathlib.Path = PAGE) -> list[list[str]]:
    """The cells of the rows in a section, without those of the head."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section_of(page, title).splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\|", "|") for cell in row] for row in rows]
    heads = {number for number, row in enumerate(cells) if set("".join(row)) <= {"-", " "}}
    return [row for number, row in enumerate(cells) if not {number, number + 1} & heads]


def codes_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def first_sentence(name: str) -> str:
    """Of what --help says: the line in the list of commands is cut from it."""
    text = (commands()[name].help or "").partition("\n\n")[0]
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]


def test_it_has_every_command_with_its_words_its_first_sentence_and_its_own_options() -> None:
    rows = [row for row in rows_of("Commands") if len(row) == 3]
    assert {codes_in(row[0])[0]: (row[1], codes_in(row[2])) for row in rows} == {
        usage_of(name): (first_sentence(name), options_of(name)) for name in commands()
    }


def test_no_command_is_cut_short_in_the_list_of_commands() -> None:
    texts = [ran(*words, "--help", COLUMNS="120").out for words in ([], ["globals"])]
    lists = [text.partition("\nCommands:\n")[2].splitlines() for text in texts]
    assert all(lists)
    assert [line for lines in lists for line in lines if line.endswith("...")] == []


def test_it_has_every_option_that_all_commands_have() -> None:
    rows = [codes_in(row[0])[0].split()[0] for row in rows_of("Commands") if len(row) == 2]
    assert rows == ["--store", "--output", "--json", "--time", "--timeout"]
    assert set(rows) | {"--help", "-h"} == COMMON


@pytest.mark.parametrize("name", commands())
def test_a_command_has_the_options_that_all_have(name: str) -> None:
    own_store = "[STORE]" in usage_of(name)
    for option in ("--output", "--json", "--time", "--timeout", *(["--store"] if own_store else [])):
        assert re.search(rf"^  {option}\b", help_of(name), re.MULTILINE), option


def test_it_has_every_exit_code_with_its_meaning() -> None:
    assert [(int(code), meaning) for code, meaning in rows_of("Exit codes")] == list(errors.MEANINGS.items())


def test_it_has_the_fields_of_every_result_that_it_names() -> None:
    rows = [row for row in rows_of("Output") if len(row) == 3]
    assert len(rows) >= 5
    for _, kind, fields in rows:
        result = getattr(contextstore, codes_in(kind)[0])
        assert codes_in(fields) == [field.name for field in dataclasses.fields(result)]


def test_it_has_the_variables_that_are_read() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "contextstore" / "cli").glob("*.py"))
    for name in [codes_in(row[0])[0] for row in rows_of("Environment variables")]:
        assert f'"{name}"' in sources
