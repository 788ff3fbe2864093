"""The page of all calls and options, written from the signatures and docstrings of the package.

    python -m docs.tools.reference

Rules of this module: no sentence about a call stands here; what the page lacks is added to the docstring. A public name
that has no place of its own comes last, so that none is left out. Written by hand, since the docstrings are read in a
terminal first: they follow Google's sections loosely, which mkdocstrings takes for mistakes, and a page that is kept in
the repository is read without building a site.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import pathlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import contextstore
from contextstore import errors

from . import docstrings

PAGE = pathlib.Path(__file__).parents[1] / "reference.md"

INTRODUCTION = """\
# Reference

All calls, options, results and errors, as the docstrings say them: `help(ContextStore)` shows the same in a terminal.

The two stores have the same calls, with the same names, parameters, defaults, results and errors. Signatures are
those of `AsyncContextStore`, and a call with **A** beside it is awaited there. On `ContextStore` they read so:

| on `AsyncContextStore` | on `ContextStore` |
| --- | --- |
| `await store.put(...)` | `store.put(...)` |
| `async with`, `async for`, `AsyncIterator` | `with`, `for`, `Iterator` |
| `AsyncFlowRun`, `AsyncBatch`, `AsyncLeaseBlock` | `FlowRun`, `Batch`, `LeaseBlock` |
| `store.blocking` | `store.awaitable` |
| functions that you pass in may be coroutine functions | they are plain ones |

In signatures `Target` is `str | os.PathLike[str]`; `Durability` is `"full"` or `"normal"`; `Id` is `uuid.UUID | str`;
`ExistOk` is `bool` or `"keep"`; `Outputs` is a mapping of values by node id; `RunState` is `"open"`, `"completed"`,
`"failed"` or `"cancelled"`; `RunAttributes` is a mapping of `str`, `int`, `float` and `bool` by name, in
`RunAttributeChanges` of None, too; `Store` is either of the two stores; `Progress` is a function of two numbers, how
many are done and how many there are; `Damaged` is `"raise"` or `"skip"`; `ExportedRecord` is any of the records of an
export; `ASGIApp` is an ASGI application, as starlette names its type; `Keep` is the type of `KEEP`.
"""

STORE, SYNC_STORE = contextstore.AsyncContextStore, contextstore.ContextStore
RUN = contextstore.AsyncFlowRun
BATCH = inspect.get_annotations(STORE.batch, eval_str=True)["return"]
# What each of them is called in a user's program, and on this page.
SUBJECTS: dict[type, str] = {STORE: "store", RUN: "run", BATCH: "batch"}
NOT_PUBLIC_MODULES = {"__main__", "cli"}

Anchors = dict[str, str]


# ------------------------------------------------------------------------------------------------------------ the page


def page() -> str:
    anchors = all_anchors()
    parts = [
        INTRODUCTION,
        *store_part(anchors),
        *run_part(anchors),
        *batch_part(anchors),
        *functions_part(anchors),
        *results_part(anchors),
        *errors_part(anchors),
        *further_part(anchors),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def store_part(anchors: Anchors) -> Iterator[str]:
    linked = linker(anchors, "store")
    yield "## AsyncContextStore"
    yield docstrings.rendered(inspect.getdoc(STORE) or "", linked, ("Args",))
    yield "## ContextStore"
    yield docstrings.rendered(inspect.getdoc(SYNC_STORE) or "", linked)
    yield "## Options"
    yield from options_table(linked)
    yield "## Calls of a store"
    groups = calls_by_heading(STORE)
    yield call_table(STORE, groups, anchors)
    for heading, calls in groups.items():
        yield f"### {heading[:1].upper()}{heading[1:]}"
        for name in calls:
            yield from call_part(STORE, name, linked, "####")


def run_part(anchors: Anchors) -> Iterator[str]:
    yield "## Calls of a run"
    yield docstrings.rendered(inspect.getdoc(RUN) or "", linker(anchors, "store"))
    yield call_table(RUN, {"": public_calls(RUN)}, anchors)
    for name in public_calls(RUN):
        yield from call_part(RUN, name, linker(anchors, "store"), "###")


def batch_part(anchors: Anchors) -> Iterator[str]:
    yield "## Calls of a batch"
    for name in public_calls(BATCH):
        yield from call_part(BATCH, name, linker(anchors, "store"), "###")


def functions_part(anchors: Anchors) -> Iterator[str]:
    yield "## Beside the store"
    yield from class_part(contextstore.AtomicWriter, linker(anchors, "store"), "###")
    for name in contextstore.__all__:
        if inspect.isfunction(function := getattr(contextstore, name)):
            yield from function_part(name, function, linker(anchors, "store"), "###")


def results_part(anchors: Anchors) -> Iterator[str]:
    yield "## Results"
    for name in contextstore.__all__:
        if is_record(result := getattr(contextstore, name)) and module_of(result) == "_results":
            yield from record_part(result, linker(anchors, "store"), "###")


def errors_part(anchors: Anchors) -> Iterator[str]:
    yield "## Errors"
    linked = linker(anchors, "store")
    yield docstrings.rendered(module_text(errors), linked)
    for name in errors.__all__:
        yield f"### {name}"
        kind = getattr(errors, name)
        yield docstrings.rendered(inspect.getdoc(kind) or "", linked)
        yield error_facts(kind, linked)


def further_part(anchors: Anchors) -> Iterator[str]:
    """What other public modules offer, and whatever has no place above."""
    linked = linker(anchors, "store")
    for module in public_modules():
        if names := further_names(module):
            yield f"## {module.__name__}"
            yield docstrings.rendered(module_text(module), linked)
            for name in names:
                yield from named_part(name, getattr(module, name), linked)
    if names := [name for name in contextstore.__all__ if name not in placed_names()]:
        yield "## Further"
        for name in names:
            yield from named_part(name, getattr(contextstore, name), linked)


# ------------------------------------------------------------------------------------------------------- what there is


def public_modules() -> list[Any]:
    """Modules of the package that users import by name, but that of the errors, which has a part of its own."""
    names = [module.name for module in pkgutil.iter_modules(contextstore.__path__)]
    public = [name for name in names if not name.startswith("_") and name not in {"errors", *NOT_PUBLIC_MODULES}]
    return [importlib.import_module(f"contextstore.{name}") for name in public]


def module_text(module: Any) -> str:
    """What a module's docstring says to those who use it: its rules are for those who change it."""
    paragraphs = (inspect.getdoc(module) or "").split("\n\n")
    return "\n\n".join(each for each in paragraphs if not each.startswith("Rules of this module:"))


