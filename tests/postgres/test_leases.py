"""Leases on a server: answers that are lost, a clock that jumps, and who waits for whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from contextstore import AsyncContextStore, ContextStore, Lease, LeaseHeldError, LeaseLostError, StorageError
from contextstore._engine.lease_operations import Acquired, AcquireLease, Held, RenewLease
from contextstore._postgres import statements

from ..contract.leases import LONG
from ..support.nodes import execute
from ..support.proxy import Proxy
from ..support.servers import Server

HOUR = 3_600_000_000

# --------------------------------------------------------------------------------------------------------- lost answers


def test_a_lease_whose_answer_is_lost_is_held_once(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.put("run", "node", 1)
        proxy.lose_answer_to("name")
        with store.lease("name", ttl=LONG, wait=0) as lease:
            assert proxy.cuts == 1
            assert [one.token for one in store.list_leases()] == [lease.token]
        assert store.list_leases() == []


def test_one_that_is_given_back_without_an_answer_is_free(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        with store.lease("name", ttl=LONG):
            proxy.lose_answer_to("name")
        assert proxy.cuts == 1
        with store.lease("name", ttl=LONG, wait=0):
            pass


def test_a_renewal_whose_answer_is_lost_is_made(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, store.lease("name", ttl=0.6) as lease:
        before = lease.expires_at
        proxy.lose_answer_to("name")
        deadline = time.monotonic() + 60
        while proxy.cuts == 0 or lease.expires_at == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        store.run("run", lease=lease).put("node", 1)


FENCED: dict[str, Callable[[Any], Any]] = {
    "put": lambda run: run.put("node", 1),
    "append": lambda run: run.append("log/", 1),
    "put_many": lambda run: run.put_many({"a": 1, "b": 2}),
    "delete_outputs": lambda run: run.delete_outputs(prefix=""),
    "delete": lambda run: run.delete(),
}


@pytest.mark.parametrize("what", FENCED)
def test_a_fenced_write_whose_answer_is_lost_is_done_once(proxy: Proxy, schema: str, what: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, store.lease("name", ttl=LONG) as lease:
        run = store.run("run", lease=lease)
        run.put("first", 0)
        proxy.lose_answer_to("COMMIT")
        FENCED[what](run)
        assert proxy.cuts == 1
        expected = {"put": 2, "append": 2, "put_many": 3, "delete_outputs": 0, "delete": 0}
        assert len(store.list_keys("run")) == expected[what]


@pytest.mark.parametrize("what", FENCED)
def test_a_fenced_write_whose_answer_is_lost_and_then_the_lease_is_never_called_undone(
    proxy: Proxy, schema: str, postgres: Server, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was committed: that is what it says, or that it does not know."""
    with ContextStore(proxy.url(schema=schema), timeout=20) as store, store.lease("name", ttl=LONG) as lease:
        run = store.run("run", lease=lease)
        run.put("first", 0)
        leases: Any = store._core.session.engine._units._leases  # type: ignore[attr-defined]  # of this engine
        lock, looks = leases.lock, []

        async def lost_at_second_look(*arguments: Any) -> bool:
            looks.append(1)
            if len(looks) == 2:
                await asyncio.to_thread(execute, postgres, f'UPDATE "{schema}".leases SET token = token + 1')
            return bool(await lock(*arguments))

        monkeypatch.setattr(leases, "lock", lost_at_second_look)
        proxy.lose_answer_to("COMMIT")
        try:
            FENCED[what](run)
        except StorageError as error:
            assert error.outcome_unknown
            assert what.startswith("delete")
        assert proxy.cuts == 1
        assert len(looks) == 2
        assert (len(store.list_keys("run")) > 1) == (not what.startswith("delete"))


# ------------------------------------------------------------------------------------------------------------ its clock


