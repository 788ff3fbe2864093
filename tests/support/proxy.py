"""A TCP proxy between a store and its server that loses what it is told to lose."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any, Self

CANCEL_REQUEST = (16).to_bytes(4, "big") + (80877102).to_bytes(4, "big")


class Proxy:
    """On a thread of its own, since blocking stores go through it, too."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.is_silent = False
        self.cancel_requests = 0
        self._cut_after: bytes | None = None
        self.cuts = 0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def lose_answer_to(self, text: str) -> None:
        """Forward the next request with this in it, and cut the connection in place of the answer."""
        self._cut_after = text.encode()

    def cut_all(self) -> None:
        self._loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in list(self._writers)])

    def url(self, **options: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres?{query}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for writer in self._writers:
            writer.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        state: dict[str, Any] = {"is_cut": False}
        with contextlib.suppress(asyncio.CancelledError):  # at the end; asyncio takes a cancelled one for an error
            await asyncio.gather(
                self._pump(reader, server_writer, state, is_request=True),
                self._pump(server_reader, writer, state, is_request=False),
                return_exceptions=True,
            )
        for one in (writer, server_writer):
            one.transport.abort()
            self._writers.discard(one)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: dict[str, Any], is_request: bool
    ) -> None:
        try:
            while data := await reader.read(2**16):
                if is_request and data.startswith(CANCEL_REQUEST):
                    self.cancel_requests += 1
                if is_request and self._cut_after is not None and self._cut_after in data:
                    self._cut_after = None
                    self.cuts += 1
                    state["is_cut"] = True
                if not is_request and state["is_cut"]:
                    break  # the server has answered, so it has done it; nobody will hear
                if self.is_silent:
                    continue
                writer.write(data)
                await writer.drain()
        finally:  # also after a reset, or the other side would wait for ever
            writer.transport.abort()
