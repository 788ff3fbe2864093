"""What docs/postgresql.md says is so, by a real server: its SQL and its snippets are run, its tables are held."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from contextstore import ContextStore, IncompatibleStoreError, ReadOnlyStoreError, StorageError, StoreBusyError, copy
from contextstore._postgres import url as _url
from contextstore._postgres.statements import statements_for

from ..support.nodes import execute, two_nodes
from ..support.servers import Server, running_server
from .pages import DOCS, fences, rows, section
from .test_readme import fences_of, run_python

PAGE = "postgresql.md"
PASSWORD = "pa/ss word@1"  # with what must be encoded


def test_each_snippet_of_the_page_is_run_here() -> None:
    kinds = [fence.info for fence in fences_of(DOCS / PAGE) if fence.info != "text"]
    assert kinds == ["python server", "python server", "sql", "sql"]


# -------------------------------------------------------------------------------------------------------------- the URL


def code_in(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_table_has_each_option_of_a_url_and_no_other() -> None:
    named = [code_in(option)[0] for option, *_ in rows(PAGE, "The URL")]
    assert sorted(named) == sorted(_url._KNOWN)


def test_the_table_has_each_choice_that_an_option_leaves() -> None:
    meanings = {code_in(option)[0]: code_in(meaning) for option, _, meaning in rows(PAGE, "The URL")}
    assert {name: tuple(meanings[name]) for name in _url._CHOICES} == _url._CHOICES
    assert [code_in(mode)[0] for mode, *_ in rows(PAGE, "TLS")] == list(_url._CHOICES["sslmode"])


def test_the_defaults_of_our_own_options_are_those_of_the_table() -> None:
    address = _url.parse_url("postgresql://host/database")
    defaults = {code_in(option)[0]: code_in(default) for option, default, _ in rows(PAGE, "The URL")[:3]}
    assert defaults == {"schema": [address.schema], "application_name": [address.application_name], "pooler": []}
    assert not address.has_pooler


@pytest.mark.parametrize("name", ["connect_timeout", "options", "search_path"])
def test_what_the_page_says_is_refused_is_refused(name: str) -> None:
    assert f"`{name}`" in section(PAGE, "The URL")
    with pytest.raises(ValueError, match=name):
        ContextStore(f"postgresql://host/database?{name}=1")


# ------------------------------------------------------------------------------------- a server with TLS and passwords


@dataclasses.dataclass
class Secured:
    server: Server
    certificate: pathlib.Path

    def url(self, user: str, host: str = "127.0.0.1", **options: Any) -> str:
        query = urllib.parse.urlencode({"schema": f"of_{user}", **options}, quote_via=urllib.parse.quote)
        return f"postgresql://{user}@{host}:{self.server.port}/postgres?{query}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """``anyone`` needs no password; ``flows`` has one; ``careful`` is let in by TLS alone. Named in it: localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", folder / "key", "-out", folder / "certificate"]
    request = ["openssl", "req", "-new", "-x509", "-nodes", "-days", "2", *name, *files]
    subprocess.run(request, check=True, capture_output=True)
    with running_server() as server:
        for file in (folder / "key", folder / "certificate"):
            there = server.folder / file.name
            shutil.copy(file, there)
            if server.identity:
                os.chown(there, server.identity["user"], server.identity["group"])
            there.chmod(0o600)
        server.stop()
        certificate = server.folder / "certificate"
        server.settings |= {"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": server.folder / "key"}
        server.start()
        for role, more in (("anyone", ""), ("careful", ""), ("flows", f"PASSWORD '{PASSWORD}'")):
            execute(server, f"CREATE ROLE {role} LOGIN {more}")
            execute(server, f"GRANT CREATE ON DATABASE postgres TO {role}")
        rules = server.folder / "data" / "pg_hba.conf"
        rule = "host all flows all scram-sha-256\nhostssl all careful all trust\nhost all careful all reject\n"
        rules.write_text(rule + rules.read_text())
        execute(server, "SELECT pg_reload_conf()")
        yield Secured(server, folder / "certificate")


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def is_encrypted(server: Server, url: str) -> bool:
    """Whether a store of this URL speaks TLS."""
    name = f"name_{time.monotonic_ns()}"
    with ContextStore(f"{url}{'&' if '?' in url else '?'}application_name={name}&schema={name}") as store:
        store.put("run", "node", 1)
        connections = "pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        (seen,) = execute(server, f"SELECT bool_and(ssl) FROM {connections} WHERE application_name = '{name}'")
    return bool(seen[0])


