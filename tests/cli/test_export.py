"""``contextstore export``: a whole file or none, and a stream that says where it ends."""

from __future__ import annotations

import gzip
import os
import pathlib
import sqlite3
import subprocess
from typing import Any

import pytest

from contextstore import ContextStore, export_records

from ..support.forked import Child
from .exports import filled_store, lines_of, read_all
from .lines import command, environment, ran, run, run_process


def test_what_it_writes_is_all_that_is_in_the_store(filled: str) -> None:
    done = ran("export", filled)
    with ContextStore(filled, read_only=True) as store:
        assert read_all(done.stdout) == list(export_records(store))
    assert done.err == ""


def test_a_file_has_the_same_records_and_its_report_the_digest(filled: str, tmp_path: pathlib.Path) -> None:
    report = ran("export", filled, "-o", tmp_path / "all.ndjson", "--json").json
    data = (tmp_path / "all.ndjson").read_bytes()
    assert read_all(data) == read_all(ran("export", filled).stdout)
    assert (report["runs"], report["outputs"], report["globals"]) == (2, 3, 1)
    assert report["sha256"].encode() in lines_of(data)[-1]
    assert (tmp_path / "all.ndjson").stat().st_mode & 0o777 == 0o600


def test_a_file_that_ends_in_gz_is_compressed_and_the_same_each_time_but_for_its_manifest(
    filled_file: str, tmp_path: pathlib.Path
) -> None:
    ran("export", filled_file, "-o", tmp_path / "all.ndjson.gz")
    data = gzip.decompress((tmp_path / "all.ndjson.gz").read_bytes())
    assert lines_of(data)[1:-1][0][:60] == lines_of(ran("export", filled_file).stdout)[1:-1][0][:60]
    assert read_all(data)


def test_runs_are_selected_by_id_and_by_prefix(filled_file: str) -> None:
    def found(*options: str) -> list[str]:
        return [getattr(one, "flow_run_id", "global") for one in read_all(ran("export", filled_file, *options).stdout)]

    assert set(found("--run", "run-2")) == {"run-2"}
    assert set(found("--run", "run-2", "--run", "run-1", "--globals")) == {"run-1", "run-2", "global"}
    assert set(found("--prefix", "run-1")) == {"run-1"}
    assert set(found("--no-globals")) == {"run-1", "run-2"}


class TestNothingByHalves:
    def files_in(self, folder: pathlib.Path) -> set[str]:
        return {path.name for path in folder.iterdir()}

    def test_a_file_that_is_there_is_left_alone_unless_it_is_to_be_overwritten(
        self, filled_file: str, tmp_path: pathlib.Path
    ) -> None:
        path = tmp_path / "there.ndjson"
        path.write_text("mine")
        path.chmod(0o640)
        done = run("export", filled_file, "-o", path)
        assert (done.code, path.read_text()) == (3, "mine")
        assert "--overwrite" in done.err
        ran("export", filled_file, "-o", path, "--overwrite")
        assert read_all(path.read_bytes())
        assert path.stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
    def test_what_is_no_regular_file_is_never_replaced(
        self, filled_file: str, tmp_path: pathlib.Path, overwrite: list[str]
    ) -> None:
        (tmp_path / "link").symlink_to("elsewhere")
        (tmp_path / "folder").mkdir()
        before = self.files_in(tmp_path)
        for name in ("link", "folder"):
            assert run("export", filled_file, "-o", tmp_path / name, *overwrite).code == 3
        assert self.files_in(tmp_path) == before

    def test_a_run_that_is_not_there_ends_it_and_leaves_no_file(self, filled_file: str, tmp_path: pathlib.Path) -> None:
        before = self.files_in(tmp_path)
        done = run("export", filled_file, "--run", "run-1", "--run", "nope", "-o", tmp_path / "out.ndjson")
        assert (done.code, done.out) == (1, "")
        assert done.err == "contextstore: there is no run nope; the export was given up\n"
        assert self.files_in(tmp_path) == before

    def test_on_a_pipe_it_then_has_no_closing_line(self, filled_file: str) -> None:
        done = run("export", filled_file, "--run", "nope")
        assert done.code == 1
        assert b'"type":"end"' not in done.stdout

    def test_without_a_folder_there_is_one_sentence(self, filled_file: str, tmp_path: pathlib.Path) -> None:
        done = run("export", filled_file, "-o", tmp_path / "no" / "out.ndjson")
        assert done.code == 4
        assert len(done.err.splitlines()) == 1
        assert ".part" not in done.err

    def test_without_a_store_nothing_is_written(self, tmp_path: pathlib.Path) -> None:
        done = run("export", tmp_path / "no.db")
        assert (done.code, done.stdout) == (4, b"")
        assert run("export", tmp_path / "no.db", "-o", tmp_path / "out").code == 4
        assert self.files_in(tmp_path) == set()


