"""Runs as wholes: new ones that begin with the outputs of another.

Rules of this module: operations and records; no SQL, no threads. What is copied goes in commits of bounded size, each
of which is final.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable

from .._engine.operations import LoadAppendCounter, LoadAppendKey, Operation, PutOutput
from .._engine.records import OutputRecord
from .._values.keys import Id, flow_run_key, new_flow_run_id, node_key
from ..errors import InvalidKeyError, RunDeletedError
from .answers import there
from .arguments import several
from .lives import Life, Lives
from .outputs import PAGE_BYTES, PAGE_ROWS, OutputService
from .run_state import fork_states
from .session import Session

_PART_ROWS = 8  # outputs that are fetched by name at a time, however large each of them may be


class RunService:
    """What the stores' calls for runs do: the async face has their documentation."""

    def __init__(self, session: Session, outputs: OutputService, lives: Lives) -> None:
        self._session = session
        self._outputs = outputs
        self._lives = lives

    async def fork(
        self, flow_run_id: Id, new_id: Id | None, node_ids: Iterable[Id] | None, life: Life | None = None
    ) -> str:
        await self._session.writable()
        source = flow_run_key(flow_run_id)
        target = new_flow_run_id() if new_id is None else flow_run_key(new_id)
        if source == target:
            raise InvalidKeyError("new_flow_run_id", "must not be the run that is forked")
        wanted = None if node_ids is None else sorted({node_key(node_id) for node_id in several(node_ids)})
        origin, copy = life or Life(source), Life(target)
        await self._lives.refuse_if_over(origin)
        # Now, since there may be nothing to copy, which no commit would refuse.
        await self._lives.refuse_if_over(copy)
        # First: of what is appended meanwhile the id may come along, and is then passed over, but no key without it.
        await self._fork_appends(origin, copy, None if wanted is None else frozenset(wanted))
        await fork_states(self._session, self._lives, origin, copy)
        pages = self._pages(source) if wanted is None else self._pages_of(source, wanted)
        async with contextlib.aclosing(pages):
            async for page in pages:
                puts: list[Operation] = []
                for record in page:
                    if not origin.owns(record.run):  # the id has another life since
                        raise RunDeletedError(source)
                    puts.append(_put_into(target, record))
                await self._lives.commit(copy, puts)
        # If the run was deleted during the copying, a part of it was copied, which looks like the whole.
        await self._lives.refuse_if_over(origin)
        return target

    async def _fork_appends(self, origin: Life, copy: Life, wanted: frozenset[str] | None) -> None:
        """All counters, and the keys of the outputs that are taken."""
        session, engine, target = self._session, self._session.engine, copy.flow_run_id
        after = None
        while counters := await session.read(engine.page_append_counters, origin.flow_run_id, after, PAGE_ROWS):
            if not origin.owns(counters[-1].run):  # the id has another life since
                raise RunDeletedError(origin.flow_run_id)
            after = counters[-1].prefix
            loads: list[Operation] = [LoadAppendCounter(target, counter.prefix, counter.last) for counter in counters]
            await self._lives.commit(copy, loads)
        if after is None or origin.serial is None:
            return
        behind: tuple[str, str] | None = None
        while keys := await session.read(engine.page_append_keys, origin.flow_run_id, origin.serial, behind, PAGE_ROWS):
            behind = keys[-1].prefix, keys[-1].key
            taken = [key for key in keys if key.has_output and (wanted is None or key.node_id in wanted)]
            if taken:
                loads = [LoadAppendKey(target, key.prefix, key.key, key.node_id) for key in taken]
                await self._lives.commit(copy, loads)

    async def _pages(self, flow_run: str) -> AsyncGenerator[list[OutputRecord], None]:
        run, after = None, ""
        while page := await self._outputs.page(flow_run, run, after):
            records = [outcome.unwrap() for outcome in page]
            run, after = records[-1].run, records[-1].node_id
            yield records

    async def _pages_of(self, flow_run: str, node_ids: list[str]) -> AsyncGenerator[list[OutputRecord], None]:
        session = self._session
        records: list[OutputRecord] = []
        size = 0
        for start in range(0, len(node_ids), _PART_ROWS):
            keys = [(flow_run, node_id) for node_id in node_ids[start : start + _PART_ROWS]]
            _, found = await session.read(session.engine.fetch, keys)
            some = [outcome.unwrap() for outcome in there(found)]
            records += some
            size += sum(len(record.value.data) for record in some)
            if len(records) >= PAGE_ROWS or size >= PAGE_BYTES:
                yield records
                records, size = [], 0
        if records:
            yield records


def _put_into(target: str, record: OutputRecord) -> PutOutput:
    """The output in the copy, with the attempt that made it as that was: written when the original was."""
    made = record.made
    if made is not None and made.ended_at is None:
        made = made._replace(ended_at=record.written_at)
    return PutOutput(target, record.node_id, record.value, exist_ok=True, made=made)