class TestTLS:
    @pytest.mark.parametrize("mode", ["", *_url._CHOICES["sslmode"]])
    def test_where_the_server_has_it(self, secured: Secured, mode: str) -> None:
        options = {"sslmode": mode} if mode else {}
        if mode.startswith("verify"):
            options["sslrootcert"] = str(secured.certificate)
        url = secured.url("anyone", "localhost", **options)
        assert is_encrypted(secured.server, url) is (mode not in ("disable", "allow"))

    @pytest.mark.parametrize("mode", ["", *_url._CHOICES["sslmode"]])
    def test_where_the_server_has_none(self, postgres: Server, secured: Secured, mode: str) -> None:
        url = postgres.url(**({"sslmode": mode} if mode else {}))
        if mode in ("require", "verify-ca", "verify-full"):
            root = urllib.parse.quote(str(secured.certificate), safe="")
            with pytest.raises(StorageError, match="rejected SSL"):
                ContextStore(f"{url}&sslrootcert={root}").open()
        else:
            assert not is_encrypted(postgres, url)

    def test_allow_encrypts_where_the_server_insists(self, secured: Secured) -> None:
        assert is_encrypted(secured.server, secured.url("careful", sslmode="allow"))
        with pytest.raises(StorageError):
            ContextStore(secured.url("careful", sslmode="disable")).open()

    def test_only_verify_full_looks_at_the_name_of_the_host(self, secured: Secured) -> None:
        root = str(secured.certificate)
        assert is_encrypted(secured.server, secured.url("anyone", sslmode="verify-ca", sslrootcert=root))
        with pytest.raises(StorageError, match="certificate"):
            ContextStore(secured.url("anyone", sslmode="verify-full", sslrootcert=root)).open()

    @pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
    def test_a_certificate_of_somebody_else_is_refused(
        self, secured: Secured, tmp_path: pathlib.Path, mode: str
    ) -> None:
        other = tmp_path / "other"
        request = ["openssl", "req", "-new", "-x509", "-nodes", "-subj", "/CN=other", "-keyout", tmp_path / "key"]
        subprocess.run([*request, "-out", other], check=True, capture_output=True)
        with pytest.raises(StorageError, match="certificate"):
            ContextStore(secured.url("anyone", "localhost", sslmode=mode, sslrootcert=str(other))).open()
        without = secured.url("anyone", "localhost", sslmode=mode)
        if mode == "require":  # encrypted, by whoever answers
            assert is_encrypted(secured.server, without)
        else:
            with pytest.raises(StorageError, match="root certificate"):
                ContextStore(without).open()

    def test_the_environment_says_what_the_url_does_not(
        self, secured: Secured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGSSLMODE", "disable")
        assert not is_encrypted(secured.server, secured.url("anyone"))
        assert is_encrypted(secured.server, secured.url("anyone", sslmode="require"))


# The driver leaves the socket of a refused log-in to the collector now and then, if the loop ends right behind it.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
class TestPasswords:
    def lets_in(self, url: str) -> bool:
        store = ContextStore(url)
        try:
            store.open()
        except StorageError as error:
            assert error.code == "28P01"
            assert "ss word" not in f"{error} {error.__cause__!r} {store!r}"
            return False
        finally:
            store.close()
            gc.collect()  # here, where that is known
        return True

    def test_each_way_is_taken_and_each_goes_before_those_behind_it(
        self, secured: Secured, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        def say(where: str, password: str) -> None:
            match where:
                case "file":
                    (tmp_path / ".pgpass").write_text(f"127.0.0.1:{secured.server.port}:postgres:flows:{password}\n")
                    (tmp_path / ".pgpass").chmod(0o600)
                case "environment":
                    monkeypatch.setenv("PGPASSWORD", password)
                case "service":
                    (tmp_path / ".pg_service.conf").write_text(f"[store]\npassword={password}\n")

        url = secured.url("flows", service="store")
        assert not self.lets_in(url)
        for where in ("file", "environment", "service"):
            say(where, PASSWORD)
            assert self.lets_in(url), where
            say(where, "wrong-word")
            assert not self.lets_in(url), where
        right = url.replace("flows@", f"flows:{urllib.parse.quote(PASSWORD, safe='')}@")
        assert self.lets_in(right)

    def test_a_file_that_others_may_read_is_passed_over_with_a_warning(
        self, secured: Secured, tmp_path: pathlib.Path
    ) -> None:
        (tmp_path / "words").write_text(f"*:*:*:flows:{PASSWORD}\n")
        (tmp_path / "words").chmod(0o644)
        url = secured.url("flows", passfile=str(tmp_path / "words"))
        with pytest.warns(UserWarning, match="group or world access"):
            assert not self.lets_in(url)
        (tmp_path / "words").chmod(0o600)
        assert self.lets_in(url)

    def test_a_section_of_the_service_file_has_all_that_the_url_leaves_out(
        self, secured: Secured, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        where = f"host=127.0.0.1\nport={secured.server.port}\nuser=flows\ndbname=postgres\npassword={PASSWORD}\n"
        (tmp_path / "services").write_text(f"[store]\n{where}")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        assert self.lets_in("postgresql:///?service=store&schema=of_flows")
        monkeypatch.setenv("PGSERVICE", "store")
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(secured.server.port))
        monkeypatch.setenv("PGUSER", "flows")
        monkeypatch.setenv("PGDATABASE", "postgres")
        assert not self.lets_in("postgresql:///?schema=of_flows")  # the environment names a section, which is not read

    def test_the_snippets_of_the_page_work(
        self, secured: Secured, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        (tmp_path / "flows.pgpass").write_text(f"127.0.0.1:{secured.server.port}:postgres:flows:{PASSWORD}\n")
        (tmp_path / "flows.pgpass").chmod(0o600)
        for title in ("PostgreSQL", "Passwords"):
            for fence in fences(PAGE, title, "python server"):
                text = fence.text.replace(
                    "flows@db.example.com/flows", f"flows@127.0.0.1:{secured.server.port}/postgres"
                )
                text = text.replace("/run/secrets", str(tmp_path))
                assert text != fence.text
                monkeypatch.setenv("PGPASSFILE", str(tmp_path / "flows.pgpass"))
                run_python(dataclasses.replace(fence, text=text), tmp_path)


# ---------------------------------------------------------------------------------------------------------------- roles


def execute_all(server: Server, script: str, user: str = "postgres") -> None:
    for statement in re.sub(r"^--.*\n", "", script, flags=re.MULTILINE).split(";"):
        if statement.strip():
            execute(server, statement, user)


def of_schema(sql: str, schema: str) -> str:
    """SQL of the page, for another schema than that of its example."""
    return re.sub(r"\bflows(?=[_ .;]|$)", schema, sql)


@pytest.fixture
def roles(postgres: Server, schema: str) -> Callable[[str], str]:
    """Those of the page, for a schema of the test's own; by name their URL."""

    def url(role: str) -> str:
        return postgres.url(schema=schema).replace("postgres@", f"{schema}_{role}@")

    made, granted = (of_schema(fence.text, schema) for fence in fences(PAGE, "Roles", "sql"))
    execute_all(postgres, made)
    with ContextStore(url("owner")) as store:
        store.put("first", "node", 1)
        store.put_global("key", 1)
    execute_all(postgres, granted, user=f"{schema}_owner")
    return url


class TestRoles:
    def test_the_runner_may_make_every_call(self, roles: Callable[[str], str]) -> None:
        with ContextStore(roles("runner")) as store:
            store.put("run", "a", 1)
            store.put_many("run", {"b": 2, "c": 3})
            with store.batch() as batch:
                batch.put("other", "a", 1)
                batch.upsert_global("batched", 1)
            store.put_global("once", 1)
            store.upsert_global("key", 2, expected_version=1)
            store.update_global("key", lambda value: value + 1)
            assert store.delete_global("once")
            forked = store.fork_run("run")
            assert store.get_run(forked) == {"a": 1, "b": 2, "c": 3}
            assert store.append("run", "log/", 1, key="first") == store.append("run", "log/", 1, key="first")
            assert store.delete_run("run", forget=True) == 4
            assert store.get_or_put("other", "b", lambda: 2) == 2
            assert store.check().ok
            assert store.stats().runs == 3
            assert store.prune(older_than=datetime.timedelta()).runs == 3

    def test_the_runner_may_make_no_store(self, roles: Callable[[str], str]) -> None:
        with pytest.raises(ReadOnlyStoreError, match="there is no store"):
            ContextStore(f"{roles('runner')}_other").open()

    def test_nobody_but_the_owner_migrates(self, postgres: Server, roles: Callable[[str], str], schema: str) -> None:
        from ..support.earlier import make_earlier

        make_earlier(postgres, schema, 1, f"{schema}_owner")
        for role in ("runner", "writer"):
            with pytest.raises(IncompatibleStoreError, match="as the owner"):
                ContextStore(roles(role)).open()
        with ContextStore(roles("owner")) as store:
            assert store.get("first", "node") == 1
        with ContextStore(roles("runner")) as store:
            store.put("run", "a", 1)
            assert store.append("run", "log/", 1, key="first") == "log/000000000001"
            assert store.delete_run("run") == 2
        with ContextStore(roles("reader"), read_only=True) as store:
            assert store.check().ok
        with ContextStore(roles("writer")) as store:
            store.put("another", "a", 1)
            with pytest.raises(ReadOnlyStoreError, match="append_counters"):
                store.append("another", "log/", 1)
        _, granted = fences(PAGE, "Roles", "sql")
        execute_all(postgres, of_schema(granted.text, schema), user=f"{schema}_owner")
        with ContextStore(roles("writer")) as store:
            assert store.append("another", "log/", 1) == "log/000000000001"

    def test_the_writer_puts_and_reads_and_the_server_itself_refuses_the_rest(
        self, postgres: Server, roles: Callable[[str], str], schema: str
    ) -> None:
        with ContextStore(roles("writer")) as store:
            store.put("run", "a", 1)
            store.put_many("run", {"b": 2, "c": 3})
            assert store.get_run("run") == {"a": 1, "b": 2, "c": 3}
            appended = [store.append("run", "log/", number, key=f"{number}") for number in (1, 2, 1)]
            assert appended == ["log/000000000001", "log/000000000002", "log/000000000001"]
            assert store.get_global("key") == 1
            assert store.check().ok
            for refused in (lambda: store.delete_run("run"), lambda: store.upsert_global("key", 2)):
                with pytest.raises(ReadOnlyStoreError):
                    refused()
            with pytest.raises(ReadOnlyStoreError):
                store.prune(older_than=datetime.timedelta())
        for statement in (
            f"UPDATE {schema}.node_outputs SET value = ''",
            f"DELETE FROM {schema}.node_outputs",
            f"TRUNCATE {schema}.node_outputs",
            f"INSERT INTO {schema}.flow_runs (flow_run_id, created_at, writer, deleted_at) VALUES ('x', 0, NULL, 1)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                execute(postgres, statement, user=f"{schema}_writer")

    def test_the_reader_reads(self, roles: Callable[[str], str]) -> None:
        with ContextStore(roles("reader"), read_only=True) as store:
            assert store.get("first", "node") == 1
            assert [info.flow_run_id for info in store.list_runs()] == ["first"]
            assert (store.stats().outputs, store.check().ok) == (1, True)
            with pytest.raises(ReadOnlyStoreError):
                store.put("run", "a", 1)
        with ContextStore(roles("reader")) as store, pytest.raises(ReadOnlyStoreError, match="permission denied"):
            store.put("run", "a", 1)


# ------------------------------------------------------------------------------------------------------------ fail-over


@pytest.mark.slow
def test_while_no_host_can_be_written_callers_see_what_the_table_says() -> None:
    with two_nodes() as (primary, standby):
        hosts = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        url = f"{hosts}?target_session_attrs=read-write"
        with ContextStore(url, timeout=60) as patient, ContextStore(url, timeout=2) as hasty:
            patient.put("run", "before", 1)
            with ContextStore(f"{hosts}?target_session_attrs=prefer-standby", read_only=True) as reader:
                assert reader.list_keys("run") in ([], ["before"])
            with ContextStore(standby.url()) as second, pytest.raises(ReadOnlyStoreError, match="nothing was stored"):
                second.put("run", "to a standby", 1)
            os.kill(primary.process_id, signal.SIGKILL)
            with pytest.raises(StorageError) as refused:
                hasty.put("run", "hasty", 1)
            # The connection that it had may have taken the put just before its end was seen.
            busy = isinstance(refused.value, StoreBusyError) and "nothing was stored" in str(refused.value)
            assert busy or refused.value.outcome_unknown
            with pytest.raises(StorageError, match="could not connect"):
                ContextStore(url, timeout=1).open()

            def promote() -> None:
                execute(standby, "SELECT pg_promote(true, 30)")
                execute(standby, "ALTER SYSTEM SET synchronous_standby_names = ''")
                execute(standby, "SELECT pg_reload_conf()")

            waiting = threading.Thread(target=lambda: patient.put("run", "while it was away", 1))
            waiting.start()
            promote()
            waiting.join(60)
            assert set(patient.list_keys("run")) - {"hasty"} == {"before", "while it was away"}
            hasty.put("run", "hasty", 1, exist_ok=refused.value.outcome_unknown)


def test_an_opening_is_refused_at_once_where_every_host_refuses_the_connection() -> None:
    begun = time.monotonic()
    with pytest.raises(StorageError, match="could not connect"):
        ContextStore(
            "postgresql://127.0.0.1:1,127.0.0.1:2/postgres?target_session_attrs=read-write", timeout=100
        ).open()
    assert time.monotonic() - begun < 50


# ---------------------------------------------------------------------------------------------------------- maintenance


class TestMaintenance:
    def tool(self, server: Server, name: str, *arguments: Any) -> None:
        where = ("-h", "127.0.0.1", "-p", server.port, "-U", "postgres")
        server.run(name, *where, *arguments)

    @pytest.fixture
    def dump(self, postgres: Server, url: str, schema: str) -> Iterator[pathlib.Path]:
        with ContextStore(url) as store, tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o777)
            store.put_many("run", {"a": 1, "b": b"bytes"})
            store.put("deleted", "a", 1)
            store.delete_run("deleted")
            store.upsert_global("key", 1)
            file = pathlib.Path(folder) / "dump"
            self.tool(postgres, "pg_dump", "-Fc", "-n", schema, "-f", file, "postgres")  # while it is in use
            store.put("run", "later", 1)
            yield file

    def digest(self, url: str, tmp_path: pathlib.Path) -> str:
        path = tmp_path / f"{time.monotonic_ns()}.db"
        with ContextStore(url) as source, ContextStore(path) as target:
            return copy(source, target).digest

    def test_a_dump_becomes_the_store_that_it_was(
        self, postgres: Server, url: str, schema: str, dump: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        execute(postgres, f"CREATE DATABASE {schema}")
        self.tool(postgres, "pg_restore", "-d", schema, dump)
        elsewhere = url.replace("/postgres?", f"/{schema}?")
        with ContextStore(elsewhere) as store:
            assert store.get_run("run") == {"a": 1, "b": b"bytes"}
            assert store.check().ok
        self.tool(postgres, "pg_restore", "--clean", "--if-exists", "-d", "postgres", dump)
        assert self.digest(url, tmp_path) == self.digest(elsewhere, tmp_path)
        with ContextStore(url) as store:
            store.put("run", "later", 2)

    def test_what_was_pruned_is_given_back_to_the_disk_by_a_full_vacuum_alone(
        self, postgres: Server, url: str, schema: str
    ) -> None:
        with ContextStore(url) as store:
            full = 0
            for turn in range(2):
                before = full
                store.put_many(f"run-{turn}", {f"{number}": "x" * 1000 for number in range(3000)})
                full = store.stats().file_bytes
                assert turn == 0 or full < 1.5 * before  # what was deleted is used again
                store.prune(older_than=datetime.timedelta())
                execute(postgres, f"VACUUM (TRUNCATE off) {schema}.node_outputs")
                assert store.stats().file_bytes >= full
            execute(postgres, f"VACUUM FULL {schema}.node_outputs")
            assert store.stats().file_bytes < full / 5

    def test_backup_is_refused_with_the_way_out(self, url: str, tmp_path: pathlib.Path) -> None:
        with ContextStore(url) as store, pytest.raises(StorageError, match=r"copy\(.*pg_dump"):
            store.backup(tmp_path / "copy.db")


def test_the_statements_are_of_the_kinds_that_the_page_names() -> None:
    statements = dataclasses.asdict(statements_for("flows"))
    text = " ".join(map(str, statements.values())).upper()
    for word in ("TRIGGER", "LISTEN", "NOTIFY"):
        assert word not in text
    # Those of transactions alone: one of a session would stay with a pooler's connection.
    assert set(re.findall(r"\w*ADVISORY\w*", text)) == {"PG_ADVISORY_XACT_LOCK", "PG_TRY_ADVISORY_XACT_LOCK"}
