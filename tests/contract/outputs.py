"""Several outputs: iterated on either face, damaged, or written by processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import sqlite3
from collections.abc import AsyncIterator
from typing import Any, Self

from contextstore import Output

from ..conftest import Target
from ..support.forked import Child


async def iterate(store: Any, flow_run_id: Any = "run", **options: Any) -> AsyncIterator[Output]:
    """The iteration of either face, awaited: each step of the blocking one in a worker thread."""
    if not hasattr(store, "plain"):
        async for output in store.iter_outputs(flow_run_id, **options):
            yield output
        return
    iterator = store.plain.iter_outputs(flow_run_id, **options)
    try:
        while (output := await asyncio.to_thread(next, iterator, None)) is not None:
            yield output
    finally:
        iterator.close()


async def ids_of(store: Any, flow_run_id: Any = "run", **options: Any) -> list[str]:
    return [output.node_id async for output in iterate(store, flow_run_id, **options)]


@contextlib.asynccontextmanager
async def begun(store: Any, batch: Any = None) -> AsyncIterator[Any]:
    """The block of either face, awaited: what the blocking one does at its ends is done in a worker thread."""
    if not hasattr(store, "plain"):
        async with batch or store.batch() as begun_batch:
            yield begun_batch
        return
    block = batch or store.plain.batch()
    begun_batch = await asyncio.to_thread(block.__enter__)
    try:
        yield begun_batch
    except BaseException as error:
        await asyncio.to_thread(block.__exit__, type(error), error, None)
        raise
    else:
        await asyncio.to_thread(block.__exit__, None, None, None)


def damage(store: Target, statement: str, *parameters: Any) -> None:
    with contextlib.closing(sqlite3.connect(store.location)) as connection, connection:
        assert connection.execute(statement, parameters).rowcount > 0


class Victims:
    """Processes that are killed, one after the other, each forked by one that has imported everything already."""

    PROGRAM = """
        import textwrap
        work = compile(textwrap.dedent(sys.argv[2]), "work", "exec")
        for line in sys.stdin:
            victim = os.fork()
            if victim == 0:
                say(os.getpid())
                with ContextStore(sys.argv[1]) as store:
                    exec(work, {**globals(), "store": store, "number": int(line)})
                say("done")
                os._exit(0)
            os.waitpid(victim, 0)
            say("dead")
    """

    def __init__(self, path: pathlib.Path, work: str) -> None:
        self._child = Child(self.PROGRAM, path, work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._child.__exit__(*exc_info)

    def begin(self, number: int) -> int:
        """Have the next one work; returns its process id."""
        self._child.tell(str(number))
        return int(self._child.hear())

    def hear(self) -> str:
        return self._child.hear()

    def last_words(self) -> list[str]:
        """What it said since, waited for until it is dead."""
        words = []
        while (line := self._child.hear()) != "dead":
            assert line, "whoever forked it is dead, too"
            words.append(line)
        return words

    def kill(self, victim: int) -> list[str]:
        os.kill(victim, signal.SIGKILL)
        return self.last_words()
