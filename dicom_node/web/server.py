"""Serving the application in a thread, on a port that the system may choose.

Used by `node`. uvicorn's own signal handling is left out: the node decides when to stop.
"""

from __future__ import annotations

import socket
import threading

import uvicorn
from fastapi import FastAPI

_STOP_TIMEOUT_S = 5.0


class WebError(Exception):
    """The web port cannot be used; the message names it."""


class WebServer:
    """uvicorn in a thread.

    Parameters
    ----------
    app : FastAPI
        What is served.
    host, port : str, int
        Where; port 0 takes a free one.
    """

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._host = host
        self._wanted_port = port
        self._thread: threading.Thread | None = None
        self.port = port

    def start(self) -> None:
        """Bind and serve.

        Raises
        ------
        WebError
            If the address cannot be bound.
        """
        try:
            listener = socket.create_server((self._host, self._wanted_port))
        except OSError as error:
            raise WebError(f"cannot serve HTTP on {self._host} port {self._wanted_port}: {error.strerror}") from error
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, letting running requests finish."""
        self._server.should_exit = True
        if self._thread:
            self._thread.join(_STOP_TIMEOUT_S)
