"""The queue of a store object's commits: taken out in their order, however their threads end."""

from __future__ import annotations

import random

from contextstore._dispatch.commits import Commit, CommitQueue

from ..support.portions import some


def begun(queue: CommitQueue, node_id: str) -> Commit:
    commit = Commit([("run", node_id)])
    queue.append(commit)
    return commit


def test_a_commit_that_is_under_way_is_not_taken() -> None:
    queue = CommitQueue()
    commit = begun(queue, "a")
    assert not queue.is_one_over
    assert queue.take() is None
    commit.is_over = True
    assert queue.is_one_over
    assert queue.take() is commit
    assert queue.take() is None


def test_a_commit_behind_which_there_is_another_is_over_though_its_thread_never_said_so() -> None:
    queue = CommitQueue()
    interrupted, last = begun(queue, "a"), begun(queue, "b")
    assert queue.is_one_over
    assert queue.take() is interrupted
    assert queue.take() is None
    last.is_over = True
    assert queue.take() is last


def test_what_nobody_waits_for_is_not_kept() -> None:
    queue = CommitQueue()
    begun(queue, "a").is_over = True
    queue.clear()
    assert not queue.is_one_over
    assert queue.take() is None


def test_commits_are_taken_in_their_order_whatever_comes_in_between() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(some(1000, 200)):
        queue = CommitQueue()
        made: list[Commit] = []
        taken: list[Commit] = []
        for _ in range(30):
            match chance.randrange(3):
                case 0:
                    made.append(begun(queue, str(len(made))))
                case 1 if made:
                    chance.choice(made[-3:]).is_over = True
                case _:
                    commit = queue.take()
                    taken += [] if commit is None else [commit]
        for commit in made[-1:]:
            commit.is_over = True
        while (left := queue.take()) is not None:
            taken.append(left)
        assert taken == made, f"seed {seed}"
