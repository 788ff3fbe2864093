"""OpenTelemetry: a store's calls as spans, and its figures as metrics. Extra ``otel``.

    from contextstore import ContextStore
    from contextstore.telemetry import OpenTelemetryObserver

    store = ContextStore("flows.db", observers=[OpenTelemetryObserver()])

Rules of this module: it is an observer as any other, made of public names alone. Names, kinds, units and boundaries are
those of the stable conventions for database clients (semantic conventions 1.33 and later), and ``contextstore.…`` where
these have none. Ids of runs and nodes and keys are on spans alone, never on a metric: there are too many of them.
https://opentelemetry.io/docs/specs/semconv/db/
"""

from __future__ import annotations

import datetime
import re
import urllib.parse

from . import __version__
from .observers import CommitEvent, ErrorEvent, Observer, OperationEvent, WaitEvent

try:
    from opentelemetry.metrics import Histogram, MeterProvider, get_meter
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer
except ModuleNotFoundError as error:
    raise ImportError("contextstore.telemetry needs OpenTelemetry: pip install 'contextstore[otel]'") from error

__all__ = ["OpenTelemetryObserver"]

_SCHEMA = "https://opentelemetry.io/schemas/1.33.0"

_DURATIONS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""Seconds: the boundaries that the conventions recommend."""
_SHORT_DURATIONS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10, 30)
"""Seconds of a commit, or a wait: one that a disk acknowledges takes some tenths of a millisecond."""
_GROUPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_COLLECTIONS = {
    "outputs": "put get exists get_entry put_many get_many list_keys get_run iter_outputs get_or_put wait_for watch "
    "delete_outputs append get_outputs list_outputs step",
    "globals": "put_global upsert_global get_global get_global_entry list_globals delete_global update_global "
    "list_global_keys get_globals delete_globals wait_for_global",
    "flow_runs": "list_runs fork_run delete_run prune begin update get_run_info wait_for_run watch_runs attempts",
    "run_states": "get_state upsert_state update_state list_state",
    "leases": "lease list_leases",
}
"""What a call is about, by the name that it has in the database: two views and tables. Others are about all of it."""
_COLLECTION_OF = {call: collection for collection, calls in _COLLECTIONS.items() for call in calls.split()}
_POSTGRES_PORT = 5432
_HIDDEN = "***"
"""What stands in a location for what may be a part of a password."""
_HOST = re.compile(r"(?:\[(?P<address>[^]]+)]|(?P<name>[^][:,]+))(?::(?P<port>\d+))?")
"""The first of a URL's hosts."""

_Attributes = dict[str, str | int]


