"""Damage to a store that pages show."""

from __future__ import annotations

import concurrent.futures
import pathlib
from typing import Any

import pytest

from ..contract.test_damaged import damage


def harm(target: str, request: pytest.FixtureRequest, table: str, where: str) -> None:
    """What is stored in some rows of a table is no longer what was written.

    In a thread of its own: the browser's driver keeps a loop running in this one.
    """
    location: Any = target if "://" in target else pathlib.Path(target)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(damage, location, request, table, "checksum = checksum + 1", where).result()
