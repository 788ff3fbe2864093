"""The exchange format: a store as lines of JSON, each of which tells whether it is what was written.

Rules of this module: it alone knows the format, which docs/exchange-format.md describes; between records and
bytes, in both directions. No file is opened and no store is asked here. Memory is that of one line.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NoReturn, Protocol, TypeAlias

import msgspec
import orjson

from .. import (
    Attempt,
    ExportedAppendCounter,
    ExportedAppendKey,
    ExportedFailure,
    ExportedFreedVersion,
    ExportedGlobal,
    ExportedOutput,
    ExportedRun,
    ExportedState,
)

FORMAT = "contextstore"
VERSION = 3

Record: TypeAlias = (
    ExportedRun
    | ExportedOutput
    | ExportedAppendCounter
    | ExportedAppendKey
    | ExportedFailure
    | ExportedState
    | ExportedGlobal
    | ExportedFreedVersion
)

_SUM_DIGITS = 16
_SUM = b',"sum":"'
_TAIL = len(_SUM) + _SUM_DIGITS + len(b'"}\n')
_LONGEST_MANIFEST = 2**24
_LONGEST_LINE = 1_400_000_000  # the largest value that a store takes, as base64, and its names


class ExchangeError(Exception):
    """What was read is no export, or not what was written.

    Attributes:
        line: the number of the line, from 1 on.
        problem: what is wrong with it.
        is_cut: whether everything before it is in order, and the rest is missing.
    """

    def __init__(self, line: int, problem: str, is_cut: bool = False) -> None:
        super().__init__(line, problem, is_cut)
        self.line = line
        self.problem = problem
        self.is_cut = is_cut

    def __str__(self) -> str:
        return f"line {self.line:,}: {self.problem}"


Time: TypeAlias = Annotated[datetime.datetime, msgspec.Meta(tz=True)]


class _Line(msgspec.Struct, tag_field="type", tag=str.lower, forbid_unknown_fields=True, kw_only=True):
    """What every line has: the type of what is in it first, and its sum last."""

    sum: str


class Selection(msgspec.Struct, forbid_unknown_fields=True):
    """What of a store was exported."""

    runs: list[str] | None
    prefix: str
    globals: bool


class Manifest(_Line, kw_only=True):
    """The first line: what this is, and where it comes from."""

    format: str
    version: int
    store: str
    contextstore: str
    created_at: Time
    selection: Selection


class Run(_Line, kw_only=True):
    flow_run_id: str
    created_at: Time
    deleted_at: Time | None = None
    begun_at: Time | None = None
    begun_attributes: str | None = None
    state: Literal["open", "completed", "failed", "cancelled"] = "open"
    state_changed_at: Time | None = None
    error: str | None = None
    attributes: dict[str, str | int | float | bool] = {}
    parent: str | None = None
    failures: int = 0
    touched_at: Time | None = None


class _Valued(_Line, kw_only=True):
    written_at: Time
    value: msgspec.Raw = msgspec.Raw()
    base64: str | None = None


class Success(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The attempt that made an output."""

    number: int
    started_at: Time
    ended_at: Time
    inputs: str | None = None


class Output(_Valued, kw_only=True):
    flow_run_id: str
    node_id: str
    tag: str | None = None
    attempt: Success | None = None
    deleted: bool = False


class State(_Valued, kw_only=True):
    flow_run_id: str
    key: str
    version: int


class Failure(_Line, kw_only=True):
    flow_run_id: str
    node_id: str
    number: int
    started_at: Time
    ended_at: Time
    error: str
    inputs: str | None = None


class AppendCounter(_Line, tag="append_counter", kw_only=True):
    flow_run_id: str
    prefix: str
    last: int


class AppendKey(_Line, tag="append_key", kw_only=True):
    flow_run_id: str
    prefix: str
    key: str
    node_id: str


class Global(_Valued, kw_only=True):
    key: str
    version: int
    expires_at: Time | None = None
    deleted: bool = False


class Freed(_Line, kw_only=True):
    version: int


