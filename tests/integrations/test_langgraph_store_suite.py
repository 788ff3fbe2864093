"""The suite of LangGraph's own SQLite store, as its source distribution has it, against ContextStoreStore.

It is fetched by pip, once, and told by its digest. Each test of it is run on ours; those that ask for what a store
without vectors, or without SQL, does not have are named below, and must be refused.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET

import pytest

from ..public.test_readme import ROOT

PACKAGE, VERSION = "langgraph-checkpoint-sqlite", "3.1.2"
SHA256 = "4e3f376fa6f192d6ad2a1a4643b039986f1593552ef870e9e45281575de6fbf2"
FOLDER = f"{PACKAGE.replace('-', '_')}-{VERSION}"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "contextstore-tests"

VECTORS = {
    "test_vector_store_initialization",
    "test_vector_insert_with_auto_embedding",
    "test_vector_update_with_embedding",
    "test_vector_search_with_filters",
    "test_vector_search_pagination",
    "test_vector_search_edge_cases",
    "test_embed_with_path",
    "test_embed_with_path_operation_config",
    "test_scores",
    "test_non_ascii",
}
"""What asks for vectors."""
SQL = {
    "test_nonnull_migrations",  # has SQL of its own that it may be set up by
    "test_sql_injection_vulnerability",  # refuses names of fields that would be SQL; here they are names like any other
}
"""What is about SQL that this store does not have."""
TTL = {
    "test_ttl_override_default",  # reads do not put the expiry off unless told to; LangGraph's base class says they do
}
"""What the base class of all stores says otherwise."""


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the suite, out of the source distribution."""
    archive = CACHE / f"{FOLDER}.tar.gz"
    if not archive.exists() or hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "--dest"]
        fetched = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, str(CACHE), f"{PACKAGE}=={VERSION}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if fetched.returncode != 0 or not archive.exists():
            if os.environ.get("CI"):
                pytest.fail(f"the suite could not be fetched: {fetched.stderr}")
            pytest.skip(f"the suite could not be fetched: {fetched.stderr[-500:]}")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256, "it is not the suite that was looked at"
    folder = tmp_path_factory.mktemp("suite")
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder / FOLDER


def run(suite: pathlib.Path, report: pathlib.Path, files: list[str], env: dict[str, str]) -> dict[str, str]:
    """How each test ended: ``""``, or with which failure."""
    # Beside the suite's own package `tests` there is no room for ours: the plugin is found by its folder.
    places = [str(ROOT), str(ROOT / "tests" / "support")]
    options = ["-q", "-p", "langgraph_sqlite", "-p", "no:cacheprovider", "-W", "ignore"]
    options += ["-o", "asyncio_mode=auto", "-o", "markers=flaky"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *files],
        cwd=suite,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    ends = {}
    for case in ET.parse(report).iter("testcase"):
        wrong = [child for child in case if child.tag in ("failure", "error", "skipped")]
        ends[f"{case.get('classname')}::{case.get('name')}"] = "".join(str(one.get("message")) for one in wrong)
    return ends


def function_of(test: str) -> str:
    return test.rpartition("::")[2].partition("[")[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_of_the_suite_passes_but_what_asks_for_vectors_or_sql(
    suite: pathlib.Path, target: str, tmp_path: pathlib.Path
) -> None:
    is_server = "://" in target
    env = {"CONTEXTSTORE_SUITE_URL": target} if is_server else {}
    files = ["tests/test_store.py", "tests/test_async_store.py"]
    # Its two of 6,000 calls at once take minutes on a server that other tests use.
    ends = run(suite, tmp_path / "report.xml", [*files, "-k", "not large_batches"] if is_server else files, env)
    counted = {test: end for test, end in ends.items() if function_of(test) not in VECTORS | SQL}
    assert {test: end for test, end in counted.items() if end} == {}
    assert (len(ends), len(counted)) == ((140, 106) if is_server else (142, 108))
    asking = {test: end for test, end in ends.items() if function_of(test) in VECTORS and "initialization" not in test}
    assert len(asking) == 29
    assert {test: end for test, end in asking.items() if "ContextStoreStore has no vectors" not in end} == {}


@pytest.mark.slow
@pytest.mark.alone  # it sleeps, and expects that others do not keep it from waking up
@pytest.mark.timeout(900)
def test_its_tests_of_expiry_pass_but_one_that_the_base_class_contradicts(
    suite: pathlib.Path, target: str, tmp_path: pathlib.Path
) -> None:
    env = {"CONTEXTSTORE_SUITE_URL": target} if "://" in target else {}
    ends = run(suite, tmp_path / "report.xml", ["tests/test_ttl.py"], env)
    counted = {test: end for test, end in ends.items() if function_of(test) not in TTL}
    assert {test: end for test, end in counted.items() if end} == {}
    assert (len(ends), len(counted)) == (11, 10)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_peer_itself_passes_as_many_where_its_extension_is_not_asked_for(
    suite: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    files = ["tests/test_store.py", "tests/test_async_store.py"]
    ends = run(suite, tmp_path / "report.xml", files, {"CONTEXTSTORE_SUITE_OF": "peer"})
    wrong = {test: end for test, end in ends.items() if end and function_of(test) not in VECTORS}
    # Six more of its tests open an index, which takes an extension that not every Python can load.
    assert len(ends) == 142
    assert {test for test, end in wrong.items() if "enable_load_extension" not in end} == set()
