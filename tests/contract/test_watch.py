"""``watch`` goes on and ends: of all runs or one, by prefix, from a cursor on, up to a node, in commit order."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import random
import zlib
from typing import Any

import pytest

from contextstore import (
    ContextStore,
    DeserializationError,
    InvalidKeyError,
    Output,
    RunDeletedError,
)
from contextstore._core import watching as _watching
from contextstore._engine.cursors import cursor_text, read_cursor
from contextstore._postgres import news as _postgres
from contextstore._sqlite import news as _sqlite

from ..conftest import Target, new_location
from .waiting import Watching, spawn, waiting, watching

pytestmark = pytest.mark.usefixtures("nobody_is_left_waiting")


async def taken(store: Any, count: int, run: str | None = None, **options: Any) -> list[Output]:
    async with watching(store, run, **options) as watch:
        return [await watch.next() for _ in range(count)]


def keys(outputs: list[Output]) -> list[tuple[str, str]]:
    return [(output.flow_run_id, output.node_id) for output in outputs]


class TestTheOrder:
    async def test_all_runs_come_in_the_order_of_the_commits(self, store: Any) -> None:
        written = [("b", "1"), ("a", "9"), ("c", "5"), ("a", "1"), ("b", "0")]
        for run, node in written:
            await store.put(run, node, [run, node])
        outputs = await taken(store, 5)
        assert keys(outputs) == written
        assert [output.value for output in outputs] == [list(key) for key in written]

    async def test_one_commit_comes_by_run_and_node_whatever_the_order_of_its_puts(self, store: Any) -> None:
        await store.put("second", "first of all", 0)
        await store.put_many("first", {"b": 1, "a": 2, "ä": 3, "Z": 4})
        blocking = getattr(store, "plain", None)
        if blocking is not None:
            with blocking.batch() as batch:
                for run, node in [("third", "b"), ("first", "y"), ("third", "a"), ("second", "z"), ("first", "x")]:
                    batch.put(run, node, 1)
        else:
            async with store.batch() as batch:
                for run, node in [("third", "b"), ("first", "y"), ("third", "a"), ("second", "z"), ("first", "x")]:
                    batch.put(run, node, 1)
        assert keys(await taken(store, 10))[1:] == [
            *[("first", node) for node in ("Z", "a", "b", "ä")],
            *[("second", "z"), ("first", "x"), ("first", "y"), ("third", "a"), ("third", "b")],
        ]

    async def test_what_put_many_adds_to_what_is_there_comes_by_node(self, store: Any) -> None:
        await store.put("run", "c", 1)
        await store.put_many("run", {"d": 1, "c": 1, "a": 1, "b": 1}, exist_ok=True)
        assert keys(await taken(store, 4)) == [("run", node) for node in "cabd"]

    async def test_those_of_all_runs_that_come_later_are_told_too(self, store: Any) -> None:
        async with watching(store, None) as watch:
            (first,) = spawn(watch.next())
            await waiting(store)
            for run in ("b", "a"):
                await store.put_many(run, {"2": 1, "1": 1})
            assert [(await first).node_id, *await watch.take(3)] == ["1", "2", "1", "2"]

    @pytest.mark.usefixtures("shared_target")
    async def test_those_of_another_object_are_told_too(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other, watching(one, None, prefix="n") as watch:
            (first,) = spawn(watch.next())
            await waiting(one)
            for number in range(20):
                await other.put(f"run {number % 3}", f"n{number}", number)
                await other.put(f"run {number % 3}", f"m{number}", number)
            assert [(await first).node_id, *await watch.take(19)] == [f"n{number}" for number in range(20)]


class TestWhatIsTold:
    async def test_a_prefix_is_literal_and_that_of_node_ids(self, store: Any) -> None:
        for node in ("a%", "a%b", "ab", "A%", "b", "a%c"):
            await store.put("run", node, 1)
        assert keys(await taken(store, 3, "run", prefix="a%")) == [("run", node) for node in ("a%", "a%b", "a%c")]
        assert keys(await taken(store, 3, prefix="a%")) == [("run", node) for node in ("a%", "a%b", "a%c")]

    async def test_the_value_is_converted_to_the_type(self, store: Any) -> None:
        await store.put("run", "a", [1, 2])
        await store.put("run", "b", "no list")
        async with watching(store, "run", type=tuple[int, ...]) as watch:
            assert (await watch.next()).value == (1, 2)
            with pytest.raises(DeserializationError, match="'b'"):
                await watch.next()

    async def test_only_what_comes_from_watch_has_a_cursor(self, store: Any) -> None:
        await store.put("run", "a", 1)
        (output,) = await taken(store, 1)
        entry = await store.get_entry("run", "a")
        assert entry.cursor is None
        assert isinstance(output.cursor, str)
        assert dataclasses.replace(output, cursor=None) == entry

    async def test_a_run_object_watches_its_run(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": 2, "c": 3})
        run = getattr(store, "plain", store).run("run")
        (first,) = await taken(store, 1, "run")
        made = Watching(store)
        made.iterator = run.watch(after=first.cursor, until="b", prefix="x", type=int)
        assert await made.rest() == ["b"]

    async def test_all_runs_pass_over_what_was_deleted(self, store: Any) -> None:
        for run in ("a", "b", "c"):
            await store.put_many(run, {"1": 1, "2": 2})
        async with watching(store, None) as watch:
            await store.delete_run("b")
            assert keys([await watch.next() for _ in range(4)]) == [(run, node) for run in "ac" for node in "12"]
            await store.put("d", "1", 1)
            assert (await watch.next()).flow_run_id == "d"


class TestCursors:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Everything is read in several parts, and by every way there is."""
        monkeypatch.setattr(_watching, "PAGE_ROWS", 3)
        for engine, names in ((_sqlite, ("_WINDOW_ROWS", "_FAR", "_AHEAD_IDS")), (_postgres, ("_WINDOW_ROWS", "_FAR"))):
            for name in names:
                monkeypatch.setattr(engine, name, 5)

    async def test_each_cursor_leads_to_what_comes_behind_it_and_to_no_more(self, make_store: Target) -> None:
        seed = random.randrange(10**6)
        print("seed", seed)
        chance = random.Random(seed)
        store = make_store()
        await store.open()
        for number in range(25):
            run = chance.choice("abc")
            if chance.random() < 0.5:
                await store.put(run, f"{chance.randrange(100):02}-{number}", number)
            else:
                nodes = {f"{chance.randrange(100):02}-{number}-{i}": i for i in range(chance.randrange(1, 8))}
                await store.put_many(run, nodes)
        await store.put("a", "last", 0)
        await store.put("b", "last", 0)
        count = (await store.stats()).outputs
        everything = await taken(store, count)
        assert len({(output.flow_run_id, output.node_id) for output in everything}) == count
        for run, prefix in [(None, ""), ("a", ""), ("b", "1"), (None, "2"), ("c", "")]:
            expected = [
                output
                for output in everything
                if run in (None, output.flow_run_id) and output.node_id.startswith(prefix)
            ]
            assert keys(await taken(store, len(expected), run, prefix=prefix)) == keys(expected)
            for at in chance.sample(range(count), 6):
                behind = [output for output in everything[at + 1 :] if output in expected]
                found = await taken(store, len(behind), run, prefix=prefix, after=everything[at].cursor)
                assert keys(found) == keys(behind)

    async def test_a_cursor_goes_on_with_what_is_written_after_it(self, store: Any) -> None:
        for number in range(8):
            await store.put("run", f"{number}", number)
        outputs = await taken(store, 8, "run")
        async with watching(store, "run", after=outputs[-1].cursor) as watch:
            (following,) = spawn(watch.take(2))
            await waiting(store)
            await store.put_many("run", {"b": 1, "a": 1})
            assert await following == ["a", "b"]

    @pytest.mark.usefixtures("shared_target")
    async def test_a_cursor_is_good_in_another_object_and_after_a_restart(self, make_store: Target) -> None:
        async with make_store() as one:
            await one.put_many("run", {"a": 1, "b": 2})
            (first, _) = await taken(one, 2)
        async with make_store() as other:
            await other.put("run", "c", 3)
            assert keys(await taken(other, 2, after=first.cursor)) == [("run", "b"), ("run", "c")]

    async def test_an_empty_cursor_means_from_the_beginning(self, store: Any) -> None:
        await store.put("run", "a", 1)
        assert keys(await taken(store, 1, after="")) == [("run", "a")]

    async def test_a_cursor_is_a_plain_text_that_a_url_can_hold(self, store: Any) -> None:
        await store.put("run", "ä/?&=+ ", 1)
        (output,) = await taken(store, 1)
        assert output.cursor is not None
        assert set(output.cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class TestHostileCursors:
    @pytest.fixture
    async def cursor(self, store: Any) -> str:
        await store.put_many("run", {"a": 1, "b": 2})
        (output,) = await taken(store, 1)
        assert output.cursor is not None
        return output.cursor

    async def refused(self, store: Any, cursor: Any, error: type[Exception] = ValueError) -> None:
        for run in (None, "run"):
            watch = Watching(store, run, after=cursor)
            with pytest.raises(error, match=r"^after "):
                await watch.next()

    async def test_a_text_that_is_no_cursor_is_a_value_error_that_names_the_argument(
        self, store: Any, cursor: str
    ) -> None:
        seed = random.randrange(10**6)
        print("seed", seed)
        chance = random.Random(seed)
        hostile = ["0", "a", "\0", "ä", "\ud800", "=", "AAAA", "AAAAAA", "null", "x" * 2**20, "é" * 1000, " " + cursor]
        hostile += ["".join(chance.choices("ABCabc019-_=", k=chance.randrange(1, 60))) for _ in range(10)]
        hostile += [cursor[:-1], cursor[: len(cursor) // 2], cursor[1:], cursor + cursor, cursor + "A"]
        at = chance.randrange(len(cursor))
        hostile.append(cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :])
        for one in hostile:
            await self.refused(store, one)

    async def test_what_is_no_text_is_a_type_error_that_names_the_argument(self, store: Any, cursor: str) -> None:
        for one in (5, b"abc", cursor.encode(), object(), ["a"]):
            await self.refused(store, one, TypeError)

    async def test_a_cursor_that_was_made_by_hand_is_no_place(self, store: Any, cursor: str) -> None:
        history, fields = read_cursor(cursor)
        for made in [
            *[("",), ("9:1:",), ("1:9223372036854775807:",)],
            *[(), (-1,), (2**62,), ("1",), (1, 2), (0, 0, 0, 0, 0), ("", "", 0, 0, ""), ("", "1:1:", -1, 0, "")],
            *[
                ("", "9:1:", 0, 0, ""),
                ("", "1:9:20", 0, 0, ""),
                ("2:1:", "1:1:", 0, 0, "a"),
                ("", "1:1:", 0, 2**63, ""),
            ],
            *[("", "1:9223372036854775807:", 0, 0, ""), ("5:9:7", "1:1:", 0, 0, ""), ("", "1:1:,", 0, 0, "\0")],
        ]:
            await self.refused(store, cursor_text(history, made))
        await self.refused(store, cursor_text("another", fields))
        await self.refused(store, cursor_text("", ()))
        for content in (
            b"[]",
            b"5",
            b"{}",
            b"[1]",
            b'["a", null]',
            b'["a", 1.5]',
            b'["a", [1]]',
            b"[" * 10**5,
            b"\xff",
        ):
            checksum = zlib.crc32(content).to_bytes(4)
            await self.refused(store, base64.urlsafe_b64encode(checksum + content).rstrip(b"=").decode())

    async def test_a_cursor_of_another_store_is_refused(
        self, store: Any, cursor: str, request: pytest.FixtureRequest
    ) -> None:
        for engine in ("memory", "postgres"):
            location = new_location(engine, request)
            with ContextStore(location) as other:
                other.put("run", "a", 1)
                with contextlib.closing(other.watch()) as outputs:
                    await self.refused(store, next(outputs).cursor)
                with pytest.raises(ValueError, match=r"^after "):
                    next(other.watch("run", after=cursor))


class TestUntil:
    async def test_it_ends_the_iteration_with_that_output(self, store: Any) -> None:
        for node in "bcad":
            await store.put("run", node, 1)
        assert await Watching(store, until="a").rest() == ["b", "c", "a"]

    async def test_it_is_waited_for(self, store: Any) -> None:
        (task,) = spawn(Watching(store, until="end").rest())
        await waiting(store)
        for node in ("x", "end", "y"):
            await store.put("run", node, 1)
        assert await task == ["x", "end"]

    async def test_it_is_given_though_it_has_not_the_prefix(self, store: Any) -> None:
        for node in ("n1", "x", "n2", "end", "n3"):
            await store.put("run", node, 1)
        assert await Watching(store, prefix="n", until="end").rest() == ["n1", "n2", "end"]
        assert await Watching(store, prefix="n", until="n2").rest() == ["n1", "n2"]

    async def test_what_lies_at_the_cursor_or_before_it_ends_the_iteration_at_once(self, store: Any) -> None:
        for node in "abc":
            await store.put("run", node, 1)
        outputs = await taken(store, 3, "run")
        assert await Watching(store, until="b", after=outputs[0].cursor).rest() == ["b"]
        assert await Watching(store, until="b", after=outputs[1].cursor).rest() == []
        assert await Watching(store, until="b", after=outputs[2].cursor).rest() == []
        assert await Watching(store, until="b", prefix="x", after=outputs[1].cursor).rest() == []

    async def test_without_a_run_it_is_a_value_error(self, store: Any) -> None:
        with pytest.raises(ValueError, match="until"):
            await Watching(store, None, until="a").next()

    @pytest.mark.parametrize("options", [{"until": ""}, {"until": 5}, {"prefix": "\0"}, {"prefix": 5}])
    @pytest.mark.each_input_once
    async def test_what_can_be_no_id_is_refused(self, store: Any, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidKeyError, match=next(iter(options))):
            await Watching(store, **options).next()

    async def test_a_deleted_run_is_told_before_it_ends(self, store: Any) -> None:
        await store.put("run", "a", 1)
        (output,) = await taken(store, 1)
        await store.delete_run("run")
        for options in ({"until": "a"}, {"until": "a", "after": output.cursor}):
            with pytest.raises(RunDeletedError):
                await Watching(store, **options).next()


class TestTwoLives:
    async def test_a_watch_ends_when_its_id_has_another_life(self, store: Any) -> None:
        await store.put("run", "a", 1)
        watch, of_all = Watching(store), Watching(store, None)
        assert await watch.take(1) == await of_all.take(1) == ["a"]
        await store.delete_run("run")
        await store.prune(older_than=datetime.timedelta(microseconds=1))
        await store.put("run", "b", 2)
        with pytest.raises(RunDeletedError):
            await watch.next()
        assert await of_all.take(1) == ["b"]
        await of_all.close()
        async with watching(store) as anew:
            assert await anew.take(1) == ["b"]
