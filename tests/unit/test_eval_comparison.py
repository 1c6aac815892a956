"""Two runs over real cases, paired: figures against independent code, verdicts, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from eval.commands.compare import CompareDocument, command
from eval.comparison import (
    ALIKE,
    Compared,
    Verdict,
    compare_auroc,
    compare_calls,
    compare_marks,
    disagreements,
    overall,
    pair,
    verdict,
)
from eval.froc import froc
from eval.froc import match as match_film
from eval.intervals import Estimate
from eval.runs import CaseRecord, Run, RunError, Status, read_run, write_run
from inference.findings import Box
from models.registry import ZOO
from tests.conftest import PROJECT
from training.evaluation_run import released_run

RECIPES = PROJECT / "training" / "recipes"
RATES = (0.125, 0.25, 0.5, 1, 2, 4, 8)


@pytest.fixture(scope="module")
def films(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The cross-validation of the shipped chest model."""
    out = tmp_path_factory.mktemp("runs") / "films"
    dataset = RECIPES / "chest_opacity.dataset.toml"
    released_run(ZOO / "chest-opacity" / "0.1.1", shared_data / "chest_xray_nih", dataset, out)
    return read_run(out)


def _strongest(case: CaseRecord) -> CaseRecord:
    """The case as judged by its strongest mark alone, with fewer marks: another way to read the same network."""
    kept = tuple(mark for mark in case.marks if round(mark.score * 1e4) % 3)
    best = max((mark.score for mark in kept), default=0.0)
    return case.model_copy(update={"score": best, "threshold": case.mark_threshold, "marks": kept})


@pytest.fixture(scope="module")
def marks(films: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _written(films, [_strongest(case) for case in films.cases], tmp_path_factory.mktemp("runs") / "marks")


def _written(run: Run, cases: list[CaseRecord], out: Path, **more: str) -> Run:
    names = {"card": "card.toml", "dataset": "dataset.toml", "manifest": "manifest.csv"}
    texts = {key: (run.folder / name).read_text(encoding="utf-8") for key, name in names.items()}
    write_run(out, run.record, cases, **(texts | more))
    return read_run(out)


def _first_films(run: Run) -> Run:
    """One judged film of each patient: then cases are independent."""
    seen = {case.patient: case for case in reversed(run.judged)}
    return replace(run, cases=tuple(case for case in run.judged if seen[case.patient] is case))


def test_areas_are_those_of_scikit_learn(films: Run, marks: Run) -> None:
    found = compare_auroc(pair(films, marks))
    truth = [case.positive for case in films.judged]
    areas = [roc_auc_score(truth, [case.score for case in run.judged]) for run in (films, marks)]
    assert found.first == pytest.approx(areas[0], abs=1e-12)
    assert found.second == pytest.approx(areas[1], abs=1e-12)
    assert found.difference.value == pytest.approx(areas[1] - areas[0], abs=1e-12)
    assert found.method.startswith("Obuchowski")


def test_the_interval_of_the_area_difference_agrees_with_resampled_patients(films: Run, marks: Run) -> None:
    found = compare_auroc(pair(films, marks))
    cases = list(zip(films.judged, marks.judged, strict=True))
    patients = sorted({one.patient for one, _ in cases})
    of = {patient: [both for both in cases if both[0].patient == patient] for patient in patients}
    random = np.random.default_rng(3)
    drawn = []
    for _ in range(400):
        rows = [both for patient in random.choice(patients, len(patients)) for both in of[patient]]
        truth = [one.positive for one, _ in rows]
        drawn.append(
            roc_auc_score(truth, [b.score for _, b in rows]) - roc_auc_score(truth, [a.score for a, _ in rows])
        )
    low, high = np.percentile(drawn, [2.5, 97.5])
    width = high - low
    assert found.difference.low == pytest.approx(low, abs=0.2 * width)
    assert found.difference.high == pytest.approx(high, abs=0.2 * width)


def test_calls_of_independent_cases_are_tested_as_statsmodels_tests_them(films: Run, marks: Run) -> None:
    both = pair(_first_films(films), _first_films(marks))
    found = compare_calls(both, diseased=False)
    right = [
        np.asarray([case.score < run.threshold(case) for case in judged.records if not case.positive])  # type: ignore[operator]
        for run, judged in zip((films, marks), both.judged, strict=True)
    ]
    table = [[int((a & b).sum()) for b in (right[1], ~right[1])] for a in (right[0], ~right[0])]
    assert found.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    assert found.difference.value == pytest.approx(right[1].mean() - right[0].mean())
    assert found.method == "Tango 1998, exact McNemar"
    assert compare_auroc(both).method == "DeLong 1988, paired"


def test_lesions_found_are_those_of_the_plain_curve(films: Run, marks: Run) -> None:
    found = compare_marks(pair(films, marks), resamples=20, seed=1)
    assert found is not None
    for run, value in ((films, found.mean.first), (marks, found.mean.second)):
        matched = [
            match_film(_marks(case), [Box(**_edges(lesion.box)) for lesion in case.lesions]) for case in run.judged
        ]
        curve = froc(matched)
        assert value == pytest.approx(np.mean([curve.sensitivity_at(rate) for rate in RATES]), abs=1e-12)
    served = [case for case in films.judged if case.lesions]
    hit = sum(
        any(_inside(mark.box, lesion.box) and mark.score >= (films.mark_threshold(case) or 0) for mark in case.marks)
        for case in served
        for lesion in case.lesions
    )
    assert found.lesions.both + found.lesions.second_only == hit == 79


def _edges(box: tuple[float, float, float, float] | None) -> dict[str, float]:
    assert box is not None
    return dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))


