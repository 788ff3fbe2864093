"""Where the frameworks' own suites and our tests of the integrations keep what they keep: SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from contextstore import AsyncContextStore

from ..conftest import new_location


@pytest.fixture(params=["file", "postgres"])
def target(request: pytest.FixtureRequest) -> str:
    """Where nobody has been yet, as ``from_conn_string`` takes it."""
    return str(new_location(request.param, request))


@pytest.fixture
async def store(target: str) -> AsyncIterator[AsyncContextStore]:
    async with AsyncContextStore(target) as opened:
        yield opened


@pytest.fixture
def kv(store: AsyncContextStore) -> Any:
    """py-key-value's face of the store."""
    from contextstore.integrations.py_key_value import ContextStoreKeyValue

    return ContextStoreKeyValue(store)
