"""Two processes, each of which waits for what the other one writes. All that they share is the store.

    python examples/two_processes.py flows.db

Neither asks again and again whether it is there yet: ``wait_for`` returns soon after it was written, by whomever. Kill
one and start it again, and it finds what was written meanwhile; what it had written itself is there already.
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


def main(path: str) -> None:
    flow_run_id = new_flow_run_id()
    other = multiprocessing.get_context("spawn").Process(target=seller, args=(path, flow_run_id))
    other.start()
    with ContextStore(path) as store:
        buy(store.run(flow_run_id))
    other.join()
    sys.exit(other.exitcode)


if __name__ == "__main__":
    main(sys.argv[1])
