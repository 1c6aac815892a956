"""Was this case learnt from? The card's list of training files, against the files and pictures of a data set.

Called by `eval.running` before anything is judged. A file is recognised by its bytes and, when it was renamed or
re-encoded without loss, by what it shows. The list is made by `training.manifest`; a card without one cannot be asked.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from eval.volumes import VolumeError, is_volume, read_itk, slice_digests
from inference.loading.content import content_digests
from inference.refusals import Refused
from models.registry import InstalledModel


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingList:
    """Digests of what a model learnt from: of files, and of the pictures in them."""

    files: frozenset[str]
    pictures: frozenset[str]

    def knows(self, path: Path, sha256: str) -> bool:
        """Whether the file, or any picture in it, is one that the model learnt from.

        A file that cannot be decoded is only known by its bytes: the run refuses it for itself.
        """
        return sha256 in self.files or not self.pictures.isdisjoint(pictures_of(path))


def training_list_of(model: InstalledModel) -> TrainingList | None:
    """The list of the model's card; None for a card that names none.

    Raises
    ------
    models.registry.WeightsError
        If the file is missing or is not the one that the card names.
    """
    data = model.training_list()
    if data is None:
        return None
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    return TrainingList(
        files=frozenset(row["file_sha256"] for row in rows if row["file_sha256"]),
        pictures=frozenset(row["picture_sha256"] for row in rows if row["picture_sha256"]),
    )


def pictures_of(path: Path) -> tuple[str, ...]:
    """Digests of what a file shows: of each picture, frame or slice; none where it cannot be read."""
    try:
        return slice_digests(read_itk(path)) if is_volume(path) else content_digests(path)
    except (Refused, VolumeError, OSError):
        return ()
