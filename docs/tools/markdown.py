"""Markdown as the checks see it: its links, the anchors of its headings, its fences.

Rules of this module: pure functions of a text. An anchor is what two readers make of a heading: the host of a
repository, and the generator of the site. A link to it must work for both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
INLINE_CODE = re.compile(r"(`+)(?:(?!\1).)+?\1", re.DOTALL)
HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*")
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")
URL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def prose(text: str) -> str:
    """The text with blanks for what stands in fences and in inline code: each other character keeps its place."""
    lines: list[str] = []
    closing: str | None = None
    for line in text.split("\n"):
        found = FENCE.fullmatch(line)
        if closing is None and not found:
            lines.append(line)
            continue
        lines.append(" " * len(line))
        if closing is None and found:
            closing = found[1]
        elif closing and found and found[1].startswith(closing) and not found[2].strip():
            closing = None
    return INLINE_CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), "\n".join(lines))


def links(text: str) -> list[str]:
    """Where the links and images of a page lead."""
    return [found[2] for found in LINK.finditer(prose(text))]


def replace_links(text: str, replacement: Callable[[str], str]) -> str:
    """The text with other destinations, outside of code."""
    parts: list[str] = []
    end = 0
    for found in LINK.finditer(prose(text)):
        parts += [text[end : found.start(2)], replacement(found[2])]
        end = found.end(2)
    return "".join([*parts, text[end:]])


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings that both readers make alike."""
    hosted, generated = set[str](), set[str]()
    for title in titles(text):
        hosted.add(_unused(hosted_slug(title), hosted, "-"))
        generated.add(_unused(generated_slug(title), generated, "_"))
    return hosted & generated


def titles(text: str) -> Iterator[str]:
    for line, seen in zip(text.split("\n"), prose(text).split("\n"), strict=True):
        if seen.startswith("#") and (found := HEADING.fullmatch(line)):
            title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", found[2])
            yield re.sub(r"[`*]", "", title)


def hosted_slug(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def generated_slug(title: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def _unused(slug: str, used: set[str], joint: str) -> str:
    number, name = 0, slug
    while name in used:
        number += 1
        name = f"{slug}{joint}{number}"
    return name
