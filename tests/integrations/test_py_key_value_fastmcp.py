"""A FastMCP server that keeps sessions and cached responses in a store, and py-key-value's wrappers over one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("key_value.aio")
pytest.importorskip("cryptography")

from cryptography.fernet import Fernet
from key_value.aio.errors import DecryptionError, EntryTooLargeError
from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.encryption import FernetEncryptionWrapper
from key_value.aio.wrappers.limit_size import LimitSizeWrapper
from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper

from contextstore import AsyncContextStore
from contextstore.integrations.py_key_value import ContextStoreKeyValue

from ..public.test_readme import ROOT

PROGRAM = """
import asyncio, json, os, signal, sys
from fastmcp import Client, FastMCP
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from fastmcp.server.sessions import SessionId, SessionProvider, get_session
import contextstore
from contextstore.integrations.py_key_value import ContextStoreKeyValue

target, calls = sys.argv[1], json.loads(sys.argv[2])
store = contextstore.shared(target)
server = FastMCP("of the test", session_state_store=ContextStoreKeyValue(store, namespace="sessions"))
server.add_provider(SessionProvider())
server.add_middleware(ResponseCachingMiddleware(
    cache_storage=ContextStoreKeyValue(store, namespace="responses"),
    call_tool_settings={"included_tools": ["work"]},
))

@server.tool
async def remember(fact: str, session_id: SessionId) -> list[str]:
    session = await get_session(session_id)
    facts = [*await session.get("facts", []), fact]
    await session.set("facts", facts)
    return facts

@server.tool
def work(n: int) -> str:
    with open(os.environ["WORKED"], "a") as file:
        file.write(f"{n}\\n")
    return "x" * n

