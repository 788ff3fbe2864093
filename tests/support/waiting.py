"""Those who wait for outputs of the fake engine."""

from __future__ import annotations

from contextstore._dispatch.subscriptions import Subscription, Subscriptions
from contextstore._engine.operations import Operation, PutOutput
from contextstore._values.codec import JSON, Encoded

from .clock import Clock
from .fake_engine import FakeEngine, LoopHost, spawn, task_callers, turns

ONE = Encoded(JSON, b"1")
KEY = ("run", "node")
PUT = PutOutput(*KEY, ONE, False)


def tell(subscriptions: Subscriptions, *operations: Operation) -> None:
    """What the writer does with what it has committed."""
    subscriptions.committed(subscriptions.announce_operations(operations))


class Waiting:
    """Subscriptions on the fake engine, with the host in which their poller runs."""

    def __init__(self, clock: Clock, *, polls: bool = True) -> None:
        self.clock = clock
        self.engine = FakeEngine(polls=polls)
        self.host = LoopHost()
        self.subscriptions = Subscriptions(self.engine)
        self.callers = task_callers(self.engine)

    async def subscribe(self, flow_run_id: str | None = "run", node_id: str | None = "node") -> Subscription:
        """One that is begun: the poller, if one is needed, has taken its place."""
        subscription = self.subscriptions.subscription(flow_run_id, node_id)
        (beginning,) = spawn(subscription.begin(self.host, self.callers))  # type: ignore[arg-type]
        await turns()
        if not beginning.done():
            await self.engine.let_poll()
        await beginning
        return subscription

    def commit(self, *operations: Operation) -> None:
        """By this object: what it commits, it tells."""
        self.engine.place.commit(*operations)
        tell(self.subscriptions, *operations)

    async def poll(self) -> None:
        """One look, by when it is time to look for deleted runs, too."""
        self.clock.advance(1)
        await self.engine.let_poll()

    async def end(self) -> None:
        self.subscriptions.close()
        await self.host.end()
