"""``make metrics`` counts what it says that it counts, on a package that is small enough to count it by hand."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import pathlib
import textwrap
from typing import Any

import pytest

from benchmarks import metrics

FILES = {
    "__init__.py": """
        from .rooms.hall import Hall
        from .words import greet
    """,
    "words.py": '''
        """What is said."""

        from typing import overload

        @overload
        def greet(name: str) -> str: ...
        @overload
        def greet(name: bytes) -> bytes: ...
        def greet(name):
            """Says hello."""
            # A comment, and a blank line below.

            text = "hello"; sep = (
                " "
            )
            return _joined(text, name, sep=sep)


        def _joined(one, other, *, sep):
            return one + sep + other
    ''',
    "rooms/__init__.py": "",
    "rooms/hall.py": """
        from typing import TYPE_CHECKING, NamedTuple

        if TYPE_CHECKING:
            from .door import Door

        class Hall:
            _count = 0

            def __init__(self, door: "Door") -> None:
                self._door = door
                Hall._count += 1

            def __eq__(self, other):
                return self._door == other._door

            def like(self, hall: "Hall") -> bool:
                return hall._door is self._door

            def open(self, key):
                key._turn()
                self._door._lock = key
                return self._door.__class__, key._replace(a=1)
    """,
    "rooms/door.py": """
        def front():
            from ..rooms import hall
            from .. import words
            return hall, words
    """,
}


@pytest.fixture
def package(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "house"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    return folder


def test_lines_of_code_are_neither_blank_nor_comments_docstrings_or_stubs(package: pathlib.Path) -> None:
    size = metrics.measure(package)["size"]
    assert (size["files"], size["lines"], size["code"]) == (5, 48, 30)
    assert {file: lines for lines, file in size["largest_files"]} == {
        "__init__.py": 2,
        "rooms/__init__.py": 0,
        "rooms/door.py": 4,
        "rooms/hall.py": 16,
        "words.py": 8,
    }
    assert size["largest_classes"] == [(13, "rooms/hall.py:6 Hall")]
    assert (size["files_above"], size["classes_above"]) == ([], [])


def test_a_file_above_500_lines_of_code_and_a_class_above_300_are_named(package: pathlib.Path) -> None:
    (package / "large.py").write_text("class Large:\n" + "    x = 1\n" * 300 + "y = 1\n" * 200)
    size = metrics.measure(package)["size"]
    assert size["files_above"] == [(501, "large.py")]
    assert size["classes_above"] == [(301, "large.py:1 Large")]


def test_functions_are_ranked_by_their_lines_of_code(package: pathlib.Path) -> None:
    functions = metrics.measure(package)["functions"]
    assert functions["functions"] == 7
    assert functions["longest"][:2] == [(5, "words.py:9 greet"), (4, "rooms/door.py:1 front")]
    assert functions["length_median"] == (3, "rooms/hall.py:9 Hall.__init__")
    assert functions["length_p90"] == (5, "words.py:9 greet")
    # greet is used by whoever imports the package; front is used by nobody.
    assert functions["called_once_most_parameters"] == [(3, "words.py:19 _joined")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", 1),
        ("if a: pass\nelif b: pass\nelse: pass", 3),
        ("for x in a:\n  while x: pass\nelse: pass", 3),
        ("async def inner():\n  if a: pass", 1),
        ("class Inner:\n  x = 1 if a else 2", 1),
        ("try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass", 3),
        ("with a: assert b", 1),
        ("return a and b and c or d", 4),
        ("return 1 if a else 2", 2),
        ("return [x for x in a if x if not x for y in x]", 5),
        ("return lambda: a or b", 2),
        ("match a:\n  case 1: return b\n  case 2: f()\n  case _: raise c", 2),
        ("match a:\n  case 1: x = b\n  case 2 | 3: f()\n  case _: raise c", 3),
        ("match a:\n  case 1:\n    f()\n    if b: return 1\n  case c: pass", 4),
    ],
)
def test_the_complexity_is_mccabes_but_for_a_match_that_is_a_table(body: str, expected: int) -> None:
    (function,) = ast.parse("def f():\n" + textwrap.indent(body, "  ")).body
    assert isinstance(function, ast.FunctionDef)
    assert metrics.complexity(function) == expected


def test_a_function_above_10_is_named_and_an_inner_one_for_itself_alone(package: pathlib.Path) -> None:
    ten = "".join(f"        if a == {number}: pass\n" for number in range(10))
    (package / "branched.py").write_text(f"def outer(a):\n    if a: pass\n    def inner():\n{ten}")
    functions = metrics.measure(package)["functions"]
    assert functions["complexity_above_10"] == [(11, "branched.py:3 outer.inner")]
    assert functions["complexity_above_12"] == []


def test_a_reach_in_is_a_private_name_of_somebody_else(package: pathlib.Path) -> None:
    assert metrics.measure(package)["reach_ins"] == ["rooms/hall.py:20 key._turn", "rooms/hall.py:21 self._door._lock"]


def test_imports_count_wherever_they_stand(package: pathlib.Path) -> None:
    imports = metrics.measure(package)["imports"]
    # The front door imports hall and words, hall imports door, and door imports hall and words.
    assert imports["modules"] == {"modules": 5, "edges": 5, "floors": 3, "circles": [["rooms.door", "rooms.hall"]]}
    assert imports["at the top"] == {"modules": 3, "edges": 3, "floors": 3, "circles": []}


@pytest.fixture(scope="module")
def figures() -> Any:
    """Those of the package itself, which take seconds."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        metrics.main(["--json"])
    return json.loads(printed.getvalue())


def test_of_the_package_itself_everything_is_told(figures: Any) -> None:
    told = "\n".join(metrics.table(figures))
    for title in ("lines, ", "largest files", "largest classes", "functions, by their", "longest functions"):
        assert title in told
    for title in ("complexity above 10", "called once", "reach-ins", "floors", "circles", "cold: "):
        assert title in told


def test_what_is_printed_is_the_same_as_text(package: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics.main([str(package)])
    assert capsys.readouterr().out == "\n".join(metrics.table(metrics.measure(package))) + "\n"


def test_the_paths_of_calls_lead_from_the_face_to_the_engine(figures: Any) -> None:
    assert figures["size"]["files"] > 10
    assert set(figures["paths"]) == {"async put", "async get, cold", "sync put", "sync get, cold"}
    for path in figures["paths"].values():
        assert path["calls"] >= path["functions"] > path["files"] > 5
        assert path["calls"] > path["changes_of_file"] >= path["files"] - 1
