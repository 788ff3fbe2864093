"""Where the frameworks' own suites and our tests of the integrations keep what they keep: SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

from ..conftest import new_location


@pytest.fixture(params=["file", "postgres"])
def target(request: pytest.FixtureRequest) -> str:
    """Where nobody has been yet, as ``from_conn_string`` takes it."""
    return str(new_location(request.param, request))
