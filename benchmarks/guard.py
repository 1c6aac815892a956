"""What a model's guard refuses: real films it has not seen, real films plausibly changed, and pictures of other kinds.

Run: ``python -m benchmarks.guard [--model chest-opacity] [--json FILE]``. The bars are at most 2 % of real films
refused and at least 95 % of the listed pictures (`tests/out_of_range.toml`) caught. Real films are judged by guards
fitted without their patient, and so are the pictures made from them; foreign pictures are judged by the installed
guard (``--fit breast``: by one fitted now). Nothing of the list fits a guard or sets its threshold.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from eval.intervals import clopper_pearson
from inference.guard import AppearanceGuard, guard_of, see
from inference.images import Image
from inference.refusals import Refused
from models.inputs import BreastInput, ProjectionInput, VolumeInput
from models.registry import installed_models
from tests.conftest import SHARED
from tests.out_of_range import Item, Model, as_image, changed, foreign
from training.cache import read_picture
from training.data import Film
from training.guard import FittedGuard, fit_guard, guard_films
from training.readers import read_set
from training.splits import Splits, split_by_patient

Grey = NDArray[np.float32]
SETS: Mapping[Model, tuple[str, str]] = {
    "chest": ("nih-chest", "chest_xray_nih"),
    "breast": ("mini-mias", "mammography_mini_mias"),
}
INPUTS: Mapping[Model, ProjectionInput | BreastInput] = {
    "chest": ProjectionInput(height=320, width=320),
    "breast": BreastInput(height=512, width=512),
}
FOLDS = 5
CHANGED_FILMS = 30  # held-out films that the listed changes are made of
PLAUSIBLE_FILMS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """How many of `count` pictures were refused, with the exact 95 % interval."""

    name: str
    refused: int
    count: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Everything that is measured of one guard; `missed` names what was not caught, with its distance."""

    model: str
    threshold: float
    real: tuple[Row, ...]
    plausible: tuple[Row, ...]
    caught: tuple[Row, ...]
    missed: tuple[str, ...]
    milliseconds: Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="chest-opacity", help="an installed model of chest films or mammograms")
    parser.add_argument("--fit", choices=tuple(SETS), help="no model: a guard fitted now on the films of this kind")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.fit:
        result = measure(arguments.fit, INPUTS[arguments.fit], None, SHARED / "data")
    else:
        model = installed_models().find(arguments.model)
        if model is None or isinstance(model.card.input, VolumeInput):
            parser.error(f"{arguments.model} is not installed, or looks at volumes")
        result = measure(model.card.reference, model.card.input, guard_of(model), SHARED / "data")
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


def measure(name: str, spec: ProjectionInput | BreastInput, installed: AppearanceGuard | None, shared: Path) -> Result:
    """Measure a guard for the input `spec`: the one installed, or else one fitted now."""
    against: Model = "breast" if isinstance(spec, BreastInput) else "chest"
    reader, folder = SETS[against]
    films = read_set(reader, shared / folder).films
    splits = split_by_patient(films, folds=FOLDS, seed=0)
    fitted = fit_guard(guard_films(films, splits, spec))
    served = installed or fitted.guard
    caught, missed = _caught(_judged(fitted, served, films, splits, spec, against, shared))
    return Result(
        model=name,
        threshold=served.threshold,
        real=tuple(
            row(figure.name, round(figure.value * int(figure.on.split()[0])), int(figure.on.split()[0]))
            for figure in fitted.figures
        ),
        plausible=tuple(_plausible(fitted, films, splits, spec)),
        caught=caught,
        missed=missed,
        milliseconds=_speed(served, spec, read_picture(films[0])),
    )


def row(name: str, refused: int, count: int) -> Row:
    estimate = clopper_pearson(refused, count)
    return Row(name=name, refused=refused, count=count, low=estimate.low, high=estimate.high)


def distance(guard: AppearanceGuard, image: Image, spec: ProjectionInput | BreastInput) -> float:
    """The picture's distance; infinite where it is refused before the guard is asked."""
    try:
        return guard.judge(see(image.pixels, spec, image.padded)).distance
    except Refused:
        return float("inf")


def _judged(
    fitted: FittedGuard,
    served: AppearanceGuard,
    films: Sequence[Film],
    splits: Splits,
    spec: ProjectionInput | BreastInput,
    against: Model,
    shared: Path,
) -> Iterator[tuple[Item, float, float]]:
    """Each listed picture with its distance and the threshold of the guard that judged it."""
    for item in foreign(against, shared):
        yield item, distance(served, item.image, spec), served.threshold
    for film in _spread(films, CHANGED_FILMS):
        guard = fitted.fold_guards[splits.fold_of[film.image]]
        for item in changed(against, [(film.image, read_picture(film))]):
            yield item, distance(guard, item.image, spec), guard.threshold


