"""Leases that are held, as a list that is leafed through, and the runs that they are about.

Rules of this module: public calls of the store alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import ContextStore, Lease, RunInfo


class LeasePage(NamedTuple):
    """A page of leases.

    Attributes:
        leases: by name.
        next_after: what the page behind it begins after; None if this is the last one.
        there: how many are held altogether.
    """

    leases: list[Lease]
    next_after: str | None
    there: int


def lease_page(store: ContextStore, *, prefix: str = "", after: str = "", limit: int = 100) -> LeasePage:
    """A page of the leases that are held, by name; of those alone whose name begins with ``prefix``."""
    held = store.list_leases(prefix)
    behind = [lease for lease in held if not after or lease.name > after]
    return LeasePage(behind[:limit], behind[limit - 1].name if len(behind) > limit else None, len(held))


def run_of_lease(store: ContextStore, lease: Lease) -> RunInfo | None:
    """The run that has the lease's name, if there is one: by convention the lease is about it."""
    return store.get_run_info(lease.name)


def lease_form(lease: Lease) -> dict[str, Any]:
    """A lease as JSON. Not whether it is lost: only its holder's own object knows."""
    return {
        "name": lease.name,
        "token": lease.token,
        "holder": lease.holder,
        "expires_at": lease.expires_at.isoformat(),
    }
