"""What the tests of LangGraph's savers share: checkpoints as a graph would make them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.base.id import uuid6

from contextstore.integrations.langgraph import AsyncContextStoreSaver, ContextStoreSaver

BIG = "x" * 5_000
_steps = itertools.count()


def config_of(thread_id: str, namespace: str = "", checkpoint_id: str | None = None) -> RunnableConfig:
    configurable: dict[str, Any] = {"thread_id": thread_id, "checkpoint_ns": namespace}
    if checkpoint_id is not None:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


def checkpoint_of(
    values: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
    checkpoint_id: str | None = None,
    v: int = 4,
) -> Checkpoint:
    """A checkpoint; each value has the version 1, unless told otherwise."""
    checkpoint: dict[str, Any] = {
        "v": v,
        "id": checkpoint_id or str(uuid6(clock_seq=next(_steps) % 16_384)),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": dict(values or {}),
        "channel_versions": dict(versions if versions is not None else dict.fromkeys(values or {}, 1)),
        "versions_seen": {},
        "updated_channels": None,
    }
    return checkpoint  # type: ignore[return-value]  # it has all that a Checkpoint has


def metadata_of(step: int = 0, **more: Any) -> CheckpointMetadata:
    return {"source": "loop", "step": step, "parents": {}, **more}  # type: ignore[typeddict-item]  # more is any


async def put(
    saver: Any,
    config: RunnableConfig,
    values: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
    new: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> RunnableConfig:
    """Put a checkpoint behind the one that ``config`` names. ``new``: the versions that are new, all if not given."""
    checkpoint = checkpoint_of(values, versions)
    new = checkpoint["channel_versions"] if new is None else new
    result: RunnableConfig = await saver.aput(config, checkpoint, metadata_of(**metadata), dict(new))
    return result


async def listed(saver: Any, config: RunnableConfig | None, **options: Any) -> list[CheckpointTuple]:
    return [found async for found in saver.alist(config, **options)]


def id_of(config: RunnableConfig) -> str:
    return str(config["configurable"]["checkpoint_id"])


@pytest.fixture(params=["awaited", pytest.param("called", marks=pytest.mark.thorough)])
async def saver(request: pytest.FixtureRequest, target: str) -> AsyncIterator[Any]:
    """A saver of either class, by its awaited methods."""
    if request.param == "awaited":
        async with AsyncContextStoreSaver.from_conn_string(target) as awaited:
            yield awaited
    else:
        with ContextStoreSaver.from_conn_string(target) as called:
            yield called
