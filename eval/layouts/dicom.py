"""A folder of DICOM files: the layout ``dicom``, with truth, if there is any, in tables beside them.

Called by `eval.layouts`. Only headers are read. A case is an image, a series or a study, as the data set's unit says;
a row of the table of cases belongs to it when it names its UID, its file below the root, or its file without folders.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.cases import EvalCase, input_name
from eval.datasets import DatasetError, DatasetFile, Unit
from eval.layouts.table import Lesions, read_lesions, read_truth
from eval.runs import LesionRecord
from inference.images import ImageHeader
from inference.loading import read_image_header
from inference.refusals import Refused

_TABLES = frozenset({".csv", ".tsv", ".toml", ".json", ".txt", ".md", ".pdf", ".xml"})
_UNKNOWN = "the table of cases does not name it"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Files of one case; a file without a readable header is a case of its own."""

    key: str
    paths: tuple[Path, ...]
    study_uid: str = ""
    images: Mapping[str, str] = field(default_factory=dict)  # file below the root, and its name alone, to its UID


def read(dataset: DatasetFile, root: Path) -> list[EvalCase]:
    """Cases of the layout ``dicom``. Without tables nothing is known of them, and nothing is judged.

    Raises
    ------
    TableError
        If a table is missing or a cell cannot be understood.
    DatasetError
        If the tables name cases that are not in the folder.
    """
    groups = _groups(dataset.unit, root)
    names = _by_name(groups, dataset.unit, root)
    images = {name: uid for group in groups for name, uid in group.images.items()}
    lesions = {
        names.get(case, case): tuple(_on_image(lesion, images) for lesion in found)
        for case, found in read_lesions(dataset.lesions, root).items()
    }
    told = _told(dataset, names, lesions, root)
    if lost := sorted((set(told) | set(lesions)) - {group.key for group in groups}):
        raise DatasetError(
            f"{dataset.reference}: the tables name {len(lost)} case(s) of which there is no file, the first is "
            f"{lost[0]}; a case is named by UID or by its file below the root"
        )
    return [_case(group, told.get(group.key), lesions.get(group.key, ()), dataset) for group in groups]


def _by_name(groups: Sequence[_Group], unit: Unit, root: Path) -> dict[str, str]:
    """The case that each name means; a name that two cases could have means none, unless it is a case's own key."""
    meant: defaultdict[str, set[str]] = defaultdict(set)
    for group in groups:
        for name in _names(group, unit, root):
            meant[name].add(group.key)
    return {
        **{name: next(iter(keys)) for name, keys in meant.items() if len(keys) == 1},
        **{group.key: group.key for group in groups},
    }


def _on_image(lesion: LesionRecord, images: Mapping[str, str]) -> LesionRecord:
    """The lesion with its image named by SOP Instance UID, as marks name theirs."""
    if lesion.image is None or lesion.image not in images:
        return lesion
    return lesion.model_copy(update={"image": images[lesion.image]})


def _told(dataset: DatasetFile, names: Mapping[str, str], lesions: Lesions, root: Path) -> dict[str, EvalCase]:
    if dataset.cases is None:
        return {}
    by_name = {name: lesions[key] for name, key in names.items() if key in lesions}
    return {names.get(case.case, case.case): case for case in read_truth(dataset.cases, by_name, root)}


def _groups(unit: Unit, root: Path) -> list[_Group]:
    found: defaultdict[str, list[tuple[Path, ImageHeader]]] = defaultdict(list)
    groups = []
    for path in sorted(root.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or path.suffix.lower() in _TABLES:
            continue
        try:
            header = read_image_header(path)
        except Refused:
            groups.append(_Group(key=input_name(path, root), paths=(path,)))
            continue
        found[_key(unit, header, path, root)].append((path, header))
    for key, files in found.items():
        images = {
            name: str(header.sop_instance_uid) for path, header in files for name in (path.name, input_name(path, root))
        }
        paths = tuple(path for path, _ in files)
        groups.append(_Group(key=key, paths=paths, study_uid=files[0][1].study_uid, images=images))
    return groups


def _key(unit: Unit, header: ImageHeader, path: Path, root: Path) -> str:
    if unit is Unit.STUDY:
        return header.study_uid
    return header.series_uid if unit is Unit.SCAN else input_name(path, root)


def _names(group: _Group, unit: Unit, root: Path) -> list[str]:
    """By what a table may call the case: UID, file below the root, file without folders or ending."""
    names = [group.key, *(group.images.values() if unit in (Unit.FILM, Unit.VIEW) else ())]
    for path in group.paths:
        names += [path.name, path.stem, input_name(path, root)]
    return names


def _case(group: _Group, told: EvalCase | None, lesions: Sequence[LesionRecord], dataset: DatasetFile) -> EvalCase:
    if told is not None:
        return replace(told, case=group.key, inputs=group.paths, dicom=True)
    patient = group.study_uid or group.key
    if dataset.cases is not None:
        return EvalCase(case=group.key, patient=patient, inputs=group.paths, excluded=_UNKNOWN)
    if not dataset.lesions:
        return EvalCase(case=group.key, patient=patient, inputs=group.paths, excluded="its truth is not known")
    return EvalCase(
        case=group.key,
        patient=patient,
        inputs=group.paths,
        positive=bool(lesions),
        reading="positive" if lesions else "negative",
        lesions=tuple(lesions),
    )
