"""The cache beside the writer, a deletion and other clients: what it answers is what is stored at that moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from contextstore import StorageError
from contextstore._dispatch.cache import OutputCache
from contextstore._dispatch.reader import Reader
from contextstore._dispatch.writer import Writer
from contextstore._engine.epochs import Epoch
from contextstore._engine.operations import DeleteRun, LoadOutput, LoadRun, PutGlobal, PutOutput
from contextstore._values.codec import JSON, Encoded

from ..support.fake_engine import FakeEngine, outcomes_of, spawn, task_callers, turns
from ..support.interleaving import interleavings

OLD, NEW = Encoded(JSON, b'"old"'), Encoded(JSON, b'"new"')
KEY = ("run", "node")


class Epochs:
    """As a test sets them."""

    is_exact = True

    def __init__(self, now: Epoch) -> None:
        self.now: list[Any] = [now]
        self.turn: tuple[Epoch, Epoch] = (now, now)

    @property
    def latest(self) -> Epoch:
        return self.now[0]  # type: ignore[no-any-return]


def put(value: Encoded, exist_ok: bool = False) -> PutOutput:
    return PutOutput(*KEY, value, exist_ok)


class TestAFill:
    @pytest.mark.parametrize("epoch", [None, 1, 3])
    def test_of_an_epoch_that_is_not_known_is_not_kept(self, epoch: Epoch) -> None:
        cache = OutputCache(10_000, Epochs(2))
        cache.fill([(KEY, OLD)], epoch)
        assert len(cache) == 0

    @pytest.mark.parametrize("epoch", [2, 6])
    def test_of_another_epoch_than_the_last_one_is_not_kept(self, epoch: Epoch) -> None:
        epochs = Epochs(4)
        cache = OutputCache(10_000, epochs)
        cache.fill([(KEY, OLD)], epoch)
        assert (cache.get(KEY), len(cache)) == (None, 0)

    def test_of_a_new_epoch_takes_the_place_of_all_that_was_kept(self) -> None:
        epochs = Epochs(2)
        cache = OutputCache(10_000, epochs)
        cache.fill([(KEY, OLD), (("other", "node"), OLD)], 2)
        epochs.now[0] = 4
        cache.fill([(KEY, NEW)], 4)
        assert (cache.get(KEY), cache.get(("other", "node")), len(cache)) == (NEW, None, 1)

    def test_of_an_epoch_that_is_over_leaves_alone_what_is_kept_of_a_later_one(self) -> None:
        epochs = Epochs(4)
        cache = OutputCache(10_000, epochs)
        cache.fill([(KEY, NEW)], 4)
        cache.fill([(KEY, OLD)], 2)
        assert cache.get(KEY) == NEW

    def test_of_the_same_output_twice_counts_it_once(self) -> None:
        cache = OutputCache(10_000, Epochs(2))
        cache.fill([(KEY, OLD)], 2)
        size = cache.bytes
        cache.fill([(KEY, OLD)], 2)
        assert (cache.bytes, len(cache)) == (size, 1)

    def test_of_what_is_larger_than_the_cache_drives_nothing_out(self) -> None:
        cache = OutputCache(2_000, Epochs(2))
        cache.fill([(KEY, OLD), (("run", "large"), Encoded(JSON, b"1" * 3_000))], 2)
        assert (cache.get(KEY), cache.get(("run", "large"))) == (OLD, None)

    def test_drives_out_what_was_used_least_lately(self) -> None:
        cache = OutputCache(2_200, Epochs(2))
        keys = [("run", str(i)) for i in range(3)]
        cache.fill([(key, Encoded(JSON, b"1" * 300)) for key in keys[:2]], 2)
        assert cache.get(keys[0]) is not None
        cache.fill([(keys[2], Encoded(JSON, b"1" * 300))], 2)
        assert [cache.get(key) is not None for key in keys] == [True, False, True]


class TestAnAnswer:
    def test_is_given_only_while_its_epoch_is_the_present_one(self) -> None:
        epochs = Epochs(2)
        cache = OutputCache(10_000, epochs)
        cache.fill([(KEY, OLD)], 2)
        answers = []
        for epoch in (2, 3, 4, None, 2):
            epochs.now[0] = epoch
            answers.append(cache.get(KEY))
        assert answers == [OLD, None, None, None, OLD]
        assert (cache.hits, cache.misses) == (2, 3)

    def test_counts_at_no_moment_as_one_of_a_face_unless_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cache = OutputCache(10_000, Epochs(2))
        cache.fill([(KEY, OLD)], 2)
        cache.find(KEY)
        seen: list[int] = []
        counting = cache.counting

        def seeing(value: Encoded | None) -> Encoded | None:
            seen.append(cache.quick_hits)
            return counting(value)

        monkeypatch.setattr(cache, "counting", seeing)
        assert cache.get(KEY) == OLD
        assert (seen, cache.quick_hits, cache.hits) == ([1], 1, 2)

    def test_is_not_given_after_all_was_cleared(self) -> None:
        cache = OutputCache(10_000, Epochs(2))
        cache.fill([(KEY, OLD)], 2)
        cache.clear()
        assert (cache.get(KEY), cache.bytes, len(cache)) == (None, 0, 0)


class TestACommit:
    def test_keeps_what_it_put(self) -> None:
        cache = OutputCache(10_000, Epochs(2))
        cache.committed([put(OLD), PutGlobal("key", OLD, False)])
        assert cache.get(KEY) == OLD

    def test_does_not_keep_a_retry_which_may_be_equal_in_another_form_than_what_is_stored(self) -> None:
        cache = OutputCache(10_000, Epochs(2))
        cache.fill([(KEY, OLD)], 2)
        cache.committed([put(OLD, exist_ok=True)])
        assert cache.get(KEY) == OLD
        cache.committed([put(NEW, exist_ok=True)])
        assert cache.get(KEY) is None

    def test_forgets_what_it_took_over(self) -> None:
        cache = OutputCache(10_000, Epochs(2))
        cache.fill([(KEY, OLD)], 2)
        cache.committed([LoadOutput(*KEY, OLD, 5)])
        assert cache.get(KEY) is None

    @pytest.mark.parametrize("deletion", [DeleteRun("run"), LoadRun("run", 1, 2)])
    @pytest.mark.parametrize("order", [1, -1])
    def test_of_a_deletion_forgets_its_run_and_what_was_put_beside_it_in_whatever_order(
        self, deletion: Any, order: int
    ) -> None:
        epochs = Epochs(2)
        cache = OutputCache(10_000, epochs)
        cache.fill([(KEY, OLD), (("other", "node"), OLD)], 2)
        epochs.now[0], epochs.turn = 4, (2, 4)
        cache.committed([deletion, PutOutput("run", "b", NEW, False)][::order])
        assert [cache.get(key) for key in (KEY, ("run", "b"), ("other", "node"))] == [None, None, OLD]

    def test_with_an_unknown_epoch_after_it_leaves_nothing(self) -> None:
        epochs = Epochs(2)
        cache = OutputCache(10_000, epochs)
        cache.fill([(KEY, OLD)], 2)
        epochs.turn = (2, None)
        cache.committed([PutOutput("run", "b", NEW, False)])
        assert len(cache) == 0


class Story:
    """A read, a write and another client's deletion, each in the steps between which the others may come."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.engine.hold("fetched", "commit", "deleting", "committed")
        self.cache = OutputCache(10_000, self.engine.epochs)
        self.callers = task_callers(self.engine)
        self.reader = Reader(self.engine, self.cache, 5.0)
        self.writer = Writer(self.engine, [self.cache.committed], 5.0)
        self.tasks: list[Any] = []
        self.jobs: dict[str, Any] = {}

    async def begin_read(self) -> None:
        self.tasks += spawn(self.reader.fetch(KEY, self.callers))
        await turns(1)
        self.jobs["read"] = self.engine.begin_read()

    def end_read(self) -> None:
        self.jobs["read"].finish()

    async def begin_write(self, operation: Any) -> None:
        self.tasks += spawn(self.writer.commit([operation], self.callers))
        await turns(1)
        self.jobs["write"] = self.engine.begin_write()

    def go_on_writing(self) -> None:
        self.jobs["write"].go_on()

    def is_right(self) -> bool:
        """Whether the cache answers with what is stored, or not at all."""
        answer = self.cache.get(KEY)
        return answer is None or answer == self.engine.place.value(*KEY)


