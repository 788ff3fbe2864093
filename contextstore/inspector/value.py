"""The view of a value: of an output, a state value of a run, or a global; as a whole, or a part of it.

Rules of this module: public calls of the store alone. Whatever the size of a value, a page of it has about as many
bytes as ``BUDGET`` allows; the rest is behind links, which a script unfolds in their place. No value is kept between
two looks: the store keeps the text of those that were read last, and each look decodes it.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .. import ContextStore, CorruptStoreError, GlobalEntry, Output, OutputDeletedError, StateEntry
from .._display.amounts import counted
from .._display.brief import MORE
from .._display.hexadecimal import WIDTH, HexRow, hex_rows
from .._display.text import escaped, shown_id
from .._inspect.finding import Found, find
from .._inspect.folding import Branch, Path, folded
from .._inspect.pointers import part_of, pointer_of, token_of
from .._inspect.runs import was_deleted
from .._inspect.timeline import Damaged
from .look import Answer, File, Look, Refusal

BUDGET = 80_000
"""Bytes of the lines of a tree that are sent at once."""

_CHILDREN = 100
_DEEPEST = 10
_BRIEF = 160
_CHARACTERS = 8_000
_ROWS = 128
_LONGEST_ADDRESS = 6_000  # servers refuse longer ones, and they would be most of a page
_LINE = 135  # bytes of the markup of a line; what can be unfolded has three times as many

Entry = Output | StateEntry | GlobalEntry


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a value is looked at.

    Attributes:
        path: the address of its page, without parameters.
        names: the parameters that say which value it is.
        name: what a file of it is called, without an extension.
        entry: the result of the store's call, with the whole value.
    """

    path: str
    names: Mapping[str, str]
    name: str
    entry: Entry


def value_answer(look: Look, source: Source, template: str, **context: Any) -> Answer | File:
    """The page of a value, or what else of it is asked for: a part, its JSON twin, a file.

    The template includes ``_value.html``, which is given the part as ``part``.
    """
    try:
        path, value = part_of(source.entry.value, look.text("at"))
    except LookupError as error:
        raise Refusal(str(error)) from error
    if look.text("as") == "file":
        return File(_file_name(source.name, value), value)
    entry = dataclasses.replace(source.entry, value=value)
    return Answer(template, {**context, "part": Part(look, source, path, value)}, entry, {"branch": "_branch.html"})


def _file_name(name: str, value: Any) -> str:
    if not isinstance(value, bytes):
        return f"{name}.json"
    return name if "." in name.strip(".") else f"{name}.bin"


