"""Reading `card.toml`: whatever is wrong with the file is a CardError that names it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.card import CardError, ModelCard, read_card

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"


def test_a_card_in_another_encoding_is_a_fault_of_the_card(tmp_path: Path) -> None:
    whole = next(ZOO.rglob("card.toml")).read_text(encoding="utf-8")
    path = tmp_path / "card.toml"
    path.write_bytes(whole.encode("utf-16"))
    with pytest.raises(CardError, match=r"card\.toml: not UTF-8"):
        read_card(path)


def test_a_card_that_is_not_there_or_not_toml_or_not_a_card_is_a_fault_too(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    with pytest.raises(CardError, match="cannot be read"):
        read_card(path)
    path.write_text("name = ", encoding="utf-8")
    with pytest.raises(CardError, match="not valid TOML"):
        read_card(path)
    path.write_text("name = 'x'", encoding="utf-8")
    with pytest.raises(CardError, match=r"(?s)\d+ fault.*identity: Field required.*name: Extra inputs"):
        read_card(path)


def whole_card() -> dict[str, Any]:
    """The parts of a real card, to be changed by a test."""
    return tomllib.loads(next(ZOO.glob("chest-opacity/*/card.toml")).read_text(encoding="utf-8"))


def changed(path: str, value: object) -> ModelCard:
    """The real card with one key, ``labels.0.lesion.threshold``, given another value."""
    card = whole_card()
    *way, last = path.split(".")
    place: Any = card
    for step in way:
        place = place[int(step)] if step.isdigit() else place.setdefault(step, {})
    place[last] = value
    return ModelCard.model_validate(card)


GUARD = {"file": "guard.npz", "sha256": "0" * 64, "method": "appearance-1", "threshold": 3.0}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("labels.0.lesion.threshold", 0.123),
        ("labels.0.lesion_calibration.slope", 1.234),
        ("input.high_percentile", 97.0),
        ("output.nms_iou", 0.21),
        ("intended_use.max_age_years", 70.0),
        ("guard", GUARD),
    ],
)
def test_what_changes_the_answer_changes_the_device_uid(path: str, value: object) -> None:
    assert changed(path, value).device_uid != ModelCard.model_validate(whole_card()).device_uid


def test_a_corrected_description_or_a_default_written_out_is_the_same_device() -> None:
    uid = ModelCard.model_validate(whole_card()).device_uid
    assert changed("identity.description.en", "Said better.").device_uid == uid
    assert changed("input.fit", "pad_end").device_uid == uid


def test_a_guards_threshold_is_part_of_the_device_and_its_figures_are_not() -> None:
    uid = changed("guard", GUARD).device_uid
    assert changed("guard", GUARD | {"threshold": 4.0}).device_uid != uid
    figure = {"name": "real films refused", "value": 0.01, "on": "100 films"}
    assert changed("guard", GUARD | {"figures": [figure]}).device_uid == uid


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("output", {"kind": "probability"}, "a classifier marks nothing"),
        ("output", {"kind": "something"}, "does not match any of the expected tags"),
        ("input", {"kind": "volume", "spacing_mm": [1, 1, 1], "tile": [32, 32, 32]}, "a volume model gives boxes"),
        ("input", {"kind": "volume", "spacing_mm": [1, 0, 1], "tile": [32, 32, 32]}, "spacing_mm must be positive"),
        ("input", {"kind": "volume", "spacing_mm": [1, 1, 1], "tile": [32, 32, 1024]}, "tile sides"),
        ("input", {"kind": "projection", "height": 64, "width": 64, "channels": 3}, "mean and std need 3"),
        ("input", {"kind": "breast", "height": 64, "width": 64, "std": [0.0]}, "std must be positive"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(path: str, value: object, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        changed(path, value)


def test_a_label_needs_the_operating_point_that_its_output_is_judged_by() -> None:
    with pytest.raises(ValidationError, match="needs a lesion operating point"):
        changed("labels.0.lesion", None)


def test_two_labels_cannot_share_a_class_of_the_network() -> None:
    card = whole_card()
    card["labels"] = [card["labels"][0] | {"key": key, "index": 3} for key in ("one", "other")]
    with pytest.raises(ValidationError, match="two labels have the same index"):
        ModelCard.model_validate(card)