class Totals(msgspec.Struct, frozen=True):
    """How much there is in an export, and its digest.

    Attributes:
        runs, outputs, globals, tombstones: how many of each.
        bytes: bytes of all values, base64 undone.
        sha256: over the lines of all records without their sums: the same for equal stores.
    """

    runs: int
    outputs: int
    globals: int
    tombstones: int
    bytes: int
    sha256: str


class End(_Line, kw_only=True):
    """The last line: how much there was."""

    runs: int
    outputs: int
    globals: int
    tombstones: int
    bytes: int
    sha256: str


_RUN_WITHOUT = ExportedRun("", datetime.datetime.now(datetime.UTC))
"""A run of which nothing is said."""
_decode = msgspec.json.Decoder(
    Manifest | Run | Output | AppendCounter | AppendKey | Failure | State | Global | Freed | End
).decode


class _Tally:
    """What both directions keep: of all bytes, of all records, and how many there were."""

    def __init__(self) -> None:
        self._everything = hashlib.sha256()
        self._records = hashlib.sha256()
        self._runs = self._outputs = self._globals = self._tombstones = self._bytes = 0

    def sum_of(self, head: bytes) -> bytes:
        """Of a line, without its sum. It is of all lines before as well, so none can be put elsewhere."""
        self._everything.update(head)
        digits = self._everything.hexdigest()[:_SUM_DIGITS].encode()
        self._everything.update(b'%b%b"}\n' % (_SUM, digits))
        return digits

    def count(self, record: Record, head: bytes) -> None:
        self._records.update(head)
        self._records.update(b"\n")
        match record:
            case ExportedRun(deleted_at=None):
                self._runs += 1
            case ExportedRun():
                self._tombstones += 1
            case ExportedOutput() if record.data is not None:
                self._outputs += 1
                self._bytes += len(record.data)
            case ExportedState():
                self._bytes += len(record.data)
            case ExportedGlobal() if record.data is not None:
                self._globals += 1
                self._bytes += len(record.data)

    def totals(self) -> Totals:
        counts = self._runs, self._outputs, self._globals, self._tombstones, self._bytes
        return Totals(*counts, self._records.hexdigest())


# -- writing ----------------------------------------------------------------------------------------------------------


class Writer:
    """Writes an export, beginning with its manifest.

    Args:
        write: takes the bytes of a line.
        store: where the store is, without a password.
        library: the version of this library.
    """

    def __init__(self, write: Callable[[bytes], Any], store: str, library: str, selection: Selection) -> None:
        self._write = write
        self._tally = _Tally()
        now = datetime.datetime.now(datetime.UTC)
        manifest = {
            "type": "manifest",
            "format": FORMAT,
            "version": VERSION,
            "store": store,
            "contextstore": library,
            "created_at": _text_of_time(now),
            "selection": msgspec.to_builtins(selection),
        }
        self._line(orjson.dumps(manifest)[:-1])

    def add(self, record: Record) -> None:
        head = _head_of(record)
        self._tally.count(record, head)
        self._line(head)

    def finish(self) -> Totals:
        """Write the closing line, without which an export counts as cut off."""
        totals = self._tally.totals()
        self._line(orjson.dumps({"type": "end", **msgspec.to_builtins(totals)})[:-1])
        return totals

    def _line(self, head: bytes) -> None:
        self._write(b'%b%b%b"}\n' % (head, _SUM, self._tally.sum_of(head)))


