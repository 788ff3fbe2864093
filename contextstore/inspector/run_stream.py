"""The stream of a run's page: its outputs as they come, what is said of it, its failures, its state values.

Rules of this module: public calls of the store alone. Outputs are told each once, by their cursors, which are the ids
of the events. All else is looked at once a stream begins, and whenever the store tells that the run has changed; state
values, of which it tells nothing, once a second for all browsers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import operator
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple

import anyio
import anyio.lowlevel
import anyio.to_thread
from markupsafe import Markup

from .. import AsyncContextStore, Attempt, ContextStore, RunInfo
from .._inspect.timeline import MOST_ATTEMPTS_AT_ONCE, Node, node_of
from .following import ended_with, feeds_of, follow_runs, place_of, rendered
from .look import Look, Refusal
from .outbox import Outbox
from .pages import dom_id
from .run import LONGEST_VALUE, States, is_on_page, node_row, run_head, run_states, start_asked

_PAUSE = 0.2
"""Seconds between two looks at what is said of a run."""
_STATE_SECONDS = 1.0


class Written(NamedTuple):
    """An output that was written, without its value, and the cursor behind it."""

    cursor: str | None
    node: Node


class StatesNow(NamedTuple):
    """A run's state values, and what stands for these and no others."""

    cursor: str | None
    states: States


async def run_live(look: Look, outbox: Outbox) -> None:
    """What becomes of a run."""
    run_id = look.required("id")
    place = await look.inspector.awaitable.cursor("runs")  # before it is looked at: what happens meanwhile is told
    info = await look.inspector.awaitable.get_run_info(run_id)
    if info is None:
        raise Refusal(f"run {run_id!r} is not there any more")
    following = _Following(look, outbox, info)
    async with anyio.create_task_group() as tasks:
        for follow in (following.outputs, functools.partial(following.changes, place), following.states):
            tasks.start_soon(_until_it_ends, outbox, follow)


async def _until_it_ends(outbox: Outbox, follow: Callable[[], Awaitable[None]]) -> None:
    with ended_with(outbox):
        await follow()


class _Head(NamedTuple):
    """As much of a run's head as its rows need."""

    info: RunInfo


class _Following:
    """A browser that looks at a run."""

    def __init__(self, look: Look, outbox: Outbox, info: RunInfo) -> None:
        self._look, self._outbox = look, outbox
        self._store = look.inspector.awaitable
        self._start = start_asked(look)
        self._info, self._head, self._run_id = info, _Head(info), info.flow_run_id
        self._failures = 0
        self._failed: dict[str, int] = {}
        """Nodes that have failed and not been written, as they were sent: with the number of attempts."""
        self._nodes = anyio.Lock()
        """Held from looking whether a node is there to sending that: a failure never comes behind its output."""

    async def outputs(self) -> None:
        source = functools.partial(_written, self._store, self._run_id)
        async with feeds_of(self._look).follow(("outputs", self._run_id), source, place_of(self._look)) as follower:
            while True:
                for written in await follower.next():
                    if is_on_page(self._look, written.node.node_id):
                        async with self._nodes:
                            await self._send_node(written.node, written.cursor)
                    else:
                        self._outbox.move(written.cursor)
                await anyio.lowlevel.checkpoint()

    async def changes(self, place: str) -> None:
        """What is said of the run, its counts, and its failures."""
        await self._send_head(self._info)
        async with follow_runs(self._look, place) as follower:
            while True:
                found = [run for run in await follower.next() if run.flow_run_id == self._run_id]
                told = [run for run in found if run.state != "deleted"]
                if told:
                    await self._send_head(told[-1])
                    await anyio.sleep(_PAUSE)

    async def states(self) -> None:
        if self._look.text("state_after"):
            return  # the page shows others than the first
        sent: dict[str, int] = {}
        source = functools.partial(_states_of, self._look.store, self._run_id)
        async with feeds_of(self._look).follow(("states", self._run_id), source, None) as follower:
            while True:
                states = (await follower.next())[-1].states
                if states.damaged is not None:
                    continue
                now = states.entries
                for entry in now:
                    if sent.get(entry["key"]) != entry["version"]:
                        await self._send_state(entry["key"], States([entry], None, None))
                for key in sent.keys() - {entry["key"] for entry in now}:
                    await self._send_state(key, None)
                sent = {entry["key"]: entry["version"] for entry in now}

    async def _send_head(self, info: RunInfo) -> None:
        html = await anyio.to_thread.run_sync(self._head_html, info)
        await self._outbox.put("run-head", html)
        has_failed, self._failures = info.failures != self._failures, info.failures
        if has_failed and info.outputs <= MOST_ATTEMPTS_AT_ONCE:
            await self._send_failures()

    def _head_html(self, info: RunInfo) -> str:
        return rendered(self._look, "_run_head.html", head=run_head(self._look, info))

    async def _send_failures(self) -> None:
        """Nodes that have failed, and are not there."""
        attempts = await self._store.run(self._run_id).attempts()
        for node_id, of_node in itertools.groupby(attempts, operator.attrgetter("node_id")):
            tried = list(of_node)
            if tried[-1].error is None or not is_on_page(self._look, node_id):
                self._failed.pop(node_id, None)
            elif self._failed.get(node_id) != len(tried):
                await self._send_failed(node_id, tried)

    async def _send_failed(self, node_id: str, attempts: list[Attempt]) -> None:
        async with self._nodes:
            if not await self._store.exists(self._run_id, node_id):
                await self._send_node(node_of(None, attempts, most=LONGEST_VALUE), None)
                self._failed[node_id] = len(attempts)

    async def _send_node(self, node: Node, cursor: str | None) -> None:
        row = node_row(node, self._start)
        html = rendered(self._look, "_node_row.html", row=row, span=row.span, head=self._head)
        await self._outbox.put(dom_id(node.node_id, "node"), html, cursor)

    async def _send_state(self, key: str, states: States | None) -> None:
        name = dom_id(key, "state")
        if states is None:
            await self._outbox.put(name, Markup('<tr id="{}" data-gone></tr>').format(name))
        else:
            await self._outbox.put(name, rendered(self._look, "_state_rows.html", states=states, head=self._head))


async def _written(store: AsyncContextStore, run_id: str, after: str | None) -> AsyncGenerator[Written, None]:
    async with contextlib.aclosing(store.watch(run_id, after=after)) as outputs:
        async for output in outputs:
            attempts = await store.run(run_id).attempts(output.node_id)
            yield Written(output.cursor, node_of(output, attempts, most=LONGEST_VALUE))


async def _states_of(store: ContextStore, run_id: str, after: str | None) -> AsyncGenerator[StatesNow, None]:
    while True:
        states = await anyio.to_thread.run_sync(run_states, store, run_id)
        versions = repr([(entry["key"], entry["version"]) for entry in states.entries])
        cursor = hashlib.sha256(versions.encode(errors="backslashreplace")).hexdigest()
        if cursor != after:
            after = cursor
            yield StatesNow(cursor, states)
        await anyio.sleep(_STATE_SECONDS)
