"""Flights whose loops were closed under them: they go, though no one may ever ask for their keys again."""

from __future__ import annotations

from contextstore._waiting.single_flight import _SWEEP_AT, Flight, Flights


class _ClosedLoop:
    def is_closed(self) -> bool:
        return True


class _OpenLoop:
    def is_closed(self) -> bool:
        return False


def test_flights_whose_loops_were_closed_go_when_there_are_many_though_no_one_asks_for_their_keys() -> None:
    own = Flights()
    lost = [Flight(_ClosedLoop()) for _ in range(_SWEEP_AT - 1)]  # type: ignore[arg-type]  # stands for a loop
    for number, flight in enumerate(lost):
        own.enter(f"lost {number}", flight)
    going_on = Flight(_OpenLoop())  # type: ignore[arg-type]  # stands for a loop
    own.enter("going on", going_on)
    assert len(own.by_key) == _SWEEP_AT
    last = Flight(_OpenLoop())  # type: ignore[arg-type]  # stands for a loop
    assert own.enter("last", last) is last
    assert own.by_key == {"going on": going_on, "last": last}
    assert all(flight.is_done and flight.landed.done() for flight in lost)


def test_many_flights_that_go_on_are_not_looked_at_each_time_that_another_one_comes() -> None:
    looks = []

    class Loop(_OpenLoop):
        def is_closed(self) -> bool:
            looks.append(1)
            return False

    own = Flights()
    for number in range(4 * _SWEEP_AT):
        own.enter(f"{number}", Flight(Loop()))  # type: ignore[arg-type]  # stands for a loop
    assert len(looks) <= 4 * _SWEEP_AT  # at 64, and at 128
