"""The SQL for PostgreSQL that is about leases.

Rules of this module: as those of ``statements``, which puts the parts in braces into the texts. What takes, renews or
gives back a lease is one statement, and commits by itself: a client that is stopped in between would hold its locks.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class LeaseStatements:
    """What is said of leases, over either connection."""

    # A clock that was set back leaves no more than the whole ttl.
    find_lease: str = """
        SELECT holder, token, expires_at, ttl, greatest(0, least(ttl, expires_at - {now})), writer
        FROM {schema}.leases WHERE {is_known} AND name = $1
    """
    list_leases: str = """
        SELECT name, token, holder, expires_at FROM {schema}.leases
        WHERE {is_known} AND name >= $1 AND name < $2 AND expires_at > (SELECT {now}) ORDER BY name
    """
    last_token: str = "SELECT last FROM {schema}.lease_tokens WHERE {is_known}"  # noqa: S105 - no password
    take_free_lease: str = """
        WITH next AS (UPDATE {schema}.lease_tokens SET last = last + 1 WHERE {is_known} RETURNING last)
        INSERT INTO {schema}.leases (name, token, holder, ttl, expires_at, writer)
        SELECT $1::text, last, $2::text, $3::bigint, {now} + $3::bigint, $4::uuid FROM next
        ON CONFLICT (name) DO NOTHING RETURNING token, expires_at
    """
    # As it was found, or it was renewed since. It waits for nobody: those who write under the lease, and lock its row
    # until their commit, are not kept waited for by all that this store writes.
    take_over_lease: str = """
        WITH taken AS (
            SELECT name FROM {schema}.leases
            WHERE {is_known} AND name = $1 AND token = $5 AND expires_at = $6 FOR UPDATE SKIP LOCKED
        ), next AS (
            UPDATE {schema}.lease_tokens SET last = last + 1
            WHERE EXISTS (SELECT FROM taken) RETURNING last
        )
        UPDATE {schema}.leases AS l
        SET token = next.last, holder = $2, ttl = $3, expires_at = {now} + $3, writer = $4
        FROM next, taken WHERE l.name = taken.name RETURNING l.token, l.expires_at
    """
    renew_lease: str = """
        UPDATE {schema}.leases SET ttl = $3, expires_at = {now} + $3, writer = $4
        WHERE {is_known} AND name = $1 AND token = $2 RETURNING expires_at
    """
    release_lease: str = "DELETE FROM {schema}.leases WHERE {is_known} AND name = $1 AND holder = $2"
    # Renewals go on beside this lock, and who takes the lease over, or gives it back, does not. It lasts until the end
    # of the transaction: the server ends that of a client that is stopped within it.
    lock_lease: str = """
        SELECT set_config('idle_in_transaction_session_timeout', greatest(ttl / 1000, 1000)::text, true)
        FROM {schema}.leases WHERE {is_known} AND name = $1 AND token = $2 FOR KEY SHARE
    """
    raise_last_token: str = "UPDATE {schema}.lease_tokens SET last = greatest(last, $1) WHERE {is_known}"  # noqa: S105 - no password
