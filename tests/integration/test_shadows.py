"""Shadows and changes of champion on the way of a study: what is kept, what is written, and whom nothing must hurt."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node import promotion
from dicom_node.account import newest_studies
from dicom_node.building import ModelFolders
from dicom_node.explanation import explanation
from dicom_node.ledger import deliveries, jobs
from dicom_node.ledger.jobs import Job
from dicom_node.promotion import Act
from dicom_node.retention import Retention
from dicom_node.serving import read_standings
from dicom_node.states import JobRole, JobState, Outcome, Standing
from dicom_node.withdrawal import retract
from inference.findings import StudyUid
from inference.refusals import Reason, Refusal
from models.card import ModelCard
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import CHEST, PipelineRig
from tests.promotions import write_report
from tests.toy_model import install_toy_model

STUDY = "1.2.826.0.1.88"
OLD, NEW = "toy-opacity@1.0.0", "toy-opacity@2.0.0"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., PipelineRig]]:
    made: list[PipelineRig] = []

    def one(**settings: Any) -> PipelineRig:
        rig = PipelineRig(tmp_path, **settings)
        made.append(rig)
        return rig

    yield one
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make: Callable[..., PipelineRig]) -> PipelineRig:
    return with_shadow(make())


def with_shadow(rig: PipelineRig) -> PipelineRig:
    """1.0.0 is champion, 2.0.0 was installed afterwards and is its shadow."""
    assert rig.pipeline.enter_first_champions() == (OLD,)
    card = install(rig)
    with rig.pipeline.ledger.begin() as tx:
        promotion.shadow(tx, card, act(rig))
    return rig


def install(rig: PipelineRig, version: str = "2.0.0", **changes: Any) -> ModelCard:
    """Put a version into the node's folder, and let the node look."""
    folders = ModelFolders(rig.settings)
    card = install_toy_model(rig.models, version=version, **changes)
    look(rig, folders)
    return card


def look(rig: PipelineRig, folders: ModelFolders) -> None:
    found = folders.changed()
    assert found is not None and folders.changed() is None
    rig.pipeline.take_models(found)


def act(rig: PipelineRig) -> Act:
    return Act(operator="dr.petrova", at=rig.clock(), why="")


def promote(rig: PipelineRig, reference: str = NEW) -> None:
    card = rig.pipeline.cards[reference]
    report = write_report(rig.folder / "reports" / "evaluation.json", card)
    with rig.pipeline.ledger.begin() as tx:
        promotion.promote(tx, card, report, act(rig))


def receive(rig: PipelineRig, study: str = STUDY, name: str = "a", **changes: object) -> None:
    values = {"StudyInstanceUID": study, "StudyID": "1", "PatientSex": "O"} | changes
    rig.receive(film_file(rig.folder / f"{study}-{name}.dcm", disc_picture(64, 48), **values))
    assert rig.settle() == 1


def claim_shadows(rig: PipelineRig, *, alone: bool = False) -> tuple[Job, ...]:
    with rig.pipeline.ledger.begin() as tx:
        return jobs.claim(
            tx, owner="node:worker0:1", now=rig.clock(), lease_s=60, limit=9, ageing_s=60, alone=alone,
            role=JobRole.SHADOW,
        )  # fmt: skip


def job_of(rig: PipelineRig, reference: str, study: str = STUDY) -> Job:
    return [job for job in rig.account(study).jobs if job.reference == reference][-1]


def end_deliveries(rig: PipelineRig) -> None:
    with rig.pipeline.ledger.begin() as tx:
        for row in deliveries.of_study(tx, StudyUid(STUDY)):
            deliveries.set_confirmed(tx, row.id, at=rig.clock(), how="a query")


# what a shadow leaves ------------------------------------------------------------------------------------------------


