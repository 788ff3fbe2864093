"""What reads for long keeps no get waiting, and what is rare is found without a look at everything."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from contextstore import AsyncContextStore, ContextStore, StorageError, copy
from contextstore._core import parts as _parts
from contextstore._core import run_listing
from contextstore._engine.run_query import RunIndex, RunQuery
from contextstore._postgres import reads as _postgres_reads
from contextstore._postgres.run_listing_statements import ListingText
from contextstore._postgres.statements import statements_for
from contextstore._process import pacing as _breath
from contextstore._process.pacing import Pacer, paced
from contextstore._sqlite import parts as _sqlite_parts
from contextstore._sqlite import worker as _worker
from contextstore._waiting.threads import run_now

from ..conftest import Awaited, Target
from ..contract.runs import runs_of
from ..contract.test_batch import begun
from ..contract.test_runs import TestTheWorkOfAPage
from ..support.doubles import core_of, until
from ..support.nodes import execute
from ..support.servers import Server

SCANS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "stats": ("count", lambda store: store.stats()),
    "list_runs": ("list_runs", lambda store: store.list_runs()),
    "list_keys of many": ("list_node_ids", lambda store: store.list_keys("run")),
    "prune": ("page_idle_runs", lambda store: store.prune(older_than=datetime.timedelta(1))),
    "prune, its tombstones": ("page_unfinished_deletions", lambda store: store.prune(older_than=datetime.timedelta(1))),
    "prune, dry": ("count_tombstones", lambda store: store.prune(older_than=datetime.timedelta(1), dry_run=True)),
    "copy": ("page_run_rows", lambda store: page_of_a_copy(store)),
}


async def read_a_page(core: Any) -> None:
    await core._session.ready()
    await core._session.scan(core._session.engine.page_run_rows, 0, 9)


async def page_of_a_copy(store: Any) -> None:
    core = core_of(store)
    page = read_a_page(core)
    if isinstance(store, Awaited):
        await asyncio.to_thread(run_now, page)
    else:
        await page


def connections() -> int:
    return sum("_connection_worker_thread" in thread.name for thread in threading.enumerate())


class TestAGetBesideAScan:
    @pytest.mark.parametrize("what", SCANS)
    @pytest.mark.usefixtures("shared_target")
    async def test_it_is_answered_meanwhile(
        self, make_store: Target, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        monkeypatch.setattr(_parts, "_LIST_KEYS", 2)
        call, scan = SCANS[what]
        async with make_store(cache_bytes=0) as store:
            await store.put_many("run", {"a": 1, "b": 2, "c": 3})
            engine: Any = core_of(store)._session.engine
            original = getattr(engine, call)
            begun, go_on = threading.Event(), threading.Event()

            async def held(*args: Any) -> Any:
                begun.set()
                if make_store.engine == "postgres":  # which runs it on its loop
                    await asyncio.to_thread(go_on.wait, 60)
                else:
                    go_on.wait(60)
                return await original(*args)

            setattr(engine, call, held)
            scanning = asyncio.ensure_future(scan(store))
            try:
                await until(begun.is_set)
                for node in ("a", "b", "c") * 5:
                    async with asyncio.timeout(30):
                        assert await store.get("run", node) is not None
                assert await store.exists("run", "a")
                assert not scanning.done()
            finally:
                go_on.set()
            await scanning

    async def test_on_a_server_scans_leave_a_connection_to_it(self, postgres: Server, url: str, schema: str) -> None:
        async with AsyncContextStore(url, cache_bytes=0) as store:
            await store.put("run", "a", 1)
            connection = await asyncpg.connect(postgres.url())
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {schema}.global_values IN ACCESS EXCLUSIVE MODE")
                scans = [asyncio.ensure_future(store.stats()) for _ in range(10)]
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass"
                while not await connection.fetchval(waiting, f"{schema}.global_values"):
                    await asyncio.sleep(0.01)
                async with asyncio.timeout(10):
                    for _ in range(5):
                        assert await store.get("run", "a") == 1
                assert not any(scan.done() for scan in scans)
            await connection.close()
            assert {(await scan).outputs for scan in scans} == {1}


class TestTheConnectionOfScans:
    def test_it_is_there_from_the_first_scan_to_the_close(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
            assert store.get("run", "a") == 1
            assert store.list_keys("run") == ["a"]
            before = connections()
            assert [info.flow_run_id for info in store.list_runs()] == ["run"]
            assert connections() == before + 1
            assert store.stats().outputs == 1
            assert connections() == before + 1
        assert connections() == 0

    def test_one_store_that_is_only_read_has_it_too(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
        with ContextStore(file_path, read_only=True) as store:
            assert store.stats().outputs == 1
            assert connections() == 2
        assert connections() == 0

    def test_scans_that_come_while_it_opens_are_all_answered(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
            counts: list[int] = []
            threads = [threading.Thread(target=lambda: counts.append(store.stats().outputs)) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert counts == [1] * 20

    def test_where_none_can_be_had_scans_are_made_beside_the_other_reads(
        self, file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)

            async def refuse(*_: Any) -> None:
                raise StorageError("there is no thread left")

            with monkeypatch.context() as patch:
                patch.setattr(_worker.ConnectionWorker, "open", refuse)
                assert store.stats().outputs == 1
                assert store.list_runs()[0].outputs == 1
            before = connections()
            assert store.stats().outputs == 1
            assert connections() == before + 1

    def test_a_file_that_is_gone_is_told_by_scans_as_by_gets(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
            file_path.unlink()
            for _ in range(2):
                with pytest.raises(StorageError, match="deleted"):
                    store.stats()

    @pytest.mark.parametrize("scans", [0, 1, 7])
    def test_a_close_right_behind_the_first_scans_answers_them(self, file_path: pathlib.Path, scans: int) -> None:
        for _ in range(5):
            store = AsyncContextStore(file_path)

            async def use() -> list[Any]:
                await store.open()  # noqa: B023 - run at once
                asked = [asyncio.ensure_future(store.stats()) for _ in range(scans)]  # noqa: B023 - run at once
                await asyncio.sleep(0)
                await store.close()  # noqa: B023 - run at once
                return await asyncio.gather(*asked, return_exceptions=True)

            answers = asyncio.run(use())
            assert len(answers) == scans
            assert connections() == 0


class TestLongLists:
    @pytest.fixture(autouse=True)
    def short_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_parts, "_LIST_KEYS", 50)
        for module in (_sqlite_parts, _postgres_reads):
            monkeypatch.setattr(module, "_NODE_IDS", 50)

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("count", [49, 50, 51, 99, 100, 101, 1234])
    async def test_they_have_every_id_once_and_in_order(self, store: Any, count: int) -> None:
        nodes = [f"{number:05}" for number in range(count)]
        await store.put_many("run", dict.fromkeys(random.sample(nodes, count), 1))
        await store.put("other", "node", 1)
        assert await store.list_keys("run") == nodes
        assert await store.list_keys("run", prefix="000") == [node for node in nodes if node.startswith("000")]

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("prefix", ["%", "_", "a", "\U0010ffff", "\U0010ffff\U0010ffff", "é", "\ud7ff", ""])
    async def test_a_prefix_is_literal_and_ends_where_its_ids_end(self, store: Any, prefix: str) -> None:
        tails = ["", "%", "_", "\x01", "\U0010ffff", "\ue000", *(f"{number:03}" for number in range(120))]
        heads = {prefix, "%", "_", "a", "b", "\U0010ffff", "\ue000", "z"}
        nodes = sorted({head + tail for head in heads for tail in tails} - {""})
        await store.put_many("run", dict.fromkeys(nodes, 1))
        expected = [node for node in nodes if node.startswith(prefix)]
        assert len(expected) > 100
        assert await store.list_keys("run", prefix=prefix) == expected

    async def test_they_are_of_one_moment_whatever_is_written_meanwhile(self, store: Any) -> None:
        nodes = [f"{number:05}" for number in random.sample(range(10**5), 900)]
        await store.put_many("run", dict.fromkeys(nodes[:300], 1))
        written = asyncio.ensure_future(self.write(store, nodes[300:]))
        lists = []
        while not written.done():
            lists.append(await store.list_keys("run"))
        await written
        assert len(set(map(len, lists))) > 1
        for names in lists:
            assert names == sorted(nodes[: len(names)])

    @staticmethod
    async def write(store: Any, nodes: list[str]) -> None:
        for node in nodes:
            await store.put("run", node, 1)

    @pytest.mark.usefixtures("shared_target")
    async def test_of_a_run_that_is_deleted_meanwhile_there_is_all_or_nothing(self, make_store: Target) -> None:
        nodes = [f"{number:04}" for number in range(400)]
        async with make_store() as store, make_store() as other:
            lengths = set()
            for turn in range(10):
                await store.put_many(f"run-{turn}", dict.fromkeys(nodes, 1))
                deleting = asyncio.ensure_future(other.delete_run(f"run-{turn}"))
                while not deleting.done():
                    lengths.add(len(await store.list_keys(f"run-{turn}")))
                await deleting
            assert lengths <= {0, 400}


class TestARarePrefix:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize("looks", [1, 3, 10_000])
    async def test_the_runs_that_have_it_are_found_by_either_way(
        self, store: Any, monkeypatch: pytest.MonkeyPatch, looks: int
    ) -> None:
        monkeypatch.setattr(run_listing, "_FIRST_LOOK", looks)
        names = [head + tail for head in ("a", "a%", "a_", "b", "\U0010ffff") for tail in "01234"]
        random.shuffle(names)
        async with begun(store) as batch:
            for name in names:
                batch.put(name, "node", 1)
        await store.delete_run("a3")
        newest_first = [name for name in names[::-1] if name != "a3"]
        for prefix in ("", "a", "a%", "a%0", "a_", "b", "c", "\U0010ffff", "\U0010ffff4"):
            expected = [name for name in newest_first if name.startswith(prefix)]
            assert await runs_of(store, prefix=prefix) == expected
            assert await runs_of(store, prefix=prefix, limit=2) == expected[:2]
            assert (
                await runs_of(store, prefix=prefix, after="b2", limit=3)
                == [name for name in newest_first[newest_first.index("b2") + 1 :] if name.startswith(prefix)][:3]
            )

    def test_it_costs_no_look_at_all_other_runs(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path):
            pass
        TestTheWorkOfAPage.fill(file_path, 20_000)
        with ContextStore(file_path) as store:
            for prefix, found in {"none": 0, "run-00001": 100, "run-0012345": 1}.items():
                steps, _, page = TestTheWorkOfAPage.steps(store, prefix=prefix)
                assert len(page) == min(found, 100)
                assert steps < 60_000  # to look at 20,000 runs takes 120,000 and more

    def test_on_a_server_it_is_found_by_the_index(self, postgres: Server, url: str, schema: str) -> None:
        with ContextStore(url):
            pass
        execute(
            postgres,
            f"INSERT INTO {schema}.flow_runs (flow_run_id, created_at, writer) "
            f"SELECT 'run-' || n, n, gen_random_uuid() FROM generate_series(1, 20000) n",
        )
        execute(
            postgres,
            f"INSERT INTO {schema}.node_outputs (run, node_id, codec, checksum, written_at, size, writer, value) "
            f"SELECT serial, 'node', 0, 0, 1, 1, writer, '1' FROM {schema}.flow_runs",
        )
        execute(postgres, f"ANALYZE {schema}.flow_runs, {schema}.node_outputs")
        listing = ListingText(statements_for(schema), RunQuery("none"), RunIndex("prefix"), None)
        plan = asyncio.run(self.plan(postgres, *listing.gathering(None, None, 100, 100)))
        assert "runs_flow_run_id_key" in plan
        with ContextStore(url) as store:
            assert store.list_runs(prefix="none") == []
            assert [info.flow_run_id for info in store.list_runs(prefix="run-1999", limit=3)] == [
                "run-19999", "run-19998", "run-19997"
            ]  # fmt: skip

    @staticmethod
    async def plan(server: Server, statement: str, parameters: list[Any]) -> str:
        connection = await asyncpg.connect(server.url())
        await connection.execute("SET plan_cache_mode = force_generic_plan")  # as after some calls
        rows = await connection.fetch(f"EXPLAIN {statement}", *parameters)
        await connection.close()
        return "\n".join(row[0] for row in rows)


class TestBreath:
    def test_work_is_broken_off_now_and_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pauses: list[float] = []
        monkeypatch.setattr(_breath.time, "sleep", pauses.append)
        breath = Pacer()
        breath.take()
        assert pauses == []
        until_then = time.perf_counter() + 0.02
        while time.perf_counter() < until_then:
            breath.take()
        assert 1 <= len(pauses) <= 20
        assert all(0.00005 <= pause <= 0.001 for pause in pauses)  # longer than a wake-up, and no longer than need be

    def test_all_come_in_order(self) -> None:
        assert list(paced(range(10_000))) == list(range(10_000))

    def test_a_check_takes_it(self, file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with ContextStore(file_path) as store:
            store.put_many("run", {str(number): {"number": number} for number in range(5000)})
            sleep, pauses = time.sleep, []

            def counted(seconds: float) -> None:
                if seconds == _breath._PAUSE:
                    pauses.append(seconds)
                sleep(seconds)

            monkeypatch.setattr(_breath.time, "sleep", counted)
            assert store.check().outputs == 5000
            assert len(pauses) > 3


@pytest.mark.usefixtures("shared_target")
async def test_a_copy_of_a_store_that_is_read_meanwhile_is_whole(make_store: Target, tmp_path: pathlib.Path) -> None:
    async with make_store(cache_bytes=0) as source:
        for number in range(3):
            await source.put_many(f"run-{number}", {str(i): i for i in range(300)})
        target = ContextStore(tmp_path / "copy.db")
        blocking = source.plain if isinstance(source, Awaited) else source
        copying: Any = copy(blocking, target) if blocking is source else asyncio.to_thread(copy, blocking, target)
        task = asyncio.ensure_future(copying)
        reads = 0
        while not task.done():
            assert await source.get(f"run-{reads % 3}", str(reads % 300)) == reads % 300
            reads += 1
        assert (await task).outputs == 900
        await asyncio.to_thread(target.close)
        assert reads > 0
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("SELECT count(*) FROM node_outputs").fetchone() == (900,)