def _marks(case: CaseRecord) -> list[object]:
    from eval.froc import Mark

    return [Mark(box=Box(**_edges(mark.box)), score=mark.score) for mark in case.marks]


def _inside(mark: tuple[float, ...] | None, lesion: tuple[float, ...] | None) -> bool:
    assert mark is not None and lesion is not None
    x, y = (mark[0] + mark[2]) / 2, (mark[1] + mark[3]) / 2
    return lesion[0] <= x <= lesion[2] and lesion[1] <= y <= lesion[3]


def test_the_comparison_the_other_way_round_has_the_opposite_sign(films: Run, marks: Run) -> None:
    there, back = pair(films, marks), pair(marks, films)
    for compare in (compare_auroc, lambda both: compare_calls(both, diseased=True)):
        one, other = compare(there).difference, compare(back).difference
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    one_froc, other_froc = (compare_marks(both, resamples=50, seed=4) for both in (there, back))
    assert one_froc is not None and other_froc is not None
    assert one_froc.mean.difference.low == pytest.approx(-other_froc.mean.difference.high)


def test_a_run_against_itself_differs_in_nothing(films: Run) -> None:
    both = pair(films, films)
    assert disagreements(both) == ()
    found = compare_auroc(both)
    assert found.difference.value == 0
    assert verdict(found, 0.01) == (Verdict.NON_INFERIOR, ALIKE)


def test_cases_on_which_the_runs_part_are_listed_with_who_was_right(films: Run, marks: Run) -> None:
    listed = {one.case: one for one in disagreements(pair(films, marks))}
    for one, other in zip(films.judged, marks.judged, strict=True):
        calls = [case.score >= run.threshold(case) for case, run in ((one, films), (other, marks))]  # type: ignore[operator]
        assert (one.case in listed) == (calls[0] != calls[1])
        if one.case in listed:
            assert listed[one.case].right == ("first" if calls[0] == one.positive else "second")


def test_a_case_that_a_run_did_not_analyse_is_held_against_it(films: Run, tmp_path: Path) -> None:
    lost = next(case for case in films.judged if case.positive and (case.score or 0) >= films.threshold(case))
    cases = [
        case.model_copy(update={"status": Status.FAILED, "score": None, "marks": ()}) if case is lost else case
        for case in films.cases
    ]
    both = pair(films, _written(films, cases, tmp_path / "failed"))
    found = compare_calls(both, diseased=True)
    assert found.second == pytest.approx(found.first - 1 / found.cases)
    assert compare_auroc(both).cases == len(films.judged) - 1
    assert [one.case for one in disagreements(both)] == [lost.case]


@given(
    low=st.floats(-1, 1),
    width=st.floats(0, 1),
    margins=st.tuples(st.floats(0.001, 0.5), st.floats(0.001, 0.5)).map(sorted),
)
def test_a_wider_margin_never_makes_a_verdict_worse(low: float, width: float, margins: list[float]) -> None:
    ranks = [Verdict.INFERIOR, Verdict.INCONCLUSIVE, Verdict.NON_INFERIOR, Verdict.SUPERIOR]
    estimate = Estimate(value=low + width / 2, low=low, high=low + width)
    compared = Compared(first=0.5, second=0.5, difference=estimate, p=0.5, cases=9, method="")
    narrow, wide = (verdict(compared, margin)[0] for margin in margins)
    assert narrow is not None and wide is not None
    assert ranks.index(narrow) <= ranks.index(wide)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.05, Verdict.SUPERIOR),
        (0.0, 0.05, Verdict.NON_INFERIOR),
        (-0.04, -0.01, Verdict.NON_INFERIOR),
        (-0.05, 0.02, Verdict.INCONCLUSIVE),
        (-0.2, -0.06, Verdict.INFERIOR),
        (math.nan, math.nan, None),
    ],
)
def test_the_interval_decides_the_verdict(low: float, high: float, expected: Verdict | None) -> None:
    estimate = Estimate(value=0.0, low=low, high=high, reason="too few")
    compared = Compared(first=0.5, second=0.5, difference=estimate, p=0.5, cases=9, method="")
    said, because = verdict(compared, 0.05)
    assert said is expected
    assert bool(because) == (expected is None)


