"""The outbox over a real ledger and store, with a receiver on a real socket whose moods a test chooses.

Built on `tests.pipeline_rig`: studies are received, analysed in words of the test, and what they tell the record is
brought by real couriers. `MoodyService` takes drafts as an honest service does, and fails as real ones do.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lxml import etree

from dicom_node.ledger import documents, outbox
from dicom_node.ledger.documents import DocumentRow
from dicom_node.outbox.courier import Courier
from dicom_node.outbox.opening import Opening
from inference.findings import StudyUid
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import CHEST, PipelineRig
from tests.semd_cases import STAFF

CONTEXT = (
    """
[always.performer]
oid = "1.2.643.5.1.13.13.12.2.77.7799"
name = 'ГБУЗ "Поликлиника № 1"'
telephone = "+7 495 111-22-33"
address = { text = "г. Москва, ул. Примерная, д. 1", region_code = "77", postal_code = "101000" }

"""
    + STAFF
    + """[[lookup]]
kind = "csv"
file = "patients.csv"
key = "patient_id"
delimiter = ";"

[semd]
place = "1"
visit = "1"
service_form = "1"
service_condition = "2"

[semd.codes.policies]
3 = "Полис ОМС единого образца, бессрочный"
"""
)
COLUMNS = (
    "patient_id;patient.name.family;patient.name.given;patient.birth_date;patient.snils;encounter.identifier.value;"
    "encounter.begun;order.diagnosis_code;order.diagnosis_text;encounter.kind_code;encounter.kind_name"
)
BORN = "19610409"


class Mood(StrEnum):
    """How a receiver behaves."""

    HONEST = "honest"  # keeps what it acknowledges
    BROKEN = "broken"  # 500 to everything
    SLOW = "slow"  # answers after the sender has lost patience, but has kept the document
    CUTS = "cuts"  # resets the connection in the middle of the answer, having kept the document
    CUTS_EARLY = "cuts_early"  # resets it before it has read the document
    FORGETS = "forgets"  # acknowledges and keeps nothing
    BUSY = "busy"  # 503, and says for how long
    ECHOES = "echoes"  # refuses for good, and repeats what it was sent


@dataclass
class MoodyService:
    """What the receiver holds and saw.

    Attributes
    ----------
    held : dict
        Draft by its id.
    order : list of str
        Ids in the order in which they were first kept.
    mood : callable
        Chooses how the next request is met.
    poison : set of str
        Ids that are answered 500 whatever the mood.
    requests : int
        Drafts that came, whatever became of them.
    conflicts : int
        Drafts that came with other content than what was kept under their id.
    busy_s : int
        What a busy service asks to wait.
    """

    mood: Callable[[], Mood] = lambda: Mood.HONEST
    held: dict[str, bytes] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    sendings: Counter[str] = field(default_factory=Counter)
    poison: set[str] = field(default_factory=set)
    requests: int = 0
    conflicts: int = 0
    slow_s: float = 0.5
    busy_s: int = 120
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """Where drafts are put."""
        return f"http://127.0.0.1:{self.port}/drafts"

    def keep(self, name: str, body: bytes) -> int:
        """Keep a draft as an honest service does; the status of the answer."""
        with self.lock:
            self.sendings[name] += 1
            if name not in self.held:
                self.held[name] = body
                self.order.append(name)
                return 201
            if self.held[name] == body:
                return 204
            self.conflicts += 1
            return 409


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, service: MoodyService, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.service = service
        self.connections: set[socket.socket] = set()

    def hang_up(self) -> None:
        """End connections that senders keep alive: a service that is down answers on none."""
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_args: object) -> None:
        """A sender that went away is no error of this service."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def do_PUT(self) -> None:
        service = self.server.service
        service.requests += 1
        mood = service.mood()
        if mood is Mood.CUTS_EARLY:
            self._reset()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = self._name
        if mood is Mood.BROKEN or name in service.poison:
            self._answer(500)
        elif mood is Mood.BUSY:
            self._answer(503, after_s=service.busy_s)
        elif mood is Mood.ECHOES:
            self._answer(422, said=" ".join(etree.fromstring(body).xpath("//text() | //@*")).encode())
        elif mood is Mood.FORGETS:
            self._answer(202)
        else:
            self._keep(name, body, mood)

    def _keep(self, name: str, body: bytes, mood: Mood) -> None:
        service = self.server.service
        status = service.keep(name, body)
        if mood is Mood.SLOW:
            time.sleep(service.slow_s)
        if mood is Mood.CUTS:
            self.wfile.write(b"HTTP/1.1 20")
            self._reset()
        else:
            self._answer(status, hashlib.sha256(service.held[name]).hexdigest())

    def do_HEAD(self) -> None:
        self._answer(200 if self._name in self.server.service.held else 404)

    @property
    def _name(self) -> str:
        return self.path.rpartition("/")[2]

    def _answer(self, status: int, digest: str = "", *, after_s: int | None = None, said: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        if digest:
            self.send_header("ETag", f'"{digest}"')
        if after_s is not None:
            self.send_header("Retry-After", str(after_s))
        self.end_headers()
        self.wfile.write(said)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        with suppress(OSError, ValueError):  # the connection was reset on purpose
            super().finish()


@contextmanager
def moody_service(service: MoodyService, *, port: int = 0) -> Iterator[MoodyService]:
    """The service, running; `port` to come back where it was."""
    server = _Server(service, port)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        server.hang_up()
        thread.join(10.0)


def patients_table(numbers: range) -> str:
    """A table of patients P0, P1, ... with names of their own, SNILS with right sums, and a case of care each."""
    rows = [
        f"P{number};Иванов;Иван;1961-04-09;{snils(100_000_000 + number)};A-{number};2026-03-01T08:00:00+03:00;"
        "Z01.6;Радиологическое обследование;2;"
        for number in numbers
    ]
    return "\n".join([COLUMNS, *rows]) + "\n"


def snils(number: int) -> str:
    """Eleven digits whose sum is right."""
    digits = f"{number:09d}"
    total = sum(int(digit) * weight for digit, weight in zip(digits, range(9, 0, -1), strict=True))
    return f"{digits}{(total if total < 100 else total % 101 % 100):02d}"


class OutboxRig(PipelineRig):
    """A pipeline whose route names receivers of the record.

    Parameters
    ----------
    folder : Path
    records : sequence of dict
        `[[record]]` tables, as a person writes them.
    patients : int
        So many patients, P0 and on, are in the table that context is looked up in.
    model : str
        What the route names, a version with it where one is pinned.
    """

    def __init__(
        self,
        folder: Path,
        records: list[dict[str, Any]],
        *,
        patients: int = 3,
        model: str = "toy-opacity",
        **settings: Any,
    ) -> None:
        (folder / "context.toml").write_text(CONTEXT, encoding="utf-8")
        (folder / "patients.csv").write_text(patients_table(range(patients)), encoding="utf-8")
        route = CHEST | {"model": model, "destinations": ["pacs", *(one["name"] for one in records)]}
        waits = {"first_retry_s": 10, "longest_retry_s": 900, "context_file": folder / "context.toml"}
        settings = {"outbox": waits, "monitoring": {"time_zone": "Europe/Moscow"}} | settings
        super().__init__(folder, routes=[route], record=records, **settings)
        self._couriers: list[Courier] = []

    def close(self) -> None:
        """Let go of receivers and of the ledger."""
        for courier in self._couriers:
            courier.close()
        super().close()

    def courier(self, name: str) -> Courier:
        """A courier of the destination, as the node makes it."""
        pipeline = self.pipeline
        destination = next(one for one in self.settings.record if one.name == name)
        opening = Opening(destination, self.settings, pipeline.ledger, pipeline.store, lambda: pipeline.cards)
        made = Courier(destination, self.settings.outbox, pipeline.ledger, pipeline.store, opening)
        self._couriers.append(made)
        return made

    def study(self, number: int, *, patient: int | None = None, **changes: Any) -> StudyUid:
        """One film of a patient is received; its study."""
        uid = StudyUid(f"1.2.826.0.1.77.{number}")
        values = {
            "StudyInstanceUID": uid,
            "StudyID": str(number),
            "PatientSex": "M",
            "PatientID": f"P{number if patient is None else patient}",
            "PatientName": "IVANOV^IVAN",
            "PatientBirthDate": BORN,
            "AccessionNumber": f"ACC{number}",
            "StudyDescription": "Chest",
            "StudyDate": "20260302",
            "StudyTime": "114500",
        } | changes
        name = f"film-{number}-{len(list(self.folder.glob(f'film-{number}-*')))}.dcm"
        self.receive(film_file(self.folder / name, disc_picture(64, 48), **values))
        return uid

    def analysed(self, number: int, *, lesions: int = 1, **changes: Any) -> StudyUid:
        """A study whose result stands."""
        uid = self.study(number, **changes)
        self.settle()
        self.finish(lesions=lesions)
        return uid

    def finish(self, *, lesions: int = 1) -> None:
        """A model says so many lesions of all that is queued, and it is encoded."""
        for job in self.claim():
            self.pipeline.encode(self.say(job, self.findings(job, lesions)), "node:worker0:1")

    def rows(self, study_uid: StudyUid) -> tuple[DocumentRow, ...]:
        """The study's documents."""
        with self.pipeline.ledger.read() as tx:
            return documents.of_study(tx, study_uid)

    def every_row(self) -> list[DocumentRow]:
        """All documents, oldest first."""
        with self.pipeline.ledger.read() as tx:
            return sorted(
                (row for study in self.studies() for row in documents.of_study(tx, study)),
                key=lambda row: row.id,
            )

    def studies(self) -> list[StudyUid]:
        """All studies of the ledger."""
        from dicom_node.ledger import studies

        with self.pipeline.ledger.read() as tx:
            return [StudyUid(row.study_uid) for row in studies.newest(tx, limit=100_000)]

    def bring(self, courier: Courier, *, rounds: int = 50) -> None:
        """Let the courier work until it finds nothing to do."""
        for _round in range(rounds):
            if not courier.work():
                return

    def restart(self, courier: Courier) -> None:
        """What a node does when it starts after a crash."""
        courier.close()
        with self.pipeline.ledger.begin() as tx:
            outbox.release_attempts(tx)
