"""Attempts in the records of an export: of outputs, and of steps that failed.

Rules of this module: pure functions. What comes in is checked as what a step records: anybody may have made it.
"""

from __future__ import annotations

from .._engine.attempts import LAST_NUMBER
from .._engine.records import Made
from .._engine.run_operations import LoadFailure
from .._results import Attempt, time_of
from .._values.arguments import check_count
from .._values.keys import named, node_key
from .._values.run_facts import ERROR_BYTES, storable_text
from .exchanged_times import microseconds

_MOST_DIGITS = 1024


def exported_success(node_id: str, made: Made, written_at: int) -> Attempt:
    """The attempt that made an output."""
    ended_at = written_at if made.ended_at is None else made.ended_at
    number = 1 if made.number is None else made.number
    return Attempt(node_id, number, time_of(made.started_at), time_of(ended_at), None, made.inputs)


def made_by(attempt: Attempt, key: tuple[str, str], written_at: int) -> Made:
    """The same from a record."""
    number, started_at, ended_at, inputs = _checked(attempt)
    if attempt.node_id != key[1] or attempt.error is not None:
        raise ValueError(f"the attempt that made an output is of its node, and has no error ({named(*key)})")
    return Made(number, started_at, inputs, None if ended_at == written_at else ended_at)


def failure_of(flow_run_id: str, attempt: Attempt) -> LoadFailure:
    """A failed attempt from a record."""
    number, started_at, ended_at, inputs = _checked(attempt)
    node_id = node_key(attempt.node_id)
    error = attempt.error
    if type(error) is not str:
        raise TypeError(f"the error of a failed attempt must be a str, not {type(error).__name__}")
    if storable_text(error) != error:
        problem = f"at most {ERROR_BYTES} bytes, without NUL and lone surrogates"
        raise ValueError(f"the error of a failed attempt must have {problem} ({named(flow_run_id, node_id)})")
    return LoadFailure(flow_run_id, node_id, number, started_at, ended_at, error, inputs)


def _checked(attempt: Attempt) -> tuple[int, int, int, str | None]:
    """Its number, when it began and ended, and its inputs."""
    if not isinstance(attempt, Attempt):
        raise TypeError(f"an attempt must be an Attempt, not {type(attempt).__name__}")
    if check_count("number", attempt.number, 1) > LAST_NUMBER:
        raise ValueError(f"number must be at most {LAST_NUMBER}, not {attempt.number}")
    times = microseconds("started_at", attempt.started_at), microseconds("ended_at", attempt.ended_at)
    inputs = attempt.inputs
    if inputs is not None and not (type(inputs) is str and inputs.isascii() and inputs.isalnum()):
        raise ValueError(f"inputs must be a digest, hexadecimal, not {inputs!r}")
    if inputs is not None and len(inputs) > _MOST_DIGITS:
        raise ValueError(f"inputs must have at most {_MOST_DIGITS} digits")
    return attempt.number, *times, inputs
