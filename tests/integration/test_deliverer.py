"""Deliveries from the ledger to real archives, over every turn that a delivery can take.

Orthanc and storescp are what hospitals have; `Peer` is an archive over a real socket that can be told to refuse, to
forget and to keep silent.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    SecondaryCaptureImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)

from dicom_node.deliverer import Deliverer
from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import DicomwebDestination, OutboundObject, PacsDestination, Sent
from dicom_node.ledger import Ledger, deliveries, events, results, retention
from dicom_node.ledger.deliveries import DeliveryRow
from dicom_node.ledger.results import WrittenObject
from dicom_node.settings import DeliverySettings
from dicom_node.states import DeliveryState, Stage
from dicom_node.store import Store, StoreLimits
from inference.findings import SeriesUid, SopUid, StudyUid
from tests.archives import Orthanc, ScriptedServer, StoreScp, free_port, write_secondary_capture
from tests.integration.receiving_rig import eventually
from tests.ledgers import STUDY, TestClock, add_job
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import PipelineRig

OTHER = StudyUid("1.2.840.2")
AN_HOUR_S = 3600.0


@dataclass
class Peer:
    """An archive that does as it is told, on a port of its own."""

    port: int = 0
    statuses: dict[str, int] = field(default_factory=dict)  # of C-STORE, by SOP Instance UID; 0 for all others
    keeps: bool = True
    commitment: str = "none"  # none: not offered; refuse; silent; commits; fails
    stored: list[str] = field(default_factory=list)
    held: dict[str, tuple[str, str]] = field(default_factory=dict)
    associations: int = 0
    queries: int = 0
    commitments: int = 0

    @contextmanager
    def running(self) -> Iterator[Peer]:
        """Listen; on the same port again after the first time."""
        entity = AE(ae_title="PEER")
        entity.add_supported_context(SecondaryCaptureImageStorage)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if self.commitment != "none":
            entity.add_supported_context(StorageCommitmentPushModel)
        handlers: list[Any] = [
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_N_ACTION, self._commit),
        ]
        server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        assert server is not None
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()

    def _accepted(self, event: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int:
        dataset = event.dataset
        status = self.statuses.get(dataset.SOPInstanceUID, 0)
        self.stored.append(str(dataset.SOPInstanceUID))
        if status == 0 and self.keeps:
            self.held[str(dataset.SOPInstanceUID)] = (str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID))
        return status

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.queries += 1
        wanted = event.identifier
        for sop, (study, series) in list(self.held.items()):
            if (study, series) == (wanted.StudyInstanceUID, wanted.SeriesInstanceUID):
                found = Dataset()
                found.QueryRetrieveLevel = "IMAGE"
                found.StudyInstanceUID, found.SeriesInstanceUID, found.SOPInstanceUID = study, series, sop
                yield 0xFF00, found
        yield 0x0000, None

    def _commit(self, event: evt.Event) -> tuple[int, None]:
        self.commitments += 1
        if self.commitment in ("commits", "fails"):
            answer = event.action_information
            if self.commitment == "fails":
                answer.FailedSOPSequence = answer.ReferencedSOPSequence
                del answer.ReferencedSOPSequence
                for item in answer.FailedSOPSequence:
                    item.FailureReason = 0x0112
            event.assoc.send_n_event_report(
                answer,
                2 if self.commitment == "fails" else 1,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
        return (0x0110 if self.commitment == "refuse" else 0), None


@dataclass
class Rig:
    """A ledger, a store, and result sets of real files."""

    ledger: Ledger
    clock: TestClock
    store: Store
    folder: Path
    confirmed: list[int] = field(default_factory=list)
    revisions: int = 0

    def result(self, study: StudyUid = STUDY, *, count: int = 2) -> list[str]:
        """Commit a new result set of `count` objects for the study; returns their SOP Instance UIDs."""
        self.revisions += 1
        series, written = generate_uid(), []
        for number in range(count):
            path = self.folder / f"{self.revisions}.{number}.dcm"
            made = write_secondary_capture(path, study_uid=study, series_uid=series)
            written.append(
                WrittenObject(
                    role=f"sc{number}",
                    study_uid=study,
                    series_uid=series,
                    sop_class_uid=str(made.SOPClassUID),
                    sop_instance_uid=str(made.SOPInstanceUID),
                    path=self.store.write_result(path.read_bytes()),
                    size_bytes=path.stat().st_size,
                )
            )
        job_id = add_job(self.ledger, study=study, revision=self.revisions)
        with self.ledger.begin() as tx:
            results.commit(
                tx,
                job_id=job_id,
                study_uid=study,
                model_name="toy-opacity",
                profile="default",
                objects=written,
                destinations=["pacs"],
                at=self.clock(),
            )
        return [one.sop_instance_uid for one in written]

    def files(self, number: int = 0, study: StudyUid = STUDY) -> tuple[WrittenObject, ...]:
        """Objects of a result set."""
        with self.ledger.read() as tx:
            return results.of_study(tx, study)[number].objects

    def outbound(self, number: int = 0, study: StudyUid = STUDY) -> list[OutboundObject]:
        """Objects of a result set as an archive is given them."""
        return [
            OutboundObject(
                study_uid=one.study_uid,
                series_uid=SeriesUid(one.series_uid),
                sop_class_uid=one.sop_class_uid,
                sop_instance_uid=SopUid(one.sop_instance_uid),
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                path=self.store.path(str(one.path)),
            )
            for one in self.files(number, study)
        ]

    def deliverer(
        self, destination: PacsDestination | DicomwebDestination, ledger: Ledger | None = None, **settings: object
    ) -> Deliverer:
        """A deliverer to `destination`; its circuit, which goes by real time, opens for instants only."""
        values = {"first_retry_s": 0.02, "longest_retry_s": 0.08, "first_confirm_s": 0.01} | settings
        return Deliverer(
            destination,
            DeliverySettings.model_validate(values),
            ledger or self.ledger,
            self.store,
            on_confirmed=self._on_confirmed,
        )

    def _on_confirmed(self, row: DeliveryRow, at: datetime) -> None:
        self.confirmed.append(row.id)

    def row(self, number: int = 0, study: StudyUid = STUDY) -> DeliveryRow:
        """One delivery as the ledger has it now."""
        with self.ledger.read() as tx:
            return deliveries.of_study(tx, study)[number]

    def state(self, number: int = 0, study: StudyUid = STUDY) -> DeliveryState:
        return self.row(number, study).state

    def told(self, study: StudyUid = STUDY) -> str:
        """What the account of the study says of its deliveries."""
        with self.ledger.read() as tx:
            happened = events.of_study(tx, study)
        return "\n".join(f"{one.what}: {one.detail}" for one in happened if one.stage == Stage.DELIVER)

    def until(self, deliverer: Deliverer, condition: Callable[[], bool]) -> None:
        """Let hours pass, and deliver what is due, until `condition` holds."""

        def another_hour() -> bool:
            self.clock.move(AN_HOUR_S)
            deliverer.deliver_due()
            return condition()

        assert eventually(another_hour), f"{self.row()}"

    def sent_and_stopped(self, destination: PacsDestination) -> None:
        """What a node leaves that ended after the archive took the first result set and before it was confirmed."""
        with self.ledger.begin() as tx:
            (row,) = deliveries.claim_due(tx, "pacs", self.clock(), limit=1)
        outcomes = open_archive(destination).send(self.outbound())
        assert {outcome.sent for outcome in outcomes} == {Sent.ACCEPTED}
        with self.ledger.begin() as tx:
            deliveries.set_sent(tx, row.id, at=self.clock(), ask_again_at=self.clock(), reason="")


@pytest.fixture
def rig(ledger: Ledger, clock: TestClock, tmp_path: Path) -> Rig:
    limits = StoreLimits(soft_free_bytes=0, hard_free_bytes=0, reserve_bytes=0)
    store = Store(tmp_path / "data", limits)
    store.prepare()
    return Rig(ledger=ledger, clock=clock, store=store, folder=tmp_path)


def pacs(port: int, title: str = "PEER", **settings: object) -> PacsDestination:
    values: dict[str, object] = {"name": "pacs", "host": "127.0.0.1", "port": port, "called_ae": title}
    return PacsDestination.model_validate(values | {"confirm": "query"} | settings)


def of(server: Orthanc | StoreScp, **settings: object) -> PacsDestination:
    return pacs(server.dimse_port, server.ae_title, **settings)


# sent and confirmed --------------------------------------------------------------------------------------------------


def test_a_result_set_is_sent_and_confirmed_by_query(rig: Rig, orthanc: Orthanc) -> None:
    sops = rig.result()
    deliverer = rig.deliverer(of(orthanc))
    assert rig.state() is DeliveryState.PENDING
    assert deliverer.deliver_due()
    row = rig.row()
    assert (row.state, row.attempts, row.next_attempt_at) == (DeliveryState.CONFIRMED, 1, None)
    assert (row.reason, row.finished_at) == ("the destination shows every object", rig.clock())
    assert orthanc.sop_uids() == set(sops)
    assert rig.confirmed == [row.id]
    assert "sent to pacs, attempt 1" in rig.told() and "confirmed by pacs" in rig.told()
    rig.clock.move(AN_HOUR_S)
    assert not deliverer.deliver_due(), "nothing is left to do"


def test_where_nothing_can_be_asked_sent_is_final_and_says_so(rig: Rig, storescp: StoreScp) -> None:
    rig.result(count=2)
    deliverer = rig.deliverer(of(storescp, confirm="auto"))
    assert deliverer.deliver_due()
    row = rig.row()
    assert (row.state, row.next_attempt_at, row.finished_at) == (DeliveryState.SENT, None, rig.clock())
    assert row.reason is not None and "neither storage commitment nor query" in row.reason
    assert "which cannot confirm" in rig.told()
    assert len(storescp.files()) == 2
    rig.clock.move(AN_HOUR_S)
    assert not deliverer.deliver_due()


def test_a_destination_whose_confirmation_is_switched_off_is_not_asked(rig: Rig) -> None:
    sops = rig.result()
    with Peer(commitment="commits").running() as peer:
        rig.deliverer(pacs(peer.port, confirm="none")).deliver_due()
    assert (peer.stored, peer.queries, peer.commitments) == (sops, 0, 0)
    row = rig.row()
    assert (row.state, row.finished_at, row.reason) == (
        DeliveryState.SENT,
        rig.clock(),
        "not confirmed: by configuration",
    )
    assert rig.confirmed == []


def test_result_sets_of_two_studies_travel_in_one_association(rig: Rig) -> None:
    sops = [*rig.result(), *rig.result(OTHER)]
    with Peer().running() as peer:
        rig.deliverer(pacs(peer.port, confirm="none")).deliver_due()
    assert (peer.stored, peer.associations) == (sops, 1)
    assert rig.state() is rig.state(study=OTHER) is DeliveryState.SENT


def test_real_results_reach_an_archive_by_both_protocols(tmp_path: Path, orthanc: Orthanc) -> None:
    study = "1.2.826.0.1.78"
    pipeline = PipelineRig(tmp_path / "node")
    pipeline.receive(film_file(tmp_path / "film.dcm", disc_picture(64, 48), StudyInstanceUID=study, StudyID="1"))
    pipeline.settle()
    pipeline.work()
    rig = Rig(ledger=pipeline.pipeline.ledger, clock=pipeline.clock, store=pipeline.pipeline.store, folder=tmp_path)
    web = DicomwebDestination(name="web", kind="dicomweb", url=orthanc.dicomweb_url)
    for destination in (of(orthanc), web):
        deliverer = rig.deliverer(destination)
        rig.until(deliverer, lambda: len(rig.confirmed) > 0)
        deliverer.close()
        rig.confirmed.clear()
    with rig.ledger.read() as tx:
        rows = deliveries.of_study(tx, StudyUid(study))
    assert {row.destination: row.state for row in rows} == dict.fromkeys(("pacs", "web"), DeliveryState.CONFIRMED)
    written = {one.sop_instance_uid for one in rig.files(study=StudyUid(study))}
    assert orthanc.sop_uids() == written and len(orthanc.instances()) == len(written)
    pipeline.close()


# refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0xC000, 0xA900])
def test_what_is_refused_for_good_waits_for_a_person_and_is_then_sent_again(rig: Rig, status: int) -> None:
    sops = rig.result()
    with Peer(statuses=dict.fromkeys(sops, status)).running() as peer:
        deliverer = rig.deliverer(pacs(peer.port))
        deliverer.deliver_due()
        row = rig.row()
        assert (row.state, row.next_attempt_at, row.finished_at) == (DeliveryState.FAILED, None, rig.clock())
        assert row.reason is not None and f"status {status:04X}" in row.reason
        assert "refused by pacs" in rig.told()
        rig.clock.move(AN_HOUR_S)
        assert not deliverer.deliver_due(), "it is not tried again by itself"
        peer.statuses.clear()
        with rig.ledger.begin() as tx:
            assert deliveries.make_due(tx, rig.clock(), study_uid=STUDY, destination=None) == 1
        assert deliverer.deliver_due()
    assert (rig.state(), rig.row().attempts) == (DeliveryState.CONFIRMED, 2)
    assert set(peer.held) == set(sops)


def test_one_refused_object_fails_its_set_and_no_other(rig: Rig) -> None:
    refused, accepted = rig.result()
    others = rig.result(OTHER)
    with Peer(statuses={refused: 0xC123}).running() as peer:
        rig.deliverer(pacs(peer.port)).deliver_due()
    row = rig.row()
    assert row.state is DeliveryState.FAILED
    assert row.reason is not None and "status C123" in row.reason
    assert set(peer.held) == {accepted, *others}
    assert rig.state(study=OTHER) is DeliveryState.CONFIRMED


def test_a_newer_result_of_a_study_goes_on_when_the_older_is_refused(rig: Rig) -> None:
    refused, newer = rig.result(count=1), rig.result(count=1)
    with Peer(statuses={refused[0]: 0xC000}).running() as peer:
        deliverer = rig.deliverer(pacs(peer.port))
        deliverer.deliver_due()
        deliverer.deliver_due()
    assert peer.stored == [*refused, *newer]
    assert (rig.state(0), rig.state(1)) == (DeliveryState.FAILED, DeliveryState.CONFIRMED)


# accepted and not there ----------------------------------------------------------------------------------------------


def test_what_an_archive_took_and_then_lost_is_sent_again(rig: Rig, orthanc: Orthanc) -> None:
    sops = rig.result()
    rig.sent_and_stopped(of(orthanc))
    orthanc.clear()
    deliverer = rig.deliverer(of(orthanc), resend_after_confirmations=3)
    for asked in (1, 2):
        assert deliverer.deliver_due()
        assert (rig.state(), rig.row().confirmations_asked) == (DeliveryState.SENT, asked)
        assert "2 object(s) not shown yet" in str(rig.row().reason)
        rig.clock.move(AN_HOUR_S)
    assert deliverer.deliver_due()
    assert rig.state() is DeliveryState.PENDING
    assert "not there though they were accepted" in rig.told()
    rig.until(deliverer, lambda: rig.state() is DeliveryState.CONFIRMED)
    assert orthanc.sop_uids() == set(sops)


def test_after_each_sending_the_questions_are_counted_anew(rig: Rig) -> None:
    rig.result(count=1)
    with Peer(keeps=False).running() as peer:
        deliverer = rig.deliverer(pacs(peer.port), resend_after_confirmations=3)
        rig.until(deliverer, lambda: len(peer.stored) == 3)
    assert peer.queries == 2 * 3 + 1, "three in vain after each of two sendings, one after the third"


def test_a_node_that_starts_again_confirms_without_sending_again(rig: Rig, orthanc: Orthanc) -> None:
    rig.result()
    rig.sent_and_stopped(of(orthanc))
    with rig.ledger.begin() as tx:
        deliveries.claim_again(tx, rig.row().id, rig.clock())
        deliveries.register_commitment(tx, "1.2.3.4", rig.row().id, rig.clock())
    deliverer = rig.deliverer(of(orthanc, confirm="auto"))
    assert not deliverer.deliver_due(), "the last run still holds it"
    with rig.ledger.begin() as tx:  # what a node does when it starts
        assert deliveries.release_attempts(tx) == 1
        assert deliveries.forget_all_unanswered_commitments(tx, rig.clock()) == 1
    assert deliverer.deliver_due()
    assert (rig.state(), rig.row().attempts) == (DeliveryState.CONFIRMED, 1)
    assert len(orthanc.instances()) == 2


# storage commitment --------------------------------------------------------------------------------------------------


def test_what_an_archive_does_not_commit_to_is_sent_and_asked_for_again(rig: Rig) -> None:
    sops = rig.result()
    with Peer(commitment="fails").running() as peer:
        deliverer = rig.deliverer(pacs(peer.port, confirm="commitment"))
        rig.until(deliverer, lambda: "does not commit to 2 object(s)" in rig.told())
        assert (rig.state(), peer.commitments) == (DeliveryState.PENDING, 1)
        peer.commitment = "commits"
        rig.until(deliverer, lambda: rig.state() is DeliveryState.CONFIRMED)
    assert (peer.stored, peer.commitments, peer.queries) == (sops * 2, 2, 0)
    assert (rig.row().attempts, rig.row().reason) == (2, "storage commitment")


def test_where_commitment_stays_without_answer_the_query_decides(rig: Rig) -> None:
    rig.result()
    with Peer(commitment="silent").running() as peer:
        deliverer = rig.deliverer(pacs(peer.port, confirm="auto", commitment_patience_s=60))
        deliverer.deliver_due()
        assert (rig.state(), rig.row().reason) == (DeliveryState.SENT, "awaits storage commitment")
        rig.clock.move(59)
        assert not deliverer.deliver_due()
        rig.clock.move(2)
        deliverer.deliver_due()
    assert (rig.state(), peer.commitments, peer.queries) == (DeliveryState.CONFIRMED, 1, 1)


def test_where_only_commitment_counts_it_is_asked_for_again(rig: Rig) -> None:
    sops = rig.result()
    with Peer(commitment="silent").running() as peer:
        deliverer = rig.deliverer(pacs(peer.port, confirm="commitment", commitment_patience_s=60))
        deliverer.deliver_due()
        for asked in (2, 3):
            rig.clock.move(61)
            deliverer.deliver_due()
            assert (rig.state(), peer.commitments) == (DeliveryState.SENT, asked)
        peer.commitment = "commits"
        rig.until(deliverer, lambda: rig.state() is DeliveryState.CONFIRMED)
    assert (peer.stored, peer.queries) == (sops, 0), "the objects themselves were sent once"


def test_an_archive_that_refuses_commitment_is_not_asked_each_time(rig: Rig) -> None:
    with Peer(commitment="refuse").running() as peer:
        deliverer = rig.deliverer(pacs(peer.port, confirm="auto"))
        for _ in range(3):
            rig.result()
            deliverer.deliver_due()
    assert (peer.commitments, peer.queries) == (1, 3)
    assert [rig.state(number) for number in range(3)] == [DeliveryState.CONFIRMED] * 3
    with rig.ledger.read() as tx:
        assert deliveries.newest_commitment(tx, rig.row().id) is None, "a refused request awaits no answer"


# down ----------------------------------------------------------------------------------------------------------------


def test_while_an_archive_is_down_the_waits_grow_and_nothing_is_lost_or_overtakes(rig: Rig) -> None:
    older, newer, other = rig.result(), rig.result(), rig.result(OTHER)
    peer = Peer(port=free_port())
    deliverer = rig.deliverer(pacs(peer.port), first_retry_s=0.01, longest_retry_s=0.08)
    waits_s: list[float] = []
    for attempt in (1, 2, 3):
        assert deliverer.deliver_due()
        row = rig.row()
        assert (row.state, row.attempts) == (DeliveryState.PENDING, attempt)
        assert row.next_attempt_at is not None and row.reason is not None and "no connection" in row.reason
        waits_s.append((row.next_attempt_at - rig.clock()).total_seconds())
        rig.clock.now = row.next_attempt_at
        rig.clock.move(1)
    assert waits_s == sorted(set(waits_s)), "each wait is longer than the one before"
    assert rig.row(1).attempts == 0, "the newer result of the study waits for the older"
    with peer.running():
        rig.until(deliverer, lambda: len(peer.held) == len(older + newer + other))
        rig.until(deliverer, lambda: len(rig.confirmed) == 3)
    of_study = [sop for sop in peer.stored if sop not in other]
    assert of_study == older + newer, "each object once, in order"


def test_a_destination_that_fails_three_times_is_left_alone(rig: Rig) -> None:
    rig.result()

    def hang_up(connection: socket.socket) -> None:
        connection.recv(1)

    with ScriptedServer(hang_up) as server:
        deliverer = rig.deliverer(pacs(server.port), first_retry_s=600, longest_retry_s=900)
        for _ in range(3):
            assert deliverer.deliver_due()
            rig.clock.move(AN_HOUR_S)
        rig.result(OTHER)
        assert not deliverer.deliver_due(), "due, but the circuit is open"
        assert server.connections == 3
    assert rig.state() is rig.state(study=OTHER) is DeliveryState.PENDING


def test_a_probe_that_only_asked_does_not_keep_the_circuit_open(rig: Rig) -> None:
    rig.result(OTHER)
    peer = Peer(port=free_port())
    deliverer = rig.deliverer(pacs(peer.port))
    for _ in range(3):
        deliverer.deliver_due()
        rig.clock.move(1)
    rig.clock.move(-1)  # the failed delivery is not due now, but a question is
    rig.result()
    with rig.ledger.begin() as tx:
        deliveries.set_sent(tx, rig.row().id, at=rig.clock(), ask_again_at=rig.clock(), reason="")
    assert eventually(deliverer.deliver_due), "the circuit lets a probe through"
    assert rig.state() is DeliveryState.SENT and "no connection" in str(rig.row().reason)
    with peer.running():
        rig.until(deliverer, lambda: rig.state(study=OTHER) is DeliveryState.CONFIRMED)


def test_questions_that_nobody_hears_open_the_circuit_too(rig: Rig) -> None:
    rig.result()
    with rig.ledger.begin() as tx:
        deliveries.set_sent(tx, rig.row().id, at=rig.clock(), ask_again_at=rig.clock(), reason="")
    deliverer = rig.deliverer(pacs(free_port()), first_retry_s=600, longest_retry_s=900)
    for _ in range(3):
        assert deliverer.deliver_due()
        rig.clock.move(AN_HOUR_S)
    rig.result(OTHER)
    assert not deliverer.deliver_due(), "due, but the circuit is open"
    assert rig.row(study=OTHER).attempts == 0


def test_a_probe_in_which_nothing_could_be_sent_is_given_back(rig: Rig) -> None:
    rig.result()
    peer = Peer(port=free_port())
    deliverer = rig.deliverer(pacs(peer.port))
    for _ in range(3):
        deliverer.deliver_due()
        rig.clock.move(1)
    lost = rig.store.path(str(rig.files()[0].path))
    aside = lost.rename(lost.with_suffix(".aside"))
    assert eventually(deliverer.deliver_due), "the circuit lets a probe through, which finds no file"
    assert rig.state() is DeliveryState.FAILED
    aside.rename(lost)
    with rig.ledger.begin() as tx:
        deliveries.make_due(tx, rig.clock(), study_uid=None, destination="pacs")
    with peer.running():
        assert deliverer.deliver_due(), "the next probe is let through at once"
    assert rig.state() is DeliveryState.CONFIRMED


def test_a_question_that_cannot_be_asked_is_put_off_longer_and_longer(rig: Rig) -> None:
    rig.result()
    with rig.ledger.begin() as tx:
        deliveries.set_sent(tx, rig.row().id, at=rig.clock(), ask_again_at=rig.clock(), reason="")
    waits_s = []
    for _ in range(10):  # with every draw of the jitter at its shortest the tenth wait is 120 s
        deliverer = rig.deliverer(pacs(free_port()), first_retry_s=10, longest_retry_s=900)  # its circuit is closed
        assert deliverer.deliver_due()
        asked_again_at = rig.row().next_attempt_at
        assert asked_again_at is not None
        waits_s.append((asked_again_at - rig.clock()).total_seconds())
        rig.clock.now = asked_again_at
    assert rig.row().confirmations_asked == 0, "a question that was not heard leads to no second sending"
    assert waits_s[0] <= 10 < 80 < waits_s[-1] <= 900


def test_an_archive_that_rejects_this_node_says_what_to_change(rig: Rig, orthanc: Orthanc) -> None:
    rig.result()
    rig.deliverer(of(orthanc, called_ae="NOBODY")).deliver_due()
    row = rig.row()
    assert row.state is DeliveryState.PENDING
    assert row.reason is not None and "set called_ae, which is NOBODY" in row.reason
    assert row.reason in rig.told()
    rig.until(rig.deliverer(of(orthanc)), lambda: rig.state() is DeliveryState.CONFIRMED)


# a destination that is no longer set ----------------------------------------------------------------------------------


def test_what_waits_for_a_destination_that_is_no_longer_set_is_closed_and_can_be_retried(rig: Rig) -> None:
    sops = rig.result()
    with rig.ledger.begin() as tx:
        assert deliveries.unknown_destinations(tx, ["pacs"]) == {}
        assert deliveries.unknown_destinations(tx, ["other"]) == {"pacs": 1}
        assert deliveries.close_unknown(tx, ["pacs"], rig.clock()) == 0
        assert deliveries.close_unknown(tx, [], rig.clock()) == 1
    row = rig.row()
    assert (row.state, row.finished_at) == (DeliveryState.FAILED, rig.clock())
    assert row.reason == "destination pacs is no longer set" and row.reason in rig.told()
    with rig.ledger.begin() as tx:
        assert deliveries.close_unknown(tx, [], rig.clock()) == 0, "once"
        assert deliveries.make_due(tx, rig.clock(), study_uid=STUDY, destination=None, known=["other"]) == 0
        assert deliveries.make_due(tx, rig.clock(), study_uid=STUDY, destination=None, known=["pacs"]) == 1
    with Peer().running() as peer:
        rig.deliverer(pacs(peer.port)).deliver_due()
    assert (peer.stored, rig.state()) == (sops, DeliveryState.CONFIRMED)


# the node's own disk and ledger --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "cut short"])
def test_a_lost_result_file_fails_its_own_delivery_and_holds_up_no_other(rig: Rig, how: str) -> None:
    rig.result()
    sops = rig.result(OTHER)
    lost = str(rig.files()[1].path)
    whole = rig.store.path(lost).read_bytes()
    rig.store.path(lost).unlink() if how == "gone" else rig.store.path(lost).write_bytes(whole[:700])
    with Peer().running() as peer:
        deliverer = rig.deliverer(pacs(peer.port))
        deliverer.deliver_due()
        row = rig.row()
        assert (row.state, row.finished_at) == (DeliveryState.FAILED, rig.clock())
        assert row.reason is not None and lost in row.reason and row.reason in rig.told()
        assert (peer.stored, rig.state(study=OTHER)) == (sops, DeliveryState.CONFIRMED)
        rig.store.path(lost).write_bytes(whole)
        with rig.ledger.begin() as tx:
            deliveries.make_due(tx, rig.clock(), study_uid=STUDY, destination="pacs")
        deliverer.deliver_due()
    assert rig.state() is DeliveryState.CONFIRMED


def test_a_result_whose_files_were_evicted_says_so_when_a_person_wants_it_sent_again(rig: Rig) -> None:
    rig.result()
    with rig.ledger.begin() as tx:
        deliveries.set_failed(tx, rig.row().id, at=rig.clock(), reason="refused")
        retention.forget_files(tx, STUDY)
        deliveries.make_due(tx, rig.clock(), study_uid=STUDY, destination=None)
    with Peer().running() as peer:
        assert rig.deliverer(pacs(peer.port)).deliver_due()
    assert (rig.state(), peer.associations) == (DeliveryState.FAILED, 0)
    assert "its files were evicted" in str(rig.row().reason) and "its files were evicted" in rig.told()


def test_files_that_the_disk_does_not_give_now_are_tried_again_and_close_no_circuit(rig: Rig) -> None:
    rig.result()
    path = rig.store.path(str(rig.files()[0].path))
    aside = path.rename(path.with_suffix(".aside"))
    path.mkdir()  # cannot be opened, whoever runs the tests
    with Peer().running() as peer:
        deliverer = rig.deliverer(pacs(peer.port), first_retry_s=600, longest_retry_s=900)
        for attempt in (1, 2, 3, 4):
            assert deliverer.deliver_due()
            assert (rig.state(), rig.row().attempts) == (DeliveryState.PENDING, attempt)
            rig.clock.move(AN_HOUR_S)
        assert "cannot be read now" in str(rig.row().reason) and peer.associations == 0
        path.rmdir()
        aside.rename(path)
        assert deliverer.deliver_due()
    assert rig.state() is DeliveryState.CONFIRMED


def test_the_loop_outlives_a_ledger_that_fails_for_a_while(rig: Rig) -> None:
    rig.result()
    with Peer().running() as peer:
        deliverer = rig.deliverer(pacs(peer.port), poll_s=0.01)
        with rig.ledger.begin() as tx:
            tx.execute(sa.text("ALTER TABLE delivery RENAME TO delivery_away"))
        stop = threading.Event()
        loop = threading.Thread(target=deliverer.run, args=[stop])
        loop.start()
        try:
            time.sleep(0.2)  # some rounds fail
            assert loop.is_alive() and peer.associations == 0
            with rig.ledger.begin() as tx:
                tx.execute(sa.text("ALTER TABLE delivery_away RENAME TO delivery"))
            assert eventually(lambda: rig.state() is DeliveryState.CONFIRMED)
        finally:
            stop.set()
            loop.join(20)
        assert not loop.is_alive()
