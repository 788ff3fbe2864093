"""``contextstore ui`` as it is started, looked at and ended: as a process of its own."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from contextstore import ContextStore

from .lines import command, environment, run

PATIENCE = 120


class Pages:
    """The process, and the address that it printed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.line = process.stdout.readline().decode()

    @property
    def address(self) -> str:
        return self.line.strip()

    @property
    def token(self) -> str:
        return self.address.partition("?token=")[2]

    def get(self, path: str, **headers: str) -> httpx.Response:
        site = self.address.partition("/?")[0]
        return httpx.get(f"{site}{path}", headers={"authorization": f"Bearer {self.token}", **headers}, timeout=60)

    def end(self, number: int) -> tuple[int, str, str]:
        """Send a signal; the exit code, and what was printed beside the address."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out.decode(), err.decode()


@contextlib.contextmanager
def pages(place: object, *options: object, **changes: str) -> Iterator[Pages]:
    words = ("ui", place, *(() if "--port" in options else ("--port", "0")), *options)
    process = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(changes)
    )
    try:
        yield Pages(process)
    finally:
        process.kill()
        process.communicate()


def test_it_shows_a_store_logs_nothing_and_ends_at_ctrl_c_with_0(filled: str) -> None:
    with pages(filled) as shown:
        assert [one["flow_run_id"] for one in shown.get("/runs.json").json()["runs"]] == ["run-2", "run-1"]
        assert httpx.get(shown.address).status_code == 200
        for path in ("/nowhere", f"/runs?token={shown.token}", f"/runs?after={'x' * 5000}", "/run.json?id=none"):
            shown.get(path)  # that is logged nowhere
        assert httpx.get(shown.address.partition("?")[0]).status_code == 401
        code, out, err = shown.end(signal.SIGINT)
    assert (code, out) == (0, "")
    assert err == "contextstore: Ctrl-C stops it\n"


def test_it_ends_at_sigterm_with_0_also_as_soon_as_it_has_printed_the_address(filled_file: str) -> None:
    with pages(filled_file) as shown:
        assert shown.end(signal.SIGTERM)[0] == 0


def test_whoever_stops_half_way_does_not_keep_it_from_ending(filled_file: str) -> None:
    with pages(filled_file) as shown, contextlib.ExitStack() as stack:
        host, port = shown.address.removeprefix("http://").partition("/")[0].split(":")
        for head in (b"", b"GET /runs HTTP/1.1\r\n", b"POST /run/delete HTTP/1.1\r\nContent-Length: 9\r\n\r\n"):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            connection.sendall(head)
        assert shown.get("/runs").status_code == 200
        assert shown.end(signal.SIGINT)[0] == 0


def test_after_a_kill_it_starts_again_at_the_same_port_and_browsers_stay_signed_in(filled_file: str) -> None:
    token = {"CONTEXTSTORE_UI_TOKEN": "one-that-stays-the-same"}
    with httpx.Client(timeout=60) as browser:
        with pages(filled_file, **token) as shown:
            assert shown.token == token["CONTEXTSTORE_UI_TOKEN"]
            site = shown.address.partition("/?")[0]
            browser.get(shown.address)
            shown.process.kill()
            shown.process.wait()
        with pages(filled_file, "--port", site.rpartition(":")[2], **token):
            assert browser.get(f"{site}/runs").status_code == 200
    with ContextStore(filled_file) as store:
        assert store.check().ok


def test_json_has_the_address_and_what_it_is_the_address_of(filled_file: str) -> None:
    with pages(filled_file, "--json") as shown, pages(filled_file, "--json") as other:
        told = json.loads(shown.line)
        assert (
            told["address"].partition("?")[2] != json.loads(other.line)["address"].partition("?")[2]
        )  # of its own each
    assert list(told) == ["address", "host", "port", "location", "allow_delete"]
    assert told["address"].startswith(f"http://127.0.0.1:{told['port']}/?token=")
    assert (told["host"], told["allow_delete"]) == ("127.0.0.1", False)


def test_ipv6_is_served_as_well(filled_file: str) -> None:
    with pages(filled_file, "--host", "::1") as shown:
        assert shown.address.startswith("http://[::1]:")
        assert shown.get("/runs").status_code == 200


def test_other_names_need_to_be_allowed(filled_file: str) -> None:
    with pages(filled_file, "--allow-host", "pages.example") as shown:
        assert shown.get("/runs", host="localhost:1").status_code == 200  # as through a tunnel
        assert shown.get("/runs", host="pages.example").status_code == 200
        assert shown.get("/runs", host="evil.example").status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_reach_is_refused_unless_it_is_meant(host: str, filled_file: str) -> None:
    done = run("ui", filled_file, "--host", host)
    assert (done.code, done.out) == (2, "")
    assert "--public" in done.err


def test_where_others_reach_it_it_says_what_that_means(filled_file: str) -> None:
    with pages(filled_file, "--host", "0.0.0.0", "--public") as shown:
        port = shown.address.partition("/?")[0].rpartition(":")[2]
        bearer = {"authorization": f"Bearer {shown.token}"}
        assert httpx.get(f"http://127.0.0.1:{port}/runs", headers=bearer).status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/runs", headers={**bearer, "host": "evil.example"}).status_code == 403
        code, _, err = shown.end(signal.SIGINT)
    assert code == 0
    assert "Nothing is encrypted (no TLS)" in err
    assert shown.token not in err


def test_a_port_that_is_taken_is_told_in_a_sentence(filled_file: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("ui", filled_file, "--port", taken.getsockname()[1])
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("contextstore: it cannot be listened at 127.0.0.1, port ")
    assert len(done.err.splitlines()) == 1


def test_the_usual_port_is_passed_over_where_it_is_taken(filled_file: str) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # by another test, or by whoever works at this machine
            stack.enter_context(socket.create_server(("127.0.0.1", 8787)))
        done = subprocess.Popen(command("ui", filled_file), stdout=subprocess.PIPE, env=environment({}))
        with done:
            assert done.stdout is not None
            assert b":8787/" not in done.stdout.readline()
            done.send_signal(signal.SIGINT)
            assert done.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--host", "no.such.name.invalid"],
        ["--host", ""],
        ["--port", "70000"],
        ["--port", "-1"],
        ["--allow-host", "http://x"],
        ["--allow-host", "a b"],
    ],
)
def test_what_cannot_be_meant_is_2(options: list[str], filled_file: str) -> None:
    done = run("ui", filled_file, *options)
    assert (done.code, done.out) == (2, ""), done
    assert len(done.err.splitlines()) == 1


def test_a_token_that_is_easily_guessed_is_refused_and_not_shown(filled_file: str) -> None:
    for token in ("short", "with a blank in the middle", "a" * 300, "<script>alert(1)</script>"):
        done = run("ui", filled_file, CONTEXTSTORE_UI_TOKEN=token)
        assert (done.code, done.out) == (2, "")
        assert token not in done.err


def test_without_its_extra_it_says_how_to_get_it(filled_file: str) -> None:
    for missing in ("starlette", "uvicorn", "jinja2"):
        program = (
            f"import sys; sys.modules[{missing!r}] = None; from contextstore import cli; "
            f"sys.exit(cli.main(['ui', {filled_file!r}]))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment({}))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "contextstore: the pages need more than is installed: pip install 'contextstore[cli,ui]'\n"
        )


def test_the_store_is_opened_to_look_at_it_unless_deleting_is_allowed(filled_file: str) -> None:
    with pages(filled_file) as shown:
        answer = httpx.post(
            f"{shown.address.partition('/?')[0]}/run/delete",
            headers={"authorization": f"Bearer {shown.token}", "sec-fetch-site": "same-origin"},
        )
        assert answer.status_code == 403
        assert "--allow-delete" in answer.text
        with ContextStore(filled_file) as store:
            store.put("run-3", "beside", 1)
        assert "run-3" in shown.get("/runs").text
    with pages(filled_file, "--allow-delete", "--json") as shown:
        assert json.loads(shown.line)["allow_delete"] is True


def test_it_opens_a_browser_if_it_is_asked_to(filled_file: str, tmp_path: pathlib.Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/part && mv {tmp_path}/part {tmp_path}/opened\n')
    browser.chmod(0o755)
    with pages(filled_file, "--open", BROWSER=str(browser)) as shown:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "opened").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (tmp_path / "opened").read_text().strip() == shown.address