def _head_of(record: Record) -> bytes:
    """The line of a record, up to its sum."""
    match record:
        case ExportedRun(name, created_at):
            return b'{"type":"run","flow_run_id":%b,"created_at":%b%b' % (
                _string(name),
                _time(created_at),
                _facts_of(record),
            )
        case ExportedOutput(run, node, encoding, data, written_at, tag, attempt):
            beside = b"" if tag is None else b',"tag":%b' % _string(tag)
            if attempt is not None:
                beside += b',"attempt":{%b}' % _attempt(attempt)
            value = b',"deleted":true' if data is None else beside + _value(encoding, data)
            facts = _string(run), _string(node), _time(written_at), value
            return b'{"type":"output","flow_run_id":%b,"node_id":%b,"written_at":%b%b' % facts
        case ExportedAppendCounter(run, prefix, last):
            return b'{"type":"append_counter","flow_run_id":%b,"prefix":%b,"last":%d' % (
                _string(run),
                _string(prefix),
                last,
            )
        case ExportedAppendKey():
            names = tuple(map(_string, (record.flow_run_id, record.prefix, record.key, record.node_id)))
            return b'{"type":"append_key","flow_run_id":%b,"prefix":%b,"key":%b,"node_id":%b' % names
        case ExportedState(run, key, encoding, data, version, written_at):
            head = b'{"type":"state","flow_run_id":%b,"key":%b,"version":%d,"written_at":%b' % (
                _string(run),
                _string(key),
                version,
                _time(written_at),
            )
            return head + _value(encoding, data)
        case ExportedFailure(run, attempt):
            facts = _string(run), _string(attempt.node_id), _attempt(attempt), _string(attempt.error or "")
            return b'{"type":"failure","flow_run_id":%b,"node_id":%b,%b,"error":%b' % facts
        case ExportedGlobal(key, encoding, data, version, written_at, expires_at):
            expiry = b"" if expires_at is None else b',"expires_at":%b' % _time(expires_at)
            value = b',"deleted":true' if data is None else _value(encoding, data)
            head = b'{"type":"global","key":%b,"version":%d,"written_at":%b' % (
                _string(key),
                version,
                _time(written_at),
            )
            return head + expiry + value
        case ExportedFreedVersion(version):
            return b'{"type":"freed","version":%d' % version


def _facts_of(run: ExportedRun) -> bytes:
    """What is said of a run; what is as it is without a word is left out."""
    members: dict[str, Any] = {}
    for name in Run.__struct_fields__:
        fact, default = getattr(run, name, None), getattr(_RUN_WITHOUT, name, None)
        if name not in ("flow_run_id", "created_at", "sum") and fact != default:
            members[name] = _text_of_time(fact) if isinstance(fact, datetime.datetime) else fact
    text = orjson.dumps(members, option=orjson.OPT_SORT_KEYS)
    return b"," + text[1:-1] if members else b""


def _string(text: str) -> bytes:
    return orjson.dumps(text)


def _text_of_time(when: datetime.datetime) -> str:
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _time(when: datetime.datetime) -> bytes:
    return b'"%b"' % _text_of_time(when).encode()


def _attempt(attempt: Attempt) -> bytes:
    """What successes and failures have in common."""
    inputs = b"" if attempt.inputs is None else b',"inputs":%b' % _string(attempt.inputs)
    times = _time(attempt.started_at), _time(attempt.ended_at)
    return b'"number":%d,"started_at":%b,"ended_at":%b%b' % (attempt.number, *times, inputs)


def _value(encoding: str | None, data: bytes) -> bytes:
    if encoding == "bytes":
        return b',"base64":"%b"' % base64.b64encode(data)
    # A line ends at the first line feed. In JSON text it can only stand between two tokens.
    return b',"value":%b' % (data.replace(b"\n", b" ") if b"\n" in data else data)


def _attempt_of(node_id: str, line: Success | Failure, error: str | None = None) -> Attempt:
    return Attempt(node_id, line.number, line.started_at, line.ended_at, error, line.inputs)


# -- reading ----------------------------------------------------------------------------------------------------------


class Source(Protocol):
    """A stream of bytes that is read line by line."""

    def readline(self, size: int, /) -> bytes: ...


