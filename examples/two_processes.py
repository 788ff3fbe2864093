"""Two processes, each of which waits for what the other one writes. All that they share is the store.

    python examples/two_processes.py flows.db                  # tells the id of its flow run
    python examples/two_processes.py flows.db FLOW_RUN_ID      # goes on with that one

Neither asks again and again whether it is there yet: ``wait_for`` returns soon after it was written, by whomever. Kill
them at any point and start them again with the same FLOW_RUN_ID: each finds what was written before, its own too.
"""

from __future__ import annotations

import multiprocessing
import sys
from dataclasses import dataclass

from contextstore import ContextStore, FlowRun, new_flow_run_id


@dataclass
class Order:
    item: str
    count: int


@dataclass
class Offer:
    price: float
    days: int


def buy(run: FlowRun) -> None:
    """Asks for an offer, waits for it, and decides."""
    run.put("order", Order("lamp", 3), exist_ok=True)
    offer = run.wait_for("offer", type=Offer, timeout=60)
    run.put("decision", "yes" if offer.price < 100 else "no", exist_ok=True)
    print(f"the buyer was offered {offer.price:.2f} in {offer.days} days and says {run.get('decision')}")


def sell(run: FlowRun) -> None:
    """Waits for an order, makes an offer, and waits for what comes of it."""
    order = run.wait_for("order", type=Order, timeout=60)
    run.put("offer", Offer(price=20.0 * order.count, days=2), exist_ok=True)
    print(f"the seller was asked for {order.count} of {order.item} and told {run.wait_for('decision', timeout=60)}")


def seller(path: str, flow_run_id: str) -> None:
    """The second process: it opens the store for itself."""
    with ContextStore(path) as store:
        sell(store.run(flow_run_id))


def main(path: str, flow_run_id: str) -> None:
    print("flow run", flow_run_id, flush=True)
    other = multiprocessing.get_context("spawn").Process(target=seller, args=(path, flow_run_id))
    other.start()
    with ContextStore(path) as store:
        buy(store.run(flow_run_id))
    other.join()
    sys.exit(other.exitcode)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        print("usage: two_processes.py FILE [FLOW_RUN_ID]", file=sys.stderr)
        sys.exit(2)
    main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else new_flow_run_id())
