"""A flow run that agents take part in: begun, resumed and ended around a block of the program.

Rules of this module: it writes what a flow run is (begun, open, completed, failed), never a step. A block that is
cancelled leaves the run open, as a process that is killed does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ... import (
    AsyncContextStore,
    AsyncFlowRun,
    Attempt,
    ContextStoreError,
    FlowRun,
    Lease,
    RunInfo,
    RunStateConflictError,
)
from .scopes import Flow, Scope, current, enter

_DEFERRED = "deferred"
"""The attribute that says how many tool calls wait for somebody outside."""


class DurableFlowRun:
    """``async with`` it, or ``with`` it in blocking code: agents that run inside record their steps in the flow run.

    The block gets the store's object of the run, for steps of its own: ``await run.step("load", load, path)``. As it
    ends, the run is ``"completed"``; as an exception leaves it, ``"failed"``. It stays ``"open"`` if it is cancelled or
    killed, and if the agent that ended last deferred tool calls to somebody outside.
    """

    def __init__(
        self,
        store: AsyncContextStore,
        flow_run_id: str,
        *,
        attributes: Mapping[str, Any] | None = None,
        parent: str | None = None,
        check_inputs: bool = True,
        lease: Lease | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {"check_inputs": check_inputs, "lease": lease}
        self._run = store.run(flow_run_id, **self._settings)
        self._flow = Flow(store, self._run)
        outer = current()
        if parent is None and outer is not None:
            parent = outer.flow.run.flow_run_id
        self._beginning: dict[str, Any] = {"attributes": attributes, "parent": parent}
        self._info: RunInfo | None = None
        self._outer: Scope | None = None

    async def __aenter__(self) -> AsyncFlowRun:
        info = await self._run.begin(**self._beginning)
        if info.failures:
            self._note(await self._run.attempts())
        if info.state in ("failed", "cancelled"):
            info = await self._run.update(state="open", error="")
        self._enter(info)
        return self._run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        change = self._leave(error)
        if change is not None:
            try:
                await self._run.update(**change)
            except ContextStoreError as trouble:
                self._report(trouble, error)

    def __enter__(self) -> FlowRun:
        self._blocking = self._flow.store.blocking.run(self._run.flow_run_id, **self._settings)
        info = self._blocking.begin(**self._beginning)
        if info.failures:
            self._note(self._blocking.attempts())
        if info.state in ("failed", "cancelled"):
            info = self._blocking.update(state="open", error="")
        self._enter(info)
        return self._blocking

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        change = self._leave(error)
        if change is not None:
            try:
                self._blocking.update(**change)
            except ContextStoreError as trouble:
                self._report(trouble, error)

    def _enter(self, info: RunInfo) -> None:
        if self._info is not None:
            raise RuntimeError("a flow run is entered once: make another with flow_run()")
        self._info = info
        self._outer = current()
        enter(Scope(self._flow))

    def _leave(self, error: BaseException | None) -> dict[str, Any] | None:
        """What is to be said of the run, as it is left. Who has said anything else meanwhile has the last word."""
        enter(self._outer)
        info = self._info
        assert info is not None
        if isinstance(error, Exception):
            return {"state": "failed", "error": f"{type(error).__name__}: {error}", "expected_state": "open"}
        if error is not None:
            return None
        if deferred := sum(self._flow.deferred.values()):
            return {"attributes": {_DEFERRED: deferred}}
        if info.state == "completed":
            return None
        attributes = {_DEFERRED: None} if _DEFERRED in (info.attributes or {}) else None
        return {"state": "completed", "attributes": attributes, "expected_state": "open"}

    def _note(self, attempts: list[Attempt]) -> None:
        """Remember which steps failed in an earlier process, and were not done after all."""
        done = {attempt.node_id for attempt in attempts if attempt.error is None}
        self._flow.given_up = {attempt.node_id for attempt in attempts} - done

    def _report(self, trouble: ContextStoreError, error: BaseException | None) -> None:
        """Raise what kept the end from being recorded, unless the block's own exception is on its way."""
        if isinstance(trouble, RunStateConflictError):
            return
        if error is None:
            raise trouble
        error.add_note(f"that flow run {self._run.flow_run_id!r} has failed was not recorded: {trouble}")
