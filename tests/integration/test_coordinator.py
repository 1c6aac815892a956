"""The coordinator over a real ledger, store and archive: what it waits for, what wakes it, and how it keeps house."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from dicom_node import coordinator as coordinator_module
from dicom_node.coordinator import Coordinator
from dicom_node.ledger import deliveries, instances, jobs, retention
from dicom_node.node import Node
from dicom_node.reception import Happened, ReceptionBoard, Report
from dicom_node.states import DeliveryState, JobState, Outcome, StudyState
from dicom_node.withdrawal import retract
from inference.findings import StudyUid
from tests.archives import Orthanc, free_port
from tests.integration.receiving_rig import eventually
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import CHEST, OWNER, QUIET_S, PipelineRig, pacs

STUDY = "1.2.826.0.1.79"
A_DAY_S = 86_400.0


@pytest.fixture
def make(ledger_url: str, tmp_path: Path) -> Iterator[Callable[..., PipelineRig]]:
    """Rigs of one node, each with settings of its own, on a database of each kind."""
    made: list[PipelineRig] = []

    def one(**settings: Any) -> PipelineRig:
        made.append(PipelineRig(tmp_path, **{"ledger": {"url": ledger_url}} | settings))
        return made[-1]

    yield one
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make: Callable[..., PipelineRig]) -> PipelineRig:
    return make()


def film(rig: PipelineRig, name: str = "a", study: str = STUDY) -> Path:
    """A small frontal film."""
    values = {"StudyInstanceUID": study, "StudyID": "1", "PatientSex": "O"}
    return film_file(rig.folder / f"{name}.dcm", disc_picture(64, 48), **values)


def study_state(rig: PipelineRig, study: str = STUDY) -> StudyState:
    return rig.account(study).study.state


def counting(archive: Orthanc | int, **rules: object) -> dict[str, object]:
    """Settings that wait for the archive's own count."""
    port = archive if isinstance(archive, int) else archive.dimse_port
    title = "NOBODY" if isinstance(archive, int) else archive.ae_title
    return {
        "destination": [pacs("pacs", port=port, called_ae=title), pacs("web")],
        "assembly": {"archive_count": "pacs", "archive_count_deadline_s": 300.0} | rules,
    }


def step_until(one: Coordinator, condition: Callable[[], bool]) -> None:
    """Step without moving the node's clock: only answers that come in by themselves can change anything."""

    def step() -> bool:
        one.step()
        return condition()

    assert eventually(step)


@contextmanager
def looping(one: Coordinator) -> Iterator[threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=one.run, args=[stop], daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive(), "the loop does not end"


# the archive's own count ---------------------------------------------------------------------------------------------


def test_a_study_is_whole_when_all_that_the_archive_counts_has_come(
    make: Callable[..., PipelineRig], orthanc: Orthanc
) -> None:
    rig = make(**counting(orthanc))
    films = [film(rig, name) for name in "abc"]
    for path in films:
        orthanc.upload(path)
    one = Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig)))
    for path in films[:2]:
        rig.receive(path)
    rig.clock.move(QUIET_S)
    step_until(one, lambda: rig.account(STUDY).study.waiting_for == "the archive's own count: 3 instances")
    assert study_state(rig) is StudyState.RECEIVING
    rig.receive(films[2])
    rig.clock.move(QUIET_S)
    step_until(one, lambda: study_state(rig) is StudyState.COMPLETE)
    assert any("all 3 instances that the archive counts are here" in told for told in rig.told(STUDY))
    assert rig.account(STUDY).study.revision == 1


def test_after_the_deadline_the_study_is_incomplete_and_says_how_many_are_missing(
    make: Callable[..., PipelineRig], orthanc: Orthanc
) -> None:
    rig = make(**counting(orthanc))
    films = [film(rig, name) for name in "abc"]
    for path in films:
        orthanc.upload(path)
    one = Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig)))
    rig.receive(films[0])
    rig.clock.move(QUIET_S)
    step_until(one, lambda: rig.account(STUDY).study.waiting_for == "the archive's own count: 3 instances")
    rig.clock.move(300)
    one.step()  # asks anew, and does not take the silence until the answer for a study that is whole
    assert study_state(rig) is StudyState.INCOMPLETE
    assert any("2 of the 3 instances that the archive counts" in told for told in rig.told(STUDY))
    assert all(job.incomplete for job in rig.claim()), "what is there is analysed, marked as incomplete"


