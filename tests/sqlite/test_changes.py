"""The place of each begin, update and deletion among the commits of a file."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import sqlite3

from contextstore import ContextStore


def places(path: pathlib.Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT flow_run_id, change FROM flow_runs WHERE change IS NOT NULL"))


def last_output(path: pathlib.Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT max(id) << 24 FROM node_outputs").fetchone()[0])


def test_changes_and_outputs_stand_in_the_order_in_which_they_were_made(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        one, two = store.run("one"), store.run("two")
        seen = [0]

        def comes(place: int) -> None:
            assert place > seen[-1]
            seen.append(place)

        one.begin()
        comes(places(file_path)["one"])
        two.begin()
        comes(places(file_path)["two"])
        one.put("node", 1)
        comes(last_output(file_path))
        two.update(state="failed")
        comes(places(file_path)["two"])
        one.begin()
        comes(places(file_path)["one"])
        two.put("node", 1)
        comes(last_output(file_path))
        store.delete_run("two")
        comes(places(file_path)["two"])
        store.delete_run("never seen")
        comes(places(file_path)["never seen"])


def test_each_run_that_prune_deletes_has_a_place_of_its_own(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        for number in range(5):
            store.put(str(number), "node", 1)
        assert store.prune(older_than=datetime.timedelta(0)).runs == 5
        found = places(file_path)
        assert len(set(found.values())) == 5
        assert min(found.values()) > last_output(file_path)
