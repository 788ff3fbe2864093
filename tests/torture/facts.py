"""What a program under test tried, was told and saw, and whether a store agrees with it.

Rules of this module: the store is asked through its public calls only. A fact once told must hold for ever after; what
was tried and not answered may be there or not, but whole; nothing else may be there.
"""

from __future__ import annotations

import copy
import json
import pathlib
import random
import zlib
from collections import Counter
from typing import Any, Self

from contextstore import AlreadyExistsError, ContextStore, ContextStoreError, RunDeletedError


def value_of(run: str, node: str) -> dict[str, Any]:
    """The one value that is ever put there: some hundred bytes, now and then more than a page."""
    dice = zlib.crc32(f"{run}/{node}".encode())
    return {"run": run, "node": node, "text": f"{dice:08x}" * (dice % 64 if dice % 5 else dice % 1500)}


def contested_value_of(run: str, node: str, attempt: str) -> dict[str, Any]:
    """Where many put to one key, each has a value of its own."""
    return {**value_of(run, node), "by": attempt}


def global_value_of(key: str, attempt: str) -> dict[str, Any]:
    return {"key": key, "by": attempt, "text": attempt * (zlib.crc32(attempt.encode()) % 50)}


class Problem(str):
    """One sentence, with its kind: ``lost``, ``wrong``, ``ghost``, ``half``, ``damaged`` or ``refused``."""

    kind: str

    def __new__(cls, kind: str, sentence: str) -> Self:
        problem = super().__new__(cls, f"{kind}: {sentence}")
        problem.kind = kind
        return problem


class Facts:
    def __init__(self) -> None:
        self.attempts: dict[str, list[Any]] = {}
        self.outputs: dict[str, set[str]] = {}  # certain, by run
        self.tried: dict[str, set[str]] = {}
        self.groups: list[tuple[list[tuple[str, str]], list[str], str]] = []
        self.tried_deletions: set[str] = set()
        self.deleted: set[str] = set()
        self.tried_prunes: set[str] = set()
        self.pruned: set[str] = set()
        self.contests: dict[str, dict[str, dict[str, Any]]] = {}  # by run and node: who tried to put what
        self.winners: dict[str, dict[str, list[str]]] = {}  # and who was told that it is stored
        self.versions: dict[str, dict[int, dict[str, Any]]] = {}  # certain, by key
        self.tried_globals: dict[str, list[dict[str, Any]]] = {}
        self.backups: dict[str, Facts] = {}
        self.acknowledged: Counter[str] = Counter()

    def hear(self, mark: bytes) -> None:
        """A mark of the program: ``try``, ``ack`` or ``no`` of an attempt, or something it ``saw``."""
        match json.loads(mark):
            case ["try", attempt, *words]:
                self.attempts[attempt] = words
                self._note_attempt(attempt, words)
            case ["ack", attempt, result]:
                self.acknowledged[self.attempts[attempt][0]] += 1
                self._note_acknowledgement(attempt, self.attempts[attempt], result)
            case ["saw", "output", run, node]:
                self.outputs.setdefault(run, set()).add(node)
                self.acknowledged["saw"] += 1
            case ["saw", "global", key, version, value]:
                self.versions.setdefault(key, {})[version] = value
                self.acknowledged["saw"] += 1
            case ["saw", "contested", run, node]:
                self.winners.setdefault(run, {}).setdefault(node, [])
                self.acknowledged["saw"] += 1
            case ["saw", "deleted", run]:
                self.deleted.add(run)
                self.acknowledged["saw"] += 1
            case ["no", *_]:
                pass
            case other:
                raise AssertionError(f"an unknown mark: {other}")

    def _note_attempt(self, attempt: str, words: list[Any]) -> None:
        outputs, keys = _targets(words)
        for run, node in outputs:
            self.tried.setdefault(run, set()).add(node)
        for key in keys:
            self.tried_globals.setdefault(key, []).append(global_value_of(key, attempt))
        if len(outputs) + len(keys) > 1:
            self.groups.append((outputs, keys, attempt))
        match words:
            case ["delete", run]:
                self.tried_deletions.add(run)
            case ["prune"]:  # of everything, by the one that is alone with it
                self.tried_prunes |= self.tried.keys()
            case ["contest", run, node]:
                self.contests.setdefault(run, {}).setdefault(node, {})[attempt] = contested_value_of(run, node, attempt)

    def _note_acknowledgement(self, attempt: str, words: list[Any], result: Any) -> None:
        outputs, keys = _targets(words)
        for run, node in outputs:
            self.outputs.setdefault(run, set()).add(node)
        for key in keys:
            # A batch is not told its versions; its globals are its own alone, so that they have the first one.
            version = result if words[0] == "upsert" else 1
            self.versions.setdefault(key, {})[version] = global_value_of(key, attempt)
        match words:
            case ["delete", run]:
                self.deleted.add(run)
            case ["prune"]:
                self.pruned |= self.tried.keys()
            case ["contest", run, node]:
                self.winners.setdefault(run, {}).setdefault(node, []).append(attempt)
            case ["backup", name]:
                self.backups[name] = copy.deepcopy(self)
                self.backups[name].backups.clear()

    def __len__(self) -> int:
        return sum(self.acknowledged.values())

    # -- looking -------------------------------------------------------------------------------------------------------

    def disputes(self, path: pathlib.Path, seed: int = 0) -> list[Problem]:
        """Every way in which a store, newly opened, disagrees; and then whether it takes further writes."""
        try:
            with ContextStore(path, cache_bytes=0, timeout=10) as store:
                problems = self._disputes_of(store)
                problems += _further_writes(store, seed)
        except ContextStoreError as error:
            return [Problem("refused", f"{type(error).__name__}: {error}")]
        for name, facts in self.backups.items():
            copy_of_store = path.with_name(name)
            if not copy_of_store.exists():
                problems.append(Problem("lost", f"the backup {name}, which was acknowledged"))
            else:
                problems += [
                    Problem(problem.kind, f"backup {name}: {problem}") for problem in facts.disputes(copy_of_store)
                ]
        return problems

    def _disputes_of(self, store: ContextStore) -> list[Problem]:
        problems = [Problem("damaged", str(problem)) for problem in store.check().problems]
        there = {run.flow_run_id: store.get_run(run.flow_run_id) for run in store.list_runs(limit=10_000)}
        for run in sorted((there.keys() | self.tried.keys() | self.deleted) - self.contests.keys()):
            problems += self._disputes_of_run(store, run, there.get(run, {}))
        for run in self.contests:
            problems += self._disputes_of_contests(run, there.get(run, {}))
        globals_ = {entry.key: (entry.version, entry.value) for entry in store.list_globals(limit=10_000)}
        for key in sorted(globals_.keys() | self.tried_globals.keys()):
            problems += self._disputes_of_global(key, *globals_.get(key, (0, None)))
        for outputs, keys, attempt in self.groups:
            if not any(run in self.tried_deletions | self.tried_prunes for run, _ in outputs):
                present = [node in there.get(run, {}) for run, node in outputs] + [key in globals_ for key in keys]
                if any(present) and not all(present):
                    problems.append(
                        Problem("half", f"{sum(present)} of the {len(present)} writes of attempt {attempt}")
                    )
        return problems

    def _disputes_of_run(self, store: ContextStore, run: str, there: dict[str, Any]) -> list[Problem]:
        problems = []
        for node, value in there.items():
            if node not in self.tried.get(run, ()):
                problems.append(Problem("ghost", f"{run}/{node} is there and was never put"))
            elif value != value_of(run, node):
                problems.append(Problem("wrong", f"{run}/{node} is {value!r:.80}"))
            elif run in self.deleted:
                problems.append(Problem("lost", f"the deletion of {run}: {node} is there"))
        missing = self.outputs.get(run, set()) - there.keys()
        if run in self.tried_deletions or run in self.deleted:
            is_deleted = _is_deleted(store, run)
            if run in self.deleted and not is_deleted and run not in self.tried_prunes:  # which forgets tombstones
                problems.append(Problem("lost", f"the deletion of {run}: it takes outputs"))
            if is_deleted:
                if there:
                    problems.append(Problem("half", f"{run} is deleted, and {sorted(there)} are there"))
                missing = set()
        if run in self.tried_prunes and not there:
            missing = set()
        if run in self.pruned and there:
            problems.append(Problem("lost", f"{run} was pruned, and {sorted(there)} are there"))
        problems += [Problem("lost", f"the output {run}/{node}, which was acknowledged") for node in sorted(missing)]
        return problems

    def _disputes_of_contests(self, run: str, there: dict[str, Any]) -> list[Problem]:
        problems = []
        for node, value in there.items():
            if value not in self.contests[run].get(node, {}).values():
                problems.append(Problem("wrong", f"{run}/{node} is {value!r:.80}, which nobody has put"))
        for node, winners in self.winners.get(run, {}).items():
            if node not in there:
                problems.append(Problem("lost", f"the contested output {run}/{node}, which was told of"))
            elif len(winners) > 1:
                problems.append(Problem("wrong", f"{len(winners)} were told that {run}/{node} is theirs"))
            elif winners and there[node] != self.contests[run][node][winners[0]]:
                problems.append(Problem("wrong", f"{run}/{node} is {there[node]!r:.80}; another was told to have won"))
        return problems

    def _disputes_of_global(self, key: str, version: int, value: Any) -> list[Problem]:
        certain = self.versions.get(key, {})
        if version < max(certain, default=0):
            return [Problem("lost", f"global {key} is at version {version}, and {max(certain)} was acknowledged")]
        if version and value not in ([certain[version]] if version in certain else self.tried_globals.get(key, [])):
            return [Problem("wrong", f"global {key} is {value!r:.80} at version {version}")]
        return []


