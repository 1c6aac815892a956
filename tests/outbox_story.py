"""What drills of the outbox have in common: studies in several versions, and the account that is taken at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from lxml import etree

from dicom_node import withdrawal
from dicom_node.ledger.documents import DocumentRow
from dicom_node.states import DocumentKind, DocumentState
from inference.findings import StudyUid
from tests.outbox_rig import MoodyService, OutboxRig

V3 = {"v": "urn:hl7-org:v3"}


def report(rig: OutboxRig, numbers: Iterable[int], *, lesions: int) -> None:
    """One film of each of these studies comes, and a model says so many lesions of it."""
    for number in numbers:
        rig.study(number)
    rig.settle()
    for _nine in range(1000):
        jobs = rig.claim()
        if not jobs:
            return
        for job in jobs:
            rig.pipeline.encode(rig.say(job, rig.findings(job, lesions)), "node:worker0:1")


def take_back(rig: OutboxRig, numbers: Iterable[int]) -> None:
    """A person withdraws the results of these studies."""
    for number in numbers:
        withdrawal.retract(rig.pipeline.encoder, study_of(number), "quality")


def study_of(number: int) -> StudyUid:
    """As `OutboxRig.study` names it."""
    return StudyUid(f"1.2.826.0.1.77.{number}")


def assert_each_arrived_once_and_in_order(
    rows: Collection[DocumentRow], kept: Sequence[str], *, studies: Collection[StudyUid], versions: int
) -> None:
    """Every document that was not overtaken is at the receiver, once, and each study's in the order of its versions.

    Parameters
    ----------
    kept : sequence of str
        Document ids in the order in which the receiver first kept them.
    versions : int
        So many words were said of each study; overtaken ones among them never left.
    """
    arrived = [row for row in rows if row.state is not DocumentState.OVERTAKEN]
    others = [(row.state, row.reason) for row in arrived if row.state is not DocumentState.HANDED_OVER]
    assert not others, f"{len(others)} document(s) did not arrive: {Counter(others).most_common(5)}"
    assert all(row.finished_at for row in arrived), "one is still followed"
    twice = [name for name, count in Counter(kept).items() if count > 1]
    assert not twice, f"kept twice: {twice}"
    assert set(kept) == {row.document_id for row in arrived}, "the receiver holds others than left"
    place = {document_id: at for at, document_id in enumerate(kept)}
    for study in studies:
        said = sorted((row for row in rows if row.study_uid == study), key=lambda row: row.id)
        of_study = [row for row in said if row.state is not DocumentState.OVERTAKEN]
        assert len(said) in {versions, versions - 1}, "a withdrawal of what never left is nothing; all else is a row"
        order = sorted(of_study, key=lambda row: place[row.document_id])
        assert order == of_study, f"{study}: a later version overtook an earlier one"
        assert [row.version for row in order] == list(range(1, len(order) + 1))
        assert [row.replaces for row in order] == [None, *(row.document_id for row in order[:-1])][: len(order)]
        assert not order or order[0].kind is DocumentKind.REPORT


def assert_drafts_say_their_versions(rows: Collection[DocumentRow], service: MoodyService) -> None:
    """What the receiver reads in the drafts is what the ledger says of them; none came twice with other content."""
    assert service.conflicts == 0
    for row in rows:
        if row.state is DocumentState.OVERTAKEN:
            continue
        draft = etree.fromstring(service.held[row.document_id])
        told = [draft.xpath(f"string({path})", namespaces=V3) for path in ("/*/v:setId/@extension", VERSION)]
        assert told == [row.set_id, str(row.version)]


VERSION = "/*/v:versionNumber/@value"