def test_a_count_from_before_the_last_image_does_not_make_a_study_whole(
    make: Callable[..., PipelineRig], orthanc: Orthanc
) -> None:
    rig = make(**counting(orthanc))
    films = [film(rig, name) for name in "abcd"]
    one = Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig)))
    orthanc.upload(films[0])
    rig.receive(films[0])
    rig.clock.move(QUIET_S)
    one.step()  # asks while the archive holds one
    time.sleep(0.5)  # the answer, one, is there but not looked at
    for path in films[1:]:
        orthanc.upload(path)
    rig.receive(films[1])
    rig.clock.move(QUIET_S)
    step_until(one, lambda: rig.account(STUDY).study.waiting_for == "the archive's own count: 4 instances")
    assert study_state(rig) is StudyState.RECEIVING


def test_an_archive_that_falls_silent_has_still_told_what_is_missing(
    make: Callable[..., PipelineRig], orthanc: Orthanc
) -> None:
    rig = make(**counting(orthanc))
    films = [film(rig, name) for name in "ab"]
    for path in films:
        orthanc.upload(path)
    one = Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig)))
    rig.receive(films[0])
    rig.clock.move(QUIET_S)
    step_until(one, lambda: rig.account(STUDY).study.waiting_for == "the archive's own count: 2 instances")
    orthanc.stop()
    for _ in range(4):
        rig.clock.move(100)
        one.step()
        one.keep_house()
    assert study_state(rig) is StudyState.INCOMPLETE
    assert any("1 of the 2 instances that the archive counts" in told for told in rig.told(STUDY))


def test_an_archive_that_cannot_be_asked_delays_a_study_only_until_the_deadline(
    make: Callable[..., PipelineRig],
) -> None:
    rig = make(**counting(free_port(), archive_count_deadline_s=60.0))
    one = Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig)))
    rig.receive(film(rig))
    rig.clock.move(QUIET_S)
    one.step()
    assert rig.account(STUDY).study.waiting_for == "the archive's own count: no answer yet"
    rig.clock.move(30)
    one.step()
    assert study_state(rig) is StudyState.RECEIVING
    rig.clock.move(60)
    one.step()
    assert study_state(rig) is StudyState.COMPLETE
    assert any("did not tell its count before the deadline" in told for told in rig.told(STUDY))


# who is still sending ------------------------------------------------------------------------------------------------


def rig_seconds(rig: PipelineRig) -> Callable[[], float]:
    """The rig's clock as monotonic seconds, for the board."""
    return lambda: rig.clock().timestamp()


def test_an_association_that_brought_images_holds_the_study_until_it_closes(rig: PipelineRig) -> None:
    board = ReceptionBoard(rig_seconds(rig))
    one = Coordinator(rig.pipeline, board)

    def report(happened: Happened) -> None:
        board.apply(
            "acceptor0",
            Report(happened=happened, association=7, study_uid=STUDY, calling_ae="MODALITY", peer_address="127.0.0.1"),
        )

    report(Happened.OPENED)
    rig.receive(film(rig))
    report(Happened.STORED)
    rig.clock.move(2)
    one.step()
    assert "is still open" in str(rig.account(STUDY).study.waiting_for)
    report(Happened.OBJECT_STARTED)
    report(Happened.OBJECT_KNOWN)
    rig.clock.move(A_DAY_S)
    one.step()
    assert "in the middle of an object of this study" in str(rig.account(STUDY).study.waiting_for)
    report(Happened.CLOSED)
    rig.clock.move(QUIET_S)
    one.step()
    assert study_state(rig) is StudyState.COMPLETE


def test_an_idle_association_does_not_hold_a_study_for_ever(rig: PipelineRig) -> None:
    board = ReceptionBoard(rig_seconds(rig))
    one = Coordinator(rig.pipeline, board)
    for happened in (Happened.OPENED, Happened.STORED):
        board.apply("acceptor0", Report(happened=happened, association=7, study_uid=STUDY, calling_ae="MODALITY"))
    rig.receive(film(rig))
    rig.clock.move(rig.settings.assembly.association_idle_s + 0.1)
    one.step()
    assert study_state(rig) is StudyState.COMPLETE


# the loop ------------------------------------------------------------------------------------------------------------


