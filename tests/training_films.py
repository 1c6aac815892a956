"""Made-up films, recipes and folders of films for the tests of the bench."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box
from inference.preprocess import Transform
from models.inputs import ProjectionInput
from training.cache import PreparedFilms
from training.data import Film, ImageName, PatientKey, Teaches
from training.recipe import Augmentation, EarlyStopping, Network, Recipe, Schedule

SIDE = 64
BLOB = Box(x_min=16, y_min=16, x_max=56, y_max=48)
STILL = Augmentation(flip=0, rotation_degrees=0, scale=0, shift=0, gamma=0, contrast=0, brightness=0, noise=0, border=0)
LIVELY = Augmentation(
    flip=0.5, rotation_degrees=10, scale=0.2, shift=0.1, gamma=0.4, contrast=0.3, brightness=0.1, noise=0.05, border=0.1
)


def recipe(
    *,
    epochs: int,
    augmentation: Augmentation = LIVELY,
    dropout: float = 0.2,
    folds: int = 2,
    early_stopping: EarlyStopping | None = None,
) -> Recipe:
    """A recipe for pictures of 64 pixels."""
    schedule = Schedule(
        epochs=epochs,
        batch_size=4,
        repeat_lesions=1,
        probable_negatives=2,
        probable_weight=0.5,
        backbone_rate=1e-3,
        head_rate=3e-3,
        warmup_share=0.1,
        weight_decay=0.01,
        average_decay=0.5,
        box_weight=1,
        picture_weight=0.5,
        findings_weight=0.5,
        findings_films=1,
        bfloat16=False,
        early_stopping=early_stopping,
    )
    return Recipe(
        name="tiny",
        version="0.0.1",
        folds=folds,
        input=ProjectionInput(height=SIDE, width=SIDE),
        network=Network(labels=("opacity",), neck_channels=16, frozen_blocks=10, dropout=dropout),
        schedule=schedule,
        augmentation=augmentation,
    )


def blob_films(count: int = 6, *, every: int = 2, unread: int | None = 5) -> tuple[tuple[Film, ...], PreparedFilms]:
    """Films of noise; every `every`-th has a bright blob with a box, the one called `unread` was never read."""
    random = np.random.default_rng(3)
    films, greys = [], []
    for index in range(count):
        grey = random.uniform(0.2, 0.4, (SIDE, SIDE))
        blob = index % every == 0
        if blob:
            grey[16:48, 16:56] += 0.5
        teaches = Teaches.LESIONS if blob else (Teaches.FINDINGS if index == unread else Teaches.NO_LESION)
        films.append(
            Film(
                image=ImageName(f"{index}.jpg"),
                path=Path(f"{index}.jpg"),
                patient=PatientKey(str(index)),
                reading="opacity" if blob else ("unread" if index == unread else "normal"),
                positive=blob,
                judged=index != unread,
                teaches=teaches,
                stratum="boxed" if blob else "none",
                findings=("Pneumonia",),
                boxes=(BLOB,) if blob else (),
            )
        )
        greys.append(grey)
    return tuple(films), prepared(films, np.asarray(greys, dtype=np.float16))


def prepared(films: list[Film], greys: NDArray[np.float16]) -> PreparedFilms:
    """Films whose pixels are the network's input already."""
    way = Transform(source_rows=SIDE, source_columns=SIDE, scale_x=1.0, scale_y=1.0)
    return PreparedFilms(
        index={film.image: row for row, film in enumerate(films)},
        greys=greys,
        transforms=(way,) * len(films),
        digests=tuple(str(row) for row in range(len(films))),
    )


def chest_subset(source: Path, target: Path, count: int = 20) -> Path:
    """`count` real chest films of `source` in the same layout: of the read adults half opacity, the rest in turn."""
    with (source / "labels.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if int(row["age"]) >= 18]
    of_class = {
        name: [row for row in rows if row["rsna_class"] == name] for name in {row["rsna_class"] for row in rows}
    }
    half = count // 2
    chosen = of_class["Lung Opacity"][:half]
    for name, share in (("Normal", 0.5), ("No Lung Opacity / Not Normal", 0.3), ("", 0.2)):
        chosen += of_class[name][: max(1, round((count - half) * share))]
    chosen = chosen[:count]
    names = {row["image"] for row in chosen}
    (target / "images").mkdir(parents=True)
    for name in names:
        (target / "images" / name).symlink_to(source / "images" / name)
    with (source / "boxes.csv").open(newline="", encoding="utf-8") as lines:
        boxes = [row for row in csv.DictReader(lines) if row["image"] in names]
    for file, table in (("labels.csv", chosen), ("boxes.csv", boxes)):
        with (target / file).open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, fieldnames=list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return target
