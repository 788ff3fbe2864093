"""LangGraph's own suite for savers: every capability that it knows, awaited and called."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import validate
from langgraph.checkpoint.conformance.capabilities import Capability, DetectedCapabilities
from langgraph.checkpoint.conformance.initializer import RegisteredCheckpointer
from langgraph.checkpoint.conformance.report import CapabilityReport

from contextstore import AsyncContextStore, ContextStore
from contextstore.integrations.langgraph import AsyncContextStoreSaver, ContextStoreSaver

CAPABILITIES = {
    "put": 17,
    "put_writes": 10,
    "get_tuple": 10,
    "list": 16,
    "delete_thread": 5,
    "delete_for_runs": 7,
    "copy_thread": 8,
    "prune": 8,
}
"""How many tests the suite has of each."""


class Called(BaseCheckpointSaver[str]):
    """A saver whose awaited methods call the plain ones of another saver, in worker threads."""

    def __init__(self, saver: ContextStoreSaver) -> None:
        super().__init__(serde=saver.serde)
        self.saver = saver

    async def alist(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        for found in await asyncio.to_thread(lambda: list(self.saver.list(*args, **options))):
            yield found


def _add_calls() -> None:
    def awaited(name: str) -> Any:
        async def call(self: Called, *args: Any, **options: Any) -> Any:
            return await asyncio.to_thread(getattr(self.saver, name), *args, **options)

        return call

    for capability in CAPABILITIES.keys() - {"list"}:
        setattr(Called, f"a{capability}", awaited(capability))


_add_calls()


async def report_of(saver: BaseCheckpointSaver[str]) -> CapabilityReport:
    async def factory() -> AsyncIterator[BaseCheckpointSaver[str]]:
        yield saver

    return await validate(RegisteredCheckpointer("contextstore", factory))  # type: ignore[arg-type]  # async iterator


def assert_whole(report: CapabilityReport) -> None:
    failures = [failure for result in report.results.values() for failure in result.failures]
    assert failures == []
    assert {name: result.tests_passed for name, result in report.results.items()} == CAPABILITIES
    assert all(result.detected and result.passed for result in report.results.values())


def test_the_suite_knows_these_capabilities_and_detects_each_of_them() -> None:
    saver = AsyncContextStoreSaver(AsyncContextStore(":memory:"))
    found = DetectedCapabilities.from_instance(saver)
    assert {capability.value for capability in found.detected} == CAPABILITIES.keys()
    assert found.missing == frozenset()
    assert {capability.value for capability in Capability} == CAPABILITIES.keys()


async def test_the_awaited_saver_passes_the_whole_suite(target: str) -> None:
    async with AsyncContextStoreSaver.from_conn_string(target) as saver:
        assert_whole(await report_of(saver))


@pytest.mark.thorough
async def test_the_called_saver_passes_the_whole_suite(target: str) -> None:
    with ContextStoreSaver.from_conn_string(target) as saver:
        assert_whole(await report_of(Called(saver)))


@pytest.mark.thorough
async def test_the_called_saver_passes_the_whole_suite_by_its_awaited_methods(target: str) -> None:
    with ContextStore(target) as store:
        assert_whole(await report_of(ContextStoreSaver(store)))


def test_the_signatures_are_those_of_the_base_class() -> None:
    for name, of_base in inspect.getmembers(BaseCheckpointSaver, inspect.isfunction):
        if not name.startswith("_"):
            ours = inspect.signature(getattr(ContextStoreSaver, name))
            assert list(ours.parameters) == list(inspect.signature(of_base).parameters), name
