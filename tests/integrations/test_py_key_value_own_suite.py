"""py-key-value's own tests of a store, where a checkout of its repository is at hand: no package of it has them.

    CONTEXTSTORE_TEST_PY_KEY_VALUE=<checkout of commit 279e1ee> python -m pytest <this file>

It wants ``dirty-equals`` and ``inline-snapshot`` beside what the tests want.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from ..public.test_readme import ROOT

CHECKOUT = os.environ.get("CONTEXTSTORE_TEST_PY_KEY_VALUE")
TESTS = 132
"""That many are in it for one store, by the commit above. A suite that sees less of a store has fewer."""

SHIM = """
import itertools
import os

import pytest
from contextstore import AsyncContextStore
from contextstore.integrations.py_key_value import ContextStoreKeyValue
from tests.stores.base import BaseStoreTests, ContextManagerStoreTestMixin

TARGET = os.environ["KEY_VALUE_TARGET"]
numbers = itertools.count()


class TestContextStoreKeyValue(ContextManagerStoreTestMixin, BaseStoreTests):
    @pytest.fixture
    async def store(self):
        async with AsyncContextStore(f"{TARGET}_{next(numbers)}") as store:
            yield ContextStoreKeyValue(store)

    @pytest.mark.skip(reason="it has no bound")
    async def test_not_unbounded(self, store): ...
"""


@pytest.mark.slow
@pytest.mark.skipif(CHECKOUT is None, reason="CONTEXTSTORE_TEST_PY_KEY_VALUE names no checkout of py-key-value")
def test_each_test_of_theirs_passes(target: str, tmp_path: pathlib.Path) -> None:
    assert CHECKOUT is not None
    (tmp_path / "tests").symlink_to(pathlib.Path(CHECKOUT).resolve() / "tests")
    shim = tmp_path / "test_shim.py"
    shim.write_text(SHIM)
    paths = [str(ROOT), str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), str(shim)]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "KEY_VALUE_TARGET": target},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout
    counts = dict(reversed(pair.split()) for pair in re.findall(r"\d+ (?:passed|skipped)", done.stdout))
    assert counts == {"passed": str(TESTS), "skipped": "2"}
