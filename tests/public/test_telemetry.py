"""OpenTelemetry: spans and metrics, against what the stable conventions for database clients require."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import subprocess
import sys
import time
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.attributes import db_attributes, error_attributes, server_attributes
from opentelemetry.semconv.metrics.db_metrics import DB_CLIENT_OPERATION_DURATION
from opentelemetry.trace import SpanKind, StatusCode

from contextstore import AsyncContextStore, ContextStore, telemetry
from contextstore._core import calls
from contextstore.observers import CommitEvent, ErrorEvent, WaitEvent
from contextstore.telemetry import OpenTelemetryObserver

from ..conftest import Target
from .test_readme import ROOT

RECOMMENDED_BOUNDARIES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""Of the histogram's, by the conventions."""
OF_METRICS = {
    db_attributes.DB_SYSTEM_NAME,
    db_attributes.DB_NAMESPACE,
    db_attributes.DB_OPERATION_NAME,
    db_attributes.DB_COLLECTION_NAME,
    db_attributes.DB_RESPONSE_STATUS_CODE,
    error_attributes.ERROR_TYPE,
    server_attributes.SERVER_ADDRESS,
    server_attributes.SERVER_PORT,
    "contextstore.wait.kind",
    "contextstore.trouble.kind",
}
"""All that a metric may have: of each there are few values."""


