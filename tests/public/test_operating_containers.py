"""What docs/operating.md says of containers and of shutdown is so: mounts are mounted, processes get their SIGTERM."""

from __future__ import annotations

import datetime
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from contextstore import ContextStore, RunDeletedError

from ..support.mounts import run_with_mounts
from ..support.processes import ROOT, Child
from .pages import fences

PAGE = "operating.md"

# ----------------------------------------------------------------------------------------------------------- containers


class TestContainers:
    def test_what_is_mounted_read_only_is_read_beside_a_writer_elsewhere(self, tmp_path: pathlib.Path) -> None:
        program = """
            here, there = f"{sys.argv[1]}/here", f"{sys.argv[1]}/there"
            os.mkdir(here)
            os.mkdir(there)
            writer = ContextStore(f"{here}/flows.db")
            writer.put("run", "a", 1)
            mount("--bind", here, there)
            mount("-o", "remount,ro,bind", there)
            try:
                ContextStore(f"{there}/flows.db").open()
            except ReadOnlyStoreError as error:
                say("read_only=True" in str(error))
            with ContextStore(f"{there}/flows.db", read_only=True) as reader:
                say(reader.list_keys("run"))
                writer.put("run", "b", 2)
                say(reader.list_keys("run"))
                writer.close()
                say(reader.list_keys("run"))
        """
        said = run_with_mounts(program, tmp_path)
        assert said == ["True", "['a']", "['a', 'b']", "['a', 'b']"]

    def test_what_an_image_brings_is_read_and_what_is_written_lies_in_the_layer_above(
        self, tmp_path: pathlib.Path
    ) -> None:
        program = """
            top = sys.argv[1]
            mount("-t", "tmpfs", "none", top)
            for name in ("lower", "upper", "work", "merged"):
                os.mkdir(f"{top}/{name}")
            with ContextStore(f"{top}/lower/flows.db") as store:
                store.put("run", "a", 1)
            layers = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
            if subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, f"{top}/merged"]).returncode:
                say("none here")
                sys.exit()
            with ContextStore(f"{top}/merged/flows.db", read_only=True) as reader:
                say(reader.list_keys("run"), os.listdir(f"{top}/upper"))
            with ContextStore(f"{top}/merged/flows.db") as store:
                store.put("run", "b", 2)
            say(os.path.exists(f"{top}/upper/flows.db"))
            with ContextStore(f"{top}/lower/flows.db", read_only=True) as reader:
                say(reader.list_keys("run"))
        """
        said = run_with_mounts(program, tmp_path)
        if said == ["none here"]:
            pytest.skip("no overlay can be mounted here")
        assert said == ["['a'] []", "True", "['a']"]

    def test_processes_of_two_containers_write_to_one_folder(self, tmp_path: pathlib.Path) -> None:
        program = """
            writer = "from contextstore import *; import sys\\n" + (
                "with ContextStore(sys.argv[1]) as store:\\n"
                "    for i in range(200): store.put('run', sys.argv[2] + f'{i:03}', i)\\n"
            )
            alone = ["unshare", "--pid", "--ipc", "--fork", "--mount-proc", sys.executable, "-c", writer]
            path = f"{sys.argv[1]}/flows.db"
            both = [subprocess.Popen([*alone, path, name]) for name in "ab"]
            say([one.wait() for one in both])
            with ContextStore(path) as store:
                say(len(store.list_keys("run")), store.check().ok)
        """
        assert run_with_mounts(program, tmp_path) == ["[0, 0]", "400 True"]


# ------------------------------------------------------------------------------------------------------------- shutdown


def endless(number: int) -> str:
    text = fences(PAGE, "Shutdown", "python")[number].text
    assert text.count("range(100)") == 1
    return text.replace("range(100)", "range(10**9)")


@pytest.mark.disk
class TestShutdown:
    @pytest.mark.parametrize("number", [0, 1], ids=["awaited", "called"])
    def test_sigterm_in_the_middle_of_a_put_ends_it_well_with_all_that_was_acknowledged(
        self, tmp_path: pathlib.Path, number: int
    ) -> None:
        for _ in range(5):
            process = self.started(endless(number), tmp_path)
            acknowledged = [process.stdout.readline() for _ in range(30)]
            process.terminate()
            rest, err = process.communicate(timeout=60)
            assert (process.returncode, err) == (0, "")
            acknowledged += rest.splitlines(keepends=True)
            nodes = {f"node-{line.split()[1]}" for line in acknowledged if line.startswith("stored ")}
            assert {path.name for path in tmp_path.iterdir()} == {"flows.db", "flows.db-lock"}
            with ContextStore(tmp_path / "flows.db") as store:
                assert nodes <= set(store.list_keys("run-1"))
                store.delete_run("run-1")
                with pytest.raises(RunDeletedError):
                    store.put("run-1", "late", 1)
                store.prune(older_than=datetime.timedelta())

    @pytest.mark.parametrize("number", [0, 1], ids=["awaited", "called"])
    def test_a_neighbour_that_holds_the_lock_does_not_keep_it_from_ending(
        self, tmp_path: pathlib.Path, number: int
    ) -> None:
        program = endless(number)
        assert "timeout=10" in program
        process = self.started(program.replace("timeout=10", "timeout=1"), tmp_path)
        for _ in range(30):
            process.stdout.readline()
        holder = """
            import fcntl
            lock = os.open(sys.argv[1], os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_EX)
            say("held")
            sys.stdin.readline()
        """
        with Child(holder, tmp_path / "flows.db-lock") as neighbour:
            assert neighbour.hear() == "held"
            process.terminate()
            _, err = process.communicate(timeout=60)
        if number == 1 and process.returncode == 1:  # it was in the middle of a put, which it lets raise
            assert "StoreBusyError" in err
        else:
            assert (process.returncode, err) == (0, "")

    def started(self, program: str, folder: pathlib.Path) -> Any:
        return subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