def test_a_shadow_leaves_its_findings_in_the_ledger_and_nothing_else(rig: PipelineRig) -> None:
    receive(rig)
    rig.work()
    before = rig.account(STUDY)
    (shadow,) = claim_shadows(rig)
    assert (shadow.reference, shadow.role, shadow.destinations) == (NEW, JobRole.SHADOW, ())
    ended = rig.say(shadow, rig.findings(shadow, lesions=3))
    assert ended.state is JobState.SUCCEEDED
    after = rig.account(STUDY)
    assert after.study == before.study, "no state, no outcome, no time of the study has changed"
    assert (after.results, after.deliveries) == (before.results, before.deliveries)
    assert {row.model_name for row in after.results} == {"toy-opacity"} and len(after.results) == 1
    kept = job_of(rig, NEW).findings
    assert kept is not None and len(kept.lesions) == 3 and kept.model.version == "2.0.0"
    (line,) = newest_studies(rig.pipeline.ledger, limit=9)
    assert (line.models, len(line.lesion_scores)) == ((OLD,), 1), "lists show what people were told"


def test_the_account_of_a_study_says_who_looked_on(rig: PipelineRig) -> None:
    receive(rig)
    rig.work()
    rig.say(*claim_shadows(rig))
    told = "\n".join(explanation(rig.account(STUDY)))
    assert f"{NEW} looks on as a shadow" in told
    assert f"Job {NEW} (shadow) on revision 1: succeeded" in told
    assert "kept for comparison only: nothing of it was written or sent" in told
    json_jobs = rig.account(STUDY).to_json()["jobs"]
    assert isinstance(json_jobs, list)
    assert [(job["model"], job["role"]) for job in json_jobs] == [(OLD, "champion"), (NEW, "shadow")]


def test_a_study_is_concluded_without_waiting_for_shadows(rig: PipelineRig) -> None:
    receive(rig)
    rig.work()
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED
    assert job_of(rig, NEW).state is JobState.QUEUED


@pytest.mark.parametrize("trouble", ["refuses", "fails", "is poison"])
def test_a_shadow_in_trouble_is_its_own_affair(rig: PipelineRig, trouble: str) -> None:
    receive(rig)
    rig.work()
    before = rig.account(STUDY)
    for attempt in range(1 if trouble != "is poison" else jobs.MAX_ATTEMPTS):
        (shadow,) = claim_shadows(rig, alone=attempt > 0)
        if trouble == "refuses":
            rig.say(shadow, refusal=Refusal(reason=Reason.MODEL_FAILED))
        elif trouble == "fails":
            with rig.pipeline.ledger.begin() as tx:
                rig.pipeline.fail(tx, shadow, "node:worker0:1", "it broke", rig.clock())
        else:
            with rig.pipeline.ledger.begin() as tx:
                jobs.release(tx, owner_prefix="node:", interrupted=False)
    rig.pipeline.stop_hopeless()
    ended = {"refuses": JobState.REJECTED, "fails": JobState.FAILED, "is poison": JobState.FAILED}
    assert job_of(rig, NEW).state is ended[trouble]
    after = rig.account(STUDY)
    assert (after.study, after.results) == (before.study, before.results)
    assert claim_shadows(rig) == claim_shadows(rig, alone=True) == ()


def test_late_images_replace_a_shadows_word_too_and_unchanged_ones_do_not(rig: PipelineRig) -> None:
    receive(rig)
    rig.work()
    rig.say(*claim_shadows(rig))
    receive(rig, name="lateral", ViewPosition="LL")
    assert [job.reference for job in rig.account(STUDY).jobs] == [OLD, NEW], "a view that neither looks at"
    receive(rig, name="b", ViewPosition="AP")
    rig.work()
    (shadow,) = claim_shadows(rig)
    assert (shadow.revision, len(shadow.instance_ids)) == (3, 2)


