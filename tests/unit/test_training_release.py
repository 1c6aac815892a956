"""From out-of-fold scores to thresholds, figures, card and report; and the command that trains."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from eval.froc import Mark, froc, match
from inference.findings import Box
from models.card import read_card
from training.audit import Audit
from training.data import Film, FilmSet, ImageName, PatientKey, Teaches, counts, manifest_digest
from training.errors import RecipeError
from training.export import Differences, Parity
from training.figures import Evaluation, EvaluationError, evaluate
from training.hashes import Separation
from training.operating import Pair, fit_operating, platt
from training.recipe import Judging, read_recipe
from training.release import Made, ReleaseError, model_folder, read_draft, write_release
from training.score import ScoredFilm, read_scores, write_scores
from training.splits import split_by_patient
from training.toml import to_toml

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
LESION = Box(x_min=100, y_min=100, x_max=300, y_max=300)
JUDGING = Judging()
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


def film_set(films: tuple[Film, ...]) -> FilmSet:
    return FilmSet(
        films=films,
        positive="opacity",
        negatives=("normal", "other"),
        standard="Somebody said so.",
        subgroups=("view",),
    )


def evaluated(films: tuple[Film, ...], scored: tuple[ScoredFilm, ...]) -> Evaluation:
    return evaluate(film_set(films), scored, JUDGING)


def made_up_audit(films: tuple[Film, ...]) -> Audit:
    return Audit(
        reader="nih-chest",
        manifest_sha256="0" * 64,
        counts=counts(films),
        faults=(),
        separation=Separation(threshold_bits=30, copies_bits=29.0, strangers_bits=70.0),
        twins=(),
        shortcuts=(),
        folds={},
        leaks=(),
        parted=0,
        warnings=(),
    )


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
    point = fit_operating(pairs, JUDGING)
    ill = [pair for pair in pairs if pair.film.positive]
    positive = sum(point.picture_score(pair.scored.picture_logit) >= point.picture_threshold for pair in ill)
    assert positive / len(ill) >= JUDGING.picture_sensitivity
    shown = [
        match(
            [mark for mark in pair.scored.marks if point.lesion_score(mark.score) >= point.lesion_threshold],
            pair.film.boxes,
        )
        for pair in pairs
    ]
    assert froc(shown).false_per_film[-1] <= JUDGING.false_marks_per_film


def test_the_thresholds_of_a_fold_do_not_know_its_films(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    scored = made_up_scores(films)
    before = evaluated(films, scored).nested[0]
    changed = tuple(
        ScoredFilm(image=one.image, fold=one.fold, picture_logit=one.picture_logit - 3, marks=())
        if one.fold == 0
        else one
        for one in scored
    )
    after = evaluated(films, changed)
    assert after.nested[0] == before
    assert after.served != before


def test_a_film_scored_twice_or_not_at_all_is_refused(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    scored = made_up_scores(films)
    with pytest.raises(EvaluationError, match="twice"):
        evaluated(films, (*scored, scored[0]))
    with pytest.raises(EvaluationError, match="not scored"):
        evaluated(films, scored[1:])


def test_children_are_counted_apart(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    evaluation = evaluated(films, made_up_scores(films))
    assert len(evaluation.judged) == 57
    children = next(figure for figure in evaluation.figures if "outside the intended use" in figure.name)
    assert "of 3 films" in children.on


def test_both_hit_rules_are_reported_and_one_decides(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    names = [figure.name for figure in evaluated(films, made_up_scores(films)).figures]
    for rate in ("0.125", "0.25", "0.5", "1", "2", "4", "8"):
        assert f"boxes found at {rate} false marks per film" in names
        assert f"boxes found at {rate} false marks per film, other hit rule" in names


def test_figures_are_repeated_within_subgroups_and_against_each_kind_of_negative(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    evaluation = evaluated(films, made_up_scores(films))
    for against in ("normal", "all other judged films", "other"):
        assert evaluation.figure(f"AUROC opacity vs {against}").value > 0.8
        assert evaluation.figure(f"AUROC opacity vs {against}, view AP only").on.split()[1] == "opacity,"
    assert evaluation.figure("AUROC of view AP alone, opacity vs normal").high <= 1
    with pytest.raises(KeyError):
        evaluation.figure("no such figure")


def test_networks_of_different_folds_need_not_agree_on_a_level(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    scored = made_up_scores(films)
    shifted = tuple(replace(one, picture_logit=one.picture_logit + 5 * one.fold) for one in scored)
    plain, moved = evaluated(films, scored), evaluated(films, shifted)
    for against in ("normal", "all other judged films"):
        name = f"AUROC opacity vs {against}"
        assert moved.figure(f"{name}, within folds") == plain.figure(f"{name}, within folds")
        assert moved.figure(name).value < plain.figure(name).value


def test_a_network_that_learnt_nothing_is_noted_and_not_released(tmp_path: Path) -> None:
    films = made_up_films(tmp_path)
    wrong = tuple(replace(one, picture_logit=-one.picture_logit) for one in made_up_scores(films))
    evaluation = evaluated(films, wrong)
    assert any("learnt nothing" in note for note in evaluation.notes)
    made = replace(made_up_release(films, tmp_path), evaluation=evaluation, scored=wrong)
    with pytest.raises(ReleaseError, match="learnt nothing"):
        write_release(made, read_draft(RECIPES / "chest_opacity.card.toml"), tmp_path / "model")


def made_up_release(films: tuple[Film, ...], folder: Path) -> Made:
    (folder / "model").mkdir()
    (folder / "model" / "model.onnx").write_bytes(b"weights")
    (folder / "model" / "model.pt2").write_bytes(b"the same weights")
    scored = made_up_scores(films)
    off = Differences(probability=1e-7, pixels=1e-5, outputs={"heatmap": 1e-6, "ltrb": 1e-5, "picture": 0.0})
    return Made(
        recipe=read_recipe(RECIPES / "chest_opacity.toml"),
        read=film_set(films),
        splits=split_by_patient(films, folds=4, seed=1),
        scored=scored,
        evaluation=evaluated(films, scored),
        parity=Parity(films=1, runtimes={"ONNX Runtime CPU": off}),
        audit=made_up_audit(films),
        guard=None,
        manifest_sha256=manifest_digest(films),
        command="the command",
    )


def test_card_report_and_tables_are_written_and_the_card_is_read_back(tmp_path: Path) -> None:
    made, folder = made_up_release(made_up_films(tmp_path), tmp_path), tmp_path / "model"
    card = write_release(made, read_draft(RECIPES / "chest_opacity.card.toml"), folder)
    assert read_card(folder / "card.toml") == card
    assert card.labels[0].lesion.threshold == made.evaluation.served.lesion_threshold
    assert len((folder / "predictions.csv").read_text().splitlines()) == 61
    assert len((folder / "marks.csv").read_text().splitlines()) == 1 + sum(len(one.marks) for one in made.scored)
    report = (folder / "EVALUATION.md").read_text(encoding="utf-8")
    assert all(f"| {figure.name} | {figure.value:.3f} |" in report for figure in card.evaluation.figures)
    assert "one more training on all films" in report
    assert not list(folder.glob("*.partial"))


def test_a_faulty_draft_is_refused_with_all_its_faults(tmp_path: Path) -> None:
    made = made_up_release(made_up_films(tmp_path), tmp_path)
    draft = read_draft(RECIPES / "chest_opacity.card.toml")
    with pytest.raises(RecipeError) as raised:
        write_release(made, {**draft, "limits": [], "colour": "red", "intended_use": {}}, tmp_path / "model")
    assert all(f"  {part}" in str(raised.value) for part in ("limits", "colour", "intended_use.modalities"))
    with pytest.raises(RecipeError, match="lacks the part 'training'"):
        write_release(made, {name: part for name, part in draft.items() if name != "training"}, tmp_path / "model")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_draft(tmp_path / "missing.card.toml")


def test_a_model_appears_whole_and_never_over_another_one_by_chance(tmp_path: Path) -> None:
    films, zoo, draft = made_up_films(tmp_path), tmp_path / "zoo", read_draft(RECIPES / "chest_opacity.card.toml")
    made = made_up_release(films, tmp_path)

    def release(*, made: Made, replaces: bool) -> None:
        with model_folder(zoo, "chest", "1.0.0", replace=replaces) as folder:
            assert not (zoo / "chest" / "1.0.0" / "half").exists()
            for name in ("model.onnx", "model.pt2"):
                (folder / name).write_bytes(b"weights")
            write_release(made, draft, folder)

    release(made=made, replaces=False)
    release(made=made, replaces=False)  # the same model again
    other = replace(made, recipe=made.recipe.model_copy(update={"version": "9.9.9"}))
    before = (zoo / "chest" / "1.0.0" / "card.toml").read_text()
    with pytest.raises(ReleaseError, match="raise the recipe's version"):
        release(made=other, replaces=False)
    assert (zoo / "chest" / "1.0.0" / "card.toml").read_text() == before
    release(made=other, replaces=True)
    assert read_card(zoo / "chest" / "1.0.0" / "card.toml").identity.version == "9.9.9"
    with pytest.raises(RuntimeError), model_folder(zoo, "chest", "2.0.0", replace=False) as folder:
        (folder / "half").write_text("a file")
        raise RuntimeError("cut off")
    assert [path.name for path in zoo.iterdir()] == ["chest"]
    assert [path.name for path in (zoo / "chest").iterdir()] == ["1.0.0"]


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


def test_targets_are_pulled_in_by_one_count() -> None:
    fitted = platt(np.asarray([-1.0, 1.0, -1.0, 1.0]), np.asarray([False, True, False, True]))
    assert fitted.slope == pytest.approx(np.log(3), abs=1e-4)  # 3/4 and 1/4 instead of 1 and 0
    assert fitted.intercept == pytest.approx(0.0, abs=1e-6)
