"""The capability that makes an agent durable: its model requests and tool calls are steps of a flow run.

Rules of this module: it stands on the interface that the framework has for engines of others, by public names alone.
What is done is recorded before the agent gets it; what was recorded is not done again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic_ai.agent import EventStreamHandler
from pydantic_ai.capabilities import WrapRunHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    CapabilityOperationId,
    DurabilityEngineSpec,
    DurableOperationId,
    EventStreamHandlerId,
    JournalCallableOperationBackend,
    ModelRequestId,
    RoleBasedOperationConfig,
    ToolsetCallToolId,
    ToolsetGetInstructionsId,
    ToolsetGetToolsId,
    ToolsetValidateToolArgumentsId,
    conversation_id_from_run_id,
    external_event_scope,
    record_durable_unit,
    replay_scope,
)
from pydantic_ai.exceptions import ModelAPIError, UserError
from pydantic_ai.models import Model
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import AgentDepsT, DeferredToolRequests, RunContext
from pydantic_ai.toolsets import ToolsetTool

from ... import AsyncContextStore, ContextStore, Lease
from . import inputs
from .external_events import StoreWaiter
from .flow_run import DurableFlowRun
from .scopes import Scope, current, inside, part

_Mode = Literal["parallel_ordered_events", "sequential"]

_OPT_OUT = "contextstore"
"""The key of a tool's metadata under which ``False`` says that its calls are no steps."""


@dataclass(init=False)
class ContextStoreDurability(BaseDurabilityCapability[AgentDepsT]):
    """Records an agent's model requests and tool calls as steps of a flow run, and takes them from there on a replay.

    Give it to ``Agent(..., name="support", capabilities=[durability])``, and run the agent within
    ``durability.flow_run(id)``. Within the same id again, after whatever ended the process, the agent goes on where it
    was: no request and no tool call that has a recorded result is made again. Outside of a flow run it does nothing.
    Toolsets other than the agent's own tools need an ``id``.

    Args:
        store: an open store of either face. It is never closed by the agent.
        models: further models that a run may name, by the names; see the framework's other engines.
        event_stream_handler: is given the model's events as they come, and each of the tools' in a step of its own.
        name: what the ids of the steps begin with. None: the agent's name, which it has to have then.
        check_inputs: refuse a replay that asks a step something else than was recorded: ``InputsChangedError``.
        parallel_execution_mode: how the tool calls of one response are executed.
    """

    engine_spec: ClassVar[DurabilityEngineSpec] = DurabilityEngineSpec(
        engine_name="ContextStore",
        durable_unit_noun="step",
        durable_container_noun="flow run",
        codec=JSON_CODEC,
        toolset_lifecycles={"function": "enter-always", "mcp": "enter-in-durable-unit", "dynamic": "enter-never"},
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        tool_config_key=_OPT_OUT,
    )

    def __init__(
        self,
        store: ContextStore | AsyncContextStore,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        name: str | None = None,
        check_inputs: bool = True,
        parallel_execution_mode: _Mode = "parallel_ordered_events",
    ) -> None:
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name)
        self.store = store
        # Kept, since a face is made anew when nobody has it any more.
        self._awaitable = store if isinstance(store, AsyncContextStore) else store.awaitable
        self._check_inputs = check_inputs
        self._mode: _Mode = parallel_execution_mode

    @classmethod
    def from_conn_string(
        cls,
        target: str,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        name: str | None = None,
        check_inputs: bool = True,
        parallel_execution_mode: _Mode = "parallel_ordered_events",
        **options: Any,
    ) -> _Opened[Self]:
        """One with a store of its own, made with these options, closed at the end of the ``with`` or ``async with``."""
        settings: dict[str, Any] = {
            "models": models,
            "event_stream_handler": event_stream_handler,
            "name": name,
            "check_inputs": check_inputs,
            "parallel_execution_mode": parallel_execution_mode,
        }
        return _Opened(partial(cls, **settings), target, options)

    def flow_run(
        self,
        flow_run_id: str,
        *,
        attributes: Mapping[str, Any] | None = None,
        parent: str | None = None,
        lease: Lease | None = None,
    ) -> DurableFlowRun:
        """The flow run with this id, to be entered by ``async with``, or ``with`` in blocking code.

        All agents that run inside record their steps there, if they have this capability on the same store. The block
        is the program that is run again after a crash: it has to ask the same of the same agents in the same order.

        Args:
            flow_run_id: the caller's own name for what is done: the same again resumes it.
            attributes, parent: as ``begin`` has them. Without a parent it is the flow run that this one is entered in.
            lease: one that is held, to keep others from the run: every step commits only while it is.
        """
        return DurableFlowRun(
            self._awaitable,
            flow_run_id,
            attributes=attributes,
            parent=parent,
            check_inputs=self._check_inputs,
            lease=lease,
        )

    @property
    def in_durable_context(self) -> bool:
        """Whether this task is in a flow run."""
        return current() is not None

    def get_durable_operation_backend(self) -> _Backend:
        """Who executes the agent's operations."""
        return _Backend(self)

    def get_default_run_id(self) -> str | None:
        """An id that each replay gives the same run of the agent."""
        scope = current()
        if scope is None:
            return None
        return f"{scope.flow.run.flow_run_id}:{scope.prefix_of_run(self.name)[:-1]}"

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """The conversation that belongs to the run."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        """When the run began for the first time: its ``timeout`` goes on through crashes."""
        scope = current()
        if scope is None:
            return None

        async def now() -> object:
            return datetime.now(UTC).isoformat()

        began, _ = await scope.record(f"{scope.prefix_of_run(self.name, run_id)}began", now)
        return datetime.fromisoformat(began)

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Give the run a place for its steps."""
        outer, agent = current(), self.agent
        if outer is None or agent is None:
            return await super().wrap_run(ctx, handler=handler)
        if outer.flow.store is not self._awaitable:
            raise UserError(
                f"agent {self.name!r} records in another store than the flow run that it runs in: "
                f"give all agents of a flow run a ContextStoreDurability of one store"
            )
        with ExitStack() as stack:
            scope = stack.enter_context(inside(outer.of_run(self.name, ctx.run_id)))
            stack.enter_context(replay_scope())
            stack.enter_context(external_event_scope(StoreWaiter(scope)))
            stack.enter_context(agent.parallel_tool_call_execution_mode(self._mode))
            result = await super().wrap_run(ctx, handler=handler)
        if not outer.prefix:
            scope.flow.deferred[self.name] = _calls_deferred_by(result.output)
        return result


