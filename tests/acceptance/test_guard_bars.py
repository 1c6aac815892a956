"""The bars of the guards in the zoo: real films pass, the listed pictures of other kinds are caught.

What real films are refused is on the card, measured on patients the guard had not seen; it is held against the bar
here, and the installed guard is run on the list. `benchmarks/guard.py` measures the same at length.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from eval.intervals import clopper_pearson
from inference.guard import AppearanceGuard, guard_of, see
from inference.refusals import Refused
from models.card import ModelCard
from models.inputs import BreastInput, ProjectionInput, VolumeInput
from models.registry import installed_models
from tests.out_of_range import Item, changed, foreign
from training.cache import read_picture
from training.data import Film
from training.readers import read_set

INVENTORY = installed_models()
GUARDED = sorted(
    model.card.reference
    for model in INVENTORY.models.values()
    if model.card.guard and not isinstance(model.card.input, VolumeInput)
)
MOST_REFUSED, LEAST_CAUGHT = 0.02, 0.95
FILMS = 8


def guarded(reference: str) -> tuple[ModelCard, ProjectionInput | BreastInput, AppearanceGuard]:
    model = INVENTORY.models[reference]
    guard, spec = guard_of(model), model.card.input
    assert guard is not None
    assert not isinstance(spec, VolumeInput)
    return model.card, spec, guard


def real_films(spec: ProjectionInput | BreastInput, shared_data: Path) -> list[Film]:
    """Some films within the intended use."""
    if isinstance(spec, BreastInput):
        films = read_set("mini-mias", shared_data / "mammography_mini_mias").films
    else:
        films = read_set("nih-chest", shared_data / "chest_xray_nih").films
    usual = [film for film in films if film.adult]
    return usual[:: len(usual) // FILMS][:FILMS]


def is_caught(item: Item, guard: AppearanceGuard, spec: ProjectionInput | BreastInput) -> bool:
    try:
        return not guard.judge(see(item.image.pixels, spec, item.image.padded)).accepted
    except Refused:
        return True


def test_the_latest_chest_model_has_a_guard() -> None:
    latest = INVENTORY.latest("chest-opacity")
    assert latest is not None
    assert latest.card.reference in GUARDED


@pytest.mark.parametrize("reference", GUARDED)
def test_at_most_two_in_a_hundred_real_films_are_refused(reference: str) -> None:
    card, _, _ = guarded(reference)
    assert card.guard is not None
    figures = {figure.name: figure for figure in card.guard.figures}
    refused = figures["real films refused"]
    assert refused.value <= MOST_REFUSED
    assert "did not see the patient" in refused.on
    films = int(refused.on.split()[0])
    assert refused.high == pytest.approx(clopper_pearson(round(refused.value * films), films).high, abs=1e-4)


@pytest.mark.parametrize("reference", GUARDED)
def test_at_least_95_in_a_hundred_listed_pictures_are_caught(reference: str, shared_data: Path) -> None:
    _, spec, guard = guarded(reference)
    against = "breast" if isinstance(spec, BreastInput) else "chest"
    films = [(film.image, read_picture(film)) for film in real_films(spec, shared_data)]
    caught: Counter[str] = Counter()
    listed: Counter[str] = Counter()
    for item in (*foreign(against, shared_data), *changed(against, films)):  # type: ignore[arg-type]
        listed[item.kind] += 1
        caught[item.kind] += is_caught(item, guard, spec)
    assert listed.total() > 100
    assert caught.total() >= LEAST_CAUGHT * listed.total(), {kind: f"{caught[kind]}/{listed[kind]}" for kind in listed}
    for kind in ("inverted", "animal", "limb"):
        assert caught[kind] == listed[kind] > 0, kind


@pytest.mark.parametrize("reference", GUARDED)
def test_real_films_pass_the_installed_guard(reference: str, shared_data: Path) -> None:
    _, spec, guard = guarded(reference)
    films = real_films(spec, shared_data)
    passed = [guard.judge(see(read_picture(film).pixels, spec)).accepted for film in films]
    assert sum(passed) >= len(films) - 1