def test_a_stored_instance_wakes_the_loop(rig: PipelineRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "LONGEST_SLEEP_S", A_DAY_S)  # it would sleep until the test is given up
    board = ReceptionBoard(rig_seconds(rig))
    with looping(Coordinator(rig.pipeline, board)) as thread:
        time.sleep(0.2)  # it is asleep now
        rig.receive(film(rig))
        rig.clock.move(QUIET_S)
        for happened in (Happened.OPENED, Happened.STORED, Happened.CLOSED):
            board.apply("acceptor0", Report(happened=happened, association=7, study_uid=STUDY))

        def settled() -> bool:
            rig.clock.move(1)  # an association that was still open when it looked asks for another look
            return study_state(rig) is StudyState.COMPLETE

        assert eventually(settled)
        assert thread.is_alive()
        monkeypatch.undo()
        board.apply("acceptor0", Report(happened=Happened.OPENED, association=8))
        board.apply("acceptor0", Report(happened=Happened.STORED, association=8, study_uid=STUDY))


def test_a_step_that_fails_does_not_end_the_loop(rig: PipelineRig) -> None:
    with looping(Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig)))) as thread:
        with rig.pipeline.ledger.begin() as tx:
            tx.execute(sa.text("ALTER TABLE study RENAME TO study_away"))
        time.sleep(1.2)  # longer than it sleeps: a step and a sleep have failed
        assert thread.is_alive()
        with rig.pipeline.ledger.begin() as tx:
            tx.execute(sa.text("ALTER TABLE study_away RENAME TO study"))
        rig.receive(film(rig))
        rig.clock.move(QUIET_S)
        assert eventually(lambda: study_state(rig) is StudyState.COMPLETE)


def confirm_all(rig: PipelineRig) -> None:
    """Every delivery of the study has arrived."""
    with rig.pipeline.ledger.begin() as tx:
        for row in deliveries.of_study(tx, StudyUid(STUDY)):
            if row.state is DeliveryState.PENDING:
                deliveries.set_confirmed(tx, row.id, at=rig.clock(), how="shown")


# housekeeping --------------------------------------------------------------------------------------------------------


def test_jobs_of_a_silent_worker_are_queued_again_and_given_up_when_they_silence_three(
    rig: PipelineRig,
) -> None:
    one = Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig)))
    rig.receive(film(rig))
    rig.settle()
    for attempt in (1, 2, 3):
        with rig.pipeline.ledger.begin() as tx:
            (job,) = jobs.claim(
                tx,
                owner=OWNER,
                now=rig.pipeline.ledger.lease_now(tx),
                lease_s=0.05,
                limit=9,
                ageing_s=60,
                alone=attempt > 1,
            )
        assert job.attempts == attempt
        one.keep_house()
        rig.clock.move(60)
        time.sleep(0.1)  # PostgreSQL's leases go by its own clock
        one.keep_house()
        (job,) = rig.account(STUDY).jobs
        assert job.state is JobState.QUEUED and job.lease_owner is None
    assert str(job.refusal) and any("given up after 3 attempt(s)" in told for told in rig.told(STUDY))


def test_files_go_after_their_retention_when_every_delivery_has_ended(make: Callable[..., PipelineRig]) -> None:
    rig = make(
        storage={"soft_free_bytes": 0, "hard_free_bytes": 0, "reserve_bytes": 4096, "retention_days": 1 / A_DAY_S}
    )
    one = Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig)))

    def paths() -> list[Path]:
        return sorted((rig.settings.data_dir / "instances").rglob("*.dcm"))

    rig.receive(film(rig))
    rig.clock.move(A_DAY_S)
    one.keep_house()
    assert len(paths()) == 1, "it has not been looked at yet"
    rig.settle()
    rig.clock.move(A_DAY_S)
    one.keep_house()
    assert len(paths()) == 1, "its job waits"
    rig.work()
    rig.clock.move(A_DAY_S)
    one.keep_house()
    assert len(paths()) == 1, "its deliveries are pending"
    first, second = rig.account(STUDY).deliveries
    with rig.pipeline.ledger.begin() as tx:
        deliveries.set_failed(tx, first.id, at=rig.clock(), reason="refused")
    one.keep_house()
    assert len(paths()) == 1, "one delivery is pending"
    with rig.pipeline.ledger.begin() as tx:
        deliveries.set_confirmed(tx, second.id, at=rig.clock(), how="shown")
    one.keep_house()
    assert len(paths()) == 1, "a person may still want it sent again"
    rig.clock.move(A_DAY_S)
    one.keep_house()
    assert paths() == []
    with rig.pipeline.ledger.read() as tx:
        (row,) = instances.of_study(tx, StudyUid(STUDY))
    assert row.path is None, "the row stays and names no file"
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED
    rig.pipeline.store.free_reserve()
    one.keep_house()
    assert (rig.settings.data_dir / "reserve").stat().st_size == 4096, "what a full disk had taken is kept back again"