class TestDamage:
    @pytest.fixture
    def damaged(self, filled_file: str) -> str:
        connection = sqlite3.connect(filled_file)
        with connection:
            connection.execute("UPDATE node_outputs SET value = '7' WHERE node_id = 'report'")
        connection.close()
        return filled_file

    def test_it_ends_the_export_which_leaves_no_file(self, damaged: str, tmp_path: pathlib.Path) -> None:
        done = run("export", damaged, "-o", tmp_path / "out.ndjson")
        assert done.code == 4
        assert "'report'" in done.err
        assert not (tmp_path / "out.ndjson").exists()

    def test_or_is_left_out_and_told(self, damaged: str, tmp_path: pathlib.Path) -> None:
        done = ran("export", damaged, "--damaged", "skip", "-o", tmp_path / "out.ndjson", "--json")
        assert "left out: " in done.err
        assert "'report'" in done.err
        assert (done.json["outputs"], done.json["skipped"]) == (2, 1)


def test_a_reader_that_goes_away_ends_it_without_a_word(tmp_path: pathlib.Path) -> None:
    """``contextstore export … | head -1``, with more to come than a pipe holds."""
    path = tmp_path / "large.db"
    with ContextStore(path) as store:
        store.put_many("run", {f"{i:04}": "x" * 1000 for i in range(3000)})
    exporting = subprocess.Popen(
        command("export", path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment({})
    )
    assert exporting.stdout is not None
    assert exporting.stdout.readline().startswith(b'{"type":"manifest"')
    exporting.stdout.close()
    assert exporting.stderr is not None
    assert exporting.stderr.read() == b""
    exporting.stderr.close()
    assert exporting.wait() == 0


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_one_that_is_made_while_others_write_is_whole_and_true(engine: str, request: Any, file_path: Any) -> None:
    place = str(file_path) if engine == "file" else request.getfixturevalue("url")
    program = """
        with ContextStore(sys.argv[1]) as store:
            store.put("run-0", "node", "first")
            say("ready")
            for number in range(1, 3000):
                store.put(f"run-{number}", "node", {"number": number, "text": "x" * (number % 300)})
                store.upsert_global("latest", number)
    """
    with Child(program, place) as writer:
        assert writer.hear() == "ready"
        exports = [run_process("export", place) for _ in range(2)]
        writer.kill()
    with ContextStore(place, read_only=True) as store:
        for done in exports:
            assert done.code == 0, done
            for record in read_all(done.stdout):
                if hasattr(record, "node_id"):
                    assert store.get_entry(record.flow_run_id, record.node_id).written_at == record.written_at


def test_the_password_of_a_server_is_not_in_the_manifest(url: str) -> None:
    with ContextStore(url) as store:
        store.put("run", "node", 1)
    with_password = url.replace("://postgres@", "://postgres:hunter2@")
    assert with_password != url
    assert b"hunter2" not in ran("export", with_password).stdout


def test_a_store_with_everything_is_exported_by_a_process_as_by_the_call(tmp_path: pathlib.Path) -> None:
    path = filled_store(tmp_path / "all.db")
    done = run_process("export", "-o", "-", "--store", path, PYTHONUTF8="0", LC_ALL="C")
    with ContextStore(path, read_only=True) as store:
        assert read_all(done.stdout) == list(export_records(store))
    assert os.listdir(tmp_path)
