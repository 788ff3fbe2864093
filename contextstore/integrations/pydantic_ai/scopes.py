"""Where a step of an agent is recorded, and under which id, so that each run of the program finds its steps again.

Rules of this module: an id is made of what a replay makes again: names of agents, the numbers of their runs and
requests, ids of tool calls (which are in the recorded responses). Never of a clock, of chance, or of the order in
which parallel calls end. Nothing here knows the framework.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

from pydantic_core import from_json, to_json

from ... import AsyncContextStore, AsyncFlowRun, SerializationError

_MAX_ID_BYTES = 1024
_DIGITS = 16
"""Of the digest that stands for the end of an id that is too long."""


class Flow:
    """A flow run that is being made by this process: what all its scopes share."""

    def __init__(self, store: AsyncContextStore, run: AsyncFlowRun) -> None:
        self.store = store
        self.run = run
        self.deferred: dict[str, int] = {}
        """How many tool calls the last run of each agent left to somebody outside. With any, the run has not ended."""
        self.given_up: set[str] = set()
        """Nodes of which an earlier process recorded failures alone."""
        self.prefixes: dict[str, str] = {}
        """Of agents' runs that have an id and have not begun."""


class Scope:
    """What the ids of some steps begin with: a flow run, an agent's run, or a tool call that runs agents of its own."""

    def __init__(self, flow: Flow, prefix: str = "") -> None:
        self.flow = flow
        self.prefix = prefix
        self._claimed: Counter[str] = Counter()

    def claim(self, name: str) -> str:
        """An id that no step of this scope has had: the name, and a number from its second use on."""
        self._claimed[name] += 1
        number = self._claimed[name]
        return _fitting(self.prefix + name if number == 1 else f"{self.prefix}{name}#{number}")

    def following(self, name: str) -> str:
        """The id that ``claim`` gives next for the name."""
        return _fitting(f"{self.prefix}{name}#{self._claimed[name] + 1}")

    def prefix_of_run(self, agent: str, run_id: str | None = None) -> str:
        """What the ids of the agent's next run in this scope begin with, or of the one that has this id already."""
        if run_id is not None and run_id in self.flow.prefixes:
            return self.flow.prefixes[run_id]
        prefix = self.claim(part(agent) if run_id is None else f"{part(agent)}({part(run_id)})") + "/"
        if run_id is None:
            run_id = f"{self.flow.run.flow_run_id}:{prefix[:-1]}"
        self.flow.prefixes[run_id] = prefix
        return prefix

    def of_run(self, agent: str, run_id: str | None) -> Scope:
        """The scope of an agent's run, which begins."""
        prefix = self.prefix_of_run(agent, run_id)
        if run_id is not None:
            self.flow.prefixes.pop(run_id, None)
        return Scope(self.flow, prefix)

    async def record(
        self, node_id: str, body: Callable[[], Awaitable[object]], inputs: str | None = None
    ) -> tuple[Any, bool]:
        """The recorded payload of a step, or that of ``body``, recorded now; and whether ``body`` was called."""
        made: list[object] = []
        called = False

        async def attempt(inputs: str | None) -> Any:
            nonlocal called
            called = True
            with inside(Scope(self.flow, f"{node_id}/")):
                made.append(await body())
            return made[0]

        async def as_bytes(inputs: str | None) -> bytes:
            return to_json(made[0], inf_nan_mode="constants")

        try:
            payload: Any = await self.flow.run.step(node_id, attempt, inputs)
        except SerializationError:
            # What was done is done: it is kept in the framework's own JSON, which has NaN and larger integers.
            if not made:
                raise
            payload = await self.flow.run.step(node_id, as_bytes, inputs)
        return from_json(payload) if isinstance(payload, bytes) else payload, called


_here: ContextVar[Scope | None] = ContextVar("contextstore.integrations.pydantic_ai", default=None)


def current() -> Scope | None:
    """The scope that this task is in."""
    return _here.get()


def enter(scope: Scope | None) -> None:
    """From here on this task is in the scope."""
    _here.set(scope)


@contextlib.contextmanager
def inside(scope: Scope) -> Iterator[Scope]:
    """Be in the scope, for the code inside and for the tasks and threads that it starts."""
    outer = _here.get()
    _here.set(scope)
    try:
        yield scope
    finally:
        _here.set(outer)


def part(name: str) -> str:
    """A name as a part of an id: without the signs that ids are put together with."""
    for sign, code in (("%", "%25"), ("/", "%2F"), ("#", "%23"), ("\0", "%00")):
        name = name.replace(sign, code)
    return name


def _fitting(node_id: str) -> str:
    """The id, or the beginning of one that is too long and a digest of all of it."""
    encoded = node_id.encode("utf-8", "surrogatepass")
    if len(encoded) <= _MAX_ID_BYTES - 64:  # room for the number and for what a wait adds
        return node_id
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGITS]
    return f"{encoded[: _MAX_ID_BYTES - 64 - _DIGITS - 1].decode('utf-8', 'ignore')}~{digest}"
