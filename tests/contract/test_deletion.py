"""What a deletion costs and what it leaves, whoever writes, deletes or dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from contextstore import AlreadyExistsError, ContextStore, PruneReport, RunDeletedError, StorageError
from contextstore._core import retention as _deletion
from contextstore._engine.operations import (
    DeleteIdleRuns,
    DeleteRun,
    LoadRun,
    PutOutput,
    RemoveOutputs,
    is_deletion,
    runs_deleted_by,
)
from contextstore._postgres import engine as _postgres
from contextstore._postgres import reads as _postgres_reads
from contextstore._sqlite import idle_runs as _sqlite_idle_runs
from contextstore._sqlite import lending as _sqlite_lending
from contextstore._sqlite import writes as _sqlite_writes
from contextstore._sqlite.worker import connection_here
from contextstore._values.codec import Encoded
from contextstore._waiting.threads import run_now

from ..conftest import Target
from ..support.doubles import core_of, fail
from ..support.forked import Child, run
from ..support.portions import some
from ..support.proxy import Proxy
from .runs import Clock, marks, runs_of
from .test_batch import begun

DAY = datetime.timedelta(days=1)
NOTHING = datetime.timedelta(0)


@pytest.fixture(name="clock")
def clock_of_the_store(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (_sqlite_writes, _sqlite_lending, _deletion, _postgres):
        monkeypatch.setattr(module, "time", clock)
    return clock


async def commits_of(store: Any, call: Callable[[], Any]) -> tuple[int, Any]:
    before = core_of(store)._session.writer.commits
    result = await call()
    return core_of(store)._session.writer.commits - before, result


async def put_small_runs(store: Any, count: int, name: str = "run") -> None:
    async with begun(store) as batch:
        for number in range(count):
            batch.put(f"{name}-{number}", "node", number)


def test_what_an_operation_may_delete_is_told_run_by_run() -> None:
    deletions = {
        DeleteRun("a"): ("a",),
        DeleteIdleRuns(("a", "b"), 1, 1, None): ("a", "b"),
        LoadRun("a", 1, 2): ("a",),
    }
    for operation, runs in deletions.items():
        assert is_deletion(operation)
        assert tuple(runs_deleted_by(operation)) == runs
    for other in (LoadRun("a", 1, None), PutOutput("a", "b", Encoded(0, b"1"), False), RemoveOutputs(("a",), 1)):
        assert not is_deletion(other)
        assert tuple(runs_deleted_by(other)) == ()


class TestCommitsThatAreShared:
    async def test_small_runs_are_pruned_together(self, store: Any, clock: Clock) -> None:
        await put_small_runs(store, 1200)
        clock.now += 10 * DAY
        commits, report = await commits_of(store, lambda: store.prune(older_than=DAY))
        assert report.runs == report.outputs == 1200
        assert commits <= 3 + 4  # of 500 runs each; then those that forget and give space back

    async def test_the_outputs_of_a_commit_are_bounded(self, store: Any, clock: Clock) -> None:
        for number in range(4):
            await store.put_many(f"run-{number}", {str(i): i for i in range(300)})
        clock.now += 10 * DAY
        groups: list[int] = []
        commit = core_of(store)._session.commit

        async def counted(operations: Any) -> Any:
            results = await commit(operations)
            groups.extend(result.outputs for result in results if hasattr(result, "outputs"))
            return results

        core: Any = core_of(store)
        core._session.commit = counted
        assert (await store.prune(older_than=DAY)).outputs == 1200
        assert sum(groups) == 1200
        assert max(groups) <= 500

    async def test_the_bytes_of_a_commit_are_bounded(self, store: Any, clock: Clock) -> None:
        for number in range(9):
            await store.put(f"run-{number}", "node", b"x" * 1_000_000)
        clock.now += 10 * DAY
        commits, report = await commits_of(store, lambda: store.prune(older_than=DAY))
        assert (report.runs, report.bytes) == (9, 9_000_000)
        assert 3 <= commits - (await commits_of(store, lambda: store.prune(older_than=DAY)))[0] <= 8

    async def test_a_small_run_is_deleted_by_one_commit_where_no_put_can_slip_in(self, store: Any) -> None:
        await store.put_many("run", {str(i): i for i in range(499)})
        assert await commits_of(store, lambda: store.delete_run("run")) == (1 + marks(store), 499)
        assert await commits_of(store, lambda: store.delete_run("never seen")) == (1 + marks(store), 0)

    async def test_deletions_that_were_interrupted_are_finished_together(self, store: Any) -> None:
        await put_small_runs(store, 1200)
        await core_of(store)._session.commit([DeleteRun(f"run-{number}") for number in range(1200)])
        assert await runs_of(store) == []
        commits, report = await commits_of(store, lambda: store.prune(older_than=DAY))
        assert report == PruneReport(0, 0, 0, 0)
        assert commits <= 3 + 4
        assert not any("take up space" in note for note in (await store.check()).notes)

    async def test_a_large_run_among_small_ones_takes_its_own_commits(self, store: Any, clock: Clock) -> None:
        await put_small_runs(store, 50, "before")
        await store.put_many("large", {f"{i:04}": i for i in range(1700)})
        await put_small_runs(store, 50, "after")
        clock.now += 10 * DAY
        commits, report = await commits_of(store, lambda: store.prune(older_than=DAY))
        assert (report.runs, report.outputs) == (101, 1800)
        assert commits <= 2 + 4 + 4
        assert (await store.check()).outputs == 0


def _note(told: list[tuple[int, int]], done: int, total: int) -> None:
    told.append((done, total))


@pytest.mark.usefixtures("embedded")
class TestStatementsThatAreShared:
    """Counted as SQLite runs them."""

    @staticmethod
    @contextlib.contextmanager
    def counted(store: Any) -> Iterator[list[str]]:
        core = core_of(store)
        engine: Any = core._session.engine
        statements: list[str] = []

        async def trace(connection: Any, callback: Any) -> None:
            connection().set_trace_callback(callback)

        places = [lambda: engine._database._writing.connection, connection_here]
        for callback in (statements.append, None):
            run_now(core._session.read(trace, places[0], callback))
            run_now(core._session.scan(trace, places[1], callback))
            if callback is not None:
                yield statements

    def test_runs_that_stay_cost_no_statement_each(self, file_path: Any) -> None:
        with ContextStore(file_path) as store:
            with store.batch() as batch:
                for number in range(3000):
                    batch.put(f"run-{number}", "node", number)
            with self.counted(store) as statements:
                assert store.prune(older_than=DAY).runs == 0
            assert 0 < len(statements) < 100

    def test_runs_that_go_cost_no_statement_each(self, file_path: Any) -> None:
        with ContextStore(file_path) as store:
            with store.batch() as batch:
                for number in range(3000):
                    batch.put(f"run-{number}", "node", number)
            time.sleep(0.001)
            with self.counted(store) as statements:
                assert store.prune(older_than=NOTHING).runs == 3000
            besides = [
                text
                for text, _ in itertools.groupby(statements)  # of a deletion SQLite tells again for each row's trigger
                if "incremental_vacuum" not in text
            ]
            assert 0 < len(besides) < 300


class TestReports:
    @pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
    async def test_they_say_exactly_what_was_deleted_and_a_dry_run_says_it_before(
        self, store: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        """Against a model: runs of every size, written at several times, some of them deleted, at bounds that bite."""
        monkeypatch.setattr(_deletion, "_PAGE_ROWS", 7)
        monkeypatch.setattr(_deletion, "_REMOVE_ROWS", 20)
        for module in (_sqlite_idle_runs, _postgres_reads):
            monkeypatch.setattr(module, "_RUNS_A_PAGE", 10)
            monkeypatch.setattr(module, "_MANY", 5)
        chance = random.Random(seed)
        names = [f"run-{number}" for number in range(40)]
        written: dict[str, dict[str, tuple[datetime.datetime, int]]] = {}
        deleted: dict[str, datetime.datetime] = {}
        for _ in range(4):
            for name in chance.sample(names, 25):
                outputs = {
                    f"{chance.randrange(10**6)}": "x" * chance.randrange(50)
                    for _ in range(chance.choice([1, 3, 6, 30]))
                }
                with contextlib.suppress(RunDeletedError, AlreadyExistsError):
                    await store.put_many(name, outputs)
                    sizes = {node: (clock.now, len(value) + 2) for node, value in outputs.items()}
                    written.setdefault(name, {}).update(sizes)
            for name in chance.sample(names, 2):
                await store.delete_run(name)
                deleted.setdefault(name, clock.now)
                written.pop(name, None)
            clock.now += 10 * DAY
        for age in (25, 15, 5):
            before = clock.now - age * DAY
            old = {name: run for name, run in written.items() if max(when for when, _ in run.values()) < before}
            forgotten = [name for name, when in deleted.items() if when < before]
            expected = PruneReport(
                len(old),
                sum(map(len, old.values())),
                sum(size for run in old.values() for _, size in run.values()),
                len(forgotten),
            )
            for dry_run in (True, False):
                told: list[tuple[int, int]] = []
                note = partial(_note, told)
                report = await store.prune(older_than=age * DAY, dry_run=dry_run, progress=note)
                assert report == expected
                assert told[-1] == (len(written), len(written))
                assert told == sorted(told)
            for name in forgotten:
                del deleted[name]
            deleted |= dict.fromkeys(old, clock.now)
            written = {name: run for name, run in written.items() if name not in old}
            found = {info.flow_run_id: info.outputs for info in await store.list_runs(limit=1000)}
            assert found == {name: len(run) for name, run in written.items()}
            assert (await store.check()).ok

    async def test_a_young_output_of_a_large_run_is_found_wherever_it_is(self, store: Any, clock: Clock) -> None:
        for place in ("0000", "0700x", "9999"):
            await store.put_many(f"run {place}", {f"{i:04}": i for i in range(1, 1600)})
        await store.put_many("old", {f"{i:04}": i for i in range(1600)})
        clock.now += 10 * DAY
        for place in ("0000", "0700x", "9999"):
            await store.put(f"run {place}", place, 1)
        for dry_run in (True, False):
            report = await store.prune(older_than=DAY, dry_run=dry_run)
            assert (report.runs, report.outputs) == (1, 1600)

    async def test_a_run_that_begins_after_the_clock_was_set_back_is_as_old_as_its_beginning(
        self, store: Any, clock: Clock
    ) -> None:
        await store.put("run", "a", 1)
        clock.now -= 10 * DAY
        await store.put("run", "b", 1)
        await store.put("older", "a", 1)
        clock.now += 10 * DAY
        for dry_run in (True, False):
            assert (await store.prune(older_than=DAY, dry_run=dry_run)).runs == 1
        assert await runs_of(store) == ["run"]

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    @pytest.mark.parametrize("written_at", ["'never'", "-5", "x'00'"])
    async def test_a_run_of_which_an_output_has_no_time_is_left_and_hinders_nobody(
        self, make_store: Target, written_at: str
    ) -> None:
        async with make_store() as store:
            await store.put_many("damaged", {str(number): number for number in range(3)})
            await put_small_runs(store, 5)
            with contextlib.closing(sqlite3.connect(make_store.location)) as connection, connection:
                connection.execute(f"UPDATE node_outputs SET written_at = {written_at} WHERE node_id = '1'")
            await asyncio.sleep(0.001)
            for dry_run in (True, False):
                assert (await store.prune(older_than=NOTHING, dry_run=dry_run)).runs == 5
            assert await store.list_keys("damaged") == ["0", "1", "2"]


WRITER = """
    runs = sys.argv[2].split()
    with ContextStore(sys.argv[1]) as store:
        store.list_runs()
        say("open")
        sys.stdin.readline()
        for number, run in enumerate(runs):
            if number == len(runs) // 4:
                say("a quarter")
            try:
                store.put_many(run, {"new-1": 1, "new-2": 2})
                say("written", run)
            except RunDeletedError:
                say("refused", run)
