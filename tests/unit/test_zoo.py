"""The models that are shipped: cards in order, weights those of the card, both runtimes equal on a real film."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from inference.loading import load_film
from inference.postprocess import decode
from inference.preprocess import prepare
from models.card import Runtime, Use, read_card
from training.data import manifest_digest
from training.readers import read_set
from training.recipe import read_recipe

PROJECT = Path(__file__).resolve().parents[2]
ZOO = PROJECT / "models" / "zoo"
LARGEST_BYTES = 25_000_000
CARDS = sorted(ZOO.glob("*/*/card.toml"))
CHEST = ZOO / "chest-opacity" / "0.1.1"


def test_there_is_a_chest_model() -> None:
    assert CHEST / "card.toml" in CARDS


@pytest.mark.parametrize("path", CARDS, ids=lambda path: f"{path.parent.parent.name}-{path.parent.name}")
def test_a_shipped_card_lies_where_it_says_and_names_its_weights_truly(path: Path) -> None:
    card = read_card(path)
    assert (card.identity.name, card.identity.version) == (path.parent.parent.name, path.parent.name)
    assert card.identity.use is (Use.DEMONSTRATION if card.identity.name.endswith("-demo") else Use.RESEARCH)
    for weights in card.weights:
        content = (path.parent / weights.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == weights.sha256
        assert len(content) < LARGEST_BYTES
        assert str(PROJECT).encode() not in content


def test_the_report_prints_the_figures_of_the_card_and_no_other() -> None:
    card, twin = read_card(CHEST / "card.toml"), json.loads((CHEST / "evaluation.json").read_text(encoding="utf-8"))
    text = (CHEST / "EVALUATION.md").read_text(encoding="utf-8")
    assert twin["figures"] == [figure.model_dump(mode="json") for figure in card.evaluation.figures]
    assert twin["model_digest"] == card.model_digest
    assert twin["served"]["lesion_threshold"] == card.labels[0].lesion.threshold
    for figure in card.evaluation.figures:
        assert f"| {figure.name} | {figure.value:.3f} |" in text


def test_the_card_was_made_by_the_recipe_that_is_shipped() -> None:
    recipe = read_recipe(PROJECT / "training" / "recipes" / "chest_opacity.toml")
    twin = json.loads((CHEST / "evaluation.json").read_text(encoding="utf-8"))
    assert twin["recipe_digest"] == recipe.digest
    assert read_card(CHEST / "card.toml").input == recipe.input


def test_every_film_read_by_radiologists_was_held_out_once_and_no_patient_is_named() -> None:
    with (CHEST / "predictions.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len({row["image"] for row in rows}) == len(rows) == 657
    assert sum(row["reading"] != "unread" for row in rows) == 214
    assert not any("patient" in column for column in rows[0])


def test_the_training_films_are_those_of_the_card(shared_data: Path) -> None:
    card = read_card(CHEST / "card.toml")
    films = read_set("nih-chest", shared_data / "chest_xray_nih").films
    taught = [film for film in films if film.teaches.value != "nothing"]
    assert len(taught) == card.training.films
    assert manifest_digest(taught) == card.training.manifest_sha256


def test_both_runtimes_mark_the_same_place_on_a_film_with_an_opacity(shared_data: Path) -> None:
    card = read_card(CHEST / "card.toml")
    files = {weights.runtime: CHEST / weights.file for weights in card.weights}
    folder = shared_data / "chest_xray_nih"
    film = next(film for film in read_set("nih-chest", folder).films if film.boxes and film.adult)
    made = prepare(load_film(film.path), card.input)
    session = onnxruntime.InferenceSession(files[Runtime.ONNX], providers=["CPUExecutionProvider"])
    heatmap, ltrb, _ = session.run(["heatmap", "ltrb", "picture"], {"pictures": made.tensor[None]})
    with torch.inference_mode():
        other = torch.export.load(files[Runtime.TORCH]).module()(torch.from_numpy(made.tensor[None]))
    assert np.abs(other["heatmap"].numpy() - heatmap).max() < 1e-3
    one = decode(heatmap[0], ltrb[0], card.output, made.transform)
    two = decode(other["heatmap"][0].numpy(), other["ltrb"][0].numpy(), card.output, made.transform)
    assert [mark.logit for mark in one] == pytest.approx([mark.logit for mark in two], abs=1e-3)
    x, y = one[0].box.center
    assert any(box.x_min <= x <= box.x_max and box.y_min <= y <= box.y_max for box in film.boxes)
