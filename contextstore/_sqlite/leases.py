"""The SQL about leases: who holds which, until when, and the counter of their tokens.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, in its thread. Whether a
lease has ended is told by a clock of the machine that nobody sets; one from before the machine was started has ended.
What stands in ``expires_at`` is for people, and decides nothing.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from .._engine.lease_operations import (
    Acquired,
    AcquireLease,
    ExpectLease,
    Held,
    LeaseOperation,
    LoadLastToken,
    ReleaseLease,
    RenewLease,
)
from .._engine.records import LeaseRecord, after_prefix, is_time
from .._process import boot_clock
from ..errors import CorruptStoreError, LeaseLostError
from .clock import now

_FIND = "SELECT holder, token, expires_at, ttl, boot, ends_at FROM leases WHERE name = ?"
_TAKE = """
    INSERT INTO leases (name, token, holder, boot, ends_at, ttl, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET token = excluded.token, holder = excluded.holder, boot = excluded.boot,
        ends_at = excluded.ends_at, ttl = excluded.ttl, expires_at = excluded.expires_at
"""
_RENEW = "UPDATE leases SET boot = ?, ends_at = ?, ttl = ?, expires_at = ? WHERE name = ? AND token = ?"
_LAST = "SELECT value FROM store_facts WHERE name = 'last_token'"
_RAISE_LAST = """
    INSERT INTO store_facts (name, value) VALUES ('last_token', ?)
    ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)
"""


# -- reads -------------------------------------------------------------------------------------------------------------


def find_lease(connection: sqlite3.Connection, name: str) -> Held | None:
    row = connection.execute(_FIND, (name,)).fetchone()
    if row is None:
        return None
    holder, token, expires_at, ttl, boot, ends_at = row
    if not is_time(expires_at) or not all(type(one) is int for one in (token, ttl, ends_at)):
        # Whoever holds it is fenced by the token alone: so it is had by the next one, and no damage makes it stuck.
        return Held(str(holder), token if type(token) is int else 0, 0, 0, 0)
    left = min(ends_at - boot_clock.now(), ttl) if boot == boot_clock.boot() else 0
    return Held(holder, token, expires_at, ttl, max(0, left))


def list_leases(connection: sqlite3.Connection, prefix: str) -> list[LeaseRecord]:
    query = """
        SELECT name, token, holder, expires_at FROM leases
        WHERE name >= ? AND name < ? AND boot = ? AND ends_at > ? ORDER BY name
    """
    bounds = prefix, after_prefix(prefix) or b""
    rows = connection.execute(query, (*bounds, boot_clock.boot(), boot_clock.now())).fetchall()
    return [LeaseRecord(*row) for row in rows if type(row[1]) is int and is_time(row[3])]


def last_token(connection: sqlite3.Connection, location: str) -> int:
    row = connection.execute(_LAST).fetchone()
    token = 0 if row is None else row[0]
    if type(token) is not int:
        raise CorruptStoreError(f"the token of the newest lease in {location} is damaged; restore a backup")
    return token


# -- writes ------------------------------------------------------------------------------------------------------------


def apply(
    connection: sqlite3.Connection, location: str, operation: LeaseOperation | ExpectLease | LoadLastToken
) -> Any:
    """Do what the operation says. Its result."""
    match operation:
        case AcquireLease():
            return _acquire(connection, location, operation)
        case RenewLease(name, token, ttl):
            expires_at = now() + ttl
            terms = boot_clock.boot(), boot_clock.now() + ttl, ttl, expires_at
            if connection.execute(_RENEW, (*terms, name, token)).rowcount != 1:
                raise LeaseLostError(name)
            return expires_at
        case ReleaseLease():
            return connection.execute("DELETE FROM leases WHERE name = ? AND holder = ?", operation).rowcount == 1
        case ExpectLease(name):
            query = "SELECT count(*) FROM leases WHERE name = ? AND token = ?"
            if connection.execute(query, operation).fetchone() != (1,):
                raise LeaseLostError(name)
            return None
        case LoadLastToken(token):
            connection.execute(_RAISE_LAST, (token,))
            return None


def _acquire(connection: sqlite3.Connection, location: str, acquire: AcquireLease) -> Acquired | Held:
    held = find_lease(connection, acquire.name)
    if held is not None and held.left > 0 and acquire.abandoned != (held.token, held.expires_at):
        return held
    token = last_token(connection, location) + 1
    connection.execute(_RAISE_LAST, (token,))
    name, holder, ttl, _ = acquire
    expires_at = now() + ttl
    row = (name, token, holder, boot_clock.boot(), boot_clock.now() + ttl, ttl, expires_at)
    connection.execute(_TAKE, row)
    return Acquired(token, expires_at)
