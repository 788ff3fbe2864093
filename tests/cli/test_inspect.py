"""What the inspect layer finds in a store, on every engine."""

from __future__ import annotations

from typing import Any

import pytest

from contextstore import ContextStore
from contextstore._inspect.differences import differences, same_value
from contextstore._inspect.folding import tree
from contextstore._inspect.runs import run_page, was_deleted
from contextstore._inspect.timeline import Damaged, outputs, time_line

from ..contract.test_damaged import damage, output


def test_pages_of_runs_are_all_the_runs_once(place: str) -> None:
    with ContextStore(place) as store:
        for number in range(7):
            store.put(f"run-{number}", "n", 1)
        seen, after = [], None
        for _ in range(4):
            page = run_page(store, after=after, limit=2)
            seen += [run.flow_run_id for run in page.runs]
            after = page.next_after
        assert after is None
        assert seen == [f"run-{number}" for number in reversed(range(7))]
        assert run_page(store, limit=7).next_after is None


def test_a_deleted_run_is_told_from_one_that_never_was(place: str) -> None:
    with ContextStore(place) as store:
        store.put("gone", "n", 1)
        store.delete_run("gone")
        assert was_deleted(store, "gone")
        assert not was_deleted(store, "never")


NODES = ["a", "a-1", "a-2", "b-1", "b-10", "b-2", "b\U0010ffff", "c", "é", "\ue000", "日"]


@pytest.mark.each_input_once
@pytest.mark.parametrize(
    "prefix", ["", "a", "a-", "b", "b-1", "b-2", "b\U0010ffff", "é", "\ue000", "日", "z", "\x01", "b" * 512]
)
def test_outputs_with_a_prefix_are_those_of_list_keys(place: str, prefix: str) -> None:
    with ContextStore(place) as store:
        store.put_many("run", {node: node for node in NODES})
        for after in (None, "a-1", "b", "日"):
            found = [one.node_id for one in outputs(store, "run", prefix=prefix, after=after)]
            assert found == [key for key in store.list_keys("run", prefix=prefix) if after is None or key > after]
            turned = [one.node_id for one in outputs(store, "run", prefix=prefix, after=after, reverse=True)]
            assert turned == store.list_keys("run", prefix=prefix, after=after, reverse=True)


def test_damaged_outputs_stand_in_their_place(place: str, request: pytest.FixtureRequest, file_path: Any) -> None:
    with ContextStore(place) as store:
        store.put_many("run", {name: name for name in "abcd"})
    location = place if "://" in place else file_path
    damage(location, request, "node_outputs", "checksum = checksum + 1", output("run", "a", "c"))
    with ContextStore(place, read_only=True) as store:
        found = list(outputs(store, "run"))
        assert [(one.node_id, isinstance(one, Damaged)) for one in found] == [
            ("a", True),
            ("b", False),
            ("c", True),
            ("d", False),
        ]
        assert [one.node_id for one in outputs(store, "run", reverse=True)] == ["d", "c", "b", "a"]
        line = time_line(store, "run")
        assert [mark.node_id for mark in line.marks] == ["b", "d", "a", "c"]
        assert line.marks[-1].value.startswith("damaged: ")


def test_a_time_line_has_positions_and_gaps(place: str) -> None:
    with ContextStore(place) as store:
        for node in ("c", "a", "b"):
            store.put("run", node, {"node": node})
        line = time_line(store, "run")
        entries = {one.node_id: one for one in store.iter_outputs("run")}
    assert [mark.node_id for mark in line.marks] == ["c", "a", "b"]
    assert (line.marks[0].position, line.marks[0].gap, line.marks[-1].position) == (0.0, 0.0, 1.0)
    for before, mark in zip(line.marks, line.marks[1:], strict=False):
        assert mark.gap == (entries[mark.node_id].written_at - entries[before.node_id].written_at).total_seconds()
        assert before.position <= mark.position
        assert mark.value == f'{{"node": "{mark.node_id}"}}'


def test_a_page_of_a_time_line_says_where_the_next_begins(place: str) -> None:
    with ContextStore(place) as store:
        store.put_many("run", {f"{number}": number for number in range(5)})
        first = time_line(store, "run", limit=3)
        assert ([mark.node_id for mark in first.marks], first.next_after) == (["0", "1", "2"], "2")
        second = time_line(store, "run", limit=3, after=first.next_after)
        assert ([mark.node_id for mark in second.marks], second.next_after) == (["3", "4"], None)
        assert time_line(store, "nobody").marks == []


def test_differences_are_by_node(place: str) -> None:
    with ContextStore(place) as store:
        store.put_many("one", {"a": 1, "b": {"x": 1, "y": 2}, "c": 1, "e": b"1", "z": 1})
        store.put_many("two", {"b": {"y": 2, "x": 1}, "c": 1.0, "d": 5, "e": "1", "z": 1})
        found = [(one.node_id, one.kind, one.first, one.second) for one in differences(store, "one", "two")]
    assert found == [
        ("a", "only in the first", "1", None),
        ("c", "different", "1", "1.0"),
        ("d", "only in the second", None, "5"),
        ("e", "different", "1 bytes: 31", '"1"'),
    ]


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0.0, -0.0), (b"a", "a"), ([1], [1, 2]), ({}, [])])
def test_what_is_not_the_same_json_is_not_the_same(one: Any, other: Any) -> None:
    assert not same_value(one, other)
    assert same_value(one, one)


def test_a_tree_is_folded_where_it_is_deep_or_wide() -> None:
    value = {"list": list(range(30)), "deep": {"a": {"b": {"c": 1}}}, "x": None}
    lines = [(one.depth, one.name, one.children, one.is_folded) for one in tree(value, depth=2, children=2)]
    assert lines == [
        (0, None, 3, True),
        (1, "list", 30, True),
        (2, 0, 0, False),
        (2, 1, 0, False),
        (1, "deep", 1, False),
        (2, "a", 1, True),
    ]


def test_a_tree_of_a_huge_value_is_small() -> None:
    deep: Any = 1
    for _ in range(50_000):
        deep = [deep, "x" * 100]
    assert len(list(tree(deep))) < 50
    assert len(list(tree([[0] * 1000] * 1000, depth=2, children=10))) == 111
