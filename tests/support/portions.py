"""How much of the suite is run: a portion, for whoever has changed something, or the whole, for what is to land.

``make test`` runs each test of a promise, on each face and engine, with some of the inputs, and on files in memory
unless a test is about a disk. ``make test-all`` sets CONTEXTSTORE_TEST_ALL: all inputs, all files on a disk.
"""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import zlib
from collections.abc import Iterable
from typing import Any

import pytest

WHOLE = bool(os.environ.get("CONTEXTSTORE_TEST_ALL"))

ROOM = 3 * 2**30
"""Bytes that must be free in memory: the files of some tests and the folders of some servers."""


def some(all_of_them: int, portion: int) -> int:
    """So many kills, rounds or examples, or in a portion of the suite so many."""
    return all_of_them if WHOLE else portion


def first_of(cases: Iterable[Any], portion: int) -> list[Any]:
    """Cases for ``parametrize``, of which a portion of the suite asks so many of the first; a tuple is of several
    parameters."""
    sets = [case if isinstance(case, tuple) else (case,) for case in cases]
    again = (pytest.param(*each, marks=pytest.mark.thorough) for each in sets[portion:])
    return [*(pytest.param(*each) for each in sets[:portion]), *again]


def steps(stride: int) -> tuple[int, int]:
    """Of places that are numbered: the first, and how far it is to the next.

    In a portion of the suite every so-many-th, beginning at random, and printed: who runs it often comes by them all.
    """
    if WHOLE:
        return 0, 1
    first = random.randrange(stride)
    print(f"every {stride}th place, from {first} on")
    return first, stride


def folder_in_memory() -> pathlib.Path | None:
    """Where a sync costs nothing, if there is such a place with room in it, and a portion of the suite is run."""
    folder = pathlib.Path("/dev/shm")
    if WHOLE or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return None
    return folder if shutil.disk_usage(folder).free >= ROOM else None


PLACES = ("face_and_engine", "face", "engine", "make_either", "place", "location", "target")
"""The parameters that say where a test asks; the others say what it asks."""


def mark_what_repeats(items: list[pytest.Item]) -> None:
    """Mark as ``thorough`` what a portion of the suite need not ask, since it asks it elsewhere.

    A test of ``store`` or ``make_store`` asks each engine, by one face and the other in turn, and so each face, too;
    with ``each_pair``, it asks each engine by each face. With ``each_input_once``, it asks each input in one place, and
    in each place at least one input. Tasks of trio's need not ask what those of asyncio ask.
    """
    tests: dict[tuple[pytest.Collector | None, str], list[pytest.Function]] = {}
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        if item.callspec.params.get("face_and_engine", ("", ""))[0] == "trio":
            item.add_marker("thorough")
        else:
            tests.setdefault((item.parent, item.originalname), []).append(item)
    for variants in tests.values():
        if variants[0].get_closest_marker("each_input_once"):
            repeated = _of_each_input_once(variants)
        elif "face_and_engine" in variants[0].callspec.params and not variants[0].get_closest_marker("each_pair"):
            repeated = _of_each_engine_once(variants)
        else:
            continue
        for item in repeated:
            item.add_marker("thorough")


def _of_each_input_once(variants: list[pytest.Function]) -> list[pytest.Function]:
    places: dict[tuple[int, ...], int] = {}
    inputs: dict[tuple[int, ...], int] = {}
    numbers = []
    for item in variants:
        where, what = _parameters(item)
        numbers.append((places.setdefault(where, len(places)), inputs.setdefault(what, len(inputs))))
    every = min(len(places), len(inputs))
    return [item for item, (place, given) in zip(variants, numbers, strict=True) if (place - given) % every]


def _of_each_engine_once(variants: list[pytest.Function]) -> list[pytest.Function]:
    pairs = [item.callspec.params["face_and_engine"] for item in variants]
    faces, engines = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    if len(engines) == 1:
        return []
    repeated = []
    for item, (face, engine) in zip(variants, pairs, strict=True):
        # Another face begins with each test and with each input, and it is the same in every process.
        begin = zlib.crc32(item.nodeid.replace(f"{face}-{engine}", "").encode())
        if (faces.index(face) + engines.index(engine) + begin) % len(faces):
            repeated.append(item)
    return repeated


def _parameters(item: pytest.Function) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where a variant of a test asks, and what: by the parameters' objects, which all variants share."""
    parameters = item.callspec.params
    where = tuple(id(parameters[name]) for name in parameters if name in PLACES)
    return where, tuple(id(parameters[name]) for name in parameters if name not in PLACES)
