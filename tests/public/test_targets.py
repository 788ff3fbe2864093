"""Targets: a path is a path, and what can only be meant as a connection string makes no file of that name."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore

FACES = [AsyncContextStore, ContextStore]

PATHS = [
    "flows.db",
    "runs/date=2024-01-01/flows.db",
    "date=2024-01-01.db",
    "date=2024-01-01",
    "host=web1/flows.db",
    "host=web1/user=me/flows.db",
    "host=web1.db",
    "user=me.sqlite3",
    "my flows.db",
    "a;b.db",
    "a=b",
    "x=1 y=2",
    "10:00.db",
    "me@home.db",
    "10:00@home.db",
    "runs/10:00@home/flows.db",
    "postgres-1/flows",
    "postgresql_backup",
    "sqlite=3",
    "backup@2024-01-01T10:00:00",
    "backup@10:00",
    "postgres/flows.db",
    "postgres.db",
    "the host of all.db",
    "C:flows",
    "sqlite/flows.db",
    "ghost=1 airport=2.db",
    "100%.db",
    "#1.db",
    "what?.db",
    "é.db",
]


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("path", PATHS)
def test_a_plausible_path_is_a_path(face: type, path: str) -> None:
    assert os.path.abspath(path) in repr(face(path))


SECRET = "T0PS3CRET"
CONNECTION_STRINGS = [
    # libpq's
    f"host=db.internal port=5432 dbname=flows user=app password={SECRET}",
    f"password={SECRET} dbname=flows",
    "dbname=flows host=/run/postgresql",
    "dbname=flows",
    "host=db.internal",
    "host=/run/postgresql",
    "service=flows",
    " service = flows ",
    f"user = app password = '{SECRET} with spaces' host = h",
    f"host=h password='{SECRET}/x.db'",
    f"HOST=h PASSWORD={SECRET}",
    f"host='h' password='{SECRET}",
    f"password={SECRET}.db",
    f"passwd={SECRET}",
    f"application_name=x password={SECRET} sslmode=require",
    f'"host=h password={SECRET}"',
    "host=a\nport=1",
    # ADO.NET's, ODBC's
    f"Server=db;Database=flows;User Id=app;Password={SECRET};",
    f"Server=db;Port=5432;Uid=app;Pwd={SECRET}",
    f"Driver={{PostgreSQL}};Server=db;UID=app;PWD={SECRET}",
    "Data Source=flows.db;Version=3;",
    "DSN=flows",
    "Server=db;",
    f"Host=db;Username=app;Password={SECRET};Database=flows",
    # without a scheme, or with half of one
    f"app:{SECRET}@db.internal:5432/flows",
    f"app:{SECRET}@db.internal/flows",
    f"app:{SECRET}@db.internal",
    f"postgres:app:{SECRET}@db/flows",
    f"postgresql:/app:{SECRET}@db/flows",
    f"postgresql//app:{SECRET}@db/flows",
    f"postgresql;//app:{SECRET}@db/flows",
    f"postgres=/app:{SECRET}@db/flows",
    f"postgresql/app:{SECRET}@db/flows",
    f"app;{SECRET}@db:5432/flows",
    "postgres:flows",
    "POSTGRES:flows",
    f"postgresql+asyncpg:app:{SECRET}@db",
    "sqlite:flows.db",
    "sqlite:/flows.db",
    "jdbc:sqlite:flows.db",
    f"jdbc:postgresql:flows?user=app&password={SECRET}",
    "file:flows.db",
    "FILE:flows.db?mode=ro",
]
URLS = [
    (f"jdbc:postgresql://db/flows?user=app&password={SECRET}", "did you mean 'postgresql://'"),
    (f"postgresql+asyncpg://app:{SECRET}@db/flows", "did you mean 'postgresql://'"),
    (f"postgres+psycopg2://app:{SECRET}@db/flows", "did you mean 'postgres://'"),
    (f"postgre://app:{SECRET}@db/flows", "did you mean 'postgres://'"),
    (f"postgresq://app:{SECRET}@db/flows", "did you mean 'postgresql://'"),
    ("sqlite3:///flows.db", "did you mean 'sqlite://'"),
    ("sqlite+aiosqlite:///flows.db", "did you mean 'sqlite://'"),
    (f"mysql://app:{SECRET}@db/flows", "'mysql' is not known"),
    ("file:///flows.db", "'file' is not known"),
    (f"host=db password={SECRET}://x", "does not begin with a scheme"),
    (f" postgresql://app:{SECRET}@db/flows", "does not begin with a scheme"),
    (f'"postgresql://app:{SECRET}@db/flows"', "does not begin with a scheme"),
    (f"psql postgresql://app:{SECRET}@db/flows", "does not begin with a scheme"),
    (f"sqlite:///flows.db?key={SECRET}", "pass them as keywords"),
    ("sqlite:///folder/", "ends in a slash"),
]


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("target", CONNECTION_STRINGS)
def test_what_can_only_be_meant_as_a_connection_string_is_refused_without_being_shown(
    face: type, target: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="known are a path") as caught:
        face(target)
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"
    assert os.listdir() == []


@pytest.mark.parametrize(("url", "words"), URLS)
def test_a_scheme_that_is_not_known_is_told_with_what_was_meant(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        ContextStore(url)
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"


@pytest.mark.parametrize("target", ["flows/", "/", "a/b/", "./", "flows.db/"])
def test_a_path_that_ends_in_a_slash_is_a_folders(target: str) -> None:
    with pytest.raises(ValueError, match="ends in a slash"):
        ContextStore(target)


@pytest.mark.parametrize(
    "name", ["host=db password=x dbname=flows", "service=flows", "postgres:x", "a b=c;d", "file:x"]
)
def test_a_path_object_is_always_a_path(name: str, tmp_path: pathlib.Path) -> None:
    for target in (tmp_path / name, pathlib.Path(name)):
        assert name in repr(ContextStore(target))
    with ContextStore(tmp_path / name) as store:
        store.put("run", "node", 1)
    assert (tmp_path / name).exists()


def test_a_path_like_of_ones_own_is_a_path(tmp_path: pathlib.Path) -> None:
    class Place:
        def __fspath__(self) -> str:
            return str(tmp_path / "password=x")

    with ContextStore(Place()) as store:
        store.put("run", "node", 1)
    assert (tmp_path / "password=x").exists()


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(("number", "error"), [(1, ValueError), (0, ValueError), (True, TypeError), ("4", TypeError)])
def test_fewer_connections_than_two_are_refused_wherever_the_store_is(
    face: type, number: Any, error: type[Exception], tmp_path: pathlib.Path
) -> None:
    for target in (":memory:", tmp_path / "flows.db", "postgresql://h/db"):
        with pytest.raises(error, match="max_connections"):
            face(target, max_connections=number)
        face(target, max_connections=2)
