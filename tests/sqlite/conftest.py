"""What the tests of files share: stores that are closed when the test ends, and files to begin with."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator

import pytest

from ..conftest import FACES
from .care import fill
from .files import Make, _closing_all


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes stores of the blocking face, and closes them."""
    with _closing_all("sync") as make_one:
        yield make_one


@pytest.fixture(params=FACES)
def make_either(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes stores of each face, and closes them."""
    with _closing_all(request.param) as make_one:
        yield make_one


@pytest.fixture
def public_folder() -> Iterator[pathlib.Path]:
    """A folder that everybody can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        folder.chmod(0o777)
        yield folder
        folder.chmod(0o777)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("care") / "store.db"
    fill(path)
    return path.read_bytes()


@pytest.fixture
def path(file_path: pathlib.Path, template: bytes) -> pathlib.Path:
    """A store with runs, globals, and some of each that were deleted."""
    file_path.write_bytes(template)
    return file_path
