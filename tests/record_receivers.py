"""Receivers of the record for tests: envelopes, and a service that takes drafts over HTTP as an honest one does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dicom_node.ehr.answer import Discretion, discretion_of
from dicom_node.ehr.context import DocumentRequest
from dicom_node.ehr.destinations import Record
from dicom_node.ehr.receiver import Envelope, RecordReceiver
from dicom_node.ehr.receivers import open_receiver
from dicom_node.ehr.semd.profile import SemdProfile
from dicom_node.states import DocumentKind
from tests.record_cases import STUDY
from tests.semd_cases import PROFILE


def make_envelope(request: DocumentRequest | None = None, **changed: Any) -> Envelope:
    """The outside of `request`; without one, of a first version that nobody wrote."""
    known: dict[str, Any] = {
        "document_id": "d" * 64,
        "set_id": "s" * 64,
        "version": 1,
        "kind": DocumentKind.REPORT,
        "study_uid": STUDY,
        "discretion": Discretion(),
    }
    if request is not None:
        withdrawn = request.revision.withdrawn
        known = {
            "document_id": request.document_id,
            "set_id": request.revision.set_id,
            "version": request.revision.version,
            "kind": DocumentKind.WITHDRAWAL if withdrawn else DocumentKind.REPORT,
            "study_uid": request.source.study_uid,
            "discretion": discretion_of(request),
        }
    return Envelope(**known | changed)


@contextmanager
def opened(destination: Record, semd_profile: SemdProfile | None = PROFILE) -> Iterator[RecordReceiver]:
    """A receiver as the outbox opens it."""
    receiver = open_receiver(destination, semd_profile=semd_profile)
    try:
        yield receiver
    finally:
        receiver.close()


@dataclass
class DraftService:
    """What a service that takes drafts holds and was asked; `answers` are statuses to give before it does its work.

    Attributes
    ----------
    held : dict
        Draft by its id.
    puts : list of str
        Ids of all drafts that came, in order, whatever was answered.
    forgets : int
        So many of the next drafts are acknowledged and dropped.
    """

    held: dict[str, bytes] = field(default_factory=dict)
    heads: list[dict[str, str]] = field(default_factory=list)
    puts: list[str] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    not_offered: frozenset[str] = frozenset()
    token: str = ""
    forgets: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """Address below which drafts are put."""
        return f"http://127.0.0.1:{self.port}/drafts"

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Do what is asked and say status, headers and body."""
        name = path.removeprefix("/drafts").strip("/")
        self.heads.append(headers)
        if method == "PUT":
            self.puts.append(name)
        if self.answers:
            return *self.answers.pop(0), b""
        if method in self.not_offered:
            return 405, {"Allow": "PUT"}, b""
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {}, b""
        return self._put(name, body) if method == "PUT" else self._told(name)

    def _put(self, name: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if name in self.held:
            return 409, {"ETag": f'"{hashlib.sha256(self.held[name]).hexdigest()}"'}, b""
        if self.forgets:
            self.forgets -= 1
            return 202, {}, b""
        self.held[name] = body
        return 201, {}, b""

    def _told(self, name: str) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, self.held[name]) if name in self.held else (404, {}, b"")


@contextmanager
def draft_service(**known: Any) -> Iterator[DraftService]:
    """A running `DraftService` on a free port of loopback."""
    service = DraftService(**known)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, said = service.answer(self.command, self.path, body, dict(self.headers.items()))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(said))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing."""

    for method in ("PUT", "GET", "HEAD", "OPTIONS"):
        setattr(Handler, f"do_{method}", Handler.do)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10.0)
