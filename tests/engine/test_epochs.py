"""Epochs: which is the present one, when it is not known, and between which two an object's own deletions are."""

from __future__ import annotations

from typing import Any

import pytest

from contextstore._engine import epochs as epochs_module
from contextstore._engine.epochs import VALID_SECONDS, AskedEpochs, LocalEpochs, is_known

from ..support.clock import Clock


@pytest.mark.parametrize(
    ("epoch", "known"), [(None, False), (0, True), (1, False), (2, True), ((1,), True), ((2,), True), ((None,), True)]
)
def test_none_and_an_odd_number_are_no_epoch(epoch: Any, known: bool) -> None:
    assert is_known(epoch) is known


class TestInMemory:
    def test_an_epoch_is_not_known_while_a_deletion_is_committed_and_another_one_after_it(self) -> None:
        epochs = LocalEpochs()
        before = epochs.now[0]
        with epochs.deleting():
            assert not is_known(epochs.now[0])
            assert not is_known(epochs.latest)
        assert is_known(epochs.now[0])
        assert epochs.latest != before

    def test_a_deletion_that_failed_is_taken_for_one_all_the_same(self) -> None:
        epochs = LocalEpochs()
        before = epochs.now[0]
        with pytest.raises(ZeroDivisionError), epochs.deleting():
            raise ZeroDivisionError
        assert is_known(epochs.now[0])
        assert epochs.now[0] != before

    def test_a_turn_has_the_epochs_before_and_after_it(self) -> None:
        epochs = LocalEpochs()
        before = epochs.now[0]
        epochs.begin_write()
        with epochs.deleting():
            pass
        epochs.end_write()
        assert epochs.turn == (before, epochs.now[0])
        epochs.begin_write()
        epochs.end_write()
        assert epochs.turn == (epochs.now[0], epochs.now[0])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, epochs_module)


def asked(place: str, epoch: Any, clock: Clock) -> AskedEpochs:
    epochs = AskedEpochs(place)
    clock.advance(0.1)
    epochs.note(epoch, clock.now)
    return epochs


class TestAskedFor:
    def test_an_answer_is_good_for_its_time_from_when_it_was_asked_for(self, clock: Clock) -> None:
        epochs = asked("here", (1,), clock)
        clock.advance(VALID_SECONDS * 0.9)
        assert epochs.now[0] == (1,)
        clock.advance(VALID_SECONDS * 0.1)
        assert epochs.now[0] is None
        assert epochs.latest == (1,)

    def test_nothing_is_known_before_it_was_asked_for(self, clock: Clock) -> None:
        epochs = AskedEpochs("here")
        assert (epochs.now[0], epochs.latest, epochs.turn) == (None, None, (None, None))

    def test_an_answer_that_comes_late_does_not_undo_a_later_one(self, clock: Clock) -> None:
        epochs = asked("here", (1,), clock)
        asked_at = clock.now
        clock.advance(0.1)
        epochs.note((3,), clock.now)
        epochs.note((2,), asked_at)
        assert epochs.now[0] == (3,)

    def test_an_own_deletion_moves_from_one_to_the_next(self, clock: Clock) -> None:
        epochs = asked("here", (1,), clock)
        epochs.begin_write()
        epochs.deleted((1,), (2,))
        assert (epochs.now[0], epochs.turn) == ((2,), ((1,), (2,)))
        epochs.deleted((2,), (3,))
        assert (epochs.now[0], epochs.turn) == ((3,), ((1,), (3,)))

    def test_an_own_deletion_after_one_of_others_leaves_no_epoch_before_it(self, clock: Clock) -> None:
        epochs = asked("here", (1,), clock)
        epochs.begin_write()
        epochs.deleted((2,), (3,))
        assert (epochs.now[0], epochs.latest, epochs.turn) == (None, (3,), (None, (3,)))

    def test_of_a_deletion_that_may_have_been_committed_nothing_is_known(self, clock: Clock) -> None:
        epochs = asked("here", (1,), clock)
        asked_at = clock.now
        clock.advance(0.1)
        epochs.lose()
        epochs.note((1,), asked_at)
        assert (epochs.now[0], epochs.latest, epochs.turn) == (None, None, (None, None))
        clock.advance(0.1)
        epochs.note((2,), clock.now)
        assert epochs.now[0] == (2,)

    def test_a_deletion_is_told_to_the_objects_on_the_same_place_and_to_no_others(self, clock: Clock) -> None:
        one, neighbour, stranger = (asked(place, (1,), clock) for place in ("here", "here", "there"))
        clock.advance(0.1)
        one.deleted((1,), (2,))
        assert (one.now[0], neighbour.now[0], stranger.now[0]) == ((2,), None, (1,))
        clock.advance(0.1)
        neighbour.note((2,), clock.now)
        assert neighbour.now[0] == (2,)
        clock.advance(0.1)
        one.lose()
        assert neighbour.now[0] is None

    def test_the_present_one_is_looked_up_by_index_and_is_one(self, clock: Clock) -> None:
        assert len(asked("here", (1,), clock).now) == 1
