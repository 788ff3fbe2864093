"""A damaged value is an error that names it, never a wrong value.

Damage is done through plain ``sqlite3`` and in plain files.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, CorruptStoreError

from .files import Make, contents, plain

pytestmark = pytest.mark.disk

DAMAGED = ("run", "b")
DAMAGES = {
    "a flipped bit": """value = '{"rows":2}'""",
    "another case": """value = '{"Rows":3}'""",
    "not JSON any more": """value = '{"rows":'""",
    "not UTF-8 any more": "value = CAST(x'7b22ff' AS TEXT)",
    "emptied": "value = ''",
    "a space more": "value = value || ' '",
    "a NUL more": "value = CAST(value || x'00' AS TEXT)",
    "a number": "value = 3",
    "another's value": "value = (SELECT value FROM node_outputs WHERE node_id = 'a')",
    "another's value and checksum": "(value, checksum, size) = "
    "(SELECT value, checksum, size FROM node_outputs WHERE node_id = 'a')",
    "another run's value and checksum": "(value, checksum, size) = "
    "(SELECT value, checksum, size FROM node_outputs WHERE node_id = 'b' AND run = 2)",
    "codec: bytes": "codec = 1",
    "codec: unknown": "codec = 9",
    "codec: text": "codec = 'x'",
    "codec: huge": "codec = 9223372036854775807",
    "checksum": "checksum = checksum + 1",
    "checksum: text": "checksum = 'x'",
    "size": "size = size + 1",
    "time: text": "written_at = 'x'",
}
WHOLE = {("run", "a"): {"rows": 1}, ("run", "c"): b"c", ("run", "d"): None, ("run", "e"): [1.5, "é"]}


@pytest.fixture
def damaged_store(file_path: pathlib.Path) -> Callable[[str], None]:
    """Changes the row of the output "b" of the run "run", and that alone."""
    with ContextStore(file_path) as store:
        store.put("run", "b", {"rows": 3})
        store.put("another run", "b", {"rows": 4})
        store.put_many("run", {node: value for (_, node), value in WHOLE.items()})

    def damage(change: str) -> None:
        with plain(file_path) as connection:
            update = f"UPDATE node_outputs SET {change} WHERE run = 1 AND node_id = 'b'"
            assert connection.execute(update).rowcount == 1

    return damage


def _names_its_place(error: Any, path: pathlib.Path) -> bool:
    message = str(error)
    return type(error) is CorruptStoreError and all(part in message for part in ("'run'", "'b'", str(path)))


@pytest.mark.each_input_once
class TestDamage:
    @pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
    def test_a_damaged_output_is_an_error_that_names_it_and_the_others_are_served(
        self, make: Make, file_path: pathlib.Path, damaged_store: Callable[[str], None], change: str
    ) -> None:
        damaged_store(change)
        before = contents(file_path)
        with make(file_path) as store:
            for call in [
                lambda: store.get(*DAMAGED, "default"),
                lambda: store.get(*DAMAGED, type=dict[str, int]),
                lambda: store.put(*DAMAGED, {"rows": 3}),  # is it equal or different?
                lambda: store.put(*DAMAGED, {"rows": 3}, exist_ok=True),
                lambda: store.get(*DAMAGED),
            ]:
                with pytest.raises(CorruptStoreError) as caught:
                    call()
                assert _names_its_place(caught.value, file_path)
            assert {key: store.get(*key) for key in WHOLE} == WHOLE
            assert store.list_keys("run") == ["a", "b", "c", "d", "e"]
        assert contents(file_path) == before

    @pytest.mark.parametrize("damage", ["a flipped bit", "not UTF-8 any more", "codec: text", "size", "time: text"])
    def test_gets_that_share_a_trip_with_a_damaged_one_are_served(
        self, make_either: Make, file_path: pathlib.Path, damaged_store: Callable[[str], None], damage: str
    ) -> None:
        damaged_store(DAMAGES[damage])
        with make_either(file_path) as store:
            asked = [*WHOLE, DAMAGED] * 5
            for key, answer in zip(asked, store.get_at_once(asked), strict=True):
                if key == DAMAGED:
                    assert _names_its_place(answer, file_path)
                else:
                    assert answer == WHOLE[key]

    def test_calls_for_several_outputs_give_no_wrong_one(
        self, make_either: Make, file_path: pathlib.Path, damaged_store: Callable[[str], None]
    ) -> None:
        damaged_store(DAMAGES["a flipped bit"])
        with make_either(file_path) as store:
            assert store.get_many("run", ["c", "a"]) == {"c": b"c", "a": {"rows": 1}}
            for call in [
                lambda: store.get_many("run", ["a", "b"]),
                lambda: store.get_run("run"),
                lambda: store.get_entry("run", "b"),
                lambda: store.fork_run("run", new_flow_run_id="fork"),
            ]:
                with pytest.raises(CorruptStoreError) as caught:
                    call()
                assert _names_its_place(caught.value, file_path)
            assert [(problem.kind, problem.key) for problem in store.check().problems] == [("output", DAMAGED)]

    def test_a_store_that_is_only_read_tells_too(
        self, make_either: Make, file_path: pathlib.Path, damaged_store: Callable[[str], None]
    ) -> None:
        damaged_store(DAMAGES["a flipped bit"])
        with make_either(file_path, read_only=True) as store:
            with pytest.raises(CorruptStoreError, match="checksum"):
                store.get(*DAMAGED)
            assert {key: store.get(*key) for key in WHOLE} == WHOLE

    @pytest.mark.parametrize("column", ["node_id", "run"])
    def test_swapped_outputs_are_both_errors(self, make_either: Make, file_path: pathlib.Path, column: str) -> None:
        swapped = [("run", "a"), ("run", "b")] if column == "node_id" else [("run", "a"), ("another run", "a")]
        with make_either(file_path) as store:
            for number, key in enumerate([*swapped, ("run", "c")]):
                store.put(*key, number)
        with plain(file_path) as connection:
            (one, other) = connection.execute(f"SELECT id, {column} FROM node_outputs ORDER BY id LIMIT 2").fetchall()
            for row, value in [(one, "swapping"), (other, one[1]), (one, other[1])]:
                connection.execute(f"UPDATE node_outputs SET {column} = ? WHERE id = ?", (value, row[0]))
        with make_either(file_path) as store:
            for run_id, node in swapped:
                with pytest.raises(CorruptStoreError, match=f"node '{node}' of flow run '{run_id}'"):
                    store.get(run_id, node)
            assert store.get("run", "c") == 2

    def test_bytes_that_were_flipped_in_the_file_itself_are_noticed(
        self, make_either: Make, file_path: pathlib.Path
    ) -> None:
        big = {node: node * 20_000 for node in "abcd"}
        with make_either(file_path) as store:
            store.put_many("run", big)
        raw = bytearray(file_path.read_bytes())
        at = raw.index(b"b" * 4000) + 2000
        raw[at] ^= 1
        file_path.write_bytes(raw)
        with make_either(file_path) as store:
            for node, answer in zip(big, store.get_at_once([("run", node) for node in big]), strict=True):
                if node == "b":
                    assert _names_its_place(answer, file_path)
                else:
                    assert answer == big[node]

    def test_a_page_that_was_wiped_out_is_an_error_for_those_who_need_it(
        self, make_either: Make, file_path: pathlib.Path
    ) -> None:
        big = {node: node * 20_000 for node in "abcd"}
        with make_either(file_path) as store:
            store.put_many("run", big)
        raw = bytearray(file_path.read_bytes())
        # The first of the pages that "b" goes on in: the others are found through it.
        page = raw.index(b"b" * 4000) // 4096
        raw[page * 4096 : page * 4096 + 4096] = b"\xff" * 4096
        file_path.write_bytes(raw)
        with make_either(file_path) as store:
            for node, answer in zip(big, store.get_at_once([("run", node) for node in big]), strict=True):
                if node == "b":
                    assert type(answer) is CorruptStoreError
                    assert "'b'" in str(answer)
                    assert "'run'" in str(answer)
                else:
                    assert answer == big[node]
            with pytest.raises(CorruptStoreError, match=r"node 'b' of flow run 'run'"):
                store.get("run", "b")

    @pytest.mark.parametrize(
        "sql",
        [
            "UPDATE global_values SET value = '8' WHERE key = 'b'",
            "UPDATE global_values SET value = CAST(value AS INTEGER) + 1 WHERE key = 'b'",
            "UPDATE global_values SET codec = 1 WHERE key = 'b'",
            "UPDATE global_values SET codec = NULL WHERE key = 'b'",
            "UPDATE global_values SET checksum = NULL WHERE key = 'b'",
            "UPDATE global_values SET (value, checksum) = (SELECT value, checksum FROM global_values WHERE key = 'a') "
            "WHERE key = 'b'",
            "UPDATE global_values SET size = 0 WHERE key = 'b'",
            "UPDATE global_values SET key = 'b' WHERE key = 'c'",
        ],
    )
    def test_a_damaged_global_is_an_error_that_names_it_until_it_is_overwritten(
        self, make_either: Make, file_path: pathlib.Path, sql: str
    ) -> None:
        with make_either(file_path) as store:
            store.put_global("a", 6)
            store.put_global("c" if "WHERE key = 'c'" in sql else "b", 7)
            store.put("run", "b", 7)
        with plain(file_path) as connection:
            assert connection.execute(sql).rowcount == 1
        with make_either(file_path) as store:
            for _ in range(2):
                with pytest.raises(CorruptStoreError, match="global 'b'") as caught:
                    store.get_global("b", "default")
                assert str(file_path) in str(caught.value)
            for exist_ok in (False, True):
                with pytest.raises(CorruptStoreError, match="global 'b'"):
                    store.put_global("b", 7, exist_ok=exist_ok)
            assert (store.get_global("a"), store.get("run", "b")) == (6, 7)
            assert store.upsert_global("b", 9) == 2
            assert store.get_global("b") == 9

    def test_an_output_is_not_mistaken_for_a_global(self, make: Make, file_path: pathlib.Path) -> None:
        with make(file_path) as store:
            store.put("run", "b", 7)
            store.put_global("b", 8)
        with plain(file_path) as connection:
            connection.execute(
                "UPDATE global_values SET (codec, checksum, size, value) = "
                "(SELECT codec, checksum, size, value FROM node_outputs)"
            )
        with make(file_path) as store, pytest.raises(CorruptStoreError, match="global 'b'"):
            store.get_global("b")
