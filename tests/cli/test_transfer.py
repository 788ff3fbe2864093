"""``contextstore backup``, ``restore`` and ``copy``."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import ContextStore
from contextstore.cli import progress, transfer

from ..support.portions import first_of
from .exports import filled_store, records_of
from .lines import ran, run, run_process
from .terminals import typed


@pytest.fixture
def source(tmp_path: pathlib.Path) -> str:
    return filled_store(tmp_path / "source.db")


@pytest.fixture
def damaged(source: str) -> str:
    connection = sqlite3.connect(source)
    with connection:
        connection.execute("UPDATE node_outputs SET value = '7' WHERE node_id = 'b'")
    connection.close()
    return source


def interrupts_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes when the bar is moved for the so-manieth time."""

    @contextlib.contextmanager
    def bar(title: str, unit: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
        steps = 0

        def report(done: int, total: int) -> None:
            nonlocal steps
            steps += 1
            if steps == count:
                raise KeyboardInterrupt

        yield report

    monkeypatch.setattr(transfer, "bar", bar)


class TestBackup:
    def test_the_copy_is_a_store_with_everything(self, source: str, tmp_path: pathlib.Path) -> None:
        done = ran("backup", source, tmp_path / "backup.db")
        size = (tmp_path / "backup.db").stat().st_size
        assert done.lines == [f"{tmp_path}/backup.db: {size:,} bytes, verified"]
        assert records_of(tmp_path / "backup.db") == records_of(source)

    def test_it_is_made_while_the_store_is_in_use(self, source: str, tmp_path: pathlib.Path) -> None:
        with ContextStore(source) as store:
            store.put("run", "late", 1)
            ran("backup", source, tmp_path / "backup.db")
            store.put("run", "later", 1)
        with ContextStore(tmp_path / "backup.db", read_only=True) as copy:
            assert copy.list_keys("run") == ["late"]

    def test_what_is_there_is_left_alone_unless_it_is_to_be_overwritten(
        self, source: str, tmp_path: pathlib.Path
    ) -> None:
        (tmp_path / "there").write_text("mine")
        done = run("backup", source, tmp_path / "there")
        assert (done.code, (tmp_path / "there").read_text()) == (3, "mine")
        assert done.err == f"contextstore: {tmp_path}/there is there already; --overwrite replaces a file\n"
        ran("backup", source, tmp_path / "there", "--overwrite")
        assert records_of(tmp_path / "there") == records_of(source)

    def test_damage_leaves_no_copy_unless_it_is_not_looked_for(self, damaged: str, tmp_path: pathlib.Path) -> None:
        done = run("backup", damaged, tmp_path / "backup.db")
        assert done.code == 4
        assert "damaged" in done.err
        assert not (tmp_path / "backup.db").exists()
        assert ran("backup", damaged, tmp_path / "backup.db", "--no-check", "--json").json["verified"] is False

    def test_ctrl_c_leaves_nothing_by_halves(
        self, source: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is told of the progress by another thread, which may just have come to the end."""
        with ContextStore(source) as store:
            store.put_many("large", {str(number): b"x" * 2**20 for number in range(20)})
        before = {path.name for path in tmp_path.iterdir()}
        interrupts_after(1, monkeypatch)
        assert run("backup", source, tmp_path / "backup.db").code == 130
        left = {path.name for path in tmp_path.iterdir()} - before
        assert not left or records_of(tmp_path / "backup.db") == records_of(source)
        assert left <= {"backup.db"}

    def test_with_the_variable_a_lone_word_is_the_file(self, source: str, tmp_path: pathlib.Path) -> None:
        ran("backup", tmp_path / "backup.db", CONTEXTSTORE_URL=source)
        assert records_of(tmp_path / "backup.db") == records_of(source)

    def test_of_a_server_it_says_what_to_do_instead(self, url: str, tmp_path: pathlib.Path) -> None:
        done = run("backup", url, tmp_path / "backup.db")
        assert done.code == 2
        assert "contextstore copy" in done.err


class TestRestore:
    def test_the_store_is_as_it_was(self, source: str, tmp_path: pathlib.Path) -> None:
        ran("backup", source, tmp_path / "backup.db")
        before = records_of(source)
        ran("delete", source, "text", "--yes")
        assert run("restore", tmp_path / "backup.db", source).code == 3
        ran("restore", tmp_path / "backup.db", source, "--overwrite")
        assert records_of(source) == before

    def test_it_refuses_one_that_is_in_use(self, source: str, tmp_path: pathlib.Path) -> None:
        ran("backup", source, tmp_path / "backup.db")
        with ContextStore(source):
            done = run_process("restore", tmp_path / "backup.db", source, "--overwrite")
        assert done.code == 4
        assert len(done.err.splitlines()) == 1

    def test_a_damaged_backup_leaves_the_store(self, damaged: str, tmp_path: pathlib.Path) -> None:
        target = filled_store(tmp_path / "target.db")
        before = records_of(target)
        assert run("restore", damaged, target, "--overwrite").code == 4
        assert records_of(target) == before

    def test_ctrl_c_leaves_the_store(
        self, source: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran("backup", source, tmp_path / "backup.db")
        with ContextStore(source) as store:
            store.put("later", "node", 1)
        before, files = records_of(source), {path.name for path in tmp_path.iterdir()}
        interrupts_after(2, monkeypatch)
        assert run("restore", tmp_path / "backup.db", source, "--overwrite").code == 130
        assert records_of(source) == before
        assert {path.name for path in tmp_path.iterdir()} == files


class TestCopy:
    def test_the_two_are_equal(self, source: str, place: str) -> None:
        report = ran("copy", source, place, "--json").json
        assert records_of(place) == records_of(source)
        assert report["runs"] == 14
        assert len(report["digest"]) == 64

    def test_from_a_server_too(self, url: str, tmp_path: pathlib.Path) -> None:
        filled_store(url)
        ran("copy", url, tmp_path / "copy.db")
        assert records_of(tmp_path / "copy.db") == records_of(url)

    def test_what_is_damaged_ends_it_or_is_left_out(self, damaged: str, tmp_path: pathlib.Path) -> None:
        assert run("copy", damaged, tmp_path / "copy.db").code == 4
        done = ran("copy", damaged, tmp_path / "copy.db", "--damaged", "skip")
        assert "left out: " in done.err
        assert "left out, since damaged" in done.out

    def test_of_some_runs_it_makes_no_more_and_other_things_stay(self, source: str, tmp_path: pathlib.Path) -> None:
        with ContextStore(tmp_path / "other.db") as store:
            store.put("own", "node", 1)
        report = ran("copy", source, tmp_path / "other.db", "--run", "text", "--run", "bytes", "--json").json
        assert (report["runs"], report["globals"]) == (2, 0)
        with ContextStore(tmp_path / "other.db") as store:
            assert sorted(run.flow_run_id for run in store.list_runs()) == ["bytes", "own", "text"]
            assert store.list_globals() == []

    def test_a_run_that_is_not_there_is_told_once_the_others_are_copied(
        self, source: str, tmp_path: pathlib.Path
    ) -> None:
        line = ("--run", "text", "--run", "absent", "--run", "deleted")
        done = run("copy", source, tmp_path / "other.db", *line)
        assert done.code == run("export", source, "--run", "absent").code
        assert "there is no run absent" in done.err
        with ContextStore(tmp_path / "other.db") as store:
            assert [one.flow_run_id for one in store.list_runs()] == ["text"]

    def test_another_store_is_a_conflict(self, source: str, tmp_path: pathlib.Path) -> None:
        with ContextStore(tmp_path / "other.db") as store:
            store.put("text", "null", "mine")
        done = run("copy", source, tmp_path / "other.db")
        assert done.code == 3
        assert "'text'" in done.err

    def test_onto_itself_is_refused(self, source: str) -> None:
        assert run("copy", source, source).code == 2

    def test_a_store_that_is_not_there_makes_none(self, tmp_path: pathlib.Path) -> None:
        assert run("copy", tmp_path / "no.db", tmp_path / "copy.db").code == 4
        assert list(tmp_path.iterdir()) == []

    def test_which_of_the_two_cannot_be_meant_is_said(self, source: str) -> None:
        done = run("copy", source, "mysql://host/d")
        assert done.code == 2
        assert done.err.startswith("contextstore: DST cannot be meant: ")

    def test_a_password_is_on_no_screen(self, source: str) -> None:
        done = run("copy", source, "postgresql://runner:hunter2@127.0.0.1:1/flows", "--timeout", "0.1")
        assert done.code == 4
        assert "hunter2" not in done.err + done.out

    def test_ctrl_c_says_what_is_there_and_the_same_command_goes_on(
        self, source: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            interrupts_after(9, patched)
            done = run("copy", source, tmp_path / "copy.db")
        assert done.code == 130
        assert done.err == ("contextstore: interrupted: 9 runs and globals are copied; the same command goes on\n")
        with ContextStore(tmp_path / "copy.db") as store:
            assert store.check().ok
        ran("copy", source, tmp_path / "copy.db")
        assert records_of(tmp_path / "copy.db") == records_of(source)


URL = "postgresql://runner:hunter2@127.0.0.1:1/flows"


@pytest.mark.parametrize(
    "words", [("backup", "{}", URL), ("restore", URL, "new.db"), ("restore", "{}", URL), ("export", "{}", "-o", URL)]
)
def test_a_url_where_a_file_is_made_or_read_is_wrong_use_and_no_file_of_that_name(
    source: str, words: tuple[str, ...], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = run(*[word.format(source) for word in words])
    assert done.code == 2
    assert "must be a file" in done.err
    assert "contextstore copy" in done.err
    assert sorted(tmp_path.iterdir()) == before


class TestBars:
    LINES: Any = (
        ("copy", "source.db", "copy.db", "runs and globals/s"),
        ("check", "source.db", "outputs and globals/s"),
        ("backup", "source.db", "copy.db", "pages/s"),
        ("restore", "backup.db", "copy.db", "pages/s"),
        ("export", "source.db", "-o", "all.ndjson", "records/s"),
        ("import", "copy.db", "there.ndjson", "/s"),
        ("prune", "source.db", "--older-than", "1d", "--dry-run", "runs/s"),
    )

    @pytest.fixture
    def folder(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
        source = filled_store(tmp_path / "source.db")
        ran("backup", source, tmp_path / "backup.db")
        ran("export", source, "-o", tmp_path / "there.ndjson")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize("line", first_of([(line,) for line in LINES], 3), ids=lambda line: line[0])
    def test_on_a_terminal_there_is_one_with_its_rate_and_what_is_left(self, line: tuple[str, ...]) -> None:
        *words, rate = line
        with typed(*words) as terminal:
            assert terminal.end() == 0, terminal.shown
        assert "left" in terminal.shown
        assert rate in terminal.shown or "?" in terminal.shown

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize("line", first_of([(line,) for line in LINES], 3), ids=lambda line: line[0])
    def test_with_quiet_there_is_none(self, line: tuple[str, ...]) -> None:
        with typed(*line[:-1], "--quiet") as terminal:
            assert terminal.end() == 0
        assert "\x1b" not in terminal.shown.replace("\x1b[?", "")
        assert "left" not in terminal.shown

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
    def test_without_a_terminal_there_is_none_and_nothing_of_rich_is_imported(
        self, line: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(unit: str) -> Any:
            raise AssertionError(unit)

        monkeypatch.setattr(progress, "_rich_bar", refuse)
        assert ran(*line[:-1]).err == ""

    @pytest.mark.usefixtures("folder")
    def test_an_export_to_the_terminal_shows_none_among_its_lines(self) -> None:
        with typed("export", "source.db") as terminal:
            assert terminal.end() == 0
        assert '"type":"end"' in terminal.shown
        assert "records/s" not in terminal.shown