def _targets(words: list[Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """The outputs and globals that a write is to."""
    match words:
        case ["put", run, node]:
            return [(run, node)], []
        case ["many", run, nodes]:
            return [(run, node) for node in nodes], []
        case ["batch", run, nodes, keys]:
            return [(run, node) for node in nodes], list(keys)
        case ["upsert", key] | ["put_global", key]:
            return [], [key]
    return [], []


def _is_deleted(store: ContextStore, run: str) -> bool:
    try:
        with store.batch() as batch:  # a batch that is refused leaves nothing behind
            batch.put(run, "is it deleted?", None)
            batch.upsert_global("is it deleted?", None, expected_version=10**6)
    except RunDeletedError:
        return True
    except ContextStoreError:
        return False
    raise AssertionError("a batch with a conflict in it was taken")


def _further_writes(store: ContextStore, seed: int) -> list[Problem]:
    dice = random.Random(seed)
    run = f"after {dice.random()}"
    try:
        for node in ("a", "b"):
            store.put(run, node, value_of(run, node))
        version = store.upsert_global("after", "a")
        if store.upsert_global("after", "b") != version + 1:
            return [Problem("wrong", "a version was given twice")]
        if store.get_run(run) != {node: value_of(run, node) for node in ("a", "b")}:
            return [Problem("wrong", "a write after the cut is not read back")]
        try:
            store.put(run, "a", 0)
        except AlreadyExistsError:
            return []
        return [Problem("wrong", "an output was written twice after the cut")]
    except ContextStoreError as error:
        return [Problem("refused", f"a write after the cut: {type(error).__name__}: {error}")]
