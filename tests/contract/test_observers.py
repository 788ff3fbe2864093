"""Observers: told of each call once, at its end, and never of a value."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import fcntl
import pathlib
import pickle
import threading
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, Observer, StoreBusyError, WrongLoopError
from contextstore.observers import CommitEvent, ErrorEvent, OperationEvent, WaitEvent

from ..conftest import Awaited, Target
from ..support.doubles import core_of
from .leases import held

SECRET = "a-value-that-no-event-may-have"


class Recorder(Observer):
    """Keeps what it is told, with the thread in which that was."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.threads: list[int] = []

    def on_operation(self, event: OperationEvent, /) -> None:
        self._keep(event)

    def on_commit(self, event: CommitEvent, /) -> None:
        self._keep(event)

    def on_wait(self, event: WaitEvent, /) -> None:
        self._keep(event)

    def on_error(self, event: ErrorEvent, /) -> None:
        self._keep(event)

    def _keep(self, event: Any) -> None:
        self.threads.append(threading.get_ident())
        self.events.append(event)

    @property
    def operations(self) -> list[OperationEvent]:
        return [event for event in self.events if isinstance(event, OperationEvent)]

    @property
    def commits(self) -> list[CommitEvent]:
        return [event for event in self.events if isinstance(event, CommitEvent)]

    def last(self) -> OperationEvent:
        return self.operations[-1]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def store(make_store: Target, recorder: Recorder) -> Any:
    async with make_store(observers=[recorder]) as store:
        yield store


async def _batch(store: Any) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(store, Awaited):
            await asyncio.to_thread(_batch_of_a_thread, store.plain)
        else:
            batch = await stack.enter_async_context(store.batch())
            batch.put("run", "b1", 1)
            batch.put("run", "b2", 22)


def _batch_of_a_thread(store: ContextStore) -> None:
    with store.batch() as batch:
        batch.put("run", "b1", 1)
        batch.put("run", "b2", 22)


async def _iterate(store: Any) -> list[Any]:
    if isinstance(store, Awaited):
        return await asyncio.to_thread(lambda: list(store.plain.iter_outputs("run")))
    return [output async for output in store.iter_outputs("run")]


async def _follow(store: Any) -> None:
    if isinstance(store, Awaited):
        await asyncio.to_thread(_follow_in_a_thread, store.plain)
    else:
        async with contextlib.aclosing(store.watch_runs()) as runs:
            await anext(runs)


def _follow_in_a_thread(store: ContextStore) -> None:
    with contextlib.closing(store.watch_runs()) as runs:
        next(runs)


async def _hold(store: Any) -> None:
    async with held(store, "name"):
        pass


CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "put": (lambda s: s.put("run", "new", [1]), {"flow_run_id": "run", "node_id": "new", "size": 3}),
    "append": (lambda s: s.append("run", "p", [1]), {"flow_run_id": "run", "node_id": None, "size": 3}),
    "get": (lambda s: s.get("run", "a"), {"flow_run_id": "run", "node_id": "a", "size": 5, "cached": True}),
    "exists": (lambda s: s.exists("run", "a"), {"flow_run_id": "run", "node_id": "a", "cached": True}),
    "get_entry": (lambda s: s.get_entry("run", "a"), {"flow_run_id": "run", "node_id": "a", "size": 5}),
    "put_many": (lambda s: s.put_many("run", {"x": 1, "y": 22}), {"flow_run_id": "run", "items": 2, "size": 3}),
    "get_many": (lambda s: s.get_many("run", ["a", "b"]), {"flow_run_id": "run", "items": 2, "size": 10}),
    "list_keys": (lambda s: s.list_keys("run"), {"flow_run_id": "run", "items": 2, "size": None}),
    "get_outputs": (lambda s: s.get_outputs([("run", "a"), ("no", "a")]), {"items": 1, "size": 5}),
    "list_outputs": (lambda s: s.list_outputs("run"), {"flow_run_id": "run", "items": 2, "size": 10}),
    "get_run": (lambda s: s.get_run("run"), {"flow_run_id": "run", "items": 2, "size": 10}),
    "put_global": (lambda s: s.put_global("k", 1), {"key": "k", "size": 1}),
    "upsert_global": (lambda s: s.upsert_global("k", 1), {"key": "k", "size": 1}),
    "get_global": (lambda s: s.get_global("there"), {"key": "there", "size": 5}),
    "get_global_entry": (lambda s: s.get_global_entry("there"), {"key": "there", "size": 5}),
    "list_globals": (lambda s: s.list_globals(), {"items": 1, "size": 5}),
    "list_global_keys": (lambda s: s.list_global_keys(), {"items": 1, "size": None}),
    "get_globals": (lambda s: s.get_globals(["there", "not"]), {"items": 1, "size": 5}),
    "delete_globals": (lambda s: s.delete_globals(["there", "not"]), {"items": 1}),
    "wait_for_global": (lambda s: s.wait_for_global("there"), {"key": "there", "size": 5}),
    "delete_global": (lambda s: s.delete_global("there"), {"key": "there"}),
    "update_global": (lambda s: s.update_global("n", lambda n: 1), {"key": "n"}),
    "get_or_put": (lambda s: s.get_or_put("run", "c", lambda: 1), {"flow_run_id": "run", "node_id": "c", "size": 1}),
    "wait_for": (lambda s: s.wait_for("run", "a"), {"flow_run_id": "run", "node_id": "a", "cached": True}),
    "list_runs": (lambda s: s.list_runs(), {"items": 1}),
    "get_run_info": (lambda s: s.get_run_info("run"), {"flow_run_id": "run"}),
    "wait_for_run": (lambda s: s.wait_for_run("run", state="open"), {"flow_run_id": "run"}),
    "watch_runs": (_follow, {"items": 1}),
    "cursor": (lambda s: s.cursor(), {}),
    "lease": (_hold, {"key": "name"}),
    "list_leases": (lambda s: s.list_leases(), {"items": 0}),
    "fork_run": (lambda s: s.fork_run("run", new_flow_run_id="other"), {"flow_run_id": "run"}),
    "delete_outputs": (lambda s: s.delete_outputs("run", ["a", "x"]), {"flow_run_id": "run", "items": 1}),
    "delete_run": (lambda s: s.delete_run("run"), {"flow_run_id": "run", "items": 2}),
    "prune": (lambda s: s.prune(older_than=datetime.timedelta(days=1)), {"items": 0}),
    "stats": (lambda s: s.stats(), {}),
    "ping": (lambda s: s.ping(), {}),
    "check": (lambda s: s.check(), {}),
    "batch": (_batch, {"items": 2, "size": 3}),
    "iter_outputs": (_iterate, {"flow_run_id": "run", "items": 2, "size": 10}),
}
"""Each call, by its name, with what its event says beside."""
UNTOLD = {"open", "close", "counters", "run", "backup", "watch", "blocking", "location"}
"""Those that make no event of their own, or whose events have tests of their own."""


