"""``contextstore.shared``: one store for each place of a process."""

from __future__ import annotations

import asyncio
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import contextstore
from contextstore import AsyncContextStore, ContextStore, Observer, StoreClosedError, shared
from contextstore._faces import shared as _shared

from ..conftest import new_location
from ..process.programs import run_with_fork
from ..process.threads import run_threads
from ..support.processes import run

PLACES = ["file", "postgres"]


@pytest.fixture(autouse=True)
def none_is_left_open() -> Iterator[None]:
    yield
    for one in list(_shared._all.values()):
        one.store.close()
    assert _shared._all == {}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Any:
    return new_location(request.param, request)


class Noting(Observer):
    def encode(self, value: object) -> str:
        return str(value)


class TestOneForEachPlace:
    def test_all_who_ask_get_the_same(self, place: Any) -> None:
        assert shared(place) is shared(place)
        assert type(shared(place)) is ContextStore

    def test_all_threads_that_ask_at_once_get_the_same(self, tmp_path: pathlib.Path) -> None:
        for number in range(50):
            together = threading.Barrier(8)

            def ask(_: int, number: int = number, together: threading.Barrier = together) -> ContextStore:
                together.wait(30)
                return shared(tmp_path / f"{number}.db")

            assert len(set(map(id, run_threads(ask, 8)))) == 1

    def test_a_file_is_one_place_however_it_is_named(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "there")
        monkeypatch.chdir(tmp_path)
        store = shared("there/store.db")
        names = ["./there/../there/store.db", tmp_path / "link" / "store.db", "sqlite:///there/store.db"]
        names.append(f"sqlite:////{tmp_path}/there/store.db")
        assert all(shared(name) is store for name in names)
        assert shared("there/other.db") is not store

    def test_a_link_to_the_file_is_the_file(self, tmp_path: pathlib.Path) -> None:
        store = shared(tmp_path / "store.db")
        store.put("run", "a", 1)
        (tmp_path / "link.db").symlink_to(tmp_path / "store.db")
        assert shared(tmp_path / "link.db") is store

    @pytest.mark.parametrize(
        "other",
        [
            "postgresql://user:secret@HOST:5432/flows?schema=contextstore",
            "postgres://user:secret@host/flows",
            "postgresql://user:secret@/flows?host=host",
            "postgresql://host/flows?user=user&password=secret&port=5432",
            "postgresql://host/?dbname=flows&user=user&password=secret",
        ],
    )
    def test_so_is_a_schema_on_a_server(self, other: str) -> None:
        assert shared(other) is shared("postgresql://user:secret@host/flows")

    @pytest.mark.parametrize(
        "other",
        [
            "postgresql://user:secret@host:5433/flows",
            "postgresql://user:secret@other/flows",
            "postgresql://user:secret@host/others",
            "postgresql://user:secret@host/flows?schema=other",
            "postgresql://user:secret@host,other/flows",
            "postgresql://user:secret@/flows?host=/run/host",
        ],
    )
    def test_others_are_others(self, other: str) -> None:
        assert shared(other) is not shared("postgresql://user:secret@host/flows")

    @pytest.mark.parametrize("other", ["other:secret", "user:hidden", "user"])
    def test_who_asks_as_another_user_is_refused_without_a_word_of_the_password(self, other: str) -> None:
        assert shared("postgresql://user:secret@host/flows")
        with pytest.raises(ValueError, match="with another user, password or option of its URL") as caught:
            shared(f"postgresql://{other}@host/flows")
        assert "secret" not in str(caught.value)
        assert "hidden" not in str(caught.value)

    def test_a_store_in_memory_cannot_be_shared(self) -> None:
        with pytest.raises(ValueError, match="private to its object"):
            shared(":memory:")

    @pytest.mark.parametrize("target", ["", "file:flows.db", "a\0b", "flows/", 7])
    def test_what_no_store_takes_is_refused(self, target: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="target"):
            shared(target)


ENCODE = Noting().encode
DEFAULTS = {
    "durability": "full",
    "timeout": 30,
    "cache_bytes": 64 * 2**20,
    "max_value_bytes": 256 * 2**20,
    "read_only": False,
    "create": True,
    "encode_default": None,
    "observers": [],
    "max_connections": 4,
}
OTHERS = {
    "durability": "normal",
    "timeout": 29.5,
    "cache_bytes": 0,
    "max_value_bytes": 2**20,
    "read_only": True,
    "create": False,
    "encode_default": str,
    "observers": [Noting()],
    "max_connections": 5,
}


