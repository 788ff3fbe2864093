"""The exchange format: exact, readable by the page alone, and what is wrong in it is named by its line."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from typing import Any

import pytest

from contextstore import ContextStore, export_records, import_records
from contextstore.cli.ndjson import VERSION, ExchangeError, Reader

from .exports import (
    MANIFEST,
    PAGE,
    TIME,
    export_of,
    lines_of,
    read_all,
    reader_of_the_page,
    signed,
    small_export,
    whole,
)

RUN = {"type": "run", "flow_run_id": "run", "created_at": TIME}
OUTPUT = {"type": "output", "flow_run_id": "run", "node_id": "node", "written_at": TIME}
GLOBAL = {"type": "global", "key": "key", "version": 1, "written_at": TIME}

EXACT = [
    *(None, True, False, 0, -0.0, 1, 1.0, 2**63 - 1, -(2**63), 2**64 - 1, 1e308, 5e-324, 0.1 + 0.2, 1e16, 1.5e-7),
    *("", "é", "\u2028\u2029\x85", "\x00\x1f\x7f", "\U0001f600", "a\nb\r\nc", '"\\/', "\ufeff"),
    *([], {}, {"b": 1, "a": 2, "": 3}, [[[]]], {"type": "end"}, [1, [2.0, {"z": None}]]),
    *(b"", b"\x00", b"\n", bytes(range(256)), b'{"a":1}'),
]

HOSTILE = ["a\nb", "\u2028", '","sum":"0123456789abcdef"}', "\x1b[2J", "\x7f", "\\", '"', "é" * 250, " ", "{}", "\r"]


def refused(data: bytes) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        read_all(data)
    return caught.value


class TestExactness:
    def test_every_value_comes_back_to_the_byte(self) -> None:
        with ContextStore(":memory:") as one, ContextStore(":memory:") as other:
            for number, value in enumerate(EXACT):
                one.put("run", f"{number:03}", value)
                one.upsert_global(f"{number:03}", value)
            import_records(other, read_all(export_of(one)))
            assert list(export_records(other)) == list(export_records(one))
            assert [json.dumps(v) if not isinstance(v, bytes) else v for v in other.get_run("run").values()] == [
                json.dumps(v) if not isinstance(v, bytes) else v for v in EXACT
            ]

    def test_names_that_look_like_the_format_are_data(self) -> None:
        with ContextStore(":memory:") as one, ContextStore(":memory:") as other:
            for name in HOSTILE:
                one.put(name, name, name)
                one.upsert_global(name, name)
            one.upsert_global("", 1)
            import_records(other, read_all(export_of(one)))
            assert list(export_records(other)) == list(export_records(one))

    def test_an_empty_store_is_a_whole_export(self) -> None:
        with ContextStore(":memory:") as store:
            data = export_of(store)
        assert len(lines_of(data)) == 2
        assert read_all(data) == []

    def test_equal_stores_have_equal_digests(self) -> None:
        with ContextStore(":memory:") as one, ContextStore(":memory:") as other:
            one.put("run", "node", 1)
            import_records(other, export_records(one))
            first, second = (json.loads(lines_of(export_of(store))[-1]) for store in (one, other))
            assert first["sha256"] == second["sha256"]
            other.put("run", "node 2", 1)
            assert json.loads(lines_of(export_of(other))[-1])["sha256"] != first["sha256"]


class TestThePage:
    def test_its_program_reads_an_export_and_reckons_the_digests(self) -> None:
        with ContextStore(":memory:") as store:
            for number, value in enumerate(EXACT):
                store.put("run", f"{number:03}", value)
            manifest, run, *outputs, end = reader_of_the_page()(io.BytesIO(export_of(store)))
            assert (manifest["type"], run["flow_run_id"], end["type"]) == ("manifest", "run", "end")
            assert (end["runs"], end["outputs"], end["bytes"]) == (1, len(EXACT), store.stats().value_bytes)
            found = [base64.b64decode(one["base64"]) if "base64" in one else one["value"] for one in outputs]
            assert list(map(repr, found)) == list(map(repr, EXACT))

    def test_its_program_refuses_what_this_one_refuses(self) -> None:
        data, read = small_export(), reader_of_the_page()
        assert list(read(io.BytesIO(data)))
        for broken in (data[:-30], b"".join(lines_of(data)[:-1]), data.replace(b"value", b"Value", 1)):
            with pytest.raises(ValueError, match=r"cut off|line \d"):
                list(read(io.BytesIO(broken)))

    def test_its_example_has_every_type_and_no_member_that_there_is_not(self) -> None:
        (block,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
        shown = {json.loads(line)["type"]: list(json.loads(line)) for line in block.splitlines()}
        written = {json.loads(line)["type"]: list(json.loads(line)) for line in lines_of(small_export())}
        assert shown.keys() == written.keys()
        for kind in ("manifest", "end"):
            assert shown[kind] == written[kind]
        assert read_all(small_export())

    def test_what_another_program_writes_by_it_is_read(self) -> None:
        data = whole(
            RUN,
            '{ "type" : "output", "flow_run_id":"run", "written_at":"2026-03-01T05:00:00Z", "node_id":"\\u006e",'
            ' "value" : [ 1.50 , "\\u00e9" ] }',
            {**OUTPUT, "node_id": "o", "base64": "AP8="},
            {**RUN, "flow_run_id": "gone", "deleted_at": TIME},
            {**GLOBAL, "key": "", "deleted": True, "version": 4},
            {**GLOBAL, "value": None},
            runs=1,
            outputs=2,
            tombstones=1,
            globals=1,
            bytes=len(' [ 1.50 , "\\u00e9" ]') - 1 + 2 + 4,
        )
        with ContextStore(":memory:") as store:
            import_records(store, read_all(data))
            assert store.get_run("run") == {"n": [1.5, "é"], "o": b"\x00\xff"}
            assert store.get_global("key", "nothing") is None
            assert store.upsert_global("", 1) == 5
            assert store.stats().tombstones == 1


class TestBreakage:
    """A small export has a line of each kind; whatever is done to it is found, and found where it is."""

    def test_wherever_it_is_cut_that_line_is_named(self) -> None:
        data = small_export()
        for length in range(1, len(data)):
            error = refused(data[:length])
            assert error.line == data[:length].count(b"\n") + 1
            assert error.is_cut is (error.line > 1), length

    def test_nothing_at_all_is_no_export(self) -> None:
        error = refused(b"")
        assert (error.line, error.is_cut) == (1, False)

    def test_whichever_bit_is_flipped_its_line_is_named(self) -> None:
        data = small_export()
        seed = random.randrange(2**32)
        print("seed", seed)
        chance = random.Random(seed)
        for place in range(len(data)):
            broken = bytearray(data)
            broken[place] ^= 1 << chance.randrange(8)
            assert refused(bytes(broken)).line == data[:place].count(b"\n") + 1, (place, broken[place])

    def test_a_line_that_is_missing_is_named_by_the_one_that_stands_in_its_place(self) -> None:
        lines = lines_of(small_export())
        for number in range(len(lines)):
            assert refused(b"".join([*lines[:number], *lines[number + 1 :]])).line == number + 1

    def test_a_line_that_is_doubled_is_named(self) -> None:
        lines = lines_of(small_export())
        for number in range(len(lines)):
            assert refused(b"".join([*lines[: number + 1], *lines[number:]])).line == number + 2

    def test_the_first_line_that_is_in_another_place_is_named(self) -> None:
        lines = lines_of(small_export())
        for number in range(len(lines) - 1):
            swapped = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
            assert refused(b"".join(swapped)).line == number + 1

    def test_one_behind_the_other_is_named_where_the_second_begins(self) -> None:
        data = small_export()
        error = refused(data + data)
        assert error.line == len(lines_of(data)) + 1
        assert "by itself" in error.problem

    @pytest.mark.parametrize("change", [(b"\n", b"\r\n"), (b"value", b"value "), (b'{"type', b' {"type')], ids=repr)
    def test_what_an_editor_does_to_it_is_named(self, change: tuple[bytes, bytes]) -> None:
        assert refused(small_export().replace(*change)).line >= 1

    def test_no_line_before_the_broken_one_is_lost_and_none_behind_it_is_given(self) -> None:
        lines = lines_of(small_export())
        reader = iter(Reader(io.BytesIO(b"".join([*lines[:3], lines[3][:-4] + b'x"}\n', *lines[4:]]))))
        given = [next(reader), next(reader)]
        with pytest.raises(ExchangeError, match="line 4"):
            next(reader)
        assert given == read_all(b"".join(lines))[:2]


class TestWhatIsNoLine:
    """Sums that are right do not make a line right."""

    @pytest.mark.parametrize(
        "line",
        [
            {**OUTPUT},
            {**OUTPUT, "value": 1, "base64": "AA=="},
            {**OUTPUT, "base64": "A"},
            {**OUTPUT, "base64": "AA==\n"},
            {**OUTPUT, "base64": 1},
            {**OUTPUT, "value": 1, "more": "text/plain"},
            {**OUTPUT, "value": 1, "tag": 1},
            {**OUTPUT, "value": 1, "deleted": True},
            {**OUTPUT, "tag": "text/plain", "deleted": True},
            {**OUTPUT, "value": 1, "written_at": "yesterday"},
            {**OUTPUT, "value": 1, "written_at": "2026-03-01T05:00:00"},
            {**OUTPUT, "value": 1, "node_id": None},
            {**GLOBAL, "deleted": True, "value": 1},
            {**GLOBAL, "version": "1", "value": 1},
            {**GLOBAL},
            {**RUN, "type": "attempt"},
            {"flow_run_id": "run"},
            {**MANIFEST},
            "[1}",
        ],
        ids=lambda line: json.dumps(line)[:80],
    )
    def test_it_is_named(self, line: Any) -> None:
        assert refused(whole(RUN, line)).line == 3

    @pytest.mark.parametrize(
        "counts", [{"outputs": 2}, {"runs": 0}, {"globals": 1}, {"tombstones": 1}, {"bytes": 7}, {"sha256": "0" * 64}]
    )
    def test_counts_that_are_not_those_of_the_lines_are_named(self, counts: dict[str, Any]) -> None:
        right = {"runs": 1, "outputs": 1, "bytes": 1}
        value = {**OUTPUT, "value": 1}
        assert read_all(whole(RUN, value, **right))
        error = refused(whole(RUN, value, **{**right, **counts}))
        assert error.line == 4
        assert next(iter(counts)) in error.problem

    @pytest.mark.parametrize(
        "first", [b"\n", b"SQLite format 3\0\n", b"{}\n", b"[]\n", b"null\n", signed({**MANIFEST, "format": "other"})]
    )
    def test_what_is_no_export_is_said_to_be_none(self, first: bytes) -> None:
        error = refused(first + small_export())
        assert (error.line, error.problem) == (1, "this is no export of a store: it does not begin with a manifest")

    def test_one_of_a_later_version_is_said_to_be_that(self) -> None:
        error = refused(signed({**MANIFEST, "version": VERSION + 1, "more": 1}))
        assert error.line == 1
        assert f"version {VERSION + 1}" in error.problem

    def test_a_stream_without_line_feeds_is_given_up_early(self) -> None:
        class Endless:
            read = 0

            def readline(self, size: int) -> bytes:
                self.read += size
                return b"\0" * size

        source = Endless()
        with pytest.raises(ExchangeError, match="longer"):
            Reader(source)
        assert source.read < 2**25
