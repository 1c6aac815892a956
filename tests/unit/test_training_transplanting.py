"""Lesions that are taken from one film and set into another: where they land, what is taught of them, what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training_films import LIVELY, STILL, blob_films, recipe
from training.augment import Placement, augment, move_boxes
from training.data import Film, Teaches
from training.loop import fit
from training.recipe import Showing, read_recipe
from training.transplanted_views import Settings, Views
from training.transplanting import take, transplant
from training.views import check_views

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
SIDE = 128


def lung(*, lesion: bool, level: float = 0.3) -> torch.Tensor:
    grey = torch.full((SIDE, SIDE), level) + 0.02 * torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    if lesion:
        grey[40:72, 24:56] += 0.4
    return grey


LESION = (24.0, 40.0, 56.0, 72.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), level=st.floats(0.15, 0.6))
def test_a_transplanted_lesion_is_brighter_than_its_new_surroundings_where_its_box_says(
    seed: int, level: float
) -> None:
    place = take(lung(lesion=True), LESION)
    assert place is not None
    grey = lung(lesion=False, level=level)
    before = grey.clone()
    box = transplant(grey, place, (), np.random.default_rng(seed))
    assert box is not None
    x_min, y_min, x_max, y_max = (round(edge) for edge in box)
    inside = grey[y_min + 8 : y_max - 8, x_min + 8 : x_max - 8]
    assert inside.mean() > before.mean() + 0.15
    far = torch.ones_like(grey, dtype=torch.bool)
    far[max(y_min - 16, 0) : y_max + 16, max(x_min - 16, 0) : x_max + 16] = False
    assert torch.equal(grey[far], before[far])
    assert grey.min() >= 0 and grey.max() <= 1


def test_it_lands_at_its_own_place_or_at_its_mirror_image() -> None:
    place = take(lung(lesion=True), LESION)
    assert place is not None
    middles = []
    for seed in range(40):
        box = transplant(lung(lesion=False), place, (), np.random.default_rng(seed))
        assert box is not None
        middles.append(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    x, y = np.asarray(middles).T
    assert (np.minimum(np.abs(x - 40), np.abs(x - (SIDE - 40))) <= 0.04 * SIDE).all()
    assert (np.abs(y - 56) <= 0.06 * SIDE).all()
    assert (x < SIDE / 2).any() and (x > SIDE / 2).any()


def test_it_is_not_set_upon_another_lesion_or_into_padding() -> None:
    place = take(lung(lesion=True), LESION)
    assert place is not None
    whole = (0.0, 0.0, float(SIDE), float(SIDE))
    grey = lung(lesion=False)
    assert transplant(grey, place, (whole,), np.random.default_rng(0)) is None
    assert torch.equal(grey, lung(lesion=False))
    assert transplant(torch.zeros(SIDE, SIDE), place, (), np.random.default_rng(0)) is None


def test_a_lesion_with_nothing_but_padding_around_it_is_not_taken() -> None:
    alone = torch.zeros(SIDE, SIDE)
    alone[45:67, 29:51] = 0.7  # within the ellipse, so that the corners of the box are padding too
    assert take(alone, LESION) is None


def views_of(films: tuple[Film, ...], prepared: object, **keys: object) -> Views:
    plan = recipe(epochs=1, augmentation=STILL)
    return Views(Settings.model_validate(keys), plan, films, prepared)  # type: ignore[arg-type]


def with_small_boxes(films: tuple[Film, ...]) -> list[Film]:
    small = [tuple(replace(box, x_max=40, y_max=40) for box in film.boxes) for film in films]
    return [replace(film, boxes=boxes) for film, boxes in zip(films, small, strict=True)]


def test_films_get_lesions_by_their_reading_and_unread_ones_none() -> None:
    films, prepared = blob_films(8, unread=5)
    small = [
        replace(film, boxes=(replace(film.boxes[0], x_max=40, y_max=40),)) if film.boxes else film for film in films
    ]
    shown = views_of(tuple(small), prepared, lesions={"normal": 1.0, "unread": 1.0})
    pictures, targets = shown.batch(small, torch.Generator().manual_seed(0))
    untouched, plain = views_of(tuple(small), prepared, lesions={}).batch(small, torch.Generator().manual_seed(0))
    for row, film in enumerate(small):
        changed = not torch.equal(pictures[row], untouched[row])
        assert changed == (film.reading == "normal")
        assert bool(targets.picture[row]) == (film.reading in ("normal", "opacity"))
        if film.teaches is Teaches.FINDINGS:
            assert not targets.present[row].any()
    assert plain.picture[:, 0].tolist() == [float(bool(film.boxes)) for film in small]


def test_plain_places_change_films_and_teach_nothing() -> None:
    films, prepared = blob_films(8, unread=None)
    small = [
        replace(film, boxes=(replace(film.boxes[0], x_max=40, y_max=40),)) if film.boxes else film for film in films
    ]
    shown = views_of(tuple(small), prepared, lesions={}, plain=1.0)
    normal = [film for film in small if not film.boxes]
    pictures, targets = shown.batch(normal, torch.Generator().manual_seed(0))
    untouched, _ = views_of(tuple(small), prepared, lesions={}).batch(normal, torch.Generator().manual_seed(0))
    assert not torch.equal(pictures, untouched)
    assert not targets.present.any() and not targets.picture.any()


def test_prepared_films_stay_as_they_are_and_the_same_draw_gives_the_same_batch() -> None:
    films, prepared = blob_films(8)
    before = [prepared.grey(film.image).copy() for film in films]
    batches = [
        views_of(films, prepared, lesions={"normal": 1.0}, plain=0.5).batch(films, torch.Generator().manual_seed(7))
        for _ in range(2)
    ]
    assert torch.equal(batches[0][0], batches[1][0]) and torch.equal(batches[0][1].boxes, batches[1][1].boxes)
    assert all(np.array_equal(prepared.grey(film.image), old) for film, old in zip(films, before, strict=True))


def test_a_network_learns_from_transplanted_films_and_repeats_itself(tmp_path: Path) -> None:
    films, prepared = blob_films(8)
    shown = Showing.model_validate({"kind": "transplanted", "lesions": {"normal": 0.5}})
    plan = recipe(epochs=1, augmentation=LIVELY).model_copy(update={"views": shown})
    check_views(plan)
    one, other = (fit(plan, films, prepared, checkpoint=tmp_path / name, pretrained=False) for name in ("a.pt", "b.pt"))
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_an_unknown_key_of_the_views_is_named() -> None:
    plan = recipe(epochs=1).model_copy(update={"views": Showing.model_validate({"kind": "transplanted", "plane": 1})})
    with pytest.raises(ValueError, match="plane"):
        check_views(plan)


def test_every_recipe_names_readings_that_its_reader_gives() -> None:
    plan = read_recipe(RECIPES / "chest_opacity.toml")
    extra = plan.views.model_extra or {}
    assert set(extra.get("lesions", {})) <= {"opacity", "normal", "other", "unread"}


def test_torchvision_and_the_boxes_agree_on_which_way_a_film_turns() -> None:
    moved, _ = move_boxes(
        torch.tensor([[70.0, 40.0, 90.0, 60.0]]),
        torch.ones(1, dtype=torch.bool),
        Placement(angle_degrees=90.0),
        100,
        100,
    )
    assert moved[0].tolist() == pytest.approx([40.0, 70.0, 60.0, 90.0], abs=1e-4)
    pictures, _, _ = augment(
        torch.rand(2, 1, 64, 64), torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.bool), LIVELY,
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert pictures.shape == (2, 1, 64, 64) and pictures.min() >= 0 and pictures.max() <= 1
