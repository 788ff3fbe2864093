"""Some take-overs of leases among workers that are stopped and killed: ``make torture`` has ten thousand of them."""

from __future__ import annotations

import os
import pathlib
import random

import pytest

from .leases import UNFENCED, torture

pytestmark = [pytest.mark.one_python, pytest.mark.slow]

TAKE_OVERS = 200


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_no_holder_that_was_succeeded_has_written(
    engine: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    place = str(request.getfixturevalue("url")) if engine == "postgres" else str(tmp_path / "store.db")
    seed = int(os.environ.get("TORTURE_SEED", random.randrange(2**32)))
    print(f"TORTURE_SEED={seed}")
    report = torture(place, seed, TAKE_OVERS, 300)
    assert report.problems == []
    assert report.writes > 0
    assert report.take_overs >= TAKE_OVERS


@pytest.mark.timeout(600)
def test_a_fence_that_is_none_is_found(tmp_path: pathlib.Path) -> None:
    seed = int(os.environ.get("TORTURE_SEED", random.randrange(2**32)))
    print(f"TORTURE_SEED={seed}")
    report = torture(str(tmp_path / "store.db"), seed, TAKE_OVERS, 60, UNFENCED)
    assert any("was written behind" in problem for problem in report.problems)