@pytest.fixture
def set_clock(postgres: Server, schema: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Have the server's clock, as the stores ask for it, be so many microseconds ahead."""
    execute(postgres, f'CREATE SCHEMA "{schema}_clock"')
    execute(postgres, f'CREATE TABLE "{schema}_clock".ahead AS SELECT 0::bigint AS by')
    shifted = f'({statements.NOW} + (SELECT by FROM "{schema}_clock".ahead))'
    monkeypatch.setattr(statements, "NOW", shifted)

    def move(by: int) -> None:
        execute(postgres, f'UPDATE "{schema}_clock".ahead SET by = {by}')

    yield move
    execute(postgres, f'DROP SCHEMA "{schema}_clock" CASCADE')


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["ahead", "back"])
def test_a_holder_keeps_its_lease_when_the_server_s_clock_jumps_and_nobody_waits(
    set_clock: Callable[[int], None], url: str, by: int
) -> None:
    with ContextStore(url) as store, store.lease("name", ttl=0.3) as lease:
        set_clock(by)
        before = lease.expires_at
        deadline = time.monotonic() + 60
        while abs((lease.expires_at - before).total_seconds()) < 3000:
            assert time.monotonic() < deadline, "it was not renewed"
            time.sleep(0.01)
        store.run("run", lease=lease).put("node", 1)


def test_a_clock_that_is_set_back_lets_nobody_in_beside_a_holder_that_lives(
    set_clock: Callable[[int], None], url: str
) -> None:
    with ContextStore(url) as store, ContextStore(url) as other, store.lease("name", ttl=0.5) as lease:
        set_clock(-HOUR)
        with pytest.raises(LeaseHeldError), other.lease("name", wait=2):
            pytest.fail("held twice")
        assert not lease.lost
        store.run("run", lease=lease).put("node", 1)


def test_a_clock_that_is_set_back_leaves_no_lease_stuck(set_clock: Callable[[int], None], url: str) -> None:
    with ContextStore(url) as store, ContextStore(url) as other:
        lease = abandoned(store, "name", ttl=0.3)
        set_clock(-HOUR)
        with other.lease("name", wait=60) as next_one:
            assert next_one.token == lease.token + 1
            with pytest.raises(LeaseLostError):
                store.run("run", lease=lease).put("node", 1)


def test_a_clock_that_jumps_ahead_lets_one_in_and_shuts_the_other_out(
    set_clock: Callable[[int], None], url: str
) -> None:
    with ContextStore(url) as store, ContextStore(url) as other:
        lease = abandoned(store, "name", ttl=LONG)
        set_clock(2 * HOUR)
        with other.lease("name", wait=60) as next_one:
            other.run("run", lease=next_one).put("node", next_one.token)
            with pytest.raises(LeaseLostError):
                store.run("run", lease=lease).put("late", 1)
        assert other.get_run("run") == {"node": 2}


def abandoned(store: ContextStore, name: str, ttl: float) -> Lease:
    """A lease that is not renewed, as that of a holder that is stopped."""

    async def unreachable(_: Any) -> Any:
        raise StorageError("not reached")

    store.open()
    leases: Any = store._core.session.backend.leases
    leases._renew = unreachable
    return store.lease(name, ttl=ttl).__enter__()


# --------------------------------------------------------------------------------------------------- who waits for whom


async def test_a_take_over_waits_for_who_writes_under_the_lease_and_renewals_do_not(url: str, schema: str) -> None:
    async with AsyncContextStore(url) as store, store.lease("name", ttl=LONG) as lease:
        connection = await asyncpg.connect(url.partition("?")[0])
        try:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f'SELECT FROM "{schema}".leases FOR KEY SHARE')
            (at,) = await store._core.session.commit([RenewLease("name", lease.token, HOUR)])
            take = AcquireLease("name", "another", HOUR, (lease.token, at))
            assert isinstance((await store._core.session.commit([take]))[0], Held)
            await transaction.rollback()
            assert isinstance((await store._core.session.commit([take]))[0], Acquired)
        finally:
            await connection.close()