class Collector:
    """What an observer has made."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.observer = OpenTelemetryObserver(self.tracers, MeterProvider([self._reader]))

    @property
    def spans(self) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]

    @property
    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        resources = [] if data is None else data.resource_metrics
        return {m.name: m for resource in resources for scope in resource.scope_metrics for m in scope.metrics}

    def points(self, name: str) -> list[Any]:
        return list(self.metrics[name].data.data_points) if name in self.metrics else []


@pytest.fixture
def collector() -> Collector:
    return Collector()


def attributes_of(one: ReadableSpan | HistogramDataPoint | NumberDataPoint) -> dict[str, Any]:
    return dict(one.attributes or {})


class TestSpans:
    async def test_a_call_is_a_span_with_all_that_the_conventions_require(
        self, make_store: Target, collector: Collector
    ) -> None:
        async with make_store(observers=[collector.observer]) as store:
            await store.put("run-1", "extract", {"rows": 3})
            location = (await store.stats()).location
        put = next(span for span in collector.spans if span.name.startswith("put"))
        assert put.name == "put outputs"
        assert put.status.status_code is StatusCode.UNSET
        found = attributes_of(put)
        assert found[db_attributes.DB_OPERATION_NAME] == "put"
        assert found[db_attributes.DB_COLLECTION_NAME] == "outputs"
        if make_store.engine == "postgres":
            assert found[db_attributes.DB_SYSTEM_NAME] == db_attributes.DbSystemNameValues.POSTGRESQL.value
            database, schema = found[db_attributes.DB_NAMESPACE].split("|")
            assert f"/{database}" in location
            assert f"schema={schema}" in location
            assert found[server_attributes.SERVER_ADDRESS] in location
            port = found.get(server_attributes.SERVER_PORT, 5432)
            assert port == 5432 or f":{port}/" in location
        else:
            assert found[db_attributes.DB_SYSTEM_NAME] == "sqlite"
            assert found[db_attributes.DB_NAMESPACE] == location
            assert server_attributes.SERVER_ADDRESS not in found
        assert found["contextstore.flow_run.id"] == "run-1"
        assert found["contextstore.node.id"] == "extract"
        assert error_attributes.ERROR_TYPE not in found

    async def test_a_call_about_no_collection_is_named_by_the_namespace(
        self, make_store: Target, collector: Collector
    ) -> None:
        async with make_store(observers=[collector.observer]) as store:
            await store.ping()
        (span,) = collector.spans
        found = attributes_of(span)
        assert span.name == f"ping {found[db_attributes.DB_NAMESPACE]}"
        assert db_attributes.DB_COLLECTION_NAME not in found

    async def test_a_span_has_the_callers_as_its_parent_and_lies_within_it(
        self, make_store: Target, collector: Collector
    ) -> None:
        tracer = collector.tracers.get_tracer("of the program")
        async with make_store(observers=[collector.observer]) as store:
            with tracer.start_as_current_span("request") as parent:
                before = time.time_ns()
                await store.put("run", "a", 1)
                await store.get("run", "a")
                after = time.time_ns()
        put, get = collector.spans
        for span in (put, get):
            assert span.parent is not None
            assert span.parent.span_id == parent.get_span_context().span_id
            assert span.start_time is not None
            assert span.end_time is not None
            # A datetime has microseconds.
            assert before - 1000 <= span.start_time <= span.end_time <= after + 1_000_000

    async def test_a_call_that_fails_has_the_errors_type_and_status(
        self, make_store: Target, collector: Collector
    ) -> None:
        async with make_store(observers=[collector.observer]) as store:
            await store.put("run", "a", "one")
            with contextlib.suppress(Exception):
                await store.put("run", "a", "a-value-that-no-span-may-have")
        failed = collector.spans[-1]
        assert attributes_of(failed)[error_attributes.ERROR_TYPE] == "AlreadyExistsError"
        assert failed.status.status_code is StatusCode.ERROR
        assert "a-value-that-no-span-may-have" not in failed.to_json()

    def test_an_error_of_the_engine_has_its_code(self, tmp_path: pathlib.Path, collector: Collector) -> None:
        path = tmp_path / "store.db"
        with ContextStore(path) as store:
            store.put("run", "a", "x" * 100)
        with ContextStore(path, observers=[collector.observer], cache_bytes=0) as store:
            store.ping()
            content = bytearray(path.read_bytes())
            for page in range(1, len(content) // 4096):
                content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
            with open(path, "r+b") as file:
                file.write(content)
            with contextlib.suppress(Exception):
                store.get("run", "a")
        found = attributes_of(collector.spans[-1])
        assert found[error_attributes.ERROR_TYPE] == "CorruptStoreError"
        assert found[db_attributes.DB_RESPONSE_STATUS_CODE].startswith("SQLITE_CORRUPT")


class TestMetrics:
    async def test_each_call_is_in_the_histogram_of_durations_with_what_is_required(
        self, make_store: Target, collector: Collector
    ) -> None:
        async with make_store(observers=[collector.observer]) as store:
            for n in range(3):
                await store.put("run", f"{n}", n)
            with contextlib.suppress(Exception):
                await store.put("run", "0", 5)
        metric = collector.metrics[DB_CLIENT_OPERATION_DURATION]
        assert metric.unit == "s"
        good, bad = sorted(metric.data.data_points, key=lambda point: -point.count)
        assert (good.count, bad.count) == (3, 1)
        assert good.explicit_bounds == RECOMMENDED_BOUNDARIES
        for point in (good, bad):
            found = attributes_of(point)
            assert {db_attributes.DB_SYSTEM_NAME, db_attributes.DB_NAMESPACE} <= found.keys()
            assert found[db_attributes.DB_OPERATION_NAME] == "put"
            assert found[db_attributes.DB_COLLECTION_NAME] == "outputs"
        assert attributes_of(bad)[error_attributes.ERROR_TYPE] == "AlreadyExistsError"
        assert error_attributes.ERROR_TYPE not in attributes_of(good)

    async def test_a_duration_is_that_of_the_span(self, collector: Collector) -> None:
        async with AsyncContextStore(":memory:", observers=[collector.observer]) as store:
            await store.put("run", "a", 1)
        (span,) = collector.spans
        (point,) = collector.points(DB_CLIENT_OPERATION_DURATION)
        assert span.end_time is not None
        assert span.start_time is not None
        assert round(point.sum * 1e9) == span.end_time - span.start_time

    async def test_commits_the_cache_and_waits_are_measured(self, make_store: Target, collector: Collector) -> None:
        async with make_store(observers=[collector.observer]) as store:
            await asyncio.gather(*(store.put("run", f"{n}", "x" * 98) for n in range(10)))
            await store.get("run", "0")
            await store.get("run", "missing")
            with contextlib.suppress(TimeoutError):
                await store.wait_for("run", "never", timeout=0.001)
        units = collector.points("contextstore.commit.units")
        assert sum(point.sum for point in units) == 10
        (size,) = collector.points("contextstore.commit.size")
        assert size.value == 1000
        (hits,) = collector.points("contextstore.cache.hits")
        (misses,) = collector.points("contextstore.cache.misses")
        assert (hits.value, misses.value) == (1, 2)
        (wait,) = collector.points("contextstore.wait.duration")
        assert attributes_of(wait)["contextstore.wait.kind"] == "output"
        assert attributes_of(wait)[error_attributes.ERROR_TYPE] == "timeout"
        for name in ("contextstore.commit.duration", "contextstore.commit.queue.duration"):
            assert sum(point.count for point in collector.points(name)) == sum(point.count for point in units)

    def test_no_metric_has_an_attribute_of_which_there_are_many_values(self, collector: Collector) -> None:
        place = {"location": "postgresql://me@db.example:6543/flows?schema=runs", "engine": "postgresql"}
        observer = collector.observer
        with ContextStore(":memory:", observers=[observer]) as store:
            store.put("run", "a", 1)
            store.get("run", "a")
            store.put_global("key", 1)
        failure: Any = {"error": "StorageError", "code": "08006"}
        observer.on_commit(
            CommitEvent(
                units=1, operations=1, size=1, seconds=1, queued_seconds=0, outcome_unknown=True, **failure, **place
            )
        )
        observer.on_wait(WaitEvent(kind="connection", seconds=1, timed_out=False, **place))
        observer.on_error(ErrorEvent(kind="connection", **failure, **place))
        points = [point for metric in collector.metrics.values() for point in metric.data.data_points]
        assert {name for point in points for name in attributes_of(point)} <= OF_METRICS
        (commit,) = [p for p in collector.points("contextstore.commit.duration") if "error.type" in p.attributes]
        assert attributes_of(commit) == {
            db_attributes.DB_SYSTEM_NAME: "postgresql",
            db_attributes.DB_NAMESPACE: "flows|runs",
            server_attributes.SERVER_ADDRESS: "db.example",
            server_attributes.SERVER_PORT: 6543,
            error_attributes.ERROR_TYPE: "StorageError",
            db_attributes.DB_RESPONSE_STATUS_CODE: "08006",
        }


ABOUT_ALL_OF_IT = {"batch", "stats", "ping", "check", "backup", "cursor"}


def test_every_call_has_the_collection_that_it_is_about() -> None:
    tables = [table.values() for table in vars(calls).values() if isinstance(table, dict)]
    names = {call.name for table in tables for call in table if isinstance(call, calls.Call)} | {calls.BATCH.name}
    assert names - set(telemetry._COLLECTION_OF) == ABOUT_ALL_OF_IT
    assert set(telemetry._COLLECTION_OF) - names == set()


@pytest.mark.parametrize(
    ("location", "namespace", "address", "port"),
    [
        ("postgresql://me@h:5432/db", "db|contextstore", "h", None),
        ("postgresql://h/db?schema=s", "db|s", "h", None),
        ("postgresql://me@[::1]:5433/db", "db|contextstore", "::1", 5433),
        ("postgresql://me@[::1]/db", "db|contextstore", "::1", None),
        ("postgresql://a:1,b:2/db", "db|contextstore", "a", 1),
        ("postgresql:///db?host=h", "db|contextstore", "h", None),
        ("postgresql://me@h", "me|contextstore", "h", None),
        ("postgresql://h", None, "h", None),
        ("postgresql:///db?host=a%2Cb&port=5433%2C5434", "db|contextstore", "a", 5433),
        ("postgresql:///?host=h&port=5432&user=me", "me|contextstore", "h", None),
        ("postgresql://***@h/***", None, "h", None),
        ("postgresql://me%40home@h", "me@home|contextstore", "h", None),
    ],
)
def test_a_servers_place_is_told_as_the_conventions_have_it(
    location: str, namespace: str | None, address: str | None, port: int | None, collector: Collector
) -> None:
    event = WaitEvent(location=location, engine="postgresql", kind="connection", seconds=1, timed_out=False)
    collector.observer.on_wait(event)
    (point,) = collector.points("contextstore.wait.duration")
    found = attributes_of(point)
    assert found.get(db_attributes.DB_NAMESPACE) == namespace
    assert found.get(server_attributes.SERVER_ADDRESS) == address
    assert found.get(server_attributes.SERVER_PORT) == port


def test_one_observer_serves_several_stores(collector: Collector, tmp_path: pathlib.Path) -> None:
    for name in ("one.db", "two.db"):
        with ContextStore(tmp_path / name, observers=[collector.observer]) as store:
            store.put("run", "a", 1)
    namespaces = [attributes_of(span)[db_attributes.DB_NAMESPACE] for span in collector.spans]
    assert namespaces == [str(tmp_path / "one.db"), str(tmp_path / "two.db")]


@pytest.fixture
def without_opentelemetry(tmp_path: pathlib.Path) -> dict[str, str]:
    """An environment in which it cannot be imported, as if it were not installed."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    return {"PYTHONPATH": f"{hidden}:{ROOT}"}


def test_without_opentelemetry_the_import_says_what_to_install(without_opentelemetry: dict[str, str]) -> None:
    program = "import contextstore\ntry:\n import contextstore.telemetry\nexcept ImportError as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=without_opentelemetry, capture_output=True, text=True, timeout=60
    )
    assert "pip install 'contextstore[otel]'" in done.stdout, done.stderr
