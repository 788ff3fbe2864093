"""Who may read and write a store's file and those beside it, and what to do about it.

Rules of this module: it asks the system, as the user that the process acts for, and opens nothing.
"""

from __future__ import annotations

import functools
import os
import stat

from ..errors import ReadOnlyStoreError


def check_rights(path: str, location: str) -> None:
    """Raise unless this process's user may write the file and, for its side files, the folder."""
    effective = os.access in os.supports_effective_ids
    for name, what in ((os.path.dirname(path), "its folder"), (path, "it")):
        if os.path.exists(name) and not os.access(name, os.W_OK, effective_ids=effective):
            raise ReadOnlyStoreError(
                f"could not open {location}: {what} cannot be written; check its permissions, or open the store "
                "with read_only=True"
            )
    advice = side_file_in_the_way(path)
    if advice:
        raise ReadOnlyStoreError(f"could not open {location}: {advice}")


def side_file_in_the_way(path: str) -> str:
    """Which of the files, the store's or one beside it, keeps this process's user from its work, and what to do.

    "": none.
    """
    may = functools.partial(os.access, effective_ids=os.access in os.supports_effective_ids)
    if os.path.isfile(path) and not may(path, os.R_OK):
        return f"it cannot be read by uid {os.geteuid()}; check its permissions"
    for name in (path + "-lock", path + "-shm", path + "-wal", path + "-journal"):
        try:
            there = os.stat(name)
        except OSError:
            continue
        if not may(name, os.R_OK):
            kept_from = "read"
        elif may(path, os.W_OK) and not may(name, os.W_OK):
            kept_from = "written"
        else:
            continue
        if not os.path.lexists(name):  # another process has just removed it, and so it was not to be read
            continue
        advice = (
            f"{name} (mode {stat.S_IMODE(there.st_mode):04o}, uid {there.st_uid}) cannot be {kept_from} by uid "
            f"{os.geteuid()}: give it the mode, owner and group of the store file (chmod, chown, chgrp)"
        )
        # The two in which no commit can be.
        if name.endswith("-shm") or (name.endswith("-wal") and not there.st_size):
            advice += ", or remove it while no process has the store open"
        return advice
    return ""
