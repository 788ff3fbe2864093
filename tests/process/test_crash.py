"""SIGKILL at any moment: nothing acknowledged is missing, nothing unheard of is there."""

from __future__ import annotations

import pathlib
import random
import sqlite3
import time

import pytest

from contextstore import ContextStore

from ..support.forked import Child
from ..support.portions import some

pytestmark = pytest.mark.disk

WRITERS = {
    "async": """
        async def work(store, worker):
            for i in range(10**9):
                await store.put("run", f"{worker}-{i}", {"worker": worker, "i": i, "text": "x" * (i % 3000)})
                say("put", worker, i)
                if i % 5 == 0:
                    say("global", await store.upsert_global(f"g{worker}", i), worker, i)

        async def main():
            async with AsyncContextStore(sys.argv[1]) as store:
                await asyncio.gather(*(work(store, worker) for worker in range(8)))

        asyncio.run(main())
    """,
    "sync": """
        def work(store, worker):
            for i in range(10**9):
                store.put("run", f"{worker}-{i}", {"worker": worker, "i": i, "text": "x" * (i % 3000)})
                say("put", worker, i)
                if i % 5 == 0:
                    say("global", store.upsert_global(f"g{worker}", i), worker, i)

        with ContextStore(sys.argv[1]) as store:
            threads = [threading.Thread(target=work, args=(store, worker)) for worker in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
    """,
}


@pytest.mark.parametrize("face", WRITERS)
def test_after_sigkill_every_acknowledged_write_is_there(face: str, file_path: pathlib.Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    acknowledged: dict[str, int] = {}
    versions: dict[str, tuple[int, int]] = {}
    for kill in range(some(6, 2)):
        with Child(WRITERS[face].replace("range(10**9)", f"range({kill} * 10**6, 10**9)"), file_path) as child:
            # A moment by what it has done, since how much that is in a time depends on the machine.
            said = [child.hear() for _ in range(moments.randrange(1, 300) if kill else 150)]
            time.sleep(moments.uniform(0, 0.02))
            child.kill()
            said += child.hear_all()
        for line in said:
            kind, *words = line.split()
            if kind == "put" and len(words) == 2:
                acknowledged[f"{words[0]}-{words[1]}"] = int(words[1])
            elif kind == "global" and len(words) == 3:
                versions[f"g{words[1]}"] = (int(words[0]), int(words[2]))
        with ContextStore(file_path, cache_bytes=0) as store:
            present = store.list_keys("run")
            assert set(acknowledged) <= set(present), f"seed {seed}"
            for node in present:
                worker, i = node.split("-")
                expected = {"worker": int(worker), "i": int(i), "text": "x" * (int(i) % 3000)}
                assert store.get("run", node) == expected
            for key, (version, value) in versions.items():
                # One more may have been committed than was heard of.
                assert store.get_global(key) >= value, f"seed {seed}, version {version}"
            # What is there is refused, and one in flight at most per worker is there without having been heard of.
            assert len(present) - len(acknowledged) <= 8 * (kill + 1)
        connection = sqlite3.connect(file_path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    assert len(acknowledged) > 100


def test_a_run_that_was_killed_goes_on_where_it_was(file_path: pathlib.Path) -> None:
    program = """
        with ContextStore(sys.argv[1]) as store:
            done = set(store.list_keys("flow"))
            for step in range(40):
                if f"step-{step:02}" not in done:
                    say("computing", step)
                    store.put("flow", f"step-{step:02}", step * step)
        say("finished")
    """
    computed: list[str] = []
    for lines in (5, 11, 17):
        with Child(program, file_path) as child:
            computed += [child.hear() for _ in range(lines)]
            child.kill()
            computed += child.hear_all()
    with Child(program, file_path) as child:
        status, said, err = child.end()
    assert (status, err) == (0, "")
    computed += said
    # At each kill one step may have been computed and not yet stored.
    assert 40 <= len([line for line in computed if line.startswith("computing")]) <= 43
    with ContextStore(file_path) as store:
        assert [store.get("flow", node) for node in store.list_keys("flow")] == [step * step for step in range(40)]
