"""From out-of-fold scores to thresholds, figures, card and report; and the command that trains."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from eval.froc import Mark, froc, match
from inference.findings import Box
from models.card import read_card
from training.data import Film, ImageName, PatientKey, Teaches
from training.export import Parity
from training.figures import evaluate
from training.operating import FALSE_MARKS_PER_FILM, PICTURE_SENSITIVITY, Pair, fit_operating, platt
from training.recipe import read_recipe
from training.release import Made, write_release
from training.score import ScoredFilm, read_scores, write_scores
from training.splits import split_by_patient
from training.toml import to_toml
from training.train import command

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
LESION = Box(x_min=100, y_min=100, x_max=300, y_max=300)
ELSEWHERE = Box(x_min=500, y_min=500, x_max=600, y_max=600)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_up_films(folder: Path, count: int = 60) -> tuple[Film, ...]:
    readings = ["opacity", "normal", "other"]
    films = []
    for index in range(count):
        path = folder / f"{index:03}.jpg"
        path.write_bytes(str(index).encode())
        reading = readings[index % 3]
        films.append(
            Film(
                image=ImageName(path.name),
                path=path,
                patient=PatientKey(str(index // 2)),
                reading=reading,
                positive=reading == "opacity",
                judged=index < count - 3,
                teaches=Teaches.NOTHING if index >= count - 3 else Teaches.LESIONS,
                stratum=reading,
                findings=("No Finding",),
                boxes=(LESION,) if reading == "opacity" else (),
                traits={"view": "AP" if index % 4 else "PA"},
                numbers={"age_years": 9 if index >= count - 3 else 50},
            )
        )
    return tuple(films)


def made_up_scores(films: tuple[Film, ...]) -> tuple[ScoredFilm, ...]:
    random = np.random.default_rng(8)
    splits = split_by_patient(films, folds=4, seed=1)
    scored = []
    for film in films:
        ill = film.positive
        marks = [Mark(box=ELSEWHERE, score=float(random.normal(-2)))]
        if ill:
            marks.append(Mark(box=LESION, score=float(random.normal(1))))
        logit = float(random.normal(1.5 if ill else -1.0))
        fold = splits.fold_of[film.image]
        scored.append(ScoredFilm(image=film.image, fold=fold, picture_logit=logit, marks=tuple(marks)))
    return tuple(scored)


def test_platt_scaling_is_logistic_regression_when_there_is_much_data() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=4000)
    truth = random.random(4000) < 1 / (1 + np.exp(-(1.7 * logits - 0.4)))
    fitted = platt(logits, truth)
    reference = LogisticRegression(C=1e6).fit(logits[:, None], truth)
    assert fitted.slope == pytest.approx(reference.coef_[0, 0], abs=0.01)
    assert fitted.intercept == pytest.approx(reference.intercept_[0], abs=0.01)


def test_a_network_that_is_wrong_way_round_is_refused() -> None:
    with pytest.raises(ValueError, match="learnt nothing"):
        platt(np.linspace(-2, 2, 40), np.arange(40) < 20)


def test_the_thresholds_keep_what_their_rules_promise(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    pairs = [Pair(film=film, scored=score) for film, score in zip(films, made_up_scores(films), strict=True)]
    point = fit_operating(pairs)
    ill = [pair for pair in pairs if pair.film.positive]
    positive = sum(point.picture_score(pair.scored.picture_logit) >= point.picture_threshold for pair in ill)
    assert positive / len(ill) >= PICTURE_SENSITIVITY
    shown = [
        match(
            [mark for mark in pair.scored.marks if point.lesion_score(mark.score) >= point.lesion_threshold],
            pair.film.boxes,
        )
        for pair in pairs
    ]
    assert froc(shown).false_per_film[-1] <= FALSE_MARKS_PER_FILM


def test_the_thresholds_of_a_fold_do_not_know_its_films(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    scored = made_up_scores(films)
    before = evaluate(films, scored).nested[0]
    changed = tuple(
        ScoredFilm(image=one.image, fold=one.fold, picture_logit=one.picture_logit - 3, marks=())
        if one.fold == 0
        else one
        for one in scored
    )
    after = evaluate(films, changed)
    assert after.nested[0] == before
    assert after.served != before


def test_a_film_scored_twice_or_not_at_all_is_refused(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    scored = made_up_scores(films)
    with pytest.raises(ValueError, match="twice"):
        evaluate(films, (*scored, scored[0]))
    with pytest.raises(ValueError, match="not scored"):
        evaluate(films, scored[1:])


def test_children_are_counted_apart(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    evaluation = evaluate(films, made_up_scores(films))
    assert len(evaluation.adults) == 57
    children = next(figure for figure in evaluation.figures if "children" in figure.name)
    assert children.on.endswith("of 3 read films of children")


def test_card_report_and_tables_are_written_and_the_card_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    (folder / "model.pt2").write_bytes(b"the same weights")
    films = made_up_films(tmp_path)
    scored = made_up_scores(films)
    made = Made(
        recipe=read_recipe(RECIPES / "chest_opacity.toml"),
        films=films,
        splits=split_by_patient(films, folds=4, seed=1),
        scored=scored,
        evaluation=evaluate(films, scored),
        parity=Parity(films=1, onnx={"heatmap": 1e-6}, torch={"heatmap": 0.0}),
        command="the command",
    )
    card = write_release(made, RECIPES / "chest_opacity.card.toml", folder)
    assert read_card(folder / "card.toml") == card
    assert card.labels[0].lesion.threshold == made.evaluation.served.lesion_threshold
    assert len((folder / "predictions.csv").read_text().splitlines()) == 61
    report = (folder / "EVALUATION.md").read_text(encoding="utf-8")
    assert all(f"| {figure.name} | {figure.value:.3f} |" in report for figure in card.evaluation.figures)


def test_scores_come_back_as_they_were_written(tmp_path: Path) -> None:
    scored = made_up_scores(made_up_films(tmp_path))
    write_scores(scored, tmp_path / "scores.json")
    assert read_scores(tmp_path / "scores.json") == scored


PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20),
)
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
TABLES = st.recursive(
    st.dictionaries(KEYS, st.one_of(PLAIN, st.lists(PLAIN, max_size=3)), max_size=4),
    lambda tables: st.dictionaries(
        KEYS, st.one_of(PLAIN, tables, st.lists(tables, min_size=1, max_size=2)), max_size=3
    ),
    max_leaves=8,
)


@given(TABLES)
@settings(max_examples=100, deadline=None)
def test_what_is_written_as_toml_is_read_back_equal(values: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(values)) == values


def test_what_has_no_form_in_toml_is_refused() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        to_toml({"a": None})


def small_data(folder: Path) -> Path:
    """Eight noise films with labels, enough for two folds of one patient each and more."""
    (folder / "images").mkdir(parents=True)
    labels, boxes = ["image,findings,patient_id,age,sex,view,rsna_patientId,rsna_class"], ["image,label,x,y,w,h,source"]
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 255, (64, 64), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{index}.jpg")
        labels.append(f"{index}.jpg,No Finding,{index},40,F,PA,x,{'Lung Opacity' if index % 2 else 'Normal'}")
        if index % 2:
            boxes.append(f"{index}.jpg,Lung Opacity,10,10,30,30,RSNA")
    (folder / "labels.csv").write_text("\n".join(labels))
    (folder / "boxes.csv").write_text("\n".join(boxes))
    return folder


def small_recipe(file: Path) -> Path:
    text = (RECIPES / "chest_opacity.toml").read_text(encoding="utf-8")
    for old, new in (
        ("folds = 4", "folds = 2"),
        ("height = 320", "height = 64"),
        ("width = 320", "width = 64"),
        ("epochs = 10", "epochs = 1"),
        ("neck_channels = 96", "neck_channels = 8"),
    ):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
    return file


def test_the_command_trains_a_fold_once_and_keeps_its_scores(tmp_path: Path) -> None:
    data, recipe = small_data(tmp_path / "data"), small_recipe(tmp_path / "small.toml")
    arguments = [str(recipe), "--data", str(data), "--out", str(tmp_path / "out"), "--fold", "1"]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    kept = tmp_path / "out" / "fold-1.json"
    scored = read_scores(kept)
    assert scored
    assert {film.fold for film in scored} == {1}
    written = kept.stat().st_mtime_ns
    assert CliRunner().invoke(command, arguments).exit_code == 0
    assert kept.stat().st_mtime_ns == written
    assert not (tmp_path / "out" / "fold-0.json").exists()


def test_the_command_says_what_is_wrong_with_the_data(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path / "small.toml")
    ended = CliRunner().invoke(command, [str(recipe), "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert ended.exit_code == 1
    assert "boxes.csv cannot be read" in ended.stderr


def test_targets_are_pulled_in_by_one_count() -> None:
    fitted = platt(np.asarray([-1.0, 1.0, -1.0, 1.0]), np.asarray([False, True, False, True]))
    assert fitted.slope == pytest.approx(np.log(3), abs=1e-4)  # 3/4 and 1/4 instead of 1 and 0
    assert fitted.intercept == pytest.approx(0.0, abs=1e-6)
