"""What is shown of breasts while a network learns: the parts, the circles on them, and pasted lesions."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from eval.roc import auroc
from inference.findings import Box
from tests.training_films import LIVELY, STILL, prepared, recipe
from training.breasts import compare_breasts
from training.data import Film, ImageName, PatientKey, Teaches
from training.errors import DataError
from training.loop import fit
from training.mammography import read_folder
from training.mammography_views import Settings, Views
from training.network import Detector
from training.operating import Pair
from training.pasting import Circle, cut_out, cut_out_tissue, paste
from training.recipe import Judging, Showing, read_recipe
from training.score import ScoredFilm, as_served
from training.views import check_views

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
SIDE = 64


def breast(*, bump: tuple[int, int] | None = None, seed: int = 0) -> NDArray[np.float16]:
    """Half a disc of tissue at the left with a slope of grey, air at the right; a lesion of radius 5 at `bump`."""
    y, x = np.mgrid[:SIDE, :SIDE]
    grey = 0.3 + 0.003 * x + np.random.default_rng(seed).normal(0, 0.005, (SIDE, SIDE))
    if bump is not None:
        grey += 0.4 * np.exp(-(np.square(x - bump[0]) + np.square(y - bump[1])) / (2 * 2.5**2))
    grey[np.hypot(x, y - SIDE / 2) > 0.85 * SIDE] = 0
    return np.asarray(grey, dtype=np.float16)


def film(index: int, bump: tuple[int, int] | None) -> Film:
    box = () if bump is None else (Box(x_min=bump[0] - 5, y_min=bump[1] - 5, x_max=bump[0] + 5, y_max=bump[1] + 5),)
    return Film(
        image=ImageName(f"{index}.png"),
        path=Path(f"{index}.png"),
        patient=PatientKey(str(index)),
        reading="lesion" if box else "normal",
        positive=bool(box),
        judged=True,
        teaches=Teaches.LESIONS if box else Teaches.NO_LESION,
        boxes=box,
    )


BUMPS = [(20, 30), None, (30, 40), None]
FILMS = [film(index, bump) for index, bump in enumerate(BUMPS)]
PREPARED = prepared(FILMS, np.stack([breast(bump=bump, seed=index) for index, bump in enumerate(BUMPS)]))


def views(bounds: Settings, *, lively: bool = True) -> Views:
    plan = recipe(epochs=1, augmentation=LIVELY if lively else STILL)
    return Views(bounds, plan, FILMS, PREPARED)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), x=st.integers(14, 34), y=st.integers(20, 44))
def test_the_circle_of_a_moved_film_lies_on_its_lesion(seed: int, x: int, y: int) -> None:
    one = film(0, (x, y))
    grey = np.zeros((SIDE, SIDE), dtype=np.float16)
    grey[: SIDE - 4, : SIDE - 8] = 0.2
    grey[y - 1 : y + 2, x - 1 : x + 2] = 1.0
    maker = Views(
        Settings(height=64, width=64),
        recipe(epochs=1, augmentation=LIVELY.model_copy(update={"noise": 0.0, "brightness": 0.0, "border": 0.0})),
        [one],
        prepared([one], grey[None]),
    )
    pictures, targets = maker.batch([one], torch.Generator().manual_seed(seed))
    if not targets.present.any():
        return
    x_min, y_min, x_max, y_max = targets.boxes[0, 0].tolist()
    row, column = divmod(int(pictures[0, 0].argmax()), 64)
    # the mark of three pixels is centred half a pixel beside the corner where the box is
    assert abs((x_min + x_max) / 2 - (column + 0.5)) < 2.5
    assert abs((y_min + y_max) / 2 - (row + 0.5)) < 2.5


def test_the_same_seed_shows_the_same_and_another_another() -> None:
    maker = views(Settings(height=64, width=64, paste=1, paste_tissue=1))
    one, same, other = (maker.batch(FILMS, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1].boxes, same[1].boxes)
    assert not torch.equal(one[0], other[0])


def test_air_stays_black_and_greys_stay_in_range() -> None:
    pictures, _ = views(Settings(height=96, width=64)).batch(FILMS, torch.Generator().manual_seed(3))
    assert pictures.shape == (4, 1, 96, 64)
    assert float(pictures.min()) == 0
    assert float(pictures.max()) <= 1
    assert float((pictures == 0).float().mean()) > 0.05


def test_a_film_with_a_pasted_lesion_shows_a_lesion_and_one_with_pasted_tissue_none() -> None:
    normal = [FILMS[1]] * 40
    _, shown = views(Settings(height=64, width=64, paste=1), lively=False).batch(
        normal, torch.Generator().manual_seed(0)
    )
    assert float(shown.picture.mean()) > 0.5
    _, shown = views(Settings(height=64, width=64, paste_tissue=1), lively=False).batch(
        normal, torch.Generator().manual_seed(0)
    )
    assert not shown.present.any()


def test_a_lesion_cut_out_is_what_it_adds_to_the_tissue() -> None:
    patch = cut_out(torch.from_numpy(breast(bump=(20, 30)).astype(np.float32)), Circle(x=20.5, y=30.5, radius=6))
    assert patch is not None
    middle = patch.greys.shape[0] // 2
    assert float(patch.greys[middle, middle]) == pytest.approx(0.4, abs=0.06)
    assert float(patch.greys[0].abs().max()) == 0
    plain = cut_out(torch.from_numpy(breast().astype(np.float32)), Circle(x=20.5, y=30.5, radius=6))
    assert plain is not None
    assert float(plain.greys.abs().max()) < 0.05


def test_a_lesion_in_the_air_is_not_cut_out() -> None:
    assert cut_out(torch.zeros(64, 64), Circle(x=30, y=30, radius=5)) is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_pasted_lesion_lies_in_the_breast_where_it_is_said_to_be(seed: int) -> None:
    whole = torch.from_numpy(breast(bump=(20, 30)).astype(np.float32))
    patch = cut_out(whole, Circle(x=20.5, y=30.5, radius=5))
    assert patch is not None
    empty = torch.from_numpy(breast(seed=5).astype(np.float32))
    before = empty.clone()
    there = paste(empty, patch, np.random.default_rng(seed))
    if there is None:
        assert torch.equal(empty, before)
        return
    added = empty - before
    row, column = divmod(int(added.argmax()), SIDE)
    assert np.hypot(column + 0.5 - there.x, row + 0.5 - there.y) < 2.5
    assert float(before[int(there.y), int(there.x)]) > 0.1
    assert torch.equal(empty[before == 0], before[before == 0])


def test_plain_tissue_is_cut_out_of_the_breast_only() -> None:
    grey = torch.from_numpy(breast().astype(np.float32))
    assert 0 < len(cut_out_tissue(grey, [4.0, 6.0], 20, np.random.default_rng(0))) < 20
    assert cut_out_tissue(torch.zeros(64, 64), [4.0], 20, np.random.default_rng(0)) == []


def test_a_training_on_such_views_runs_and_resumes(tmp_path: Path) -> None:
    plan = recipe(epochs=2).model_copy(
        update={"views": Showing.model_validate({"kind": "breast", "height": 64, "width": 64, "paste": 0.5})}
    )
    whole = fit(plan, FILMS, PREPARED, checkpoint=tmp_path / "whole.pt", pretrained=False).state_dict()
    fit(plan, FILMS, PREPARED, checkpoint=tmp_path / "cut.pt", stop_after=1, pretrained=False)
    resumed = fit(plan, FILMS, PREPARED, checkpoint=tmp_path / "cut.pt", pretrained=False).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-1, -2)])
def test_the_mean_of_four_mirror_images_answers_every_mirror_image_alike(axes: tuple[int, ...]) -> None:
    plan = recipe(epochs=1)
    plan = plan.model_copy(update={"network": plan.network.model_copy(update={"mirror_axis": "both"})})
    torch.manual_seed(0)
    served = as_served(Detector(plan.network, pretrained=False), plan)
    pictures = torch.rand(2, 1, 64, 96)
    with torch.inference_mode():
        one, other = served(pictures), served(pictures.flip(axes))
    torch.testing.assert_close(other.heatmap.flip(axes), one.heatmap, rtol=0, atol=1e-4)
    torch.testing.assert_close(other.picture, one.picture, rtol=0, atol=1e-4)
    sides = [2 if -1 in axes else 0, 3 if -2 in axes else 1, 0 if -1 in axes else 2, 1 if -2 in axes else 3]
    torch.testing.assert_close(other.ltrb.flip(axes)[:, sides], one.ltrb, rtol=0, atol=1e-3)


def test_the_recipe_of_the_zoo_can_be_read() -> None:
    plan = read_recipe(RECIPES / "mammography_lesion.toml")
    check_views(plan)
    assert not plan.data.show_films


def test_mini_mias_is_read_as_it_is(shared_data: Path) -> None:
    read = read_folder(shared_data / "mammography_mini_mias")
    assert len(read.films) == 210
    assert len({one.patient for one in read.films}) == 105
    assert sum(len(one.boxes) for one in read.films if one.judged) == 76
    assert sum(one.judged for one in read.films) == 207
    assert {one.image for one in read.films if one.positive and not one.boxes} == {
        "mdb059.png",
        "mdb216.png",
        "mdb233.png",
    }
    assert all(one.spacing_mm == 0.2 for one in read.films)
    assert all(len(one.radii) == len(one.boxes) for one in read.films)


def test_a_broken_table_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lesions\.csv cannot be read"):
        read_folder(tmp_path)
    table(tmp_path, [{"image": "a.png", "x": "1"}])
    with pytest.raises(DataError, match="lacks the column"):
        read_folder(tmp_path)
    row = {"image": "a.png", "pair": "1", "laterality": "L", "background_tissue": "F", "abnormality": "CIRC"}
    table(tmp_path, [{**row, "x": "many", "y": "1", "radius": "3"}])
    with pytest.raises(DataError, match=r"a row of a\.png cannot be understood"):
        read_folder(tmp_path)
    table(tmp_path, [{**row, "x": "4", "y": "4", "radius": "0"}])
    with pytest.raises(DataError, match=r"a row of a\.png cannot be understood"):
        read_folder(tmp_path)


def test_two_lesions_of_a_film_are_one_film_with_two_boxes(tmp_path: Path) -> None:
    row = {"image": "a.png", "pair": "1", "laterality": "L", "background_tissue": "F", "abnormality": "CIRC"}
    table(tmp_path, [{**row, "x": "40", "y": "50", "radius": "3"}, {**row, "x": "10", "y": "20", "radius": "4"}])
    (one,) = read_folder(tmp_path).films
    assert [box.center for box in one.boxes] == [(40.0, 50.0), (10.0, 20.0)]
    assert list(one.radii) == [3, 4]
    assert one.breast == "1 L"


def woman(number: int, *, lesion: str = "", tissue: float = 0.0, judged: bool = True) -> list[Pair]:
    """Both breasts of one woman: what is said of both rises with her tissue, and with a lesion by 1."""
    pairs = []
    for side in "RL":
        name = ImageName(f"{number}{side}.png")
        shown = side == lesion
        one = Film(
            image=name,
            path=Path(name),
            patient=PatientKey(str(number)),
            reading="lesion" if shown else "normal",
            positive=shown,
            judged=judged,
            teaches=Teaches.LESIONS if shown else Teaches.NO_LESION,
            traits={"view": "MLO"},
            breast=f"{number} {side}",
        )
        logit = tissue + (1.0 if shown else 0.0) + 0.3 * math.sin(7 * number + ord(side))
        pairs.append(Pair(film=one, scored=ScoredFilm(image=name, fold=number % 4, picture_logit=logit, marks=())))
    return pairs


JUDGING = Judging(contralateral=0.8, picture_sensitivity=0.9)


def women(count: int = 60) -> list[Pair]:
    random = np.random.default_rng(0)
    lesions = ["R", "", "L", "", ""]
    return [
        pair
        for number in range(count)
        for pair in woman(number, lesion=lesions[number % 5], tissue=float(random.normal(0, 2)))
    ]


def test_holding_breasts_against_each_other_takes_away_what_is_the_womans_tissue() -> None:
    pairs = women()
    compared = compare_breasts(pairs, JUDGING, positive="lesion", seed=1)
    assert compared is not None
    truth = np.asarray([pair.film.positive for pair in pairs])
    plain = auroc(np.asarray([pair.scored.picture_logit for pair in pairs]), truth)
    assert plain < 0.75
    assert compared.figures[0].value > 0.9
    assert compared.served.contralateral == 0.8
    assert compared.figures[1].value == pytest.approx(0.9, abs=0.1)
    assert "24 lesion" in compared.figures[0].on


def test_the_calibration_of_a_fold_does_not_come_from_its_own_films() -> None:
    pairs = women()
    compared = compare_breasts(pairs, JUDGING, positive="lesion", seed=1)
    upside_down = [
        replace(pair, scored=replace(pair.scored, picture_logit=-pair.scored.picture_logit))
        if pair.scored.fold == 0
        else pair
        for pair in pairs
    ]
    other = compare_breasts(upside_down, JUDGING, positive="lesion", seed=1)
    assert compared is not None
    assert other is not None
    assert other.figures[1].value < compared.figures[1].value


def test_films_that_are_not_judged_serve_as_the_other_breast_only() -> None:
    one, other = woman(0, lesion="R", tissue=1.0)
    aside = replace(other, film=replace(other.film, judged=False))
    compared = compare_breasts([one, aside, *women(20)], JUDGING, positive="lesion", seed=1)
    assert compared is not None
    assert "9 lesion, 32 other" in compared.figures[0].on


def test_without_the_recipes_word_or_without_other_breasts_nothing_is_compared() -> None:
    assert compare_breasts(women(), Judging(), positive="lesion", seed=1) is None
    alone = [pair for pair in women() if pair.film.breast.endswith("R")]
    assert compare_breasts(alone, JUDGING, positive="lesion", seed=1) is None


def table(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "lesions.csv").open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