def test_of_several_margins_the_worst_decides() -> None:
    assert overall([Verdict.SUPERIOR, Verdict.NON_INFERIOR]) is Verdict.NON_INFERIOR
    assert overall([Verdict.SUPERIOR, Verdict.SUPERIOR]) is Verdict.SUPERIOR
    assert overall([Verdict.SUPERIOR, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
    assert overall([Verdict.INFERIOR, Verdict.INCONCLUSIVE]) is Verdict.INFERIOR
    assert overall([Verdict.SUPERIOR, None]) is None
    assert overall([]) is None


def test_runs_over_other_files_are_refused_unless_what_they_have_in_common_is_asked_for(
    films: Run, marks: Run, tmp_path: Path
) -> None:
    lines = (films.folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
    changed = films.judged[0].case
    text = "\n".join(
        line.replace(",", ",other/", 1)[:-4] + "0000" if line.startswith(changed) else line for line in lines
    )
    other = _written(films, list(marks.cases), tmp_path / "other", manifest=text + "\n")
    with pytest.raises(RunError, match="their data digests differ"):
        pair(films, other)
    both = pair(films, other, common=True)
    assert len(both.diseased) == len(films.judged) - 1
    assert both.left_out == 1


def test_runs_that_know_another_truth_of_a_case_are_refused(films: Run, tmp_path: Path) -> None:
    first = films.judged[0]
    cases = [
        case.model_copy(update={"positive": not case.positive}) if case.case == first.case else case
        for case in films.cases
    ]
    other = _written(films, cases, tmp_path / "other")
    with pytest.raises(
        RunError, match=f"1 case.* another truth or patient in the second run, the first is {first.case}"
    ):
        pair(films, other)


def _compare(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_the_command_judges_against_margins_of_a_file(films: Run, marks: Run, tmp_path: Path) -> None:
    margins = tmp_path / "margins.toml"
    margins.write_text(
        'auroc = 0.2\nspecificity = 0.01\ndeclared_on = 2020-01-01\nbecause = "a test"\n', encoding="utf-8"
    )
    result = _compare(films.folder, marks.folder, "--margins", margins, "--bootstrap", 50, "--json")
    assert result.exit_code == 0, result.stderr
    document = CompareDocument.model_validate(json.loads(result.stdout))
    assert [one.figure for one in document.verdicts] == ["auroc", "specificity"]
    assert document.verdict is overall([one.verdict for one in document.verdicts])
    assert document.settings["resamples"] == 50
    assert document.froc is not None
    assert [one.false_marks_per_case for one in document.froc.at_rates] == list(RATES)
    assert document.undefined["froc.mean.p"] == "resampling gives an interval, no test"


@pytest.mark.parametrize(
    "text",
    [
        "[margins]\nauroc = 0.2\ndeclared_on = 2020-01-01\n",
        'name = "films"\n\n[margins]\nauroc = 0.2\ndeclared_on = 2020-01-01\n\n[rules]\nseed = 1\n',
    ],
)
def test_margins_may_stand_under_their_header_as_in_the_file_of_a_data_set(
    films: Run, marks: Run, tmp_path: Path, text: str
) -> None:
    margins = tmp_path / "margins.toml"
    margins.write_text(text, encoding="utf-8")
    result = _compare(films.folder, marks.folder, "--margins", margins, "--bootstrap", 20, "--json")
    assert result.exit_code == 0, result.stderr
    (verdict,) = json.loads(result.stdout)["verdicts"]
    assert (verdict["figure"], verdict["margin"]) == ("auroc", 0.2)


def test_without_margins_there_is_no_verdict_and_the_reason_is_told(films: Run, marks: Run) -> None:
    result = _compare(films.folder, marks.folder, "--bootstrap", 20)
    assert result.exit_code == 0, result.stderr
    assert "verdict: undefined, no margins were declared" in result.stdout
    assert "cases on which the runs part" in result.stdout


def test_margins_that_were_declared_after_a_run_are_no_test(films: Run, marks: Run, tmp_path: Path) -> None:
    margins = tmp_path / "margins.toml"
    margins.write_text(f"auroc = 0.2\ndeclared_on = {date.max.isoformat()}\n", encoding="utf-8")
    result = _compare(films.folder, marks.folder, "--margins", margins, "--bootstrap", 20, "--json")
    assert "after a run was made" in json.loads(result.stdout)["notes"][-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auroc = 2", "margins.toml: auroc: Input should be less than 1"),
        ("auroc = ", "margins.toml: not valid TOML"),
        ("speed = 0.1", "margins.toml: speed: Extra inputs are not permitted"),
        ("[margins]\nspeed = 0.1", "margins.toml: margins.speed: Extra inputs are not permitted"),
        ("auroc = 0.2\n[margins]\nfroc = 0.1", "margins.toml: auroc: stands outside of [margins]"),
        ("margins = 0.1", "margins.toml: margins: Input should be"),
    ],
)
def test_margins_that_cannot_be_understood_are_told(films: Run, tmp_path: Path, text: str, message: str) -> None:
    margins = tmp_path / "margins.toml"
    margins.write_text(text, encoding="utf-8")
    result = _compare(films.folder, films.folder, "--margins", margins)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_folder_that_holds_no_run_is_told(films: Run, tmp_path: Path) -> None:
    result = _compare(films.folder, tmp_path)
    assert result.exit_code == 1
    assert "run.json is missing: this is no folder of a run" in result.stderr