async def main():
    async with Client(server) as client:
        for name, arguments in calls:
            result = await client.call_tool(name, arguments)
            print(json.dumps(result.data), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
async def kv(target: str) -> AsyncIterator[ContextStoreKeyValue]:
    async with ContextStoreKeyValue.from_conn_string(target) as opened:
        yield opened


class Servers:
    """Processes that each serve some calls, and are killed."""

    def __init__(self, target: str, worked: str) -> None:
        self._target, self._worked = target, worked

    async def serve(self, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, self._target, json.dumps(calls)]
        env = {"PYTHONPATH": str(ROOT), "WORKED": self._worked, "HOME": self._worked + "-home"}
        done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == -9, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow  # each server process imports all of FastMCP
async def test_sessions_and_responses_survive_the_kill_of_the_server_and_are_shared_by_two(
    target: str, tmp_path: Any
) -> None:
    pytest.importorskip("fastmcp.server")
    worked = tmp_path / "worked"
    servers = Servers(target, str(worked))
    ((session,),) = [await servers.serve(("create_session", {}))]
    assert await servers.serve(("remember", {"fact": "a", "session_id": session}), ("work", {"n": 3})) == [["a"], "xxx"]
    both = await asyncio.gather(
        servers.serve(("remember", {"fact": "b", "session_id": session}), ("work", {"n": 3})),
        servers.serve(("work", {"n": 3}), ("work", {"n": 4})),
    )
    assert both == [[["a", "b"], "xxx"], ["xxx", "xxxx"]]
    assert await servers.serve(("remember", {"fact": "c", "session_id": session})) == [["a", "b", "c"]]
    assert worked.read_text() == "3\n4\n"
    async with AsyncContextStore(target) as store:
        keys = await store.list_global_keys()
    assert any(key.startswith("sessions/") and session in key for key in keys)
    assert sum(key.startswith("responses/tools%2Fcall/") for key in keys) == 2


@contextlib.asynccontextmanager
async def _server(target: str, worked: list[int]) -> AsyncIterator[Any]:
    from fastmcp import Client, FastMCP
    from fastmcp.server.middleware.caching import ResponseCachingMiddleware
    from fastmcp.server.sessions import SessionId, SessionProvider, get_session

    async with AsyncContextStore(target) as store:
        server: Any = FastMCP("of the test", session_state_store=ContextStoreKeyValue(store))
        server.add_provider(SessionProvider())
        cache = ContextStoreKeyValue(store, namespace="responses")
        server.add_middleware(ResponseCachingMiddleware(cache, call_tool_settings={"included_tools": ["work"]}))

        async def remember(fact: str, session_id: str) -> list[str]:
            session = await get_session(session_id)
            facts = [*await session.get("facts", []), fact]
            await session.set("facts", facts)
            return facts

        remember.__annotations__["session_id"] = SessionId
        remember.__annotations__["fact"] = str
        server.tool(remember)

        def work(n: int) -> str:
            worked.append(n)
            return "x" * n

        work.__annotations__["n"] = int
        server.tool(work)
        async with Client(server) as client:
            yield client


@pytest.mark.thorough  # to import FastMCP takes seconds
async def test_sessions_and_responses_survive_a_server(target: str) -> None:
    pytest.importorskip("fastmcp.server")
    worked: list[int] = []
    async with _server(target, worked) as client:
        session = (await client.call_tool("create_session", {})).data
        await client.call_tool("remember", {"fact": "a", "session_id": session})
        await client.call_tool("work", {"n": 3})
    async with _server(target, worked) as client:
        result = await client.call_tool("remember", {"fact": "b", "session_id": session})
        assert result.data == ["a", "b"]
        assert (await client.call_tool("work", {"n": 3})).content[0].text == "xxx"
        assert worked == [3]
        await client.call_tool("end_session", {"session_id": session})
        with pytest.raises(Exception, match="session"):
            await client.call_tool("remember", {"fact": "c", "session_id": session})


class TestWrappers:
    async def test_what_is_encrypted_comes_back_by_its_key_alone(self, kv: ContextStoreKeyValue) -> None:
        wrapped = FernetEncryptionWrapper(kv, fernet=Fernet(Fernet.generate_key()))
        await wrapped.put("k", {"token": "secret"}, ttl=100)
        await wrapped.put_many(["l", "m"], [{"token": "secret"}, {}])
        assert await wrapped.get_many(["k", "l", "m"]) == [{"token": "secret"}, {"token": "secret"}, {}]
        assert "secret" not in str(await kv.get_many(["k", "l", "m"]))
        with pytest.raises(DecryptionError):
            await FernetEncryptionWrapper(kv, fernet=Fernet(Fernet.generate_key())).get("k")

    async def test_what_is_compressed_comes_back(self, kv: ContextStoreKeyValue) -> None:
        wrapped = CompressionWrapper(kv, min_size_to_compress=10)
        value = {"text": "x" * 100_000}
        await wrapped.put("k", value, ttl=100)
        assert await wrapped.get("k") == value
        assert len(str(await kv.get("k"))) < 10_000

    async def test_what_is_too_large_is_refused(self, kv: ContextStoreKeyValue) -> None:
        wrapped = LimitSizeWrapper(kv, max_size=1000, raise_on_too_large=True)
        with pytest.raises(EntryTooLargeError):
            await wrapped.put("k", {"text": "x" * 1000})
        await wrapped.put("k", {"text": "x" * 900})
        assert await kv.keys() == ["k"]

    async def test_prefixes_are_names_like_others(self, kv: ContextStoreKeyValue) -> None:
        wrapped = PrefixKeysWrapper(PrefixCollectionsWrapper(kv, prefix="c" * 300), prefix="k" * 600)
        await wrapped.put("a", {"n": 1}, collection="b")
        assert await wrapped.get("a", collection="b") == {"n": 1}
        assert await kv.collections() == ["c" * 300 + "__b"]
        assert await kv.keys("c" * 300 + "__b") == ["k" * 600 + "__a"]
        assert await wrapped.delete_many(["a"], collection="b") == 1