"""


@pytest.mark.usefixtures("shared_target")
class TestOthersMeanwhile:
    @pytest.mark.parametrize("size", [1, pytest.param(3, marks=pytest.mark.thorough)])
    async def test_no_run_is_deleted_that_got_an_output_from_another_process(
        self, make_store: Target, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        monkeypatch.setattr(_deletion, "_PAGE_ROWS", 20)  # more looks, and more commits, to get in between
        monkeypatch.setattr(_deletion, "_REMOVE_ROWS", 40)
        told: list[str] = []
        async with make_store() as store:
            for turn in range(some(3, 1)):
                runs = [f"run-{turn}-{number}" for number in range(400)]
                async with begun(store) as batch:
                    for one in runs:
                        for node in range(size):
                            batch.put(one, f"old-{node}", 1)
                await asyncio.sleep(0.01)
                between = time.time()
                await asyncio.sleep(0.01)
                random.shuffle(runs)
                with Child(WRITER, make_store.location, " ".join(runs)) as writer:
                    assert await asyncio.to_thread(writer.hear) == "open"
                    writer.tell()
                    lines = []
                    while (line := await asyncio.to_thread(writer.hear)) != "a quarter":
                        lines.append(line)
                    report = await store.prune(older_than=datetime.timedelta(seconds=time.time() - between))
                    lines += await asyncio.to_thread(writer.hear_all)
                told += lines
                assert report.runs == sum(line.startswith("refused") for line in lines)
                for word, one in map(str.split, lines):
                    left = await store.list_keys(one)
                    assert len(left) == (size + 2 if word == "written" else 0), (word, one)
                await store.prune(older_than=NOTHING)
            assert (await store.check()).ok
        counted = [sum(line.startswith(word) for line in told) for word in ("written", "refused")]
        assert min(counted) > 0, counted

    async def test_two_processes_that_prune_at_once_delete_each_run_once(self, make_store: Target) -> None:
        program = """
            import datetime
            with ContextStore(sys.argv[1]) as store:
                say("open")
                sys.stdin.readline()
                report = store.prune(older_than=datetime.timedelta(0))
                say(report.runs, report.outputs)
        """
        async with make_store() as store:
            await put_small_runs(store, 1500)
            await store.put_many("large", {str(i): i for i in range(1500)})
            await asyncio.sleep(0.01)
            with Child(program, make_store.location) as one, Child(program, make_store.location) as other:
                for child in (one, other):
                    assert await asyncio.to_thread(child.hear) == "open"
                for child in (one, other):
                    child.tell()
                said = [await asyncio.to_thread(child.hear) for child in (one, other)]
            counts = [tuple(map(int, line.split())) for line in said]
            assert sum(runs for runs, _ in counts) == 1501
            assert (await store.stats()).outputs == 0

    @pytest.mark.parametrize(("size", "grown_by"), [(1, 1500), (1, 1), (1600, 1), (1600, 600)])
    async def test_a_run_that_grows_between_the_look_and_the_commit_is_left(
        self, make_store: Target, clock: Clock, size: int, grown_by: int
    ) -> None:
        """Wherever its new outputs sort, and however large it was, or is now."""
        async with make_store() as store, make_store() as other:
            await store.put_many("run", {f"{i:04}": i for i in range(size)})
            await put_small_runs(store, 3, "idle")
            clock.now += 10 * DAY
            commit: Any = core_of(store)._session.commit
            grown: list[DeleteIdleRuns] = []

            async def grow_and_commit(operations: Any) -> Any:
                if isinstance(operations[0], DeleteIdleRuns) and not grown:
                    grown.append(operations[0])
                    await core_of(other).put_many("run", {f"late {i:04}": i for i in range(grown_by)})
                return await commit(operations)

            core: Any = core_of(store)
            core._session.commit = grow_and_commit
            report = await store.prune(older_than=DAY)
            assert "run" in grown[0].flow_run_ids
            assert report.runs == 3
            assert len(await store.list_keys("run")) == size + grown_by


KILLED = """
    import datetime
    from tests.support.doubles import core_of

    with ContextStore(sys.argv[1]) as store:
        store.list_runs()
        engine = core_of(store)._session.engine
        commit, left = engine.commit, [int(sys.argv[2])]

        async def counted(units):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return await commit(units)

        engine.commit = counted
        store.prune(older_than=datetime.timedelta(milliseconds=1))
        say("done")
