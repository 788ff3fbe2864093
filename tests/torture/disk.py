"""What may be found on a disk after a power cut: a model, fed with the log of what a program asked of it.

The reading is a pessimistic one, so that what holds here holds on ext4 and on what promises less:

- Data is certain once an fsync or fdatasync of its file has returned. Until then each sector of 512 bytes may be found
  as it was after any of the writes to it, whatever became of the other sectors and in whatever order they were written.
- The size may be any that the file had since its last sync; what lies below and was not kept reads as zeros. Cuts
  (ftruncate) of a file take effect in order, and what was written behind one that did not take effect is lost.
- A name in the folder (created, removed, renamed, linked) is certain only once the *folder* was synced, as fsync(2)
  warns. ext4's journal also makes it so when the new file is synced; the store should not have to rely on that.
  Until then each name is found as any of its changes left it, whatever became of the other names.
- After a sync that failed, what it should have written stays visible to programs, but no later sync writes it, unless
  its page is written to again: that is how Linux treats it ("fsyncgate").

The -shm is left out: it is not there after a restart in any way that counts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from . import shim
from .shim import Record

SECTOR = 512
PAGE = 4096

Fate = Literal["lost", "kept", "torn", "ragged"]
FATES: tuple[Fate, ...] = ("lost", "kept", "torn", "ragged")
"""What becomes of everything unsynced: all of it lost, all of it kept, each sector by itself, or all kept but a few."""


class _Write:
    __slots__ = ("data", "doomed", "offset")

    def __init__(self, offset: int, data: bytes) -> None:
        self.offset = offset
        self.data = data
        self.doomed = False  # a sync of it failed


class _Cut:
    """A change of the size alone."""

    __slots__ = ("doomed", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.doomed = False


class _File:
    def __init__(self, content: bytes = b"") -> None:
        self.synced = bytearray(content)
        self.size = len(content)  # as programs see it
        self.pending: list[_Write | _Cut] = []

    def write(self, offset: int, data: bytes) -> None:
        self.size = max(self.size, offset + len(data))
        while data:  # page by page, since that is how it is kept in memory
            step = PAGE - offset % PAGE
            self.pending.append(_Write(offset, data[:step]))
            offset, data = offset + step, data[step:]

    def cut(self, size: int) -> None:
        self.size = size
        self.pending.append(_Cut(size))

    def sync(self) -> None:
        fresh = {change.offset // PAGE for change in self.pending if type(change) is _Write and not change.doomed}
        left: list[_Write | _Cut] = []
        for change in self.pending:
            if type(change) is _Cut:
                _resize(self.synced, change.size)
            elif not change.doomed or change.offset // PAGE in fresh:
                _apply(self.synced, change)
            else:
                left.append(change)
        _resize(self.synced, self.size)
        self.pending = left

    def fail_sync(self) -> None:
        for change in self.pending:
            change.doomed = True

    def found(self, fate: Fate, dice: random.Random) -> bytes:
        """The content after a power cut now."""
        if fate == "lost" or not self.pending:
            return bytes(self.synced)
        cuts = sum(type(change) is _Cut for change in self.pending)
        cuts_kept = cuts if fate == "kept" else dice.randint(0, cuts)
        keep = {"kept": 1.0, "torn": dice.choice([0.1, 0.5, 0.9]), "ragged": 0.98}[fate]
        found, size, cuts_seen = bytearray(self.synced), len(self.synced), 0
        sizes = [size]
        # How many of the writes to each sector reached it: decided at the first of them.
        reached: dict[int, int] = {}
        touched = _count_by_sector(self.pending)
        limit: int | None = None  # below it, what comes after a cut that did not take effect still has a place
        for change in self.pending:
            if type(change) is _Cut:
                cuts_seen += 1
                if cuts_seen <= cuts_kept:
                    _resize(found, change.size)
                    sizes = [change.size]
                else:
                    limit = change.size if limit is None else min(limit, change.size)
                continue
            for sector, start, piece in _pieces(change):
                if sector not in reached:
                    count = touched[sector]
                    reached[sector] = count if dice.random() < keep else dice.randint(0, count - 1)
                if reached[sector] > 0 and (limit is None or start + len(piece) <= limit):
                    if len(found) < start:
                        _resize(found, start)
                    found[start : start + len(piece)] = piece
                reached[sector] -= 1
            sizes.append(max(sizes[-1], change.offset + len(change.data)))
        _resize(found, sizes[-1] if fate == "kept" or dice.random() < keep else dice.choice(sizes))
        return bytes(found)


def _resize(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))
    else:
        del content[size:]


def _apply(content: bytearray, write: _Write) -> None:
    if len(content) < write.offset:
        _resize(content, write.offset)
    content[write.offset : write.offset + len(write.data)] = write.data


def _pieces(write: _Write) -> list[tuple[int, int, bytes]]:
    """Sector, offset in the file and bytes of each part of a write."""
    pieces, start, data = [], write.offset, write.data
    while data:
        step = SECTOR - start % SECTOR
        pieces.append((start // SECTOR, start, data[:step]))
        start, data = start + step, data[step:]
    return pieces


def _count_by_sector(changes: list[_Write | _Cut]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for change in changes:
        if type(change) is _Write:
            for sector in range(change.offset // SECTOR, (change.offset + len(change.data) - 1) // SECTOR + 1):
                counts[sector] = counts.get(sector, 0) + 1
    return counts


class Disk:
    """One folder. What its records say is done with ``do``, what may be found after a cut is told by ``found``."""

    def __init__(self, content: Mapping[str, bytes], sqlite_syncs_folders: bool = True) -> None:
        self._sqlite_syncs_folders = sqlite_syncs_folders  # which it does not where built with SQLITE_DISABLE_DIRSYNC
        self._files: dict[str, _File] = {name: _File(data) for name, data in content.items()}  # as programs see it
        self._synced: dict[str, _File] = dict(self._files)
        self._changes: list[tuple[str, _File | None]] = []  # of names, since the folder was last synced
        self._open: dict[tuple[int, int], _File | None] = {}  # None: the folder itself
        self._opened_by_us: set[tuple[int, int]] = set()

    def do(self, record: Record) -> None:
        handle = (record.pid, record.fd)
        match record.kind:
            case shim.OPEN:
                self._do_open(handle, record)
            case shim.WRITE:
                self._file(handle).write(record.offset, record.data)
            case shim.TRUNCATE:
                self._file(handle).cut(record.offset)
            case shim.ALLOCATE:
                file = self._file(handle)
                file.cut(max(file.size, record.offset))
            case shim.SYNC:
                file_or_folder = self._open[handle]
                if file_or_folder is None:
                    if not record.error and (self._sqlite_syncs_folders or handle in self._opened_by_us):
                        self._synced = dict(self._files)
                        self._changes = []
                elif record.error:
                    file_or_folder.fail_sync()
                else:
                    file_or_folder.sync()
            case shim.UNLINK:
                self._name(record.name, None)
            case shim.RENAME:
                self._name(record.data.decode(), self._files[record.name])
                self._name(record.name, None)
            case shim.LINK:
                self._name(record.data.decode(), self._files[record.name])

    def _do_open(self, handle: tuple[int, int], record: Record) -> None:
        if record.name == ".":
            self._open[handle] = None
            # The library says O_DIRECTORY, SQLite does not.
            (self._opened_by_us.add if record.offset & 4 else self._opened_by_us.discard)(handle)
            return
        if record.offset & 1:
            self._name(record.name, _File())
        file = self._files[record.name]
        if record.offset & 2:
            file.cut(0)
        self._open[handle] = file

    def _file(self, handle: tuple[int, int]) -> _File:
        file = self._open[handle]
        assert file is not None, "a write to the folder"
        return file

    def _name(self, name: str, file: _File | None) -> None:
        self._changes.append((name, file))
        if file is None:
            del self._files[name]
        else:
            self._files[name] = file

    def found(self, fate: Fate, dice: random.Random) -> dict[str, bytes]:
        """What a restart after a power cut now may find."""
        names: dict[str, _File | None] = dict(self._synced)
        by_name: dict[str, list[_File | None]] = {}
        for name, file in self._changes:
            by_name.setdefault(name, []).append(file)
        names_fate = fate if fate in ("lost", "kept") else dice.choice(["lost", "kept", "torn"])
        for name, files in by_name.items():
            kept = {"lost": 0, "kept": len(files)}.get(names_fate, dice.randint(0, len(files)))
            if kept:
                names[name] = files[kept - 1]
        # One file may stand under two names.
        contents: dict[int, bytes] = {}
        found = {}
        for name, present in names.items():
            if present is not None and not name.endswith(("-shm", "-lock")):
                if id(present) not in contents:
                    contents[id(present)] = present.found(fate, dice)
                found[name] = contents[id(present)]
        return found
