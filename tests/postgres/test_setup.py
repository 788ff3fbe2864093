"""How a store on a server comes to be: its schema, the rights it needs, its driver and its URL."""

from __future__ import annotations

import logging

import asyncpg
import pytest

from contextstore import (
    AlreadyExistsError,
    ContextStore,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    StorageError,
    StoreNotFoundError,
)
from contextstore._postgres.tables import SCHEMA_VERSION

from ..support.forked import children
from ..support.nodes import execute, make_role_that_puts_and_gets
from ..support.servers import Server


def test_eight_processes_set_up_a_new_schema_at_the_same_moment(url: str) -> None:
    program = """
        with ContextStore(sys.argv[1]) as store:
            store.put("run", sys.argv[2], 1)
        say("done")
    """
    with children(8, program, url) as all_children:
        for child in all_children:
            assert child.end() == (0, ["done"], "")
    with ContextStore(url) as store:
        assert len(store.list_keys("run")) == 8


def test_what_is_not_there_is_not_created_unasked(url: str) -> None:
    with pytest.raises(StoreNotFoundError), ContextStore(url, create=False):
        pass
    with pytest.raises(StoreNotFoundError), ContextStore(url, read_only=True):
        pass


def test_tables_of_others_are_left_as_they_were(postgres: Server, url: str, schema: str) -> None:
    execute(postgres, f"CREATE SCHEMA {schema}")
    execute(postgres, f"CREATE TABLE {schema}.flow_runs (theirs integer)")
    with pytest.raises(IncompatibleStoreError, match="another program"), ContextStore(url):
        pass
    names = execute(postgres, f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}'")
    assert [tuple(row) for row in names] == [("flow_runs",)]


def test_a_newer_schema_is_refused(postgres: Server, url: str, schema: str) -> None:
    with ContextStore(url) as store:
        store.put("run", "a", 1)
    execute(postgres, f"UPDATE {schema}.store_format SET version = {SCHEMA_VERSION + 1}")
    with pytest.raises(IncompatibleStoreError, match="upgrade contextstore"), ContextStore(url):
        pass


@pytest.mark.parametrize(
    "credentials",
    ["nobody:s3cr3t-word@127.0.0.1:{port}/postgres", "postgres:s3cr3t-word@127.0.0.1:{port}/no_such_database",
     "postgres:s3cr3t-word@127.0.0.1:1/postgres", "postgres@127.0.0.1:{port}/nowhere?password=s3cr3t-word"],
)  # fmt: skip
def test_what_cannot_be_connected_to_is_an_error_at_once_that_keeps_the_password(
    postgres: Server, credentials: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = ContextStore("postgresql://" + credentials.format(port=postgres.port))
    with pytest.raises(StorageError) as caught:
        store.open()
    store.close()
    cause = caught.value.__cause__
    said = [str(caught.value), repr(caught.value), repr(store), str(cause), repr(cause), caplog.text]
    assert "s3cr3t" not in " ".join(said)
    assert "127.0.0.1" in str(caught.value)


def test_a_role_that_may_only_insert_and_select_can_put_and_get(postgres: Server, url: str, schema: str) -> None:
    role = f"role_{schema}"
    with ContextStore(url) as owner:
        owner.put_global("key", 1)
        make_role_that_puts_and_gets(postgres, schema, role)
        with ContextStore(url.replace("postgres@", f"{role}@")) as store:
            store.put("run", "a", 1)
            with pytest.raises(AlreadyExistsError):
                store.put("run", "a", 2)
            store.put("run", "a", 1, exist_ok=True)
            assert store.get("run", "a") == 1
            assert store.list_keys("run") == ["a"]
            assert store.get_global("key") == 1
            for refused in (lambda: store.delete_run("run"), lambda: store.upsert_global("key", 2)):
                with pytest.raises(ReadOnlyStoreError):
                    refused()
            store.put("run", "b", 2)
        for statement in (
            f"UPDATE {schema}.node_outputs SET value = ''",
            f"DELETE FROM {schema}.node_outputs",
            f"TRUNCATE {schema}.node_outputs",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                execute(postgres, statement, user=role)
        assert owner.get_run("run") == {"a": 1, "b": 2}


def test_a_role_that_may_not_make_a_store_is_told_that_there_is_none(postgres: Server, url: str, schema: str) -> None:
    execute(postgres, f"CREATE ROLE role_{schema} LOGIN")
    for _ in range(2):  # without a schema, and with one that it may use and not create in
        with pytest.raises(ReadOnlyStoreError, match=r"there is no store at .* as one that may .*permission denied"):
            ContextStore(url.replace("postgres@", f"role_{schema}@")).open()
        execute(postgres, f"CREATE SCHEMA IF NOT EXISTS {schema}")
        execute(postgres, f"GRANT USAGE ON SCHEMA {schema} TO role_{schema}")


def test_a_store_that_only_reads_works_and_refuses_every_write(url: str) -> None:
    with ContextStore(url) as store:
        store.put("run", "a", 1)
    with ContextStore(url, read_only=True) as reader:
        assert reader.get("run", "a") == 1
        for write in (lambda: reader.put("run", "b", 1), lambda: reader.delete_run("run")):
            with pytest.raises(ReadOnlyStoreError):
                write()


def test_a_store_without_its_driver_says_what_to_install(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "asyncpg", None)
    with pytest.raises(StorageError, match="pip install asyncpg"), ContextStore(url):
        pass


@pytest.mark.parametrize(
    ("url", "word"),
    [("postgresql://h/db?schema=Bad", "schema"), ("postgresql://h/db?schema=a;b", "schema"),
     ("postgresql://h/db?pooler=session", "pooler")],
)  # fmt: skip
def test_a_url_that_cannot_be_meant_is_refused_at_construction(url: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ContextStore(url)
