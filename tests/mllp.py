"""An HL7 v2 receiver that others wrote: the asyncio server of PyPI `hl7`, on a thread of its own and a free port."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import hl7
from hl7.mllp import start_hl7_server

Acknowledge = Callable[[Any], Any]


def accept(message: Any) -> Any:
    """AA, as the library makes it."""
    return message.create_ack("AA")


class MllpServer:
    """The receiver, from entry to exit of the context.

    Parameters
    ----------
    acknowledge : callable
        Makes an answer of a parsed message: another message, text for one frame, or None for silence.
    tls : ssl.SSLContext, optional
        Speak TLS.
    port : int
        To come back where it was; 0 takes any that is free.
    """

    def __init__(self, acknowledge: Acknowledge = accept, *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._acknowledge = acknowledge
        self._tls = tls
        self._ready = threading.Event()
        self.received: list[Any] = []
        self.connections = 0
        self.port = port

    async def _serve(self, reader: Any, writer: Any) -> None:
        self.connections += 1
        try:
            while not reader.at_eof():
                message = await reader.readmessage()
                self.received.append(message)
                answer = self._acknowledge(message)
                if answer is not None:
                    writer.writemessage(answer if isinstance(answer, hl7.Message) else hl7.parse(answer))
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await start_hl7_server(
            self._serve, host="127.0.0.1", port=self.port, encoding="utf-8", limit=1 << 24, ssl=self._tls
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10.0), "the server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10.0)
        assert not self._thread.is_alive(), "the server did not stop"
