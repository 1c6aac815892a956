"""Pictures and one annotations file of COCO: the layout ``coco``.

Called by `eval.layouts`. A case is a picture; its lesions are the annotations of the categories that count, those
marked ``iscrowd`` or ``ignore`` are neither to be found nor false marks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from eval.cases import EvalCase
from eval.datasets import Coco, DatasetError, DatasetFile
from eval.runs import LesionRecord

_DICOM = frozenset({".dcm", ".dicom", ""})


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")  # sets carry whatever their makers needed


class _Image(_Entry):
    id: int | str
    file_name: str


class _Annotation(_Entry):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    ignore: int = 0


class _Category(_Entry):
    id: int | str
    name: str


class _File(_Entry):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...] = ()
    categories: tuple[_Category, ...] = ()


def read(dataset: DatasetFile, root: Path) -> list[EvalCase]:
    """Cases of the layout ``coco``.

    Raises
    ------
    DatasetError
        If the file is missing or an entry of it cannot be understood; names file, entry and remedy.
    """
    spec = dataset.coco or Coco()
    found = _read(root / spec.annotations)
    names = {category.id: category.name for category in found.categories}
    if unknown := sorted(set(spec.categories) - set(names.values())):
        raise DatasetError(f"{spec.annotations}: no category is called {unknown[0]}")
    counted = [one for one in found.annotations if not spec.categories or names.get(one.category_id) in spec.categories]
    known = {image.id for image in found.images}
    if lost := [one for one in found.annotations if one.image_id not in known]:
        raise DatasetError(
            f"{spec.annotations}: {len(lost)} annotation(s) are of images that are not in its list, the first of "
            f"image_id {lost[0].image_id}; add the image or leave them out"
        )
    of_image: defaultdict[int | str, list[LesionRecord]] = defaultdict(list)
    for one in counted:
        of_image[one.image_id].append(_lesion(one, names.get(one.category_id, "lesion"), spec.annotations))
    return [_case(image, of_image[image.id], spec, root) for image in found.images]


def _read(file: Path) -> _File:
    try:
        return _File.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DatasetError(f"{file.name}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "file"
        raise DatasetError(
            f"{file.name}: {where}: {fault['msg']}; COCO's lists images and annotations are needed"
        ) from (error)


def _lesion(one: _Annotation, name: str, file: str) -> LesionRecord:
    x, y, width, height = one.bbox
    if width <= 0 or height <= 0:
        raise DatasetError(f"{file}: an annotation of image_id {one.image_id} has an empty bbox {list(one.bbox)}")
    return LesionRecord(label=name, box=(x, y, x + width, y + height), excluded=bool(one.iscrowd or one.ignore))


def _case(image: _Image, lesions: Sequence[LesionRecord], spec: Coco, root: Path) -> EvalCase:
    more = image.model_extra or {}
    path = root / spec.images / image.file_name
    patient = more.get(spec.patient) if spec.patient else image.file_name
    if patient in (None, ""):
        raise DatasetError(f"{spec.annotations}: image {image.id} has no {spec.patient}")
    positive = any(not lesion.excluded for lesion in lesions)
    return EvalCase(
        case=image.file_name,
        patient=patient if isinstance(patient, str) else json.dumps(patient),
        inputs=(path,),
        positive=positive,
        reading="positive" if positive else "negative",
        lesions=tuple(lesions),
        traits={trait: str(more[trait]) for trait in spec.traits if more.get(trait) not in (None, "")},
        dicom=path.suffix.lower() in _DICOM,
    )
