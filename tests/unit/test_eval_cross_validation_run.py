"""Cross-validations of the shipped models, read as runs: the card's own figures come out of them again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eval.roc import auroc, confusion
from eval.runs import Run, RunError, read_manifest, read_run
from models.card import read_card
from models.registry import ZOO
from tests.conftest import PROJECT
from training.ct.evaluation_run import released_run as released_scans
from training.errors import DataError
from training.evaluation_run import released_run
from training.readers import read_set

RECIPES = PROJECT / "training" / "recipes"
SHIPPED = {
    "chest-opacity/0.1.1": ("chest_xray_nih", "chest_opacity.dataset.toml", "nih-chest"),
    "mammography-lesion/0.1.0": ("mammography_mini_mias", "mammography_lesion.dataset.toml", "mini-mias"),
}


@pytest.fixture(scope="module", params=sorted(SHIPPED))
def shipped(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, dataset, _ = SHIPPED[request.param]
    out = tmp_path_factory.mktemp("run")
    released_run(ZOO / request.param, shared_data / folder, RECIPES / dataset, out)
    return read_run(out)


def test_the_figures_of_the_card_come_out_of_the_run(shipped: Run) -> None:
    figures = {figure.name: figure.value for figure in shipped.card.evaluation.figures}
    positive = np.asarray([case.positive for case in shipped.judged])
    logits = np.asarray([case.logit for case in shipped.judged])
    called = np.asarray([case.score >= shipped.threshold(case) for case in shipped.judged])  # type: ignore[operator]
    whole = "AUROC opacity vs all other judged films", "AUROC lesion vs normal"
    expected = next(figures[name] for name in whole if name in figures)
    assert round(auroc(logits, positive), 3) == expected
    sensitivity = confusion(called, positive).sensitivity.value
    assert round(sensitivity, 3) == figures["film sensitivity (thresholds from the other folds)"]


def test_the_truth_of_the_data_sets_file_is_that_of_the_training(shipped: Run, shared_data: Path) -> None:
    folder, _, reader = SHIPPED[shipped.card.reference.replace("@", "/")]
    films = {film.image: film for film in read_set(reader, shared_data / folder).films}
    for case in shipped.cases:
        film = films[case.case]  # type: ignore[index]
        assert case.judged == film.judged
        assert case.patient == film.patient
        if case.judged:
            assert case.positive == film.positive
            assert [lesion.box for lesion in case.lesions] == [
                (box.x_min, box.y_min, box.x_max, box.y_max) for box in film.boxes
            ]


def test_each_case_is_held_against_the_thresholds_of_its_fold(shipped: Run) -> None:
    pairs = {(case.fold, shipped.threshold(case), shipped.mark_threshold(case)) for case in shipped.cases}
    assert len(pairs) == shipped.record.settings["folds"]
    assert pairs == {(fold, one.threshold, one.mark_threshold) for fold, one in shipped.record.folds.items()}


def test_a_run_whose_cases_were_changed_afterwards_is_refused(shipped: Run) -> None:
    cases = shipped.folder / "cases.jsonl"
    before = cases.read_text(encoding="utf-8")
    cases.write_text(before.replace('"positive":true', '"positive":false', 1), encoding="utf-8")
    try:
        with pytest.raises(RunError, match=r"cases\.jsonl was changed after the run"):
            read_run(shipped.folder)
    finally:
        cases.write_text(before, encoding="utf-8")


def test_the_counts_of_the_card_of_the_ct_demonstration_come_out_of_its_run(shared_data: Path, tmp_path: Path) -> None:
    model = ZOO / "lung-nodule-demo" / "0.1.0"
    recipe, dataset = (RECIPES / f"lung_nodule_demo{end}" for end in (".toml", ".dataset.toml"))
    released_scans(model, shared_data, recipe, dataset, tmp_path / "run")
    run = read_run(tmp_path / "run")
    figures = {figure.name: figure.value for figure in run.card.evaluation.figures}
    matched = [case.matched for case in run.judged if case.matched is not None]
    threshold = run.mark_threshold(run.cases[0])
    assert threshold == 0.9
    found = sum(score is not None and score >= threshold for one in matched for score in one.found)
    false = sum(score >= threshold for one in matched for score in one.false_marks)
    assert (found, false) == (
        figures["real lesions marked (count)"],
        figures["marks on no lesion (count)"],
    )
    assert len(read_manifest((run.folder / "manifest.csv").read_text(encoding="utf-8"))["3"]) == 64


def test_scans_that_the_card_does_not_name_are_refused(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "ct_lidc", tmp_path / "ct_lidc")
    shutil.copytree(shared_data / "ct_lung_pet_ct_dx", tmp_path / "ct_lung_pet_ct_dx")
    next((tmp_path / "ct_lung_pet_ct_dx").rglob("*.dcm")).write_bytes(b"another")
    recipe, dataset = (RECIPES / f"lung_nodule_demo{end}" for end in (".toml", ".dataset.toml"))
    with pytest.raises(DataError, match="not those the card names"):
        released_scans(ZOO / "lung-nodule-demo" / "0.1.0", tmp_path, recipe, dataset, tmp_path / "run")


def test_a_data_set_of_other_films_is_refused(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="were not scored"):
        released_run(
            ZOO / "mammography-lesion/0.1.0",
            shared_data / "chest_xray_nih",
            RECIPES / "chest_opacity.dataset.toml",
            tmp_path / "run",
        )


def test_the_card_of_a_run_is_the_card_of_the_zoo(shipped: Run) -> None:
    card = read_card(ZOO / shipped.card.reference.replace("@", "/") / "card.toml")
    assert card.model_digest == shipped.record.model_digest == shipped.card.model_digest
