"""What signers and registers say of drafts that went out: states, numbers, and signatures with real GOST keys."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node.ledger import events
from dicom_node.ledger.documents import DocumentRow
from dicom_node.returned.answer import Answer, Verdict
from dicom_node.returned.desk import ReturnDesk
from dicom_node.returned.settings import ReturnedSettings
from dicom_node.returned.statuses import read_state
from dicom_node.states import DocumentState
from tests.integration.receiving_rig import eventually
from tests.integration.test_semd_signature import GOST, RSA, PhysiciansSystem, enrolled
from tests.outbox_rig import MoodyService, OutboxRig, moody_service
from tests.returned_rig import oru

NUMBER = "77.26.11.000123"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> PhysiciansSystem:
    return enrolled(tmp_path_factory.mktemp("signer"), "md_gost12_256", *GOST)


class Returned:
    """A draft that was handed over to a service, and the desk to which word of it comes back."""

    def __init__(self, base: Path, service: MoodyService, **settings: Any) -> None:
        table = {"name": "emr", "kind": "semd", "url": service.url, "accept_research": True}
        self.outbox = OutboxRig(base, [table])
        self.courier = self.outbox.courier("emr")
        self.study = self.outbox.analysed(0)
        self.outbox.bring(self.courier)
        self.document_id = self.row.document_id
        self.draft = service.held[self.document_id]
        self.desk = ReturnDesk(
            ReturnedSettings.model_validate(settings),
            self.outbox.pipeline.ledger,
            self.outbox.pipeline.store,
            labels=lambda: {"opacity"},
            zone=UTC,
        )

    @property
    def row(self) -> DocumentRow:
        """The document as the ledger has it now."""
        (row,) = self.outbox.rows(self.study)
        return row

    def say(self, **state: object) -> Answer:
        """A state comes back."""
        body = {"document_id": self.document_id} | state
        return self.desk.take_state(json.dumps(body).encode())

    def told(self) -> list[str]:
        """What the study's account says of it."""
        with self.outbox.pipeline.ledger.read() as tx:
            return [one.what for one in events.of_study(tx, self.study) if one.stage == "return"]

    def close(self) -> None:
        """End what runs."""
        self.courier.close()
        self.outbox.close()


@pytest.fixture
def service() -> Iterator[MoodyService]:
    with moody_service(MoodyService()) as running:
        yield running


@pytest.fixture
def returned(tmp_path: Path, service: MoodyService, signer: PhysiciansSystem) -> Iterator[Returned]:
    inbox = tmp_path / "inbox"
    made = Returned(tmp_path, service, trusted_file=signer.trusted, folder=inbox, poll_s=0.05, settle_s=0)
    yield made
    made.close()


def test_a_registered_document_is_known_under_its_number(returned: Returned) -> None:
    assert returned.say(state="registered", number=NUMBER, told="Иванова Анна").verdict is Verdict.TAKEN
    assert (returned.row.state, returned.row.register_number) == (DocumentState.REGISTERED, NUMBER)
    assert returned.told() == [f"the record of emr: the document is registered under number {NUMBER}"]
    assert returned.say(state="registered", number=NUMBER).why == "known already: registered"
    assert len(returned.told()) == 1


def test_a_refused_document_keeps_the_code_and_none_of_the_words(returned: Returned) -> None:
    answer = returned.say(
        state="refused", code="VALIDATION_ERROR", told="у пациента Иванова неверный СНИЛС 112-233-445 95"
    )
    assert answer.verdict is Verdict.TAKEN
    row = returned.row
    assert (row.state, row.register_code) == (DocumentState.REFUSED, "VALIDATION_ERROR")
    assert "1.2.643.5.1.13.13.99.2.305" in returned.told()[0]
    assert not any(
        secret in text for secret in ("Иванов", "112-233") for text in [*returned.told(), repr(row), answer.why]
    )


