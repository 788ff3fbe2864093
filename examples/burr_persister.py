"""A persister of Burr's on a store (pip install burr): python examples/burr_persister.py flows.db

Kill it (kill -9 will do), start it again: it goes on. An application is a flow run, the state after a step an output.
"""

import sys
import time
from typing import Any
from urllib.parse import quote

from burr.core import ApplicationBuilder, State, action
from burr.core.persistence import BaseStatePersister

from contextstore import ContextStore


class ContextStorePersister(BaseStatePersister):
    """A step has one state: if two processes run an application at once, the second to save it gets an error."""

    def __init__(self, store: ContextStore) -> None:
        self._store = store

    def _ids(self, partition_key: str | None, app_id: str, step: int | None = None) -> tuple[str, str]:
        return f"burr/{quote(partition_key or '', safe='')}/{app_id}", "" if step is None else f"{step:012}"

    def list_app_ids(self, partition_key: str | None, **_: Any) -> list[str]:
        prefix, found = self._ids(partition_key, "")[0], list[str]()
        while page := self._store.list_runs(prefix=prefix, after=prefix + found[-1] if found else None):
            found += [info.flow_run_id.removeprefix(prefix) for info in page]
        return found  # the newest first

    def load(self, partition_key: Any, app_id: Any, sequence_id: Any = None, **_: Any) -> Any:
        run, step = self._ids(partition_key, app_id, sequence_id)
        for saved in self._store.list_outputs(run, prefix=step, reverse=True, limit=1):
            return saved.value | {"state": State.deserialize(saved.value["state"]), "created_at": str(saved.written_at)}
        return None

    def save(
        self, partition_key: Any, app_id: Any, sequence_id: Any, position: Any, state: Any, status: Any, **_: Any
    ) -> None:
        run, step = self._ids(partition_key, app_id, sequence_id)
        at = {"partition_key": partition_key, "app_id": app_id, "sequence_id": sequence_id, "position": position}
        self._store.put(run, step, at | {"status": status, "state": state.serialize()}, exist_ok=True)


@action(reads=["count"], writes=["count"])
def count(state: State[Any]) -> State[Any]:
    print("counting to", state["count"] + 1, flush=True)
    time.sleep(0.2)  # the work
    return state.update(count=state["count"] + 1)


if __name__ == "__main__":
    with ContextStore(sys.argv[1]) as store:
        saver = ContextStorePersister(store)
        new: Any = ApplicationBuilder().with_state_persister(saver).initialize_from(saver, True, {"count": 0}, "count")
        app = new.with_identifiers(app_id="counter").with_actions(count).with_transitions(("count", "count")).build()
        while app.state["count"] < 9:
            app.step()
