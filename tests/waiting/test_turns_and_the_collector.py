"""A coroutine that is collected leaves its queue: at any step of another caller's, and in that one's thread."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, cast

from contextstore._process.own_threads import OwnThreads
from contextstore._waiting.callers import Binding
from contextstore._waiting.key_lock import KeyedLock
from contextstore._waiting.tasks import TaskCallers

CALLERS = TaskCallers(Binding("nowhere", OwnThreads("nowhere")), 30.0)


def begun(lock: KeyedLock) -> Coroutine[Any, Any, Any]:
    """A call that has its turn under "key", as if a loop had been closed under it: it ends when it is collected."""

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    call = lock.run_locked(CALLERS, "key", never)
    contextvars.copy_context().run(call.send, None)
    return call


class Collecting(dict[str, Any]):
    """Queues, and the collector comes once one has been looked up."""

    def __init__(self, queues: dict[str, Any], collect: Callable[[], None]) -> None:
        super().__init__(queues)
        self._collect = collect

    def get(self, key: str, default: Any = None) -> Any:
        queue = super().get(key, default)
        collect, self._collect = self._collect, lambda: None
        collect()
        return queue


async def test_a_caller_comes_while_the_last_one_is_collected() -> None:
    lock = KeyedLock()
    gone = begun(lock)
    lock._queues = Collecting(lock._queues, gone.close)
    here, most = [0], [0]

    async def work() -> None:
        here[0] += 1
        most[0] = max(most[0], here[0])
        await asyncio.sleep(0)
        here[0] -= 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(lock.run_locked(CALLERS, "key", work) for _ in range(3)))
    assert most == [1]
    assert lock._queues == {}


async def test_the_first_is_collected_while_it_is_looked_at() -> None:
    lock = KeyedLock()
    gone = begun(lock)
    (turn,) = lock._queues["key"]
    loop = asyncio.get_running_loop()

    class Closed:
        """Its loop, which is closed; and the collector comes when it is asked."""

        def is_closed(self) -> bool:
            gone.close()
            return True

    async def work() -> str:
        return "done"

    held = loop.create_future()
    first = asyncio.ensure_future(lock.run_locked(CALLERS, "key", lambda: asyncio.wait_for(held, 30)))
    second = asyncio.ensure_future(lock.run_locked(CALLERS, "key", work))
    await asyncio.sleep(0)
    assert len(lock._queues["key"]) == 3
    turn.loop = cast("Any", Closed())
    third = asyncio.ensure_future(lock.run_locked(CALLERS, "key", work))  # which finds that the first is lost
    await asyncio.sleep(0)
    assert len(lock._queues["key"]) == 3
    async with asyncio.timeout(30):
        held.set_result("held")
        assert list(await asyncio.gather(second, third)) == ["done", "done"]
        assert await first == "held"
    assert lock._queues == {}
