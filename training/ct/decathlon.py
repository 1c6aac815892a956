"""Reader of lists for detection in the style of the Medical Segmentation Decathlon, as MONAI's detection uses them.

The folder holds ``dataset.json`` with one or several lists (``training``, ``validation``) of entries with `image`
(NIfTI, MetaImage, NRRD; below the folder), `box` (lists of six numbers) and `label`. What the numbers are and in which
frame is the recipe's to say: MONAI's own list of LUNA16 has `cccwhd` in LPS millimetres.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from inference.images import Volume
from training.ct.cases import CtCase, LesionBox, Scan, from_world, read_itk
from training.errors import DataError

BoxMode = Literal["cccwhd", "xyzxyz", "xxyyzz", "xyzwhd"]
World = Literal["lps", "ras", "voxel"]
Six = tuple[float, float, float, float, float, float]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # lists carry whatever their makers needed

    image: str
    box: tuple[Six, ...] = ()
    label: tuple[int, ...] | None = None


def read_cases(
    folder: Path, table: str = "", *, box_mode: BoxMode = "cccwhd", world: World = "lps"
) -> tuple[CtCase, ...]:
    """All scans of a list.

    Raises
    ------
    DataError
        If the list is missing, no JSON, or an entry cannot be understood; if an image lies outside the folder.
    """
    file = folder / (table or "dataset.json")
    try:
        lists = json.loads(file.read_text(encoding="utf-8"))
        found = [lists] if isinstance(lists, list) else [value for value in lists.values() if _is_list(value)]
        entries = [_Entry.model_validate(entry) for part in found for entry in part]
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise DataError(f"{file} is no JSON of lists") from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise DataError(f"{file}: an entry cannot be understood: {where}: {error.errors()[0]['msg']}") from error
    return tuple(_case(folder, entry, box_mode, world) for entry in entries)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) and "image" in entry for entry in value)


def _case(folder: Path, entry: _Entry, box_mode: BoxMode, world: World) -> CtCase:
    path = (folder / entry.image).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{entry.image}: an image outside {folder}")
    if entry.label is not None and len(entry.label) != len(entry.box):
        raise DataError(f"{entry.image}: {len(entry.box)} box(es) and {len(entry.label)} label(s)")
    if not path.exists():
        raise DataError(f"{entry.image} is in the list and not in {folder}")
    name = entry.image.removesuffix(".gz").removesuffix(".nii").replace("/", "_")
    return CtCase(name=name, patient=name, files=(path,), read=lambda: _scan(path, entry.box, box_mode, world))


def _scan(path: Path, boxes: Sequence[Six], box_mode: BoxMode, world: World) -> Scan:
    volume = read_itk(path)
    return Scan(volume=volume, lesions=tuple(_lesion(volume, box, box_mode, world) for box in boxes))


def _lesion(volume: Volume, numbers: Six, box_mode: BoxMode, world: World) -> LesionBox:
    low, high = corners(numbers, box_mode)
    if world == "voxel":  # x, y, z of the file's array; edges as MONAI means them
        return LesionBox(low=(low[2], low[1], low[0]), high=(high[2], high[1], high[0]))
    if world == "ras":  # x and y point the other way
        low, high = np.asarray([-high[0], -high[1], low[2]]), np.asarray([-low[0], -low[1], high[2]])
    return from_world(volume, ((low + high) / 2).tolist(), (high - low).tolist())


def corners(numbers: Six, box_mode: BoxMode) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper corner (x, y, z) of a box as MONAI's modes write it.

    Raises
    ------
    DataError
        If the box is empty.
    """
    values = np.asarray(numbers, dtype=np.float64)
    if box_mode == "cccwhd":
        low, high = values[:3] - values[3:] / 2, values[:3] + values[3:] / 2
    elif box_mode == "xyzwhd":
        low, high = values[:3], values[:3] + values[3:]
    elif box_mode == "xxyyzz":
        low, high = values[::2], values[1::2]
    else:
        low, high = values[:3], values[3:]
    if not (low < high).all():
        raise DataError(f"an empty box {list(numbers)}: is {box_mode} what the list means?")
    return low, high
