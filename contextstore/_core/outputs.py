"""Outputs: one, several, or all of a run, written once and read as what they are.

Rules of this module: operations and records; no SQL, no threads. A call that writes encodes before it awaits anything
and returns what is to be awaited, so that a call which waits for its commit keeps what is stored, and not what it was
made of as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Mapping
from typing import Any

from .._engine.epochs import is_known
from .._engine.operations import Operation, PutOutput
from .._engine.records import OutputKey, OutputRecord
from .._results import Output
from .._values.codec import Encoded, decode
from .._values.keys import Id, Outputs, flow_run_key, node_key, output_key, prefix_key
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError
from .answers import converted, output_of, there
from .arguments import several
from .session import Session, State

PAGE_ROWS = 200  # rows of a page at most,
PAGE_BYTES = 2**20  # and about so many bytes: what an iteration holds in memory
_GET_MANY = 500  # outputs that get_many fetches in one trip to the engine
_LIST_KEYS = 5000  # node ids that are listed by one look


class OutputService:
    """What the stores' calls for outputs do: the async face has their documentation."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # -- one ----------------------------------------------------------------------------------------------------------

    def put(self, flow_run_id: Id, node_id: Id, value: Any, exist_ok: bool) -> Coroutine[Any, Any, list[Any]]:
        session = self._session
        session.callers.admit()
        flow_run, node = output_key(flow_run_id, node_id)
        return session.commit([PutOutput(flow_run, node, session.encode(value, flow_run, node), exist_ok)])

    async def get(self, flow_run_id: Id, node_id: Id, default: Any, type: Any) -> Any:
        session = self._session
        session.callers.admit()
        if session.state is not State.OPEN:
            await session.open()
        key = output_key(flow_run_id, node_id)
        value = session.cache.get(key)
        if value is None:
            record = await session.reader.fetch(key)
            if record is None:
                return default
            value = record.value
        return decode(value) if type is None else converted(value, type, flow_run_id, node_id)

    async def exists(self, flow_run_id: Id, node_id: Id) -> bool:
        session = self._session
        await session.ready()
        key = output_key(flow_run_id, node_id)
        return session.cache.get(key) is not None or await session.read(session.engine.exists, key)

    async def get_entry(self, flow_run_id: Id, node_id: Id) -> Output | None:
        await self._session.ready()
        key = output_key(flow_run_id, node_id)
        record = await self._session.reader.fetch(key)
        return None if record is None else output_of(key[0], record)

    # -- several ------------------------------------------------------------------------------------------------------

    def put_many(self, flow_run_id: Id, outputs: Outputs, exist_ok: bool) -> Coroutine[Any, Any, object]:
        session = self._session
        session.callers.admit()
        flow_run = flow_run_key(flow_run_id)
        if not isinstance(outputs, Mapping):
            raise TypeError(f"outputs must be a mapping of node ids to values, not {type(outputs).__name__}")
        puts: list[Operation] = []
        for node_id, value in dict(outputs).items():
            node = node_key(node_id)
            puts.append(PutOutput(flow_run, node, session.encode(value, flow_run, node), exist_ok))
        return session.commit(puts) if puts else session.ready()

    async def get_many(self, flow_run_id: Id, node_ids: Iterable[Id]) -> dict[str, Any]:
        await self._session.ready()
        flow_run = flow_run_key(flow_run_id)
        keys = list(dict.fromkeys((flow_run, node_key(node_id)) for node_id in several(node_ids)))
        return {key[1]: decode(value) for key, value in (await self._of_one_life(keys)).items()}

    async def _of_one_life(self, keys: list[OutputKey]) -> dict[OutputKey, Encoded]:
        """The outputs of one run, all of one life of its id, in the order of the keys."""
        epochs = self._session.engine.epochs
        epoch = epochs.now[0]
        found = self._cached(keys)
        missing = [key for key in keys if key not in found]
        if not missing or (found and epochs.is_exact):
            if missing:
                found |= await self._fetch(missing)
            if is_known(epoch) and epochs.now[0] == epoch:
                return {key: found[key] for key in keys if key in found}
        # All of them: what was cached may be of a life before that of what is read.
        return await self._fetch(keys)

    def _cached(self, keys: list[OutputKey]) -> dict[OutputKey, Encoded]:
        cache = self._session.cache
        return {key: value for key in keys if (value := cache.get(key)) is not None}

    async def _fetch(self, keys: list[OutputKey]) -> dict[OutputKey, Encoded]:
        reader = self._session.reader
        if len(keys) <= _GET_MANY:
            records = await reader.fetch_many(keys)
            return {key: record.value for key, record in records.items()}
        while True:
            run = await self._serial_now(keys[0][0])
            records = {}
            for start in range(0, len(keys), _GET_MANY):
                records |= await reader.fetch_many(keys[start : start + _GET_MANY])
            # Else the run was deleted, or its id used anew, between two trips, or it has just begun.
            if {record.run for record in records.values()} <= {run} and run == await self._serial_now(keys[0][0]):
                return {key: record.value for key, record in records.items()}

    async def _serial_now(self, flow_run: str) -> int | None:
        """The serial of the run that has the id now. None: one without outputs, or none."""
        page = await self._session.read(self._session.engine.page_outputs, flow_run, None, "", 1, 1)
        return next((outcome.result.run for outcome in page if outcome.result is not None), None)

    # -- all of a run -------------------------------------------------------------------------------------------------

    async def list_keys(self, flow_run_id: Id, prefix: str) -> list[str]:
        session = self._session
        await session.ready()
        flow_run, literal = flow_run_key(flow_run_id), prefix_key(prefix)
        first = await session.read(session.engine.first_node_ids, flow_run, literal, _LIST_KEYS)
        if len(first) < _LIST_KEYS:
            return first
        # Anew, so that all are of one moment, and where it keeps no get waiting.
        return await session.scan(session.engine.list_node_ids, flow_run, literal)

    async def get_run(self, flow_run_id: Id) -> dict[str, Any]:
        try:
            return {output.node_id: output.value async for output in self.iterate(flow_run_id, None)}
        except CorruptStoreError as error:
            if error.node_id is None:
                raise
            raise CorruptStoreError(
                f"{error.message}; iter_outputs gives the outputs before it, and with after={error.node_id!r} those "
                "behind it",
                flow_run_id=error.flow_run_id,
                node_id=error.node_id,
            ) from error.__cause__

    async def iterate(self, flow_run_id: Id, after: Id | None) -> AsyncIterator[Output]:
        flow_run = flow_run_key(flow_run_id)
        first = "" if after is None or after == "" else node_key(after, "after")
        async with contextlib.aclosing(self.records(flow_run, first)) as records:
            async for record in records:
                yield output_of(flow_run, record)

    # -- for the services that go through a run -----------------------------------------------------------------------

    async def records(self, flow_run: str, after: str) -> AsyncGenerator[OutputRecord, None]:
        """The outputs with a node id above ``after``, by node id, a page at a time."""
        run = None
        while page := await self.page(flow_run, run, after):
            for outcome in page:
                record = outcome.unwrap()
                after, run = record.node_id, record.run
                yield record
                # A closed store answers nothing more, not even with what was fetched ahead.
                await self._session.ready()

    async def page(self, flow_run: str, run: int | None, after: str) -> list[Outcome[OutputRecord]]:
        """A page of the outputs; with the serial of a run only of that one, not of a later life of its id."""
        session = self._session
        await session.ready()
        return there(await session.read(session.engine.page_outputs, flow_run, run, after, PAGE_ROWS, PAGE_BYTES))
