"""A day with a receiver that is down for hours, breaks, hangs, cuts and forgets: every document once, in order.

The ledger's clock goes through the day in steps while studies come, are corrected and withdrawn; sockets and receivers
are real. Physicians' systems take SEMD drafts, FHIR servers transactions, HL7 v2 receivers messages over MLLP.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from dicom_node.ehr.fhir.elements import document_identifier
from dicom_node.ehr.hl7v2.oru import control_id
from dicom_node.outbox.courier import Courier
from dicom_node.states import DocumentKind, DocumentState
from inference.findings import StudyUid
from tests.archives import free_port
from tests.medplum import Medplum
from tests.mllp import MllpServer
from tests.outbox_rig import Mood, MoodyService, OutboxRig, moody_service
from tests.outbox_story import (
    assert_drafts_say_their_versions,
    assert_each_arrived_once_and_in_order,
    report,
    study_of,
    take_back,
)

STUDIES = 12
FEW = 6
PATIENCE_S = 1.0  # with a server that is not slow on purpose
STEP_S = 900.0
HOURS = 24
SEED = 20261123
ANY = (Mood.HONEST, Mood.HONEST, Mood.BROKEN, Mood.SLOW, Mood.CUTS, Mood.CUTS_EARLY, Mood.FORGETS, Mood.BUSY)


@dataclass
class Weather:
    """What a receiver is like at each hour; None: nobody listens at its port."""

    draw: random.Random
    moods: tuple[Mood, ...] | None = (Mood.HONEST,)

    def at(self, hour: int) -> tuple[Mood, ...] | None:
        """Down from the third hour to the ninth; then every fault for a while; honest in the evening."""
        by_hour: dict[int, tuple[Mood, ...] | None] = {
            **dict.fromkeys(range(3, 9), None),
            9: (Mood.BROKEN,),
            10: ANY,
            11: (Mood.SLOW,),
            12: (Mood.CUTS,),
            13: (Mood.CUTS_EARLY,),
            14: (Mood.FORGETS,),
            15: (Mood.FORGETS, Mood.HONEST),
            16: (Mood.BUSY,),
            **dict.fromkeys(range(17, 20), ANY),
            20: None,
        }
        return by_hour.get(hour, (Mood.HONEST,))

    def mood(self) -> Mood:
        """How the next request is met."""
        assert self.moods is not None, "nobody listens"
        return self.draw.choice(self.moods)


def words_of_the_hour(rig: OutboxRig, hour: int, step: int, *, studies: int) -> None:
    """Reports until noon, a correction eight hours after each, the withdrawal of every other study five hours later."""
    if step:
        return
    share = studies // 6
    if hour in range(0, 12, 2):
        report(rig, range(hour // 2 * share, (hour // 2 + 1) * share), lesions=1)
    if hour in range(8, 20, 2):
        report(rig, range((hour - 8) // 2 * share, (hour - 6) // 2 * share), lesions=2)
    if hour in range(9, 21, 2):
        take_back(rig, range((hour - 9) // 2 * share, (hour - 7) // 2 * share, 2))


def named(studies: int) -> list[StudyUid]:
    return [study_of(number) for number in range(studies)]


@contextmanager
def brought_by(folder: Path, record: dict[str, Any], *, studies: int) -> Iterator[tuple[OutboxRig, Courier]]:
    """A rig with one receiver, and its courier."""
    rig = OutboxRig(folder, [record], patients=studies)
    courier = rig.courier(record["name"])
    try:
        yield rig, courier
    finally:
        courier.close()
        rig.close()


def drain(rig: OutboxRig, courier: Courier) -> None:
    """Go on with the clock until nothing is on its way any more."""
    for _quarter in range(300):
        rig.bring(courier)
        if not any(row.is_open for row in rig.every_row()):
            return
        rig.clock.move(900.0)
    raise AssertionError([(row.state, row.reason, row.next_attempt_at) for row in rig.every_row() if row.is_open])


Listen = Callable[[], AbstractContextManager[object]]


def live_through(rig: OutboxRig, courier: Courier, weather: Weather, listen: Listen, *, studies: int) -> None:
    """The day, and as much of the next as it takes until nothing is on its way any more."""
    begun = rig.clock()
    with ExitStack() as listening:
        listening.enter_context(listen())
        for hour in range(HOURS):
            moods = weather.at(hour)
            if moods is None:
                listening.close()
            elif weather.moods is None:
                listening.enter_context(listen())
            weather.moods = moods
            for step in range(int(3600 // STEP_S)):
                rig.clock.now = max(rig.clock.now, begun + timedelta(hours=hour, seconds=step * STEP_S))
                words_of_the_hour(rig, hour, step, studies=studies)
                rig.bring(courier)
        drain(rig, courier)


def test_a_service_with_a_bad_day_holds_every_draft_once_and_in_order(tmp_path: Path) -> None:
    weather = Weather(draw=random.Random(SEED))
    service = MoodyService(mood=weather.mood, slow_s=0.25, port=free_port())
    record = {"name": "emr", "kind": "semd", "url": service.url, "accept_research": True, "response_timeout_s": 0.1}
    with brought_by(tmp_path, record, studies=STUDIES) as (rig, courier):
        live_through(rig, courier, weather, lambda: moody_service(service, port=service.port), studies=STUDIES)
        rows = rig.every_row()
    assert_each_arrived_once_and_in_order(rows, service.order, studies=named(STUDIES), versions=3)
    assert_drafts_say_their_versions(rows, service)
    assert max(row.attempts for row in rows) > 3, "the day was too fair to show anything"
    assert sum(service.sendings.values()) > len(service.held), "nothing came twice: the day was too fair"


class Ris:
    """A receiver of HL7 v2 as many are: what has the control id of a message that it took is acknowledged and dropped.

    Silence after it took a message, or before; an internal error (207) or a locked record (206); a rejection for now
    (AR); the end of the connection.
    """

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.taken: dict[str, str] = {}
        self.came = 0

    def acknowledge(self, message: Any) -> Any:
        self.came += 1
        mood = self.weather.mood()
        if mood is Mood.CUTS_EARLY:
            raise ConnectionResetError
        if mood in {Mood.BROKEN, Mood.BUSY}:
            return self._error(message, "AE", "207" if mood is Mood.BROKEN else "206")
        if mood is Mood.FORGETS:  # what acknowledges here has taken it: HL7 v2 cannot be asked again
            return self._error(message, "AR", "")
        known = str(message.segment("MSH")[10])
        assert self.taken.setdefault(known, str(message)) == str(message), "another message under a known control id"
        if mood is Mood.CUTS:
            raise ConnectionResetError
        return None if mood is Mood.SLOW else message.create_ack("AA")

    @staticmethod
    def _error(message: Any, code: str, number: str) -> str:
        error = f"ERR|||{number}^told^HL70357|E\r" if number else ""
        return f"{message.create_ack(code)}".rstrip("\r") + "\r" + error


def test_a_receiver_of_hl7_with_a_bad_day_takes_every_message_once_and_in_order(tmp_path: Path) -> None:
    weather = Weather(draw=random.Random(SEED))
    ris, port = Ris(weather), free_port()
    record = {"name": "ris", "kind": "mllp", "host": "127.0.0.1", "port": port, "accept_research": True}
    with brought_by(tmp_path, record | {"response_timeout_s": 0.1}, studies=STUDIES) as (rig, courier):
        live_through(rig, courier, weather, lambda: MllpServer(ris.acknowledge, port=port), studies=STUDIES)
        rows = rig.every_row()
    by_control_id = {control_id(row.document_id): row.document_id for row in rows}
    kept = [by_control_id[known] for known in ris.taken]
    assert_each_arrived_once_and_in_order(rows, kept, studies=named(STUDIES), versions=3)
    assert max(row.attempts for row in rows) > 3
    assert ris.came > len(ris.taken), "nothing came twice: the day was too fair"


class Gate:
    """Stands before a FHIR server and gives it moods: what a transaction meets on its way there or back.

    A server that forgets is another one, which answers as it should: the first never learns of the transaction.
    """

    def __init__(self, server: Medplum, forgetful: Medplum, weather: Weather, port: int) -> None:
        self.server, self.forgetful, self.weather, self.port = server, forgetful, weather, port
        self.kept: list[str] = []
        self.came = 0
        self._client = httpx.Client(trust_env=False, timeout=60.0)

    def pass_on(self, to: Medplum, method: str, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        told = {name: value for name, value in headers.items() if name.lower() in {"content-type", "accept", "prefer"}}
        return self._client.request(method, f"{to.url}{path}", content=body, headers=told)

    def note(self, body: bytes, answer: httpx.Response) -> None:
        """Enter what the server took: a transaction each of whose entries it answers with a success."""
        if answer.status_code != 200 or any(one["response"]["status"][0] != "2" for one in answer.json()["entry"]):
            return
        reports = [entry["resource"] for entry in json.loads(body)["entry"]]
        reports = [one for one in reports if one["resourceType"] == "DiagnosticReport"]
        self.kept += [
            one["value"] for report in reports for one in report["identifier"] if one["value"] not in self.kept
        ]

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def open(self) -> Iterator[None]:
        server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (_AtTheGate,), {"gate": self}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10.0)


class _AtTheGate(BaseHTTPRequestHandler):
    gate: Gate  # HTTP/1.0: a connection for each request, so that none outlives the port

    def do_GET(self) -> None:
        self._say(self.gate.pass_on(self.gate.server, "GET", self.path, dict(self.headers), b""))

    def do_POST(self) -> None:
        gate = self.gate
        gate.came += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        mood = gate.weather.mood()
        if mood in {Mood.BROKEN, Mood.BUSY}:
            self.send_response(500 if mood is Mood.BROKEN else 503)
            self.send_header("Retry-After", "120")
            self.end_headers()
            return
        if mood is Mood.CUTS_EARLY:
            return
        to = gate.forgetful if mood is Mood.FORGETS else gate.server
        answer = gate.pass_on(to, "POST", self.path, dict(self.headers), body)
        if mood is not Mood.FORGETS:
            gate.note(body, answer)
        if mood is Mood.CUTS:
            return
        if mood is Mood.SLOW:
            time.sleep(PATIENCE_S * 1.5)
        with suppress(OSError):
            self._say(answer)

    def _say(self, answer: httpx.Response) -> None:
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def test_a_fhir_server_with_a_bad_day_has_one_report_for_each_study_at_its_last_version(tmp_path: Path) -> None:
    weather = Weather(draw=random.Random(SEED))
    with Medplum() as server, Medplum() as forgetful:
        gate = Gate(server, forgetful, weather, free_port())
        record = {"name": "fhir", "kind": "fhir", "url": f"http://127.0.0.1:{gate.port}", "accept_research": True}
        with brought_by(tmp_path, record | {"response_timeout_s": PATIENCE_S}, studies=FEW) as (rig, courier):
            live_through(rig, courier, weather, gate.open, studies=FEW)
            rows = rig.every_row()
        gate.close()
        reports, provenances = server.held("DiagnosticReport"), server.held("Provenance")
    by_identifier = {document_identifier(row.document_id)["value"]: row.document_id for row in rows}
    kept = [by_identifier[value] for value in gate.kept if value in by_identifier]
    assert_each_arrived_once_and_in_order(rows, kept, studies=named(FEW), versions=3)
    assert len(provenances) == len(kept), "each version says once where it came from"
    assert len(reports) == FEW
    last = {row.set_id: row for row in rows if row.state is not DocumentState.OVERTAKEN}
    standing = {one["value"]: report["status"] for report in reports for one in report["identifier"]}
    for row in last.values():
        withdrawn = row.kind is DocumentKind.WITHDRAWAL
        assert (standing[document_identifier(row.document_id)["value"]] == "entered-in-error") is withdrawn
    assert gate.came > len(kept), "nothing came twice: the day was too fair"
