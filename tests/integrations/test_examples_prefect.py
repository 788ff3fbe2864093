"""examples/prefect_results.py: a flow that was killed does no completed task again. Run by ``make examples``."""

from __future__ import annotations

import os
import pathlib
import signal

import pytest

from contextstore import ContextStore

from ..support.examples import EXAMPLES, heavy, start

EXAMPLE = "prefect_results.py"


def test_it_has_fewer_than_sixty_lines() -> None:
    assert len((EXAMPLES / EXAMPLE).read_text().splitlines()) < 60


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_completed_tasks_of_a_killed_flow_are_not_done_again(tmp_path: pathlib.Path) -> None:
    python, path = heavy(), tmp_path / "flows.db"
    settings = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    }

    # The server that Prefect starts for a flow is killed with it: it would stay behind.
    process = start(EXAMPLE, path, python=python, **settings)
    assert process.stdout is not None
    before: list[str] = []
    for line in process.stdout:
        before += [line] if line.startswith("computing") else []
        if len(before) == 3:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with ContextStore(path) as store:
        kept = len(store.list_global_keys("prefect/"))
    assert kept == 2

    process = start(EXAMPLE, path, python=python, **settings)
    said, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    lines = said.splitlines()
    assert [line for line in lines if line.startswith("computing")] == ["computing 2", "computing 3", "computing 4"]
    assert lines[-1] == "sum 30"