def test_a_refused_document_may_be_registered_later_and_then_stays_so(returned: Returned) -> None:
    returned.say(state="refused", code="X1")
    returned.outbox.clock.move(60)
    assert returned.say(state="registered", number=NUMBER).verdict is Verdict.TAKEN
    later = returned.say(state="refused", code="X2")
    assert (later.verdict, returned.row.state) == (Verdict.REFUSED, DocumentState.REGISTERED)
    assert "cannot become refused" in later.why


def test_older_word_does_not_undo_newer(returned: Returned) -> None:
    now = returned.outbox.clock()
    returned.say(state="refused", code="X1", at=now.isoformat())
    before = (now - timedelta(hours=1)).isoformat()
    assert returned.say(state="registered", number=NUMBER, at=before).verdict is Verdict.REFUSED
    assert returned.row.state is DocumentState.REFUSED


def test_a_moment_in_the_future_is_taken_as_now(returned: Returned) -> None:
    returned.say(state="refused", code="X1", at="2999-01-01T00:00:00Z")
    assert returned.row.returned_at == returned.outbox.clock()


def test_who_only_says_signed_is_asked_for_the_signature(returned: Returned) -> None:
    answer = returned.say(state="signed")
    assert (answer.verdict, returned.row.state) == (Verdict.IGNORED, DocumentState.HANDED_OVER)
    assert "send its signature" in answer.why


def test_a_document_that_was_never_here_is_refused(returned: Returned) -> None:
    assert returned.say(document_id="0" * 64, state="registered", number="1").verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"[" * 50_000, "body"),
        (b"{" + b" " * 100_000 + b"}", "body"),
        (b'{"state": "lost"}', "state"),
        (b'{"state": "refused"}', "document_id"),
        (b'{"state": "refused", "document_id": "../../etc/passwd"}', "document_id"),
        (b'{"state": "registered", "document_id": "%s"}' % (b"a" * 64), "number"),
        (b'{"state": "registered", "number": "<script>", "document_id": "%s"}' % (b"a" * 64), "number"),
        ('{"state": "refused", "code": "Иванова", "document_id": "%s"}'.encode() % (b"a" * 64), "code"),
        (b'{"state": "refused", "at": "yesterday", "document_id": "%s"}' % (b"a" * 64), "at"),
        (b'{"state": "refused", "at": "2026-03-02T12:00:00", "document_id": "%s"}' % (b"a" * 64), "at"),
        ('{"state": "refused", "Иванова": 1}'.encode(), "body"),
    ],
)
def test_what_is_no_state_is_named_by_its_field(body: bytes, field: str) -> None:
    answer = read_state(body)
    assert isinstance(answer, Answer)
    assert (answer.verdict, answer.field) == (Verdict.UNREADABLE, field)
    assert not any(word in answer.why for word in ("Иванов", "script", "yesterday", "passwd"))


# signatures ----------------------------------------------------------------------------------------------------------


def test_a_draft_that_comes_back_signed_is_signed(returned: Returned, signer: PhysiciansSystem) -> None:
    answer = returned.desk.take_signature(returned.document_id, signer.sign(returned.draft))
    assert (answer.verdict, returned.row.state) == (Verdict.TAKEN, DocumentState.SIGNED)
    assert returned.told()[0].startswith("the signer of emr: the document is signed; the certificate's SHA-256 is ")
    assert returned.say(state="registered", number=NUMBER).verdict is Verdict.TAKEN
    assert returned.row.state is DocumentState.REGISTERED


@pytest.mark.parametrize("armour", ["base64", "pem"])
def test_a_signature_may_come_in_armour(returned: Returned, signer: PhysiciansSystem, armour: str) -> None:
    text = base64.encodebytes(signer.sign(returned.draft))
    if armour == "pem":
        text = b"-----BEGIN CMS-----\n" + text + b"-----END CMS-----\n"
    assert returned.desk.take_signature(returned.document_id, text).verdict is Verdict.TAKEN


def test_a_signature_over_other_bytes_is_refused_and_told(returned: Returned, signer: PhysiciansSystem) -> None:
    other = returned.draft.replace(b"1", b"2", 1)
    answer = returned.desk.take_signature(returned.document_id, signer.sign(other))
    assert (answer.verdict, returned.row.state) == (Verdict.REFUSED, DocumentState.HANDED_OVER)
    assert "not over the bytes that were handed over" in returned.told()[0]


