"""One call of a command: the store it is about, its words, and where its results go.

Rules of this module: what every command has in common, and nothing of a single one. A store that is looked at is opened
read-only and never made; one that is written to is made only if the user says so.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Sequence

from .. import ContextStore, StoreNotFoundError
from .._display.amounts import age_words, iso
from .errors import UNUSABLE, CommandError, WrongUse
from .output import Form, Screen
from .words import FIRST_WORD, Place, filled, looks_like_a_store

TIMEOUT = 30.0


def now() -> datetime.datetime:
    """The time that ages are reckoned from."""
    return datetime.datetime.now(datetime.UTC)


class Call:
    """What a line asks for, apart from the options of its command.

    Attributes:
        place: the store that it names.
        words: its words beside the store, as many as the command needs.
        optional: those that it may be given, as many as it names; None for each that was left out.
        screen: where its results go.
        time: how times are shown: ``relative`` or ``iso``.
        timeout: seconds to wait for another process's lock or a server.
    """

    def __init__(self, place: Place, names: Sequence[str], form: Form, time: str, timeout: float) -> None:
        self.place = place
        self.words, self.optional = filled(place.words, names, place)
        self.screen = Screen(form)
        self.time = time
        self.timeout = timeout
        self._now = now()

    def when(self, then: datetime.datetime | None) -> str:
        """A time as it was asked for: as an age, or in full."""
        return iso(then) if self.time == "iso" else age_words(then, self._now)

    @contextlib.contextmanager
    def looked_at(self) -> Iterator[ContextStore]:
        """The store, open to look at: nothing is made or changed, and no writer is held up."""
        with self._told_what_is_missing(), self.store(self.place.target, read_only=True) as store:
            yield store

    @contextlib.contextmanager
    def written_to(self, *, create: bool | None = None) -> Iterator[ContextStore]:
        """The store, open to write to.

        Args:
            create: make it if there is none. None: the command has no option for that.
        """
        hint = " (--create makes one)" if create is False else ""
        with self._told_what_is_missing(hint), self.store(self.place.target, create=bool(create)) as store:
            yield store

    @contextlib.contextmanager
    def _told_what_is_missing(self, hint: str = "") -> Iterator[None]:
        """What the library says of a store that is not there is about its options; here it is about the line."""
        try:
            yield
        except StoreNotFoundError as error:
            sentence = error.message.partition(";")[0] + hint
            if self.place.named_by == FIRST_WORD and not looks_like_a_store(self.place.target):
                sentence += f" ({self.place.target!r} was taken for one; contextstore --help lists the commands)"
            raise CommandError(sentence, UNUSABLE) from error

    def store(self, target: str, name: str = "", *, read_only: bool = False, create: bool = False) -> ContextStore:
        """A store by its path or URL, not yet opened.

        Args:
            name: what the line calls it. Empty: it is the one that the line is about.
        """
        try:
            return ContextStore(target, read_only=read_only, create=create, timeout=self.timeout)
        except (TypeError, ValueError) as error:  # its message shows no part of the target
            named = name or f"the store named by {self.place.named_by}"
            raise WrongUse(f"{named} cannot be meant: {error}") from error
