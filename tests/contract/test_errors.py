"""Errors: the tree that is drawn is the tree that is there, and each of them keeps its facts wherever it is carried."""

from __future__ import annotations

import copy
import datetime
import inspect
import multiprocessing
import pickle
import re
import traceback
import typing
from typing import Any

import pytest

import contextstore
from contextstore import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]

# One of each: its facts, and what its message must tell (the key, and what to do).
SAMPLES: list[tuple[Any, dict[str, Any], list[str]]] = [
    (errors.ContextStoreError, {}, []),
    (
        errors.AlreadyExistsError,
        {"flow_run_id": "run'1", "node_id": "node\n2", "same_value": True},
        [repr("run'1"), repr("node\n2"), "the same value", "exist_ok=True"],
    ),
    (
        errors.AlreadyExistsError,
        {"flow_run_id": "run", "node_id": "node", "same_value": False},
        ["'run'", "'node'", "a different value", "stands"],
    ),
    (
        errors.OutputDeletedError,
        {"flow_run_id": "run", "node_id": "node"},
        ["'run'", "'node'", "deleted", "another node id"],
    ),
    (errors.GlobalAlreadyExistsError, {"key": "k", "same_value": True}, ["'k'", "the same value", "upsert_global"]),
    (errors.GlobalAlreadyExistsError, {"key": "", "same_value": False}, ["''", "a different value", "upsert_global"]),
    (errors.VersionConflictError, {"key": "k", "expected": 3, "actual": 5}, ["'k'", "3", "5", "read it again"]),
    (errors.VersionConflictError, {"key": "k", "expected": 3, "actual": 0}, ["'k'", "3", "0", "not there"]),
    (errors.RunDeletedError, {"flow_run_id": "run"}, ["'run'", "deleted", "new flow_run_id"]),
    (
        errors.RunAlreadyExistsError,
        {"flow_run_id": "run", "difference": None},
        ["'run'", "is here", "delete it here as well"],
    ),
    (
        errors.RunAlreadyExistsError,
        {"flow_run_id": "run", "difference": "other attributes"},
        ["'run'", "was begun with other attributes", "another flow_run_id"],
    ),
    (
        errors.RunStateConflictError,
        {"flow_run_id": "run", "expected": "open", "actual": "failed"},
        ["'run'", "is failed, not open", "look at it again"],
    ),
    (
        errors.InputsChangedError,
        {"flow_run_id": "run", "node_id": "node", "recorded": "aa", "given": "bb"},
        ["'run'", "'node'", "aa", "bb", "another node_id"],
    ),
    (
        errors.LeaseHeldError,
        {"name": "n", "holder": "h", "expires_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)},
        ["'n'", "held by h", "wait longer"],
    ),
    (errors.LeaseLostError, {"name": "n"}, ["'n'", "nothing was stored", "take it anew"]),
    (errors.InvalidKeyError, {"name": "node_id", "problem": "must not be empty"}, ["node_id must not be empty"]),
    (errors.SerializationError, {"path": "$.a[3]", "problem": "NaN"}, ["$.a[3]: NaN"]),
    (errors.DeserializationError, {"path": "$.a[3]", "problem": "Expected `int`"}, ["$.a[3]: Expected `int`"]),
    (errors.StorageError, {"message": "no room", "outcome_unknown": False}, ["no room"]),
    (errors.StorageError, {"message": "fsync failed", "outcome_unknown": True}, ["fsync failed", "not known", "retry"]),
    (errors.StoreBusyError, {"message": "busy", "outcome_unknown": False}, ["busy"]),
    (errors.StoreFullError, {"message": "full", "outcome_unknown": True}, ["full", "not known", "retry"]),
    (errors.TargetExistsError, {"message": "/x is there", "outcome_unknown": False}, ["/x is there"]),
    (errors.StoreNotFoundError, {"message": "there is no store at /x", "outcome_unknown": False}, ["no store at /x"]),
    (errors.ReadOnlyStoreError, {"message": "read-only", "outcome_unknown": False}, ["read-only"]),
    (errors.CorruptStoreError, {"message": "damaged", "outcome_unknown": False}, ["damaged"]),
    (errors.IncompatibleStoreError, {"message": "newer", "outcome_unknown": False}, ["newer"]),
    (errors.StoreClosedError, {"location": "/x/y.db"}, ["/x/y.db", "closed", "new store object"]),
    (errors.WrongLoopError, {"problem": "a thread of its own: use another"}, ["use another"]),
    (errors.ForkedProcessError, {"location": "/x/y.db"}, ["/x/y.db", "fork()", "new store object", "'spawn'"]),
    (
        errors.AtomicWriteError,
        {"flow_run_id": "run", "node_id": "node", "reason": "why"},
        [],
    ),
    (
        errors.WriteFailedError,
        {"flow_run_id": "run", "node_id": "node", "reason": "disk full"},
        ["'run'", "'node'", "disk full", "complete() was not called"],
    ),
    (
        errors.CompletionFailedError,
        {"flow_run_id": "run", "node_id": "node", "reason": "KeyError(1)"},
        ["'run'", "'node'", "KeyError(1)", "is stored"],
    ),
]
IDS = [f"{kind.__name__}-{number}" for number, (kind, _, _) in enumerate(SAMPLES)]
each = pytest.mark.parametrize(("kind", "facts", "words"), SAMPLES, ids=IDS)


def facts_of(error: BaseException, names: Any) -> dict[str, Any]:
    return {name: getattr(error, name) for name in names}


# ------------------------------------------------------------------------------------------------------------ the tree


def drawn_tree() -> list[tuple[str, str | None, list[str]]]:
    """(name, parent, also a ...) of each line of the drawing in the docstring."""
    assert errors.__doc__ is not None
    tree: list[tuple[str, str | None, list[str]]] = []
    branch: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.fullmatch(r"    ([│├└─ ]*)(\w+Error)(?: +\(also an? (\w+(?:, \w+)*)\))?", line)
        if match:
            marks, name, also = match.groups()
            depth = len(marks) // 4
            branch[depth:] = [name]
            tree.append((name, branch[depth - 1] if depth else None, also.split(", ") if also else []))
    return tree


def test_the_drawing_shows_every_class_once() -> None:
    names = [name for name, _, _ in drawn_tree()]
    assert len(names) == len(set(names)) > 20
    assert set(names) == set(errors.__all__)


@pytest.mark.parametrize(("name", "parent", "also"), drawn_tree(), ids=lambda value: str(value))
def test_the_tree_that_is_drawn_is_the_tree_that_is_there(name: str, parent: str | None, also: list[str]) -> None:
    bases = [base.__name__ for base in getattr(errors, name).__bases__]
    assert bases == ([parent, *also] if parent else ["Exception"])


def test_every_class_of_the_module_is_public_and_an_error_of_ours() -> None:
    defined = {name: thing for name, thing in vars(errors).items() if inspect.isclass(thing)}
    public = {name for name, thing in defined.items() if thing.__module__ == errors.__name__}
    assert public == set(errors.__all__)
    assert all(issubclass(kind, errors.ContextStoreError) for kind in CLASSES)
    assert len(errors.__all__) == len(set(errors.__all__))


def test_the_package_re_exports_every_error() -> None:
    for name in errors.__all__:
        assert getattr(contextstore, name) is getattr(errors, name)
        assert name in contextstore.__all__


def test_all_that_the_package_promises_is_there_once() -> None:
    assert len(contextstore.__all__) == len(set(contextstore.__all__))
    for name in contextstore.__all__:
        assert hasattr(contextstore, name)


def test_what_builtin_errors_ours_are_as_well() -> None:
    assert issubclass(errors.InvalidKeyError, ValueError)
    assert issubclass(errors.StoreNotFoundError, FileNotFoundError)
    assert issubclass(errors.StoreNotFoundError, errors.StorageError)
    assert issubclass(errors.TargetExistsError, FileExistsError)
    assert issubclass(errors.TargetExistsError, errors.StorageError)
    builtin = {errors.InvalidKeyError, errors.StoreNotFoundError, errors.TargetExistsError}
    for kind in set(CLASSES) - builtin:
        assert not issubclass(kind, ValueError | OSError | TypeError | RuntimeError | LookupError)


# ------------------------------------------------------------------------------------------------- facts and messages


def test_there_is_a_sample_of_every_class() -> None:
    assert {kind for kind, _, _ in SAMPLES} == set(CLASSES)


@each
def test_an_error_keeps_its_facts_as_attributes(kind: Any, facts: dict[str, Any], words: list[str]) -> None:
    for error in (kind(*facts.values()), kind(**facts)):
        assert facts_of(error, facts) == facts
        assert type(error) is kind


@each
def test_its_message_names_the_key_and_what_to_do(kind: Any, facts: dict[str, Any], words: list[str]) -> None:
    message = str(kind(*facts.values()))
    for word in words:
        assert word in message
    assert "\n" not in message
    assert not message.endswith(".")
    assert str(kind(**facts)) == message


@each
def test_it_is_pickled_with_its_facts_and_its_message(kind: Any, facts: dict[str, Any], words: list[str]) -> None:
    for error in (kind(*facts.values()), kind(**facts)):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            back = pickle.loads(pickle.dumps(error, protocol))
            assert type(back) is kind
            assert facts_of(back, facts) == facts
            assert str(back) == str(error)
            assert back.args == error.args
            assert repr(back) == repr(error)


@each
def test_it_is_copied_with_its_facts_and_its_message(kind: Any, facts: dict[str, Any], words: list[str]) -> None:
    error = kind(**facts)
    for back in (copy.copy(error), copy.deepcopy(error)):
        assert back is not error
        assert type(back) is kind
        assert facts_of(back, facts) == facts
        assert str(back) == str(error)


@each
def test_pickling_keeps_notes_and_attributes_that_were_added(kind: Any, facts: Any, words: list[str]) -> None:
    error = kind(**facts)
    error.add_note("while testing")
    back = pickle.loads(pickle.dumps(error))
    assert back.__notes__ == ["while testing"]


@each
def test_a_traceback_shows_the_public_module_and_the_message(kind: Any, facts: Any, words: list[str]) -> None:
    error = kind(**facts)
    (line,) = traceback.format_exception_only(error)
    assert line.startswith(f"contextstore.errors.{kind.__name__}")
    assert str(error) in line


@each
def test_a_subclass_of_a_user_pickles_too(kind: Any, facts: dict[str, Any], words: list[str]) -> None:
    own = type("Own", (kind,), {"__module__": __name__, "__qualname__": "Own"})
    globals()["Own"] = own
    back = pickle.loads(pickle.dumps(own(**facts)))
    assert type(back) is own
    assert facts_of(back, facts) == facts


def test_a_storage_error_is_certain_unless_it_says_otherwise() -> None:
    for kind in [kind for kind in CLASSES if issubclass(kind, errors.StorageError)]:
        error = kind("message")
        assert error.outcome_unknown is False
        assert pickle.loads(pickle.dumps(error)).outcome_unknown is False
        assert str(error) == "message"


def test_a_missing_store_is_caught_as_a_missing_file() -> None:
    error = errors.StoreNotFoundError("there is no store at /x: pass create=True")
    with pytest.raises(FileNotFoundError, match="create=True"):
        raise error
    with pytest.raises(OSError, match="create=True"):
        raise error
    with pytest.raises(errors.StorageError, match="create=True"):
        raise error


def test_every_class_says_in_a_docstring_what_it_means() -> None:
    for kind in CLASSES:
        assert kind.__doc__ is not None
        assert kind.__doc__ != getattr(kind.__base__, "__doc__", None)


def test_annotations_of_errors_resolve_at_run_time() -> None:
    for kind in CLASSES:
        if "__init__" in vars(kind):
            assert "return" in typing.get_type_hints(kind.__init__)


def raise_in_a_child(kind: Any, facts: dict[str, Any]) -> None:
    raise kind(**facts)


def test_errors_cross_to_another_process_as_they_are() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for kind, facts, _ in SAMPLES:
            with pytest.raises(kind) as caught:
                pool.apply(raise_in_a_child, (kind, facts))
            assert type(caught.value) is kind
            assert facts_of(caught.value, facts) == facts
            assert str(caught.value) == str(kind(**facts))


# ------------------------------------------------------------------------------------------- as they come from a store


async def test_what_a_store_raises_carries_its_facts_and_is_picklable(store: Any) -> None:
    await store.put("run", "node", 1)
    await store.put_global("key", 1)
    expected: list[tuple[Any, Any, dict[str, Any]]] = [
        (
            store.put("run", "node", 1),
            errors.AlreadyExistsError,
            {"flow_run_id": "run", "node_id": "node", "same_value": True},
        ),
        (store.put("run", "node", 1.0), errors.AlreadyExistsError, {"same_value": False}),
        (store.put_global("key", 1), errors.GlobalAlreadyExistsError, {"key": "key", "same_value": True}),
        (store.put_global("key", True), errors.GlobalAlreadyExistsError, {"key": "key", "same_value": False}),
        (
            store.upsert_global("key", 1, expected_version=7),
            errors.VersionConflictError,
            {"key": "key", "expected": 7, "actual": 1},
        ),
        (
            store.upsert_global("none", 1, expected_version=7),
            errors.VersionConflictError,
            {"key": "none", "expected": 7, "actual": 0},
        ),
        (store.put("", "node", 1), errors.InvalidKeyError, {"name": "flow_run_id"}),
        (store.put("run", 7, 1), errors.InvalidKeyError, {"name": "node_id"}),
        (store.put_global("\0", 1), errors.InvalidKeyError, {"name": "key"}),
        (store.put("run", "new", [float("nan")]), errors.SerializationError, {"path": "$[0]"}),
        (store.get("run", "node", type=str), errors.DeserializationError, {"path": "$"}),
    ]
    for call, kind, facts in expected:
        with pytest.raises(kind) as caught:
            await call
        for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
            assert type(error) is kind
            assert facts_of(error, facts) == facts


async def test_a_closed_store_says_which_one_it_is(make_store: Any) -> None:
    store = make_store()
    await store.open()
    await store.close()
    with pytest.raises(errors.StoreClosedError) as caught:
        await store.get("run", "node")
    assert str(make_store.location) in caught.value.location
