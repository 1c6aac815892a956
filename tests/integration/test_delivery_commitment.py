"""Storage commitment: Orthanc calling back on an association of its own, and a peer that answers on ours."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import (
    ArchiveRejected,
    ArchiveUnreachable,
    CommitmentResult,
    OutboundObject,
    PacsDestination,
)
from dicom_node.dimse.commitment import read_event
from inference.findings import SopUid
from tests.archives import Orthanc, StoreScp, free_port, outbound_set
from tests.integration.receiving_rig import eventually, receiving

ANSWER_TIMEOUT_S = 20.0


@dataclass
class Asked:
    """What a coordinator would keep: transactions as registered, and answers as they came."""

    registered: list[str] = field(default_factory=list)
    answers: queue.Queue[CommitmentResult] = field(default_factory=queue.Queue)

    def request(self, destination: PacsDestination, objects: list[OutboundObject]) -> bool:
        archive = open_archive(destination)
        return archive.request_commitment(objects, register=self.registered.append, answered=self.answers.put)

    def heard(self, event: evt.Event) -> tuple[int, None]:
        result = read_event(event.event_information)
        assert result.transaction_uid in self.registered, "the answer came before its transaction was registered"
        self.answers.put(result)
        return 0, None


@contextmanager
def listening(asked: Asked) -> Iterator[int]:
    """Accept storage commitment events as the node does: the archive proposes itself in the SCP role."""
    entity = AE(ae_title="RADNODE")
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, asked.heard)])
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def pacs(port: int, title: str, **settings: object) -> PacsDestination:
    values: dict[str, object] = {"name": "archive", "host": "127.0.0.1", "port": port, "called_ae": title}
    return PacsDestination.model_validate(values | settings)


def uids(objects: list[OutboundObject]) -> set[SopUid]:
    return {item.sop_instance_uid for item in objects}


def test_orthanc_commits_to_what_it_stored_on_an_association_of_its_own(orthanc: Orthanc, tmp_path: Path) -> None:
    asked, objects = Asked(), outbound_set(tmp_path)
    destination = pacs(orthanc.dimse_port, orthanc.ae_title)
    with listening(asked) as port:
        orthanc.know("RADNODE", port)
        open_archive(destination).send(objects)
        assert asked.request(destination, objects)
        result = asked.answers.get(timeout=ANSWER_TIMEOUT_S)
    assert [result.transaction_uid] == asked.registered
    assert (result.committed, result.failed) == (uids(objects), {})


def test_orthanc_names_what_it_does_not_hold(orthanc: Orthanc, tmp_path: Path) -> None:
    asked, objects = Asked(), outbound_set(tmp_path)
    destination = pacs(orthanc.dimse_port, orthanc.ae_title)
    with listening(asked) as port:
        orthanc.know("RADNODE", port)
        open_archive(destination).send(objects[:2])
        assert asked.request(destination, objects)
        result = asked.answers.get(timeout=ANSWER_TIMEOUT_S)
    assert (result.committed, result.failed.keys()) == (uids(objects[:2]), uids(objects[2:]))


def test_orthancs_answer_reaches_the_nodes_own_receiver(orthanc: Orthanc, tmp_path: Path) -> None:
    asked, objects = Asked(), outbound_set(tmp_path)
    destination = pacs(orthanc.dimse_port, orthanc.ae_title)
    with receiving(tmp_path) as rig:
        orthanc.know("RADNODE", rig.port)
        open_archive(destination).send(objects)
        assert asked.request(destination, objects)
        assert eventually(lambda: rig.table.rows("commitment"))
        (row,) = rig.table.rows("commitment")
    assert [row["transaction_uid"]] == asked.registered
    assert set(json.loads(row["committed"])) == uids(objects)


def test_an_archive_that_does_not_know_this_node_is_asked_by_query(orthanc: Orthanc, tmp_path: Path) -> None:
    asked, objects = Asked(), outbound_set(tmp_path)
    destination = pacs(orthanc.dimse_port, orthanc.ae_title)
    archive = open_archive(destination)
    archive.send(objects)
    assert asked.request(destination, objects) is False
    assert archive.confirm(objects) == uids(objects)


def test_an_archive_without_commitment_is_asked_by_query(storescp: StoreScp, tmp_path: Path) -> None:
    asked, objects = Asked(), outbound_set(tmp_path)
    assert asked.request(pacs(storescp.dimse_port, storescp.ae_title), objects) is False
    assert asked.registered == []


def test_where_only_commitment_counts_its_absence_is_said(storescp: StoreScp, tmp_path: Path) -> None:
    destination = pacs(storescp.dimse_port, storescp.ae_title, confirm="commitment")
    with pytest.raises(ArchiveRejected, match="does not offer storage commitment"):
        Asked().request(destination, outbound_set(tmp_path))
    assert open_archive(destination).confirm(outbound_set(tmp_path)) == frozenset()


@pytest.mark.parametrize("mode", ["query", "none"])
def test_a_destination_that_does_not_use_commitment_is_not_asked_for_it(tmp_path: Path, mode: str) -> None:
    assert Asked().request(pacs(free_port(), "NOBODY", confirm=mode), outbound_set(tmp_path)) is False


def test_an_archive_that_is_down_cannot_be_asked(tmp_path: Path) -> None:
    asked = Asked()
    with pytest.raises(ArchiveUnreachable, match="no connection"):
        asked.request(pacs(free_port(), "NOBODY"), outbound_set(tmp_path))
    assert asked.registered == []


def event_information(request: Dataset, *, failed: int) -> Dataset:
    references = list(request.ReferencedSOPSequence)
    information = Dataset()
    information.TransactionUID = request.TransactionUID
    information.ReferencedSOPSequence = references[failed:]
    if failed:
        information.FailedSOPSequence = references[:failed]
        for reference in information.FailedSOPSequence:
            reference.FailureReason = 0x0110
    return information


def send_event(association: Association, request: Dataset, *, failed: int = 1) -> None:
    association.send_n_event_report(
        event_information(request, failed=failed),
        2 if failed else 1,
        StorageCommitmentPushModel,
        StorageCommitmentPushModelInstance,
    )


@contextmanager
def answering(respond: Callable[[evt.Event], tuple[int, None]]) -> Iterator[int]:
    """An archive that answers an N-ACTION as `respond` does."""
    entity = AE(ae_title="PEER")
    entity.add_supported_context(StorageCommitmentPushModel)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, respond)])
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def before_its_response(event: evt.Event) -> tuple[int, None]:
    send_event(event.assoc, event.action_information)
    return 0, None


def after_its_response(event: evt.Event) -> tuple[int, None]:
    request = event.action_information
    threading.Timer(0.2, send_event, (event.assoc, request)).start()
    return 0, None


@pytest.mark.parametrize("respond", [before_its_response, after_its_response])
def test_an_event_on_our_own_association_is_heard(
    tmp_path: Path, respond: Callable[[evt.Event], tuple[int, None]]
) -> None:
    asked, objects = Asked(), outbound_set(tmp_path)
    with answering(respond) as port:
        assert asked.request(pacs(port, "PEER", commitment_wait_s=10), objects)
    result = asked.answers.get_nowait()
    assert [result.transaction_uid] == asked.registered
    assert (result.committed, result.failed) == (uids(objects[1:]), dict.fromkeys(uids(objects[:1]), 0x0110))


def refuses(event: evt.Event) -> tuple[int, None]:
    return 0x0110, None


def falls_silent(event: evt.Event) -> tuple[int, None]:
    event.assoc.abort()
    return 0, None


def test_a_refused_request_leads_to_the_query(tmp_path: Path) -> None:
    with answering(refuses) as port:
        assert Asked().request(pacs(port, "PEER"), outbound_set(tmp_path)) is False
        with pytest.raises(ArchiveRejected, match="status 0110"):
            Asked().request(pacs(port, "PEER", confirm="commitment"), outbound_set(tmp_path))


def test_an_archive_that_aborts_instead_of_answering_has_refused(tmp_path: Path) -> None:
    asked = Asked()
    with answering(falls_silent) as port:
        assert asked.request(pacs(port, "PEER"), outbound_set(tmp_path)) is False
        with pytest.raises(ArchiveRejected, match="ending the association"):
            asked.request(pacs(port, "PEER", confirm="commitment"), outbound_set(tmp_path))
    assert len(asked.registered) == 2


def test_what_register_raises_stops_the_request(tmp_path: Path) -> None:
    def fail(transaction_uid: str) -> None:
        raise OSError("the ledger is full")

    seen: list[evt.Event] = []
    with answering(lambda event: (seen.append(event) or 0, None)) as port:
        archive = open_archive(pacs(port, "PEER"))
        with pytest.raises(OSError, match="ledger"):
            archive.request_commitment(outbound_set(tmp_path), register=fail, answered=Asked().answers.put)
    assert seen == []


def test_an_event_that_names_an_instance_twice_does_not_commit_to_it() -> None:
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = "1.2.3"
    information = Dataset()
    information.TransactionUID = generate_uid()
    information.ReferencedSOPSequence = [reference]
    information.FailedSOPSequence = [reference]
    result = read_event(information)
    assert (result.committed, result.failed) == (frozenset(), {"1.2.3": 0x0110})


def test_an_event_without_transaction_is_no_answer() -> None:
    with pytest.raises(ValueError, match="Transaction"):
        read_event(Dataset())
