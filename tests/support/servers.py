"""A throw-away PostgreSQL server: started for the tests, as root or as a user, and gone with them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

_HOW_TO_GET_IT = "apt-get install postgresql, or name the folder of initdb in CONTEXTSTORE_TEST_PGBIN"


def binaries() -> pathlib.Path | None:
    """The folder of PostgreSQL's programs, if there are any."""
    if named := os.environ.get("CONTEXTSTORE_TEST_PGBIN"):
        return pathlib.Path(named)
    debian = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if debian:  # which puts them on nobody's PATH
        return debian[-1].parent
    found = shutil.which("initdb")
    return pathlib.Path(found).resolve().parent if found else None


def require_binaries() -> pathlib.Path:
    found = binaries()
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"there is no PostgreSQL here: {_HOW_TO_GET_IT}")
    return found


def _somebody_else() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return {}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Server:
    """A server with a data folder of its own."""

    def __init__(self, folder: pathlib.Path, **settings: object) -> None:
        self.binaries = require_binaries()
        self.identity = _somebody_else()
        self.folder = folder
        if self.identity:
            os.chown(folder, self.identity["user"], self.identity["group"])
        self.port = free_port()
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": folder,
            "max_connections": 200,
            **settings,
        }

    def initialise(self) -> None:
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.run("initdb", "-D", self.folder / "data", *options)

    def run(self, program: str, *arguments: object) -> None:
        # No pipes: the server would inherit them, and hold them open.
        done = subprocess.run(
            [self.binaries / program, *map(str, arguments)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            **self.identity,
        )
        assert done.returncode == 0, f"{program} failed with {done.returncode}; see {self.folder / 'log'}"

    def start(self) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in self.settings.items())
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", self.folder / "data", "-m", mode, "-w", "stop")

    @property
    def process_id(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def url(self, **options: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres" + (f"?{query}" if query else "")


@contextlib.contextmanager
def running_server(parent: pathlib.Path | None = None, **settings: object) -> Iterator[Server]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="contextstore-postgres-", dir=parent or "/tmp"))
    try:
        server = Server(folder, **settings)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(AssertionError):  # a test may have killed it
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_pooler(server: Server) -> Iterator[int]:
    """PgBouncer before a server, handing out connections by transaction; its port."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("there is no PgBouncer here: apt-get install pgbouncer")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="contextstore-pgbouncer-", dir="/tmp") as folder:
        settings = pathlib.Path(folder) / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={server.port} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir = {folder}\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 4\n"
        )
        if server.identity:
            os.chmod(folder, 0o755)
        process = subprocess.Popen(
            [program, settings], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **server.identity
        )
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait()
