"""Opening a store: looking at the server, making or migrating the tables, asking for the epoch.

Rules of this module: nothing is made before the server's settings are looked at, and nothing where the caller wants to
find a store. Clients may open, and make, the same store at one moment: each tries until it finds what another has made.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import NamedTuple

from .._process.log import log
from .._waiting.deadline import Deadline
from ..errors import IncompatibleStoreError, ReadOnlyStoreError, StorageError, StoreBusyError, StoreNotFoundError
from .adoption import Adoption
from .epoch import StoreEpoch
from .errors import NO_CONNECTION_LEFT, NO_TABLE, ConnectionLostError, TransientError, TryAgainError
from .migration import Migration
from .retry import LONGEST_PAUSE, SHORTEST_PAUSE, deadline_of_call
from .statements import OTHER_FORMAT
from .tables import SCHEMA_VERSION
from .url import Address
from .write import WriteContext

_MAX_MILLISECONDS = 2**31 - 1
_MADE_MEANWHILE = ("23505", "42P06", "42P07", "42710", NO_TABLE, OTHER_FORMAT)
"""Another client creates, or migrates, it at the same moment. The first come also in spite of IF NOT EXISTS."""
_MAX_COLLISIONS = 20
_LEAST_SERVER = 13
"""The first with snapshots of 64 bits, by which outputs are watched."""


class Terms(NamedTuple):
    """How the caller wants the store opened."""

    timeout: float
    durability: str
    read_only: bool
    create: bool


def session_settings(terms: Terms) -> dict[str, str]:
    """What the store's own sessions set at the server."""
    # What a role's own settings would break off is not stored, and then it was; and a lock that another client holds
    # must not be waited for by connections that the store has given up.
    patience = min(max(1, int(terms.timeout * 900)), _MAX_MILLISECONDS)
    settings = {"jit": "off", "statement_timeout": "0", "lock_timeout": f"{patience}ms"}
    # Nearly all statements look some rows up by their keys. A plan that goes through a whole table is kept until the
    # server next analyses that, and a table that was small when it was made grows a good deal by then.
    settings |= {"enable_seqscan": "off", "random_page_cost": "1.1"}
    if terms.durability == "normal":
        settings["synchronous_commit"] = "off"
    if terms.read_only:
        settings["default_transaction_read_only"] = "on"
    return settings


