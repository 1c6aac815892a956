"""Messages of the exchange of Moscow over the real protocol of Kafka, to brokers that also go away and refuse."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dicom_node.delivery.archive import TlsClient
from dicom_node.ehr.answer import Accepted, Answer, Refused, Retry, discretion_of
from dicom_node.ehr.context import DocumentRequest, RefusalNotice, Revision
from dicom_node.ehr.moscow.destination import KafkaDestination
from dicom_node.ehr.receiver import Envelope, Held
from dicom_node.ehr.receivers.kafka import KafkaReceiver
from dicom_node.states import DocumentKind
from inference.findings import Presence, StudyUid
from inference.refusals import Reason
from tests.archives import ScriptedServer
from tests.certificates import Authority
from tests.exchange_cases import moscow_document, refusal_notice
from tests.kafka_brokers import Brokers
from tests.kafka_doors import Door, both, password, tls
from tests.semd_cases import STUDIES, STUDY

RESULTS, ERRORS = "DICOMREPORTNOTIFY", "PUMCONSUMERERROR"
MODEL_IDS = {"test-mass": 7, "test-opacity": 8}


@contextmanager
def _receiver(*servers: str, **settings: Any) -> Iterator[KafkaReceiver]:
    limits = {"connect_timeout_s": 5.0, "response_timeout_s": 10.0, "model_ids": MODEL_IDS, **settings}
    receiver = KafkaReceiver(KafkaDestination(name="moscow", bootstrap_servers=servers, **limits))
    try:
        yield receiver
    finally:
        receiver.close()


def _kind(said: DocumentRequest | RefusalNotice) -> DocumentKind:
    if isinstance(said, RefusalNotice):
        return DocumentKind.REFUSAL
    return DocumentKind.WITHDRAWAL if said.revision.withdrawn else DocumentKind.REPORT


def _envelope(said: DocumentRequest | RefusalNotice) -> Envelope:
    return Envelope(
        document_id=said.document_id,
        set_id=said.revision.set_id if isinstance(said, DocumentRequest) else "s",
        version=said.revision.version if isinstance(said, DocumentRequest) else 1,
        kind=_kind(said),
        study_uid=said.findings.study_uid if isinstance(said, DocumentRequest) else said.study_uid,
        discretion=discretion_of(said if isinstance(said, DocumentRequest) else moscow_document()),
    )


def _send(receiver: KafkaReceiver, said: DocumentRequest | RefusalNotice) -> Answer:
    written = receiver.write(said, replaced=None) if isinstance(said, DocumentRequest) else receiver.write_refusal(said)
    return receiver.send(written, _envelope(said))


def _of_study(number: int, *, version: int = 1) -> DocumentRequest:
    request = moscow_document(lesions=version % 3)
    uid = StudyUid(f"2.25.{number}")
    return replace(
        request,
        source=replace(request.source, study_uid=uid),
        findings=replace(request.findings, study_uid=uid),
        document_id=f"{number:032x}{version:032x}",
        revision=Revision(set_id=f"{number:064x}", version=version),
    )


def _schema(kind: str) -> Draft202012Validator:
    text = resources.files("dicom_node.ehr.moscow").joinpath("schemas", f"{kind}.schema.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text))


@pytest.mark.parametrize("count", [1, 3])
def test_results_and_errors_arrive_and_match_their_schemas(count: int) -> None:
    requests = [
        replace(moscow_document(study, lesions=lesions, whole=lesions < 2), document_id=f"{index:060x}{lesions:04x}")
        for index, study in enumerate(STUDIES)
        for lesions in (0, 1, 2, 12)
    ]
    notices = [refusal_notice(reason, document_id=f"{index:064x}") for index, reason in enumerate(Reason)]
    with Brokers(count) as brokers, _receiver(*brokers.addresses) as receiver:
        answers = [_send(receiver, said) for said in [*requests, *notices]]
        assert all(isinstance(answer, Accepted) for answer in answers)
        results, errors = brokers.read(RESULTS, len(requests)), brokers.read(ERRORS, len(notices))
        assert [one.value for one in results] == [receiver.write(one, replaced=None) for one in requests]
        assert [one.value for one in errors] == [receiver.write_refusal(one) for one in notices]
    for one in results:
        _schema("result").validate(json.loads(one.value))
        assert one.key == STUDY == json.loads(one.value)["studyIUID"]
    for one in errors:
        _schema("error").validate(json.loads(one.value))
    assert [one.headers for one in results] == [
        {"radnode-document-id": one.document_id, "radnode-document-version": "1"} for one in requests
    ]
    named = {one for answer in answers if isinstance(answer, Accepted) for one in answer.receiver_ids}
    assert named == {f"{one.topic}/{one.partition}/{one.offset}" for one in [*results, *errors]}


def test_nothing_of_the_patient_reaches_the_brokers() -> None:
    request = moscow_document("mammography")
    patient, author = request.patient, request.author
    assert patient.name and patient.snils and patient.document and author
    with Brokers() as brokers, _receiver(*brokers.addresses) as receiver:
        assert isinstance(_send(receiver, request), Accepted)
        (found,) = brokers.read(RESULTS, 1)
    whole = found.value.decode() + found.key + json.dumps(found.headers)
    for planted in (patient.identifier.value, patient.name.family, patient.snils, patient.document.number):
        assert planted not in whole
    assert author.name.family not in whole


def test_the_messages_of_one_study_keep_their_order() -> None:
    sent = [_of_study(study, version=version) for version in (1, 2, 3) for study in range(5)]
    with Brokers(2) as brokers, _receiver(*brokers.addresses) as receiver:
        assert all(isinstance(_send(receiver, one), Accepted) for one in sent)
        found = brokers.read(RESULTS, len(sent))
    for study in range(5):
        of_study = [one for one in found if one.key == f"2.25.{study}"]
        assert [one.headers["radnode-document-version"] for one in of_study] == ["1", "2", "3"]
        assert len({one.partition for one in of_study}) == 1


def test_a_withdrawal_and_a_result_that_decides_nothing_go_to_the_topic_of_errors() -> None:
    withdrawn = replace(moscow_document(), revision=Revision(set_id="s", version=2, replaces_id="a", withdrawn=True))
    clear = moscow_document(lesions=0)
    unknown = replace(clear.findings.findings[0], presence=Presence.UNDETERMINED)
    undecided = replace(clear, findings=replace(clear.findings, findings=(unknown,)))
    with Brokers() as brokers, _receiver(*brokers.addresses) as receiver:
        assert isinstance(_send(receiver, withdrawn), Accepted)
        assert isinstance(_send(receiver, undecided), Accepted)
        found = brokers.read(ERRORS, 2)
    for one in found:
        _schema("error").validate(json.loads(one.value))
    assert [one.headers["radnode-document-version"] for one in found] == ["2", "1"]


def test_a_message_written_under_an_earlier_profile_still_finds_its_topic(tmp_path: Path) -> None:
    text = resources.files("dicom_node.ehr.moscow").joinpath("profiles", "moscow.toml").read_text("utf-8")
    (tmp_path / "own.toml").write_text(text.replace('"aiResult"', '"result"').replace('"error"', '"fault"'), "utf-8")
    with Brokers() as brokers, _receiver(*brokers.addresses) as earlier:
        written = earlier.write(_of_study(1), replaced=None), earlier.write_refusal(refusal_notice())
        with _receiver(*brokers.addresses, document=str(tmp_path / "own.toml")) as receiver:
            assert isinstance(receiver.send(written[0], _envelope(_of_study(1))), Accepted)
            assert isinstance(receiver.send(written[1], _envelope(refusal_notice())), Accepted)
        assert [one.value for topic in (RESULTS, ERRORS) for one in brokers.read(topic, 1)] == list(written)


def test_brokers_that_go_away_are_waited_for_and_get_every_message_once() -> None:
    limits = {"connect_timeout_s": 1.0, "response_timeout_s": 1.5}
    with Brokers(2) as brokers, _receiver(*brokers.addresses, **limits) as receiver:
        assert isinstance(_send(receiver, _of_study(1)), Accepted)
        brokers.go_down()
        during, still = _send(receiver, _of_study(2)), _send(receiver, _of_study(2))
        assert isinstance(during, Retry) and isinstance(still, Retry)
        assert "no broker answers" in still.reason and receiver.check() == still.reason
        brokers.come_up()
        assert isinstance(_send(receiver, _of_study(2)), Accepted)
        assert receiver.check() == ""
        assert sorted(one.key for one in brokers.read(RESULTS, 2)) == ["2.25.1", "2.25.2"]


def test_an_answer_of_the_brokers_ends_a_document_only_where_it_is_at_fault() -> None:
    meanings: list[tuple[int, type[Refused] | type[Retry], str]] = [
        (10, Refused, "larger than the brokers or the topic accept"),
        (18, Refused, "larger than a segment"),
        (87, Refused, "for invalid"),
        (44, Refused, "policy"),
        (29, Retry, "ask for WRITE"),
        (31, Retry, "ask for WRITE"),
        (17, Retry, "have it created"),
    ]
    with Brokers() as brokers, _receiver(*brokers.addresses) as receiver:
        for number, (error, kind, told) in enumerate(meanings):
            brokers.answer_produce(error)
            answer = _send(receiver, _of_study(100 + number))
            assert isinstance(answer, kind) and told in answer.reason
            assert isinstance(_send(receiver, _of_study(number)), Accepted)
        found = brokers.read(RESULTS, len(meanings))
    assert sorted(one.key for one in found) == [f"2.25.{number}" for number in range(len(meanings))]


def test_what_passes_by_itself_passes_within_one_attempt() -> None:
    not_the_leader, timed_out, too_few_replicas = 6, 7, 19
    with Brokers() as brokers, _receiver(*brokers.addresses) as receiver:
        brokers.answer_produce(not_the_leader, timed_out, too_few_replicas, too_few_replicas)
        assert isinstance(_send(receiver, _of_study(1)), Accepted)
        assert len(brokers.read(RESULTS, 1)) == 1


def test_a_topic_that_is_not_there_is_waited_for() -> None:
    with Brokers(topics=(RESULTS,)) as brokers:
        brokers.fail_topic(RESULTS, 3)
        with _receiver(*brokers.addresses, connect_timeout_s=1.0, response_timeout_s=3.0) as receiver:
            assert receiver.check().endswith(f"({RESULTS}, {ERRORS})")
            answer = _send(receiver, _of_study(1))
            assert isinstance(answer, Retry) and "have it created" in answer.reason
            brokers.fail_topic(RESULTS, 0)
            brokers.create(ERRORS)
            assert isinstance(_send(receiver, _of_study(1)), Accepted)
            assert receiver.check() == ""


def test_a_message_that_no_broker_would_take_is_refused() -> None:
    request = _of_study(1)
    huge = replace(request, text=replace(request.text, description="x" * 2_000_000))
    with Brokers() as brokers, _receiver(*brokers.addresses) as receiver:
        assert isinstance(_send(receiver, huge), Refused)
        assert isinstance(_send(receiver, request), Accepted)


def test_brokers_that_are_silent_after_the_connection_end_in_a_retry() -> None:
    def script(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    limits = {"connect_timeout_s": 1.0, "response_timeout_s": 1.0}
    with ScriptedServer(script) as server, _receiver(f"127.0.0.1:{server.port}", **limits) as receiver:
        answer = _send(receiver, _of_study(1))
    assert isinstance(answer, Retry) and "no broker answers" in answer.reason


def test_brokers_that_answer_too_late_end_in_a_retry() -> None:
    with Brokers() as brokers, _receiver(*brokers.addresses, response_timeout_s=1.0) as receiver:
        assert isinstance(_send(receiver, _of_study(1)), Accepted)
        brokers.slow_down(60_000)
        assert isinstance(_send(receiver, _of_study(2)), Retry)


def test_garbage_in_place_of_the_protocol_ends_in_a_retry() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"\xff" * 4096)

    limits = {"connect_timeout_s": 1.0, "response_timeout_s": 1.0}
    with ScriptedServer(script) as server, _receiver(f"127.0.0.1:{server.port}", **limits) as receiver:
        assert isinstance(_send(receiver, _of_study(1)), Retry)


def test_brokers_that_name_another_machine_get_nothing_in_clear_text() -> None:
    with Brokers() as brokers, _receiver(*brokers.addresses) as receiver:
        brokers.name_elsewhere("exchange.example", 9092)
        answer = _send(receiver, _of_study(1))
        assert isinstance(answer, Retry) and "clear_text" in answer.reason
        assert "clear_text" in receiver.check()


def test_a_name_that_is_not_known_is_told() -> None:
    limits = {"connect_timeout_s": 1.0, "response_timeout_s": 1.0, "clear_text": True}
    with _receiver("nowhere.invalid:9092", **limits) as receiver:
        assert "bootstrap_servers" in receiver.check()


def test_tls_with_a_certificate_on_both_sides(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "exchange"), Authority(tmp_path, "stranger")
    certificate, key = authority.issue("broker")
    own_certificate, own_key = authority.issue("node")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    right = TlsClient(ca_file=authority.certificate, certificate_file=own_certificate, key_file=own_key)
    limits = {"connect_timeout_s": 1.0, "response_timeout_s": 5.0}
    with Brokers() as brokers, Door(brokers.addresses[0], tls(context)) as door:
        brokers.name_elsewhere("127.0.0.1", door.port)
        server = f"127.0.0.1:{door.port}"
        with _receiver(server, tls=right, **limits) as receiver:
            assert receiver.check() == ""
            assert isinstance(_send(receiver, _of_study(1)), Accepted)
        with _receiver(server, tls=right.model_copy(update={"ca_file": stranger.certificate}), **limits) as receiver:
            assert "[tls]" in receiver.check()
            assert isinstance(_send(receiver, _of_study(2)), Retry)
        with _receiver(server, tls=TlsClient(ca_file=authority.certificate), **limits) as receiver:
            assert isinstance(_send(receiver, _of_study(2)), Retry)


def test_a_password_is_shown_over_tls_and_read_again_when_it_is_not_accepted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path, "exchange")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("broker"))
    file = tmp_path / "password"
    user = {"username": "radnode", "password_file": file, "sasl_mechanism": "PLAIN"}
    limits = {"connect_timeout_s": 1.5, "response_timeout_s": 5.0}
    greet = both(tls(context), password("radnode", "open-sesame"))
    with Brokers() as brokers, Door(brokers.addresses[0], greet) as door:
        brokers.name_elsewhere("127.0.0.1", door.port)
        trust = TlsClient(ca_file=authority.certificate)
        with _receiver(f"127.0.0.1:{door.port}", tls=trust, **user, **limits) as receiver:
            missing = _send(receiver, _of_study(1))
            assert isinstance(missing, Retry) and f"file {file}" in missing.reason
            file.write_text("open-barley")
            wrong = _send(receiver, _of_study(1))
            assert isinstance(wrong, Retry) and "do not accept who we are" in wrong.reason
            file.write_text("open-sesame")
            assert isinstance(_send(receiver, _of_study(1)), Accepted)
            assert receiver.check() == ""
    told = missing.reason + wrong.reason + "".join(capfd.readouterr())
    assert "sesame" not in told and "barley" not in told


def test_no_message_is_asked_for_again() -> None:
    with Brokers() as brokers, _receiver(*brokers.addresses) as receiver:
        answer = _send(receiver, _of_study(1))
        assert isinstance(answer, Accepted)
        assert receiver.confirm(_envelope(_of_study(1)), answer.receiver_ids) is Held.UNSAID


def test_the_library_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    limits = {"connect_timeout_s": 1.0, "response_timeout_s": 1.0}
    with Brokers() as brokers, _receiver(*brokers.addresses, **limits) as receiver:
        assert isinstance(_send(receiver, _of_study(1)), Accepted)
        brokers.go_down()
        assert isinstance(_send(receiver, _of_study(2)), Retry)
    assert capfd.readouterr() == ("", "")


_KILLED = """
import os, signal, sys
from dataclasses import replace
from dicom_node.ehr.moscow.destination import KafkaDestination
from dicom_node.ehr.receivers.kafka import KafkaReceiver
from tests.integration.test_moscow_kafka import MODEL_IDS, _envelope, _of_study
receiver = KafkaReceiver(KafkaDestination(name="m", bootstrap_servers=sys.argv[1:], model_ids=MODEL_IDS))
request = _of_study(4)
print(receiver.send(receiver.write(request, replaced=None), _envelope(request)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_node_killed_before_it_noted_the_answer_sends_the_same_message_under_the_same_id() -> None:
    with Brokers() as brokers:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        command = [sys.executable, "-c", _KILLED, *brokers.addresses]
        killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL and killed.stdout.startswith("Accepted"), killed.stderr
        with _receiver(*brokers.addresses) as receiver:
            assert isinstance(_send(receiver, _of_study(4)), Accepted)
        first, second = brokers.read(RESULTS, 2)
    assert (first.value, first.headers, first.key) == (second.value, second.headers, second.key)
