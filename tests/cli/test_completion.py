"""What the tab key finds: commands, options, runs, nodes and keys, as the shells ask for them."""

from __future__ import annotations

import pytest

from contextstore import ContextStore

from ..support.portions import first_of
from .lines import run_process


def completed(line: str, **changes: str) -> list[str]:
    """As bash asks, for the last word of a line."""
    words = line.split(" ")
    done = run_process(
        _CONTEXTSTORE_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1), **changes
    )
    assert (done.code, done.err) == (0, ""), done
    return sorted(filter(None, done.lines))


@pytest.mark.parametrize(
    ("line", "found"),
    first_of(
        [
            ("contextstore get STORE ", ["run-1", "run-2"]),
            ("contextstore STORE run-1 re", ["report"]),
            ("contextstore globals get STORE ", ["latest"]),
            ("contextstore stat", ["state", "stats"]),
            ("contextstore get none.db ", []),
            ("contextstore get STORE run-2", ["run-2"]),
            ("contextstore STORE ", ["run-1", "run-2"]),
            ("contextstore get --store STORE run-1 ", ["extract", "report"]),
            ("contextstore get STORE --def", ["--default"]),
            ("contextstore get ", []),
        ],
        5,
    ),
)
def test_each_word_is_completed_by_what_may_stand_there(filled_file: str, line: str, found: list[str]) -> None:
    assert completed(line.replace("STORE", filled_file)) == found


def test_the_store_of_the_environment_is_known(filled_file: str) -> None:
    assert completed("contextstore get ", CONTEXTSTORE_URL=filled_file) == ["run-1", "run-2"]


def test_zsh_is_told_as_well(filled_file: str) -> None:
    done = run_process(_CONTEXTSTORE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=f"contextstore {filled_file} run-2")
    assert '"run-2"' in done.out


def test_what_a_shell_would_have_to_quote_is_left_out(filled_file: str) -> None:
    with ContextStore(filled_file) as store:
        for name in ("$(reboot)", "a b", "x;y", "\x1b[2J", "a`b`"):
            store.put(name, "n", 1)
    assert completed(f"contextstore get {filled_file} ") == ["run-1", "run-2"]
