"""Who starts the flow in a process of its own, kills it, starts it again and tells what became of it.

Rules of this module: it watches the store and the process from outside, and takes no part in the flow.
"""

from __future__ import annotations

import argparse
import functools
import math
import pathlib
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

from rich.console import Console

from contextstore import ContextStore, new_flow_run_id

from .findings import Report
from .flow import Journal, survey
from .measure import standard_library
from .proof import Check, Place, Snapshot, compare, recorded
from .screen import ProgressBar, ProgressDisplay, checks_table, findings_table


def make_store(target: str) -> Place:
    """Make the store, so that there is something to watch from the first moment on."""
    with ContextStore(target) as store:
        location = store.stats().location
    if location == ":memory:":
        raise ValueError("a store in memory ends with its process, and this takes several: name a file")
    place = Place(target, location)
    return Place(location, location) if place.is_file else place


def demonstrate(options: argparse.Namespace, place: Place, folder: str, console: Console) -> bool:
    """Run the flow, kill it, run it again. Returns whether all went as it must."""
    nodes = survey(standard_library(), options.limit)
    flow_run_id = new_flow_run_id()
    console.print(
        f"[bold]A survey of the standard library of Python {platform.python_version()}[/]: {len(nodes):,} nodes",
        highlight=False,
    )
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say(f"store     {place.location}{' (temporary)' if options.store is None else ''}")
    say(f"flow run  {flow_run_id}\n")
    checks = [Check("nodes of the flow", len(nodes))]
    killed = Snapshot({}, Counter(), Counter())
    with ProgressDisplay(console, len(nodes)) as display:
        stage = Stage(place, flow_run_id, pathlib.Path(folder, "journal"), options, display)
        if options.kill:
            status, killed = stage.run("first process", kill_at=math.ceil(options.kill_at * len(nodes)))
            if status == 0:
                say("It was through before it could be killed: take a larger --limit, or a --pace.")
            was_killed = status == -signal.SIGKILL
            checks.append(Check("processes killed by SIGKILL", int(was_killed), "1", was_killed))
        status, end = stage.run("second process" if options.kill else "the process")
        checks.append(Check("processes that came to the end", int(status == 0), "1", status == 0))
    console.print()
    checks += compare(nodes, killed, end)
    checks += recorded(place, flow_run_id, nodes, processes=2 if killed.began else 1)
    console.print(checks_table(checks, console))
    if killed.began:
        console.print(
            "A node is written once its output is in the store, and completed once the flow has been told so, which "
            "comes after. The kill may come between the two.\n",
            highlight=False,
        )
    if holds := all(check.holds is not False for check in checks):
        show_findings(place, flow_run_id, console)
    if options.store is not None:
        condition = f"flow_run_id = '{flow_run_id}' AND node_id = 'survey/report'"
        say(f"Look for yourself:\n  {place.query(condition)}\n")
    console.print("[green]Every claim holds.[/]" if holds else "[bold red]A claim does not hold.[/]")
    return holds


def show_findings(place: Place, flow_run_id: str, console: Console) -> None:
    # Not read-only: whoever closes a file last then leaves nothing in a -wal beside it.
    with ContextStore(place.target) as store:
        report = store.get(flow_run_id, "survey/report", type=Report)
    if report is not None:
        console.print(findings_table(report, console))


@dataclass(frozen=True)
class Stage:
    """Where the processes that work at one flow run are started and watched."""

    place: Place
    flow_run_id: str
    journal: pathlib.Path
    options: argparse.Namespace
    display: ProgressDisplay

    def run(self, title: str, kill_at: int | None = None) -> tuple[int, Snapshot]:
        """Start a process and watch it: its exit status, negative for a signal, and what there is when it has ended."""
        bar = self.display.bar(title)
        status = self._watch(bar, kill_at)
        found = Snapshot.of(self.place, self.flow_run_id, Journal(self.journal))
        if kill_at is not None:
            how = "killed by SIGKILL" if status == -signal.SIGKILL else f"ended by itself, status {status}"
            bar.end(len(found.rows), how, "red")
        elif status == 0:
            bar.end(len(found.rows), "done", "green")
        else:
            bar.end(len(found.rows), f"failed, status {status}", "red")
        return status, found

    def _watch(self, bar: ProgressBar, kill_at: int | None) -> int:
        # In a process group of its own: Ctrl-C in the terminal is for the process that watches.
        child = subprocess.Popen(self._command(), process_group=0)
        try:
            # Read-only: what a killed process leaves behind is for the next one to put in order, not for the watcher.
            with ContextStore(self.place.target, read_only=True) as store:
                while child.poll() is None:
                    written = len(store.list_keys(self.flow_run_id))
                    bar.show(written)
                    if kill_at is not None and written >= kill_at:
                        child.kill()
                        break
                    time.sleep(0.02)
        finally:
            child.kill()
            child.wait()
        return child.returncode

    def _command(self) -> list[str]:
        """The same for the process that is killed and for the one that goes on."""
        command = [sys.executable, "-m", "demo", "--worker", self.flow_run_id, "--store", self.place.target]
        command += ["--journal", str(self.journal), "--pace", str(self.options.pace)]
        return command + ([] if self.options.limit is None else ["--limit", str(self.options.limit)])
