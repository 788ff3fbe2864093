"""The host and its thread around an engine: opened, called and closed in order, whatever fails."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import StorageError, StoreClosedError
from contextstore._dispatch.host import EngineHost

from ..support.fake_engine import FakeEngine, SharedFuture


def result_of(future: SharedFuture[Any]) -> Any:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(10)
    return future.result()


class Hosted:
    """A host, and what happened in it in order."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.is_ending = threading.Event()
        self.at_the_end: Callable[[], object] = lambda: None
        self.host = EngineHost(self.engine, self._refuse_calls)

    def _refuse_calls(self) -> None:
        self.engine.calls.append("refuse calls")
        self.at_the_end()
        self.is_ending.set()

    def start(self) -> None:
        self.host.start()
        result_of(self.host.opened).unwrap()

    def stop(self) -> None:
        self.host.stop()
        result_of(self.host.closed)
        self.host.thread.join(10)


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    hosted = Hosted()
    yield hosted
    hosted.host.start()  # if it never was, to its end all the same
    hosted.stop()


async def thread_here() -> int:
    return threading.get_ident()


def test_the_engine_is_opened_in_the_hosts_thread_and_closed_when_it_is_stopped(hosted: Hosted) -> None:
    hosted.start()
    assert hosted.engine.calls == ["open"]
    assert hosted.host.thread.ident in hosted.engine.own_threads
    hosted.stop()
    assert hosted.engine.calls == ["open", "refuse calls", "close"]
    assert not hosted.host.thread.is_alive()
    assert hosted.host.thread.ident not in hosted.engine.own_threads
    assert result_of(hosted.host.closed).error is None


def test_it_may_be_started_and_stopped_any_number_of_times_and_lives_once(hosted: Hosted) -> None:
    for _ in range(3):
        hosted.host.start()
    result_of(hosted.host.opened).unwrap()
    for _ in range(3):
        hosted.host.stop()
    result_of(hosted.host.closed).unwrap()
    hosted.host.start()
    hosted.host.stop()
    hosted.host.thread.join(10)
    assert hosted.engine.calls == ["open", "refuse calls", "close"]


def test_one_that_is_stopped_before_it_is_open_is_opened_and_closed(hosted: Hosted) -> None:
    hosted.host.stop()
    hosted.host.start()
    assert result_of(hosted.host.opened).error is None
    assert result_of(hosted.host.closed).error is None
    assert hosted.engine.calls == ["open", "refuse calls", "close"]


@pytest.mark.parametrize("error", [StorageError("no such server"), ZeroDivisionError("a bug")], ids=repr)
def test_an_engine_that_cannot_be_opened_ends_the_thread_and_says_why(hosted: Hosted, error: Exception) -> None:
    hosted.engine.fail("open", error)
    hosted.host.start()
    assert result_of(hosted.host.opened).error is error
    assert result_of(hosted.host.closed).error is None  # which was said already
    hosted.host.thread.join(10)
    assert hosted.engine.calls == ["open"]
    with pytest.raises(StoreClosedError):
        hosted.host.call(thread_here)


def test_a_system_that_has_no_descriptors_left_is_an_error_of_the_store(hosted: Hosted) -> None:
    hosted.engine.fail("open", OSError(24, "Too many open files"))
    hosted.host.start()
    error = result_of(hosted.host.opened).error
    assert type(error) is StorageError
    assert str(error) == "could not open fake: [Errno 24] Too many open files"


def test_an_engine_that_cannot_be_closed_says_why_and_its_thread_ends(hosted: Hosted) -> None:
    error = StorageError("the disk is full")
    hosted.start()
    hosted.engine.fail("close", error)
    hosted.host.stop()
    assert result_of(hosted.host.closed).error is error


class TestACall:
    def test_runs_in_the_hosts_thread_and_gives_its_result(self, hosted: Hosted) -> None:
        hosted.start()
        assert result_of(hosted.host.call(thread_here)).unwrap() == hosted.host.thread.ident

    def test_gives_the_error_that_it_raises(self, hosted: Hosted) -> None:
        error = StorageError("failed")
        hosted.start()
        hosted.engine.fail("count", error)
        assert result_of(hosted.host.call(hosted.engine.count)).error is error

    @pytest.mark.parametrize("prepare", [lambda hosted: None, lambda hosted: (hosted.start(), hosted.stop())])
    def test_is_refused_before_the_engine_is_open_and_after_it_is_closed(
        self, hosted: Hosted, prepare: Callable[[Hosted], object]
    ) -> None:
        prepare(hosted)
        with pytest.raises(StoreClosedError):
            hosted.host.call(thread_here)

    def test_under_way_comes_to_its_end_before_the_engine_is_closed(self, hosted: Hosted) -> None:
        let: list[Callable[[], object]] = []
        begun = threading.Event()

        async def slow() -> str:
            waits, loop = asyncio.Event(), asyncio.get_running_loop()
            let.append(lambda: loop.call_soon_threadsafe(waits.set))
            begun.set()
            await waits.wait()
            hosted.engine.calls.append("called")
            return "done"

        hosted.start()
        call = hosted.host.call(slow)
        assert begun.wait(10)
        hosted.host.stop()
        assert hosted.is_ending.wait(10)
        let[0]()
        assert result_of(call).unwrap() == "done"
        result_of(hosted.host.closed).unwrap()
        assert hosted.engine.calls == ["open", "refuse calls", "called", "close"]

    def test_that_was_accepted_at_the_last_moment_comes_to_its_end(self, hosted: Hosted) -> None:
        accepted: list[SharedFuture[Any]] = []
        hosted.at_the_end = lambda: accepted.append(hosted.host.call(thread_here))
        hosted.start()
        hosted.stop()
        assert result_of(accepted[0]).unwrap() == hosted.host.thread.ident

    def test_sees_nothing_of_the_callers_context(self, hosted: Hosted) -> None:
        span: contextvars.ContextVar[str] = contextvars.ContextVar("span", default="none")

        async def look() -> str:
            return span.get()

        hosted.start()
        token = span.set("the caller's")
        try:
            assert result_of(hosted.host.call(look)).unwrap() == "none"
        finally:
            span.reset(token)


def test_what_was_posted_before_the_end_is_done_before_the_engine_is_closed(hosted: Hosted) -> None:
    async def job() -> None:
        hosted.engine.calls.append("a job")

    hosted.start()
    hosted.engine.post_write(job)
    hosted.engine.post_read(job)
    hosted.stop()
    assert hosted.engine.calls == ["open", "refuse calls", "a job", "a job", "close"]
