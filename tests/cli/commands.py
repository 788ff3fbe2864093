"""Every command there is, as the application has them, and what their ``--help`` says."""

from __future__ import annotations

import functools
import re
from typing import Any

from contextstore.cli.app import the_app

from .lines import ran

COMMON = {"--store", "--output", "--json", "--time", "--timeout", "--help", "-h"}


@functools.cache
def commands() -> dict[str, Any]:
    """The commands by their names, such as ``globals list``, as typer has them."""
    found: dict[str, Any] = {}

    def add(group: Any, before: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                add(command, f"{before}{name} ")
            else:
                found[before + name] = command

    add(the_app().program, "")
    return found


@functools.cache
def help_of(name: str) -> str:
    return ran(*name.split(), "--help").out


def usage_of(name: str) -> str:
    """The command with its words: ``show [STORE] [RUN] [NODE]``."""
    (usage,) = re.findall(r"^Usage: contextstore (.*)$", help_of(name), re.MULTILINE)
    return str(usage).replace(" [OPTIONS]", "")


def options_of(name: str) -> list[str]:
    """The options that the command alone has."""
    options = [parameter.opts[0] for parameter in commands()[name].params if parameter.opts[0].startswith("-")]
    return [option for option in options if option not in COMMON]


def examples_of(name: str) -> list[str]:
    examples = help_of(name).partition("Examples:\n")[2].partition("\n\n")[0]
    return [line.strip() for line in examples.splitlines() if line.strip()]
