"""docs/web-service.md shows what examples/web_service.py is, and its commands do what it says, against a real server.

Its plain Python is run with that of the other pages; what has a title is held to the file of that name.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from ..support.processes import ROOT
from ..support.web import Service
from .test_readme import Fence, check_command, commands_of, fences_of

PAGE = ROOT / "docs" / "web-service.md"
FENCES = fences_of(PAGE)


@pytest.mark.parametrize("fence", [fence for fence in FENCES if "title=" in fence.info], ids=str)
def test_what_is_shown_of_the_example_stands_in_it(fence: Fence) -> None:
    title = re.fullmatch(r'python title="(examples/\w+\.py)"', fence.info)
    assert title is not None, fence.info
    assert f"\n{fence.text}\n" in (ROOT / title[1]).read_text()


def said(command: str, shell: Callable[[str], list[str]], expected: list[str]) -> None:
    """The command prints what the page shows; an ellipsis there stands for anything in its line."""
    printed = shell(command)
    patterns = [re.escape(line).replace("…", ".*") for line in expected]
    assert len(printed) == len(patterns), (command, printed)
    for line, pattern in zip(printed, patterns, strict=True):
        assert re.fullmatch(pattern, line), (command, line)


@pytest.fixture
def shell(tmp_path: pathlib.Path) -> Iterator[Callable[[str], list[str]]]:
    """One shell for all commands, as a reader has it: a variable that one sets is there for the next."""
    if shutil.which("curl") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no curl here")
    with subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(command: str) -> list[str]:
            print(command, "echo; echo END", sep="\n", file=process.stdin, flush=True)
            printed = "".join(iter(process.stdout.readline, "END\n"))
            return printed.rstrip("\n").splitlines()

        yield run
        process.stdin.close()


def test_the_commands_of_the_page_do_what_it_says(tmp_path: pathlib.Path, shell: Callable[[str], list[str]]) -> None:
    begin, *sessions = [fence for fence in FENCES if fence.info in ("bash", "console")]
    (install, _), (serve, _) = commands_of(begin)
    check_command(begin, install, [], tmp_path)
    setting, uvicorn, *options = shlex.split(serve)
    assert (setting, uvicorn) == ("CONTEXTSTORE_URL=flows.db", "uvicorn")
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    with Service("flows.db", command=options, folder=tmp_path, MODEL_TAKES=0) as service:
        streams = []
        for session in sessions:
            for shown, expected in commands_of(session):
                command = shown.replace("localhost:8000", service.url.removeprefix("http://"))
                if "/events" not in command:
                    said(command, shell, expected)
                    continue
                (run,) = shell("echo $RUN")
                stream = subprocess.Popen(
                    ["bash", "-c", f"exec {command}"], env={**os.environ, "RUN": run}, stdout=subprocess.PIPE, text=True
                )
                streams.append(stream)
                assert stream.stdout is not None
                assert [stream.stdout.readline().rstrip("\n") for _ in expected] == expected
        (stream,) = streams
        rest, _ = stream.communicate(timeout=60)
        assert re.findall("^id: (.*)$", rest, re.MULTILINE) == ["4-answer", "5-report"]
        assert stream.returncode == 0
        assert service.end() == 0


def routes() -> set[str]:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import web_service
    finally:
        sys.path.pop(0)
    return set(web_service.app.openapi()["paths"])


def test_the_probes_ask_what_there_is_and_the_command_is_the_one_that_is_run() -> None:
    (deployment,) = [fence.text for fence in FENCES if fence.info == "yaml"]
    assert set(re.findall(r"path: (/[\w/]+)", deployment)) == {route for route in routes() if "health" in route}
    (begin,) = [fence.text for fence in FENCES if fence.info == "bash"]
    _, _, *options = shlex.split(begin.splitlines()[1])
    found = re.search(r"command: \[([^]]*)\]", deployment)
    assert found is not None
    command = [word.strip('" \n') for word in found[1].split(",")]
    assert [word for word in command if word not in ("uvicorn", "--host", "0.0.0.0")] == options


def test_every_setting_of_the_example_is_in_the_table() -> None:
    sources = [(ROOT / "examples" / name).read_text() for name in ("web_service.py", "web_worker.py")]
    settings = re.findall(r'os\.environ\.get\("(\w+)", "([^"]+)"\)', "".join(sources))
    table = re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(table) == sorted(settings)
