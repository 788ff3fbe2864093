"""A docstring of the package as Markdown.

Rules of this module: it knows how the docstrings of this package are written (paragraphs, indented examples, sections
with ``name: text``), and nothing of what they describe. Which name leads where, the caller says.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")

Linked = Callable[[str], str]
"""The Markdown for a name that stands in a docstring as code."""


@dataclass(frozen=True)
class Block:
    """A paragraph or an example, or a section with its entries."""

    kind: str
    """``text``, ``code``, or the name of the section."""
    text: str
    entries: tuple[tuple[str, str], ...] = ()
    """Of a section: names, as they are written, and what is said of them."""


def blocks_of(docstring: str) -> list[Block]:
    """A docstring, as ``inspect.getdoc`` gives it, taken apart."""
    found: list[Block] = []
    for lines in _portions(docstring.splitlines()):
        head = lines[0].removesuffix(":")
        if head in SECTIONS and lines[0].endswith(":"):
            body = textwrap.dedent("\n".join(lines[1:]))
            found.append(Block(head, " ".join(body.split()), tuple(_entries(body))))
        elif lines[0].startswith("    "):
            found.append(Block("code", textwrap.dedent("\n".join(lines))))
        else:
            found.append(Block("text", "\n".join(lines)))
    return found


def _portions(lines: list[str]) -> Iterator[list[str]]:
    """Lines that belong together: an empty line parts them, unless indented ones follow indented ones."""
    portion: list[str] = []
    for number, line in enumerate(lines):
        if line:
            portion.append(line)
            continue
        following = next((other for other in lines[number:] if other), "")
        if portion and following.startswith("    ") and portion[-1].startswith("    "):
            portion.append(line)
        elif portion:
            yield portion
            portion = []
    if portion:
        yield portion


def _entries(body: str) -> Iterator[tuple[str, str]]:
    """An entry begins at the margin; its further lines are indented."""
    for entry in re.split(r"\n(?=\S)", body):
        line = " ".join(entry.split())
        names, colon, text = line.partition(": ")
        yield (names, text) if colon else ("", line)


def summary(docstring: str) -> str:
    """The first sentence, without its full stop."""
    first = " ".join(blocks_of(docstring)[0].text.split())
    return re.split(r"(?<=\.)\s", first)[0].rstrip(".")


def rendered(docstring: str, linked: Linked, without: tuple[str, ...] = ()) -> str:
    """The docstring as Markdown, without these sections."""
    return "\n\n".join(_block(block, linked) for block in blocks_of(docstring) if block.kind not in without)


def _block(block: Block, linked: Linked) -> str:
    match block.kind:
        case "text":
            return inline(block.text, linked)
        case "code":
            return f"```{'python example' if is_python(block.text) else 'text'}\n{block.text}\n```"
        case "Returns" | "Yields":
            return f"**{block.kind}:** {inline(block.text, linked)}"
    lines = [f"- {_entry(block.kind, names, text, linked)}" for names, text in block.entries]
    return "\n".join([f"**{'Parameters' if block.kind == 'Args' else block.kind}:**", "", *lines])


def _entry(kind: str, names: str, text: str, linked: Linked) -> str:
    said = inline(text, linked)
    if not names:
        return said
    return f"{coded(names, linked) if kind == 'Raises' else names_as_code(names)}: {said}"


def names_as_code(names: str) -> str:
    """``a, b`` as two names in code."""
    return ", ".join(f"`{name}`" for name in names.split(", "))


def coded(text: str, linked: Linked) -> str:
    """A sentence in which the names of errors stand without marks, as in a section of what is raised."""
    marked = re.sub(r"(?<![\w`])(\w+(?:Error|Warning))\b(?!`)", r"``\1``", text)
    return inline(marked, linked)


def inline(text: str, linked: Linked) -> str:
    """A sentence: code gets one mark on each side, and names that lead somewhere lead there."""
    return re.sub(r"``([^`]+)``", lambda found: linked(found[1]), text)


def is_python(text: str) -> bool:
    """Whether an example is a program, and not a drawing."""
    try:
        compile(text, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return False
    return True
