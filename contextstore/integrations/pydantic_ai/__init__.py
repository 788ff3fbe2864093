"""Agents of pydantic-ai that go on where they were, wherever they are killed. Extra ``pydantic-ai``.

    from contextstore import AsyncContextStore
    from contextstore.integrations.pydantic_ai import ContextStoreDurability
    from pydantic_ai import Agent

    store = AsyncContextStore("flows.db")
    durability = ContextStoreDurability(store)
    agent = Agent("openai:gpt-5.2", name="support", capabilities=[durability])

    async with durability.flow_run("ticket-17"):
        result = await agent.run("Why was I charged twice?")

Rules of this package: it stands on public names of the framework and of the store alone. This is its door, and says
which version of the framework is needed.
"""

from __future__ import annotations

try:
    from .durability import ContextStoreDurability
    from .external_events import fail_external_event, resolve_external_event
    from .flow_run import DurableFlowRun
except ImportError as error:
    raise ImportError(
        "contextstore.integrations.pydantic_ai needs pydantic-ai with the interface for durable engines of its 2.68 "
        "(pydantic-ai-slim>=2.68,<3): pip install 'contextstore[pydantic-ai]'"
    ) from error

__all__ = ["ContextStoreDurability", "DurableFlowRun", "fail_external_event", "resolve_external_event"]
