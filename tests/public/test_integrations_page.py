"""docs/integrations.md: it names each extra of a framework, and shows of each example what stands in it.

Its plain Python is run with that of the other pages.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from ..support.processes import ROOT
from .pages import rows
from .test_readme import Fence, fences_of

PAGE = ROOT / "docs" / "integrations.md"
FENCES = fences_of(PAGE)
EXTRAS = ("langgraph", "pydantic-ai", "py-key-value")
PACKAGES = {"langgraph": "langgraph", "pydantic-ai": "pydantic_ai", "py-key-value": "key_value"}
"""What an extra brings, by the name that is imported."""


@pytest.mark.parametrize("fence", [fence for fence in FENCES if "title=" in fence.info], ids=str)
def test_what_is_shown_of_an_example_stands_in_it(fence: Fence) -> None:
    title = re.fullmatch(r'python title="(examples/\w+\.py)"', fence.info)
    assert title is not None, fence.info
    assert f"\n{fence.text}\n" in (ROOT / title[1]).read_text()


def test_every_framework_has_lines_to_copy_and_not_many() -> None:
    shown = [fence for fence in FENCES if fence.info.startswith("python")]
    assert len(shown) == 8
    assert [str(fence) for fence in shown if len(fence.text.splitlines()) > 17] == []


def test_the_table_has_each_extra_and_each_example() -> None:
    ways = [how for _, _, how in rows("integrations.md", "Integrations")]
    assert ways[:3] == [f"extra `{name}`" for name in EXTRAS]
    assert all(f"[example](../{name})" in ways for name in re.findall(r'title="(\S+)"', PAGE.read_text()))


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_integration_without_its_extra_is_an_error_that_names_it(extra: str) -> None:
    """The import is blocked as if the framework were not installed."""
    module = f"contextstore.integrations.{extra.replace('-', '_')}"
    program = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {PACKAGES[extra]!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
try:
    import {module}
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert f"pip install 'contextstore[{extra}]'" in done.stdout, done.stderr
    assert done.stdout.startswith(f"{module} needs ")


def test_every_extra_of_a_framework_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) <= project["optional-dependencies"].keys()


def test_importing_the_package_imports_no_integration() -> None:
    program = "import sys, contextstore; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    imported = done.stdout.split()
    assert "contextstore" in imported
    frameworks = {"agents", "burr", "key_value", "langgraph", "pydantic_ai"}
    assert [
        name for name in imported if name.startswith("contextstore.integrations") or name.split(".")[0] in frameworks
    ] == []
