"""The public calls, each counted, and told to the observers if there are any.

Rules of this module: it stands between a face and the services, which know nothing of it, and call each other behind
it. Which calls are public, and what of them an observer is told, stands in tables. A call to the store from within one
of its observers is refused by the service, and not told. Nor is one that a forked child may not make: what the
observers hold may be locked for ever there.
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple, TypeVar, cast

from .._dispatch.observed import Passage, passage
from .._engine.reports import Reports, code_of
from .._process.own_threads import Within, owner_here
from .._results import PruneReport
from .._values.keys import flow_run_key, global_key, node_key
from ..errors import ForkedProcessError, InvalidKeyError, WrongLoopError
from ..observers import OperationEvent

S = TypeVar("S")
T = TypeVar("T")
Items = Callable[[Any, Passage], int | None]


def _none(_: object, __: Passage) -> None:
    return None


def _length(result: Any, _: Passage) -> int | None:
    return None if result is None else len(result)


def _itself(result: Any, _: Passage) -> int | None:
    return cast("int | None", result)


def _written(_: object, through: Passage) -> int:
    return through.operations


def _runs(result: PruneReport | None, _: Passage) -> int | None:
    return None if result is None else result.runs


class Call(NamedTuple):
    """A public call."""

    name: str
    ids: tuple[str, ...] = ()
    """What its first arguments are."""
    items: Items = _none
    """How many things it was about, by its result (None if it has failed) and by what has passed for it."""


_OUTPUT = ("flow_run_id", "node_id")
_RUN = ("flow_run_id",)
_KEY = ("key",)

OUTPUTS = {
    "put": Call("put", _OUTPUT),
    "append": Call("append", _RUN),
    "get": Call("get", _OUTPUT),
    "exists": Call("exists", _OUTPUT),
    "get_entry": Call("get_entry", _OUTPUT),
    "put_many": Call("put_many", _RUN, _written),
    "get_many": Call("get_many", _RUN, _length),
    "get_outputs": Call("get_outputs", (), _length),
}
PARTS = {
    "list_keys": Call("list_keys", _RUN, _length),
    "list_outputs": Call("list_outputs", _RUN, _length),
    "get_run": Call("get_run", _RUN, _length),
    "iterate": Call("iter_outputs", _RUN),
    "iterate_now": Call("iter_outputs", _RUN),
}
GLOBALS = {
    "put": Call("put_global", _KEY),
    "upsert": Call("upsert_global", _KEY),
    "get": Call("get_global", _KEY),
    "get_entry": Call("get_global_entry", _KEY),
    "page": Call("list_globals", (), _length),
    "keys": Call("list_global_keys", (), _length),
    "get_several": Call("get_globals", (), _length),
    "delete_several": Call("delete_globals", (), _itself),
    "delete": Call("delete_global", _KEY),
    "update": Call("update_global", _KEY),
}
RUN_FACTS = {
    "begin": Call("begin", _RUN),
    "update": Call("update", _RUN),
    "info": Call("get_run_info", _RUN),
}
RUNS = {"fork": Call("fork_run", _RUN)}
RUN_LISTING = {"page": Call("list_runs", (), _length)}
_STATE = ("flow_run_id", "key")
RUN_STATE = {
    "get": Call("get_state", _STATE),
    "upsert": Call("upsert_state", _STATE),
    "update": Call("update_state", _STATE),
    "list_all": Call("list_state", _RUN, _length),
}
WAITS = {
    "get_or_put": Call("get_or_put", _OUTPUT),
    "wait_for": Call("wait_for", _OUTPUT),
}
STEPS = {"step": Call("step", _OUTPUT)}
WATCHING = {"watch": Call("watch", _RUN), "newest_cursor": Call("cursor")}
RUN_WATCHING = {"wait_for": Call("wait_for_run", _RUN), "watch": Call("watch_runs")}
GLOBAL_WAITS = {"wait_for": Call("wait_for_global", _KEY)}
ATTEMPTS = {"attempts": Call("attempts", _RUN, _length)}
DELETIONS = {"delete_outputs": Call("delete_outputs", _RUN, _itself)}
RETENTION = {"delete_run": Call("delete_run", _RUN, _itself), "prune": Call("prune", (), _runs)}
MAINTENANCE = {name: Call(name) for name in ("stats", "ping", "check", "backup")}
LEASES = {"acquire": Call("lease", _KEY), "page": Call("list_leases", (), _length)}
BATCH = Call("batch", (), _written)
"""By the method of a service, each as users know it."""


class _Service:
    """A service whose public calls are taken note of. What else it has is its own."""

    def __init__(self, service: object, calls: dict[str, Callable[..., Any]]) -> None:
        self._service = service
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


class Calls:
    """Those of one store object."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._are_told = reports.has_observers

    def of(self, service: S, table: dict[str, Call]) -> S:
        """The service with its public calls taken note of."""
        calls = {name: self.noted(call, getattr(service, name)) for name, call in table.items()}
        return cast("S", _Service(service, calls))

    def noted(self, call: Call, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that returns what is awaited, or iterated over, as one that is taken note of."""
        count = self._reports.calls.adder(call.name)
        told = _Told(self._reports, call, count, function)
        # Also where none wants the calls: what was noted is told at their ends.
        if inspect.isgeneratorfunction(function):
            return told.iterated_now if self._are_told else self._iterated_now(count, function)
        if inspect.isasyncgenfunction(function):
            return told.iterated if self._are_told else self._iterated(count, function)
        return told.awaited if self._are_told else self._awaited(count, function)

    # -- without observers: counted, and no more -----------------------------------------------------------------------

    def _awaited(self, count: Callable[[], int], function: Callable[..., Any]) -> Callable[..., Any]:
        add_error = self._reports.errors.add

        async def run(*args: Any) -> Any:
            count()
            try:
                coroutine = function(*args)
                del args  # a call that waits for its commit does not keep what it was given
                return await coroutine
            except BaseException as error:
                add_error(type(error).__name__)
                raise

        return run

    def _iterated(self, count: Callable[[], int], function: Callable[..., Any]) -> Callable[..., Any]:
        add_error = self._reports.errors.add

        async def run(*args: Any) -> AsyncIterator[Any]:
            count()
            try:
                async with contextlib.aclosing(function(*args)) as items:
                    async for item in items:
                        yield item
            except GeneratorExit:  # its consumer has seen enough
                raise
            except BaseException as error:
                add_error(type(error).__name__)
                raise

        return run

    def _iterated_now(self, count: Callable[[], int], function: Callable[..., Any]) -> Callable[..., Any]:
        add_error = self._reports.errors.add

        def run(*args: Any) -> Iterator[Any]:
            count()
            try:
                yield from function(*args)
            except GeneratorExit:  # its consumer has seen enough
                raise
            except BaseException as error:
                add_error(type(error).__name__)
                raise

        return run

    def plain(self, function: Callable[..., T]) -> Callable[..., T]:
        """A function whose errors count: the rest of a get that was answered from memory."""
        add_error = self._reports.errors.add

        def call(*args: Any) -> T:
            try:
                return function(*args)
            except Exception as error:  # counted, whatever it is, and raised on
                add_error(type(error).__name__)
                raise

        return call


class _Told:
    """A public call that observers are told of."""

    def __init__(self, reports: Reports, call: Call, count: Callable[[], int], function: Callable[..., Any]) -> None:
        self._reports = reports
        self._call = call
        self._count = count
        self._function = function

    async def awaited(self, *args: Any) -> Any:
        self._count()
        running = _Running(self._reports, self._call, args)
        try:
            with running.passing():
                coroutine = self._function(*args)
                del args  # a call that waits for its commit does not keep what it was given
                result = await coroutine
        except BaseException as error:
            running.end(None, error)
            raise
        running.end(result, None)
        return result

    async def iterated(self, *args: Any) -> AsyncGenerator[Any, None]:
        self._count()
        running = _Running(self._reports, self._call, args)
        running.items = 0
        running.seconds = 0.0
        items = self._function(*args)
        try:
            try:
                while True:
                    try:
                        with running.passing(), running.counting_seconds():
                            item = await anext(items)
                    except StopAsyncIteration:
                        break
                    running.items += 1
                    yield item
            finally:
                await items.aclose()
        except GeneratorExit:  # its consumer has seen enough
            running.leave()
            raise
        except BaseException as error:
            running.end(None, error)
            raise
        running.end(None, None)

    def iterated_now(self, *args: Any) -> Iterator[Any]:
        self._count()
        running = _Running(self._reports, self._call, args)
        running.items = 0
        running.seconds = 0.0
        items = self._function(*args)
        try:
            try:
                while True:
                    try:
                        with running.passing(), running.counting_seconds():
                            item = next(items)
                    except StopIteration:
                        break
                    running.items += 1
                    yield item
            finally:
                items.close()
        except GeneratorExit:  # its consumer has seen enough
            running.leave()
            raise
        except BaseException as error:
            running.end(None, error)
            raise
        running.end(None, None)


class _Running:
    """A call from its beginning to its end."""

    def __init__(self, reports: Reports, call: Call, args: tuple[Any, ...]) -> None:
        self._reports = reports
        self._call = call
        self._ids = {name: _stored(name, value) for name, value in zip(call.ids, args, strict=False)}
        self._through = Passage()
        self._started_at = datetime.datetime.now(datetime.UTC)
        self._began = time.perf_counter()
        self._thread = threading.get_ident()
        self.seconds: float | None = None
        """Of an iteration, as far as it has come."""
        self.items: int | None = None

    @contextlib.contextmanager
    def passing(self) -> Any:
        token = passage.set(self._through)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):  # it is being collected, in a context of another's
                passage.reset(token)

    @contextlib.contextmanager
    def counting_seconds(self) -> Any:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds = (self.seconds or 0.0) + time.perf_counter() - began

    def end(self, result: object, error: BaseException | None) -> None:
        """Once: the call has come to this.

        A coroutine that is closed is one that nobody awaits any more. Its collector may come in any thread, while that
        holds whatever it holds, a lock of the observer's own too.
        """
        if error is not None:
            self._reports.errors.add(type(error).__name__)
        is_from_observer = isinstance(error, WrongLoopError) and isinstance(owner_here(), Within)
        if is_from_observer or isinstance(error, ForkedProcessError):
            return
        event = self._event(result, error)
        if isinstance(error, GeneratorExit):
            self._reports.note("on_operation", event)
        else:
            self._reports.tell("on_operation", event)

    def leave(self) -> None:
        """Instead: the iteration was left, by its consumer or, as above, by what collects it."""
        event = self._event(None, None)
        if owner_here() is None and threading.get_ident() == self._thread:
            self._reports.tell("on_operation", event)
        else:
            self._reports.note("on_operation", event)

    def _event(self, result: object, error: BaseException | None) -> OperationEvent:
        through, ids = self._through, self._ids
        return OperationEvent(
            location=self._reports.location,
            engine=self._reports.engine,
            operation=self._call.name,
            flow_run_id=ids.get("flow_run_id"),
            node_id=ids.get("node_id"),
            key=ids.get("key"),
            started_at=self._started_at,
            seconds=time.perf_counter() - self._began if self.seconds is None else self.seconds,
            items=self._call.items(result, through) if self.items is None else self.items,
            size=through.size,
            cached=through.trips == 0 if through.asked_cache else None,
            error=None if error is None else type(error).__name__,
            code=None if error is None else code_of(error),
            outcome_unknown=getattr(error, "outcome_unknown", False) is True,
        )


_KEYS: dict[str, Callable[[Any], str]] = {"flow_run_id": flow_run_key, "node_id": node_key, "key": global_key}


def _stored(name: str, value: Any) -> str | None:
    """An id as it is stored; None: it can be none, and the call is about to be refused."""
    try:
        return _KEYS[name](value)
    except InvalidKeyError:
        return None
