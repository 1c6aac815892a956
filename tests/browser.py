"""A headless Chromium driven through its DevTools protocol, to see what a person would see.

Knows nothing of the viewer: `tests.ohif` serves that. Everything that goes wrong in a page (exceptions, errors on the
console, requests that fail) is collected in `Page.troubles`.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tests.conftest import require_tool

WIDTH, HEIGHT = 1280, 800
_START_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 60.0
_POLL_S = 0.1
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)


class BrowserTrouble(AssertionError):
    """The browser did not start, a script of the test failed in the page, or what was waited for did not come."""


class Page:
    """One tab.

    Attributes
    ----------
    troubles : list of str
        What went wrong in the page since it was opened.
    """

    def __init__(self, address: str) -> None:
        self._closing = ExitStack()
        self._socket: ClientConnection = self._closing.enter_context(connect(address, max_size=None, proxy=None))
        self._numbers = itertools.count(1)
        self.troubles: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the DevTools protocol and its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=_ANSWER_TIMEOUT_S))
            if message.get("id") != number:
                self._note(message)
                continue
            if "error" in message:
                raise BrowserTrouble(f"{method}: {message['error']}")
            result: dict[str, Any] = message["result"]
            return result

    def open(self, url: str) -> None:
        """Go to an address; what went wrong before is forgotten."""
        self.troubles.clear()
        self.call("Page.navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        """Size of the picture in CSS pixels, each one pixel of a screenshot."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression, as JSON; a promise is awaited.

        Raises
        ------
        BrowserTrouble
            If the script throws.
        """
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserTrouble(_exception(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, script: str, *, timeout_s: float = 60.0) -> Any:
        """Value of an expression once it is true; an expression that throws is not true yet.

        Raises
        ------
        BrowserTrouble
            If that does not come in time, with what the page shows and what went wrong in it.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            last = ""
            try:
                value = self.evaluate(script)
            except BrowserTrouble as error:
                value, last = None, str(error)
            if value:
                return value
            if time.monotonic() > deadline:
                shown = self.evaluate("document.body ? document.body.innerText : ''")
                raise BrowserTrouble(
                    f"waited in vain for {script}; {last}\ntroubles: {self.troubles}\nthe page shows: {shown[:1500]}"
                )
            time.sleep(_POLL_S)

    def click(self, x: float, y: float, *, times: int = 1) -> None:
        """Click at a place of the picture; `times` 2 is a double click."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for count in range(1, times + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def screenshot(self) -> NDArray[np.uint8]:
        """What is shown, (rows, columns, 3) RGB of 8 bits."""
        with Image.open(BytesIO(self.screenshot_png())) as picture:
            return np.asarray(picture.convert("RGB"))

    def screenshot_png(self) -> bytes:
        """What is shown, as a PNG file."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the connection; the tab goes with its browser."""
        self._closing.close()

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.troubles.append(f"exception: {_exception(parameters['exceptionDetails'])}")
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "assert"):
                said = " ".join(str(one.get("value", one.get("description", ""))) for one in parameters["args"])
                self.troubles.append(f"console: {said[:500]}")
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                entry = parameters["entry"]
                self.troubles.append(f"log: {entry['text']} {entry.get('url', '')}")


class Browser:
    """A running Chromium with a profile of its own below `folder`."""

    def __init__(self, folder: Path) -> None:
        program = require_tool("chromium", hint="apt-get install chromium")
        self._profile = folder / "chromium"
        self._profile.mkdir(parents=True)
        size = f"--window-size={WIDTH},{HEIGHT}"
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *_OPTIONS, size, f"--user-data-dir={self._profile}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HOME": str(self._profile)},
                start_new_session=True,
            )
        self._port = self._wait_for_port()
        self._pages: list[Page] = []

    def page(self, *, width: int = WIDTH, height: int = HEIGHT) -> Page:
        """A tab."""
        import httpx

        made = httpx.put(f"http://127.0.0.1:{self._port}/json/new?about:blank", timeout=30.0, trust_env=False)
        page = Page(made.raise_for_status().json()["webSocketDebuggerUrl"])
        page.resize(width, height)
        self._pages.append(page)
        return page

    def _wait_for_port(self) -> int:
        told = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            with suppress(OSError, ValueError, IndexError):
                return int(told.read_text().splitlines()[0])
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise BrowserTrouble("Chromium did not start")
            time.sleep(_POLL_S)

    def close(self) -> None:
        """End the browser and everything it started."""
        for page in getattr(self, "_pages", ()):
            page.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _exception(details: dict[str, Any]) -> str:
    thrown = details.get("exception", {})
    return str(thrown.get("description") or thrown.get("value") or details.get("text"))[:500]