WRITES = {"a deletion": DeleteRun("run"), "a put": PutOutput("run", "other", NEW, False), "the put": put(NEW)}
ELSEWHERE: dict[str, Callable[[Any], object]] = {
    "deletes the run": lambda place: place.delete("run"),
    "deletes another run": lambda place: place.delete("else"),
    "uses the id anew": lambda place: (place.begin_anew("run"), place.put(*KEY, NEW)),
}


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("is_there", [True, False], ids=["there", "absent"])
async def test_in_every_interleaving_with_another_client_the_cache_answers_right_or_not_at_all(
    write: str, elsewhere: str, is_there: bool
) -> None:
    for order in interleavings(["read", "fill"], ["write", "w", "w", "w"], ["elsewhere"]):
        story = Story()
        if is_there or write != "the put":
            story.engine.place.put(*KEY, OLD)
        story.cache.fill([(KEY, OLD)] if is_there else [], story.engine.place.epoch)
        for step in order:
            match step:
                case "read":
                    await story.begin_read()
                case "fill":
                    story.end_read()
                case "write":
                    await story.begin_write(WRITES[write])
                case "w":
                    if story.jobs["write"].at is not None:
                        story.go_on_writing()
                case "elsewhere":
                    ELSEWHERE[elsewhere](story.engine.place)
            assert story.is_right(), (order, step)
        story.engine.release()
        story.jobs["write"].finish()
        await outcomes_of(story.tasks)
        assert story.is_right(), order


async def test_what_was_put_before_a_deletion_elsewhere_is_not_kept_after_one_of_the_same_turn_here() -> None:
    story = Story()
    story.engine.release()
    story.engine.fail("commit", StorageError("refused"))  # and then one by one
    story.tasks += spawn(
        story.writer.commit([put(OLD)], story.callers), story.writer.commit([DeleteRun("else")], story.callers)
    )
    await turns(1)
    story.engine.hold("commit")
    job = story.engine.begin_write()
    while len(story.engine.groups) < 3:
        job.go_on()
    story.engine.place.delete("run")
    job.finish()
    await outcomes_of(story.tasks)
    assert story.engine.epochs.turn == (None, 4)
    assert story.cache.get(KEY) is None


async def test_what_this_object_puts_and_deletes_is_answered_as_long_as_it_is_there() -> None:
    story = Story()
    story.engine.release()
    answers = []
    for operation in (put(OLD), PutOutput("else", "node", OLD, False), DeleteRun("else"), DeleteRun("run")):
        story.tasks += spawn(story.writer.commit([operation], story.callers))
        await turns(1)
        story.engine.run_writes()
        answers.append(story.cache.get(KEY))
    await outcomes_of(story.tasks)
    assert answers == [OLD, OLD, OLD, None]
