"""Runs to make reports of: honest random cases of a toy model, with failures and several films a patient."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.runs import CaseRecord, LesionRecord, MarkRecord, RunRecord, Status, manifest_text, write_run
from models.card import ModelCard, read_card
from tests.toy_model import install_toy_model

DAY = datetime(2026, 11, 23, tzinfo=UTC)
PASSPORT = {
    name: f"{name.replace('_', ' ')} of the set"
    for name in (
        "source", "consent", "anonymisation", "devices", "organisations", "dates", "inclusion", "exclusion", "age",
        "sex", "prevalence", "readers", "truth_method", "agreement", "verification", "split", "leakage_test",
        "sample_size",
    )
}  # fmt: skip
HEAD = """
name = "toy-set"
version = "1.0.0"
title = "Toy films"
layout = "table"
unit = "film"
modality = "DX"
licence = "CC0"
citation = "nobody"
standard = "drawn at random"
images_may_be_shown = {shown}
subgroups = ["sex", "view"]
[cases]
file = "cases.csv"
case = "case"
patient = "patient"
[rules]
resamples = 200
seed = 7
"""
PLAN = """
[plan]
objective = {{ en = "To see whether the toy works.", ru = "Узнать, работает ли игрушка." }}
fixed_before = true
fixed_on = 2026-01-01
[[plan.hypotheses]]
statement = "The toy separates films."
figure = "auroc"
at_least = {at_least}
"""


def dataset(*, shown: bool = False, plan: bool = True, passport: bool = True, at_least: float = 0.6) -> str:
    """`dataset.toml` of the toy set."""
    text = HEAD.format(shown=str(shown).lower()) + (PLAN.format(at_least=at_least) if plan else "")
    told = "\n".join(f'{name} = "{words}"' for name, words in PASSPORT.items())
    return text + (f"[passport]\n{told}\n" if passport else "")


def cases(count: int = 120, *, seed: int = 3, marks: bool = True) -> list[CaseRecord]:
    """Films of `count` / 1.5 patients; positive ones score higher; every 17th is refused, every 29th not judged."""
    random = np.random.default_rng(seed)
    return [_case(number, random, marks=marks) for number in range(count)]


def _case(number: int, random: np.random.Generator, *, marks: bool) -> CaseRecord:
    positive = bool(random.random() < 0.4)
    logit = random.normal(0.9 if positive else -0.9, 1.2)
    lesions = tuple(_lesion(random) for _ in range(1 + int(random.random() < 0.3))) if positive else ()
    made: dict[str, Any] = {
        "case": f"film-{number:03d}",
        "patient": f"p{number * 2 // 3}",
        "positive": positive,
        "reading": "opacity" if positive else _reading(number),
        "lesions": lesions if marks else (),
        "traits": {"sex": "F" if random.random() < 0.5 else "M", "view": "PA" if number % 12 else "AP"},
        "numbers": {"age_years": float(random.integers(18, 90))},
    }
    if number % 29 == 28:
        made |= {"positive": None, "excluded": "truth unknown", "lesions": ()}
    if number % 17 == 16:
        return CaseRecord(status=Status.REFUSED, reason="out_of_range: too dark", **made)
    found = [_mark(lesion.box, random) for lesion in made["lesions"] if lesion.box and random.random() < 0.7]
    wrong = [_mark(_box(random), random) for _ in range(int(random.poisson(0.8)))]
    return CaseRecord(
        status=Status.ANALYSED,
        score=round(float(1 / (1 + np.exp(-logit))), 6),
        marks=tuple(found + wrong) if marks else (),
        seconds=round(float(random.gamma(4, 0.05)), 4),
        **made,
    )


def _reading(number: int) -> str:
    """Group of a film without opacity: mostly other findings, some normal, a few of a rare kind."""
    if number < 12:
        return "rare"
    return "other" if number % 4 else "normal"


def _box(random: np.random.Generator) -> tuple[float, float, float, float]:
    x, y = random.integers(0, 80, 2)
    width, height = random.integers(8, 40, 2)
    return (float(x), float(y), float(x + width), float(y + height))


def _lesion(random: np.random.Generator) -> LesionRecord:
    return LesionRecord(box=_box(random))


def _mark(box: tuple[float, float, float, float], random: np.random.Generator) -> MarkRecord:
    x_min, y_min, x_max, y_max = box
    moved = float(random.normal(0, 2))
    place = (x_min + moved, y_min, x_max + moved, y_max)
    return MarkRecord(box=place, label="opacity", score=round(float(random.random()), 6))


def make_run(
    folder: Path, models: Path, records: Sequence[CaseRecord] | None = None, *, text: str | None = None, **changes: Any
) -> ModelCard:
    """Install the toy model and write a run of it; `changes` are laid over `run.json`."""
    card = install_toy_model(models)
    home = models / "toy-opacity" / "1.0.0" / "card.toml"
    found = list(cases() if records is None else records)
    record = {
        "kind": "served",
        "model": card.reference,
        "model_digest": card.model_digest,
        "weights": {file.file: file.sha256 for file in card.weights},
        "label": "opacity",
        "runtime": "onnx CPU",
        "dataset": "toy-set@1.0.0",
        "dataset_digest": "0" * 64,
        "data_sha256": "0" * 64,
        "card_sha256": "0" * 64,
        "cases": 0,
        "command": "radnode eval run --model toy-opacity@1.0.0 --dataset toy.toml",
        "radnode": "0.1.0",
        "environment": ("numpy==2.0.0",),
        "started": DAY,
        "finished": DAY,
    }
    manifest = manifest_text((case.case, f"films/{case.case}.png", digest_of(case.case)) for case in found)
    write_run(
        folder,
        RunRecord.model_validate(record | changes),
        found,
        card=home.read_text(encoding="utf-8"),
        dataset=text or dataset(),
        manifest=manifest,
    )
    assert read_card(folder / "card.toml") == card
    return card


def film(case: str) -> bytes:
    """A picture of noise, the same for the same case."""
    import io

    random = np.random.default_rng(int(case[-3:]))
    out = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (128, 128), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def digest_of(case: str) -> str:
    """sha256 of `film`."""
    import hashlib

    return hashlib.sha256(film(case)).hexdigest()