def _spread(films: Sequence[Film], count: int) -> list[Film]:
    """`count` films within the intended use, evenly over the set."""
    usual = [film for film in films if film.adult]
    return usual[:: max(1, len(usual) // count)][:count]


def _caught(judged: Iterator[tuple[Item, float, float]]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    kinds: dict[str, list[bool]] = {}
    missed = []
    for item, away, threshold in judged:
        kinds.setdefault(item.kind, []).append(away > threshold)
        if away <= threshold:
            missed.append(f"{item.kind}: {item.name} ({away:.2f} of {threshold:.2f})")
    everything = [one for found in kinds.values() for one in found]
    rows = [row(kind, sum(found), len(found)) for kind, found in sorted(kinds.items())]
    return (row("all", sum(everything), len(everything)), *rows), tuple(missed)


# what a hospital may do to a film without making it another kind of picture ------------------------------------------


def _jpeg(film: Grey) -> Grey:
    import io

    buffer = io.BytesIO()
    PIL.Image.fromarray(np.round(film * 255).astype(np.uint8)).save(buffer, "JPEG", quality=20)
    return np.asarray(PIL.Image.open(buffer), dtype=np.float32) / np.float32(255)


def _turned(degrees: float) -> Callable[[Grey], Grey]:
    return lambda film: np.asarray(PIL.Image.fromarray(film).rotate(degrees, PIL.Image.Resampling.BILINEAR))


def _cropped(share: float) -> Callable[[Grey], Grey]:
    def crop(film: Grey) -> Grey:
        rows, columns = (round(side * share) for side in film.shape)
        return film[rows : film.shape[0] - rows, columns : film.shape[1] - columns]

    return crop


def _padded(film: Grey) -> Grey:
    """A portrait film in the middle of a square canvas: 35 by 43 cm."""
    blank = np.zeros((film.shape[0], round(film.shape[1] * 43 / 35)), dtype=np.float32)
    left = (blank.shape[1] - film.shape[1]) // 2
    blank[:, left : left + film.shape[1]] = film
    return blank


def _pacemaker(film: Grey) -> Grey:
    """A white disc with a lead, below the left clavicle."""
    rows, columns = film.shape
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    can = ((x - 0.72) ** 2 + (y - 0.3) ** 2 < 0.06**2) | (
        (np.abs(x - 0.66 + 0.5 * (y - 0.3)) < 0.006) & (y > 0.3) & (y < 0.62)
    )
    return np.where(can, np.float32(1), film)


PLAUSIBLE: Mapping[str, Callable[[Grey], Grey]] = {
    "as it is": lambda film: film,
    "JPEG, quality 20": _jpeg,
    "mirrored left to right": lambda film: film[:, ::-1],
    "turned by 5 degrees": _turned(5),
    "turned by -10 degrees": _turned(-10),
    "cropped by 5 % a side": _cropped(0.05),
    "cropped by 10 % a side": _cropped(0.10),
    "portrait on a square canvas": _padded,
    "gamma 0.5": lambda film: np.sqrt(film),
    "gamma 2": lambda film: film**2,
    "narrow window, 20 % cut off at each end": lambda film: np.clip((film - 0.2) / 0.6, 0, 1),
    "noise, 3 % of the range": lambda film: np.clip(
        film + np.random.default_rng(0).normal(0, 0.03, film.shape).astype(np.float32), 0, 1
    ),
    "blurred to a quarter": lambda film: np.asarray(
        PIL.Image.fromarray(film).reduce(4).resize(film.shape[::-1], PIL.Image.Resampling.BILINEAR)
    ),
    "pacemaker": _pacemaker,
}


def _plausible(
    fitted: FittedGuard, films: Sequence[Film], splits: Splits, spec: ProjectionInput | BreastInput
) -> Iterator[Row]:
    chosen = [(film, read_picture(film)) for film in _spread(films, PLAUSIBLE_FILMS)]
    for name, change in PLAUSIBLE.items():
        if name == "pacemaker" and isinstance(spec, BreastInput):
            continue
        refused = 0
        for film, image in chosen:
            guard = fitted.fold_guards[splits.fold_of[film.image]]
            refused += distance(guard, as_image(change(image.pixels)), spec) > guard.threshold
        yield row(name, refused, len(chosen))


def _speed(guard: AppearanceGuard, spec: ProjectionInput | BreastInput, image: Image) -> dict[str, float]:
    """Median milliseconds for the film as it is, and as large as a detector makes it."""
    large = as_image(np.asarray(PIL.Image.fromarray(image.pixels).resize((2500, 3000), PIL.Image.Resampling.BILINEAR)))
    found = {}
    for picture in (image, large):
        spent = []
        for _ in range(9):
            started = time.perf_counter()
            distance(guard, picture, spec)
            spent.append((time.perf_counter() - started) * 1e3)
        found["{} x {}".format(*picture.pixels.shape)] = round(float(np.median(spent)), 1)
    return found


def show(result: Result) -> None:
    """Print the tables and the bars."""
    console = Console()
    console.print(f"{result.model}, threshold {result.threshold:.3f}, milliseconds a picture: {result.milliseconds}")
    tables = (
        ("real films refused", result.real),
        ("plausible changes refused", result.plausible),
        ("caught", result.caught),
    )
    for title, rows in tables:
        table = Table(title=title)
        for heading in ("", "of", "share", "95 % interval"):
            table.add_column(heading)
        for one in rows:
            share = f"{one.refused / one.count:.1%}"
            table.add_row(one.name, f"{one.refused}/{one.count}", share, f"{one.low:.1%} to {one.high:.1%}")
        console.print(table)
    for name in result.missed:
        console.print(f"not caught: {name}", markup=False)
    refused, caught = result.real[0], result.caught[0]
    console.print(f"bar: at most 2 % of real films refused: {refused.refused / refused.count <= 0.02}")
    console.print(f"bar: at least 95 % of the list caught: {caught.refused / caught.count >= 0.95}")


if __name__ == "__main__":
    main()
