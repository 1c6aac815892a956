"""Measures the limits of a CT model's guard: ``python -m training.volume_guard MODEL_FOLDER --data DIR [DIR ...]``.

The limits are the lowest and highest figures of the given volumes; how far outside them a CT may lie is a factor that
is set, not fitted, for a handful of patients has no spread worth the name. Judging is `inference.volume_guard`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from inference.images import Volume
from inference.loading import load_volume
from inference.refusals import Refused
from inference.volume_guard import HOUNSFIELD, measures, volume_guard_bytes
from models.card import CardError, Figure, Guard, read_card
from models.inputs import VolumeInput
from training.errors import DataError, TrainingError
from training.files import write_whole
from training.guard import CARD_FILE, CARD_HEAD, GUARD_FILE, Action
from training.toml import to_toml

FACTOR = 2.5  # a figure may be so many times below the lowest or above the highest of the training volumes


def write_volume_guard(volumes: Iterable[Volume], patients: int, folder: Path, *, action: Action = "flag") -> Guard:
    """Write `guard.npz` into a model's folder; returns the card's `guard`. Volumes are looked at one at a time.

    Raises
    ------
    DataError
        If there is no volume.
    """
    figures = [measures(volume) for volume in volumes]
    if not figures:
        raise DataError("no guard can be made without a volume")
    found = np.stack(figures)
    content = volume_guard_bytes(found.min(axis=0), found.max(axis=0))
    write_whole(folder / GUARD_FILE, content)
    on = f"{len(figures)} volumes of {patients} patients, which set the limits: no estimate of false alarms"
    return Guard(
        file=GUARD_FILE,
        sha256=hashlib.sha256(content).hexdigest(),
        method=HOUNSFIELD,
        threshold=FACTOR,
        action=action,
        figures=(Figure(name="training volumes outside the limits", value=0.0, on=on),),
    )


def series_below(folders: Sequence[Path]) -> list[list[Path]]:
    """DICOM files of each folder that holds some, in the order of their paths."""
    series: dict[Path, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.dcm")):
            series.setdefault(path.parent, []).append(path)
    return list(series.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="python -m training.volume_guard", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the model: card.toml and weights")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of DICOM series, one a patient")
    parser.add_argument("--action", choices=("refuse", "flag"), default="flag")
    parser.add_argument("--replace", action="store_true", help="the model has a guard, and nobody has used it yet")
    options = parser.parse_args(arguments)
    try:
        card = read_card(options.folder / CARD_FILE)
        if not isinstance(card.input, VolumeInput):
            raise DataError(f"{card.reference} looks at pictures: its guard is made by training.guard")
        if card.guard is not None and not options.replace:
            raise DataError(f"{card.reference} has a guard: raise its version, or say --replace if nobody has used it")
        volumes = [load_volume(paths) for paths in series_below(options.data)]
        guard = write_volume_guard(volumes, len(volumes), options.folder, action=options.action)
    except (TrainingError, CardError, Refused) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    changed = card.model_copy(update={"guard": guard})
    values = changed.model_dump(mode="json", exclude_none=True)
    write_whole(options.folder / CARD_FILE, CARD_HEAD + to_toml(values))
    sys.stdout.write(f"{card.reference} has a guard; its Device UID is {changed.device_uid}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