"""


@pytest.mark.usefixtures("shared_target")
@pytest.mark.slow
async def test_a_prune_that_was_killed_is_taken_up_by_another_process(make_store: Target) -> None:
    for commits in (0, 1, 2, 3, 4):
        async with make_store() as store:
            await put_small_runs(store, 700, f"small-{commits}")
            await store.put_many(f"large-{commits}", {str(i): i for i in range(1200)})
        time.sleep(0.01)
        with Child(KILLED, make_store.location, commits) as victim:
            status, said, _ = victim.end()
            assert (status, said) == (-9, [])
        async with make_store() as store:
            assert (await store.check()).ok
            for info in await store.list_runs(limit=1000):
                assert info.outputs == (1200 if "large" in info.flow_run_id else 1)
    assert run(KILLED, make_store.location, 10**6) == ["done"]
    async with make_store() as store:
        stats = await store.stats()
        assert (stats.runs, stats.outputs) == (0, 0)
        assert not any("take up space" in note for note in (await store.check()).notes)


async def test_a_prune_cut_off_after_any_commit_is_taken_up_by_the_next(store: Any, clock: Clock) -> None:
    deleted = 0
    for commits in range(7):
        await put_small_runs(store, 600, f"small-{commits}")
        await store.put_many(f"large-{commits}", {str(i): i for i in range(700)})
        clock.now += 10 * DAY
        fail(store, "commit", *[None] * commits, StorageError("cut off"))
        with contextlib.suppress(StorageError):
            deleted += (await store.prune(older_than=DAY)).runs
        del core_of(store)._session.engine.commit
        counts = {info.flow_run_id: info.outputs for info in await store.list_runs(limit=1000)}
        assert all(count == (700 if "large" in name else 1) for name, count in counts.items())
    await store.prune(older_than=DAY)
    assert (await store.stats()).outputs == 0
    assert (await store.check()).ok


class TestALostAnswer:
    """On a server: the connection is cut after it has done what it was asked, and before it could say so."""

    def test_the_report_of_a_prune_is_still_exact(self, url: str, proxy: Proxy, schema: str) -> None:
        with ContextStore(url) as other, ContextStore(proxy.url(schema=schema), timeout=20) as store:
            with other.batch() as batch:
                for number in range(30):
                    batch.put(f"run-{number}", "node", "x" * number)
            other.put("young", "node", 1)
            time.sleep(0.01)
            store.list_runs()
            proxy.lose_answer_to("COMMIT")
            report = store.prune(older_than=datetime.timedelta(milliseconds=1))
            assert proxy.cuts == 1
            assert report == PruneReport(31, 31, sum(range(30)) + 61, 0)
            assert other.list_runs() == []
