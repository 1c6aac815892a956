"""The evaluation report: what it counts, what it refuses, and that its pages say nothing that the twin does not."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from tinyhtml5.parser import HTMLParser as HTMLParserOfWeasyPrint

from eval.commands.report import command, write_report
from eval.report import checks
from eval.report.annexes import CHECKLISTS, read_rows
from eval.report.build import Report, build
from eval.report.faults import ReportError
from eval.report.inputs import read_inputs
from eval.report.language import LANGUAGES, Language, number, read_words, short
from eval.report.pages import page
from eval.report.parts import STANDARD_ITEMS
from eval.report.pdf import pdf_of
from eval.report.sections import Sections
from eval.report.statements import MONITORING_ITEMS, READER_ITEMS, ROBUSTNESS_ITEMS, STUDY_ITEMS, USE_ITEMS
from eval.report.values import Value
from eval.runs import CaseRecord, Run, Status
from eval.version import version
from models.evaluation_report import check_report, read_report, reports_of
from models.registry import installed_models
from tests.report_runs import DAY, PASSPORT, cases, dataset, digest_of, film, make_run
from tests.toy_model import install_toy_model


def report_of(folder: Path, records: list[CaseRecord] | None = None, **changes: Any) -> tuple[Run, Report]:
    images = changes.pop("images", None)
    make_run(folder / "run", folder / "models", records, **changes)
    given = read_inputs(folder / "run", models=[folder / "models"], images=images)
    return given.run, build(given, created=DAY)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Report]:
    return report_of(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module", params=LANGUAGES)
def printed(request: pytest.FixtureRequest, made: tuple[Run, Report]) -> tuple[Language, str, Report]:
    return request.param, page(made[1].twin, request.param, made[1].pictures), made[1]


# ---- what is counted


def test_figures_are_those_of_scikit_learn_and_of_counting_by_hand(made: tuple[Run, Report]) -> None:
    run, report = made
    found = report.twin.sections.results.cases
    assert found is not None
    known = [case for case in run.judged if case.score is not None]
    truth, scores = [bool(case.positive) for case in known], [case.score for case in known]
    assert found.auroc.value == pytest.approx(roc_auc_score(truth, scores))
    assert found.average_precision.value == pytest.approx(average_precision_score(truth, scores))
    assert found.calibration.figures["brier"].value == pytest.approx(brier_score_loss(truth, scores))
    ill = [case for case in run.judged if case.positive]
    hits = sum(case.score is not None and case.score >= 0.5 for case in ill)
    sensitivity = found.operating.figures["sensitivity"][0]
    assert (sensitivity.count, sensitivity.of) == (hits, len(ill))


def test_a_diseased_failure_is_missed_and_specificity_is_given_with_and_without_failures(
    made: tuple[Run, Report],
) -> None:
    run, report = made
    found = report.twin.sections.results.cases
    assert found is not None
    well = [case for case in run.judged if not case.positive]
    failed = sum(case.status is not Status.ANALYSED for case in well)
    left = sum(case.score is not None and case.score < 0.5 for case in well)
    assert failed > 0
    assert found.operating.failed_positive > 0
    held, without = (found.operating.figures[name][0] for name in ("specificity", "specificity_without_failures"))
    assert (held.count, held.of) == (left, len(well))
    assert (without.count, without.of) == (left, len(well) - failed)


def test_lesions_found_and_false_marks_are_those_of_a_plain_count(made: tuple[Run, Report]) -> None:
    run, report = made
    found = report.twin.sections.results.lesions
    assert found is not None
    hits, wrong = 0, 0
    for case in run.judged:
        marks = [mark for mark in case.marks if mark.score >= 0.5]
        centers = [((m.box[0] + m.box[2]) / 2, (m.box[1] + m.box[3]) / 2) for m in marks if m.box]
        boxes = [lesion.box for lesion in case.lesions if lesion.box]
        touching = [[b[0] <= x <= b[2] and b[1] <= y <= b[3] for b in boxes] for x, y in centers]
        hits += sum(any(column) for column in zip(*touching, strict=True)) if touching else 0
        wrong += sum(not any(row) for row in touching)
    lesions = sum(len(case.lesions) for case in run.judged)
    assert (found.found.count, found.found.of) == (hits, lesions)
    assert found.false_per_case.value == pytest.approx(wrong / len(run.judged))
    galleries = {gallery.kind: gallery.places for gallery in report.twin.sections.errors.galleries}
    assert galleries["missed_lesions"] == lesions - hits
    assert galleries["false_marks"] == wrong


def test_the_flow_names_every_exclusion(made: tuple[Run, Report]) -> None:
    run, report = made
    flow = report.twin.sections.data.flow
    assert flow.cases == len(run.cases) == flow.judged + sum(one.cases for one in flow.not_judged)
    assert [(one.step, one.reason) for one in flow.not_analysed] == [("refused", "out_of_range")]
    assert flow.analysed == flow.judged - flow.not_analysed[0].cases


def test_small_subgroups_are_too_few_and_the_lowest_group_is_named(made: tuple[Run, Report]) -> None:
    groups = {(group.trait, group.value): group for group in made[1].twin.sections.subgroups.groups}
    small = groups["view", "AP"]
    assert small.too_few
    assert small.positive < 10
    assert small.auroc is small.sensitivity is small.specificity is None
    judged = [group.auroc.value for group in groups.values() if group.auroc is not None]
    lowest = made[1].twin.sections.subgroups.lowest[0]
    assert lowest.figure == "auroc"
    assert lowest.result.value == min(value for value in judged if value is not None)


def test_positives_are_held_against_each_group_of_negatives(made: tuple[Run, Report]) -> None:
    run, report = made
    found = report.twin.sections.results.cases
    assert found is not None
    rows = {one.reading: one for one in found.against}
    assert set(rows) == {"normal", "other", "rare"}
    assert rows["rare"].too_few
    assert rows["rare"].auroc is None
    kept = [case for case in run.judged if case.score is not None and (case.positive or case.reading == "normal")]
    auroc = rows["normal"].auroc
    assert auroc is not None
    assert auroc.value == pytest.approx(roc_auc_score([case.positive for case in kept], [case.score for case in kept]))
    assert sum(one.cases for one in rows.values()) == report.twin.sections.data.flow.negative


def test_lesions_found_are_told_by_thirds_of_their_size(made: tuple[Run, Report]) -> None:
    found = made[1].twin.sections.results.lesions
    assert found is not None
    assert len(found.by_size) == 3
    assert sum(one.lesions for one in found.by_size) == found.lesions
    assert sum(one.found.count or 0 for one in found.by_size) == found.found.count
    assert [one.low for one in found.by_size] == sorted(one.low for one in found.by_size)
    assert found.by_size[0].high <= found.by_size[1].low


def test_the_table_of_cases_repeats_the_figures_and_names_no_patient(made: tuple[Run, Report]) -> None:
    run, report = made
    rows = list(csv.DictReader(io.StringIO(report.cases)))
    assert len(rows) == len(run.cases)
    assert hashlib.sha256(report.cases.encode()).hexdigest() == report.twin.sections.annexes.cases_sha256
    known = [row for row in rows if row["positive"] and row["score"]]
    found = report.twin.sections.results.cases
    assert found is not None
    assert found.auroc.value == pytest.approx(
        roc_auc_score([int(row["positive"]) for row in known], [float(row["score"]) for row in known])
    )
    assert sum(row["outcome"] == "TP" for row in rows) == found.operating.true_positive
    assert not {case.patient for case in run.cases} & {cell for row in rows for cell in row.values()}
    numbers = {case.patient: row["patient_number"] for case, row in zip(run.cases, rows, strict=True)}
    assert len(set(numbers.values())) == len(numbers)


def test_the_rule_out_table_lists_every_missed_case(made: tuple[Run, Report]) -> None:
    run, report = made
    found = report.twin.sections.results.cases
    assert found is not None
    for row in found.rule_out:
        assert row.threshold is not None
        below = [case for case in run.judged if case.score is not None and case.score < row.threshold]
        assert row.removable.count == len(below)
        assert set(row.missed) == {case.case for case in below if case.positive}
    assert found.rule_out[0].missed == ()


def test_folds_are_judged_at_their_own_thresholds_and_also_at_the_served_one(tmp_path: Path) -> None:
    folded = [
        case.model_copy(
            update={"fold": int(case.patient[1:]) % 3, "threshold": 0.3 + 0.1 * (int(case.patient[1:]) % 3)}
        )
        for case in cases()
    ]
    run, report = report_of(tmp_path, folded, kind="cross-validation")
    found = report.twin.sections.results.cases
    assert found is not None
    assert found.at_served is not None
    called = sum(case.score is not None and case.score >= (case.threshold or 9) for case in run.judged if case.positive)
    assert found.operating.true_positive == called
    at_half = sum(case.score is not None and case.score >= 0.5 for case in run.judged if case.positive)
    assert found.at_served.true_positive == at_half
    assert {group.trait for group in report.twin.sections.subgroups.groups} == {"sex", "view", "fold"}
    assert "fold" not in {one.trait for one in report.twin.sections.subgroups.lowest}
    text = page(report.twin, "en", {})
    assert "chosen on these cases" in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"marks": (), "lesions": ()}, "marks are not judged"),
        ({"score": None, "threshold": None}, "only marks are judged"),
    ],
)
def test_a_model_that_only_scores_and_one_that_only_marks_have_reports_too(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    records = [case.model_copy(update=change) for case in cases() if case.status is Status.ANALYSED]
    _, report = report_of(tmp_path, records)
    for language in LANGUAGES:
        text = page(report.twin, language, {})
        assert told in text or language == "ru"


@pytest.mark.parametrize("positives", [0, 1, 3])
def test_degenerate_cases_are_undefined_with_a_reason_in_both_languages_and_never_certain(
    tmp_path: Path, positives: int
) -> None:
    kept = [case for case in cases() if case.status is Status.ANALYSED and case.positive is not None]
    few = [case for case in kept if case.positive][:positives] + [case for case in kept if not case.positive][
        : 3 - positives
    ]
    few[0] = few[0].model_copy(update={"score": 0.0 if few[0].positive else 1.0})
    _, report = report_of(tmp_path, few)
    known = read_words("ru")["reasons"]
    found = list(checks.values(report.twin.sections, "sections"))
    assert any(value.value is None for _, value in found)
    for place, value in found:
        assert value.whole or value.reason in known, (place, value.reason)
        assert not value.whole or value.ci[0] != value.ci[1], place
    for language in LANGUAGES:
        assert "nan" not in " ".join(_Text.of(page(report.twin, language, {}))).casefold().split()


# ---- what is refused


def test_what_nobody_planned_or_described_is_asked_for_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ReportError) as caught:
        report_of(tmp_path, text=dataset(plan=False, passport=False))
    assert "section 4, objectives" in str(caught.value)
    assert "section 5, data" in str(caught.value)
    assert "report.toml" in str(caught.value)


def test_statements_beside_the_run_fill_what_is_missing_but_never_fix_a_plan_afterwards(tmp_path: Path) -> None:
    make_run(tmp_path / "run", tmp_path / "models", text=dataset(plan=False, passport=False))
    told = "\n".join(f'{name} = "{words}"' for name, words in PASSPORT.items())
    stated = '[use]\nusers = "radiologists"\nplace = { not_provided = "not decided" }\n'
    plan = '[plan]\nobjective = "to see"\nfixed_before = false\n[[plan.hypotheses]]\nstatement = "good"\n'
    file = tmp_path / "run" / "report.toml"
    file.write_text(f"{stated}{plan}figure = 'auroc'\nat_least = 0.1\n[passport]\n{told}\n", encoding="utf-8")
    twin = build(read_inputs(tmp_path / "run", models=[tmp_path / "models"]), created=DAY).twin
    assert twin.verdict is None
    assert "intended_use.users" not in twin.missing
    assert "intended_use.place" not in twin.missing
    assert "not decided" in page(twin, "en", {})
    file.write_text(file.read_text(encoding="utf-8").replace("fixed_before = false", "fixed_before = true"))
    with pytest.raises(ReportError, match="was not fixed before it"):
        read_inputs(tmp_path / "run", models=[tmp_path / "models"])
    file.write_text('[use]\nuser = "x"\n')
    with pytest.raises(ReportError, match=r"nothing is printed under use\.user"):
        read_inputs(tmp_path / "run", models=[tmp_path / "models"])


def test_a_draft_of_statements_is_enough_for_a_first_report_that_hides_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "run", tmp_path / "models", cases(60), text=dataset(plan=False, passport=False))
    assert CliRunner().invoke(command, [str(tmp_path / "run"), "--draft"]).exit_code == 0
    twin = build(read_inputs(tmp_path / "run", models=[tmp_path / "models"]), created=DAY).twin
    assert {f"data.{name}" for name in ("source", "consent", "sample_size")} <= set(twin.missing)
    assert {f"standard.{name}" for name in ("readers", "agreement")} <= set(twin.missing)
    assert "report.toml" in twin.sections.reproducibility.digests
    again = CliRunner().invoke(command, [str(tmp_path / "run"), "--draft"])
    assert again.exit_code == 1
    assert "not written over" in again.stderr


def test_a_threshold_that_is_not_the_served_one_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run", tmp_path / "models")
    install_toy_model(tmp_path / "others", threshold=0.4)
    with pytest.raises(ReportError) as caught:
        build(read_inputs(tmp_path / "run", models=[tmp_path / "others"]), created=DAY)
    assert "the picture threshold of opacity was 0.5 in the run and is 0.4 in the served card" in str(caught.value)
    assert "another state of toy-opacity@1.0.0" in str(caught.value)


def test_a_case_of_served_weights_judged_at_another_threshold_is_refused(tmp_path: Path) -> None:
    records = cases()
    records[5] = records[5].model_copy(update={"threshold": 0.2})
    with pytest.raises(ReportError, match=r"1 case\(s\) were compared with another threshold.*film-005"):
        report_of(tmp_path, records)


def test_a_patient_in_two_folds_or_a_case_in_none_is_refused(tmp_path: Path) -> None:
    records = [case.model_copy(update={"fold": index % 2}) for index, case in enumerate(cases())]
    records[0] = records[0].model_copy(update={"fold": None})
    with pytest.raises(ReportError) as caught:
        report_of(tmp_path, records, kind="cross-validation")
    assert "has no fold" in str(caught.value)
    assert "lie in two folds" in str(caught.value)


def in_folds() -> list[CaseRecord]:
    return [case.model_copy(update={"fold": int(case.patient[1:]) % 3, "threshold": 0.4}) for case in cases()]


@pytest.mark.parametrize("name", ["threshold", "mark_threshold"])
def test_two_thresholds_in_one_fold_are_refused_by_the_name_of_the_fold(tmp_path: Path, name: str) -> None:
    records = [
        case.model_copy(update={name: 0.0001}) if case.positive and case.fold == 1 else case for case in in_folds()
    ]
    with pytest.raises(ReportError) as caught:
        report_of(tmp_path, records, kind="cross-validation")
    (fault,) = caught.value.faults
    assert fault.startswith("section 7, scoring: fold 1 ")
    assert "0.0001" in fault


def test_thresholds_of_folds_are_held_against_those_that_the_run_recorded(tmp_path: Path) -> None:
    recorded = {fold: {"threshold": 0.4, "mark_threshold": 0.5} for fold in range(3)}
    _, report = report_of(tmp_path / "same", in_folds(), kind="cross-validation", folds=recorded)
    assert report.twin.sections.data.folds == 3
    recorded[2] = {"threshold": 0.45, "mark_threshold": 0.5}
    with pytest.raises(ReportError, match=r"fold 2 .*recorded.*0\.45") as caught:
        report_of(tmp_path / "other", in_folds(), kind="cross-validation", folds=recorded)
    assert len(caught.value.faults) == 1
    del recorded[2]
    with pytest.raises(ReportError, match="fold 2 is not among the folds that the run recorded"):
        report_of(tmp_path / "fewer", in_folds(), kind="cross-validation", folds=recorded)


def test_a_model_that_is_not_installed_cannot_be_held_against_what_is_served(tmp_path: Path) -> None:
    make_run(tmp_path / "run", tmp_path / "models")
    with pytest.raises(ReportError, match=r"toy-opacity@1\.0\.0 is not installed.*--models-folder"):
        read_inputs(tmp_path / "run", models=[tmp_path])


def test_cases_without_truth_give_no_report(tmp_path: Path) -> None:
    records = [case.model_copy(update={"positive": None, "lesions": ()}) for case in cases(20)]
    with pytest.raises(ReportError, match="the truth of no case is known"):
        report_of(tmp_path, records)


def test_a_figure_without_interval_is_refused_by_its_place(made: tuple[Run, Report]) -> None:
    twin = made[1].twin
    results = twin.sections.results
    assert results.cases is not None
    bare = Value(value=0.9, ci=(None, None))
    cases_part = results.cases.model_copy(update={"auroc": bare})
    sections = twin.sections.model_copy(update={"results": results.model_copy(update={"cases": cases_part})})
    with pytest.raises(ReportError, match=r"section 9: results\.cases\.auroc has no interval"):
        checks.after(twin.model_copy(update={"sections": sections}))


def test_subgroups_that_do_not_add_up_are_refused(made: tuple[Run, Report]) -> None:
    twin = made[1].twin
    fewer = twin.sections.subgroups.model_copy(update={"groups": twin.sections.subgroups.groups[1:]})
    sections = twin.sections.model_copy(update={"subgroups": fewer})
    with pytest.raises(ReportError, match="section 10, subgroups: the groups of sex add up to"):
        checks.after(twin.model_copy(update={"sections": sections}))


def test_the_command_names_every_fault_on_standard_error(tmp_path: Path) -> None:
    make_run(tmp_path / "run", tmp_path / "models", text=dataset(plan=False, passport=False))
    result = CliRunner().invoke(command, [str(tmp_path / "run"), "--models-folder", str(tmp_path / "models")])
    assert result.exit_code == 1
    assert result.stderr.count("section") == 2
    assert not (tmp_path / "run" / "EVALUATION").exists()


# ---- what is printed


def test_every_number_on_the_pages_is_in_the_twin(printed: tuple[Language, str, Report]) -> None:
    language, text, report = printed
    twin = report.twin.model_dump(mode="json")
    allowed = {str(place) for place in range(1, 18)} | {str(len(report.twin.missing))}
    allowed |= {str(len(one.shown)) for one in report.twin.sections.errors.galleries}
    allowed |= set(_numbers(json.dumps(read_words(language), ensure_ascii=False)))
    for leaf in _leaves(twin):
        if isinstance(leaf, bool) or leaf is None:
            continue
        if isinstance(leaf, str):
            allowed |= set(_numbers(leaf))
            continue
        written = [number(leaf, language=language, places=places) for places in (2, 3, 4)]
        allowed |= {one for each in (*written, short(leaf, language=language), f"{leaf:.1e}") for one in _numbers(each)}
    said = _numbers(" ".join(_Text.of(text)))
    assert len(said) > 500
    assert sorted(set(said) - allowed) == []


def test_the_pages_are_well_formed_and_refer_to_nothing_outside(printed: tuple[Language, str, Report]) -> None:
    _, text, _ = printed
    judge = HTMLParserOfWeasyPrint()
    judge.parse(text)
    assert judge.errors == []
    parsed = _Tags.of(text)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids)) == len(Sections.model_fields)
    assert parsed.references
    for reference in parsed.references:
        assert reference.startswith("data:") or reference[1:] in parsed.ids
    assert "url(" not in text
    assert "<script" not in text


def test_all_sections_are_there_in_order_in_both_languages(printed: tuple[Language, str, Report]) -> None:
    language, text, _ = printed
    words = read_words(language)["section"]
    places = [text.index(f">{place}. {words[key]}</h2>") for place, key in enumerate(Sections.model_fields, start=1)]
    assert len(places) == 17
    assert places == sorted(places)


def test_a_page_that_refers_to_something_outside_is_not_printed_on_paper() -> None:
    with pytest.raises(ValueError, match="outside itself"):
        pdf_of('<html><body><img src="https://example.org/pixel.png" alt=""></body></html>')


def test_the_same_inputs_give_the_same_bytes_and_another_day_changes_only_the_date(tmp_path: Path) -> None:
    make_run(tmp_path / "run", tmp_path / "models", cases(60))
    arguments = [str(tmp_path / "run"), "--models-folder", str(tmp_path / "models")]
    told = [*arguments, "--date", "2026-11-23", "--out", str(tmp_path / "one"), "--language", "en"]
    assert CliRunner().invoke(command, told).exit_code == 0
    later = [*arguments, "--date", "2026-11-23", "--out", str(tmp_path / "two"), "--language", "en"]
    # The version names the commit, which another commit in the checkout would change in between.
    program = "import sys, eval.report.build as build; build.version = lambda: sys.argv[1]; "
    program += "from eval.commands.report import command; command(sys.argv[2:])"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", program, version(), *later], check=True, env=environment, capture_output=True)
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == ["cases.csv", "evaluation.json", "report.en.html", "report.en.pdf"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    other = [*arguments, "--date", "2027-01-05", "--out", str(tmp_path / "three"), "--no-pdf", "--language", "en"]
    assert CliRunner().invoke(command, other).exit_code == 0
    for name in ("cases.csv", "evaluation.json", "report.en.html"):
        dated = (tmp_path / "three" / name).read_text(encoding="utf-8").replace("2027-01-05", "2026-11-23")
        assert dated == (tmp_path / "one" / name).read_text(encoding="utf-8")


def test_pictures_are_shown_only_where_the_licence_allows_and_the_file_is_the_one_that_was_read(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for case in cases():
        (folder / f"{case.case}.png").write_bytes(film(case.case))
    _, closed = report_of(tmp_path / "closed", text=dataset(shown=False), images=folder)
    assert not closed.pictures
    assert closed.twin.sections.errors.why_no_pictures is not None
    assert "licence" in closed.twin.sections.errors.why_no_pictures.en
    assert "data:image/jpeg" not in page(closed.twin, "en", {})
    _, shown = report_of(tmp_path / "shown", text=dataset(shown=True), images=folder)
    named = {one.picture_sha256 for gallery in shown.twin.sections.errors.galleries for one in gallery.shown}
    assert named == set(shown.pictures)
    assert all(hashlib.sha256(jpeg).hexdigest() == digest for digest, jpeg in shown.pictures.items())
    text = page(shown.twin, "en", shown.pictures)
    assert text.count("data:image/jpeg") == sum(len(one.shown) for one in shown.twin.sections.errors.galleries)
    for file in folder.iterdir():
        file.write_bytes(film("film-999"))
    with pytest.raises(ReportError, match="is not the file that the run read"):
        report_of(tmp_path / "other", text=dataset(shown=True), images=folder)
    assert digest_of("film-001") != digest_of("film-002")


# ---- who reads it


def test_a_promotion_accepts_the_report_of_the_installed_model_and_refuses_one_that_missed_its_bar(
    tmp_path: Path,
) -> None:
    _, report = report_of(tmp_path / "good")
    (model,) = installed_models([tmp_path / "good" / "models"]).models.values()
    write_report(report, model.folder / "EVALUATION", pdf=False)
    (found,) = reports_of(model)
    check_report(found, model.card)
    assert found.report.verdict is not None
    assert found.report.verdict.passed
    assert found.report.data_sha256 == report.twin.data_sha256
    _, poor = report_of(tmp_path / "poor", text=dataset(at_least=0.999))
    write_report(poor, tmp_path / "poor" / "out", languages=("en",), pdf=False)
    with pytest.raises(Exception, match=r"'not passed': auroc \(0\.\d+, wanted lower end .* 0\.999\)"):
        check_report(read_report(tmp_path / "poor" / "out" / "evaluation.json"), model.card)
    assert "not passed" in (tmp_path / "poor" / "out" / "report.en.html").read_text(encoding="utf-8")


def test_json_alone_goes_to_standard_output(tmp_path: Path) -> None:
    make_run(tmp_path / "run", tmp_path / "models", cases(60))
    result = CliRunner().invoke(
        command,
        [str(tmp_path / "run"), "--models-folder", str(tmp_path / "models"), "--no-pdf", "--language", "ru", "--json"],
    )
    assert result.exit_code == 0, result.output
    twin = json.loads(result.stdout)
    assert twin["model"] == "toy-opacity@1.0.0"
    assert sorted(file.name for file in (tmp_path / "run" / "EVALUATION").iterdir()) == [
        "cases.csv", "evaluation.json", "report.ru.html"
    ]  # fmt: skip
    assert twin == json.loads((tmp_path / "run" / "EVALUATION" / "evaluation.json").read_text(encoding="utf-8"))


# ---- words and checklists


def test_checklists_are_whole_and_point_at_sections_and_items_that_there_are() -> None:
    claim, stard, gost = (read_rows(name) for name in CHECKLISTS)
    assert [row.number for row in claim] == [str(item) for item in range(1, 45)]
    plain = {row.number.rstrip("ab") for row in stard} - {"AI"}
    assert plain == {str(item) for item in range(1, 31)}
    assert {row.number.partition("-")[0] for row in gost} == {str(part) for part in range(10)}
    known = {
        "intended_use": USE_ITEMS,
        "readers": READER_ITEMS,
        "subgroups": ROBUSTNESS_ITEMS,
        "monitoring": MONITORING_ITEMS,
        "reproducibility": STUDY_ITEMS,
        "data": tuple(PASSPORT),
        "standard": STANDARD_ITEMS,
    }
    for row in (*claim, *stard, *gost):
        assert (row.section is None) == (row.absent is not None)
        for need in row.needs:
            section, _, item = need.partition(".")
            assert item in known[section]


def test_what_nobody_stated_is_listed_first_and_marked_in_the_checklists(made: tuple[Run, Report]) -> None:
    twin = made[1].twin
    assert "reproducibility.funding" in twin.missing
    funding = next(row for row in twin.sections.annexes.claim if row.number == "44")
    assert funding.answer is not None
    assert funding.answer.not_provided is not None


def test_words_of_both_languages_have_the_same_keys() -> None:
    english, russian = (read_words(language) for language in LANGUAGES)
    assert {part: set(words) for part, words in english.items()} == {
        part: set(words) for part, words in russian.items()
    }


def _leaves(given: object) -> list[Any]:
    if isinstance(given, dict):
        return [leaf for key, value in given.items() for leaf in (key, *_leaves(value))]
    if isinstance(given, list):
        return [leaf for value in given for leaf in _leaves(value)]
    return [given]


def _numbers(text: str) -> list[str]:
    """Numbers as they are written, signs left out: digits with points, commas, exponents."""
    return re.findall(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", text)


class _Text(HTMLParser):
    """The text that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.hidden = False

    @classmethod
    def of(cls, text: str) -> list[str]:
        parser = cls()
        parser.feed(text)
        return parser.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden = tag in {"style", "title"}

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.found.append(data)


class _Tags(HTMLParser):
    """Whether tags are closed in order, what has an id, and what is referred to."""

    EMPTY = frozenset({"meta", "br", "img", "link", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    @classmethod
    def of(cls, text: str) -> _Tags:
        parser = cls()
        parser.feed(text)
        parser.close()
        return parser

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)
        self._see(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _see(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in {"src", "href"} and value:
                self.references.append(value)