class _Backend(JournalCallableOperationBackend[None]):
    """Executes each operation of the framework as a step."""

    def __init__(self, durability: ContextStoreDurability[Any]) -> None:
        super().__init__(
            agent_name=durability.name,
            default_model_id=durability.default_model_id,
            config=_CONFIG,
        )

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: None,
    ) -> object:
        """The recorded payload of the operation, or that of ``body``, recorded now."""
        scope = current()
        if scope is None:
            return await body()
        step = _name_of(operation_id, name, cache_key)
        node_id = scope.claim(step)
        if node_id in scope.flow.given_up and isinstance(operation_id, ModelRequestId):
            await _raise_if_passed_over(scope, node_id, step, operation_id)
        payload, called = await scope.record(node_id, body, _inputs_of(operation_id, cache_key))
        record_durable_unit(executed=called)
        return payload


def _resolve_tool(operation_id: DurableOperationId, tool: object | None, tool_name: str) -> Literal[False] | None:
    """False for a tool that opts out, by ``metadata={"contextstore": False}``."""
    choice = (tool.tool_def.metadata or {}).get(_OPT_OUT) if isinstance(tool, ToolsetTool) else None
    if choice is None or choice is False:
        return choice
    raise UserError(f"tool {tool_name!r}: its metadata {_OPT_OUT!r} can be False alone, not {choice!r}")


_CONFIG = RoleBasedOperationConfig[None](model=None, event=None, capability=None, tool=None, resolve_tool=_resolve_tool)


def _name_of(operation_id: DurableOperationId, name: str, cache_key: tuple[Any, ...]) -> str:
    """What the operation is called within the agent's run: the number of the model request, and what is done."""
    context = next((value for value in cache_key if isinstance(value, RunContext)), None)
    at, call = ("", "") if context is None else (f"{context.run_step:03}.", part(context.tool_call_id or ""))
    match operation_id:
        case ModelRequestId():
            return f"{at}model"
        case ToolsetCallToolId():
            return f"{at}tool/{part(cache_key[0])}/{call}"
        case ToolsetValidateToolArgumentsId():
            return f"{at}validate/{part(cache_key[0])}/{call}"
        case ToolsetGetToolsId(toolset_id=toolset_id):
            return f"{at}tools/{part(toolset_id)}"
        case ToolsetGetInstructionsId(toolset_id=toolset_id):
            return f"{at}instructions/{part(toolset_id)}"
        case CapabilityOperationId(capability_id=capability_id, operation=operation):
            return f"{at}capability/{part(capability_id)}/{part(operation)}"
        case EventStreamHandlerId():
            event = cache_key[0]
            return f"event/{event.event_kind}/{part(getattr(event, 'tool_call_id', None) or '')}"
        case _:  # what later versions add
            return f"{at}{part(name)}"


def _inputs_of(operation_id: DurableOperationId, cache_key: tuple[Any, ...]) -> str | None:
    """The digest of what is asked; None where nothing is that a program says."""
    match operation_id:
        case ModelRequestId():
            return inputs.of_model_request(cache_key[1])
        case ToolsetCallToolId():
            return inputs.of_tool_call(cache_key[0], cache_key[1])
        case _:
            return None


async def _raise_if_passed_over(scope: Scope, node_id: str, step: str, request: ModelRequestId) -> None:
    """Raise again a failure that the run has gone on from, by another model or another try, before it was resumed.

    To ask again would be to take another way than the one whose steps are recorded behind it.
    """
    run = scope.flow.run
    if await run.exists(scope.following(step)):
        failures = await run.attempts(node_id)
        raise ModelAPIError(request.model_name, f"as recorded: {failures[-1].error}")


def _calls_deferred_by(output: object) -> int:
    """How many tool calls a result leaves to somebody outside."""
    return len(output.calls) + len(output.approvals) if isinstance(output, DeferredToolRequests) else 0


DurabilityT = TypeVar("DurabilityT", bound="ContextStoreDurability[Any]")


class _Opened(Generic[DurabilityT]):
    """Opens a store for a capability, and closes it: in blocking code and in awaiting code."""

    def __init__(self, make: Callable[..., DurabilityT], target: str, options: dict[str, Any]) -> None:
        self._make = make
        self._target = target
        self._options = options
        self._blocking: ContextStore | None = None
        self._awaitable: AsyncContextStore | None = None

    def __enter__(self) -> DurabilityT:
        self._blocking = ContextStore(self._target, **self._options)
        return self._make(self._blocking.__enter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._blocking is not None
        self._blocking.__exit__(kind, error, traceback)

    async def __aenter__(self) -> DurabilityT:
        self._awaitable = AsyncContextStore(self._target, **self._options)
        return self._make(await self._awaitable.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._awaitable is not None
        await self._awaitable.__aexit__(kind, error, traceback)