class TestOptions:
    def test_are_those_of_a_store(self, file_path: pathlib.Path) -> None:
        import inspect

        ours, theirs = (inspect.signature(function).parameters for function in (shared, ContextStore))
        assert list(ours.values()) == list(theirs.values())
        assert ours.keys() - {"target"} == DEFAULTS.keys() == OTHERS.keys()

    @pytest.mark.parametrize("name", DEFAULTS)
    def test_that_are_left_out_are_the_defaults(self, file_path: pathlib.Path, name: str) -> None:
        options: Any = {name: DEFAULTS[name]}
        assert shared(file_path, **options) is shared(file_path)

    @pytest.mark.parametrize("name", OTHERS)
    def test_that_are_others_are_refused(self, file_path: pathlib.Path, name: str) -> None:
        options: Any = {name: OTHERS[name]}
        store = shared(file_path)
        with pytest.raises(ValueError, match=f"with another {name}"):
            shared(file_path, **options)
        store.close()
        other = shared(file_path, **options)
        with pytest.raises(ValueError, match=f"with another {name}"):
            shared(file_path)
        assert shared(file_path, **options) is other

    def test_functions_are_the_same_by_identity(self, file_path: pathlib.Path) -> None:
        class Equal:
            def __eq__(self, other: object) -> bool:
                return True

            def __hash__(self) -> int:
                return 1

            def __call__(self, value: object) -> str:
                return "text"

        encode = Equal()
        store = shared(file_path, encode_default=encode)
        assert shared(file_path, encode_default=encode) is store
        with pytest.raises(ValueError, match="encode_default"):
            shared(file_path, encode_default=Equal())

    def test_a_method_is_the_same_at_each_look(self, file_path: pathlib.Path) -> None:
        one = Noting()
        store = shared(file_path, encode_default=one.encode, observers=[one])
        assert shared(file_path, encode_default=one.encode, observers=[one]) is store


class TestItsEnd:
    async def test_a_block_closes_nothing(self, place: Any) -> None:
        with shared(place) as store:
            store.put("run", "a", 1)
        async with store.awaitable as awaited:
            assert await awaited.get("run", "a") == 1
        assert await awaited.exists("run", "a")
        assert shared(place) is store

    @pytest.mark.parametrize("face", ["blocking", "awaited"])
    def test_close_closes_it_for_all_and_the_next_is_a_new_one(self, place: Any, face: str) -> None:
        store = shared(place)
        store.put("run", "a", 1)
        if face == "blocking":
            shared(place).close()
        else:
            asyncio.run(store.awaitable.close())
        with pytest.raises(StoreClosedError):
            store.get("run", "a")
        new = shared(place)
        assert new is not store
        assert new.get("run", "a") == 1
        store.close()
        assert shared(place) is new

    def test_one_that_was_never_used_can_be_closed(self, file_path: pathlib.Path) -> None:
        store = shared(file_path)
        store.close()
        assert shared(file_path) is not store

    def test_those_that_are_closed_and_asked_for_at_once_are_one_at_a_time(self, file_path: pathlib.Path) -> None:
        def work(who: int) -> int:
            for number in range(40):
                store = shared(file_path)
                if number % 10 == 9:
                    store.close()
                try:
                    store.put(f"run-{who}", f"{number}", 1)
                except StoreClosedError:
                    continue
            return who

        assert run_threads(work, 4) == [0, 1, 2, 3]
        assert len(_shared._all) <= 1

    @pytest.mark.parametrize("how", ["plain", "by a thread", "awaited", "never used"])
    def test_the_end_of_the_interpreter_closes_it_without_a_warning(self, file_path: pathlib.Path, how: str) -> None:
        program = f"""
            import contextstore
            store = contextstore.shared(sys.argv[1])
            if {how!r} == "plain":
                store.put("run", "a", 1)
            elif {how!r} == "by a thread":
                threading.Thread(target=store.put, args=("run", "a", 1)).start()
            elif {how!r} == "awaited":
                asyncio.run(store.awaitable.put("run", "a", 1))
            say("done")
        """
        assert run(program, file_path, options=["-W", "error"]) == ["done"]
        with ContextStore(file_path) as store:
            assert store.exists("run", "a") == (how != "never used")
        assert not os.path.exists(f"{file_path}-wal")

    def test_it_stays_where_nobody_holds_it(self, file_path: pathlib.Path) -> None:
        shared(file_path).put("run", "a", 1)
        before = shared(file_path).counters().cache_hits
        assert shared(file_path).get("run", "a") == 1
        assert shared(file_path).counters().cache_hits == before + 1


