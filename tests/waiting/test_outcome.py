"""A result, or the error in its place: raised where it is asked for and nowhere else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contextstore._waiting.outcome import Outcome, outcome_of


async def returning(value: Any) -> Any:
    return value


async def raising(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize("result", [1, None, False, ValueError("a result, not an error")], ids=repr)
def test_a_result_is_given_whatever_it_is(result: Any) -> None:
    outcome = Outcome(result)
    assert outcome.error is None
    assert outcome.unwrap() is result


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
def test_an_error_is_raised_each_time_that_the_result_is_asked_for(error: BaseException) -> None:
    outcome = Outcome.failure(error)
    assert outcome.result is None
    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            outcome.unwrap()
        assert raised.value is error


def test_an_error_with_a_falsy_truth_value_is_an_error() -> None:
    class FalsyError(Exception):
        def __bool__(self) -> bool:
            return False

    with pytest.raises(FalsyError):
        Outcome.failure(FalsyError()).unwrap()


async def test_what_an_awaitable_returns_is_its_outcome() -> None:
    assert (await outcome_of(returning(7))).unwrap() == 7


async def test_an_exception_of_an_awaitable_is_kept_until_it_is_asked_for() -> None:
    error = ValueError("no")
    outcome = await outcome_of(raising(error))
    assert outcome.error is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError()], ids=repr)
def test_what_ends_the_program_or_the_task_is_not_kept(error: BaseException) -> None:
    # Not by a test's loop, which a KeyboardInterrupt in it would end.
    coroutine = outcome_of(raising(error))
    with pytest.raises(type(error)):
        coroutine.send(None)


def test_it_says_of_itself_which_of_the_two_it_is() -> None:
    assert repr(Outcome("a")) == "Outcome('a')"
    assert repr(Outcome.failure(ValueError("no"))) == "Outcome.failure(ValueError('no'))"
