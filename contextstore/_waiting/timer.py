"""The time that passes while tasks of one loop wait for the store's threads.

Rules of this module: one timer does for all waits of a store on a loop, and what is kept for them goes with the loop.
The loop alone owns the timer, as the call that it is going to make. A loop that is closed forgets that call; and if no
task waits any more, the timer asks for no other.
"""

from __future__ import annotations

import contextvars
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .waiters import TaskLoop, Waiter

Expire = Callable[[], Any]
"""Called when a wait is over its time: the answer, or None to keep waiting."""

_SWEEP_AT = 64
_PATIENCE, _MOST_PATIENCE = 0.002, 0.1
"""Seconds between two looks at what waits: at first and while the loop is busy; in the end, if it is not."""
_BREATH = 0.0002
"""Seconds that a busy loop leaves the GIL to others. Less than a thread's wake-up would be in vain."""


class GilRelief:
    """Sees to it that the threads that are waited for get on.

    A loop that has something to do at each turn leaves the GIL for a microsecond between two turns, to look at its
    sockets. A thread that waits for the GIL is woken by that, and comes too late; and CPython, which has a holder hand
    it over after 5 ms, counts these anew each time. Beside a task that works for a millisecond at a time, a thread got
    the GIL 1 to 20 times a second, and a put took up to 30 seconds. So a loop that keeps a call waiting while it is
    busy itself takes a breath now and then.
    """

    def __init__(self, since: float, worked_until: float) -> None:
        self._looked_at = since
        self._worked_until = worked_until
        self._pause = _PATIENCE

    def look(self, loop: TaskLoop, waits_since: float) -> float:
        """Take a breath if one is due. Returns when to look again, by the loop's clock."""
        now, worked_until = loop.time(), time.thread_time()
        is_busy = worked_until - self._worked_until > (now - self._looked_at) / 2
        self._pause = _PATIENCE if is_busy else min(2 * self._pause, _MOST_PATIENCE)
        if is_busy and now - waits_since >= _PATIENCE:
            time.sleep(_BREATH)
        self._looked_at, self._worked_until = loop.time(), worked_until
        return self._looked_at + self._pause


class SharedTimer:
    """Waits for the store's threads on one loop.

    All have the same timeout, and so end in the order in which they began: one timer does for all. (A timer of its own
    for each took a tenth of what a put among many takes.)
    """

    def __init__(self, loop: TaskLoop, timeout: float) -> None:
        self.loop = loop
        self._timeout = timeout
        self._waits: deque[tuple[float, Waiter[Any], Expire | None]] = deque()
        self._sweep_at = _SWEEP_AT
        self._overdue: list[Waiter[Any]] = []  # what is under way, however long it takes
        self._is_set = False
        self._relief: GilRelief | None = None
        self._set_at = self._worked_until = 0.0

    def add(self, waiter: Waiter[Any], expire: Expire | None) -> None:
        """Watch over a wait that begins now. Without ``expire`` it lasts as long as it takes."""
        waits = self._waits
        while waits and waits[0][1].done():  # so that what is answered is not kept,
            waits.popleft()
        if len(waits) >= self._sweep_at:  # nor behind one that is not answered
            waits = self._waits = deque(wait for wait in waits if not wait[1].done())
            self._sweep_at = max(_SWEEP_AT, 2 * len(waits))
        now = self.loop.time()
        waits.append((now, waiter, expire))
        if not self._is_set:
            self._is_set = True
            self._relief, self._set_at, self._worked_until = None, now, time.thread_time()
            # In a context of its own: the timer goes on after the first call, and would keep that call's trace span.
            begin = min(now + _PATIENCE, now + self._timeout)
            self.loop.call_at(begin, self._look, context=contextvars.Context())

    def _look(self) -> None:
        self._is_set = False
        self._end_overdue(self.loop.time())
        if not self._waits and not self._overdue:
            return
        if self._relief is None:
            self._relief = GilRelief(self._set_at, self._worked_until)
        next_look = self._relief.look(self.loop, -math.inf if self._overdue else self._waits[0][0])
        if self._waits:
            next_look = min(next_look, self._waits[0][0] + self._timeout)
        self._is_set = True
        self.loop.call_at(next_look, self._look)

    def _end_overdue(self, now: float) -> None:
        waits = self._waits
        while waits and (waits[0][1].done() or waits[0][0] + self._timeout <= now):
            _, waiter, expire = waits.popleft()
            if expire is not None:
                end(waiter, expire)
            if not waiter.done():
                self._overdue.append(waiter)
        self._overdue = [waiter for waiter in self._overdue if not waiter.done()]


def end(waiter: Waiter[Any], expire: Expire) -> None:
    """The time of a wait is over. On the waiter's loop."""
    if not waiter.done():
        answer = expire()
        if answer is not None:
            waiter.set_result(answer)