class TestOperations:
    def test_each_public_call_is_here(self) -> None:
        public = {name for name in vars(AsyncContextStore) if not name.startswith("_")}
        assert CALLS.keys() == public - UNTOLD

    @pytest.mark.each_input_once
    @pytest.mark.parametrize("name", CALLS)
    async def test_a_call_is_told_once_with_what_it_was_about(self, store: Any, recorder: Recorder, name: str) -> None:
        await store.put_many("run", {"a": "abc", "b": "def"})
        await store.put_global("there", "abc")
        call, facts = CALLS[name]
        told = len(recorder.operations)
        before = datetime.datetime.now(datetime.UTC)
        await call(store)
        after = datetime.datetime.now(datetime.UTC)
        (event,) = recorder.operations[told:]
        assert (event.operation, event.error, event.code, event.outcome_unknown) == (name, None, None, False)
        assert before <= event.started_at <= after
        assert 0 <= event.seconds <= (after - before).total_seconds() + 0.001
        for field in ("flow_run_id", "node_id", "key"):
            assert getattr(event, field) == facts.get(field), field
        assert {field: getattr(event, field) for field in facts} == facts

    async def test_a_call_of_a_run_object_is_told_as_the_stores(self, store: Any, recorder: Recorder) -> None:
        if isinstance(store, Awaited):
            assert await asyncio.to_thread(store.plain.run("run").step, "node", lambda: 5) == 5
        else:
            assert await store.run("run").step("node", lambda: 5) == 5
        assert [event.operation for event in recorder.operations] == ["step"]

    async def test_a_get_says_whether_memory_answered(self, store: Any, recorder: Recorder) -> None:
        await store.put("run", "a", 1)
        await store.get("run", "a")
        await store.get("run", "missing")
        assert [event.cached for event in recorder.operations] == [None, True, False]

    async def test_a_call_that_fails_is_told_once_with_its_errors_class(self, store: Any, recorder: Recorder) -> None:
        await store.put("run", "a", 1)
        for call in (
            lambda: store.put("run", "a", 2),
            lambda: store.put("run", "\0", 2),
            lambda: store.put("run", "b", {1: 2}),
            lambda: store.get("run", "a", type=list),
            lambda: store.wait_for("run", "never", timeout=0),
            lambda: store.get_or_put("run", "c", lambda: 1 / 0),
        ):
            with contextlib.suppress(Exception):
                await call()
        assert [(event.operation, event.error) for event in recorder.operations[1:]] == [
            ("put", "AlreadyExistsError"),
            ("put", "InvalidKeyError"),
            ("put", "SerializationError"),
            ("get", "DeserializationError"),
            ("wait_for", "TimeoutError"),
            ("get_or_put", "ZeroDivisionError"),
        ]
        assert recorder.operations[2].node_id is None

    async def test_an_iteration_that_is_left_is_told_once_without_an_error(
        self, store: Any, recorder: Recorder
    ) -> None:
        await store.put_many("run", {"a": 1, "b": 2, "c": 3})
        if isinstance(store, Awaited):
            await asyncio.to_thread(lambda: next(store.plain.iter_outputs("run")))
        else:
            async with contextlib.aclosing(store.iter_outputs("run")) as awaited:
                await anext(awaited)
        event = recorder.last()
        assert (event.operation, event.items, event.error) == ("iter_outputs", 1, None)
        assert len(recorder.operations) == 2

    async def test_ids_are_told_as_they_are_stored(self, store: Any, recorder: Recorder) -> None:
        import uuid

        run_id = uuid.uuid4()
        await store.put(run_id, "a", 1)
        assert (recorder.last().flow_run_id, type(recorder.last().flow_run_id)) == (str(run_id), str)

    async def test_every_event_names_the_store_and_its_engine(
        self, store: Any, recorder: Recorder, make_store: Target
    ) -> None:
        await store.put("run", "a", 1)
        engine = "postgresql" if make_store.engine == "postgres" else "sqlite"
        location = (await store.stats()).location
        assert {(event.engine, event.location) for event in recorder.events} == {(engine, location)}


class TestCommits:
    async def test_a_commit_is_told_with_what_went_into_it(self, store: Any, recorder: Recorder) -> None:
        await store.put("run", "a", "abc")
        await store.put_many("run", {"b": 1, "c": 22})
        await store.close()
        assert [(event.units, event.operations, event.size, event.error) for event in recorder.commits] == [
            (1, 1, 5, None),
            (1, 2, 3, None),
        ]
        for event in recorder.commits:
            assert event.seconds > 0
            assert event.queued_seconds >= 0

    async def test_calls_that_share_a_commit_are_its_units(self, store: Any, recorder: Recorder) -> None:
        await asyncio.gather(*(store.put("run", f"{n}", n) for n in range(40)))
        await store.close()
        assert sum(event.units for event in recorder.commits) == 40
        assert sum(event.operations for event in recorder.commits) == 40


class TestValues:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize("name", ["put", "put_many", "put_global", "batch", "get_or_put"])
    async def test_no_event_has_a_value_in_it(self, store: Any, recorder: Recorder, name: str) -> None:
        values: list[Any] = [SECRET, {SECRET: [SECRET]}, {"a": {SECRET: float("nan")}}, {SECRET: object()}, {SECRET, 1}]
        for number, value in enumerate(values):
            with contextlib.suppress(Exception):
                if name == "put":
                    await store.put("run", f"{number}", value)
                elif name == "put_many":
                    await store.put_many("run", {f"{number}": value})
                elif name == "put_global":
                    await store.put_global(f"{number}", value)
                elif name == "get_or_put":
                    await store.get_or_put("run", f"{number}", lambda value=value: value)
                else:
                    await store.put_many("run", {f"{number}": value})
        with contextlib.suppress(Exception):
            await store.get("run", "0", type=int)
        await store.get_run("run")
        assert recorder.events
        assert SECRET not in repr(recorder.events)
        assert SECRET.encode() not in pickle.dumps(recorder.events)