class Reader:
    """Reads an export: its manifest at once, then its records, each only once its line was found to be in order.

    Iterate over it once; ``totals`` are there when the closing line was found to be in order, too.

    Raises:
        ExchangeError: it is no export, or not what was written.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tally = _Tally()
        self.line = 0
        self.totals: Totals | None = None
        self._head = b""
        self.manifest = self._read_manifest()

    def __iter__(self) -> Iterator[Record]:
        while not isinstance(line := self._next(_LONGEST_LINE), End):
            record = self._record_of(line)
            self._tally.count(record, self._head)
            yield record
        totals = self._tally.totals()
        for name in Totals.__struct_fields__:
            said, found = getattr(line, name), getattr(totals, name)
            if said != found:
                self._refuse(f"the closing line says that {name} is {said}, and it is {found}")
        if self._source.readline(1):
            self.line += 1
            self._refuse("something follows the closing line; import each export by itself")
        self.totals = totals

    def _read_manifest(self) -> Manifest:
        text = self._read_line(_LONGEST_MANIFEST)
        try:
            facts = msgspec.json.decode(text)
        except msgspec.MsgspecError:
            facts = None
        if not (isinstance(facts, dict) and facts.get("type") == "manifest" and facts.get("format") == FORMAT):
            self._refuse("this is no export of a store: it does not begin with a manifest")
        if type(facts.get("version")) is not int or not 1 <= facts["version"] <= VERSION:
            self._refuse(f"it is of version {facts.get('version')!r} of the format; this program reads 1 to {VERSION}")
        manifest = self._parse(text)
        assert isinstance(manifest, Manifest)
        return manifest

    def _next(self, longest: int) -> Any:
        return self._parse(self._read_line(longest))

    def _read_line(self, longest: int) -> bytes:
        self.line += 1
        text = self._source.readline(longest)
        if not text.endswith(b"\n"):
            if len(text) == longest:
                self._refuse("it is longer than any line of an export")
            if self.line == 1:
                self._refuse("this is no export of a store: it does not begin with a manifest")
            where = "in this line" if text else "before this line"
            raise ExchangeError(self.line, f"the export is cut off {where}: its closing line is missing", True)
        return text

    def _parse(self, text: bytes) -> Any:
        head = self._head = text[:-_TAIL]
        if b'%b%b"}\n' % (_SUM, self._tally.sum_of(head)) != text[-_TAIL:]:
            self._refuse("it is not what was written here: changed, or lines before it are missing or in another place")
        try:
            return _decode(text)
        except msgspec.MsgspecError as error:
            self._refuse(f"it is no line of an export: {error}")

    def _record_of(self, line: Any) -> Record:  # noqa: RET503 - what comes last never returns
        match line:
            case Run():
                facts = msgspec.structs.asdict(line)
                del facts["sum"]
                return ExportedRun(**facts)
            case Output(deleted=True, tag=None, attempt=None) if not bytes(line.value) and line.base64 is None:
                return ExportedOutput(line.flow_run_id, line.node_id, None, None, line.written_at)
            case Output(deleted=False):
                encoding, data = self._value_of(line)
                attempt = None if line.attempt is None else _attempt_of(line.node_id, line.attempt)
                name = line.flow_run_id, line.node_id
                return ExportedOutput(*name, encoding, data, line.written_at, line.tag, attempt)
            case State():
                encoding, data = self._value_of(line)
                return ExportedState(line.flow_run_id, line.key, encoding, data, line.version, line.written_at)
            case Failure():
                return ExportedFailure(line.flow_run_id, _attempt_of(line.node_id, line, line.error))
            case AppendCounter():
                return ExportedAppendCounter(line.flow_run_id, line.prefix, line.last)
            case AppendKey():
                return ExportedAppendKey(line.flow_run_id, line.prefix, line.key, line.node_id)
            case Global(deleted=True, expires_at=None) if not bytes(line.value) and line.base64 is None:
                return ExportedGlobal(line.key, None, None, line.version, line.written_at)
            case Global(deleted=False):
                encoding, data = self._value_of(line)
                return ExportedGlobal(line.key, encoding, data, line.version, line.written_at, line.expires_at)
            case Freed():
                return ExportedFreedVersion(line.version)
        self._refuse(
            "what is deleted has no value, and does not expire"
            if isinstance(line, Global | Output)
            else "a second manifest; import each export by itself"
        )

    def _value_of(self, line: _Valued) -> tuple[Any, bytes]:
        data = bytes(line.value)
        if (line.base64 is None) == (not data):
            self._refuse("it must have either a value or base64")
        if line.base64 is None:
            return "json", data
        try:
            return "bytes", binascii.a2b_base64(line.base64, strict_mode=True)
        except (binascii.Error, ValueError) as error:
            self._refuse(f"its base64 cannot be read: {error}")

    def _refuse(self, problem: str) -> NoReturn:
        raise ExchangeError(self.line, problem)
