"""Studies and expectations for the tests of the Moscow experiment's form."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from dicom_node.results.profile import Profile
from dicom_node.results.request import EncodeRequest, ResultObject, Role
from tests.dx_wrapping import dx_bytes, wrap_film_as_dx
from tests.results_cases import make_card, make_findings, make_request

MOSCOW = Profile(name="moscow", form="moscow")
# The fourteen items in their order, as the experiment names them.
NAMES = (
    "Модальность",
    "Область исследования",
    "Идентификатор исследования",
    "Дата и время формирования заключения ИИ-сервисом",
    "Предупреждение (происхождение)",
    "Предупреждение (назначение)",
    "Наименование сервиса",
    "Версия сервиса",
    "Назначение сервиса",
    "Технические данные",
    "Технологические дефекты при выполнении исследования",
    "Описание",
    "Заключение",
    "Руководство пользователя",
)
_VIEWS = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}


def moscow_request(
    paths: Sequence[Path], *, lesions: int = 2, profile: Profile = MOSCOW, cancer: bool = False, planes: int = 1
) -> EncodeRequest:
    """A request in this form over source files."""
    card = make_card(cancer=cancer)
    findings = make_findings(paths, card, lesions=lesions, planes=planes)
    return make_request(paths, card=card, findings=findings, profile=profile)


def read(objects: Sequence[ResultObject]) -> tuple[Dataset, list[Dataset]]:
    """The one report and the pictures of a set; anything else in it is an error."""
    (report,) = [dcmread(BytesIO(one.data)) for one in objects if one.role is Role.SR]
    captures = [dcmread(BytesIO(one.data)) for one in objects if one.role is Role.OVERLAY]
    assert len(captures) + 1 == len(objects)
    return report, captures


def items(report: Dataset) -> dict[str, str]:
    """The report's items by name, in order."""
    return {str(one.ConceptNameCodeSequence[0].CodeMeaning): str(one.TextValue) for one in report.ContentSequence}


def four_views(shared: Path, folder: Path) -> list[Path]:
    """Both breasts from two sides, as one study of one patient."""
    films = sorted((shared / "mammography_mini_mias" / "images").glob("*"))[:4]
    views = (("R", "CC"), ("L", "CC"), ("R", "MLO"), ("L", "MLO"))
    return [_mammogram(film, folder, *view) for film, view in zip(films, views, strict=True)]


def _mammogram(film: Path, folder: Path, side: str, view: str) -> Path:
    made = wrap_film_as_dx(film, patient_id="MAMMO-1", study_uid="2.25.77", view=view, sex="F")
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.2")
    made.Modality, made.BodyPartExamined = "MG", "BREAST"
    made.ImageLaterality, made.ViewPosition = side, view
    made.PatientOrientation = ["A" if side == "L" else "P", "F" if view == "MLO" else side]
    code = Dataset()
    code.CodeValue, code.CodeMeaning = _VIEWS[view]
    code.CodingSchemeDesignator, code.ViewModifierCodeSequence = "SCT", []
    made.ViewCodeSequence = [code]
    path = folder / f"{side}{view}.dcm"
    path.write_bytes(dx_bytes(made))
    return path
