"""examples/retention.py does what it says, and the store that it leaves is what it says it is."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from contextstore import ContextStore

from .processes import ROOT, complaints


def run(path: pathlib.Path) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", ROOT / "examples" / "retention.py", path],
        capture_output=True,
        text=True,
        cwd=path.parent,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, complaints(done.stderr)) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.parametrize("earlier", [0, 1])
def test_it_runs_and_leaves_the_store_that_it_tells_of(tmp_path: pathlib.Path, earlier: int) -> None:
    path = tmp_path / "flows.db"
    for _ in range(earlier):
        run(path)
    told = run(path)
    pruned = 12 + 9 * earlier  # and what the nights before have left
    assert "monday: 12 runs done" in told
    assert "tuesday: 8 runs done" in told
    assert len(re.findall("does the retention", told)) == 1
    assert f"to prune: {pruned} runs with {4 * pruned} outputs" in told
    assert f"{pruned + 9} of {pruned + 9} runs looked at" in told
    assert "left: 9 runs, 8 of them in force" in told
    with ContextStore(path, create=False) as store:
        assert store.check().ok
        runs = store.list_runs()
        assert [run.outputs for run in runs] == [4] * 9
        assert {run.flow_run_id.split("/")[0] for run in runs} == {"tuesday"}
        states = store.get_global("runs")
        assert set(states) == {run.flow_run_id for run in runs}
        forked, *_ = runs
        (replaced,) = [run for run, state in states.items() if state == f"replaced by {forked.flow_run_id}"]
        assert store.get(replaced, "report") == "sold for 2,000.50"
        assert store.get(forked.flow_run_id, "report") == "sold for 2,002,000.00"
        assert store.get(forked.flow_run_id, "clean") == store.get(replaced, "clean")
        assert store.get_global_entry("last-prune").version == earlier + 1  # type: ignore[union-attr]
        assert store.stats().tombstones == pruned