def test_signatures_of_strangers_of_other_algorithms_and_of_nobody_are_refused(
    returned: Returned, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = enrolled(tmp_path_factory.mktemp("stranger"), "md_gost12_256", *GOST)
    rsa = enrolled(tmp_path_factory.mktemp("rsa"), "sha256", *RSA)
    whys = [
        returned.desk.take_signature(returned.document_id, signature).why
        for signature in (stranger.sign(returned.draft), rsa.sign(returned.draft), b"nothing", b"")
    ]
    assert [why.split(":")[0] for why in whys] == [
        "the signature is untrusted",
        "the signature is untrusted",
        "the signature is unreadable",
        "the signature is unreadable",
    ]
    assert returned.row.state is DocumentState.HANDED_OVER


def test_a_signature_after_the_number_leaves_the_document_registered(
    returned: Returned, signer: PhysiciansSystem
) -> None:
    returned.say(state="registered", number=NUMBER)
    answer = returned.desk.take_signature(returned.document_id, signer.sign(returned.draft))
    assert (answer.verdict, returned.row.state) == (Verdict.TAKEN, DocumentState.REGISTERED)
    assert answer.why.endswith("the document stays registered")


def test_a_signature_over_a_document_that_is_not_kept_any_more_is_refused(
    returned: Returned, signer: PhysiciansSystem
) -> None:
    path = returned.row.path
    assert path is not None
    returned.outbox.pipeline.store.path(path).unlink()
    answer = returned.desk.take_signature(returned.document_id, signer.sign(returned.draft))
    assert (answer.verdict, returned.row.state) == (Verdict.REFUSED, DocumentState.HANDED_OVER)
    assert "not kept any more" in answer.why


def test_without_trusted_certificates_no_signature_is_taken(
    tmp_path: Path, service: MoodyService, signer: PhysiciansSystem
) -> None:
    returned = Returned(tmp_path, service)
    try:
        signature = signer.sign(returned.draft)
        assert "trusted_file is not set" in returned.desk.take_signature(returned.document_id, signature).why
        gone = ReturnedSettings(trusted_file=tmp_path / "gone.pem")
        pipeline = returned.outbox.pipeline
        desk = ReturnDesk(gone, pipeline.ledger, pipeline.store, labels=set, zone=UTC)
        assert desk.take_signature(returned.document_id, signature).verdict is Verdict.LATER
        assert returned.row.state is DocumentState.HANDED_OVER
    finally:
        returned.close()


def test_states_and_signatures_come_through_the_folder(returned: Returned, signer: PhysiciansSystem) -> None:
    inbox = returned.desk.settings.folder
    assert inbox is not None
    inbox.mkdir()
    (inbox / f"{returned.document_id}.p7s").write_bytes(signer.sign(returned.draft))
    stop = threading.Event()
    thread = threading.Thread(target=returned.desk.run, args=(stop,))
    thread.start()
    try:
        assert eventually(lambda: returned.row.state is DocumentState.SIGNED)
        state = {"document_id": returned.document_id, "state": "registered", "number": NUMBER}
        (inbox / "state.part").write_text(json.dumps(state))
        (inbox / "state.part").rename(inbox / "state.json")
        assert eventually(lambda: returned.row.state is DocumentState.REGISTERED)
    finally:
        stop.set()
        thread.join(10.0)
    assert eventually(lambda: len(list((inbox / "taken").iterdir())) == 2)


# reports -------------------------------------------------------------------------------------------------------------


def test_a_report_by_accession_number_must_name_the_patient_of_the_images(returned: Returned) -> None:
    refused = returned.desk.take_hl7(oru(None, accession="ACC0", patient="P999"))
    assert (refused.verdict, "another patient" in refused.why) == (Verdict.REFUSED, True)
    taken = returned.desk.take_hl7(oru(None, accession="ACC0", patient="P0"))
    assert taken.verdict is Verdict.TAKEN
    assert returned.told() == ["the radiologist's report: opacity positive (agrees with toy-opacity@1.0.0)"]
