"""What docs/operating.md says is so: its scripts are run, its tables are held to what a store does."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import re
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from contextstore import ContextStore

from ..sqlite.files import run_in_child
from ..support.earlier import OF_SCHEMA, package_at
from ..support.mounts import run_with_mounts
from ..support.processes import ROOT, Child
from .pages import DOCS, fences, rows, section
from .test_readme import fences_of

PAGE = "operating.md"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two users")
SCRIPTS = {"Sharing with a group": 2, "Backups": 2}
"""How many fences of the kind ``sh`` are run here, by section."""


def test_each_script_of_the_page_is_run_here() -> None:
    assert len([fence for fence in fences_of(DOCS / PAGE) if fence.info == "sh"]) == sum(SCRIPTS.values())
    assert {title: len(fences(PAGE, title, "sh")) for title in SCRIPTS} == SCRIPTS


# ---------------------------------------------------------------------------------------------------------------- files

KILLED = """
    store = ContextStore(sys.argv[1])
    store.put("run", "killed", 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_kill(path: pathlib.Path) -> None:
    with Child(KILLED, path) as child:
        assert child.process.wait(60) == -signal.SIGKILL


def seen_beside(path: pathlib.Path) -> set[str]:
    return {name.removeprefix(path.name) for name in os.listdir(path.parent)}


@pytest.mark.disk
class TestFiles:
    def test_each_file_beside_a_store_is_in_the_table(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "flows.db"
        seen = set()
        with ContextStore(path) as store:
            store.put("run", "node", 1)
            seen |= seen_beside(path)
        assert seen_beside(path) == {"", "-lock"}
        assert (tmp_path / "flows.db-lock").stat().st_size == 384
        left_by_a_kill(path)
        seen |= seen_beside(path)
        seen |= {"-journal", ".part"}  # see below
        assert {name.strip("`").removeprefix("flows.db") for name, *_ in rows(PAGE, "Files")} == seen

    def test_a_kill_while_the_file_is_made_leaves_a_journal_which_the_next_opening_takes_away(
        self, tmp_path: pathlib.Path
    ) -> None:
        path = tmp_path / "flows.db"

        def make_killed() -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            ContextStore(path).open()

        assert run_in_child(make_killed) == -signal.SIGXFSZ
        assert "-journal" in seen_beside(path)
        with ContextStore(path) as store:
            store.put("run", "node", 1)
        assert seen_beside(path) == {"", "-lock"}

    def test_a_killed_backup_leaves_a_part(self, tmp_path: pathlib.Path) -> None:
        with ContextStore(tmp_path / "flows.db") as store:
            store.put_many("run", {f"{number}": "x" * 1000 for number in range(500)})
        program = """
            def killed(done, total):
                os.kill(os.getpid(), signal.SIGKILL)
            ContextStore(sys.argv[1]).backup(sys.argv[2], progress=killed)
        """
        with Child(program, tmp_path / "flows.db", tmp_path / "copy.db") as child:
            assert child.process.wait(60) == -signal.SIGKILL
        assert (tmp_path / "copy.db.part").exists()
        (tmp_path / "copy.db.part").unlink()

    def test_what_is_acknowledged_may_be_in_the_wal_alone(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "flows.db"
        ContextStore(path).close()
        with ContextStore(path) as store:
            store.put("run", "first", 1)
        left_by_a_kill(path)
        shutil.copy(path, tmp_path / "alone.db")
        with contextlib.closing(sqlite3.connect(tmp_path / "alone.db")) as alone:
            assert alone.execute("SELECT node_id FROM outputs").fetchall() == [("first",)]
        with ContextStore(path, read_only=True) as reader:
            assert reader.list_keys("run") == ["first", "killed"]
        assert seen_beside(path) >= {"-wal", "-shm"}  # one that only reads leaves them

    @pytest.mark.parametrize("suffix", ["-shm", "-lock"])
    def test_what_may_be_deleted_while_no_process_has_it_open_is_made_anew(
        self, tmp_path: pathlib.Path, suffix: str
    ) -> None:
        path = tmp_path / "flows.db"
        left_by_a_kill(path)
        (tmp_path / f"flows.db{suffix}").unlink()
        with ContextStore(path) as store:
            assert store.get("run", "killed") == 1
            assert (tmp_path / f"flows.db{suffix}").exists()


# -------------------------------------------------------------------------------------------------------------- sharing

GROUP = 3000
OWNER, MEMBER, STRANGER = (2001, [GROUP]), (2002, [GROUP]), (2003, [])
TRIED = """
    user, groups = eval(sys.argv[2])
    import aiosqlite, encodings.ascii, encodings.idna, random, hashlib, uuid, tempfile
    os.setgroups(groups)
    os.setgid(user)
    os.setuid(user)
    os.umask(0o077)
    try:
        with ContextStore(sys.argv[1], read_only=sys.argv[3] == "reading") as store:
            if sys.argv[3] == "writing":
                store.put("run", str(user), 1, exist_ok=True)
            say(store.list_keys("run"))
            sys.stdin.readline()
    except errors.StorageError as error:
        say(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def shared() -> Iterator[pathlib.Path]:
    """Where a folder is made that others may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name) / "flows"


def run_script(number: int, folder: pathlib.Path) -> None:
    script = fences(PAGE, "Sharing with a group", "sh")[number].text
    script = script.replace("/srv/flows", str(folder)).replace("-g flows", f"-g {GROUP}")
    script = script.replace("chgrp flows", f"chgrp {GROUP}")
    subprocess.run(["sh", "-e", "-c", script], check=True, timeout=60)


def tried(path: pathlib.Path, user: tuple[int, list[int]], how: str = "writing") -> str:
    with Child(TRIED, path, user, how) as child:
        said = child.hear()
        child.tell()
        child.end()
    return said


@AS_ROOT
class TestSharing:
    def test_a_folder_and_an_empty_file_made_so_are_shared_by_the_group(self, shared: pathlib.Path) -> None:
        run_script(0, shared)
        path = shared / "flows.db"
        with Child(TRIED, path, OWNER, "writing") as one, Child(TRIED, path, MEMBER, "writing") as other:
            one.hear()
            other.hear()
            assert {(stat.S_IMODE(file.stat().st_mode), file.stat().st_gid) for file in shared.iterdir()} == {
                (0o660, GROUP)
            }
            for child in (one, other):
                child.tell()
                assert child.end()[0] == 0
        assert tried(path, OWNER) == "['2001', '2002']"
        assert tried(path, STRANGER, "reading").startswith("ReadOnlyStoreError")

    def test_a_store_that_is_there_is_shared_by_the_other_script(self, shared: pathlib.Path) -> None:
        shared.mkdir()
        os.chown(shared, OWNER[0], OWNER[0])
        path = shared / "flows.db"
        assert tried(path, OWNER) == "['2001']"
        assert tried(path, MEMBER).startswith("ReadOnlyStoreError")
        run_script(1, shared)
        assert tried(path, MEMBER) == "['2001', '2002']"
        assert tried(path, OWNER) == "['2001', '2002']"

    def test_what_root_makes_beside_it_is_the_owners(self, shared: pathlib.Path) -> None:
        run_script(0, shared)
        path = shared / "flows.db"
        os.chown(path, OWNER[0], GROUP)
        with ContextStore(path) as store:
            store.put("run", "by root", 1)
            assert {file.stat().st_uid for file in shared.iterdir()} == {OWNER[0]}
        assert tried(path, OWNER) == "['2001', 'by root']"

    def test_a_group_that_may_only_read_reads(self, shared: pathlib.Path) -> None:
        shared.mkdir()
        os.chown(shared, OWNER[0], GROUP)
        path = shared / "flows.db"
        path.touch()
        os.chown(path, OWNER[0], GROUP)
        path.chmod(0o640)
        shared.chmod(0o2750)
        assert tried(path, OWNER) == "['2001']"
        assert tried(path, MEMBER, "reading") == "['2001']"
        assert tried(path, MEMBER).startswith("ReadOnlyStoreError")
        path.chmod(0o600)
        assert tried(path, MEMBER, "reading").startswith("StorageError")

    def test_without_the_setgid_bit_the_file_in_the_way_is_named(self, shared: pathlib.Path) -> None:
        run_script(0, shared)
        shared.chmod(0o770)
        path = shared / "flows.db"
        os.chown(path, OWNER[0], GROUP)
        assert tried(path, OWNER) == "['2001']"
        said = tried(path, MEMBER)
        assert said.startswith("ReadOnlyStoreError")
        assert (
            "flows.db-lock (mode 0660, uid 2001) cannot be read by uid 2002: give it the mode, owner and group" in said
        )

    def test_a_copy_is_its_makers_alone(self, shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
        run_script(0, shared)
        with ContextStore(shared / "flows.db") as store:
            store.backup(tmp_path / "copy.db")
        assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600


# -------------------------------------------------------------------------------------------------------------- backups


def test_the_backups_of_a_week_are_kept_and_the_newest_is_the_one_of_the_drill(tmp_path: pathlib.Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    today = datetime.date.today()
    for days in range(1, 12):
        (backups / f"{today - datetime.timedelta(days=days)}.db").touch()
    program = "\n".join(
        fence.text for kind in ("python", "python continued") for fence in fences(PAGE, "Backups", kind)
    )
    run_as_program(program, tmp_path)
    kept = sorted(path.name for path in backups.glob("*.db"))
    assert kept == sorted(f"{today - datetime.timedelta(days=days)}.db" for days in range(7))
    with ContextStore(tmp_path / "drill.db") as store:
        assert store.get("run-1", "extract") == {"rows": 3}


def test_the_drill_fails_on_a_backup_that_is_damaged(tmp_path: pathlib.Path) -> None:
    with ContextStore(tmp_path / "flows.db") as store:
        store.put("run-1", "extract", {"rows": 3})
    backup, drill = (fences(PAGE, "Backups", kind)[0].text for kind in ("python", "python continued"))
    damage = """
path = max(backups.glob("*.db"))
content = path.read_bytes()
assert content.count(b'{"rows":3}') == 1
path.write_bytes(content.replace(b'{"rows":3}', b'{"rows":4}'))
"""
    with pytest.raises(AssertionError, match=r"damaged|checksum"):
        run_as_program(backup + damage + drill, tmp_path)
    assert not (tmp_path / "drill.db").exists()


@pytest.fixture
def shell(tmp_path: pathlib.Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a script where there is a store, as somebody who has installed the package."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "contextstore").write_text(f'#!/bin/sh\nexec {sys.executable} -m contextstore "$@"\n')
    (bin_ / "contextstore").chmod(0o755)
    with ContextStore(tmp_path / "flows.db") as store:
        store.put("run-1", "extract", {"rows": 3})

    def run_script(script: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{bin_}:{os.environ['PATH']}"}
        command = ["sh", "-e", "-c", script]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run_script


class TestByCommands:
    def test_the_backup_and_the_drill(
        self, shell: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: pathlib.Path
    ) -> None:
        backup, drill = (fence.text for fence in fences(PAGE, "Backups", "sh"))
        (tmp_path / "backups").mkdir()
        for day in range(1, 12):
            (tmp_path / "backups" / f"2001-01-{day:02}.db").touch()
        for _ in range(2):  # once more on the same day
            done = shell(backup)
            assert done.returncode == 0, done.stderr
        kept = sorted(path.name for path in (tmp_path / "backups").iterdir())
        assert kept == [*(f"2001-01-{day:02}.db" for day in range(6, 12)), f"{datetime.date.today()}.db"]
        done = shell(drill)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, '{"rows": 3}'), done.stderr

    def test_the_drill_ends_at_a_backup_that_is_damaged(
        self, shell: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: pathlib.Path
    ) -> None:
        backup, drill = (fence.text for fence in fences(PAGE, "Backups", "sh"))
        assert shell(backup).returncode == 0
        (made,) = (tmp_path / "backups").iterdir()
        made.write_bytes(made.read_bytes().replace(b'{"rows":3}', b'{"rows":4}'))
        assert shell(drill).returncode == 1
        assert not (tmp_path / "drill.db").exists()

    def test_a_restore_beside_a_process_that_has_it_open_exits_with_4(
        self, shell: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: pathlib.Path
    ) -> None:
        assert "exit code 4" in section(PAGE, "Backups")
        assert shell("contextstore backup flows.db copy.db").returncode == 0
        with ContextStore(tmp_path / "flows.db") as store:
            store.open()
            assert shell("contextstore restore copy.db flows.db --overwrite").returncode == 4
        assert shell("contextstore restore copy.db flows.db --overwrite").returncode == 0


def run_as_program(program: str, folder: pathlib.Path, package: pathlib.Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------------------ disk full

FULL = """
    import datetime
    folder, size = sys.argv[1], int(sys.argv[2])
    mount("-t", "tmpfs", "-o", "size=100m", "none", folder)
    with open(f"{folder}/reserve", "wb") as reserve:
        reserve.write(bytes(16 * 2**20))
    store = ContextStore(f"{folder}/flows.db")
    number = 0
    try:
        while True:
            store.put_many(f"run-{number}", {f"{i}": "x" * size for i in range(max(1, 100_000 // size))})
            number += 1
    except StoreFullError as error:
        say(error.outcome_unknown, store.counters().errors)
    say(store.get("run-0", "0") == "x" * size)
    try:
        store.prune(older_than=datetime.timedelta())
    except StoreFullError:
        say("a full disk refuses a prune")
    os.unlink(f"{folder}/reserve")
    store.prune(older_than=datetime.timedelta())
    there = os.statvfs(folder)
    say(there.f_bavail > 0.8 * there.f_blocks)
    store.put("run", "after", 1)
    store.close()
    say(os.path.getsize(f"{folder}/flows.db") < 2**20, sorted(os.listdir(folder)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [200, 5_000, 300_000])
def test_a_full_disk_is_made_room_on_by_deleting_the_reserve_and_pruning(tmp_path: pathlib.Path, size: int) -> None:
    assert run_with_mounts(FULL, tmp_path, size) == [
        "False {'StoreFullError': 1}",
        "True",
        "a full disk refuses a prune",
        "True",
        "True ['flows.db', 'flows.db-lock']",
    ]


# ------------------------------------------------------------------------------------------------------------ upgrading


def test_the_number_that_the_page_shows_is_that_of_the_format(tmp_path: pathlib.Path) -> None:
    with ContextStore(tmp_path / "flows.db") as store:
        store.open()
    with contextlib.closing(sqlite3.connect(tmp_path / "flows.db")) as connection:
        ((number,),) = connection.execute("PRAGMA user_version").fetchall()
    assert f'"PRAGMA user_version"\n{number}\n' in section(PAGE, "Upgrading")


FILL = """
for number in range(3):
    store.put(f"run-{number}", "json", {"number": number})
    store.put(f"run-{number}", "bytes", b"\\x00\\xff")
store.upsert_global("watermark", "2025")
store.put("deleted", "node", 1)
store.delete_run("deleted")
"""
HAS_ALL = """
assert [run.flow_run_id for run in store.list_runs()] == ["run-2", "run-1", "run-0"]
assert all(store.get_run(f"run-{n}") == {"bytes": b"\\x00\\xff", "json": {"number": n}} for n in range(3))
assert store.get_global("watermark") == "2025"
"""
OPEN = "from contextstore import *\nstore = ContextStore({!r})\n"


class TestGoingBack:
    @pytest.fixture
    def earlier(self, tmp_path: pathlib.Path) -> pathlib.Path:
        return package_at(OF_SCHEMA[1], tmp_path / "old")

    def test_the_values_go_over_into_a_store_of_the_earlier_version(
        self, tmp_path: pathlib.Path, earlier: pathlib.Path
    ) -> None:
        run_as_program(OPEN.format("flows.db") + FILL + "store.close()", tmp_path)
        (written_out,) = fences(PAGE, "Going back", "python")
        (read_in,) = fences(PAGE, "Going back", "python continued")
        run_as_program(written_out.text, tmp_path)
        imports = "import base64, json\nfrom contextstore import ContextStore\n"
        run_as_program(imports + read_in.text, tmp_path, earlier)
        run_as_program(imports + read_in.text, tmp_path, earlier)  # as after an interruption
        run_as_program(OPEN.format("earlier.db") + HAS_ALL + "store.close()", tmp_path, earlier)

    def test_a_backup_of_before_is_restored_by_the_earlier_version(
        self, tmp_path: pathlib.Path, earlier: pathlib.Path
    ) -> None:
        steps = FILL + "store.backup('before.db')\nstore.close()"
        run_as_program(OPEN.format("flows.db") + steps, tmp_path, earlier)
        run_as_program(OPEN.format("flows.db") + HAS_ALL + "store.put('later', 'a', 1)\nstore.close()", tmp_path)
        back = "from contextstore import *\nrestore('before.db', 'flows.db', overwrite=True)\n"
        run_as_program(back, tmp_path, earlier)
        run_as_program(OPEN.format("flows.db") + HAS_ALL + "store.close()", tmp_path, earlier)

    def test_a_backup_made_by_the_newer_version_is_no_way_back(
        self, tmp_path: pathlib.Path, earlier: pathlib.Path
    ) -> None:
        run_as_program(OPEN.format("flows.db") + FILL + "store.close()", tmp_path, earlier)
        run_as_program(OPEN.format("flows.db") + "store.backup('late.db')\nstore.close()", tmp_path)
        with pytest.raises(AssertionError, match="IncompatibleStoreError"):
            run_as_program("from contextstore import *\nrestore('late.db', 'again.db')", tmp_path, earlier)


def test_the_page_has_no_link_to_a_section_that_is_not_there() -> None:
    for page, anchor in re.findall(r"\]\((\w+\.md)#([\w-]+)\)", (DOCS / PAGE).read_text()):
        titles = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, anchor
