"""Changes of standing, the same on SQLite and on PostgreSQL: one champion, a history, and a way back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node import promotion
from dicom_node.ledger import Ledger, events, jobs, shadows, standings, studies
from dicom_node.ledger.schema import metadata
from dicom_node.ledger.standings import Change, LoadedModel, StandingChanged
from dicom_node.promotion import StandingRefused
from dicom_node.serving import read_standings
from dicom_node.states import JobRole, JobState, Standing, StandingAction, StudyState
from models.card import ModelCard, Use
from tests.ledgers import STUDY, TestClock, add_job, claim, job_of
from tests.promotions import ALL_VERSIONS, NAME, act, card, champions, standing_of, told, write_report


def first(ledger: Ledger, of: ModelCard) -> None:
    with ledger.begin() as tx:
        promotion.enter_first(tx, promotion.as_version(of), ledger.clock())


def promote(ledger: Ledger, of: ModelCard, folder: Path) -> None:
    report = write_report(folder / f"{of.reference}.json", of)
    with ledger.begin() as tx:
        promotion.promote(tx, of, report, act(ledger))


def refused(ledger: Ledger, change: Callable[[sa.Connection], object], because: str) -> None:
    before = told(ledger)
    with pytest.raises(StandingRefused, match=because), ledger.begin() as tx:
        change(tx)
    assert told(ledger) == before, "what is refused leaves no trace"


ALL = ALL_VERSIONS
ONE, TWO, THREE = ALL.values()


def test_a_promotion_replaces_the_champion_and_tells_who_when_why_and_by_which_report(
    ledger: Ledger, clock: TestClock, tmp_path: Path
) -> None:
    first(ledger, ONE)
    with ledger.begin() as tx:
        promotion.shadow(tx, TWO, act(ledger, "four weeks beside"))
    clock.move(60)
    report = write_report(tmp_path / "evaluation.json", TWO)
    with ledger.begin() as tx:
        replaced = promotion.promote(tx, TWO, report, act(ledger, "better on AP films"))
    assert replaced is not None and replaced.reference == "chest@1.0.0"
    assert standing_of(ledger) == {"1.0.0": Standing.CANDIDATE, "2.0.0": Standing.CHAMPION}
    with ledger.read() as tx:
        by_itself, trial, down, up = standings.history(tx, NAME)
        assert standings.report_text(tx, report.sha256) == report.text, "what it rests on can be read for ever"
    assert (by_itself.operator, by_itself.action, by_itself.report_sha256) == ("radnode", "first_start", None)
    assert (trial.why, trial.to_standing) == ("four weeks beside", "shadow")
    assert (down.model_version, down.from_standing, down.to_standing) == ("1.0.0", "champion", "candidate")
    assert down.why == "replaced by chest@2.0.0: better on AP films"
    assert up == Change(
        at=clock(),
        operator="dr.petrova",
        action=StandingAction.PROMOTE,
        model_name=NAME,
        model_version="2.0.0",
        from_standing=Standing.SHADOW,
        to_standing=Standing.CHAMPION,
        model_digest=TWO.model_digest,
        report_sha256=report.sha256,
        why="better on AP films",
    )


def test_what_may_not_be_promoted_is_refused_with_the_reason(ledger: Ledger, tmp_path: Path) -> None:
    first(ledger, ONE)
    altered = card("2.0.0", threshold=0.111)
    show = card("2.0.0", use=Use.DEMONSTRATION)
    failed = {"passed": False, "bars": [{"name": "AUROC", "passed": False, "value": 0.9, "wanted": ">= 0.97"}]}
    cases = (
        (TWO, write_report(tmp_path / "a.json", ONE), "report is of chest@1.0.0"),
        (altered, write_report(tmp_path / "b.json", TWO), "of another state of chest@2.0.0"),
        (TWO, write_report(tmp_path / "c.json", TWO, weights={"model.onnx": "0" * 64}), "other weights: model.onnx"),
        (TWO, write_report(tmp_path / "d.json", TWO, verdict=failed), r"'not passed': AUROC \(0.9, wanted >= 0.97\)"),
        (show, write_report(tmp_path / "e.json", show), "demonstration"),
        (ONE, write_report(tmp_path / "f.json", ONE), "champion already"),
    )
    for of, report, because in cases:
        refused(ledger, lambda tx, of=of, report=report: promotion.promote(tx, of, report, act(ledger)), because)
    assert champions(ledger) == ["1.0.0"]


def test_under_one_version_there_is_one_model_for_ever(ledger: Ledger, tmp_path: Path) -> None:
    first(ledger, ONE)
    promote(ledger, TWO, tmp_path)
    altered = card("1.0.0", threshold=0.123)
    report = write_report(tmp_path / "altered.json", altered)
    for change in (
        lambda tx: promotion.promote(tx, altered, report, act(ledger)),
        lambda tx: promotion.shadow(tx, altered, act(ledger)),
    ):
        refused(ledger, change, "a changed threshold, preprocessing or weights is a new version")
    cards = ALL | {"chest@1.0.0": altered}
    refused(ledger, lambda tx: promotion.rollback(tx, NAME, cards, act(ledger)), "was altered since it was champion")
    del cards["chest@1.0.0"]
    refused(ledger, lambda tx: promotion.rollback(tx, NAME, cards, act(ledger)), "is not installed any more")
    assert champions(ledger) == ["2.0.0"]


def test_roll_backs_go_further_back_and_not_to_and_fro(ledger: Ledger, tmp_path: Path) -> None:
    first(ledger, ONE)
    refused(ledger, lambda tx: promotion.rollback(tx, NAME, ALL, act(ledger)), "no earlier champion")
    promote(ledger, TWO, tmp_path)
    promote(ledger, THREE, tmp_path)
    with ledger.begin() as tx:
        done = promotion.rollback(tx, NAME, ALL, act(ledger, "false alarms"))
    assert done.champion.reference == "chest@2.0.0" and done.champion.report_sha256
    assert done.replaced is not None and done.replaced.reference == "chest@3.0.0"
    assert champions(ledger) == ["2.0.0"]
    with ledger.begin() as tx:
        promotion.rollback(tx, NAME, ALL, act(ledger))
    assert champions(ledger) == ["1.0.0"]
    refused(ledger, lambda tx: promotion.rollback(tx, NAME, ALL, act(ledger)), "no earlier champion")
    promote(ledger, THREE, tmp_path)
    with ledger.begin() as tx:
        promotion.rollback(tx, NAME, ALL, act(ledger))
    assert champions(ledger) == ["1.0.0"]
    with ledger.read() as tx:
        back = [made for made in standings.history(tx, NAME) if made.action is StandingAction.ROLLBACK]
    assert [(made.model_version, made.to_standing) for made in back[:2]] == [
        ("3.0.0", "candidate"),
        ("2.0.0", "champion"),
    ]
    assert back[0].why == "rolled back to chest@2.0.0: false alarms"
    assert back[1].report_sha256 == done.champion.report_sha256


def test_a_roll_back_passes_over_a_retired_version_and_revives_a_name_without_champion(
    ledger: Ledger, tmp_path: Path
) -> None:
    first(ledger, ONE)
    promote(ledger, TWO, tmp_path)
    promote(ledger, THREE, tmp_path)
    with ledger.begin() as tx:
        promotion.retire(tx, NAME, "2.0.0", "", act(ledger))
        promotion.retire(tx, NAME, "3.0.0", "", act(ledger, "misses everything"))
    assert champions(ledger) == []
    with ledger.begin() as tx:
        assert promotion.rollback(tx, NAME, ALL, act(ledger)).replaced is None
    assert champions(ledger) == ["1.0.0"]
    report = write_report(tmp_path / "again.json", THREE)
    refused(ledger, lambda tx: promotion.promote(tx, THREE, report, act(ledger)), "retired")
    refused(ledger, lambda tx: promotion.retire(tx, NAME, "3.0.0", "", act(ledger)), "retired already")
    with ledger.begin() as tx:
        promotion.shadow(tx, THREE, act(ledger))
        promotion.promote(tx, THREE, report, act(ledger))
    assert champions(ledger) == ["3.0.0"]


def test_shadows_begin_and_end(ledger: Ledger) -> None:
    first(ledger, ONE)
    refused(ledger, lambda tx: promotion.shadow(tx, ONE, act(ledger)), "is champion already")
    refused(ledger, lambda tx: promotion.stop_shadow(tx, NAME, "2.0.0", act(ledger)), "is no shadow")
    with ledger.begin() as tx:
        promotion.shadow(tx, TWO, act(ledger))
        promotion.shadow(tx, THREE, act(ledger))
    refused(ledger, lambda tx: promotion.shadow(tx, TWO, act(ledger)), "is shadow already")
    with ledger.begin() as tx:
        assert promotion.stop_shadow(tx, NAME, "2.0.0", act(ledger)) == 0
    assert standing_of(ledger) == {"1.0.0": "champion", "2.0.0": "candidate", "3.0.0": "shadow"}


def test_withdrawing_a_version_frees_what_waits_for_it_and_not_what_is_under_way(ledger: Ledger) -> None:
    first(ledger, ONE)
    with ledger.begin() as tx:
        promotion.shadow(tx, TWO, act(ledger))
    under_way = add_job(ledger, study="1.2.9", model_name=NAME)
    claim(ledger)
    waits = add_job(ledger, model_name=NAME)
    beside = add_job(ledger, model_name=NAME, model_version="2.0.0", role=JobRole.SHADOW)
    with ledger.begin() as tx:
        seen = studies.get(tx, STUDY)
        assert seen is not None and studies.settle(tx, seen, state=StudyState.COMPLETE, at=ledger.clock())
        assert promotion.stop_shadow(tx, NAME, "2.0.0", act(ledger)) == 1
        assert promotion.retire(tx, NAME, "1.0.0", "", act(ledger)) == 1
    assert job_of(ledger, beside).state is JobState.SHED
    assert (job_of(ledger, under_way).state, job_of(ledger, waits).state) == (JobState.RUNNING, JobState.OUTDATED)
    with ledger.read() as tx:
        study = studies.get(tx, STUDY)
        said = [event.what for event in events.of_study(tx, STUDY)]
    assert study is not None and (study.state, study.revision) == (StudyState.RECEIVING, 2)
    assert "routed anew: chest@1.0.0 was withdrawn before a worker had begun" in said
    assert "chest@2.0.0 (shadow): dropped from the queue, it is no shadow any more" in said


def test_of_promotions_at_the_same_moment_one_wins_and_the_other_is_told(ledger: Ledger, tmp_path: Path) -> None:
    first(ledger, ONE)
    gate = threading.Barrier(2)

    def one(of: ModelCard) -> str:
        report = write_report(tmp_path / f"{of.reference}.json", of)
        gate.wait()
        try:
            with ledger.begin() as tx:
                promotion.promote(tx, of, report, act(ledger))
        except (StandingChanged, sa.exc.DBAPIError) as error:
            return type(error).__name__
        return of.identity.version

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(one, (TWO, THREE)))
    (champion,) = champions(ledger)
    assert champion in results
    assert [made for made in told(ledger) if made[2] == "champion"][-1][0] == champion


def test_the_database_itself_refuses_a_second_champion(ledger: Ledger) -> None:
    first(ledger, ONE)
    with pytest.raises(StandingChanged, match="another champion"), ledger.begin() as tx:
        promotion.enter_first(tx, promotion.as_version(TWO), ledger.clock())
    assert champions(ledger) == ["1.0.0"]


def test_a_promotion_that_is_interrupted_leaves_the_old_champion(ledger: Ledger, tmp_path: Path) -> None:
    first(ledger, ONE)
    report = write_report(tmp_path / "two.json", TWO)
    before = told(ledger)
    with pytest.raises(KeyboardInterrupt), ledger.begin() as tx:
        promotion.promote(tx, TWO, report, act(ledger))
        raise KeyboardInterrupt
    assert champions(ledger) == ["1.0.0"] and told(ledger) == before


@given(
    plan=st.lists(
        st.tuples(st.sampled_from(["promote", "rollback", "retire", "shadow", "stop"]), st.sampled_from("123")),
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_people_do_there_is_one_champion_at_most_and_the_history_tells_the_standings(
    ledger: Ledger, tmp_path: Path, plan: list[tuple[str, str]]
) -> None:
    with ledger.begin() as tx:
        for table in reversed(metadata.sorted_tables):
            tx.execute(table.delete())
    first(ledger, ONE)
    for what, number in plan:
        of = ALL[f"chest@{number}.0.0"]
        try:
            with ledger.begin() as tx:
                if what == "promote":
                    promotion.promote(tx, of, write_report(tmp_path / "report.json", of), act(ledger))
                elif what == "rollback":
                    promotion.rollback(tx, NAME, ALL, act(ledger))
                elif what == "retire":
                    promotion.retire(tx, NAME, of.identity.version, of.model_digest, act(ledger))
                elif what == "shadow":
                    promotion.shadow(tx, of, act(ledger))
                else:
                    promotion.stop_shadow(tx, NAME, of.identity.version, act(ledger))
        except StandingRefused:
            continue
        assert len(champions(ledger)) <= 1
    replayed: dict[str, str] = {}
    for version, before, after, _action in told(ledger):
        assert replayed.get(version, "candidate") == before
        replayed[version] = after
    assert replayed == standing_of(ledger)


# jobs of shadows -----------------------------------------------------------------------------------------------------


def test_a_study_has_one_champions_job_of_a_model_and_any_number_of_shadows(ledger: Ledger) -> None:
    add_job(ledger, model_version="1.0.0")
    for version in ("2.0.0", "3.0.0"):
        add_job(ledger, model_version=version, role=JobRole.SHADOW)
    with pytest.raises(sa.exc.IntegrityError):
        add_job(ledger, model_version="4.0.0")
    with pytest.raises(sa.exc.IntegrityError):
        add_job(ledger, model_version="3.0.0", role=JobRole.SHADOW)
    with ledger.read() as tx:
        assert shadows.queue_length(tx) == 3
        assert [job.model_version for job in jobs.newest_of_study(tx, STUDY)] == ["1.0.0"]


def test_roles_are_claimed_apart(ledger: Ledger) -> None:
    shadow = add_job(ledger, model_version="2.0.0", role=JobRole.SHADOW, priority=10)
    with ledger.read() as tx:
        assert not jobs.any_queued(tx) and jobs.any_queued(tx, JobRole.SHADOW)
    assert claim(ledger) == ()
    (claimed,) = claim(ledger, role=JobRole.SHADOW)
    assert (claimed.id, claimed.role) == (shadow, JobRole.SHADOW)


@pytest.mark.parametrize("how", ["its worker died", "its lease ran out"])
def test_when_a_worker_dies_that_held_a_shadow_the_shadow_alone_is_blamed(
    ledger: Ledger, clock: TestClock, how: str
) -> None:
    champion, alone = add_job(ledger), add_job(ledger, study="1.2.9")
    shadow = add_job(ledger, model_version="2.0.0", role=JobRole.SHADOW)
    claim(ledger, limit=1)
    claim(ledger, role=JobRole.SHADOW)
    claim(ledger, "node:worker1:2")
    clock.move(3600)
    with ledger.begin() as tx:
        if how == "its worker died":
            jobs.release(tx, owner_prefix="node:worker", interrupted=False)
        else:
            assert jobs.release_expired(tx, clock()) == 3
    attempts = {one: job_of(ledger, one).attempts for one in (champion, shadow, alone)}
    assert attempts == {champion: 0, shadow: 1, alone: 1}
    with ledger.read() as tx:
        assert jobs.alone_since(tx) is not None, "the champion's job of the other worker runs alone"


def test_only_shadows_that_waited_too_long_are_late(ledger: Ledger, clock: TestClock) -> None:
    add_job(ledger)
    late = add_job(ledger, model_version="2.0.0", role=JobRole.SHADOW)
    clock.move(10)
    add_job(ledger, study="1.2.9", model_version="2.0.0", role=JobRole.SHADOW)
    with ledger.begin() as tx:
        assert [job.id for job in shadows.waiting(tx, queued_before=clock(), limit=9)] == [late]
        assert shadows.shed(tx, late, at=clock()) and not shadows.shed(tx, late, at=clock())
    assert (job_of(ledger, late).state, job_of(ledger, late).finished_at) == (JobState.SHED, clock())


# what workers hold ---------------------------------------------------------------------------------------------------


def held(owner: str, ledger: Ledger, fault: str | None = None) -> LoadedModel:
    return LoadedModel(
        owner=owner,
        model_name=NAME,
        model_version="1.0.0",
        model_digest=ONE.model_digest,
        device="cpu",
        fault=fault,
        seen_at=ledger.clock(),
    )


def test_what_workers_hold_is_known_while_they_live(ledger: Ledger, clock: TestClock) -> None:
    with ledger.begin() as tx:
        standings.set_loaded(tx, "node:worker0:12", [held("node:worker0:12", ledger)])
        standings.set_loaded(tx, "node:worker0:123", [held("node:worker0:123", ledger, "no file\0")])
        standings.set_loaded(tx, "node:worker0:12", [held("node:worker0:12", ledger)])
    began = clock()
    clock.move(60)
    with ledger.begin() as tx:
        assert [(one.owner, one.fault) for one in standings.loaded(tx, since=began)] == [
            ("node:worker0:12", None),
            ("node:worker0:123", "no file\N{REPLACEMENT CHARACTER}"),
        ]
        standings.renew_loaded(tx, "node:worker0:123", clock())
        assert [one.owner for one in standings.loaded(tx, since=clock())] == ["node:worker0:123"]
        standings.forget_loaded(tx, "node:")
        assert standings.loaded(tx, since=began) == ()
        assert read_standings(tx).rows == ()
