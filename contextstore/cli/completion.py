"""Completion of runs, nodes, keys and leases in a shell.

Rules of this module: it never complains, writes nothing, and gives up soon: whoever presses the tab key waits. What
would have to be quoted is left out.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any

from .. import ContextStore
from .._display.text import shown_id
from .words import place_of, with_command

_MOST = 50
_PATIENCE = 1.0

Complete = Callable[[Any, str], list[str]]


def completion_of(names: Sequence[str]) -> Complete:
    """What completes the words of a command.

    Args:
        names: of its words beside the store, such as ``RUN`` and ``[NODE]``.
    """

    def complete(ctx: Any, incomplete: str) -> list[str]:
        try:
            place = place_of(ctx.params.get("words") or [], ctx.params.get("store"), os.environ)
            at = len(place.words)
            kind = names[at].strip("[]") if at < len(names) else ""
            with ContextStore(place.target, read_only=True, create=False, timeout=_PATIENCE) as store:
                return [one for one in _found(store, kind, place.words, incomplete) if _is_plain(one)]
        except Exception:  # noqa: BLE001 - there is nobody to tell: no store is named yet, or it cannot be read
            return []

    return complete


def _found(store: ContextStore, kind: str, words: Sequence[str], incomplete: str) -> list[str]:
    if kind == "RUN":
        return [run.flow_run_id for run in store.list_runs(prefix=incomplete, limit=_MOST)]
    if kind == "NODE":
        return store.list_keys(words[0], prefix=incomplete, limit=_MOST)
    if kind == "KEY" and words:
        return [entry.key for entry in store.run(words[0]).list_state(incomplete)][:_MOST]
    if kind == "KEY":
        return store.list_global_keys(incomplete, limit=_MOST)
    if kind == "PREFIX" and not words:
        return [lease.name for lease in store.list_leases(incomplete)][:_MOST]
    return []


def _is_plain(text: str) -> bool:
    return shown_id(text) == text and shlex.quote(text) == text


def with_command_in_completion(
    environment: MutableMapping[str, str],
    commands: Collection[str],
    groups: Mapping[str, tuple[Collection[str], str]],
) -> None:
    """Put the command in front of a line that is being completed, too, where none is named and ``show`` is meant."""
    for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):
        typed = environment.get(name, "")
        program, *words = typed.split() or [""]
        if not words or (len(words) == 1 and not typed.endswith((" ", "\n"))):
            continue  # the command itself is being completed
        line = with_command(words, commands, groups)
        if line != words and line[:1] != words[:1]:
            environment[name] = typed.replace(program, f"{program} {line[0]}", 1)
            if name == "COMP_WORDS":
                environment["COMP_CWORD"] = str(int(environment.get("COMP_CWORD", "0")) + 1)
