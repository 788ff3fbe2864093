"""Outputs: one, or several, written once and read as what they are.

Rules of this module: operations and records; no SQL, no threads. A call that writes encodes before it awaits anything
and returns what is to be awaited, so that a call which waits for its commit keeps what is stored, and not what it was
made of as well.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from typing import Any

from .._engine.epochs import is_known
from .._engine.operations import Appended, AppendOutput, Operation
from .._engine.portions import portions
from .._engine.records import OutputKey, OutputRecord
from .._results import Output
from .._values.arguments import ExistOk, check_exist_ok, check_tag
from .._values.codec import Encoded, decode
from .._values.keys import Id, Outputs, append_prefix_key, flow_run_key, node_key, output_key
from .._waiting.outcome import Outcome
from .answers import converted, output_of, there
from .arguments import output_keys, several
from .backend import State
from .lives import Life, Lives
from .session import Session

PAGE_ROWS = 200  # rows of a page at most,
PAGE_BYTES = 2**20  # and about so many bytes: what an iteration holds in memory
_GET_MANY = 500  # outputs that get_many fetches in one trip to the engine


def append_operation(
    session: Session, flow_run_id: Id, prefix: str, value: Any, key: Id | None, tag: str | None
) -> AppendOutput:
    """What is to be appended, checked and encoded."""
    flow_run, literal = flow_run_key(flow_run_id), append_prefix_key(prefix)
    name = None if key is None else node_key(key, "key")
    checked = check_tag(tag)
    encoded = session.encode(value, flow_run, f"{literal}…")
    return AppendOutput(flow_run, literal, encoded if checked is None else encoded._replace(tag=checked), name)


async def _id_of(commit: Coroutine[Any, Any, list[Any]]) -> str:
    appended: Appended
    (appended,) = await commit
    return appended.node_id


class OutputService:
    """What the stores' calls for outputs do: the async face has their documentation.

    A run object's calls name their life: see ``lives``.
    """

    def __init__(self, session: Session, lives: Lives) -> None:
        self._session = session
        self._lives = lives

    # -- one ----------------------------------------------------------------------------------------------------------

    def put(
        self,
        flow_run_id: Id,
        node_id: Id,
        value: Any,
        exist_ok: ExistOk,
        tag: str | None = None,
        life: Life | None = None,
    ) -> Coroutine[Any, Any, list[Any]]:
        session = self._session
        session.callers.admit()
        flow_run, node = output_key(flow_run_id, node_id)
        put = session.put_of(flow_run, node, value, exist_ok, tag)
        return session.commit([put]) if life is None else self._lives.commit(life, [put])

    def append(
        self, flow_run_id: Id, prefix: str, value: Any, key: Id | None, tag: str | None, life: Life | None = None
    ) -> Coroutine[Any, Any, str]:
        session = self._session
        session.callers.admit()
        append = append_operation(session, flow_run_id, prefix, value, key, tag)
        return _id_of(self._lives.commit(life, [append]))

    async def get(self, flow_run_id: Id, node_id: Id, default: Any, type: Any, life: Life | None = None) -> Any:
        session = self._session
        session.callers.admit()
        if session.backend.state is not State.OPEN:
            await session.open()
        key = output_key(flow_run_id, node_id)
        value = session.cache.get(key) if life is None else await self._lives.get(life, key)
        if value is None:
            record = await session.fetch(key) if life is None else None
            if record is None:
                return default
            value = record.value
        return decode(value) if type is None else converted(value, type, flow_run_id, node_id)

    async def exists(self, flow_run_id: Id, node_id: Id, life: Life | None = None) -> bool:
        session = self._session
        await session.ready()
        key = output_key(flow_run_id, node_id)
        if life is not None and self._lives.cached(life, key) is not None:
            return True
        if life is None and session.cache.get(key) is not None:
            return True
        return await self._lives.read(life, session.read(session.engine.exists, key), False)

    async def get_entry(self, flow_run_id: Id, node_id: Id, type: Any, life: Life | None = None) -> Output | None:
        await self._session.ready()
        key = output_key(flow_run_id, node_id)
        record = await self._lives.read(life, self._session.fetch(key), None)
        return None if record is None else output_of(key[0], record, type)

    # -- several ------------------------------------------------------------------------------------------------------

    def put_many(
        self, flow_run_id: Id, outputs: Outputs, exist_ok: ExistOk, life: Life | None = None
    ) -> Coroutine[Any, Any, list[str]]:
        session = self._session
        session.callers.admit()
        flow_run = flow_run_key(flow_run_id)
        if not isinstance(outputs, Mapping):
            raise TypeError(f"outputs must be a mapping of node ids to values, not {type(outputs).__name__}")
        check_exist_ok(exist_ok)  # also of an empty mapping
        puts: list[Operation] = []
        nodes: list[str] = []
        for node_id, value in dict(outputs).items():
            node = node_key(node_id)
            puts.append(session.put_of(flow_run, node, value, exist_ok))
            nodes.append(node)
        return self._written(self._lives.commit(life, puts) if puts else None, nodes)

    async def _written(self, commit: Coroutine[Any, Any, list[Any]] | None, nodes: list[str]) -> list[str]:
        """Those of the nodes whose puts have written an output."""
        if commit is None:
            await self._session.ready()
            return []
        return [node for node, is_written in zip(nodes, await commit, strict=True) if is_written]

    async def get_many(
        self, flow_run_id: Id, node_ids: Iterable[Id], type: Any, life: Life | None = None
    ) -> dict[str, Any]:
        await self._session.ready()
        flow_run = flow_run_key(flow_run_id)
        keys = list(dict.fromkeys((flow_run, node_key(node_id)) for node_id in several(node_ids)))
        found = await self._lives.read(life, self._values(keys, type), {})
        return {key[1]: value for key, value in found.items()}

    async def get_outputs(self, pairs: Iterable[tuple[Id, Id]], type: Any) -> dict[OutputKey, Any]:
        await self._session.ready()
        return await self._values(list(dict.fromkeys(output_keys(pairs))), type)

    async def _values(self, keys: list[OutputKey], type: Any) -> dict[OutputKey, Any]:
        found = await self._of_one_life(keys)
        if type is None:
            return {key: decode(value) for key, value in found.items()}
        return {key: converted(value, type, *key) for key, value in found.items()}

    async def _of_one_life(self, keys: list[OutputKey]) -> dict[OutputKey, Encoded]:
        """Outputs, those of each run all of one life of its id, in the order of the keys."""
        epochs = self._session.engine.epochs
        epoch = epochs.now[0]
        found = self._session.cache.get_several(keys, in_part=epochs.is_exact)
        missing = [key for key in keys if key not in found]
        if not missing or found:
            if missing:
                found |= await self._fetch(missing)
            if is_known(epoch) and epochs.now[0] == epoch:
                return {key: found[key] for key in keys if key in found}
        # All of them: what was cached may be of a life before that of what is read.
        found = await self._fetch(keys)
        return {key: found[key] for key in keys if key in found}

    async def _fetch(self, keys: list[OutputKey]) -> dict[OutputKey, Encoded]:
        """In any order. One trip to the engine gives what is of one moment: no run is divided if it can be helped."""
        by_run: dict[str, list[OutputKey]] = {}
        for key in keys:
            by_run.setdefault(key[0], []).append(key)
        found: dict[OutputKey, Encoded] = {}
        for part in portions(by_run.values(), len, _GET_MANY, _GET_MANY):
            together = [key for of_run in part for key in of_run]
            found |= await (self._fetch_at_once(together) if len(together) <= _GET_MANY else self._fetch_run(together))
        return found

    async def _fetch_at_once(self, keys: list[OutputKey]) -> dict[OutputKey, Encoded]:
        records = await self._session.fetch_many(keys)
        return {key: record.value for key, record in records.items()}

    async def _fetch_run(self, keys: list[OutputKey]) -> dict[OutputKey, Encoded]:
        """So many of one run that they take several trips."""
        session = self._session
        while True:
            run = await self._serial_now(keys[0][0])
            records: dict[OutputKey, OutputRecord] = {}
            for start in range(0, len(keys), _GET_MANY):
                records |= await session.fetch_many(keys[start : start + _GET_MANY])
            # Else the run was deleted, or its id used anew, between two trips, or it has just begun.
            if {record.run for record in records.values()} <= {run} and run == await self._serial_now(keys[0][0]):
                return {key: record.value for key, record in records.items()}

    async def _serial_now(self, flow_run: str) -> int | None:
        """The serial of the run that has the id now. None: one without outputs, or none."""
        page = await self._session.read(self._session.engine.page_outputs, flow_run, None, "", 1, 1)
        return next((outcome.result.run for outcome in page if outcome.result is not None), None)

    # -- for the services that go through a run -----------------------------------------------------------------------

    async def records(self, flow_run: str, after: str, life: Life | None = None) -> AsyncGenerator[OutputRecord, None]:
        """The outputs with a node id above ``after``, by node id, a page at a time."""
        run = None
        if life is not None:
            await self._session.ready()
            run = await self._lives.serial(life)
            if run is None:
                return
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
