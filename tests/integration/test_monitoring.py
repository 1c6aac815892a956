"""Monitoring over real ledgers of both kinds: counts, defects, times, drift and agreement, worked out by hand."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from scipy.stats import beta, ks_2samp

from dicom_node.ledger import Ledger, deliveries, instances, jobs, studies, truths
from dicom_node.ledger.truths import Entered, NewTruth
from dicom_node.monitoring.build import Monitor
from dicom_node.monitoring.document import ModelService, MonitoringReport
from dicom_node.monitoring.exports import ORDER_HEADINGS, order_4472_csv, service_csv
from dicom_node.monitoring.periods import Period, PeriodError, Step
from dicom_node.monitoring.truth_file import import_truth
from dicom_node.settings import Settings
from dicom_node.states import JobRole, JobState, Outcome, Reading, TruthSource
from eval.tables import TableError
from inference.findings import StudyUid
from inference.refusals import Reason
from models.registry import InstalledModel, installed_models
from tests.ledgers import NOON, TestClock, instance, record
from tests.service import Service
from tests.toy_model import install_toy_model

MOSCOW = ZoneInfo("Europe/Moscow")
MARCH_2 = date(2026, 3, 2)
SETTINGS: dict[str, Any] = {"monitoring": {"late_after_s": 60.0, "min_studies": 10, "time_zone": "Europe/Moscow"}}


@pytest.fixture
def service(ledger: Ledger, clock: TestClock) -> Service:
    return Service(ledger, clock)


def report(
    service: Service,
    *,
    first: date = MARCH_2,
    last: date | None = None,
    step: Step | None = None,
    installed: Callable[[], Iterable[InstalledModel]] = tuple,
    **settings: Any,
) -> MonitoringReport:
    monitor = Monitor(service.ledger, Settings.model_validate(SETTINGS | settings), installed)
    return monitor.report(Period(first=first, last=last or first, zone=MOSCOW), step=step)


def model(service: Service, **asked: Any) -> ModelService:
    """The one version that was counted, over all of the period."""
    (found,) = report(service, **asked).whole.models
    return found


def truth(service: Service, study: StudyUid, reading: Reading, **changes: Any) -> Entered:
    values: dict[str, Any] = {"source": TruthSource.CSV, "rule": "column reading says '1'", "read_at": NOON}
    with service.ledger.begin() as tx:
        return truths.record(tx, NewTruth(study_uid=study, reading=reading, **values | changes), service.clock())


# counts --------------------------------------------------------------------------------------------------------------


def test_studies_are_counted_by_how_they_ended(service: Service) -> None:
    for score, lesions in ((0.9, 1), (0.7, 0), (0.2, 0), (0.1, 0)):
        service.analyse(service.arrive(), score, lesions=lesions)
    service.refuse(service.arrive(), Reason.VIEW)
    service.refuse(service.arrive(), Reason.VIEW)
    service.refuse(service.arrive(), Reason.AGE)
    service.refuse(service.arrive(), Reason.POISON)
    service.fail(service.arrive())
    service.arrive()
    found = model(service)
    assert (found.model, found.role, found.received) == ("toy-opacity@1.0.0", "champion", 10)
    assert (found.analysed, found.open, found.dropped, found.withdrawn) == (4, 1, 0, 0)
    assert found.refused == {"age": 1, "view": 2}
    assert found.failed == {"poison": 1, "not_written": 1}
    assert (found.positive.count, found.positive.of, found.positive.value) == (2, 4, 0.5)
    low, high = found.positive.ci
    assert (low, high) == (pytest.approx(beta.ppf(0.025, 2, 3)), pytest.approx(beta.ppf(0.975, 3, 2)))
    (label,) = found.labels
    assert (label.label, label.flag_rate.count, label.flag_rate.of) == ("opacity", 2, 4)


def test_a_lesion_without_a_statement_makes_a_study_positive_and_not_its_label_present(service: Service) -> None:
    service.analyse(service.arrive(), 0.2, lesions=1)
    found = model(service)
    assert (found.positive.count, found.labels[0].flag_rate.count) == (1, 0)


def test_of_a_study_with_several_revisions_the_newest_that_spoke_counts(service: Service) -> None:
    study = service.arrive()
    service.analyse(study, 0.9)
    service.queue(study, revision=2)
    service.analyse(study, 0.1)
    service.queue(study, revision=3)
    with service.ledger.begin() as tx:
        jobs.withdraw_queued(tx, study, 4, service.clock())  # overtaken: says nothing
    found = model(service)
    assert (found.received, found.analysed, found.positive.count) == (1, 1, 0)


def test_a_shadow_is_counted_by_itself_and_has_no_times_of_delivery(service: Service) -> None:
    study = service.arrive()
    service.analyse(study, 0.9)
    service.queue(study, model_version="2.0.0", role=JobRole.SHADOW, destinations=())
    with service.ledger.begin() as tx:
        jobs.claim(tx, owner="w", now=NOON, lease_s=9, limit=9, ageing_s=9, alone=False, role=JobRole.SHADOW)
        shadow = jobs.of_study(tx, study)[-1]
        jobs.finish(tx, shadow.id, owner="w", state=JobState.SUCCEEDED, at=service.clock(), timings_s={})
    champion, beside = report(service).whole.models
    assert (champion.role, beside.role, beside.model) == ("champion", "shadow", "toy-opacity@2.0.0")
    assert beside.last_image_to_confirmed_s.reason == "undefined: a shadow sends nothing"
    assert (beside.received, beside.defects.any.count) == (1, 0)


def test_a_withdrawn_result_is_counted(service: Service) -> None:
    study = service.arrive()
    service.analyse(study, 0.9)
    with service.ledger.begin() as tx:
        studies.set_retracted(tx, study, service.clock.move(60))
    assert model(service).withdrawn == 1


def test_the_node_counts_studies_that_no_model_was_meant_for(service: Service) -> None:
    for number, (outcome, reason) in enumerate(
        ((Outcome.NO_ROUTE, "no_route"), (Outcome.QUARANTINED, "unreadable"), (Outcome.NOT_ANALYSED, "two_patients"))
    ):
        study = StudyUid(f"1.9.{number}")
        record(service.ledger, instance(study=study))
        with service.ledger.begin() as tx:
            studies.end(tx, study, outcome=outcome, at=NOON, reason=reason)
    record(service.ledger, instance(study="1.9.9"))
    service.analyse(service.arrive(), 0.1)
    node = report(service).whole.node
    assert (node.studies, node.analysed, node.no_route, node.quarantined, node.open) == (5, 1, 1, 1, 1)
    assert node.not_analysed == {"two_patients": 1}


def test_an_empty_period_gives_zeros_and_reasons(service: Service) -> None:
    service.analyse(service.arrive(), 0.9)
    day_before, day = report(service, first=MARCH_2 - timedelta(days=1), last=MARCH_2, step=Step.DAY).periods
    assert day.models[0].received == 1
    (empty,) = day_before.models
    assert (empty.received, empty.analysed, empty.refused, empty.failed) == (0, 0, {}, {})
    assert (empty.positive.value, empty.positive.reason) == (None, "undefined: no study was analysed")
    assert empty.defects.any.reason == "undefined: no study was received"
    assert empty.last_image_to_confirmed_s.reason == "undefined: nothing was confirmed by a destination"
    assert (empty.agreement.readings, empty.agreement.sensitivity.value) == (0, None)
    assert day_before.node.studies == 0


def test_nothing_at_all_is_a_report_without_models(service: Service) -> None:
    found = report(service)
    assert found.whole.models == () and found.whole.node.studies == 0
    assert service_csv(found) == "period,model\n"


# periods -------------------------------------------------------------------------------------------------------------


def test_days_are_those_of_the_zone_of_the_node(service: Service) -> None:
    just_before = datetime(2026, 3, 2, 20, 59, 49, tzinfo=UTC)  # queued ten seconds later: 23:59:59 in Moscow
    service.analyse(service.arrive(at=just_before), 0.9)
    service.analyse(service.arrive(at=just_before + timedelta(seconds=1)), 0.9)
    made = report(service, last=date(2026, 3, 3), step=Step.DAY)
    assert [period.models[0].received for period in made.periods] == [1, 1]
    assert made.periods[0].begin.isoformat() == "2026-03-02T00:00:00+03:00"
    assert (made.time_zone, made.whole.name) == ("Europe/Moscow", "2026-03-02 … 2026-03-03")
    assert made.whole.models[0].received == 2


def test_the_parts_of_a_period_add_up_to_it(service: Service) -> None:
    for day in range(40):
        service.analyse(service.arrive(at=NOON + timedelta(days=day)), 0.9 if day % 3 else 0.1)
    for step, parts in ((Step.DAY, 45), (Step.WEEK, 7), (Step.MONTH, 2)):
        made = report(service, last=date(2026, 4, 15), step=step)
        assert len(made.periods) == parts
        assert sum(period.models[0].received for period in made.periods) == made.whole.models[0].received == 40
        counts = [period.models[0].positive.count or 0 for period in made.periods]
        assert sum(counts) == made.whole.models[0].positive.count


def test_too_many_periods_are_refused(service: Service) -> None:
    with pytest.raises(PeriodError, match="more than 400"):
        report(service, last=date(2028, 3, 2), step=Step.DAY)


# times ---------------------------------------------------------------------------------------------------------------


def test_time_runs_from_the_last_image_to_the_first_confirmation(service: Service) -> None:
    for confirmed_after_s in (15.0, 25.0, 35.0):
        service.analyse(service.arrive(), 0.1, confirmed_after_s=confirmed_after_s)
    service.analyse(service.arrive(), 0.1, confirmed_after_s=None)
    found = model(service)
    times = found.last_image_to_confirmed_s
    assert (times.studies, times.p50, times.p95, times.max) == (3, 40.0, 49.0, 50.0)
    assert (found.model_s.studies, found.model_s.p50, found.analysis_s.max) == (4, 0.5, 2.0)


def test_a_study_that_got_another_image_after_it_was_queued_is_not_timed(service: Service) -> None:
    study = service.arrive()
    service.analyse(study, 0.1)
    record(service.ledger, instance(f"{study}.2", study=study, received_at=service.clock.move(500)))
    times = model(service).last_image_to_confirmed_s
    assert (times.studies, times.p50) == (0, None)


# defects -------------------------------------------------------------------------------------------------------------


def defects(service: Service, **settings: Any) -> dict[str, int | None]:
    return {one.code: one.studies for one in model(service, **settings).defects.classes}


def test_each_class_of_defect_is_seen_by_what_the_ledger_shows(service: Service) -> None:
    service.analyse(service.arrive(), 0.1)
    service.analyse(service.arrive(), 0.1, confirmed_after_s=45.0)  # just in time
    service.analyse(service.arrive(), 0.1, confirmed_after_s=46.0)
    service.fail(service.arrive())
    service.refuse(service.arrive(), Reason.MODEL_FAILED)
    service.refuse(service.arrive(), Reason.VIEW)
    service.analyse(service.arrive(), 0.9, roles=("sr",))
    service.analyse(service.arrive(), 0.9, roles=("overlay",))
    service.analyse(service.arrive(), 0.9, roles=("sr", "negative_sr", "overlay"))
    service.analyse(service.arrive(), 0.1, unread=2)
    service.analyse(service.arrive(incomplete=True), 0.1)
    found = model(service)
    assert {one.code: one.studies for one in found.defects.classes} == {
        "А": 1, "Б": 2, "В1": 1, "В2": 1, "В3": 1, "В4": None, "В5": None, "Г1": None, "Г2": None, "Г3": 1, "Г4": 1,
        "Г5": None, "Д1": None, "Д2": None,
    }  # fmt: skip
    assert (found.defects.any.count, found.defects.any.of) == (8, 11)
    (alarm,) = [one for one in found.warnings if one.key == "defects"]
    assert alarm.level == "alarm" and "72.7%" in alarm.text.en and "72,7\N{NO-BREAK SPACE}%" in alarm.text.ru


def test_a_study_with_two_defects_is_one_study_with_any(service: Service) -> None:
    service.analyse(service.arrive(incomplete=True), 0.1, unread=1, confirmed_after_s=100.0)
    found = model(service)
    assert sum(one.studies or 0 for one in found.defects.classes) == 3
    assert found.defects.any.count == 1


def test_a_result_that_reaches_nobody_in_time_is_no_result_and_one_on_its_way_is_not_yet(service: Service) -> None:
    service.analyse(service.arrive(), 0.1, confirmed_after_s=None)
    service.arrive()
    assert defects(service)["Б"] == 0
    service.clock.move(61)
    assert defects(service)["Б"] == 2


def test_reports_of_negative_studies_are_missed_only_where_the_profile_writes_them(service: Service) -> None:
    service.analyse(service.arrive(), 0.1)
    assert defects(service)["В2"] == 0
    assert defects(service, profile=[{"name": "default", "negative_sr": True}])["В2"] == 1


def test_a_profile_that_writes_no_pictures_lacks_none(service: Service) -> None:
    service.analyse(service.arrive(), 0.9, roles=("sr",))
    assert defects(service)["В1"] == 1
    assert defects(service, profile=[{"name": "default", "overlay": False}])["В1"] == 0


# reference, drift ----------------------------------------------------------------------------------------------------

REFERENCE = np.linspace(0.01, 0.99, 50)


@pytest.fixture
def installed(tmp_path: Path) -> Callable[[], tuple[InstalledModel, ...]]:
    """The toy model, installed, with a report of `radnode eval report` beside its card."""
    card = install_toy_model(tmp_path / "models")
    folder = tmp_path / "models" / "toy-opacity" / "1.0.0" / "EVALUATION"
    folder.mkdir()
    rows = [["case", "status", "positive", "score", "threshold"]]
    rows += [
        [str(n), "analysed", str(int(score > 0.4)), repr(float(score)), "0.5"] for n, score in enumerate(REFERENCE)
    ]
    rows += [["x", "refused", "1", "", "0.5"], ["y", "analysed", "", "0.9", "0.5"]]
    text = "".join(",".join(row) + "\n" for row in rows)
    (folder / "cases.csv").write_text(text)
    sections = {
        "annexes": {"cases_file": "cases.csv", "cases_sha256": hashlib.sha256(text.encode()).hexdigest()},
        "scoring": {"label": "opacity", "unit": "film"},
        "statistics": {"prevalence_by_design": True},
    }
    twin = {"model": card.reference, "model_digest": card.model_digest, "sections": sections}
    (folder / "evaluation.json").write_text(json.dumps(twin))
    return lambda: tuple(installed_models((tmp_path / "models",)).models.values())


def test_scores_like_those_of_the_report_raise_no_warning(
    service: Service, installed: Callable[[], tuple[InstalledModel, ...]]
) -> None:
    for score in REFERENCE[::2]:
        service.analyse(service.arrive(), round(float(score), 6))
    found = model(service, installed=installed)
    assert found.warnings == ()
    reference = found.reference
    assert reference is not None
    assert (reference.cases, reference.flag_rate.count, reference.sensitivity.count, reference.sensitivity.of) == (
        50, 25, 25, 30,
    )  # fmt: skip
    (note,) = reference.notes
    assert note.en.startswith("the share of diseased cases was chosen")
    drift = found.labels[0].drift
    assert drift.psi is not None and drift.psi < 0.1
    assert drift.reason is None and found.title is not None


def test_scores_that_moved_raise_the_alarm_with_psi_ks_and_the_change_of_the_flag_rate(
    service: Service, installed: Callable[[], tuple[InstalledModel, ...]]
) -> None:
    now = np.round(0.6 + 0.4 * REFERENCE[::2], 6)
    for score in now:
        service.analyse(service.arrive(), float(score))
    found = model(service, installed=installed)
    assert [(one.key, one.level) for one in found.warnings] == [
        ("psi", "alarm"), ("ks", "notice"), ("flag_rate", "alarm"),
    ]  # fmt: skip
    label = found.labels[0]
    expected = ks_2samp(REFERENCE, now)
    assert label.drift.ks == pytest.approx(expected.statistic) and label.drift.ks_p == pytest.approx(expected.pvalue)
    assert sum(bin_[2] for bin_ in label.drift.bins) == pytest.approx(1.0)
    shares = [(max(a, 1e-4), max(b, 1e-4)) for _, a, b in label.drift.bins]
    assert label.drift.psi == pytest.approx(sum((b - a) * np.log(b / a) for a, b in shares))
    assert label.flag_rate_change.value == pytest.approx(0.5)
    low, high = label.flag_rate_change.ci
    assert low is not None and high is not None and 0.3 < low < 0.5 < high < 0.65


def test_few_studies_are_not_judged_for_drift(
    service: Service, installed: Callable[[], tuple[InstalledModel, ...]]
) -> None:
    for _ in range(9):
        service.analyse(service.arrive(), 0.99)
    found = model(service, installed=installed)
    assert found.labels[0].drift.reason == "undefined: 9 analysed studies, fewer than min_studies 10"
    assert found.warnings == ()


def test_without_a_fitting_report_the_reason_is_said(
    service: Service, installed: Callable[[], tuple[InstalledModel, ...]]
) -> None:
    service.analyse(service.arrive(), 0.9)
    assert model(service).reference_reason == "the version is not installed any more"
    (one,) = installed()
    report_file = one.folder / "EVALUATION" / "evaluation.json"
    twin = json.loads(report_file.read_text())
    (one.folder / "EVALUATION" / "cases.csv").write_text("case\n")
    assert model(service, installed=installed).reference_reason == (
        "cases.csv is not the table of cases that evaluation.json names"
    )
    report_file.write_text(json.dumps(twin | {"model_digest": "0" * 64}))
    found = model(service, installed=installed)
    assert found.reference_reason == "the evaluation report beside the card is of another state of the model"
    assert found.labels[0].drift.reason == f"undefined: {found.reference_reason}"
    broken = "case,status,positive,score,threshold\n1,analysed,1,high,0.5\n"
    (one.folder / "EVALUATION" / "cases.csv").write_text(broken)
    twin["sections"]["annexes"]["cases_sha256"] = hashlib.sha256(broken.encode()).hexdigest()
    report_file.write_text(json.dumps(twin))
    assert "a case without a score" in str(model(service, installed=installed).reference_reason)
    report_file.unlink()
    assert model(service, installed=installed).reference_reason == "no evaluation report lies beside the card"


def test_the_report_of_a_training_is_a_reference_too(
    service: Service, installed: Callable[[], tuple[InstalledModel, ...]]
) -> None:
    (one,) = installed()
    (one.folder / "EVALUATION" / "evaluation.json").rename(one.folder / "evaluation.json")
    twin = json.loads((one.folder / "evaluation.json").read_text())
    del twin["sections"]
    (one.folder / "evaluation.json").write_text(json.dumps(twin))
    lines = "image,positive,judged,picture_score\na,1,1,0.9\nb,1,1,0.2\nc,0,1,0.1\nd,0,0,0.7\n"
    (one.folder / "predictions.csv").write_text(lines)
    service.analyse(service.arrive(), 0.9)
    reference = model(service, installed=installed).reference
    assert reference is not None
    assert (reference.cases, reference.unit, reference.flag_rate.count, reference.sensitivity.value) == (
        3, "film", 1, 0.5,
    )  # fmt: skip


def test_every_shipped_model_has_a_reference_or_says_why_not(service: Service) -> None:
    from dicom_node.monitoring.reference import NoReference, reference_of
    from models.registry import ZOO

    said = {}
    for name, one in installed_models((ZOO,)).models.items():
        try:
            said[name.partition("@")[0]] = len(reference_of(one).scores)
        except NoReference as none:
            said[name.partition("@")[0]] = len(str(none))
    assert said["chest-opacity"] >= 200 and said["mammography-lesion"] >= 200 and said["lung-nodule-demo"] > 0


# truth ---------------------------------------------------------------------------------------------------------------


def test_agreement_is_counted_over_readings_that_decide(
    service: Service, installed: Callable[[], tuple[InstalledModel, ...]]
) -> None:
    wanted = [(0.9, Reading.POSITIVE)] * 3 + [(0.1, Reading.POSITIVE)] + [(0.1, Reading.NEGATIVE)] * 4
    wanted += [(0.9, Reading.NEGATIVE)] * 2 + [(0.9, Reading.UNCLEAR)]
    for score, reading in wanted:
        study = service.arrive()
        service.analyse(study, score)
        assert truth(service, study, reading) is Entered.NEW
    refused = service.arrive()
    service.refuse(refused, Reason.VIEW)
    truth(service, refused, Reading.POSITIVE)
    service.analyse(service.arrive(), 0.9)  # nobody read it
    found = model(service, installed=installed).agreement
    assert (found.readings, found.agree, found.disagree, found.unclear) == (12, 7, 3, 2)
    assert found.counts == {
        "true_positive": 3, "false_positive": 2, "true_negative": 4, "false_negative": 1, "unclear_reading": 1,
        "positive_not_analysed": 1, "negative_not_analysed": 0,
    }  # fmt: skip
    assert (found.sensitivity.value, found.specificity.value) == (0.75, pytest.approx(4 / 6))
    assert found.sensitivity_with_failures.value == 0.6
    assert found.sensitivity.ci[0] == pytest.approx(beta.ppf(0.025, 3, 2))
    assert found.rules == {"column reading says '1'": 12}
    assert found.cusum.readings == 4 and found.cusum.expected == pytest.approx(25 / 30)


def test_misses_in_a_row_make_the_cusum_signal(
    service: Service, installed: Callable[[], tuple[InstalledModel, ...]]
) -> None:
    for number in range(30):
        study = service.arrive()
        service.analyse(study, 0.1 if number >= 10 else 0.9)
        truth(service, study, Reading.POSITIVE, read_at=NOON + timedelta(minutes=number))
    found = model(service, installed=installed)
    cusum = found.agreement.cusum
    assert cusum.signals >= 1 and cusum.limit is not None and cusum.highest is not None
    assert cusum.highest >= cusum.limit and len(cusum.path) == 30 and set(cusum.path[:10]) == {0.0}
    assert ("cusum", "alarm") in {(one.key, one.level) for one in found.warnings}


def test_a_reading_of_one_label_is_held_against_that_label(service: Service) -> None:
    study = service.arrive()
    service.analyse(study, 0.2, lesions=1)  # positive as a study, opacity not present
    truth(service, study, Reading.NEGATIVE, label="opacity")
    truth(service, study, Reading.POSITIVE, label="another model's label")
    found = model(service).agreement
    assert (found.readings, found.agree) == (1, 1)


def test_a_later_reading_replaces_an_earlier_one_and_not_the_other_way_round(service: Service) -> None:
    study = service.arrive()
    service.analyse(study, 0.9)
    assert truth(service, study, Reading.NEGATIVE) is Entered.NEW
    assert truth(service, study, Reading.NEGATIVE) is Entered.SAME
    assert truth(service, study, Reading.POSITIVE, read_at=NOON - timedelta(days=1)) is Entered.OLDER
    assert truth(service, study, Reading.POSITIVE, read_at=NOON + timedelta(days=1)) is Entered.REPLACED
    assert model(service).agreement.agree == 1


def test_a_table_of_readings_is_entered_and_bad_rows_are_named_by_line(service: Service, tmp_path: Path) -> None:
    first, second, third = (service.arrive() for _ in range(3))
    for study in (first, second, third):
        service.analyse(study, 0.9)
    number_of(service, first, "A-1")
    number_of(service, second, "A-2")
    number_of(service, third, "A-2")
    file = tmp_path / "readings.csv"
    file.write_text(
        "accession_number;study_uid;reading;label;read_at;comment\n"
        "A-1;;Патология;;2026-03-02T15:00;Иванов\n"
        f";{second};норма;opacity;;\n"
        "A-2;;1;;;\n"
        "A-9;;1;;;\n"
        ";1.2.3;1;;;\n"
        ";;1;;;\n"
        f";{third};вероятно рак у Иванова;;;\n"
        f";{third};0;heart;;\n"
        f";{third};0;;yesterday;\n"
        f";{third};0;;2027-01-01;\n",
        encoding="utf-8",
    )
    found = import_truth(service.ledger, file, MOSCOW, labels=frozenset({"opacity"}))
    assert found.entered[Entered.NEW] == 2
    assert [row.line for row in found.refused] == [4, 5, 6, 7, 8, 9, 10, 11]
    why = " ".join(row.why for row in found.refused)
    for words in ("several studies have this", "no study with this accession_number", "with this study_uid", "empty",
                  "the reading is none of", "no installed model has this", "is no time", "in the future"):  # fmt: skip
        assert words in why
    assert "Иванов" not in why and found.ignored_columns == ("comment",)
    agreement = model(service).agreement
    assert (agreement.readings, agreement.agree, agreement.disagree) == (2, 1, 1)
    assert agreement.rules == {"column reading says 'норма'": 1, "column reading says 'патология'": 1}


def number_of(service: Service, study: StudyUid, number: str) -> None:
    from dicom_node.facts import InstanceFacts

    with service.ledger.begin() as tx:
        (stored,) = instances.of_study(tx, study)
        instances.set_indexed(tx, stored.id, InstanceFacts(accession_number=number))


def test_a_table_that_names_no_study_is_refused_whole(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("reading\n1\n")
    with pytest.raises(TableError, match="no column 'study_uid' or 'accession_number'"):
        import_truth(service.ledger, file, MOSCOW, labels=frozenset())


# exports -------------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_a_period_and_no_study(service: Service) -> None:
    study = service.arrive()
    service.analyse(study, 0.9)
    service.refuse(service.arrive(at=NOON + timedelta(days=1)), Reason.VIEW)
    text = service_csv(report(service, last=date(2026, 3, 3), step=Step.DAY))
    one, two = list(csv.DictReader(text.splitlines()))
    assert (one["received"], one["positive"], one["last_image_to_confirmed_s_p50"]) == ("1", "1", "35")
    assert (two["refused_view"], two["positive"], two["defect_Б"]) == ("1", "", "0")
    assert str(study) not in text


def test_the_export_of_the_order_says_what_is_not_known(
    service: Service, installed: Callable[[], tuple[InstalledModel, ...]]
) -> None:
    service.analyse(service.arrive(), 0.9)
    service.analyse(service.arrive(), 0.1)
    service.refuse(service.arrive(), Reason.MODEL_FAILED)
    cards = {one.card.reference: one.card for one in installed()}
    (row,) = list(csv.DictReader(order_4472_csv(report(service), cards).splitlines()))
    assert tuple(row) == ORDER_HEADINGS
    assert row["Наименование медицинского изделия"] == "Светлые пятна"
    assert row["Номер регистрационного удостоверения"].startswith("не зарегистрировано")
    assert (row["Версия программного обеспечения"], row["Область применения"]) == ("1.0.0", "только для тестов")
    assert (row["Обработано исследований"], row["Результаты"]) == ("2", "с находками 1, без находок 1")
    assert row["Ошибки"] == "сбои: сбой модели — 1; дефекты: Б — 1"
    gone = list(csv.DictReader(order_4472_csv(report(service), {}).splitlines()))
    assert gone[0]["Область применения"] == "не указано"


def test_nothing_in_a_report_names_a_study_or_a_sender(service: Service) -> None:
    study = service.arrive()
    service.analyse(study, 0.9)
    number_of(service, study, "A-77")
    truth(service, study, Reading.POSITIVE)
    text = report(service, step=Step.DAY).model_dump_json()
    assert str(study) not in text and "1.2." not in text and "MODALITY" not in text and "A-77" not in text


def test_a_final_answer_without_confirmation_counts_as_delivered(service: Service) -> None:
    study = service.arrive()
    service.analyse(study, 0.1, confirmed_after_s=None)
    with service.ledger.begin() as tx:
        (row,) = deliveries.of_study(tx, study)
        deliveries.set_sent(tx, row.id, at=service.clock.move(5), ask_again_at=None, reason="no confirmation on offer")
    assert model(service).last_image_to_confirmed_s.p50 == 20.0