def test_a_withdrawal_is_of_what_was_told(rig: PipelineRig) -> None:
    receive(rig)
    rig.work()
    (shadow,) = claim_shadows(rig)
    assert retract(rig.pipeline.encoder, StudyUid(STUDY), "quality") == 1
    assert rig.say(shadow).state is JobState.SUCCEEDED
    assert [row.kind for row in rig.account(STUDY).results] == ["result", "retraction"]


# load and files ------------------------------------------------------------------------------------------------------


def test_with_a_long_queue_a_study_gets_no_shadow_and_its_account_says_so(make: Callable[..., PipelineRig]) -> None:
    rig = with_shadow(make(shadow={"max_queue": 2}))
    for number in range(2):
        receive(rig, f"{STUDY}.{number}")
    first, second = (job_of(rig, NEW, f"{STUDY}.{number}") for number in range(2))
    assert (first.state, second.state) == (JobState.QUEUED, JobState.SHED)
    assert f"{NEW} (shadow): left out, because 3 job(s) wait for a worker: " in rig.told(f"{STUDY}.1")
    assert job_of(rig, OLD, f"{STUDY}.1").state is JobState.QUEUED


def test_images_stay_for_a_waiting_shadow_but_not_for_ever(make: Callable[..., PipelineRig]) -> None:
    rig = with_shadow(make(shadow={"max_wait_hours": 24}, storage={"retention_days": 0.5} | NO_LIMITS))
    receive(rig)
    rig.work()
    end_deliveries(rig)
    retention = Retention(rig.pipeline.ledger, rig.pipeline.store, rig.settings.storage)
    rig.clock.move(20 * 3600)
    assert rig.pipeline.shed_shadows() == 0 and retention.evict_due() == 0
    assert all(one.path for one in rig.account(STUDY).instances)
    rig.clock.move(5 * 3600)
    assert rig.pipeline.shed_shadows() == 1 and retention.evict_due() == 1
    assert f"{NEW} (shadow): dropped, because no worker had time for 24 hours: " in rig.told(STUDY)
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED


NO_LIMITS = {"soft_free_bytes": 0, "hard_free_bytes": 0, "reserve_bytes": 0}


# who serves ----------------------------------------------------------------------------------------------------------


def test_the_first_study_makes_the_newest_version_champion_and_newer_ones_change_nothing(
    make: Callable[..., PipelineRig],
) -> None:
    rig = make()
    receive(rig)
    with rig.pipeline.ledger.read() as tx:
        (row,) = read_standings(tx).rows
    assert (row.reference, row.standing) == (OLD, Standing.CHAMPION)
    install(rig)
    receive(rig, STUDY + ".1")
    assert [job.reference for job in rig.account(STUDY + ".1").jobs] == [OLD]
    assert rig.pipeline.enter_first_champions() == ()


def test_a_promotion_holds_for_the_next_study_and_the_one_under_way_ends_as_it_began(rig: PipelineRig) -> None:
    receive(rig)
    (begun,) = rig.claim()
    promote(rig)
    receive(rig, STUDY + ".1")
    assert job_of(rig, NEW, STUDY + ".1").role is JobRole.CHAMPION
    rig.pipeline.encode(rig.say(begun), "node:worker0:1")
    rig.work()
    for study, reference in ((STUDY, OLD), (STUDY + ".1", NEW)):
        account = rig.account(study)
        (result,) = account.results
        assert [job.reference for job in account.jobs if job.id == result.job_id] == [reference]


def test_a_study_that_is_seen_again_after_a_promotion_has_the_new_champions_result_in_place_of_the_old(
    rig: PipelineRig,
) -> None:
    receive(rig)
    rig.work()
    promote(rig)
    receive(rig, name="b", ViewPosition="AP")
    rig.work()
    current = [row for row in rig.account(STUDY).results if row.is_current]
    assert len(rig.account(STUDY).results) == 2 and len(current) == 1
    assert job_of(rig, NEW).id == current[0].job_id