def test_events_are_frozen_and_picklable() -> None:
    recorder = Recorder()
    with ContextStore(":memory:", observers=[recorder]) as store:
        store.put("run", "a", 1)
    assert pickle.loads(pickle.dumps(recorder.events)) == recorder.events
    with pytest.raises(AttributeError):
        recorder.events[0].seconds = 1


class TestRefusals:
    @pytest.mark.each_input_once
    @pytest.mark.parametrize("face", [AsyncContextStore, ContextStore])
    @pytest.mark.parametrize(
        ("observers", "message"),
        [
            (5, "several observers, not int"),
            ("observer", "several observers, not str"),
            ([Recorder], "the class Recorder: pass Recorder()"),
            ([object()], "object has none"),
            ([type("Odd", (), {"on_commit": 5})()], "on_commit must be a function"),
        ],
        ids=["an int", "a str", "a class", "no observer", "no function"],
    )
    def test_what_is_no_observer_is_refused(self, face: Any, observers: Any, message: str) -> None:
        with pytest.raises(TypeError) as caught:
            face(":memory:", observers=observers)
        assert message in str(caught.value)

    def test_a_coroutine_function_is_refused(self) -> None:
        class Awaited:
            async def on_operation(self, event: OperationEvent) -> None: ...

        with pytest.raises(TypeError, match="on_operation must be a plain function"):
            ContextStore(":memory:", observers=[Awaited()])  # type: ignore[list-item]

    def test_an_object_may_have_some_of_the_methods_alone(self) -> None:
        class Operations:
            def __init__(self) -> None:
                self.names: list[str] = []

            def on_operation(self, event: OperationEvent) -> None:
                self.names.append(event.operation)

        some: Any = Operations()
        with ContextStore(":memory:", observers=(one for one in [some])) as store:  # type: ignore[arg-type]
            store.put("run", "a", 1)
        assert some.names == ["put"]

    def test_a_method_may_be_set_on_the_object(self) -> None:
        class Own(Observer):
            pass

        own, events = Own(), list[OperationEvent]()
        own.on_operation = events.append  # type: ignore[method-assign]  # as a test of a program may do
        with ContextStore(":memory:", observers=[own]) as store:
            store.put("run", "a", 1)
        assert [event.operation for event in events] == ["put"]

    async def test_one_that_is_told_of_waits_alone_is_told_at_the_end_of_each_call(self, make_store: Target) -> None:
        class Waits:
            def __init__(self) -> None:
                self.kinds: list[str] = []

            def on_wait(self, event: WaitEvent) -> None:
                self.kinds.append(event.kind)

        some: Any = Waits()
        async with make_store(observers=[some]) as store:
            for number in (1, 2):
                with contextlib.suppress(TimeoutError):
                    await store.wait_for("run", "never", timeout=0)
                assert some.kinds.count("output") == number

    def test_an_opening_that_waits_in_vain_is_told(self, file_path: pathlib.Path) -> None:
        recorder = Recorder()
        store = ContextStore(file_path, timeout=0.05, observers=[recorder])
        with open(f"{file_path}-lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(StoreBusyError):
                store.open()
        (event,) = recorder.events
        assert (event.kind, event.timed_out) == ("lock", True)


class Calling(Observer):
    """Calls the store that it is told of, and keeps what came of that."""

    def __init__(self) -> None:
        self.store: Any = None
        self.outcomes: list[Any] = []

    def on_operation(self, event: OperationEvent, /) -> None:
        self._call()

    def on_commit(self, event: CommitEvent, /) -> None:
        self._call()

    def _call(self) -> None:
        if isinstance(self.store, AsyncContextStore):
            coroutine = self.store.get("run", "a")
            try:
                coroutine.send(None)
            except BaseException as error:
                self.outcomes.append(type(error))
            finally:
                coroutine.close()
        else:
            for call in (lambda: self.store.get("run", "a"), lambda: self.store.put("run", "b", 1), self.store.close):
                try:
                    self.outcomes.append(call())
                except BaseException as error:
                    self.outcomes.append(type(error))


class TestHostileObservers:
    @pytest.mark.each_input_once
    async def test_a_call_from_within_one_is_refused_at_once_and_not_told(self, make_store: Target) -> None:
        calling, recorder = Calling(), Recorder()
        async with make_store(observers=[calling, recorder]) as store:
            calling.store = store.plain if isinstance(store, Awaited) else core_of(store)
            await store.put("run", "a", 1)
            assert await store.get("run", "a") == 1
        assert calling.outcomes
        assert set(calling.outcomes) == {WrongLoopError}
        assert [event.operation for event in recorder.operations] == ["put", "get"]

    def test_it_may_call_another_store_and_the_other_may_not_call_back(self) -> None:
        class Chain(Observer):
            def __init__(self) -> None:
                self.next: ContextStore | None = None
                self.outcomes: list[Any] = []

            def on_operation(self, event: OperationEvent, /) -> None:
                assert self.next is not None
                try:
                    self.outcomes.append(self.next.get("run", "x", "nothing"))
                except WrongLoopError:
                    self.outcomes.append(WrongLoopError)

        one, other = Chain(), Chain()
        with ContextStore(":memory:", observers=[one]) as a, ContextStore(":memory:", observers=[other]) as b:
            one.next, other.next = b, a
            a.get("run", "a")
        assert (one.outcomes, other.outcomes) == (["nothing"], [WrongLoopError])

    @pytest.mark.each_input_once
    async def test_what_one_raises_is_logged_and_dropped_and_the_others_are_told(
        self, make_store: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Raising(Observer):
            def on_operation(self, event: OperationEvent, /) -> None:
                raise ValueError("of an observer")

            def on_commit(self, event: CommitEvent, /) -> None:
                raise OSError("of an observer")

        recorder = Recorder()
        async with make_store(observers=[Raising(), recorder]) as store:
            await store.put("run", "a", 1)
            assert await store.get("run", "a") == 1
            assert await store.get("run", "a") == 1
            counters = (store.plain if isinstance(store, Awaited) else store).counters()
        assert [event.operation for event in recorder.operations] == ["put", "get", "get"]
        assert len(recorder.commits) == 1
        failures = [record for record in caplog.records if "observer" in record.getMessage()]
        facts = [getattr(record, "contextstore", {}) for record in failures]
        assert sorted((fact["method"], fact["error_type"]) for fact in facts) == [
            ("on_commit", "OSError"),
            ("on_operation", "ValueError"),  # once, and not for each call
        ]
        assert counters.troubles["observer"] >= 3

    def test_an_interrupt_in_one_reaches_the_caller_and_the_write_stands(self) -> None:
        class Interrupting(Observer):
            def on_operation(self, event: OperationEvent, /) -> None:
                if event.operation == "put":
                    raise KeyboardInterrupt

        with ContextStore(":memory:", observers=[Interrupting()]) as store:
            with pytest.raises(KeyboardInterrupt):
                store.put("run", "a", 1)
            assert store.get("run", "a") == 1

    async def test_a_cancelled_call_is_told_once(self) -> None:
        recorder = Recorder()
        async with AsyncContextStore(":memory:", observers=[recorder]) as store:
            task = asyncio.create_task(store.wait_for("run", "never"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        (event,) = recorder.operations
        assert (event.operation, event.error) == ("wait_for", "CancelledError")

    def test_a_call_that_the_closing_ends_is_told(self) -> None:
        recorder = Recorder()
        store = ContextStore(":memory:", observers=[recorder])
        store.open()
        waiting = threading.Thread(target=_wait, args=(store,))
        waiting.start()
        while not store.counters().calls.get("wait_for"):
            pass
        store.close()
        waiting.join(60)
        assert not waiting.is_alive()
        (event,) = recorder.operations
        assert (event.operation, event.error) == ("wait_for", "StoreClosedError")


def _wait(store: ContextStore) -> None:
    with contextlib.suppress(Exception):
        store.wait_for("run", "never", timeout=60)
