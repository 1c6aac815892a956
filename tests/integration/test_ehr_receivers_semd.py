"""The receiver of SEMD drafts: a folder as a physician's system empties it, and a service over real sockets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from dicom_node.ehr.answer import Accepted, Refused, Retry
from dicom_node.ehr.receiver import Held
from dicom_node.ehr.semd.destination import SemdDestination
from tests.record_receivers import draft_service, make_envelope, opened
from tests.semd_cases import make_document

DRAFT = b"<?xml version='1.0'?><ClinicalDocument/>"
ID = "d" * 64


def _folder(folder: Path) -> SemdDestination:
    return SemdDestination(name="physicians", folder=folder)


def test_a_draft_appears_whole_after_its_sidecar(tmp_path: Path) -> None:
    with opened(_folder(tmp_path)) as receiver:
        request = make_document()
        draft = receiver.write(request, replaced=None)
        assert receiver.send(draft, make_envelope(request)) == Accepted()
        assert receiver.confirm(make_envelope(request), ()) is Held.UNSAID
    assert (tmp_path / "doc-1.xml").read_bytes() == draft
    told = json.loads((tmp_path / "doc-1.json").read_text(encoding="utf-8"))
    assert told == {
        "document_id": "doc-1", "set_id": "set-1", "version": 1, "kind": "report",
        "study_uid": request.source.study_uid, "sha256": hashlib.sha256(draft).hexdigest(),
    }  # fmt: skip
    assert {one.name for one in tmp_path.iterdir()} == {"doc-1.xml", "doc-1.json"}


def test_ten_sends_leave_one_draft_and_other_bytes_are_never_put_in_its_place(tmp_path: Path) -> None:
    with opened(_folder(tmp_path)) as receiver:
        assert {receiver.send(DRAFT, make_envelope()) for _ in range(10)} == {Accepted()}
        answer = receiver.send(DRAFT + b" ", make_envelope())
    assert isinstance(answer, Refused) and "other content" in answer.reason
    assert (tmp_path / f"{ID}.xml").read_bytes() == DRAFT


def test_a_missing_folder_is_tried_again_and_not_made(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with opened(_folder(gone)) as receiver:
        answer = receiver.send(DRAFT, make_envelope())
        assert "No such file" in receiver.check()
        assert isinstance(answer, Retry) and "No such file" in answer.reason
        assert not gone.exists()
        gone.mkdir()
        assert receiver.check() == ""
        assert receiver.send(DRAFT, make_envelope()) == Accepted()


def test_a_service_gets_the_draft_and_says_that_it_has_it() -> None:
    request = make_document()
    with draft_service() as service, opened(SemdDestination(name="mis", url=service.url)) as receiver:
        draft = receiver.write(request, replaced=None)
        assert receiver.confirm(make_envelope(request), ()) is Held.NO
        for _ in range(10):
            assert receiver.send(draft, make_envelope(request)) == Accepted()
        assert receiver.confirm(make_envelope(request), ()) is Held.YES
        assert receiver.check() == ""
    assert service.held == {"doc-1": draft}
    assert service.heads[1]["Radnode-Set-Id"] == "set-1" and service.heads[1]["Radnode-Version"] == "1"
    assert service.heads[1]["Content-Type"] == "application/xml"
