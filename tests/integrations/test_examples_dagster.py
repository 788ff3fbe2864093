"""examples/dagster_io.py: what a run of Dagster's has made, another process loads. Run by ``make examples``."""

from __future__ import annotations

import pathlib

import pytest

from contextstore import ContextStore

from ..support.examples import EXAMPLES, heavy, run

EXAMPLE = "dagster_io.py"


def test_it_has_fewer_than_sixty_lines() -> None:
    assert len((EXAMPLES / EXAMPLE).read_text().splitlines()) < 60


@pytest.mark.slow
def test_an_asset_is_kept_by_partition_and_run_and_loaded_by_another_process(tmp_path: pathlib.Path) -> None:
    python, path = heavy(), tmp_path / "flows.db"
    for day, total in [("2026-01-01", 11), ("2026-01-02", 12), ("2026-01-01", 11)]:
        assert run(EXAMPLE, path, day, python=python) == (0, [str({day: total})])
    assert run(EXAMPLE, path, python=python) == (0, [str({"2026-01-01": 11, "2026-01-02": 12})])
    with ContextStore(path) as store:
        made = store.list_outputs("orders")
        assert [(output.node_id, output.value) for output in made] == [
            ("2026-01-01/000000000001", [1, 10]),
            ("2026-01-01/000000000002", [1, 10]),
            ("2026-01-02/000000000001", [2, 10]),
        ]
        assert len({output.tag for output in made}) == 3
        assert [output.tag for output in store.list_outputs("total")] == [output.tag for output in made]


@pytest.mark.slow
def test_a_partition_that_nobody_has_made_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AssertionError, match=r"total has no output of \['2026-01-01'\]"):
        run(EXAMPLE, tmp_path / "flows.db", python=heavy())
