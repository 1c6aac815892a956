"""Volumes and boxes of a MONAI data list, in the style of the Medical Segmentation Decathlon: the layout ``decathlon``.

Called by `eval.layouts`. An entry names its `image` below the root and has `box`, lists of six numbers in millimetres;
an entry may name its `patient`. Boxes in voxels are refused: without opening the volume nobody knows where they are.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from eval.cases import EvalCase
from eval.datasets import DatasetError, DatasetFile, Decathlon
from eval.runs import LesionRecord
from eval.volumes import voxel_files

Triple = tuple[float, float, float]
Six = tuple[float, float, float, float, float, float]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # lists carry whatever their makers needed

    image: str
    box: tuple[Six, ...] = ()
    patient: str = ""


_ENTRIES = TypeAdapter(tuple[_Entry, ...])


def read(dataset: DatasetFile, root: Path) -> list[EvalCase]:
    """Cases of the layout ``decathlon``.

    Raises
    ------
    DatasetError
        If the list is missing, no JSON, has no such section, or an entry cannot be understood.
    """
    spec = dataset.decathlon or Decathlon()
    return [_case(entry, spec, root) for entry in _entries(root / spec.file, spec.section)]


def _entries(file: Path, section: str) -> tuple[_Entry, ...]:
    try:
        lists = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{file.name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{file.name}: is no JSON") from error
    if not isinstance(lists, dict) or section not in lists:
        there = ", ".join(sorted(lists)) if isinstance(lists, dict) else "a list"
        raise DatasetError(f"{file.name}: no section '{section}'; it has {there}")
    try:
        return _ENTRIES.validate_python(lists[section])
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise DatasetError(f"{file.name}: {section}.{where}: {fault['msg']}") from error


def _case(entry: _Entry, spec: Decathlon, root: Path) -> EvalCase:
    path = (root / entry.image).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DatasetError(f"{spec.file}: {entry.image} lies outside the root")
    lesions = tuple(_lesion(box, spec, entry.image) for box in entry.box)
    return EvalCase(
        case=entry.image,
        patient=entry.patient or entry.image,
        inputs=voxel_files(path),
        positive=bool(lesions),
        reading="positive" if lesions else "negative",
        lesions=lesions,
        dicom=False,
    )


def _lesion(box: Six, spec: Decathlon, image: str) -> LesionRecord:
    first, second = box[:3], box[3:]
    if spec.box_mode == "cccwhd":
        center, size = first, second
    elif spec.box_mode == "xyzwhd":
        center, size = _add(first, _half(second)), second
    else:
        center, size = _half(_add(first, second)), _add(second, _scaled(first, -1))
    if min(size) <= 0:
        raise DatasetError(f"{spec.file}: an empty box {list(box)} of {image}: is {spec.box_mode} what the list means?")
    x, y, z = center
    return LesionRecord(center_mm=(-x, -y, z) if spec.world == "RAS" else (x, y, z), size_mm=size)


def _add(one: Triple, other: Triple) -> Triple:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _half(one: Triple) -> Triple:
    return _scaled(one, 0.5)


def _scaled(one: Triple, by: float) -> Triple:
    return one[0] * by, one[1] * by, one[2] * by