def further_names(module: Any) -> list[str]:
    return list(getattr(module, "__all__", ()))


def placed_names() -> set[str]:
    """Those of the package's public names that have a place on the page by what they are."""
    placed = {STORE.__name__, SYNC_STORE.__name__, RUN.__name__, "FlowRun", "AtomicWriter", *errors.__all__}
    for name in contextstore.__all__:
        value = getattr(contextstore, name)
        if inspect.isfunction(value) or (is_record(value) and module_of(value) == "_results"):
            placed.add(name)
    return placed | {name for module in public_modules() for name in further_names(module)}


def calls_by_heading(kind: type) -> dict[str, list[str]]:
    """The calls of a class under the headings under which they stand in its source."""
    groups: dict[str, dict[str, None]] = {}
    heading = ""
    for line in inspect.getsource(kind).splitlines():
        if found := re.fullmatch(r" {4}# -- (.+?) -+", line):
            heading = found[1]
        elif found := re.match(r" {4}(?:async )?def ([a-z]\w*)\b", line):
            groups.setdefault(heading, {})[found[1]] = None
    return {heading: list(calls) for heading, calls in groups.items()}


def public_calls(kind: type) -> list[str]:
    """Public methods and properties, in the order of the source, a base's first."""
    ordered: dict[str, None] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__.startswith("contextstore"):
            ordered |= dict.fromkeys(name for name in vars(base) if not name.startswith("_"))
    return list(ordered)


def is_record(value: Any) -> bool:
    return isinstance(value, type) and dataclasses.is_dataclass(value)


def module_of(value: Any) -> str:
    return str(value.__module__).rpartition(".")[2]


# ------------------------------------------------------------------------------------------------------------- anchors


