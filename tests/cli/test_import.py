"""``contextstore import``: the same store again, as often as one likes, and nothing that is broken or in the way."""

from __future__ import annotations

import gzip
import pathlib
import random
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore
from contextstore.cli.exchange import whole_file

from ..support.portions import some
from .exports import TIME, filled_store, lines_of, records_of, whole
from .lines import command, environment, ran, run, run_process
from .test_ndjson import GLOBAL, HOSTILE, OUTPUT, RUN


@pytest.fixture
def source(tmp_path: pathlib.Path) -> str:
    return filled_store(tmp_path / "source.db")


@pytest.fixture
def export(source: str, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "all.ndjson"
    ran("export", source, "-o", path)
    return path


class TestTheSameStore:
    def test_of_a_file(self, source: str, export: pathlib.Path, place: str) -> None:
        report = ran("import", place, export, "--json").json
        assert records_of(place) == records_of(source)
        assert report["conflicts"] == 0
        assert report["runs"] == 14

    def test_again_changes_nothing(self, source: str, export: pathlib.Path, place: str) -> None:
        first = ran("import", place, export, "--json").json
        assert ran("import", place, export, "--json").json == first
        assert records_of(place) == records_of(source)

    def test_of_a_compressed_one_whatever_its_name(self, source: str, tmp_path: pathlib.Path) -> None:
        ran("export", source, "-o", tmp_path / "all.ndjson.gz")
        (tmp_path / "all.ndjson.gz").rename(tmp_path / "all")
        ran("import", tmp_path / "copy.db", tmp_path / "all")
        assert records_of(tmp_path / "copy.db") == records_of(source)

    @pytest.mark.parametrize("way", [("file", "postgres"), ("postgres", "file"), ("file", "file")], ids="-to-".join)
    def test_through_a_pipe_from_engine_to_engine(self, way: tuple[str, str], url: str, tmp_path: pathlib.Path) -> None:
        one = filled_store(url if way[0] == "postgres" else tmp_path / "one.db")
        other = url if way[1] == "postgres" else str(tmp_path / "other.db")
        exporting = subprocess.Popen(command("export", one), stdout=subprocess.PIPE, env=environment({}))
        importing = subprocess.run(
            command("import", other, "-"), stdin=exporting.stdout, capture_output=True, env=environment({}), check=False
        )
        assert exporting.stdout is not None
        exporting.stdout.close()
        assert (exporting.wait(), importing.returncode) == (0, 0), importing.stderr
        assert records_of(other) == records_of(one)

    def test_of_a_compressed_pipe(self, export: pathlib.Path, source: str, tmp_path: pathlib.Path) -> None:
        done = run_process("import", tmp_path / "copy.db", "-", stdin=gzip.compress(export.read_bytes()))
        assert done.code == 0, done
        assert records_of(tmp_path / "copy.db") == records_of(source)

    def test_with_names_that_look_like_code(self, tmp_path: pathlib.Path) -> None:
        with ContextStore(tmp_path / "one.db") as store:
            for name in HOSTILE:
                store.put(name, name, name.encode())
        ran("export", tmp_path / "one.db", "-o", tmp_path / "all.ndjson")
        ran("import", tmp_path / "other.db", tmp_path / "all.ndjson")
        assert records_of(tmp_path / "other.db") == records_of(tmp_path / "one.db")

    def test_of_an_empty_one(self, tmp_path: pathlib.Path) -> None:
        with ContextStore(tmp_path / "one.db"):
            pass
        ran("export", tmp_path / "one.db", "-o", tmp_path / "all.ndjson")
        assert ran("import", tmp_path / "other.db", tmp_path / "all.ndjson").lines == [
            "0 runs, 0 outputs, 0 globals, 0 bytes"
        ]
        assert records_of(tmp_path / "other.db") == []

    def test_by_the_variable_even_if_the_file_looks_like_a_store(self, export: pathlib.Path, source: str) -> None:
        target = f"{export.parent}/copy.db"
        ran("import", export, CONTEXTSTORE_URL=target)
        ran("import", "--store", target, export)
        assert records_of(target) == records_of(source)

    def test_a_value_that_is_larger_than_this_store_takes_comes_along(self, url: str, tmp_path: pathlib.Path) -> None:
        """As with ``copy``: 16 MiB is what a put to a server is limited to, unless it is told otherwise."""
        with ContextStore(tmp_path / "one.db") as store:
            store.put("run", "large", b"x" * (16 * 2**20 + 1))
        ran("export", tmp_path / "one.db", "-o", tmp_path / "all.ndjson")
        ran("import", url, tmp_path / "all.ndjson")
        assert records_of(url) == records_of(tmp_path / "one.db")


class TestBrokenFiles:
    """Nothing of them is imported: not even a store is made."""

    BREAK: dict[str, Callable[[list[bytes]], list[bytes]]] = {  # noqa: RUF012 - it is a table
        "cut off between two lines": lambda lines: lines[:50],
        "cut off in a line": lambda lines: [*lines[:50], lines[50][:20]],
        "changed": lambda lines: [*lines[:49], lines[49].replace(b"n", b"m", 1), *lines[50:]],
        "without a line": lambda lines: [*lines[:49], *lines[50:]],
        "with a line twice": lambda lines: [*lines[:49], *lines[48:]],
        "in another order": lambda lines: [*lines[:49], lines[50], lines[49], *lines[51:]],
        "with another behind it": lambda lines: [*lines, *lines],
    }

    @pytest.mark.parametrize("what", BREAK)
    def test_one_is_refused_whole_with_its_line(self, export: pathlib.Path, what: str, tmp_path: pathlib.Path) -> None:
        lines = lines_of(export.read_bytes())
        export.write_bytes(b"".join(self.BREAK[what](lines)))
        done = run("import", tmp_path / "copy.db", export)
        line = len(lines) + 1 if what.startswith("with another") else 51 if what.startswith("cut") else 50
        assert done.code == 1
        assert done.err.startswith(f"contextstore: {export}, line {line:,}: "), done.err
        assert done.err.endswith("(nothing was imported)\n")
        assert not (tmp_path / "copy.db").exists()

    @pytest.mark.parametrize("change", ["cut", "flipped"])
    def test_a_compressed_one_too(self, export: pathlib.Path, tmp_path: pathlib.Path, change: str) -> None:
        data = bytearray(gzip.compress(export.read_bytes()))
        if change == "cut":
            del data[-500:]
        else:
            data[len(data) // 2] ^= 4
        (tmp_path / "all.gz").write_bytes(data)
        done = run("import", tmp_path / "copy.db", tmp_path / "all.gz")
        assert (done.code, len(done.err.splitlines())) == (1, 1)
        assert "nothing was imported" in done.err

    @pytest.mark.parametrize("content", [b"", b"hello\n", b"\0" * 5000], ids=["empty", "text", "zeros"])
    def test_what_is_no_export_is_said_to_be_none(self, tmp_path: pathlib.Path, content: bytes) -> None:
        (tmp_path / "file").write_bytes(content)
        done = run("import", tmp_path / "copy.db", tmp_path / "file")
        assert done.code == 1
        assert "no export" in done.err

    def test_a_file_that_is_not_there_is_not_found(self, tmp_path: pathlib.Path) -> None:
        for path in (tmp_path / "none", tmp_path):
            assert run("import", tmp_path / "copy.db", path).code == 1

    def test_what_no_store_could_hold_is_named_by_its_line(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "file"
        number = "18446744073709551616"
        text = f'{{"type":"output","flow_run_id":"r","node_id":"n","written_at":"{TIME}","value":{number}}}'
        path.write_bytes(whole(RUN, text, runs=1, outputs=1, bytes=len(number)))
        done = run("import", tmp_path / "copy.db", path)
        assert done.code == 1
        assert f"{path}, line 3: $: " in done.err


class TestBrokenPipes:
    def test_what_came_before_the_cut_is_imported_and_said_to_be_and_the_whole_completes_it(
        self, export: pathlib.Path, source: str, tmp_path: pathlib.Path
    ) -> None:
        lines = lines_of(export.read_bytes())
        target = tmp_path / "copy.db"
        with ContextStore(tmp_path / "copy.db"):
            pass
        done = run_process("import", target, "-", stdin=b"".join(lines[:-1]))
        assert done.code == 1
        assert f"line {len(lines):,}: the export is cut off" in done.err
        assert "do it again with the whole export" in done.err
        ran("import", target, export)
        assert records_of(target) == records_of(source)

    def test_no_line_that_is_changed_gets_in(self, export: pathlib.Path, tmp_path: pathlib.Path) -> None:
        lines = lines_of(export.read_bytes())
        outputs = [number for number, line in enumerate(lines) if b'"type":"output"' in line]
        lines[outputs[-1]] = lines[outputs[-1]].replace(b'"node_id":"', b'"node_id":"forged ')
        done = run_process("import", tmp_path / "copy.db", "-", stdin=b"".join(lines))
        assert done.code == 1
        assert f"line {outputs[-1] + 1:,}: " in done.err
        if (tmp_path / "copy.db").exists():
            assert not any("forged" in repr(record) for record in records_of(tmp_path / "copy.db"))


class TestConflicts:
    @pytest.fixture
    def target(self, place: str) -> str:
        with ContextStore(place) as store:
            store.put("run", "node", "mine")
            store.upsert_global("key", "mine")
            store.delete_run("deleted")
        return place

    @pytest.fixture
    def export(self, tmp_path: pathlib.Path) -> pathlib.Path:
        path = tmp_path / "theirs.ndjson"
        records = [
            *(RUN, {**OUTPUT, "value": 1}, {**OUTPUT, "node_id": "other", "value": 1}),
            *({**RUN, "flow_run_id": "deleted"}, {**OUTPUT, "flow_run_id": "deleted", "value": 1}),
            *({**RUN, "flow_run_id": "new"}, {**OUTPUT, "flow_run_id": "new", "value": 1}, {**GLOBAL, "value": 1}),
        ]
        path.write_bytes(whole(*records, runs=3, outputs=4, globals=1, bytes=5))
        return path

    def test_the_first_is_named_and_ends_it(self, target: str, export: pathlib.Path) -> None:
        before = records_of(target)
        done = run("import", target, export)
        assert (done.code, done.out) == (3, "")
        assert "node 'node' of flow run 'run' already has a different value" in done.err
        assert "--keep" in done.err
        assert records_of(target)[: len(before)] == before

    def test_of_a_global_both_versions_are_told_and_nothing_that_an_import_cannot_do(
        self, target: str, tmp_path: pathlib.Path
    ) -> None:
        path = tmp_path / "theirs.ndjson"
        path.write_bytes(whole({**GLOBAL, "version": 4, "value": 1}, globals=1, bytes=1))
        done = run("import", target, path)
        assert done.code == 3
        assert "global 'key' of version 4: another one is here at version 1 (" in done.err
        assert "read it again" not in done.err

    def test_or_each_is_named_and_all_else_comes_in(self, target: str, export: pathlib.Path) -> None:
        done = run("import", target, export, "--keep", "--json")
        assert done.code == 3
        assert done.json["conflicts"] == 3
        named = [line for line in done.err.splitlines() if "not imported: " in line]
        assert ["'node'" in named[0], "'deleted'" in named[1], "'key'" in named[2]] == [True] * 3
        with ContextStore(target, read_only=True) as store:
            assert store.get_run("run") == {"node": "mine", "other": 1}
            assert store.get_run("new") == {"node": 1}
            assert store.get_global("key") == "mine"
            assert store.stats().tombstones == 1


def test_what_ctrl_c_leaves_is_sound_and_completed_by_the_same_command(place: str, tmp_path: pathlib.Path) -> None:
    """It comes when a part is committed, and the import waits for more of the export."""
    one, export = tmp_path / "one.db", tmp_path / "all.ndjson"
    with ContextStore(one) as store:
        store.put_many("run", {f"{i:04}": i for i in range(1000)})
    ran("export", one, "-o", export)
    with ContextStore(place) as target:
        importing = subprocess.Popen(
            command("import", place, "-"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment({})
        )
        assert importing.stdin is not None
        importing.stdin.write(b"".join(lines_of(export.read_bytes())[:800]))
        importing.stdin.flush()
        target.wait_for("run", "0000", timeout=60)
        importing.send_signal(signal.SIGINT)
        _, err = importing.communicate(timeout=60)
        assert importing.returncode == 130
        assert err == b"contextstore: interrupted: what was imported stays; the same command goes on\n"
        assert 0 < len(target.list_keys("run")) < 1000
        ran("import", place, export)
        assert target.check().ok
    assert records_of(place) == records_of(one)


@pytest.mark.parametrize("engine", ["file", "postgres"])
def test_killed_wherever_it_is_it_is_completed_by_the_same_command(
    engine: str, request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    one, export = tmp_path / "one.db", tmp_path / "all.ndjson"
    with ContextStore(one) as store:
        for run_number in range(20):
            store.put_many(f"run-{run_number}", {f"{i:03}": "x" * chance.randrange(500) for i in range(100)})
        store.delete_run("run-7")
        for number in range(300):
            store.upsert_global(f"{number % 40}", number)
    ran("export", one, "-o", export)
    target = str(tmp_path / "copy.db") if engine == "file" else request.getfixturevalue("url")
    data = export.read_bytes()
    for _ in range(some(4, 2)):
        # From a pipe that stops at a random byte: it is killed there, with what came before in whatever state.
        importing = subprocess.Popen(command("import", target, "-"), stdin=subprocess.PIPE, env=environment({}))
        assert importing.stdin is not None
        importing.stdin.write(data[: chance.randrange(2**16, len(data))])
        importing.stdin.flush()
        importing.kill()
        importing.wait()
        importing.stdin.close()
    ran("import", target, export)
    assert records_of(target) == records_of(one)
    with ContextStore(target) as store:
        assert store.check().ok


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("words", [("export", "-o"), ("import", "")], ids=["export", "import"])
def test_memory_is_bounded_whatever_the_size(tmp_path: pathlib.Path, words: tuple[str, str]) -> None:
    """A hundred times as much takes less than three times as much memory, generously."""
    peaks = []
    for count in (1_000, 100_000):
        path = tmp_path / f"{count}.db"
        with ContextStore(path, durability="normal") as store:
            for start in range(0, count, 1000):
                store.put_many("run", {f"{i:06}": {"text": "x" * 1000} for i in range(start, start + 1000)})
        export = tmp_path / f"{count}.ndjson"
        line = command("export", path, "-o", export)
        if words[0] == "import":
            ran("export", path, "-o", export)
            line = command("import", tmp_path / f"copy-{count}.db", export)
        peaks.append(peak_of(line))
    print(peaks)
    assert peaks[1] < 3 * peaks[0]


def peak_of(line: list[str]) -> int:
    """KiB of memory that a process takes up at most."""
    program = (
        "import resource, subprocess, sys; assert subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL) == 0; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    return int(subprocess.check_output([line[0], "-c", program, *line], env=environment({})))


def test_a_file_gets_its_name_in_the_end_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    with whole_file(str(path), overwrite=False) as write:
        write(b"x")
        assert not path.exists()
        path.write_bytes(b"of another process")
        with pytest.raises(FileExistsError):
            path.touch(exist_ok=False)
        path.unlink()
    assert path.read_bytes() == b"x"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_what_comes_in_the_way_meanwhile_is_not_replaced(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"

    def write_it() -> Any:
        with whole_file(str(path), overwrite=False) as write:
            write(b"x")
            path.write_bytes(b"of another process")

    with pytest.raises(FileExistsError):
        write_it()
    assert path.read_bytes() == b"of another process"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
