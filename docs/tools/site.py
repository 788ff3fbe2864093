"""The site of the documentation: the pages of ``docs/``, laid out for the generator, and built.

    python -m docs.tools.site [FOLDER]

Rules of this module: the pages are written for readers of the repository, and nothing in them is there for the site.
What the generator would not understand is changed in a copy: the kinds of fences that the tests know, and links that
leave ``docs/``, which lead to pages made of those files. The folder, ``build/docs`` if none is named, gets the
generator's configuration, the laid-out pages (``docs/``) and the site (``site/``).
"""

from __future__ import annotations

import argparse
import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

from . import markdown

ROOT = pathlib.Path(__file__).parents[2]
CONFIGURATION = "zensical.toml"
# Files beside docs/ that are pages of their own. Others that a page links to are shown as they are, below source/.
PAGES = {"README.md": "readme.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
SHOWN_AS_TEXT = {".py": "python", ".toml": "toml", ".json": "json", ".sql": "sql"}


class Layout:
    """The pages of a repository as the generator gets them, with every file that they link to."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root.resolve()
        self._sources: set[str] = set()

    def write(self, folder: pathlib.Path) -> None:
        folder.mkdir(parents=True)
        for path in sorted((self._root / "docs").rglob("*")):
            if path.suffix == ".md":
                self._write_page(path, folder / self._place_of(path))
            elif path.is_file() and path.suffix in {".svg", ".png", ".css"}:
                _copy(path, folder / self._place_of(path))
        for name, page in PAGES.items():
            self._write_page(self._root / name, folder / page)
        shown: set[str] = set()
        while waiting := self._sources - shown:
            for name in sorted(waiting):
                self._write_source(self._root / name, folder)
            shown |= waiting

    def _place_of(self, path: pathlib.Path) -> str:
        """Where a file of the repository is on the site; it is noted if it is none of the pages."""
        name = path.relative_to(self._root).as_posix()
        if name == "docs":
            return "index.md"
        if name.startswith("docs/") and path.is_file() and path.suffix != ".py":
            return name.removeprefix("docs/")
        if name in PAGES:
            return PAGES[name]
        self._sources.add(name)
        return f"source/{name}/index.md" if path.is_dir() else f"source/{name}.md"

    def _write_page(self, path: pathlib.Path, page: pathlib.Path) -> None:
        here = self._place_of(path)
        page.parent.mkdir(parents=True, exist_ok=True)
        text = markdown.replace_links(path.read_text(), self._rebased(path.parent, here))
        page.write_text(_plain_fences(text))

    def _rebased(self, folder: pathlib.Path, here: str) -> Callable[[str], str]:
        def rebased(link: str) -> str:
            target, mark, fragment = link.partition("#")
            if not target or markdown.URL.match(target):
                return link
            found = pathlib.Path(os.path.normpath(folder / target))
            if not found.exists():
                return link  # which the generator tells of, with its place
            if not found.is_relative_to(self._root):
                raise LookupError(f"{here}: {link} leaves the repository")
            return os.path.relpath(self._place_of(found), os.path.dirname(here) or ".") + mark + fragment

        return rebased

    def _write_source(self, path: pathlib.Path, folder: pathlib.Path) -> None:
        place = self._place_of(path)
        page = folder / place
        page.parent.mkdir(parents=True, exist_ok=True)
        title = f"# `{path.relative_to(self._root).as_posix()}`"
        if path.is_dir():
            files = [file for file in sorted(path.iterdir()) if file.suffix in {".py", ".md"} and file.name[0] != "_"]
            links = [
                f"- [{file.name}]({os.path.relpath(self._place_of(file), os.path.dirname(place))}): {_summary(file)}"
                for file in files
            ]
            page.write_text("\n".join([title, "", *links, ""]))
        else:
            text = path.read_text()
            marks = "`" * max(3, *(len(found) + 1 for found in re.findall(r"`{3,}", text)), 3)
            page.write_text(f"{title}\n\n{marks}{SHOWN_AS_TEXT.get(path.suffix, 'text')}\n{text.rstrip()}\n{marks}\n")


def _summary(path: pathlib.Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) if path.suffix == ".py" else None
    return " ".join((docstring or "").partition("\n\n")[0].split())


def _plain_fences(text: str) -> str:
    """``python continued`` and the like are for the tests; to the generator all of them are Python."""
    return re.sub(r"^( *`{3,})python [a-z]+$", r"\1python", text, flags=re.MULTILINE)


def _copy(path: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def lay_out(folder: pathlib.Path, root: pathlib.Path = ROOT) -> None:
    """Write the configuration and the pages, in place of those of an earlier build."""
    shutil.rmtree(folder / "docs", ignore_errors=True)
    shutil.rmtree(folder / "site", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / CONFIGURATION, folder / CONFIGURATION)
    Layout(root).write(folder / "docs")


def build(folder: pathlib.Path) -> str:
    """Have the generator build what is laid out; what it says. A warning is an error."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"the site was not built: {said}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m docs.tools.site", description="Build the site of the documentation."
    )
    parser.add_argument("folder", type=pathlib.Path, nargs="?", default=ROOT / "build" / "docs")
    folder = parser.parse_args().folder
    lay_out(folder)
    build(folder)
    print(f"the site is in {folder / 'site'}")


if __name__ == "__main__":
    main()
