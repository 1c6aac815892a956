"""Doors in front of a Kafka broker that itself asks for nothing: TLS, a password by SASL/PLAIN, or both in a row.

The broker has to name the door to its clients (`Brokers.name_elsewhere`): they connect to the address that it names.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Greet = Callable[[socket.socket, socket.socket], socket.socket]  # client, broker -> client that may pass; or OSError
_SASL_HANDSHAKE, _API_VERSIONS, _SASL_AUTHENTICATE = 17, 18, 36  # keys of requests
_UNSUPPORTED_VERSION, _AUTHENTICATION_FAILED = 35, 58
_WAIT_S = 20.0


def tls(context: ssl.SSLContext) -> Greet:
    """Speak TLS with the client."""
    return lambda client, broker: context.wrap_socket(client, server_side=True)


def password(user: str, secret: str) -> Greet:
    """Let nobody pass who does not show this user and password."""
    return lambda client, broker: _ask(client, broker, f"\0{user}\0{secret}".encode())


def both(first: Greet, second: Greet) -> Greet:
    """One door behind the other."""

    def greet(client: socket.socket, broker: socket.socket) -> socket.socket:
        passed = first(client, broker)
        try:
            return second(passed, broker)
        except OSError:
            passed.close()
            raise

    return greet


class Door:
    """A port that leads to a broker, each connection after `greet`, from entry to exit of the context."""

    def __init__(self, broker: str, greet: Greet) -> None:
        host, _, port = broker.rpartition(":")
        self._behind = (host, int(port))
        self._greet = greet
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._is_shut = False
        self._one_at_a_time = threading.Lock()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _hang_up(self._listener)
        with self._one_at_a_time:
            self._is_shut = True
            for one in self._open:
                _hang_up(one)
        for thread in self._threads:
            thread.join(_WAIT_S)
            assert not thread.is_alive(), "a connection of the test did not end"
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._lead_in, client)

    def _start(self, run: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _lead_in(self, client: socket.socket) -> None:
        """Each connection is closed here, whenever it ends: a greeting may outlast the door."""
        with client, contextlib.suppress(OSError), socket.create_connection(self._behind) as broker:
            self._know(client, broker)
            with self._greet(client, broker) as greeted:
                self._know(greeted)
                back = threading.Thread(target=_lead, args=(greeted, broker), daemon=True)
                back.start()
                _lead(broker, greeted)
                back.join(_WAIT_S)

    def _know(self, *connections: socket.socket) -> None:
        with self._one_at_a_time:
            self._open += connections
            if self._is_shut:
                for one in connections:
                    _hang_up(one)


def _lead(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    _hang_up(target)


def _hang_up(connection: socket.socket) -> None:
    """Wake whoever reads from it; of TLS not its state, which another thread may be using."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _ask(client: socket.socket, broker: socket.socket, wanted: bytes) -> socket.socket:
    """The exchange before a connection may be used, in the first versions of its requests."""
    while True:
        frame = _read(client)
        key, version, number, name_length = struct.unpack(">hhih", frame[:10])
        body = frame[10 + max(name_length, 0) :]
        if key == _API_VERSIONS:
            _write(
                client,
                _versions(broker, frame) if version == 0 else struct.pack(">ihi", number, _UNSUPPORTED_VERSION, 0),
            )
        elif key == _SASL_HANDSHAKE:
            _write(client, struct.pack(">ihih", number, 0, 1, 5) + b"PLAIN")
        elif key == _SASL_AUTHENTICATE:
            is_right = body[4:] == wanted
            _write(client, struct.pack(">ihhiq", number, 0 if is_right else _AUTHENTICATION_FAILED, -1, 0, 0))
            if is_right:
                return client
        else:
            raise OSError("a request before the password")


def _versions(broker: socket.socket, frame: bytes) -> bytes:
    """What the broker can do, and SASL."""
    _write(broker, frame)
    answer = _read(broker)
    number, error, count = struct.unpack(">ihi", answer[:10])
    sasl = struct.pack(">hhhhhh", _SASL_HANDSHAKE, 0, 1, _SASL_AUTHENTICATE, 0, 1)
    return struct.pack(">ihi", number, error, count + 2) + answer[10:] + sasl


def _read(connection: socket.socket) -> bytes:
    (length,) = struct.unpack(">i", _exactly(connection, 4))
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = connection.recv(length - len(data))
        if not chunk:
            raise ConnectionError("closed")
        data += chunk
    return data


def _write(connection: socket.socket, frame: bytes) -> None:
    connection.sendall(struct.pack(">i", len(frame)) + frame)
