"""The package as it was at an earlier commit, from the repository's own history, and stores as it has left them."""

from __future__ import annotations

import io
import pathlib
import subprocess
import tarfile
from typing import Any

import pytest

from .nodes import execute
from .processes import ROOT, Child
from .servers import Server

OF_SCHEMA_1 = "b115c8e0635f"
"""The last one that knows schema 1 and no other."""


def package_at(commit: str, folder: pathlib.Path) -> pathlib.Path:
    """Unpack the package into the folder. Without a history, as in what was released, the test is skipped."""
    archive = subprocess.run(["git", "archive", commit, "contextstore"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"there is no history here with {commit}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def earlier_child(package: pathlib.Path, program: str, *arguments: Any) -> Child:
    """A process that runs the program with that package."""
    # -P: or the folder that it starts in, which has this package, would come first.
    return Child(program, *arguments, options=["-P"], PYTHONPATH=str(package))


def make_schema_1(server: Server, schema: str) -> None:
    """Give the tables of a store on the server the names that they had in schema 1."""
    for statement in (
        f"ALTER TABLE {schema}.flow_runs RENAME TO runs",
        f"ALTER TABLE {schema}.node_outputs RENAME TO output_rows",
        f"ALTER TABLE {schema}.global_values RENAME TO global_rows",
        f"UPDATE {schema}.store_format SET version = 1",
    ):
        execute(server, statement)
