"""Which file the -wal beside a store's file belongs to: the file as it is now, or one that stood in its place.

A store that was killed leaves its last commits in the -wal. A backup that is then copied over the file (``cp`` keeps
the inode) has that -wal beside it, and SQLite, which cannot tell, would take its pages for this file's. So the lock
file holds a stamp: how the file looked when this library had it written last. A file that was written since, and after
its -wal, is looked at: what its own -wal would change in it must be what no checkpoint has copied into it yet.

Rules of this module: no SQL. It only looks, and says that a file is another one if nothing else explains what it sees:
never after a mere kill or power cut, a chmod, or another program's checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ..errors import IncompatibleStoreError
from .lock import FileLock


class Stamp(NamedTuple):
    """How the file was written last, and on which boot of the machine.

    ``kept``: it looked so when it had been written. ``writing``: it looked so before it is written now. ``placing``: a
    whole new file takes the place of the one that is there; its inode stands for its time.
    """

    state: str
    mtime_ns: int
    size: int
    boot: str

    @classmethod
    def read(cls, text: str) -> Stamp | None:
        try:
            state, mtime_ns, size, boot = text.split(" ")
            return cls(state, int(mtime_ns), int(size), boot)
        except ValueError:
            return None

    def __str__(self) -> str:
        return " ".join(map(str, self))


def keep_stamp(lock: FileLock, path: str, state: str = "kept") -> None:
    """Stamp the file as it is now. While holding the lock."""
    there = _written(path)
    # Not synced. After a kill it is there, and after a power cut an old one is allowed for.
    lock.set_stamp("" if there is None else str(Stamp(state, *there, boot_id())))


@contextlib.contextmanager
def being_written(lock: FileLock | None, path: str) -> Iterator[None]:
    """Around work in which SQLite may write to the file itself, and not to its -wal. None: the lock is not held."""
    if lock is None:
        yield
        return
    before, former = _written(path), lock.stamp()
    keep_stamp(lock, path, "writing")
    try:
        yield
    finally:
        if _written(path) == before:
            lock.set_stamp(former)
        else:
            keep_stamp(lock, path)


def _written(path: str) -> tuple[int, int] | None:
    try:
        there = os.stat(path)
    except OSError:
        return None
    return there.st_mtime_ns, there.st_size


def stamp_placing(lock: FileLock, inode: int) -> None:
    """A file of this inode is about to take the place of the one that is there. Synced: it must outlast a power cut."""
    lock.set_stamp(str(Stamp("placing", inode, 0, boot_id())))
    lock.sync()


def is_placed(stamp: str, path: str) -> bool:
    """Whether a whole new file has taken its place, and what is left to do is to remove the old one's side files."""
    placed = Stamp.read(stamp)
    return placed is not None and placed.state == "placing" and os.stat(path).st_ino == placed.mtime_ns


def was_store(stamp: str) -> bool:
    found = Stamp.read(stamp)
    return found is not None and (found.state == "placing" or found.size > 0)


def boot_id() -> str:
    """Which boot of the machine this is; "-" where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().decode().strip() or "-"
    except OSError:
        return "-"


def _boot_time_ns() -> int | None:
    try:
        with open("/proc/stat", "rb") as file:
            return next(int(line.split()[1]) * 10**9 for line in file if line.startswith(b"btime "))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def refuse_other_wal(path: str, location: str, stamp_text: str) -> None:
    """Raise if the file was replaced under its -wal. Called while no process commits, checkpoints, opens or closes."""
    if not _is_suspicious(path, stamp_text) or is_open_here(path, path + "-shm"):
        return
    if _explains(path):
        return
    raise IncompatibleStoreError(
        f"{location} is not the file that {path}-wal belongs to: it was overwritten after the last commit to that one, "
        "as by a backup that was copied over it, and the two would mix; it was left as it is. If it was restored, "
        f"remove {path}-wal and {path}-shm, and the commits in them with it, or use contextstore.restore() with "
        f"overwrite=True, which does so; if it was not, remove {path}-lock"
    )


def _is_suspicious(path: str, stamp_text: str) -> bool:
    """Whether another program has written to the file since this library did, and since its -wal was written."""
    stamp = Stamp.read(stamp_text)
    if stamp is None or stamp.state not in ("kept", "writing"):
        return False
    try:
        database, wal = os.stat(path), os.stat(path + "-wal")
        lock = os.stat(path + "-lock")
    except OSError:
        return False
    if not wal.st_size or _written(path) == (stamp.mtime_ns, stamp.size):
        return False
    if stamp.boot == "-":
        return False
    if stamp.boot == boot_id():
        # cp -p and rsync -a set the mtime, nothing sets the ctime back.
        return database.st_ctime_ns > wal.st_mtime_ns
    # A power cut may have taken the last times, or the last stamp. So it takes something that was done since then: the
    # file written, or it alone touched (a chown of the whole folder, as at a container's start, is not meant).
    boot = _boot_time_ns()
    if boot is None:
        return False
    alone = max(wal.st_ctime_ns, lock.st_ctime_ns) < boot < database.st_ctime_ns
    return database.st_mtime_ns > boot or alone


def descriptors_here(*paths: str) -> int:
    """How many descriptors this process has on these files. SQLite drops all of its locks when any of them closes."""
    wanted = set()
    for path in paths:
        with contextlib.suppress(OSError):
            there = os.stat(path)
            wanted.add((there.st_dev, there.st_ino))
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = 0
    for name in os.listdir(folder):
        with contextlib.suppress(OSError, ValueError):
            there = os.fstat(int(name))
            found += (there.st_dev, there.st_ino) in wanted
    return found


def is_open_here(*paths: str) -> bool:
    return descriptors_here(*paths) > 0


# ------------------------------------------------------------------------------------------------------------- content


class Wal(NamedTuple):
    """What a -wal holds: https://sqlite.org/fileformat2.html#walformat."""

    page_bytes: int
    salts: bytes
    frames: int
    """How many, up to the last commit."""
    pages: int
    """How many pages the database has with it."""
    last: dict[int, int]
    """The last frame of each page, counted from 1."""

    def pages_up_to(self, frame: int) -> list[int]:
        """The pages of the database that have frames, but none behind this one, by number."""
        return sorted(page for page, last in self.last.items() if page <= self.pages and last <= frame)


