"""Ids and keys: what a caller may name an output or a global, and the plain ``str`` under which it is stored.

Rules of this module: pure functions, but for ``new_flow_run_id``, which keeps the last id under a lock. An id or a key
that passes is a plain ``str`` that every engine can store as it is. Any other is an ``InvalidKeyError`` that names the
parameter.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, TypeAlias

from .._process.fork import at_fork
from ..errors import InvalidKeyError

Id: TypeAlias = uuid.UUID | str

Outputs: TypeAlias = Mapping[str, Any] | Mapping[uuid.UUID, Any] | Mapping[Id, Any]
"""Values by node id. Spelled out: to a type checker a dict[str, int] is no Mapping[Id, Any]."""

MAX_KEY_BYTES = 1024  # PostgreSQL's index entries end at 2,704 bytes; one of 1,024 beside a number stays clear of that


def output_key(flow_run_id: Id, node_id: Id) -> tuple[str, str]:
    """The two ids of an output. Each put and get asks for both, so what needs no check is passed at once."""
    if type(flow_run_id) is str is type(node_id) and flow_run_id.isascii() and node_id.isascii():
        both = flow_run_id + node_id
        if flow_run_id and node_id and len(both) <= MAX_KEY_BYTES and "\0" not in both:
            return flow_run_id, node_id
    return flow_run_key(flow_run_id), node_key(node_id)


def flow_run_key(flow_run_id: Id, name: str = "flow_run_id") -> str:
    return _key(name, flow_run_id)


def node_key(node_id: Id, name: str = "node_id") -> str:
    return _key(name, node_id)


def global_key(key: Id, name: str = "key") -> str:
    return _key(name, key, may_be_empty=True)


def lease_key(name: Id) -> str:
    return _key("name", name)


def prefix_key(prefix: str) -> str:
    """A literal prefix of ids. The rules of ids hold for it, but that it may be empty."""
    if not isinstance(prefix, str):
        raise InvalidKeyError("prefix", f"must be a str, not {type(prefix).__name__}")
    return _key("prefix", prefix, may_be_empty=True)


def append_prefix_key(prefix: str) -> str:
    """A prefix to which is appended: with a number of 12 digits behind it, it is an id."""
    literal = prefix_key(prefix)
    size = len(literal.encode())
    if size > MAX_KEY_BYTES - 12:
        problem = f"{_shown(literal)} has {size} bytes as UTF-8; {MAX_KEY_BYTES - 12} is the most, for 12 digits follow"
        raise InvalidKeyError("prefix", problem)
    return literal


def _key(name: str, value: Any, may_be_empty: bool = False) -> str:
    kind = type(value)  # a mock or a proxy may lie to isinstance
    if kind is not str:
        if issubclass(kind, uuid.UUID):
            return uuid.UUID.__str__(value)
        if not issubclass(kind, str):
            raise InvalidKeyError(name, f"must be a str or a uuid.UUID, not {type(value).__name__}")
        value = str.__str__(value)  # the text itself, as a plain str: a subclass may have another __str__
    if not value and not may_be_empty:
        raise InvalidKeyError(name, "must not be empty")
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidKeyError(name, f"{_shown(value)} has a lone surrogate, which is not text") from None
    if size > MAX_KEY_BYTES:
        raise InvalidKeyError(name, f"{_shown(value)} has {size} bytes as UTF-8; {MAX_KEY_BYTES} is the most")
    if "\0" in value:
        raise InvalidKeyError(name, f"{_shown(value)} has a NUL character")
    key: str = value
    return key


def named(*key: object) -> str:
    """How messages name the value under a key: that of a global, or a flow run's and a node's ids."""
    return f"global {key[0]!r}" if len(key) == 1 else f"node {key[1]!r} of flow run {key[0]!r}"


def state_key(key: Id) -> str:
    """Of a state value of a run: what a key of a global may be."""
    return global_key(key)


def named_state(flow_run_id: object, key: object) -> str:
    """How messages name a state value of a run."""
    return f"state value {key!r} of flow run {flow_run_id!r}"


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")


_uuid7_lock = threading.Lock()
_uuid7_last = 0


def _renew_lock_in_child() -> None:
    global _uuid7_lock
    _uuid7_lock = threading.Lock()  # another thread of the parent may have held the old one at the fork


at_fork(in_child=_renew_lock_in_child)


def new_flow_run_id() -> str:
    """A new id for a flow run: a UUIDv7 (RFC 9562) as its canonical string, strictly rising within a process.

    Rising holds across threads and when the clock is set back: the 48-bit millisecond and the 12 bits after it are
    then counted on from the last id.
    """
    global _uuid7_last
    with _uuid7_lock:
        # 48 bits of milliseconds and 12 bits of their fraction (RFC 9562, 6.2, method 3) make one counter.
        now_ns = time.time_ns()
        stamp = (now_ns // 1_000_000 << 12) | (now_ns % 1_000_000 << 12) // 1_000_000
        _uuid7_last = stamp = max(stamp, _uuid7_last + 1)
    random = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | random
    return str(uuid.UUID(int=value))
