"""An IO manager of Dagster's on a store (pip install dagster): an asset is loaded as it was last made.

python examples/dagster_io.py flows.db 2026-01-01 makes the assets of a day; without a day it loads those of all days.
"""

import sys
from typing import Any
from urllib.parse import quote

import dagster as dg

from contextstore import ContextStore

DAYS = dg.StaticPartitionsDefinition(["2026-01-01", "2026-01-02"])


class ContextStoreIOManager(dg.IOManager):
    """An asset is a flow run; each materialization of a partition an output, tagged by the run that made it."""

    def __init__(self, store: ContextStore) -> None:
        self._store = store

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        with self._store.batch() as batch:
            for prefix in prefixes(context).values():
                batch.append(context.asset_key.to_user_string(), prefix, obj, tag=context.run_id)

    def load_input(self, context: dg.InputContext) -> Any:
        asset, found = context.asset_key.to_user_string(), dict[str, Any]()
        for partition, prefix in prefixes(context).items():
            for newest in self._store.list_outputs(asset, prefix=prefix, reverse=True, limit=1):
                found[partition] = newest.value
        if missing := prefixes(context).keys() - found.keys():
            raise LookupError(f"{asset} has no output of {sorted(missing)}")
        return found if len(found) > 1 else next(iter(found.values()))


def prefixes(context: dg.InputContext | dg.OutputContext) -> dict[str, str]:
    partitions = context.asset_partition_keys if context.has_asset_partitions else ["whole"]
    return {partition: f"{quote(partition, safe='')}/" for partition in partitions}


@dg.asset(partitions_def=DAYS)
def orders(context: dg.AssetExecutionContext) -> list[int]:
    return [int(context.partition_key[-2:]), 10]


@dg.asset(partitions_def=DAYS)
def total(orders: list[int]) -> int:
    return sum(orders)


if __name__ == "__main__":
    with ContextStore(sys.argv[1]) as store:
        flow = dg.Definitions([orders, total], resources={"io_manager": ContextStoreIOManager(store)})
        for day in sys.argv[2:]:
            dg.materialize([orders, total], resources=flow.resources, partition_key=day)
        made = sys.argv[2:] or DAYS.get_partition_keys()
        print({day: flow.load_asset_value("total", partition_key=day) for day in made})
