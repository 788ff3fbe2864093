"""Where a thread's checkpoints are kept: ids of flow runs and of nodes, from LangGraph's names.

Rules of this module: no I/O. Whatever text LangGraph allows becomes an id that the store allows, and different texts
become different ids. Ids of checkpoints keep their order, since the newest one is the highest.

A thread is the flow run ``langgraph/<thread id>``. Its outputs:

- ``checkpoint/<namespace> <checkpoint id> c<stamp>``: a checkpoint. Put again, it is another one; the last counts.
- ``checkpoint/<namespace> <checkpoint id> w<stamp>``: what one call has written for the step behind a checkpoint.
- ``blob/<stamp>``: channel values too large to be repeated in each checkpoint that still has them.
- ``thread/<short form>``: the id of a thread whose own cannot be a part of a flow run's.
"""

from __future__ import annotations

import binascii
import functools
import hashlib
import os
import random
import re
import threading
import time
from typing import NamedTuple

RUNS = "langgraph/"
BLOBS = "blob/"
CHECKPOINTS = "checkpoint/"
NAMES = "thread/"

_SHORT = "#sha256:"
"""What a short form begins with. A text that begins so itself gets one, too."""
_MOST_BYTES = 900
"""Of a thread's id in a flow run's, which takes 1,024 bytes."""
_MOST_NAMESPACE_BYTES = 400
"""Of an escaped namespace in a node's id; as much is left for the checkpoint's."""
_ESCAPES = {code: f"!{code:02x}" for code in range(0x22)}
"""What stands for the separator, a blank, for what is below it, and for the escape itself. It sorts as they do."""
_ESCAPED = re.compile("!([0-9a-f]{2})")
_DIGITS = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
"""Of numbers to the base of 64, which sort as the numbers do."""
_OF_BASE64 = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", _DIGITS.encode())
_TIME_DIGITS, _RANDOM_DIGITS = 9, 5

_random = random.Random()  # noqa: S311 - no secret; the system's own lets go of the GIL each time, to a waiting thread
os.register_at_fork(after_in_child=_random.seed)


def short_form(text: str) -> str:
    return _SHORT + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def run_id(thread_id: str) -> str:
    """The flow run of a thread: by its own id if that is short and plain enough, else by a hash of it."""
    if "\0" in thread_id or thread_id.startswith(_SHORT) or not _fits(thread_id, _MOST_BYTES):
        return RUNS + short_form(thread_id)
    return RUNS + thread_id


def name_node(flow_run_id: str) -> str | None:
    """The node that has the id of a thread whose flow run has a short form; None: it has none."""
    form = flow_run_id.removeprefix(RUNS)
    return NAMES + form if form.startswith(_SHORT) else None


def escape(text: str) -> str:
    return text.translate(_ESCAPES)


def unescape(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "!" in text else text


@functools.lru_cache(maxsize=1024)
def namespace_prefix(namespace: str) -> str:
    """What all nodes of a namespace begin with, and no others."""
    escaped = escape(namespace)
    if namespace.startswith(_SHORT) or not _fits(escaped, _MOST_NAMESPACE_BYTES):
        escaped = short_form(namespace)
    return f"{CHECKPOINTS}{escaped} "


def block_prefix(namespace: str, checkpoint_id: str) -> str:
    """What all nodes of a checkpoint begin with, and no others."""
    return f"{namespace_prefix(namespace)}{escape(checkpoint_id)} "


class Node(NamedTuple):
    """The id of a node under ``checkpoint/``, taken apart."""

    node_id: str
    block: str
    """What the nodes of its checkpoint begin with."""
    kind: str
    """``c`` or ``w``."""
    stamp: str

    @property
    def namespace(self) -> str:
        """As the id has it."""
        return self.block.split(" ", 1)[0]

    @property
    def checkpoint(self) -> str:
        """Its checkpoint's id, as the node's has it."""
        return self.block.split(" ", 2)[1]

    @property
    def checkpoint_id(self) -> str:
        return unescape(self.checkpoint)


def parse(node_id: str) -> Node:
    at = node_id.rindex(" ") + 1
    return Node(node_id, node_id[:at], node_id[at : at + 1], node_id[at + 1 :])


class Stamps:
    """Makes ids that rise: in a process, and beyond every one that it has read.

    So of two writes the one that could know of the other has the higher stamp, whatever the clocks of their machines.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        """Microseconds since 1970."""
        self._highest = ""

    def new(self) -> str:
        with self._lock:
            self._last = max(self._last + 1, time.time_ns() // 1000)
            return _text(self._last << 6 * _RANDOM_DIGITS | _random.getrandbits(6 * _RANDOM_DIGITS))

    def saw(self, stamp: str) -> None:
        """Note a stamp that was read."""
        if stamp > self._highest:
            with self._lock:
                self._highest = max(self._highest, stamp)
                self._last = max(self._last, _number(stamp[:_TIME_DIGITS]))


def _fits(text: str, most: int) -> bool:
    try:
        return len(text.encode()) <= most
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _text(number: int) -> str:
    """A time and what is random, as digits: those of base 64, but for which stands for which."""
    encoded = binascii.b2a_base64((number << 4).to_bytes(11, "big"), newline=False)
    return encoded[: _TIME_DIGITS + _RANDOM_DIGITS].translate(_OF_BASE64).decode()


def _number(text: str) -> int:
    number = 0
    for digit in text:
        number = number << 6 | _DIGITS.index(digit)
    return number