@pytest.mark.each_input_once
@pytest.mark.parametrize("call", ["get", "run", "awaited", "ask", "close"])
def test_in_a_forked_child_the_inherited_one_works(place: Any, call: str) -> None:
    program = f"""
        import contextstore

        store = contextstore.shared(sys.argv[1])
        store.put("run", "a", 1)
        run, awaited = store.run("run"), store.awaitable
        before = store._core.backend

        def work():
            if {call!r} == "run":
                assert run.get("a") == 1
                run.put("of the child", 2)
            elif {call!r} == "awaited":
                assert asyncio.run(awaited.get("run", "a")) == 1
                assert store.awaitable is awaited and awaited.blocking is store
                asyncio.run(awaited.put("run", "of the child", 2))
            elif {call!r} == "close":
                store.close()
                new = contextstore.shared(sys.argv[1])
                assert new is not store
                new.put("run", "of the child", 2)
            else:
                if {call!r} == "ask":
                    assert contextstore.shared(sys.argv[1]) is store
                assert store.get("run", "a") == 1
                store.put("run", "of the child", 2)
            assert store._core.backend is not before
            with contextstore.shared(sys.argv[1]) as one:
                assert one.list_keys("run") == ["a", "of the child"]

        say(in_child(work, leave=sys.exit if {call!r} == "get" else os._exit))
        say(store.list_keys("run"), contextstore.shared(sys.argv[1]) is store, store._core.backend is before)
    """
    expected = ["0", "['a', 'of the child'] True True"]
    assert run_with_fork(program, str(place)) == expected


def test_so_it_does_in_a_child_of_the_child_and_from_another_folder(tmp_path: pathlib.Path) -> None:
    program = """
        import contextstore
        os.chdir(sys.argv[1])
        store = contextstore.shared("store.db")
        store.put("run", "a", 1)
        os.chdir("/")

        def work():
            store.put("run", "b", 1)
            os._exit(in_child(lambda: store.put("run", "c", 1)))

        say(in_child(work))
        say(store.list_keys("run"))
    """
    assert run_with_fork(program, tmp_path) == ["0", "['a', 'b', 'c']"]


def test_so_it_does_while_threads_of_the_parent_ask_and_put(file_path: pathlib.Path) -> None:
    program = """
        import contextstore

        def go_on(who):
            number = 0
            while not ended:
                contextstore.shared(sys.argv[1]).put("run", f"{who} {number}", 1)
                number += 1

        def work():
            with contextstore.shared(sys.argv[1]) as store:
                store.put("child", f"{os.getpid()}", 1)

        ended = []
        threads = [threading.Thread(target=go_on, args=(who,)) for who in range(3)]
        for thread in threads:
            thread.start()
        say(*[in_child(work) for _ in range(10)])
        ended.append(True)
        for thread in threads:
            thread.join()
        say(len(contextstore.shared(sys.argv[1]).list_keys("child")))
    """
    assert run_with_fork(program, file_path) == [" ".join(["0"] * 10), "10"]


def test_neither_face_of_another_store_does(file_path: pathlib.Path) -> None:
    program = """
        from contextstore import ForkedProcessError
        store = ContextStore(sys.argv[1])
        store.put("run", "a", 1)

        def work():
            for call in (lambda: store.get("run", "b"), lambda: asyncio.run(store.awaitable.get("run", "b"))):
                try:
                    call()
                except ForkedProcessError:
                    continue
                raise AssertionError

        say(in_child(work))
        store.close()
    """
    assert run_with_fork(program, file_path) == ["0"]


def test_it_is_one_of_the_public_names() -> None:
    assert contextstore.shared is shared
    assert isinstance(AsyncContextStore.blocking, property)
