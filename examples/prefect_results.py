"""Prefect keeps the results of its tasks in a store (pip install prefect): what was completed is not done again.

    python examples/prefect_results.py flows.db    # kill it (kill -9 will do), start it again: it goes on

Any number of machines may share them, if the store is on a server: postgresql://user@host/database for the file.
"""

import sys
import time
from typing import Any

from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.filesystems import WritableFileSystem

import contextstore


class ContextStoreFileSystem(WritableFileSystem):
    """A result is a global key, since Prefect writes one anew when it has expired or is to be refreshed."""

    _block_type_name = "contextstore"
    target: str

    async def aread_path(self, path: str) -> bytes:
        return found(await contextstore.shared(self.target).awaitable.get_global(f"prefect/{path}"), path)

    async def awrite_path(self, path: str, content: bytes) -> None:
        await contextstore.shared(self.target).awaitable.upsert_global(f"prefect/{path}", content)

    def read_path(self, path: str, **_: Any) -> Any:  # these two are called by what is not awaited
        return found(contextstore.shared(self.target).get_global(f"prefect/{path}"), path)

    def write_path(self, path: str, content: bytes, **_: Any) -> Any:
        contextstore.shared(self.target).upsert_global(f"prefect/{path}", content)


def found(content: bytes | None, path: str) -> bytes:
    if content is None:
        raise ValueError(f"there is no result {path}")
    return content


@task(persist_result=True, cache_policy=INPUTS + TASK_SOURCE)
def square(number: int) -> int:
    print("computing", number, flush=True)
    time.sleep(0.5)  # the work
    return number**2


@flow
def squares() -> int:
    return sum(square(number) for number in range(5))


if __name__ == "__main__":
    storage = ContextStoreFileSystem(target=sys.argv[1])
    storage.save("results", overwrite=True)
    print("sum", squares.with_options(result_storage=storage)())
