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

OF_SCHEMA = {1: "b115c8e0635f", 2: "e9ddf2069a60", 3: "2ae67e479801"}
"""Of each earlier schema the last commit that knows it and no newer one."""


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


_BACK_TO_3 = """
    DROP VIEW {schema}.run_summaries;
    DROP TABLE {schema}.run_attributes, {schema}.run_states, {schema}.failed_attempts, {schema}.leases,
        {schema}.lease_tokens, {schema}.counted_outputs;
    ALTER TABLE {schema}.flow_runs DROP COLUMN outputs, DROP COLUMN first_written_at, DROP COLUMN last_written_at,
        DROP COLUMN state, DROP COLUMN state_changed_at, DROP COLUMN begun_at, DROP COLUMN touched_at,
        DROP COLUMN change, DROP COLUMN failures, DROP COLUMN checksum, DROP COLUMN begun_attributes,
        DROP COLUMN parent, DROP COLUMN attributes, DROP COLUMN error;
    ALTER TABLE {schema}.node_outputs DROP COLUMN attempt;
    UPDATE {schema}.store_format SET version = 3
"""
_BACK_TO_2 = """
    DROP VIEW {schema}.outputs, {schema}.globals;
    ALTER TABLE {schema}.flow_runs DROP COLUMN marks;
    ALTER TABLE {schema}.node_outputs DROP COLUMN tag, DROP COLUMN xact;
    ALTER TABLE {schema}.global_values DROP COLUMN expires_at;
    ALTER TABLE {schema}.store_format DROP COLUMN freed_version, DROP COLUMN history, DROP COLUMN cluster;
    DROP TABLE {schema}.append_counters, {schema}.append_keys;
    CREATE VIEW {schema}.outputs AS
        SELECT flow_runs.flow_run_id, node_outputs.node_id,
               CASE codec WHEN 0 THEN convert_from(value, 'UTF8') ELSE encode(value, 'hex') END AS value,
               to_timestamp(written_at / 1e6) AS written_at
        FROM {schema}.flow_runs JOIN {schema}.node_outputs ON node_outputs.run = flow_runs.serial
        WHERE flow_runs.deleted_at IS NULL;
    CREATE VIEW {schema}.globals AS
        SELECT key, CASE codec WHEN 0 THEN convert_from(value, 'UTF8') ELSE encode(value, 'hex') END AS value, version,
               to_timestamp(written_at / 1e6) AS written_at
        FROM {schema}.global_values WHERE value IS NOT NULL;
    UPDATE {schema}.store_format SET version = 2
"""
_BACK_TO_1 = """
    ALTER TABLE {schema}.flow_runs RENAME TO runs;
    ALTER TABLE {schema}.node_outputs RENAME TO output_rows;
    ALTER TABLE {schema}.global_values RENAME TO global_rows;
    UPDATE {schema}.store_format SET version = 1
"""


def make_earlier(server: Server, schema: str, version: int, owner: str = "postgres") -> None:
    """Give a store on the server, with tables of this owner, the form that it had in an earlier schema."""
    for step in (_BACK_TO_3, _BACK_TO_2, _BACK_TO_1)[: 4 - version]:
        for statement in step.split(";"):
            execute(server, statement.format(schema=schema), user=owner)