_WAL_HEADER = 32
_FRAME_HEADER = 24


class _Header(NamedTuple):
    order: str
    """How its checksums read numbers, as ``struct`` says it."""
    page_bytes: int
    salts: bytes
    sums: tuple[int, int]


def read_wal(path: str, enough: int = 2**62) -> Wal | None:
    """What is committed in it; None: nothing, and SQLite passes it over. ``enough``: so many commits, if not all."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; no process holds a lock on it
    except OSError:
        return None
    with file:
        header = _read_header(file)
        if header is None:
            return None
        last: dict[int, int] = {}
        pending: dict[int, int] = {}
        frames = pages = 0
        for number, (page, committed) in enumerate(_read_frames(file, header), start=1):
            pending[page] = number
            if committed:
                last |= pending
                pending = {}
                frames, pages = number, committed
                enough -= 1
                if not enough:
                    break
    return Wal(header.page_bytes, header.salts, frames, pages, last) if frames else None


def _read_header(file: BinaryIO) -> _Header | None:
    header = file.read(_WAL_HEADER)
    if len(header) < _WAL_HEADER or header[:4] not in (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"):
        return None
    order = ">" if header[3] & 1 else "<"
    page_bytes = int.from_bytes(header[8:12])
    sums = _checksum(order, header[:24], (0, 0))
    if sums != struct.unpack(">II", header[24:32]) or page_bytes not in [2**power for power in range(9, 17)]:
        return None
    return _Header(order, page_bytes, header[16:24], sums)


def _read_frames(file: BinaryIO, header: _Header) -> Iterator[tuple[int, int]]:
    """Of each frame that is valid: its page, and how many the database has with it if it ends a commit, else 0."""
    sums, length = header.sums, _FRAME_HEADER + header.page_bytes
    while len(frame := file.read(length)) == length:
        page, committed = struct.unpack_from(">II", frame)
        sums = _checksum(header.order, frame[:8], sums)
        sums = _checksum(header.order, memoryview(frame)[_FRAME_HEADER:], sums)
        if frame[8:16] != header.salts or page == 0 or sums != struct.unpack_from(">II", frame, 16):
            return
        yield page, committed


def _checksum(order: str, content: bytes | memoryview, sums: tuple[int, int]) -> tuple[int, int]:
    one, two = sums
    for first, second in struct.iter_unpack(order + "II", content):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


def _backfilled(path: str, wal: Wal) -> tuple[int, int]:
    """Up to which frame checkpoints have copied this WAL into the database, and up to which the last one tried to.

    As the -shm has it, which outlives the processes that had it open.
    """
    try:
        with open(path + "-shm", "rb") as file:  # no connection of this process has it open, see is_open_here
            content = file.read(136)
    except OSError:
        return 0, 0
    one, other = content[:48], content[48:96]
    if len(content) < 136 or one != other or not one[12] or one[32:40] != wal.salts:
        return 0, 0
    order = "<" if sys.byteorder == "little" else ">"
    (done,) = struct.unpack_from(order + "I", content, 96)
    (tried,) = struct.unpack_from(order + "I", content, 128)
    return done, max(done, tried)


def _explains(path: str) -> bool:
    """Whether the file looks as checkpoints of its -wal, by whichever program, may have left it."""
    wal = read_wal(path + "-wal")
    if wal is None:
        return True  # nothing will be taken from it
    done, tried = _backfilled(path, wal)
    before, begun, pages = wal.pages_up_to(done), wal.pages_up_to(tried), wal.pages_up_to(wal.frames)
    with open(path, "rb", buffering=0) as database, open(path + "-wal", "rb", buffering=0) as log:

        def is_copied(page: int) -> bool:
            return _database_page(database.fileno(), wal, page) == _frame(log.fileno(), wal, wal.last[page])

        if before:
            return all(is_copied(page) for page in before)
        # A checkpoint goes from page to page by number. What it copies first tells one that was cut off.
        return (bool(begun) and is_copied(begun[0])) or all(is_copied(page) for page in pages)


def _database_page(descriptor: int, wal: Wal, page: int) -> bytes:
    return os.pread(descriptor, wal.page_bytes, (page - 1) * wal.page_bytes)


def _frame(descriptor: int, wal: Wal, frame: int) -> bytes:
    size = _FRAME_HEADER + wal.page_bytes
    return os.pread(descriptor, wal.page_bytes, _WAL_HEADER + (frame - 1) * size + _FRAME_HEADER)