def test_results_go_with_the_images_but_for_what_a_withdrawal_needs(rig: PipelineRig) -> None:
    one = Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig)))
    rig.receive(film(rig))
    rig.settle()
    rig.work()
    written = rig.account(STUDY).results[0].objects
    assert len(rig.result_files()) == len(written) > 1
    confirm_all(rig)
    rig.clock.move(8 * A_DAY_S)
    one.keep_house()
    kept = [found for found in rig.account(STUDY).results[0].objects if found.path is not None]
    assert [found.size_bytes for found in kept] == [min(found.size_bytes for found in written)]
    assert [rig.pipeline.store.path(str(found.path)) for found in kept] == rig.result_files()
    assert retract(rig.pipeline.encoder, StudyUid(STUDY), "patient_safety") == 1
    one.keep_house()
    assert len(rig.result_files()) == 2, "the note has not arrived yet"
    confirm_all(rig)
    one.keep_house()
    assert len(rig.result_files()) == 2, "its retention begins when it arrives"
    rig.clock.move(8 * A_DAY_S)
    one.keep_house()
    assert rig.result_files() == [], "nothing that stands is left"
    assert all(found.path is None for row in rig.account(STUDY).results for found in row.objects)


def test_a_crash_while_files_are_evicted_raises_no_false_alarm_and_takes_nothing_up_again(
    make: Callable[..., PipelineRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    rig.receive(film(rig))
    rig.settle()
    rig.work()
    confirm_all(rig)
    rig.clock.move(8 * A_DAY_S)
    with monkeypatch.context() as crash:
        crash.setattr(Path, "unlink", lambda *_arguments, **_more: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Coordinator(rig.pipeline, ReceptionBoard(rig_seconds(rig))).keep_house()
    left = len(rig.result_files())
    assert left > 1 and list((rig.settings.data_dir / "instances").rglob("*.dcm"))
    before = rig.account(STUDY)
    node = Node(rig.settings)
    try:
        with capture_logs() as logged:
            node.recover()
    finally:
        node.shutdown()
    assert not any(entry.get("alarm") for entry in logged), "no acknowledged file is missing"
    assert list((rig.settings.data_dir / "instances").rglob("*.dcm")) == []
    assert len(rig.result_files()) == 1
    after = rig.account(STUDY)
    assert (after.study, after.events) == (before.study, before.events)


def test_a_node_that_starts_closes_what_waits_for_destinations_it_no_longer_has(
    make: Callable[..., PipelineRig],
) -> None:
    rig = make()
    rig.receive(film(rig))
    rig.settle()
    rig.work()
    rig = make(destination=[pacs("web")], routes=[{**CHEST, "destinations": ["web"]}])
    node = Node(rig.settings)
    try:
        node.recover()
    finally:
        node.shutdown()
    closed, open_ = rig.account(STUDY).deliveries
    assert (closed.destination, closed.state) == ("pacs", DeliveryState.FAILED)
    assert (open_.destination, open_.state) == ("web", DeliveryState.PENDING)
    assert any("destination pacs is no longer set" in told for told in rig.told(STUDY))


def test_an_image_that_comes_while_files_are_evicted_is_kept(rig: PipelineRig) -> None:
    """The list of what may go is made once; whoever comes back afterwards must not lose what was just acknowledged."""
    rig.receive(film(rig, "a"))
    rig.settle()
    rig.work()
    with rig.pipeline.ledger.begin() as tx:
        for row in rig.account(STUDY).deliveries:
            deliveries.set_confirmed(tx, row.id, at=rig.clock(), how="shown")
    before = rig.clock() + timedelta(days=1)
    with rig.pipeline.ledger.read() as tx:
        assert retention.evictable(tx, before, limit=9) == (STUDY,)
    late = threading.Thread(target=rig.receive, args=[film(rig, "b")])
    with rig.pipeline.ledger.begin() as tx:
        assert retention.still_evictable(tx, StudyUid(STUDY), before)
        late.start()
        time.sleep(0.3)  # it waits for its turn now
        going = instances.of_study(tx, StudyUid(STUDY), only_current=False)
        instances.forget_files(tx, [one.id for one in going])
    late.join(20)
    with rig.pipeline.ledger.begin() as tx:
        assert not retention.still_evictable(tx, StudyUid(STUDY), before)
        evicted, kept = instances.of_study(tx, StudyUid(STUDY))
    assert evicted.path is None and kept.path is not None
    assert (study_state(rig), rig.account(STUDY).study.revision) == (StudyState.RECEIVING, 2)