def test_a_version_that_is_promoted_right_after_it_was_installed_serves_the_next_study(rig: PipelineRig) -> None:
    rig.pipeline.models_changed = ModelFolders(rig.settings).changed
    card = install_toy_model(rig.models, version="3.0.0")
    with rig.pipeline.ledger.begin() as tx:
        promotion.promote(tx, card, write_report(rig.folder / "evaluation.json", card), act(rig))
    receive(rig)
    roles = {job.reference: (job.role, job.refusal) for job in rig.account(STUDY).jobs}
    assert roles == {card.reference: (JobRole.CHAMPION, None), NEW: (JobRole.SHADOW, None)}


def test_an_altered_champion_does_not_run_and_the_radiologist_is_told(rig: PipelineRig) -> None:
    card, folders = rig.models / "toy-opacity" / "1.0.0" / "card.toml", ModelFolders(rig.settings)
    good = card.read_text(encoding="utf-8")
    card.write_text(good.replace("threshold = 0.5,", "threshold = 0.45,"), encoding="utf-8")
    look(rig, folders)
    receive(rig)
    with rig.pipeline.ledger.read() as tx:
        (fault,) = rig.pipeline.model_faults(tx)
    assert f"{OLD} is not what became champion" in fault
    (refused,) = rig.claim()
    assert refused.refusal is not None and refused.refusal.detail == fault
    rig.pipeline.encode(rig.pipeline.commit_analysis(refused, "node:worker0:1", _refused(refused)), "node:worker0:1")
    account = rig.account(STUDY)
    assert (account.study.outcome, account.study.outcome_reason) == (Outcome.NOT_ANALYSED, "model_failed")
    assert [one.role for one in account.results[0].objects] == ["status_page"]
    card.write_text(good + "# as it was\n", encoding="utf-8")
    look(rig, folders)
    receive(rig, STUDY + ".1")
    assert rig.work()[0].refusal is None


def _refused(job: Job) -> Any:
    from inference.engine import Analysis

    return Analysis(refusal=job.refusal)


def test_a_champion_whose_folder_is_gone_is_a_fault_and_one_that_is_retired_is_no_route(rig: PipelineRig) -> None:
    folders = ModelFolders(rig.settings)
    shutil.rmtree(rig.models / "toy-opacity" / "1.0.0")
    look(rig, folders)
    receive(rig)
    assert str(job_of(rig, OLD).refusal) == f"model_failed: {OLD} is champion and is not installed"
    with rig.pipeline.ledger.begin() as tx:
        promotion.retire(tx, "toy-opacity", "1.0.0", "", act(rig))
    assert rig.settle() == 1, "the study that waited is routed anew"
    study = rig.account(STUDY).study
    assert (study.outcome, job_of(rig, OLD).state) == (Outcome.NO_ROUTE, JobState.OUTDATED)
    assert "model toy-opacity has no champion" in str(study.outcome_detail)


def test_a_demonstration_runs_only_where_a_route_pins_it(make: Callable[..., PipelineRig]) -> None:
    def as_demonstration(rig: PipelineRig) -> None:
        folders = ModelFolders(rig.settings)
        card = rig.models / "toy-opacity" / "1.0.0" / "card.toml"
        card.write_text(card.read_text(encoding="utf-8").replace('"research"', '"demonstration"'), encoding="utf-8")
        look(rig, folders)

    bare = make()
    as_demonstration(bare)
    assert bare.pipeline.enter_first_champions() == ()
    receive(bare)
    study = bare.account(STUDY).study
    assert study.outcome is Outcome.NO_ROUTE and "pin it in the route" in str(study.outcome_detail)
    pinned = make(routes=[{**CHEST, "model": OLD}])
    receive(pinned, STUDY + ".1")
    assert job_of(pinned, OLD, STUDY + ".1").state is JobState.QUEUED
    refusing = make(routes=[{**CHEST, "model": OLD}], accept_research=False)
    receive(refusing, STUDY + ".2")
    assert refusing.account(STUDY + ".2").study.outcome is Outcome.NO_ROUTE
