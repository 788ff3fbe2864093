"""What the errors of the driver and the server mean, by SQLSTATE.

Rules of this module: no I/O, and no word of the driver's own. What may succeed if it is tried again is a
``TransientError``, which no caller of a store ever sees; what is permanent is a ``StorageError``. No text and no cause
shows a password.
"""

from __future__ import annotations

from ..errors import (
    CorruptStoreError,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    StorageError,
    StoreBusyError,
    StoreFullError,
)
from .statements import OTHER_FORMAT
from .url import Address


class TransientError(Exception):
    """What was tried may succeed if it is tried again.

    ``is_refusal``: it is known that nothing was done. ``code``: the SQLSTATE; None if the server gave none.
    """

    def __init__(self, message: str, is_refusal: bool, code: str | None = None) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal
        self.code = code


class ConnectionLostError(TransientError):
    """The connection is gone, or no longer to be trusted. What the server made of the last statement is not known.

    Unless it is a refusal: then the server itself has said that it did nothing, as one that is starting or a standby
    does; or the statement was not sent at all.
    """

    def __init__(self, message: str, is_refusal: bool = False, code: str | None = None) -> None:
        super().__init__(message, is_refusal, code)


class TryAgainError(TransientError):
    """The server has undone the statement, or its transaction, and says that it may succeed if it is tried again."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, True, code)


NO_CONNECTION_LEFT = "53300"
WAS_IDLE = "25P03"
STANDBY = "25006"
NO_TABLE = "42P01"
UNIQUE_VIOLATION = "23505"
_LOST = frozenset(["40003", "57P01", "57P02", "57P03", STANDBY, NO_CONNECTION_LEFT, WAS_IDLE])
"""Beside class 08. 57P: the server ends or begins; 25006: it has become a standby; 53300: it has no connection left;
25P03: this process was stopped within a transaction."""
_REFUSALS = frozenset(["57P03", STANDBY, NO_CONNECTION_LEFT, WAS_IDLE])
"""Those of the above after which nothing was done."""
_AGAIN = frozenset(["40001", "40P01", "57014"])
"""Undone for the sake of others, or since a limit, or an administrator, has ended it."""
_BY_CODE: dict[str, type[StorageError]] = {
    "53100": StoreFullError,
    "55P03": StoreBusyError,
    "42501": ReadOnlyStoreError,
    "XX001": CorruptStoreError,
    "XX002": CorruptStoreError,
    OTHER_FORMAT: IncompatibleStoreError,
    NO_TABLE: IncompatibleStoreError,
}
_ADVICE = {
    "28P01": "check the user's name and password",
    "28000": "check the user's name and the server's pg_hba.conf",
    "3D000": "there is no such database: create it, or name another one in the URL",
    "42501": "the role lacks a right; grant it, or open the store with read_only=True",
    "55P03": "somebody else holds a lock there; nothing was stored: try again",
    "53100": "the server's disk is full; free some room and try again",
    OTHER_FORMAT: "a newer contextstore has migrated it since it was opened here; upgrade this one",
    NO_TABLE: "a newer contextstore has migrated it since it was opened here, or somebody has removed the tables",
}


def code_of(error: BaseException) -> str | None:
    """The SQLSTATE of an error of the driver's; None: it is not the server's."""
    code = getattr(error, "sqlstate", None)
    return code if isinstance(code, str) else None


def classify(error: Exception, doing: str, address: Address) -> TransientError | StorageError:
    """What an error of the driver's means. Raise it ``from shown_cause(error, address)``."""
    code = code_of(error)
    text = address.hide(str(error) or type(error).__name__) if code != OTHER_FORMAT else "it is of another version"
    if code is None:
        # The driver's own errors, the socket's, and what else may come: after none of them is the connection known to
        # be sound.
        return ConnectionLostError(f"{text} ({type(error).__name__})")
    if code in _AGAIN:
        return TryAgainError(f"{text} ({code})", code)
    if code in _LOST or code.startswith("08"):
        return ConnectionLostError(f"{text} ({code})", code in _REFUSALS, code)
    return permanent(text, doing, code, address)


def permanent(text: str, doing: str, code: str, address: Address) -> StorageError:
    """What is refused for good: to try the same again would end in the same way."""
    advice = _ADVICE.get(code)
    message = f"{doing} {address.location}: {address.hide(text)} ({code})" + (f": {advice}" if advice else "")
    return _BY_CODE.get(code, StorageError)(message, code=code)


def shown_cause(error: BaseException, address: Address) -> BaseException | None:
    """The error as a cause that may be shown; None if what it says, or what led to it says, shows a password."""
    chain: BaseException | None = error
    while chain is not None:
        if address.hide(f"{chain} {chain!r}") != f"{chain} {chain!r}":
            return None
        chain = chain.__cause__ or chain.__context__
    return error
