"""Connections of which a whole answer, not only each read of it, has to be done by a deadline.

Used by `ehr.exchange`. The timeouts of HTTP libraries begin anew with every byte: a server that lets its headers drip,
or never ends its "100 Continue", would hold its caller for days.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore

_PIECE_BYTES = 1 << 16


class Deadline:
    """The moment until which an exchange has to be done; `begin` starts it anew."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.begin()

    def begin(self) -> None:
        """Give the whole time from now."""
        self._at_s = time.monotonic() + self._limit_s

    def left_s(self) -> float:
        """What is left; zero or less when the time is over."""
        return self._at_s - time.monotonic()


class BoundedBackend(httpcore.NetworkBackend):
    """Connects by TCP; whatever is read or written then has to be done by `deadline`."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect within `timeout`, which is not taken from the time of the answer."""
        stream = self._plain.connect_tcp(host, port, timeout, local_address, socket_options)
        self._deadline.begin()
        return _BoundedStream(stream, self._deadline)


class _BoundedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left_s = self._deadline.left_s()
        if left_s <= 0:
            raise httpcore.ReadTimeout
        return self._stream.read(max_bytes, left_s)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces, because one write has its timeout for each part that the other side takes.
        for start in range(0, len(buffer), _PIECE_BYTES):
            left_s = self._deadline.left_s()
            if left_s <= 0:
                raise httpcore.WriteTimeout
            self._stream.write(buffer[start : start + _PIECE_BYTES], left_s)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, timeout)
        self._deadline.begin()
        return _BoundedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