def all_anchors() -> Anchors:
    """Where a name in a docstring leads: to a call, by its name and subject, or to a class or function."""
    found: Anchors = {}
    for kind, subject in SUBJECTS.items():
        for name in public_calls(kind):
            found[f"{subject}.{name}"] = anchor(f"{subject}.{name}")
    for name in [*contextstore.__all__, *(name for module in public_modules() for name in further_names(module))]:
        found[name] = anchor(name)
    found["FlowRun"] = found["AsyncFlowRun"] = anchor("Calls of a run")
    return found


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def linker(anchors: Anchors, subject: str, own: frozenset[str] = frozenset()) -> Callable[[str], str]:
    """What a name in code leads to, within the docstrings of this subject. A call's own parameters lead nowhere."""

    def linked(code: str) -> str:
        name = re.sub(r"\(.*\)$", "", code).removeprefix("contextstore.")
        if name in own:
            return f"`{code}`"
        found = anchors.get(name) or anchors.get(f"{subject}.{name}") or anchors.get(name.partition(".")[0])
        return f"[`{code}`](#{found})" if found else f"`{code}`"

    return linked


# ------------------------------------------------------------------------------------------------------ parts of a kind


def options_table(linked: Callable[[str], str]) -> Iterator[str]:
    blocks = docstrings.blocks_of(inspect.getdoc(STORE) or "")
    said = {name: text for block in blocks if block.kind == "Args" for name, text in block.entries}
    rows = ["| option | default | |", "| --- | --- | --- |"]
    for name, parameter in inspect.signature(STORE).parameters.items():
        default = "" if parameter.default is parameter.empty else f"`{default_as_text(parameter.default)}`"
        rows.append(f"| `{name}` | {default} | {cell(docstrings.inline(said[name], linked))} |")
    yield "`target` comes first, all others are keywords. The two stores take the same."
    yield "\n".join(rows)


def default_as_text(value: Any) -> str:
    if isinstance(value, int) and value and value % 2**20 == 0:
        return f"{value >> 20} * 2**20"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def call_table(kind: type, groups: dict[str, list[str]], anchors: Anchors) -> str:
    rows = ["| call | | |", "| --- | --- | --- |"]
    for heading, names in groups.items():
        if heading:
            rows.append(f"| **{heading}** | | |")
        for name in names:
            member = vars(kind)[name]
            mark = "**A**" if inspect.iscoroutinefunction(member) else ""
            said = docstrings.inline(docstrings.summary(inspect.getdoc(member) or ""), lambda code: f"`{code}`")
            rows.append(f"| [`{name}`](#{anchors[f'{SUBJECTS[kind]}.{name}']}) | {mark} | {cell(said)} |")
    return "\n".join(rows)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def call_part(kind: type, name: str, linked: Callable[[str], str], level: str) -> Iterator[str]:
    member = inspect.getattr_static(kind, name)
    yield f"{level} {SUBJECTS[kind]}.{name}"
    if isinstance(member, property):
        yield docstrings.rendered(inspect.getdoc(member) or "", linked)
        return
    yield signature_fence(f"{SUBJECTS[kind]}.{name}", member)
    yield docstrings.rendered(inspect.getdoc(member) or "", without_own(linked, member))


def without_own(linked: Callable[[str], str], function: Any) -> Callable[[str], str]:
    own = set(inspect.signature(function).parameters)
    return lambda code: f"`{code}`" if code in own else linked(code)


