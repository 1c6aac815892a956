"""The way of a study through the pipeline, with real files, a real ledger and the real result writers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa

from dicom_node import assembly
from dicom_node.dimse.recovery import reindexer
from dicom_node.facts import InstanceFacts
from dicom_node.ledger import deliveries, instances, jobs, studies
from dicom_node.retention import Retention
from dicom_node.states import DeliveryState, InstanceState, JobState, Outcome, StudyState
from dicom_node.withdrawal import retract
from inference.findings import StudyUid
from inference.refusals import Reason, Refusal
from tests.pictures import disc_picture, film_data_set, film_file, save
from tests.pipeline_rig import CHEST, OWNER, QUIET_S, PipelineRig

STUDY = "1.2.826.0.1.77"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., PipelineRig]]:
    made: list[PipelineRig] = []

    def one(**settings: Any) -> PipelineRig:
        made.append(PipelineRig(tmp_path, **settings))
        return made[-1]

    yield one
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make: Callable[..., PipelineRig]) -> PipelineRig:
    return make()


def film(rig: PipelineRig, name: str = "a", **changes: object) -> Path:
    """A small frontal film of `STUDY`."""
    values = {"StudyInstanceUID": STUDY, "StudyID": "1", "PatientSex": "O"} | changes
    return film_file(rig.folder / f"{name}.dcm", disc_picture(64, 48), **values)


def analysed(rig: PipelineRig, **changes: object) -> str:
    """A study with one result that stands."""
    rig.receive(film(rig, **changes))
    assert rig.settle() == 1
    assert len(rig.work()) == 1
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED
    return STUDY


def sent_everywhere(rig: PipelineRig) -> None:
    """Every delivery of the study was confirmed by its destination."""
    with rig.pipeline.ledger.begin() as tx:
        for row in deliveries.of_study(tx, StudyUid(STUDY)):
            deliveries.set_confirmed(tx, row.id, at=rig.clock(), how="a query")


def study_input_of(rig: PipelineRig) -> int:
    with rig.pipeline.ledger.read() as tx:
        return len([job for job in jobs.of_study(tx, StudyUid(STUDY)) if job.state is JobState.QUEUED])


# the straight way ----------------------------------------------------------------------------------------------------


def test_a_real_chest_film_goes_the_whole_way(rig: PipelineRig, shared_data: Path) -> None:
    path = shared_data / "dicom_samples" / "pydicom-data_RG1_J2KI.dcm"
    header = pydicom.dcmread(path, stop_before_pixels=True)
    study_uid = str(header.StudyInstanceUID)
    rig.receive(path)
    assert rig.pipeline.assemble() == 0, "its header has not been read"
    assert rig.settle() == 1
    (job,) = rig.work()
    account = rig.account(study_uid)
    assert (account.study.state, account.study.outcome) == (StudyState.COMPLETE, Outcome.ANALYSED)
    (result,) = account.results
    assert {one.role for one in result.objects} >= {"sr", "overlay"}
    assert [(row.destination, row.state) for row in account.deliveries] == [("pacs", "pending"), ("web", "pending")]
    report = rig.result(study_uid, "sr")
    assert report.PatientName == header.PatientName and report.StudyInstanceUID == study_uid
    stages = [event.stage for event in account.events]
    assert stages == ["receive", "assemble", "route", "infer", "encode", "encode"]
    (done,) = account.jobs
    assert done.state is JobState.SUCCEEDED and set(done.timings_s) == {"load", "encode"}
    assert done.findings is not None and done.findings.digest == rig.findings(job).digest
    assert str(header.PatientName) not in " ".join(rig.told(study_uid))


def test_each_profile_is_written_once_and_each_destination_gets_its_own(make: Callable[..., PipelineRig]) -> None:
    from tests.pipeline_rig import pacs

    rig = make(
        profile=[{"name": "default"}, {"name": "english", "language": "en", "overlay": False}],
        destination=[pacs("pacs"), pacs("second"), pacs("web", profile="english")],
        routes=[{**CHEST, "destinations": ["pacs", "web", "second"]}],
    )
    account = rig.account(analysed(rig))
    by_profile = {row.profile: row.id for row in account.results}
    assert set(by_profile) == {"default", "english"}
    owners = {row.destination: row.result_set_id for row in account.deliveries}
    assert owners == {"pacs": by_profile["default"], "second": by_profile["default"], "web": by_profile["english"]}


def test_a_refusal_is_written_as_a_result(rig: PipelineRig) -> None:
    rig.receive(film(rig, ViewPosition="LL"))
    rig.settle()
    rig.work(refusal=Refusal(reason=Reason.VIEW, detail="LL; the model accepts PA, AP"))
    account = rig.account(STUDY)
    assert (account.study.outcome, account.study.outcome_reason) == (Outcome.NOT_ANALYSED, "view")
    assert [one.role for one in account.results[0].objects] == ["status_page"]
    assert account.jobs[0].state is JobState.REJECTED


def test_a_study_that_no_rule_fits_says_which_rule_stumbled_over_what(rig: PipelineRig) -> None:
    rig.receive(film(rig, SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2", Modality="MG"))
    rig.clock.move(400)
    rig.settle()
    rig.clock.move(400)
    rig.settle()
    study = rig.account(STUDY).study
    assert (study.state, study.outcome) == (StudyState.INCOMPLETE, Outcome.NO_ROUTE)
    assert "modality is 'MG', wanted 'CR' or 'DX'" in str(study.outcome_detail)
    assert rig.claim() == ()


# revisions -----------------------------------------------------------------------------------------------------------


def test_a_late_lateral_film_makes_no_job_and_no_object(rig: PipelineRig) -> None:
    analysed(rig)
    files = rig.result_files()
    rig.receive(film(rig, "lateral", ViewPosition="LL"))
    assert rig.settle() == 1
    assert rig.claim() == ()
    account = rig.account(STUDY)
    assert (account.study.revision, account.study.outcome) == (2, Outcome.ANALYSED)
    assert len(account.results) == 1 and rig.result_files() == files
    assert any("whose result stands" in words for words in rig.told(STUDY))


def test_a_film_sent_again_changes_nothing_at_all(rig: PipelineRig) -> None:
    analysed(rig)
    before = rig.account(STUDY)
    rig.receive(film_again := rig.folder / "a.dcm")
    assert film_again.exists() and rig.settle() == 0
    assert rig.account(STUDY) == before


def test_a_second_film_while_the_first_is_analysed_outdates_its_job(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    (slow,) = rig.claim()
    rig.receive(film(rig, "b", ViewPosition="AP"))
    rig.settle()
    (newer,) = rig.work()
    late = rig.say(slow)
    assert late.state is JobState.OUTDATED
    account = rig.account(STUDY)
    assert [row.job_id for row in account.results] == [newer.id]
    assert account.study.outcome is Outcome.ANALYSED


def test_a_result_that_was_being_written_for_an_older_revision_is_not_committed(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    (slow,) = rig.claim()
    slow = rig.say(slow)
    rig.receive(film(rig, "b", ViewPosition="AP"))
    rig.settle()
    rig.work()
    files = rig.result_files()
    rig.pipeline.encode(slow, OWNER)
    assert rig.result_files() == files
    assert [row.is_current for row in rig.account(STUDY).results] == [True]


def test_an_image_without_use_for_the_running_model_waits_for_no_second_job(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    (running,) = rig.claim()
    rig.receive(film(rig, "lateral", ViewPosition="LL"))
    rig.settle()
    assert study_input_of(rig) == 0
    rig.pipeline.encode(rig.say(running), OWNER)
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED


def test_other_findings_supersede_and_name_their_predecessors(rig: PipelineRig) -> None:
    analysed(rig)
    first = rig.result(STUDY, "sr")
    rig.receive(film(rig, "b", ViewPosition="AP"))
    rig.settle()
    (job,) = rig.claim()
    rig.pipeline.encode(rig.say(job, rig.findings(job, lesions=2)), OWNER)
    account = rig.account(STUDY)
    assert [row.is_current for row in account.results] == [False, True]
    second = rig.result(STUDY, "sr")
    predecessor = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert predecessor.ReferencedSOPInstanceUID == first.SOPInstanceUID != second.SOPInstanceUID
    assert len(account.deliveries) == 4


def test_inputs_that_the_model_saw_before_leave_the_result_as_it_is(rig: PipelineRig) -> None:
    analysed(rig)
    known = rig.account(STUDY).jobs[0].inputs_digest
    rig.receive(film(rig, "b", ViewPosition="AP"))
    rig.settle()
    (job,) = rig.claim()
    assert rig.pipeline.study_input(job).known_inputs_digest == known is not None
    assert rig.say(job, unchanged=True).state is JobState.UNCHANGED
    account = rig.account(STUDY)
    assert len(account.results) == 1 and account.study.outcome is Outcome.ANALYSED


def test_a_study_that_changes_too_often_waits_for_a_person(make: Callable[..., PipelineRig]) -> None:
    rig = make(assembly={"max_revisions_per_day": 2})
    for number in range(3):
        rig.receive(film(rig, f"film{number}"))
        settled = rig.settle()
    assert settled == 0
    study = rig.account(STUDY).study
    assert study.revision == 3 and "radnode retry" in str(study.waiting_for)
    assert study.look_at is not None and study.look_at > rig.clock() + timedelta(hours=1)
    with rig.pipeline.ledger.begin() as tx:
        studies.look_now(tx, StudyUid(STUDY), rig.clock())
    assert rig.pipeline.assemble() == 1, "a person has said so"
    rig.receive(film(rig, "film9"))
    assert rig.settle() == 0, "and has said it of that change alone"
    rig.clock.move(2 * 86400)
    assert rig.settle() == 1, "tomorrow is another day"


# what is not analysed ------------------------------------------------------------------------------------------------


def test_two_patients_under_one_study_get_no_result(rig: PipelineRig) -> None:
    rig.receive(film(rig, "a", PatientID="1"))
    rig.receive(film(rig, "b", PatientID="2"))
    rig.settle()
    account = rig.account(STUDY)
    assert (account.study.outcome, account.study.outcome_reason) == (Outcome.NOT_ANALYSED, "two_patients")
    assert account.jobs == account.results == () and rig.result_files() == []


def test_a_study_of_unreadable_files_is_quarantined_until_something_readable_comes(rig: PipelineRig) -> None:
    incoming = rig.pipeline.store.create_incoming()
    incoming.write(film(rig).read_bytes()[:128] + b"not DICOM")
    rig.receive(film(rig), relative_path=rig.pipeline.store.place(incoming))
    rig.settle()
    account = rig.account(STUDY)
    assert account.study.outcome is Outcome.QUARANTINED and account.study.outcome_reason == "unreadable"
    assert account.instances[0].state is InstanceState.QUARANTINED
    rig.receive(film(rig, "b"))
    rig.settle()
    rig.work()
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED


def test_a_file_that_vanished_is_told_and_holds_nothing_up(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    (stored,) = (rig.settings.data_dir / "instances").rglob("*.dcm")
    stored.unlink()
    rig.settle()
    account = rig.account(STUDY)
    assert account.study.outcome is Outcome.QUARANTINED and account.instances[0].detail == "its file is gone"


def test_too_many_instances_are_refused(make: Callable[..., PipelineRig]) -> None:
    rig = make(assembly={"max_instances": 1})
    for name in "ab":
        rig.receive(film(rig, name))
    rig.settle()
    assert rig.account(STUDY).study.outcome_reason == "too_many_instances"


def test_a_research_model_is_not_installed_where_research_is_not_accepted(make: Callable[..., PipelineRig]) -> None:
    rig = make(accept_research=False)
    rig.receive(film(rig))
    rig.settle()
    study = rig.account(STUDY).study
    assert study.outcome is Outcome.NO_ROUTE
    assert "model toy-opacity is not installed" in str(study.outcome_detail)


def test_a_job_that_ended_its_worker_three_times_is_told_as_poison(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    for attempt in range(3):
        assert len(rig.claim(alone=attempt > 0)) == 1
        with rig.pipeline.ledger.begin() as tx:
            jobs.release(tx, owner_prefix=OWNER, interrupted=False)
    assert rig.pipeline.stop_hopeless() == 1
    (job,) = rig.claim()
    assert job.refusal is not None
    rig.pipeline.encode(rig.say(job, refusal=job.refusal), OWNER)
    account = rig.account(STUDY)
    assert (account.study.outcome, account.study.outcome_reason) == (Outcome.NOT_ANALYSED, "poison")
    assert [one.role for one in account.results[0].objects] == ["status_page"]
    assert any("given up after 3 attempt(s)" in words for words in rig.told(STUDY))


def test_a_refusal_that_cannot_even_be_written_is_left_to_a_person(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    for attempt in range(3):
        (job,) = rig.claim(alone=attempt > 0)
        rig.say(job, refusal=Refusal(reason=Reason.UNDECODABLE))
        with rig.pipeline.ledger.begin() as tx:
            jobs.release(tx, owner_prefix=OWNER, interrupted=False)
    assert rig.pipeline.stop_hopeless() == 1
    account = rig.account(STUDY)
    assert account.jobs[0].state is JobState.FAILED
    assert account.study.outcome is Outcome.NOT_ANALYSED


def test_a_model_that_was_uninstalled_meanwhile_is_told_in_a_result(
    rig: PipelineRig, make: Callable[..., PipelineRig]
) -> None:
    rig.receive(film(rig))
    rig.settle()
    (rig.models / "toy-opacity" / "1.0.0" / "card.toml").unlink()
    without = make()
    (job,) = without.claim()
    said = without.say(job, refusal=Refusal(reason=Reason.NO_ROUTE, detail="model is no longer installed"))
    without.pipeline.encode(said, OWNER)
    assert without.account(STUDY).study.outcome_reason == "no_route"


# crashes -------------------------------------------------------------------------------------------------------------


def test_a_crash_between_writing_and_committing_leaves_no_row_and_its_files_are_removed(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    (job,) = rig.claim()
    job = rig.say(job)
    refuse = "CREATE TRIGGER full BEFORE INSERT ON result_object BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    with rig.pipeline.ledger.begin() as tx:
        tx.execute(sa.text(refuse))
    with pytest.raises(sa.exc.DatabaseError):
        rig.pipeline.encode(job, OWNER)
    account = rig.account(STUDY)
    assert account.results == account.deliveries == () and account.jobs[0].state is JobState.RUNNING
    left = rig.result_files()
    assert left != []
    with rig.pipeline.ledger.begin() as tx:
        tx.execute(sa.text("DROP TRIGGER full"))
    assert rig.pipeline.store.remove_unknown_results(frozenset()) == len(left)
    rig.pipeline.encode(job, OWNER)
    again = rig.account(STUDY)
    assert again.study.outcome is Outcome.ANALYSED
    assert len(rig.result_files()) == len(again.results[0].objects) == len(left)


def test_a_result_encoded_twice_is_committed_once_and_leaves_no_second_files(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    (job,) = rig.claim()
    said = rig.say(job)
    rig.pipeline.encode(said, OWNER)
    files = rig.result_files()
    with rig.pipeline.ledger.begin() as tx:  # as if the lease had run out just before the commit
        tx.execute(sa.text(f"UPDATE job SET state = 'running', lease_owner = '{OWNER}'"))
    rig.pipeline.encode(said, OWNER)
    assert rig.result_files() == files
    assert len(rig.account(STUDY).results) == 1 and len(rig.account(STUDY).deliveries) == 2


def test_a_stored_file_without_a_row_is_entered_at_start(rig: PipelineRig) -> None:
    incoming = rig.pipeline.store.create_incoming()
    incoming.write(film(rig).read_bytes())
    rig.pipeline.store.place(incoming)  # and here the power went
    junk = rig.pipeline.store.create_incoming()
    junk.write(b"junk")
    rig.pipeline.store.place(junk)
    store = rig.pipeline.store
    report = store.scan(
        frozenset(), reindexer(store, lambda new: rig.pipeline.record_instance(replace(new, received_at=rig.clock())))
    )
    assert (len(report.reindexed), len(report.unreadable)) == (1, 1)
    assert rig.receive(rig.folder / "a.dcm").kind == "duplicate", "its sender sends it again"
    assert rig.settle() == 1


# withdrawal and retention --------------------------------------------------------------------------------------------


def test_withdrawn_results_are_named_in_a_note_that_goes_where_they_went(rig: PipelineRig) -> None:
    analysed(rig)
    sent_everywhere(rig)
    withdrawn = {one.sop_instance_uid for one in rig.account(STUDY).results[0].objects}
    assert retract(rig.pipeline.encoder, StudyUid(STUDY), "quality") == 1
    account = rig.account(STUDY)
    assert [row.is_current for row in account.results] == [False, False]
    assert account.study.retracted_at == rig.clock()
    note = rig.result(STUDY, "retraction")
    assert note.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.59"
    named = {
        one.ReferencedSOPInstanceUID
        for study in note.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert named == withdrawn
    with rig.pipeline.ledger.read() as tx:
        notes = deliveries.of_result_set(tx, account.results[1].id)
    assert [row.destination for row in notes] == ["pacs", "web"]
    assert retract(rig.pipeline.encoder, StudyUid(STUDY), "quality") == 0


def test_a_withdrawn_result_that_has_not_left_yet_does_not_leave(rig: PipelineRig) -> None:
    analysed(rig)
    assert retract(rig.pipeline.encoder, StudyUid(STUDY), "quality") == 1
    account = rig.account(STUDY)
    assert {(row.state, row.reason) for row in account.deliveries} == {
        (DeliveryState.FAILED, "withdrawn before it was sent")
    }
    assert "not sent any more to pacs, web" in "\n".join(rig.told(STUDY))


def test_a_job_under_way_while_its_study_is_withdrawn_writes_nothing(rig: PipelineRig) -> None:
    analysed(rig)
    rig.receive(film(rig, "late", SOPInstanceUID="1.2.9.2"))
    rig.settle()
    (job,) = rig.claim()
    rig.clock.move(1)
    retract(rig.pipeline.encoder, StudyUid(STUDY), "patient_safety")
    assert rig.say(job).state is JobState.OUTDATED
    assert not any(row.is_current for row in rig.account(STUDY).results)


def test_a_withdrawn_result_is_not_written_again_for_the_same_images(rig: PipelineRig) -> None:
    analysed(rig)
    rig.clock.move(1)
    retract(rig.pipeline.encoder, StudyUid(STUDY), "quality")
    with rig.pipeline.ledger.begin() as tx:
        assert studies.reopen(tx, StudyUid(STUDY), rig.clock())
    rig.clock.move(60)
    rig.settle()
    assert rig.claim() == ()
    assert "was withdrawn and is not written again" in "\n".join(rig.told(STUDY))


def test_a_second_patient_who_appears_while_the_model_runs_stops_the_result(rig: PipelineRig) -> None:
    rig.receive(film(rig, "a", PatientID="A"))
    rig.settle()
    (job,) = rig.claim()
    rig.receive(film(rig, "b", PatientID="B", SOPInstanceUID="1.2.9.1"))
    rig.settle()
    assert rig.say(job).state is JobState.OUTDATED
    account = rig.account(STUDY)
    assert (account.study.outcome, account.study.outcome_reason) == (Outcome.NOT_ANALYSED, Reason.TWO_PATIENTS)
    assert account.results == () and account.deliveries == ()


def test_the_outcome_follows_when_the_second_patient_is_corrected(rig: PipelineRig) -> None:
    analysed(rig, PatientID="A")
    rig.receive(film(rig, "b", PatientID="B", SOPInstanceUID="1.2.9.1", ViewPosition="LL"))
    rig.settle()
    assert rig.account(STUDY).study.outcome_reason == Reason.TWO_PATIENTS
    rig.receive(film(rig, "b2", PatientID="A", SOPInstanceUID="1.2.9.1", ViewPosition="LL"))
    rig.settle()
    rig.work()
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED


def test_a_study_without_route_is_analysed_after_the_rule_was_mended_and_a_person_retries(
    make: Callable[..., PipelineRig],
) -> None:
    rig = make(routes=[{**CHEST, "match": {"modality": ["MG"]}}])
    rig.receive(film(rig))
    rig.settle()
    assert rig.account(STUDY).study.outcome is Outcome.NO_ROUTE
    rig.close()
    rig = make()
    rig.clock.move(100)
    with rig.pipeline.ledger.begin() as tx:
        assert studies.reopen(tx, StudyUid(STUDY), rig.clock())
        assert instances.index_again(tx, StudyUid(STUDY)) == 1
    rig.clock.move(60)
    rig.settle()
    assert len(rig.work()) == 1
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED


def test_a_destination_that_was_removed_costs_the_others_nothing(make: Callable[..., PipelineRig]) -> None:
    rig = make()
    rig.receive(film(rig))
    rig.settle()
    left = rig.settings.destination[:1]
    rig.close()
    rig = make(destination=left, routes=[{**CHEST, "destinations": [left[0].name]}])
    rig.clock.move(100)
    assert len(rig.work()) == 1
    account = rig.account(STUDY)
    assert account.study.outcome is Outcome.ANALYSED
    assert [row.destination for row in account.deliveries] == [left[0].name]
    assert "no longer a destination" in "\n".join(rig.told(STUDY))


def test_one_study_that_cannot_be_decided_does_not_hold_the_others(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.receive(film(rig, "a"))
    rig.receive(film(rig, "other", StudyInstanceUID="1.2.3.77", SOPInstanceUID="1.2.3.77.1"))
    real = assembly.decide

    def stumbles(arrivals: assembly.Arrivals, *arguments: Any, **named: Any) -> assembly.Decision:
        if arrivals.instances[0].facts.patient_key == stumbles_over:
            raise ArithmeticError("what nobody foresaw")
        return real(arrivals, *arguments, **named)

    rig.pipeline.index()
    stumbles_over = (rig.account(STUDY).instances[0].facts or InstanceFacts()).patient_key
    monkeypatch.setattr(assembly, "decide", stumbles)
    assert rig.settle() == 1
    assert rig.account("1.2.3.77").study.state is StudyState.COMPLETE
    assert "unforeseen fault" in (rig.account(STUDY).study.waiting_for or "")
    monkeypatch.setattr(assembly, "decide", real)
    rig.clock.move(120)
    assert rig.settle() == 1


def test_results_can_be_withdrawn_after_the_images_were_evicted(rig: PipelineRig) -> None:
    analysed(rig)
    sent_everywhere(rig)
    evict = Retention(rig.pipeline.ledger, rig.pipeline.store, rig.settings.storage)
    assert evict.evict_due() == 0
    rig.clock.move(8 * 86400)
    assert evict.evict_due() == 1
    assert not list((rig.settings.data_dir / "instances").rglob("*.dcm"))
    with rig.pipeline.ledger.read() as tx:
        assert deliveries.of_study(tx, StudyUid(STUDY)) != (), "rows stay"
    assert retract(rig.pipeline.encoder, StudyUid(STUDY), "quality") == 1
    assert rig.result(STUDY, "retraction").StudyInstanceUID == STUDY


def test_the_node_never_analyses_its_own_results(rig: PipelineRig) -> None:
    analysed(rig)
    for path in rig.result_files():
        rig.receive(path)
    rig.settle()
    account = rig.account(STUDY)
    assert rig.claim() == () and len(account.results) == 1
    own = [one for one in account.instances if one.state is InstanceState.NOT_ANALYSABLE]
    assert len(own) == len(rig.result_files()) and account.study.outcome is Outcome.ANALYSED


def test_a_study_being_sent_is_held(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.clock.move(QUIET_S)
    rig.pipeline.index()
    assert rig.pipeline.assemble(holders=lambda _study: ["an association is sending"]) == 0
    assert rig.account(STUDY).study.waiting_for == "an association is sending"
    rig.clock.move(1)
    assert rig.pipeline.assemble() == 1


def test_the_archives_own_count_is_waited_for(make: Callable[..., PipelineRig]) -> None:
    rig = make(assembly={"archive_count": "pacs"})
    save(film_data_set(disc_picture(32, 32), StudyInstanceUID=STUDY), rig.folder / "x.dcm")
    rig.receive(rig.folder / "x.dcm")
    rig.clock.move(QUIET_S)
    rig.pipeline.index()
    assert rig.pipeline.assemble(archive_count=lambda _uid: 2) == 0
    rig.clock.move(QUIET_S)
    assert rig.pipeline.assemble(archive_count=lambda _uid: 1) == 1