class Part:
    """The part of a value that a look is at, as ``_value.html`` and ``_branch.html`` show it."""

    def __init__(self, look: Look, source: Source, path: Path, value: Any) -> None:
        self._look = look
        self._source = source
        self.path = path
        self.value = value
        self.pointer = pointer_of(path)
        self.python = "".join(f"[{json.dumps(name, ensure_ascii=False)}]" for name in path)
        self.kind = kind_of(value)
        self.wanted = look.text("find")

    def address(self, path: Path = (), /, **more: object) -> str | None:
        """That of a part of this one; None where it is too long to be asked for."""
        return self._address((*self.path, *path), **more)

    def _address(self, path: Path, /, **more: object) -> str | None:
        address = self._look.href(self._source.path, **self._source.names, at=pointer_of(path), **more)
        return address if len(address) <= _LONGEST_ADDRESS else None

    def file(self) -> str:
        """The address of the whole value as a file."""
        return self._look.href(self._source.path, **self._source.names, **{"as": "file"})

    def download(self) -> str:
        """The address of this part as a file; of the whole value, where its own would be too long."""
        return self._address(self.path, **{"as": "file"}) or self.file()

    def names(self) -> Mapping[str, str]:
        """What a form has to say besides its own fields."""
        return {**self._source.names, "at": self.pointer} if self.path else self._source.names

    def form(self) -> str:
        """Where a form is sent."""
        return self._look.href(self._source.path)

    def crumbs(self) -> list[tuple[str, str | None]]:
        """The way from the whole value to this part; of a long one the beginning and the end."""
        all_of_them = [(_shown_name(name), self.path[: at + 1]) for at, name in enumerate(self.path)]
        if len(all_of_them) > 12:
            all_of_them[4:-6] = [(MORE, all_of_them[-7][1])]
        return [("value", self._address(())), *((name, self._address(path)) for name, path in all_of_them)]

    def shown_path(self, path: Path) -> str:
        """The pointer to a part of this one, cut to what is read."""
        whole = pointer_of((*self.path, *path))
        return (
            escaped(whole if len(whole) <= _BRIEF else f"{whole[: _BRIEF // 2]}{MORE}{whole[1 - _BRIEF // 2 :]}") or "/"
        )

    def summary(self) -> str:
        """What it is, in words."""
        return summary_of(self.value)

    @functools.cached_property
    def branch(self) -> Branch:
        """The tree, with as many lines as are sent at once."""
        return folded(
            self.value,
            depth=_DEEPEST,
            children=_CHILDREN,
            most=_BRIEF,
            offset=self._look.number("offset", 0, least=0, most=2**53),
            budget=BUDGET,
            cost=self._cost,
        )

    def _cost(self, branch: Branch) -> int:
        """About how many bytes of HTML a line has."""
        line = self.line(branch)
        texts = (branch.text, line.name, line.token or "", line.address or "")
        return _LINE * (3 if line.address else 1) + sum(len(html.escape(text).encode()) for text in texts)

    def line(self, branch: Branch) -> Line:
        """A branch as the templates write it."""
        kind = kind_of(branch.value)
        name = "" if branch.name is None else branch.name
        is_cut = kind == "string" and branch.text.endswith(MORE)
        token = token_of(name)
        return Line(
            kind,
            _shown_name(name) if branch.path else "",
            token if len(token) <= _BRIEF else None,
            summary_of(branch.value),
            is_cut,
            self.address(branch.path) if branch.children or is_cut else None,
            self.address(branch.path, offset=branch.shown)
            if branch.inside and branch.shown < branch.children
            else None,
            branch.children - branch.shown,
        )

    @functools.cached_property
    def characters(self) -> Characters:
        """A string, as much of it as is sent at once."""
        return Characters(self.value, self._look.number("offset", 0, least=0, most=2**53))

    @functools.cached_property
    def octets(self) -> Octets:
        """Bytes, as many of them as are sent at once."""
        return Octets(self.value, _offset_of(self._look.text("offset")))

    @functools.cached_property
    def found(self) -> Found | None:
        """What was searched for; None: nothing."""
        return find(self.value, self.wanted) if self.wanted and self.kind != "bytes" else None


class Line(NamedTuple):
    """What the templates write of a branch.

    Attributes:
        kind: what JSON calls the value.
        name: the key that leads to it, cut.
        token: the key as a pointer has it; None where it is too long to make a path of it.
        summary: what the value is, in words.
        is_cut: whether a string is not shown whole.
        address: that of its page; None where it has none of its own, or one too long.
        more: the address of the children behind those that are shown.
        rest: how many these are.
    """

    kind: str
    name: str
    token: str | None
    summary: str
    is_cut: bool
    address: str | None
    more: str | None
    rest: int


@dataclasses.dataclass(frozen=True)
class Characters:
    """A page of a string."""

    whole: str
    offset: int

    @property
    def text(self) -> str:
        """What is on the page: lines as lines, and whatever else would not show as itself as JSON has it."""
        shown = self.whole[self.offset : self.end]
        return "\n".join("\t".join(escaped(one) for one in line.split("\t")) for line in shown.split("\n"))

    @property
    def end(self) -> int:
        return min(self.offset + _CHARACTERS, len(self.whole))

    @property
    def rest(self) -> int:
        return len(self.whole) - self.end


@dataclasses.dataclass(frozen=True)
class Octets:
    """A page of bytes."""

    whole: bytes
    wanted: int

    @property
    def offset(self) -> int:
        """That of the first row: the row with what is wanted, or with the last byte."""
        return min(self.wanted, max(len(self.whole) - 1, 0)) // WIDTH * WIDTH

    @property
    def rows(self) -> list[HexRow]:
        return list(hex_rows(self.whole, self.offset, _ROWS))

    @property
    def end(self) -> int:
        return min(self.offset + _ROWS * WIDTH, len(self.whole))

    @property
    def before(self) -> int | None:
        """The offset of the page before; None: this is the first one."""
        return max(self.offset - _ROWS * WIDTH, 0) if self.offset else None


