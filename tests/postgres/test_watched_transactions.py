"""What is watched on a server: no open transaction holds anybody up, none is overtaken, and a dump is told once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from contextstore import AsyncContextStore, IncompatibleStoreError, Output, StorageError
from contextstore._postgres import adoption, opening
from contextstore._postgres import news as _news
from contextstore._values.codec import JSON, Encoded, checksum

from ..support.doubles import core_of
from ..support.servers import Server, running_server

TOLD = 30.0  # a guard against hangs, not a measure
ONE = Encoded(JSON, b"1")


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url.partition("?")[0])
    try:
        yield connection
    finally:
        await connection.close()


async def write_plainly(connection: Any, schema: str, run: str, node: str) -> None:
    """As a put does, in the transaction that the connection is in."""
    await connection.execute(
        f"""
        INSERT INTO {schema}.node_outputs (run, node_id, codec, checksum, written_at, size, writer, value)
        SELECT serial, $2, 0, $3, 1, 1, gen_random_uuid(), $4 FROM {schema}.flow_runs WHERE flow_run_id = $1
        """,
        run,
        node,
        checksum(run, node, ONE),
        ONE.data,
    )


class Told:
    """What a watch gives, taken one after the other."""

    def __init__(self, outputs: Any) -> None:
        self.outputs = outputs

    async def take(self, count: int) -> list[Output]:
        async with asyncio.timeout(TOLD):
            return [await anext(self.outputs) for _ in range(count)]

    async def nodes(self, count: int) -> list[str]:
        return [output.node_id for output in await self.take(count)]


@contextlib.asynccontextmanager
async def watch(store: AsyncContextStore, *args: Any, **options: Any) -> AsyncIterator[Told]:
    async with contextlib.aclosing(store.watch(*args, **options)) as outputs:
        yield Told(outputs)


@pytest.fixture
async def store(url: str) -> AsyncIterator[AsyncContextStore]:
    async with AsyncContextStore(url) as opened:
        await opened.put_many("run", {"a": 1, "b": 1})
        yield opened


class TestOpenTransactions:
    @pytest.mark.parametrize("run", ["run", None])
    async def test_a_writer_held_open_holds_nobody_up_and_is_told_at_each_cursor_of_meanwhile(
        self, store: AsyncContextStore, url: str, schema: str, run: str | None
    ) -> None:
        async with connected(url) as writer:
            await writer.execute("BEGIN")
            await write_plainly(writer, schema, "run", "held")
            async with watch(store, run) as told:
                outputs = await told.take(2)
                for number in range(100):
                    await store.put("run", f"{number:03}", number)
                    outputs += await told.take(1)
                assert [output.node_id for output in outputs] == ["a", "b", *(f"{n:03}" for n in range(100))]
                await writer.execute("COMMIT")
                await store.put("run", "last", 1)
                assert sorted(await told.nodes(2)) == ["held", "last"]
        for number, output in enumerate(outputs):
            async with watch(store, run, after=output.cursor) as told:
                behind = [one.node_id for one in outputs[number + 1 :]]
                assert sorted(await told.nodes(len(behind) + 2)) == sorted([*behind, "held", "last"])

    @pytest.mark.parametrize("run", ["run", None])
    async def test_one_that_commits_behind_the_cursor_of_now_is_told_whenever_it_began(
        self, store: AsyncContextStore, url: str, schema: str, run: str | None
    ) -> None:
        async with connected(url) as writer:
            await writer.execute("BEGIN")
            await write_plainly(writer, schema, "run", "held")
            await store.put("run", "before", 1)
            cursor, of_runs = await store.cursor(), await store.cursor("runs")
            await store.put("run", "after", 1)
            await writer.execute("COMMIT")
        async with watch(store, run, after=cursor) as told:
            assert await told.nodes(2) == ["held", "after"]
        async with contextlib.aclosing(store.watch_runs(after=of_runs)) as runs, asyncio.timeout(TOLD):
            assert (await anext(runs)).outputs == 5

    async def test_what_was_changed_in_one_that_commits_behind_the_cursor_of_runs_is_told(
        self, store: AsyncContextStore, url: str, schema: str
    ) -> None:
        await store.run("held").begin()
        async with connected(url) as writer:
            await writer.execute("BEGIN")
            await write_plainly(writer, schema, "held", "late")
            await store.run("other").begin()
            cursor = await store.cursor("runs")
            async with contextlib.aclosing(store.watch_runs(after=cursor)) as runs, asyncio.timeout(TOLD):
                first = asyncio.ensure_future(anext(runs))
                await store.run("after").begin()
                assert (await first).flow_run_id == "after"
                await writer.execute("COMMIT")
                told = await anext(runs)
                assert (told.flow_run_id, told.outputs) == ("held", 1)

    async def test_one_that_is_undone_is_never_told(self, store: AsyncContextStore, url: str, schema: str) -> None:
        async with connected(url) as writer, watch(store) as told:
            await told.take(2)
            await writer.execute("BEGIN")
            await write_plainly(writer, schema, "run", "undone")
            await store.put("run", "c", 1)
            assert await told.nodes(1) == ["c"]
            await writer.execute("ROLLBACK")
            await store.put("run", "d", 1)
            assert await told.nodes(1) == ["d"]

    @pytest.mark.parametrize("run", ["run", None])
    async def test_one_in_another_database_of_the_server_holds_nobody_up(
        self, store: AsyncContextStore, url: str, postgres: Server, schema: str, run: str | None
    ) -> None:
        async with connected(url) as owner:
            await owner.execute(f"CREATE DATABASE other_{schema}")
        foreign = f"postgresql://postgres@127.0.0.1:{postgres.port}/other_{schema}"
        async with connected(foreign) as other:
            await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await other.execute("CREATE TABLE thing (id int)")  # so that it has an id
            async with AsyncContextStore(url) as writer, watch(store, run) as told:
                outputs = await told.take(2)
                for number in range(20):
                    await writer.put("run", f"{number:02}", number)
                    outputs += await told.take(1)
            assert len({output.node_id for output in outputs}) == 22
            async with watch(store, run, after=outputs[10].cursor) as told:
                assert await told.nodes(11) == [output.node_id for output in outputs[11:]]
        async with connected(url) as owner:
            await owner.execute(f"DROP DATABASE other_{schema}")

    async def test_a_long_look_is_cut_into_parts_and_what_is_committed_meanwhile_comes_after_it(
        self, store: AsyncContextStore, url: str, schema: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_news, "_WINDOW_ROWS", 4)
        async with connected(url) as writer, watch(store) as told:
            (_, last) = await told.take(2)
            await writer.execute("BEGIN")
            for number in range(10):
                await write_plainly(writer, schema, "run", f"held {number}")
            await store.put_many("run", {f"c{number}": 1 for number in range(9)})
            await told.take(9)
            await writer.execute("COMMIT")
            await store.put_many("run", {f"d{number}": 1 for number in range(9)})
            assert await told.nodes(1) == ["held 0"]
            await store.put("run", "meanwhile", 1)
            expected = [*(f"held {n}" for n in range(1, 10)), *(f"d{n}" for n in range(9)), "meanwhile"]
            assert await told.nodes(19) == expected
        async with watch(store, after=last.cursor) as told:  # whose snapshot has the transaction as open, or unseen
            assert len(set(await told.nodes(29))) == 29

    async def test_a_mark_of_a_deleted_output_is_not_told(
        self, store: AsyncContextStore, url: str, schema: str
    ) -> None:
        async with connected(url) as writer:
            await writer.execute(
                f"UPDATE {schema}.node_outputs SET codec = -1, value = '', size = 0 WHERE node_id = 'a'"
            )
        async with watch(store) as told:
            assert await told.nodes(1) == ["b"]

    async def test_rows_of_before_that_name_no_transaction_come_first(
        self, store: AsyncContextStore, url: str, schema: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_news, "_WINDOW_ROWS", 3)
        await store.put_many("other", {f"{number}": 1 for number in range(4)})
        await store.put_many("run", {"c": 1, "d": 1})
        async with connected(url) as writer:
            await writer.execute(f"UPDATE {schema}.node_outputs SET xact = NULL WHERE node_id IN ('1', '2', 'c')")
        for run, nodes in ((None, ["c", "1", "2", "a", "b", "0", "3", "d"]), ("run", ["c", "a", "b", "d"])):
            async with watch(store, run) as told:
                outputs = await told.take(len(nodes))
                assert [output.node_id for output in outputs] == nodes
            for number, output in enumerate(outputs):
                async with watch(store, run, after=output.cursor) as told:
                    assert await told.nodes(len(nodes) - number - 1) == nodes[number + 1 :]


class TestPlans:
    async def test_news_are_found_by_their_transactions(self, store: AsyncContextStore, url: str, schema: str) -> None:
        statements = core_of(store)._session.engine._statements  # type: ignore[attr-defined]
        async with connected(url) as connection:
            arguments = ["0", 0, "", 1, "", "z", None, 10, "1:9:", "5"]
            shown = await _plan(connection, statements.rows_of_new, arguments)
            assert "written_outputs" in shown
            assert "node_outputs_pkey" not in shown
            assert "written_outputs" in await _plan(connection, statements.rows_of_late, [*arguments[:-1], ["5", "6"]])
            assert "Seq Scan on node_outputs" not in await _plan(
                connection, statements.rows_of_run, [*arguments[:-1], None]
            )
            assert "written_outputs" in await _plan(connection, statements.runs_with_news, [["5"], "9"])


async def _plan(connection: Any, statement: str, arguments: list[Any]) -> str:
    await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
    rows = await connection.fetch("EXPLAIN " + statement, *arguments)
    return "\n".join(line for (line,) in rows)


def _pg_dump(server: Server, schema: str, program: str, *arguments: str) -> bytes:
    options = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", *arguments, "postgres"]
    done = subprocess.run([server.binaries / program, *options], capture_output=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def fresh() -> Iterator[Server]:
    with running_server(autovacuum="off") as server:
        yield server


_names = itertools.count(1)


class TestADump:
    """Read into a server that has counted fewer transactions, or more."""

    @pytest.fixture
    async def dumped(
        self, store: AsyncContextStore, postgres: Server, fresh: Server, schema: str, tmp_path: Any
    ) -> tuple[str, str]:
        """The URL on the other server, and a cursor of before."""
        for number in range(30):
            await store.put("later", f"{number:02}", number)
        async with watch(store) as told:
            cursor = (await told.take(32))[-1].cursor
        assert cursor is not None
        text = _pg_dump(postgres, schema, "pg_dump", "-n", schema)
        file = tmp_path / "dump.sql"
        file.write_bytes(text)
        _pg_dump(fresh, schema, "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file))
        return fresh.url(schema=schema), cursor

    async def test_it_is_told_once_and_what_is_written_then_too(
        self, dumped: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adoption, "_ROWS", 7)
        url, _ = dumped
        stores = [AsyncContextStore(url) for _ in range(3)]
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(one) for one in stores))
            await self._tell_all_once(stores)

    async def _tell_all_once(self, stores: list[AsyncContextStore]) -> None:
        for run, count in ((None, 32), ("later", 30 + 40)):
            async with watch(stores[0], run) as told:
                assert len(set(await told.nodes(count))) == count
                for number in range(40):
                    await stores[number % 3].put("later", f"new {number} {run}", number)
                    assert await told.nodes(1) == [f"new {number} {run}"]

    async def test_a_cursor_of_before_is_refused(self, dumped: tuple[str, str]) -> None:
        url, cursor = dumped
        async with AsyncContextStore(url) as store:
            with pytest.raises(ValueError, match="after"):
                await anext(store.watch(after=cursor))

    async def test_it_is_not_watched_before_it_was_opened_for_writing(self, dumped: tuple[str, str]) -> None:
        url, _ = dumped
        async with AsyncContextStore(url, read_only=True) as reader:
            with pytest.raises(StorageError, match="dump"):
                await anext(reader.watch())
            assert await reader.get("later", "00") == 0
            async with AsyncContextStore(url), watch(reader) as told:
                assert len(set(await told.nodes(32))) == 32

    async def test_an_adoption_that_was_cut_off_is_finished_by_the_next_opening(
        self, dumped: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adoption, "_ROWS", 5)
        url, _ = dumped
        is_done = adoption.Adoption._is_done
        steps = itertools.count(1)

        async def fail_at_the_third(self: Any, *args: Any) -> bool:
            if next(steps) == 3:
                raise StorageError("cut off")
            return await is_done(self, *args)

        monkeypatch.setattr(adoption.Adoption, "_is_done", fail_at_the_third)
        with pytest.raises(StorageError, match="cut off"):
            await AsyncContextStore(url).open()
        async with AsyncContextStore(url) as store, watch(store) as told:
            assert len(set(await told.nodes(32))) == 32


async def test_a_cursor_from_beyond_the_present_is_refused(store: AsyncContextStore) -> None:
    from contextstore._engine.cursors import cursor_text, read_cursor

    async with watch(store) as told:
        (output, _) = await told.take(2)
    assert output.cursor is not None
    history, (last, _, *key) = read_cursor(output.cursor)
    far = cursor_text(history, (last, "999999:999999:", *key))
    with pytest.raises(ValueError, match="after"):
        await anext(store.watch(after=far))


async def test_an_earlier_server_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_LEAST_SERVER", 99)
    with pytest.raises(IncompatibleStoreError, match="PostgreSQL 99 or newer"):
        await AsyncContextStore(url).open()