def signature_fence(shown: str, function: Any, is_bound: bool = True) -> str:
    """The call with its types, on one line if it fits, else a line for each parameter."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if is_bound else 0 :]
    words = parameter_words(parameters)
    awaited = "await " if inspect.iscoroutinefunction(function) else ""
    result = returned(signature)
    line = f"{awaited}{shown}({', '.join(words)}){result}"
    if len(line) > 88:
        line = "\n".join([f"{awaited}{shown}(", *(f"    {word}," for word in words), f"){result}"])
    return f"```python signature\n{line}\n```"


def parameter_words(parameters: list[inspect.Parameter]) -> list[str]:
    """Each parameter as it is written in a signature, with the marks between the kinds."""
    words: list[str] = []
    seen: set[Any] = set()
    for parameter in parameters:
        kind = parameter.kind
        if kind is not parameter.POSITIONAL_ONLY and parameter.POSITIONAL_ONLY in seen and "/" not in words:
            words.append("/")
        if kind is parameter.KEYWORD_ONLY and not seen & {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL}:
            words.append("*")
        seen.add(kind)
        stars = "*" if kind is parameter.VAR_POSITIONAL else "**" if kind is parameter.VAR_KEYWORD else ""
        typed = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        default = "" if parameter.default is parameter.empty else f" = {default_as_text(parameter.default)}"
        words.append(f"{stars}{parameter.name}{typed}{default}")
    return [*words, "/"] if seen == {inspect.Parameter.POSITIONAL_ONLY} else words


def returned(signature: inspect.Signature) -> str:
    annotation = signature.return_annotation
    return "" if annotation is signature.empty else f" -> {annotation}"


def function_part(name: str, function: Any, linked: Callable[[str], str], level: str) -> Iterator[str]:
    yield f"{level} {name}"
    yield signature_fence(name, function, is_bound=False)
    yield docstrings.rendered(inspect.getdoc(function) or "", without_own(linked, function))


def class_part(kind: type, linked: Callable[[str], str], level: str) -> Iterator[str]:
    yield f"{level} {kind.__name__}"
    yield docstrings.rendered(inspect.getdoc(kind) or "", linked)
    for name in public_calls(kind):
        member = inspect.getattr_static(kind, name)
        yield f"{level}# {kind.__name__}.{name}"
        if inspect.isfunction(member):
            yield signature_fence(f"{kind.__name__}.{name}", member)
        yield docstrings.rendered(inspect.getdoc(member) or "", linked)


def named_part(name: str, value: Any, linked: Callable[[str], str]) -> Iterator[str]:
    if is_record(value):
        yield from record_part(value, linked, "###")
    elif isinstance(value, type) and issubclass(value, enum.Enum):
        yield f"### {name}"
        yield docstrings.rendered(inspect.getdoc(value) or "", linked)
    elif isinstance(value, enum.Enum):
        yield f"### {name}"
        yield docstrings.rendered(inspect.getdoc(type(value)) or "", linked)
    elif isinstance(value, type):
        yield from class_part(value, linked, "###")
    elif inspect.isfunction(value):
        yield from function_part(name, value, linked, "###")
    else:
        yield f"### {name}"
        yield f"```python signature\n{name} = {value!r}\n```"


def record_part(kind: Any, linked: Callable[[str], str], level: str) -> Iterator[str]:
    """A frozen object: its attributes with their types, in a table. A value of one may be called as a call is."""

    def linked_if_called(code: str) -> str:
        return linked(code) if "(" in code or code[:1].isupper() else f"`{code}`"

    docstring = inspect.getdoc(kind) or ""
    yield f"{level} {kind.__name__}"
    yield docstrings.rendered(docstring, linked, ("Attributes",))
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    blocks = docstrings.blocks_of(docstring)
    entries = [entry for block in blocks if block.kind == "Attributes" for entry in block.entries]
    rows = ["| attribute | type | |", "| --- | --- | --- |"]
    for names, text in entries:
        each = list(dict.fromkeys(types[name] for name in names.split(", ")))
        shown, said = ", ".join(f"`{one}`" for one in each), docstrings.inline(text, linked_if_called)
        rows.append(f"| {docstrings.names_as_code(names)} | {cell(shown)} | {cell(said)} |")
    for name, member in vars(kind).items():
        if isinstance(member, property) and member.fget and not name.startswith("_"):
            said = docstrings.inline(docstrings.summary(inspect.getdoc(member) or ""), linked)
            rows.append(f"| `{name}` | `{returned(inspect.signature(member.fget)).removeprefix(' -> ')}` | {said}. |")
    yield "\n".join(rows)


def error_facts(kind: type[BaseException], linked: Callable[[str], str]) -> str:
    """What an error carries, and what else it is."""
    bases = [base for base in kind.__bases__ if base is not Exception]
    said = [f"A kind of {', also of '.join(linked(base.__name__) for base in bases)}."] if bases else []
    if facts := parameters_of(kind):
        said.append(f"Attributes: {', '.join(f'`{name}`' for name in facts)}.")
    return " ".join(said)


def parameters_of(kind: type[BaseException]) -> list[str]:
    """Of an error that has its own; one that is made as its base is carries what that does."""
    return list(inspect.signature(vars(kind)["__init__"]).parameters)[1:] if "__init__" in vars(kind) else []


if __name__ == "__main__":
    PAGE.write_text(page())
