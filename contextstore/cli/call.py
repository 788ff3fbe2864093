"""One call of a command: the store it is about, its words, and where its results go.

Rules of this module: what every command has in common, and nothing of a single one. A store that is looked at is opened
read-only and never made; one that is written to is made only if the user says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import ContextStore
from .errors import WrongUse
from .output import Form, Screen
from .words import Place, filled

TIMEOUT = 30.0


class Call:
    """What a line asks for, apart from the options of its command.

    Attributes:
        place: the store that it names.
        words: its words beside the store, as many as the command names; None for those that were left out.
        screen: where its results go.
        time: how times are shown: ``relative`` or ``iso``.
        timeout: seconds to wait for another process's lock or a server.
    """

    def __init__(self, place: Place, names: Sequence[str], form: Form, time: str, timeout: float) -> None:
        self.place = place
        self.words = filled(place.words, names, place)
        self.screen = Screen(form)
        self.time = time
        self.timeout = timeout

    def looked_at(self) -> ContextStore:
        """The store, to look at: nothing is made or changed, and no writer is held up."""
        return self.store(self.place.target, read_only=True)

    def written_to(self, *, create: bool = False) -> ContextStore:
        """The store, to write to.

        Args:
            create: make it if there is none.
        """
        return self.store(self.place.target, create=create)

    def store(self, target: str, *, read_only: bool = False, create: bool = False) -> ContextStore:
        """A store by its path or URL, not yet opened."""
        try:
            return ContextStore(target, read_only=read_only, create=create, timeout=self.timeout)
        except (TypeError, ValueError) as error:  # its message shows no part of the target
            raise WrongUse(f"the store named by {self.place.named_by} cannot be meant: {error}") from error
