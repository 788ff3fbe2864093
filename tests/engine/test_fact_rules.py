"""What is said of runs, as tables: what is there against each begin and update, without I/O."""

from __future__ import annotations

import pytest

from contextstore import CorruptStoreError, RunAlreadyExistsError, RunStateConflictError
from contextstore._engine.fact_rules import (
    NOTHING_SAID,
    TooManyAttributes,
    attribute_rows,
    attributes_text,
    facts_row,
    loaded,
    read_facts,
    said,
)
from contextstore._engine.records import RunFacts
from contextstore._engine.run_operations import BeginRun, LoadFacts, UpdateRun


def begun(attributes: str | None = None, parent: str | None = None) -> RunFacts:
    facts = said(NOTHING_SAID, BeginRun("run", attributes, parent), 5)
    assert isinstance(facts, RunFacts)
    return facts


@pytest.mark.parametrize("attributes", [None, '{"a":1}'])
@pytest.mark.parametrize("parent", [None, "p"])
def test_a_first_begin_is_taken_whatever_it_gives(attributes: str | None, parent: str | None) -> None:
    facts = begun(attributes, parent)
    assert (facts.begun_at, facts.attributes, facts.parent, facts.state) == (5, attributes, parent, 0)


@pytest.mark.parametrize("again", [(None, None), ('{"a":1}', None), (None, "p"), ('{"a":1}', "p")])
def test_a_begin_with_the_same_changes_nothing(again: tuple[str | None, str | None]) -> None:
    facts = begun('{"a":1}', "p")
    assert said(facts, BeginRun("run", *again), 9) is facts


@pytest.mark.parametrize("again", [("{}", None), ('{"a":1.0}', None), ('{"a":true}', None), (None, "q")])
def test_a_begin_with_others_is_refused(again: tuple[str | None, str | None]) -> None:
    with pytest.raises(RunAlreadyExistsError):
        said(begun('{"a":1}', "p"), BeginRun("run", *again), 9)


def test_an_update_says_what_it_gives_and_no_more() -> None:
    facts = begun('{"a":1,"b":2}', "p")
    updated = said(facts, UpdateRun("run", 2, '{"a":null,"c":3}', "it broke", 0), 9)
    assert updated == facts._replace(state=2, state_changed_at=9, attributes='{"b":2,"c":3}', error="it broke")
    assert isinstance(updated, RunFacts)
    assert said(updated, UpdateRun("run", None, "{}", None, None), 10) == updated
    assert said(updated, UpdateRun("run", None, '{"b":null,"c":null}', "", None), 10) == updated._replace(
        attributes=None, error=None
    )


def test_an_update_that_expects_another_state_is_refused() -> None:
    with pytest.raises(RunStateConflictError) as caught:
        said(begun(), UpdateRun("run", 1, "{}", None, 3), 9)
    assert (caught.value.expected, caught.value.actual) == ("cancelled", "open")


def test_more_attributes_than_a_run_may_have_are_told() -> None:
    many = attributes_text({str(number): number for number in range(64)})
    assert said(begun(many), UpdateRun("run", None, '{"more":1}', None, None), 9) == TooManyAttributes(65)


@pytest.mark.parametrize("field", RunFacts._fields)
def test_each_fact_is_guarded_by_the_checksum(field: str) -> None:
    facts = RunFacts(1, 2, 3, "4", "5", '{"a":6}', "7")
    assert read_facts("here", "run", facts_row("run", facts)) == facts
    *_, checksum = facts_row("run", facts)
    changed = facts._replace(**{field: getattr(RunFacts(2, 3, 4, "5", "6", '{"a":7}', "8"), field)})
    for row in ((*changed, checksum), (*facts._replace(**{field: b"\xff"}), checksum), (*facts, None)):
        with pytest.raises(CorruptStoreError) as caught:
            read_facts("here", "run", row)
        assert caught.value.flow_run_id == "run"
    with pytest.raises(CorruptStoreError):
        read_facts("here", "other", (*facts, checksum))


def test_a_run_of_which_nothing_is_said_needs_no_checksum() -> None:
    assert facts_row("run", NOTHING_SAID)[-1] is None
    assert read_facts("here", "run", facts_row("run", NOTHING_SAID)) == NOTHING_SAID


def test_attributes_are_found_by_their_json() -> None:
    assert attribute_rows('{"a":1,"b":1.0,"c":true,"d":"1"}') == {"a": "1", "b": "1.0", "c": "true", "d": '"1"'}
    assert attribute_rows(None) == {}


def test_what_another_store_has_replaces_what_was_said_before_it_alone() -> None:
    here, there = begun('{"a":1}'), begun('{"a":2}')
    load = LoadFacts("run", there, 10, 0)
    assert loaded(NOTHING_SAID, None, load)
    assert loaded(there, 99, load)
    assert loaded(here, 10, load)
    assert not loaded(here, 11, load)
    with pytest.raises(RunAlreadyExistsError):
        loaded(here, 5, load._replace(replaces=False))