def _offset_of(text: str) -> int:
    """A place in bytes, decimal or with 0x."""
    found = re.fullmatch(r"\s*(?:0[xX]([0-9a-fA-F]{1,12})|([0-9]{1,15}))?\s*", text, re.ASCII)
    if found is None:
        raise Refusal(f"offset is no number: {text[:40]!r} (as in 4096, or 0x1000)", 400)
    return int(found[1], 16) if found[1] else int(found[2] or 0)


def kind_of(value: Any) -> str:
    """What JSON calls it; or bytes."""
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return "constant"


_KINDS: list[tuple[Any, str]] = [
    (dict, "object"),
    (list, "array"),
    (str, "string"),
    (bytes, "bytes"),
    (bool, "constant"),
    (int | float, "number"),
]


def summary_of(value: Any) -> str:
    """What a value is, with how much is in it."""
    kind = kind_of(value)
    if kind == "object":
        return f"object, {counted(len(value), 'key')}"
    if kind == "array":
        return f"array, {counted(len(value), 'item')}"
    if kind == "string":
        return f"string, {counted(len(value), 'character')}"
    return counted(len(value), "byte") if kind == "bytes" else "null" if value is None else kind


def _shown_name(name: str | int) -> str:
    if isinstance(name, int):
        return str(name)
    return shown_id(name if len(name) <= _BRIEF else name[: _BRIEF - 1] + MORE)


def node(look: Look) -> Answer | File:
    """The output of a node."""
    run, node_id = look.required("run"), look.required("id")
    try:
        output = look.store.get_entry(run, node_id)
    except CorruptStoreError as error:
        if error.node_id is None:
            raise
        return Answer(
            "node.html", _head(look, run, node_id, damaged=str(error)), Damaged(run, node_id, str(error)), status=500
        )
    if output is None:
        return _no_output(look, run, node_id)
    head = _head(look, run, node_id, output=output)
    return value_answer(look, Source("/node", {"run": run, "id": node_id}, node_id, output), "node.html", **head)


def _head(look: Look, run: str, node_id: str, *, output: Output | None = None, damaged: str = "") -> dict[str, Any]:
    """What is known of a node besides its value."""
    attempts = look.store.run(run).attempts(node_id)
    is_made = bool(attempts) and attempts[-1].error is None
    return {
        "run": run,
        "node_id": node_id,
        "output": output,
        "damaged": damaged,
        "attempts": attempts,
        "made_by": attempts[-1] if is_made else None,
        "failed": [one for one in attempts if one.error is not None],
        "before": _neighbour(look.store, run, node_id, reverse=True),
        "behind": _neighbour(look.store, run, node_id, reverse=False),
    }


def _neighbour(store: ContextStore, run: str, node_id: str, *, reverse: bool) -> str | None:
    keys = store.list_keys(run, after=node_id, limit=1, reverse=reverse)
    return keys[0] if keys else None


def _no_output(look: Look, run: str, node_id: str) -> Answer:
    """What is known of a node that has no output: that it was deleted, or that its step has failed so far."""
    if look.store.get_run_info(run) is None:
        if was_deleted(look.store, run):
            raise Refusal(f"run {shown_id(run)} was deleted, and all of its outputs", 410)
        raise Refusal(f"there is no run {shown_id(run)}")
    try:
        look.store.wait_for(run, node_id, timeout=0)
    except OutputDeletedError:
        raise Refusal(
            f"the output of node {shown_id(node_id)} of run {shown_id(run)} was deleted; its id stays used up", 410
        ) from None
    except TimeoutError:
        pass  # nothing was written yet
    head = _head(look, run, node_id)
    data = {"flow_run_id": run, "node_id": node_id, "attempts": head["attempts"]}
    return Answer("node.html", head, data, status=404)


def state_value(look: Look) -> Answer | File:
    """A state value of a run."""
    run, key = look.required("run"), look.text("key")  # a key may be empty
    try:
        found = [one for one in look.store.run(run).list_state(key) if one.key == key]
    except CorruptStoreError as error:
        if error.key is None:
            raise
        damaged = {"flow_run_id": run, "key": error.key, "damaged": str(error)}
        return Answer(
            "state_value.html", {"run": run, "key": key, "entry": None, "damaged": str(error)}, damaged, status=500
        )
    if not found:
        raise Refusal(f"run {shown_id(run)} has no state value {shown_id(key)}")
    source = Source("/state", {"run": run, "key": key}, key, found[0])
    return value_answer(look, source, "state_value.html", run=run, key=key, entry=found[0], damaged="")
