"""Parts of a run: its node ids, its outputs a page at a time, or all of those that have a prefix.

Rules of this module: pages of the engine; no SQL, no threads. A call that needs several pages keeps to the life of the
run's id that the first one was of.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from .._engine.pages import OutputPage, Part
from .._results import Output
from .._values.codec import JSON, json_value
from .._values.keys import Id, flow_run_key
from .._waiting.threads import run_now
from ..errors import CorruptStoreError
from .answers import outputs_of, value_of
from .arguments import page_size, part_of
from .lives import Life, Lives
from .outputs import PAGE_BYTES, PAGE_ROWS
from .session import Session

_LIST_KEYS = 5000  # node ids that are listed by one look
_LIST_BYTES = 2**24  # of the values in a page that a caller asks for, about


class PartService:
    """What the stores' calls for parts of a run do: the async face has their documentation."""

    def __init__(self, session: Session, lives: Lives) -> None:
        self._session = session
        self._lives = lives

    async def list_keys(
        self,
        flow_run_id: Id,
        prefix: str,
        after: Id | None,
        limit: int | None,
        reverse: bool,
        life: Life | None = None,
    ) -> list[str]:
        return await self._lives.read(life, self._list_keys(flow_run_id, prefix, after, limit, reverse), [])

    async def _list_keys(
        self, flow_run_id: Id, prefix: str, after: Id | None, limit: int | None, reverse: bool
    ) -> list[str]:
        session = self._session
        await session.ready()
        flow_run, part = flow_run_key(flow_run_id), part_of(prefix, after, reverse)
        most = None if limit is None else page_size(limit)
        at_first = _LIST_KEYS if most is None else min(most, _LIST_KEYS)
        first = await session.read(session.engine.first_node_ids, flow_run, part, at_first)
        if len(first) < at_first or at_first == most:
            return first
        # Anew, so that all are of one moment, and where it keeps no get waiting.
        return await session.scan(session.engine.list_node_ids, flow_run, part, most)

    async def list_outputs(
        self,
        flow_run_id: Id,
        prefix: str,
        after: Id | None,
        limit: int,
        reverse: bool,
        type: Any,
        life: Life | None = None,
    ) -> list[Output]:
        return await self._lives.read(life, self._list_outputs(flow_run_id, prefix, after, limit, reverse, type), [])

    async def _list_outputs(
        self, flow_run_id: Id, prefix: str, after: Id | None, limit: int, reverse: bool, type: Any
    ) -> list[Output]:
        session = self._session
        await session.ready()
        flow_run, part = flow_run_key(flow_run_id), part_of(prefix, after, reverse)
        page = await session.read(session.engine.list_outputs, flow_run, None, part, page_size(limit), _LIST_BYTES)
        if page.damaged is not None and not page.rows:  # else it is the first of the page that follows
            raise page.damaged
        return list(outputs_of(flow_run, page.rows, type))

    async def get_run(self, flow_run_id: Id, prefix: str, type: Any, life: Life | None = None) -> dict[str, Any]:
        return await self._lives.read(life, self._get_run(flow_run_id, prefix, type), {})

    async def _get_run(self, flow_run_id: Id, prefix: str, type: Any) -> dict[str, Any]:
        await self._session.ready()
        flow_run, part = flow_run_key(flow_run_id), part_of(prefix, None, False)
        while True:
            walk = _Walk(self._session, flow_run, part)
            found: dict[str, Any] = {}
            try:
                while (page := await walk.next_page()) is not None:
                    for row in page.rows:
                        is_plain = type is None and row[1] == JSON
                        found[row[0]] = json_value(row[2]) if is_plain else value_of(flow_run, row, type)
                    if page.damaged is not None:
                        raise page.damaged
            except CorruptStoreError as error:
                raise _with_way_out(error) from error.__cause__
            if await walk.is_of_one_life():
                return found

    # Two forms of one loop: to run an async generator item by item takes longer than to read the items.

    async def iterate(
        self, flow_run_id: Id, prefix: str, after: Id | None, reverse: bool, type: Any, life: Life | None = None
    ) -> AsyncIterator[Output]:
        walk = await self._walk(flow_run_id, part_of(prefix, after, reverse), life)
        while (page := await walk.next_page()) is not None:
            for output in walk.outputs(page, type):
                yield output

    def iterate_now(
        self, flow_run_id: Id, prefix: str, after: Id | None, reverse: bool, type: Any, life: Life | None = None
    ) -> Iterator[Output]:
        walk = run_now(self._walk(flow_run_id, part_of(prefix, after, reverse), life))
        while (page := run_now(walk.next_page())) is not None:
            yield from walk.outputs(page, type)

    async def _walk(self, flow_run_id: Id, part: Part, life: Life | None) -> _Walk:
        flow_run = flow_run_key(flow_run_id)
        if life is None:
            return _Walk(self._session, flow_run, part)
        await self._session.ready()
        run = await self._lives.serial(life)
        return _Walk(self._session, flow_run, part, run, is_over=run is None)


class _Walk:
    """The way through a part of a run, page by page."""

    def __init__(
        self, session: Session, flow_run: str, part: Part, run: int | None = None, *, is_over: bool = False
    ) -> None:
        self._session = session
        self._flow_run = flow_run
        self._begun = self._part = part
        self._run = run
        """The serial of the run, once an output of it was seen."""
        self._is_over = is_over
        self._is_last_empty = False

    async def next_page(self) -> OutputPage | None:
        """None: that was all, or the id is no longer that of the run, which was deleted."""
        session = self._session
        await session.ready()
        if self._is_over:
            return None
        page = await self._read(self._part, PAGE_ROWS, PAGE_BYTES)
        self._is_over, self._is_last_empty = page.is_last, not page.rows
        if page.rows:
            last = page.rows[-1]
            self._run, self._part = last[6], self._part._replace(after=last[0])
        return page

    async def _read(self, part: Part, limit: int, max_bytes: int) -> OutputPage:
        session = self._session
        return await session.read(session.engine.list_outputs, self._flow_run, self._run, part, limit, max_bytes)

    async def is_of_one_life(self) -> bool:
        """Whether the run was there until the last page was read. Of a page with outputs that is plain."""
        if self._run is None or not self._is_last_empty:
            return True
        page = await self._read(self._begun, 1, 1)
        return bool(page.rows or page.damaged)

    def outputs(self, page: OutputPage, type: Any) -> Iterator[Output]:
        refuse_unless_open = self._session.refuse_unless_open
        for output in outputs_of(self._flow_run, page.rows, type):
            yield output
            refuse_unless_open()  # a closed store answers nothing more, not even with what was fetched ahead
        if page.damaged is not None:
            raise page.damaged


def _with_way_out(error: CorruptStoreError) -> CorruptStoreError:
    if error.node_id is None:
        return error
    return CorruptStoreError(
        f"{error.message}; iter_outputs gives the outputs before it, and with after={error.node_id!r} those behind it",
        flow_run_id=error.flow_run_id,
        node_id=error.node_id,
    )