class Opening:
    """One opening of a store. It may add to the settings of the sessions, which all connections go by."""

    def __init__(
        self, address: Address, terms: Terms, settings: dict[str, str], context: WriteContext, epoch: StoreEpoch
    ) -> None:
        self._address = address
        self._terms = terms
        self._settings = settings
        self._location = context.location
        self._connection = context.connection
        self._statements = context.statements
        self._epoch = epoch
        self._migration = Migration(context.location, context.connection, address.schema)
        self._adoption = Adoption(context.location, context.connection, context.statements, terms.timeout)

    async def run(self) -> None:
        deadline = deadline_of_call(self._terms.timeout)
        collisions = 0
        last: TransientError | None = None
        version: int | None = None
        while True:
            try:
                await self._look_at_settings(deadline)  # before anything is made
                while (version := await self._version(deadline)) != SCHEMA_VERSION:
                    if version is None:
                        await self._set_up(deadline)
                    else:
                        await self._migrate(version, deadline)
                if not self._terms.read_only:
                    await self._adoption.run(deadline)
                await self._epoch.ask(deadline)
                return
            except ConnectionLostError as lost:
                self._connection.terminate()
                # A server that starts up or that is full will answer soon; one that does not answer at all may never.
                if isinstance(lost.__cause__, OSError | None) or deadline.is_over:
                    told = _told(lost, last)
                    raise self._not_connected(told) from told.__cause__
                last = lost
            except TryAgainError as error:
                last = error
                if deadline.is_over:
                    raise StoreBusyError(f"could not open {self._location}: {error}", code=error.code) from error
            except StorageError as error:
                if error.code not in _MADE_MEANWHILE:
                    raise
                collisions += 1
                if collisions > _MAX_COLLISIONS and version is not None:
                    reason = f"lacks a table, or another part: restore a backup ({error.message})"
                    raise self._migration.refusal(version, reason) from error
                if collisions > _MAX_COLLISIONS:  # there are such tables, and no store
                    raise IncompatibleStoreError(
                        f"{self._location} has tables of another program; it was left as it is: name another schema"
                    ) from error
            await asyncio.sleep(random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE) / 4)  # noqa: S311 - no secret

    def _not_connected(self, error: TransientError) -> StorageError:
        if error.code == NO_CONNECTION_LEFT:
            return StoreBusyError(
                f"could not open {self._location}: {error}; it had no connection left for timeout="
                f"{self._terms.timeout:g} seconds: raise the server's max_connections, or lower the stores'",
                code=error.code,
            )
        message = f"could not connect to {self._location}: {error}; is the server running, and the URL right?"
        return StorageError(message, code=error.code)

    async def _version(self, deadline: Deadline) -> int | None:
        """The store's, if it is one that can be used or migrated; None: there is no store."""
        try:
            rows = await self._connection.fetch(deadline, self._statements.format)
        except StorageError as error:
            if error.code in (NO_TABLE, "3F000"):  # no such table, no such schema
                return None
            raise
        versions = [row[0] for row in rows]
        if len(versions) != 1 or not (versions[0] == SCHEMA_VERSION or self._migration.is_known(versions[0])):
            raise IncompatibleStoreError(
                f"{self._location} is of no version that this one knows (its store_format has {versions}, known is "
                f"{SCHEMA_VERSION}); it was left as it is: upgrade contextstore, or restore a backup"
            )
        return int(versions[0])

    async def _migrate(self, version: int, deadline: Deadline) -> None:
        if self._terms.read_only:
            reason = "with read_only=True it is not migrated: open it once without"
            raise self._migration.refusal(version, reason)
        await self._migration.step(version, deadline)
        problem = "it was of version %d, and was migrated"
        log(logging.INFO, "migrated", self._location, problem, version, from_version=version)

    async def _set_up(self, deadline: Deadline) -> None:
        if self._terms.read_only or not self._terms.create:
            reason = "with read_only=True none is made: open it once without"
            if not self._terms.read_only:
                reason = "create=True would make one"
            raise StoreNotFoundError(f"there is no store at {self._location}; {reason}")
        try:
            # Not "if not exists" alone, which asks for the right to make schemas also where there is one.
            if not await self._connection.fetch(deadline, self._statements.has_schema, self._address.schema):
                await self._connection.execute(deadline, self._statements.create_schema)
            await self._connection.execute(deadline, self._statements.create_tables)
        except ReadOnlyStoreError as error:  # the role lacks a right
            message = (
                f"there is no store at {self._location}, and this role may not make one: open it once as one that may"
            )
            raise ReadOnlyStoreError(f"{message} ({error.message})", code=error.code) from error

    # -- the server's settings ----------------------------------------------------------------------------------------

    async def _look_at_settings(self, deadline: Deadline) -> None:
        settings = dict(await self._connection.fetch(deadline, self._statements.settings))
        if int(settings.get("server_version_num", 0)) < _LEAST_SERVER * 10_000:
            raise IncompatibleStoreError(
                f"{self._location} is on a server of version {settings.get('server_version_num')}; a store needs "
                f"PostgreSQL {_LEAST_SERVER} or newer"
            )
        if settings.get("server_encoding") != "UTF8":
            raise IncompatibleStoreError(
                f"{self._location} has the encoding {settings.get('server_encoding')}; a store needs UTF8"
            )
        if self._terms.durability != "full":
            return
        # What the sessions have set already, and a pooler or the server overrules, would be asked for without end.
        may_be_set = not self._address.has_pooler and "synchronous_commit" not in self._settings
        if settings.get("synchronous_commit") == "off" and may_be_set:
            # For the store's own sessions, as it has promised; never less than the server's. By new connections.
            self._settings["synchronous_commit"] = "on"
            self._connection.terminate()
            await self._look_at_settings(deadline)
            return
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            if settings.get(name) == "off":
                problem = "the server has %s=off: a power cut there may lose what was acknowledged"
                log(logging.WARNING, "not_durable", self._location, problem, name, setting=name)
        if not settings.get("synchronous_standby_names"):
            await self._warn_of_standbys(deadline)

    async def _warn_of_standbys(self, deadline: Deadline) -> None:
        if await self._connection.fetch(deadline, self._statements.has_standby):
            problem = "it has standbys, none in synchronous_standby_names: a fail-over may lose what was acknowledged"
            log(logging.WARNING, "not_durable", self._location, problem, setting="synchronous_standby_names")


def _told(lost: ConnectionLostError, last: TransientError | None) -> TransientError:
    """Of the last two failures, the one that says more: the last attempt may have had no time left."""
    if last is None:
        return lost
    had_no_time = isinstance(lost.__cause__, TimeoutError) and last.code == NO_CONNECTION_LEFT
    return last if had_no_time or lost.__cause__ is None else lost
