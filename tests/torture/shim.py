"""The shim from Python: how it is built and put under a program, and how that program talks to it."""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent

# As in shim.c.
OPEN, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, LINK, ALLOCATE, MARK = range(1, 10)
DISK_CALLS = [OPEN, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, LINK, ALLOCATE]

_HEAD = struct.Struct("=IIiiQII")


class Unavailable(Exception):
    """The shim cannot be had on this machine."""


def build(folder: pathlib.Path) -> pathlib.Path:
    """Compile the shim into the folder. Raises Unavailable, with the reason."""
    if not sys.platform.startswith("linux"):
        raise Unavailable("the shim knows the calls of Linux only")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("there is no C compiler to build tests/torture/shim.c with")
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c", "-ldl", "-lpthread"]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        raise Unavailable(f"the C compiler does not build tests/torture/shim.c: {built.stderr}")
    return library


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory, where there is one: the disk that matters here is the modelled one, and sync is quick."""
    in_memory = pathlib.Path("/dev/shm")
    usable = in_memory.is_dir() and os.access(in_memory, os.W_OK)
    return tempfile.TemporaryDirectory(prefix="torture-", dir=in_memory if usable else None)


def start(library: pathlib.Path, module: str, *arguments: Any) -> subprocess.Popen[str]:
    """A program of this package with the shim under it."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# -- within the program ------------------------------------------------------------------------------------------------


class Shim:
    """The shim that lies under this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        if not hasattr(self._library, "torture_watch"):
            raise Unavailable("LD_PRELOAD did not put the shim under this process")

    def watch(self, folder: str | os.PathLike[str], log: str | os.PathLike[str] = "") -> None:
        self._library.torture_watch(os.path.realpath(folder).encode(), str(log).encode())

    def mark(self, *words: Any) -> None:
        self._library.torture_mark(json.dumps(words).encode())

    def fail(self, kinds: list[int], at: int, error: int, *, ever: bool, half: bool = False, suffix: str = "") -> None:
        mask = sum(1 << kind for kind in kinds)
        self._library.torture_fault(mask, ctypes.c_long(at), error, ever, half, suffix.encode())

    def heal(self) -> None:
        self._library.torture_fault(0, ctypes.c_long(0), 0, 0, 0, b"")

    def kill(self, kinds: list[int], at: int) -> None:
        """Have the process killed in the place of its at-th call of these kinds."""
        self._library.torture_kill(sum(1 << kind for kind in kinds), ctypes.c_long(at))

    @property
    def fired(self) -> int:
        return int(self._library.torture_fired())

    @property
    def struck(self) -> str:
        """The file that a fault struck last."""
        self._library.torture_struck.restype = ctypes.c_char_p
        return str(self._library.torture_struck().decode())

    def count(self, kind: int) -> int:
        return int(self._library.torture_count(kind))


# -- its log -----------------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    kind: int
    pid: int
    fd: int
    error: int
    offset: int
    name: str
    data: bytes


def read_log(log: pathlib.Path) -> Iterator[Record]:
    content, place = memoryview(log.read_bytes()), 0
    while place < len(content):
        kind, pid, fd, error, offset, name_length, data_length = _HEAD.unpack_from(content, place)
        name_at = place + _HEAD.size
        data_at = name_at + name_length
        place = data_at + data_length
        yield Record(
            kind, pid, fd, error, offset, bytes(content[name_at:data_at]).decode(), bytes(content[data_at:place])
        )
