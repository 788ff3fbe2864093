"""Programs that mount file systems, each in a name space of its own: what they mount is gone with them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from .processes import PREAMBLE, ROOT

_MOUNT = """
import subprocess

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

"""


def run_with_mounts(program: str, *arguments: Any, timeout: float = 150) -> list[str]:
    """What a program that may call ``mount`` and ends well has said. Skips the test where nobody here may mount."""
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    try:
        tried = subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) here")
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", PREAMBLE + _MOUNT + textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=timeout,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout.splitlines()
