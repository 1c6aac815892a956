"""Reader of LIDC-IDRI as the Cancer Imaging Archive gives it: DICOM series with the readers' XML beside the slices.

Every folder below that holds DICOM files and an XML with nodules of the LIDC (S. G. Armato et al., Medical Physics
38(2), 2011) is a case. Contours of one reader's nodule become its box; nodules of several readers that overlap are
one lesion, their median, kept where enough readers drew it. Nodules below 3 mm have no contour and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree as XmlTree

import numpy as np
from numpy.typing import NDArray

from inference.loading import load_volume
from inference.refusals import Refused
from training.ct.cases import CtCase, Scan, consensus
from training.errors import DataError

_READERS = 1  # who must have drawn a nodule for it to count
_LARGEST_XML_BYTES = 64 << 20
_Contour = tuple[str, tuple[float, float, float, float]]  # slice's UID; y_min, x_min, y_max, x_max as edges


def read_cases(folder: Path, table: str = "") -> tuple[CtCase, ...]:
    """All series below a folder that have an XML of the LIDC.

    Raises
    ------
    DataError
        If there is none, or an XML cannot be read.
    """
    pattern = table or "*.xml"
    homes = sorted({file.parent for file in folder.rglob(pattern) if any(file.parent.glob("*.dcm"))})
    if not homes:
        raise DataError(f"{folder} holds no folder with DICOM slices and an XML of the LIDC beside them")
    return tuple(_case(home, folder, pattern) for home in homes)


def _case(home: Path, folder: Path, pattern: str) -> CtCase:
    slices, marks = tuple(sorted(home.glob("*.dcm"))), tuple(sorted(home.glob(pattern)))
    patient = home.relative_to(folder).parts[0] if home != folder else home.name
    nodules = [nodule for file in marks for nodule in read_nodules(file)]
    return CtCase(
        name=f"{patient}_{home.name[-8:]}",
        patient=patient,
        files=(*slices, *marks),
        read=lambda: _scan(slices, nodules),
    )


def read_nodules(file: Path) -> list[list[_Contour]]:
    """Each reader's nodules with contours; regions that are excluded from a nodule are left out.

    Raises
    ------
    DataError
        If the file is no XML, too large, declares entities, or a number cannot be understood.
    """
    if file.stat().st_size > _LARGEST_XML_BYTES:
        raise DataError(f"{file} is larger than any annotation of the LIDC")
    content = file.read_bytes()
    if b"<!ENTITY" in content or b"<!DOCTYPE" in content:
        raise DataError(f"{file} declares entities, which no annotation of the LIDC does")
    try:
        root = XmlTree.fromstring(content)
        return [contours for nodule in _named(root, "unblindedReadNodule") if (contours := list(_contours(nodule)))]
    except (XmlTree.ParseError, ValueError) as error:
        raise DataError(f"{file} is no readable annotation of the LIDC") from error


def _contours(nodule: XmlTree.Element) -> Iterator[_Contour]:
    for region in _named(nodule, "roi"):
        points = [(float(_text(edge, "yCoord")), float(_text(edge, "xCoord"))) for edge in _named(region, "edgeMap")]
        if len(points) > 1 and _text(region, "inclusion").strip().upper() != "FALSE":
            places = np.asarray(points)
            (y_min, x_min), (y_max, x_max) = places.min(axis=0), places.max(axis=0)
            # the contour runs over the first pixels outside
            inner = y_min + 1, x_min + 1, max(y_max, y_min + 2), max(x_max, x_min + 2)
            yield _text(region, "imageSOP_UID"), (float(inner[0]), float(inner[1]), float(inner[2]), float(inner[3]))


def _named(element: XmlTree.Element, name: str) -> Iterator[XmlTree.Element]:
    return (child for child in element.iter() if child.tag.rpartition("}")[2] == name)


def _text(element: XmlTree.Element, name: str) -> str:
    return next((child.text or "" for child in _named(element, name)), "")


def _scan(slices: Sequence[Path], nodules: Sequence[Sequence[_Contour]]) -> Scan:
    try:
        volume = load_volume(slices)
    except Refused as refused:
        raise DataError(f"{slices[0].parent.name}: {refused}") from refused
    place = {str(uid): index for index, uid in enumerate(volume.sop_instance_uids)}
    boxes = [box for nodule in nodules if (box := _box(nodule, place)) is not None]
    return Scan(volume=volume, lesions=consensus(boxes, readers=_READERS))


def _box(nodule: Sequence[_Contour], place: dict[str, int]) -> NDArray[np.float64] | None:
    seen = [(place[uid], box) for uid, box in nodule if uid in place]
    if not seen:
        return None
    low = [min(index for index, _ in seen), min(box[0] for _, box in seen), min(box[1] for _, box in seen)]
    high = [max(index for index, _ in seen) + 1, max(box[2] for _, box in seen), max(box[3] for _, box in seen)]
    return np.asarray([low, high], dtype=np.float64)