class OpenTelemetryObserver(Observer):
    """Makes a span of each call, and metrics of calls, commits, waits and the cache. For any number of stores.

    A span has the caller's as its parent, and the times of the call. Nothing is made of values.

    Args:
        tracer_provider, meter_provider: where to make spans and metrics. None: those that are set globally.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = get_tracer("contextstore", __version__, tracer_provider, _SCHEMA)
        meter = get_meter("contextstore", __version__, meter_provider, _SCHEMA)
        self._places: dict[str, _Attributes] = {}

        def histogram(name: str, unit: str, description: str, boundaries: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=boundaries)

        self._operations = histogram(
            "db.client.operation.duration", "s", "Duration of database client operations.", _DURATIONS
        )
        self._commits = histogram(
            "contextstore.commit.duration", "s", "Duration of commits, until they are durable.", _SHORT_DURATIONS
        )
        self._queued = histogram(
            "contextstore.commit.queue.duration", "s", "How long a commit's first write had waited.", _SHORT_DURATIONS
        )
        self._groups = histogram("contextstore.commit.units", "{unit}", "Calls that shared a commit.", _GROUPS)
        self._bytes = meter.create_counter("contextstore.commit.size", "By", "Bytes of the values given to commits.")
        self._waits = histogram("contextstore.wait.duration", "s", "Duration of waits for others.", _SHORT_DURATIONS)
        self._hits = meter.create_counter("contextstore.cache.hits", "{read}", "Reads that memory alone has answered.")
        self._misses = meter.create_counter("contextstore.cache.misses", "{read}", "Reads that memory did not answer.")
        self._troubles = meter.create_counter("contextstore.troubles", "{error}", "Troubles that no call has raised.")

    def on_operation(self, event: OperationEvent, /) -> None:
        """Make a span of the call, and count it."""
        attributes = self._place_of(event) | {"db.operation.name": event.operation}
        collection = _COLLECTION_OF.get(event.operation)
        if collection is not None:
            attributes["db.collection.name"] = collection
        target = collection or attributes.get("db.namespace") or attributes.get("server.address") or event.engine
        _add_failure(attributes, event)
        began = _nanoseconds(event.started_at)
        span = self._tracer.start_span(
            f"{event.operation} {target}",
            kind=SpanKind.CLIENT,
            start_time=began,
            attributes=attributes | _of_one_call(event),
        )
        if event.error is not None:
            span.set_status(Status(StatusCode.ERROR, event.error))
        span.end(began + round(event.seconds * 1e9))
        self._operations.record(event.seconds, attributes)
        if event.cached is not None:
            (self._hits if event.cached else self._misses).add(1, self._place_of(event))

    def on_commit(self, event: CommitEvent, /) -> None:
        """Measure the commit."""
        place = self._place_of(event)
        attributes = dict(place)
        _add_failure(attributes, event)
        self._commits.record(event.seconds, attributes)
        self._queued.record(event.queued_seconds, place)
        self._groups.record(event.units, place)
        self._bytes.add(event.size, place)

    def on_wait(self, event: WaitEvent, /) -> None:
        """Measure the wait."""
        attributes = self._place_of(event) | {"contextstore.wait.kind": event.kind}
        if event.timed_out:
            attributes["error.type"] = "timeout"
        self._waits.record(event.seconds, attributes)

    def on_error(self, event: ErrorEvent, /) -> None:
        """Count the trouble."""
        attributes = self._place_of(event) | {"contextstore.trouble.kind": event.kind, "error.type": event.error}
        self._troubles.add(1, attributes)

    def _place_of(self, event: OperationEvent | CommitEvent | WaitEvent | ErrorEvent) -> _Attributes:
        """The attributes that are the same for all that a store does."""
        place = self._places.get(event.location)
        if place is None:
            place = self._places[event.location] = _place(event.engine, event.location)
        return place


def _place(engine: str, location: str) -> _Attributes:
    if engine != "postgresql":
        return {"db.system.name": engine, "db.namespace": location}
    place: _Attributes = {"db.system.name": engine}
    url = urllib.parse.urlsplit(location)
    options = dict(urllib.parse.parse_qsl(url.query))
    user, _, hosts = url.netloc.rpartition("@")
    # As the server has it, a database that is not named is that of the user's name.
    database = url.path[1:] or options.get("dbname") or options.get("database") or user or options.get("user", "")
    if database and _HIDDEN not in database:
        database = urllib.parse.unquote(database)
        place["db.namespace"] = f"{database}|{options.get('schema', 'contextstore')}"
    first = _HOST.match(hosts or options.get("host", ""))
    if first is not None:
        place["server.address"] = first["address"] or first["name"]
        port = first["port"] or options.get("port", "").partition(",")[0]
        if port and int(port) != _POSTGRES_PORT:
            place["server.port"] = int(port)
    return place


def _add_failure(attributes: _Attributes, event: OperationEvent | CommitEvent) -> None:
    if event.error is not None:
        attributes["error.type"] = event.error
        if event.code is not None:
            attributes["db.response.status_code"] = event.code


def _of_one_call(event: OperationEvent) -> _Attributes:
    """What only spans may have."""
    facts = {
        "contextstore.flow_run.id": event.flow_run_id,
        "contextstore.node.id": event.node_id,
        "contextstore.key": event.key,
        "contextstore.items": event.items,
        "contextstore.size": event.size,
        "contextstore.cached": event.cached,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _nanoseconds(moment: datetime.datetime) -> int:
    since_1970 = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return since_1970 // datetime.timedelta(microseconds=1) * 1000
