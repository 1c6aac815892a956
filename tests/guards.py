"""Drawn chests that every test can make, a guard fitted on them, and the writing of a guard into a model's card.

The drawings stand in for films where no real ones are needed: a bright body on dark, two dark lungs, a bright spine.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference.appearance import SIDE, Part
from inference.guard import see
from models.card import Guard, ModelCard, read_card
from models.inputs import ProjectionInput
from training.guard import FittedGuard, GuardFilm, GuardSettings, fit_guard, stacked, varied, write_guard
from training.toml import to_toml

SPEC = ProjectionInput(height=64, width=64)


def drawn_chest(number: int, *, side: int = SIDE) -> NDArray[np.float32]:
    """A rough chest film, float32 (side, side) in 0..1; each number is another patient."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[:side, :side] / side
    x = x - 0.5 + random.normal(0, 0.02)
    y = y - random.normal(0, 0.02)
    width = 0.42 + random.normal(0, 0.02)
    grey = np.where(np.abs(x) < width * np.clip(0.5 + 2 * y, 0, 1), 0.75, 0.05)
    for centre in (-0.2, 0.2):
        lung = ((x - centre) / 0.13) ** 2 + ((y - 0.45) / (0.28 + random.normal(0, 0.02))) ** 2 < 1
        grey = np.where(lung, 0.3 + random.normal(0, 0.03), grey)
    grey = grey + 0.15 * np.exp(-((x / 0.05) ** 2))
    return np.asarray(np.clip(grey + random.normal(0, 0.02, grey.shape), 0, 1), dtype=np.float32)


def drawn_features(number: int) -> dict[Part, NDArray[np.float64]]:
    """Features of a drawn chest and of two changed copies."""
    pixels = drawn_chest(number)
    copies = varied(f"{number}.png", pixels, SPEC, GuardSettings(variations=2))
    return stacked(seen.features for seen in (see(pixels, SPEC), *copies))


def drawn_films(count: int = 60, folds: int = 3) -> list[GuardFilm]:
    """Films of `count` / 2 patients; every tenth lies outside the intended use."""
    return [
        GuardFilm(
            name=f"{number}.png",
            patient=str(number // 2),
            fold=number // 2 % folds,
            usual=number % 10 != 9,
            features=drawn_features(number),
            groups=("view AP",) if number % 2 else ("view PA",),
        )
        for number in range(count)
    ]


@cache
def fitted() -> FittedGuard:
    """A guard of drawn chests."""
    return fit_guard(drawn_films())


def install_guard(folder: Path, fit: FittedGuard, *, action: Literal["refuse", "flag"] = "refuse") -> ModelCard:
    """Give the model in `folder` (card.toml and weights) a guard; returns its card."""
    guard: Guard = write_guard(fit, folder, action=action)
    card = folder / "card.toml"
    text = to_toml({"guard": guard.model_dump(mode="json", exclude_none=True)})
    card.write_text(f"{card.read_text(encoding='utf-8')}\n{text}", encoding="utf-8")
    return read_card(card)
