"""An export as a file or a stream: written whole or not at all, verified before anything is imported of it.

Rules of this module: files and streams here, the format in ``ndjson``, records and stores by public calls. Nothing is
printed. A file with an export's name is whole: it gets its name once it is written and synced.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, BinaryIO, cast

from .. import (
    ContextStore,
    ImportReport,
    InvalidKeyError,
    Problem,
    SerializationError,
    StorageError,
    TargetExistsError,
    __version__,
    export_records,
    import_records,
)
from .ndjson import ExchangeError, Reader, Record, Selection, Totals, Writer

Tell = Callable[[Problem], Any]
Step = Callable[[], Any]

_CHUNK = 2**18
_GZIP = b"\x1f\x8b"


# -- out --------------------------------------------------------------------------------------------------------------


def write_export(
    store: ContextStore,
    write: Callable[[bytes], Any],
    location: str,
    selection: Selection,
    *,
    on_damaged: Tell | None = None,
    step: Step | None = None,
) -> Totals:
    """Write everything that is selected.

    Args:
        location: where the store is, as the manifest will say; without a password.
        on_damaged: told of what is damaged, and left out. None: it is raised.
        step: called behind each record.

    Raises:
        LookupError: a run that is selected by its id is not there. Then there is no closing line.
    """
    records = export_records(
        store, runs=selection.runs, prefix=selection.prefix, globals=selection.globals, on_damaged=on_damaged
    )
    missing = set(selection.runs or ())
    with contextlib.closing(records):  # type: ignore[type-var]  # a generator, which is an iterator that can be closed
        first = next(records, None)  # the store is opened by it, and so known to be one before a line is written
        writer = Writer(write, location, __version__, selection)
        while first is not None:
            writer.add(first)
            missing.discard(getattr(first, "flow_run_id", ""))
            if step is not None:
                step()
            first = next(records, None)
    if missing:
        raise LookupError(min(missing))
    return writer.finish()


@contextlib.contextmanager
def whole_file(path: str, *, overwrite: bool) -> Iterator[Callable[[bytes], Any]]:
    """Write a file that gets its name when the block has ended, whole and synced; compressed if it ends in ``.gz``.

    Raises:
        TargetExistsError: there is something already, and no ``overwrite``, or it is no regular file.
    """
    mode = _refuse_existing(path, overwrite=overwrite)
    folder = os.path.dirname(path) or "."
    try:
        handle, part = tempfile.mkstemp(prefix=".contextstore-", suffix=".part", dir=folder)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror} ({folder})") from error
    try:
        with os.fdopen(handle, "wb", buffering=_CHUNK) as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            with (
                gzip.GzipFile("", "wb", 6, file, mtime=0)
                if path.endswith(".gz")
                else contextlib.nullcontext(file) as out
            ):
                yield out.write
            file.flush()
            os.fsync(file.fileno())
        _give_name(part, path, overwrite=overwrite)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
    _sync_folder(folder)


def _refuse_existing(path: str, *, overwrite: bool) -> int | None:
    """The mode of the file that is to be overwritten; None: there is none."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(there.st_mode):
        raise TargetExistsError(f"{path} is there, and is no regular file; nothing was written")
    if not overwrite:
        raise TargetExistsError(f"{path} is there already; --overwrite replaces it")
    return stat.S_IMODE(there.st_mode)


def _give_name(part: str, path: str, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(part, path)
        return
    try:
        os.link(part, path)  # unlike a rename it never replaces what came meanwhile
    except FileExistsError as error:
        raise TargetExistsError(f"{path} is there by now; --overwrite replaces it") from error
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):  # what file systems without links say
            raise
        _refuse_existing(path, overwrite=False)
        os.replace(part, path)
    else:
        os.unlink(part)


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class InChunks:
    """Gathers what is written, for a ``write`` that costs a system call."""

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        self._write(bytes(self._buffer))
        self._buffer.clear()


# -- in ---------------------------------------------------------------------------------------------------------------


class Import:
    """An export that is read: from a file twice, to verify it before anything is imported; from a pipe once.

    Attributes:
        size: bytes that will be read, both times. None: a pipe.
        has_begun: whether anything may have been imported.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._is_read_twice = stream.seekable()
        self._start = stream.tell() if self._is_read_twice else 0
        self.size: int | None = None
        if self._is_read_twice:
            self.size = 2 * (stream.seek(0, os.SEEK_END) - self._start)
            stream.seek(self._start)
        self.has_begun = False
        self._before = 0
        self._line = 0

    def done(self) -> int:
        """How many bytes were read."""
        return self._before + self._stream.tell() - self._start if self._is_read_twice else 0

    def verify(self, step: Step | None = None) -> None:
        """Read it to its end, if it can be read again.

        Raises:
            ExchangeError: it is no export, or not what was written.
        """
        if not self._is_read_twice:
            return
        for _ in self._records(step):
            pass
        self._before = self._stream.tell() - self._start
        self._stream.seek(self._start)

    def load(self, store: ContextStore, *, on_conflict: Tell | None = None, step: Step | None = None) -> ImportReport:
        """Import it, verifying each line before it is taken.

        Raises:
            ExchangeError: it is no export, or not what was written, or has what no store could hold.
        """
        try:
            return import_records(store, self._loaded(step), on_conflict=on_conflict)
        except (InvalidKeyError, SerializationError, TypeError, ValueError) as error:
            raise ExchangeError(self._line, str(error)) from error

    def _loaded(self, step: Step | None) -> Iterator[Record]:
        for record in self._records(step):
            self.has_begun = True
            yield record

    def _records(self, step: Step | None) -> Iterator[Record]:
        try:
            reader = Reader(_unpacked(self._stream))
            for record in reader:
                self._line = reader.line
                yield record
                if step is not None:
                    step()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ExchangeError(
                self._line + 1, f"the compressed export is cut off or changed: {error}", True
            ) from error


def _unpacked(stream: BinaryIO) -> IO[bytes]:
    """The lines, whether the stream is compressed or not."""
    if stream.seekable():
        start = stream.read(len(_GZIP))
        stream.seek(-len(start), os.SEEK_CUR)
    else:
        start = cast("io.BufferedReader", stream).peek(len(_GZIP))[: len(_GZIP)]
    return cast("IO[bytes]", gzip.GzipFile("", "rb", fileobj=stream)) if start == _GZIP else stream


def selection_of(runs: Iterable[str], prefix: str, globals: bool | None) -> Selection:
    """What is asked for: globals too, unless runs are selected or it is said otherwise."""
    names = sorted(set(runs)) or None
    return Selection(names, prefix, names is None and not prefix if globals is None else globals)
