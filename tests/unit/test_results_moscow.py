"""The form of the Moscow experiment: one report of fourteen items, one series of pictures, words from a file."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicom_node.results import drawing
from dicom_node.results.profile import Profile
from dicom_node.results.request import EncodeRequest, ResultObject, Role
from dicom_node.results.result_set import encode
from inference.loading import load_image
from tests.dx_wrapping import write_dx
from tests.results_cases import make_card, make_findings, make_request

MOSCOW = Profile(name="moscow", form="moscow")
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


@pytest.fixture(scope="module")
def film(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dx(min((shared_data / "chest_xray_nih" / "images").glob("*")), tmp_path_factory.mktemp("film"))


def _request(
    paths: Sequence[Path], *, lesions: int = 2, profile: Profile = MOSCOW, cancer: bool = False
) -> EncodeRequest:
    card = make_card(cancer=cancer)
    return make_request(paths, card=card, findings=make_findings(paths, card, lesions=lesions), profile=profile)


def _read(objects: Sequence[ResultObject]) -> tuple[Dataset, list[Dataset]]:
    """The one report and the pictures."""
    (report,) = [dcmread(BytesIO(one.data)) for one in objects if one.role is Role.SR]
    captures = [dcmread(BytesIO(one.data)) for one in objects if one.role is Role.OVERLAY]
    assert len(captures) + 1 == len(objects)
    return report, captures


def _items(report: Dataset) -> dict[str, str]:
    return {str(one.ConceptNameCodeSequence[0].CodeMeaning): str(one.TextValue) for one in report.ContentSequence}


@pytest.mark.parametrize("lesions", [0, 2])
def test_a_chest_film_gets_one_report_of_fourteen_text_items_in_order(film: Path, lesions: int) -> None:
    report, _ = _read(encode(_request([film], lesions=lesions)))
    assert {one.ValueType for one in report.ContentSequence} == {"TEXT"}
    assert {one.RelationshipType for one in report.ContentSequence} == {"CONTAINS"}
    assert tuple(_items(report)) == NAMES
    assert all(_items(report).values())


@pytest.mark.parametrize("lesions", [0, 2])
def test_the_picture_shows_every_pixel_of_the_film_between_two_bands(film: Path, lesions: int) -> None:
    _, (capture,) = _read(encode(_request([film], lesions=lesions)))
    pixels = capture.pixel_array
    grey = np.rint(load_image(film).pixels * 255)
    assert capture.Columns == grey.shape[1]
    top = int(np.argmin(np.all(pixels[:, 0] == drawing.BAND, axis=1)))
    shown = pixels[top : top + grey.shape[0]]
    untouched = np.all(shown == shown[..., :1], axis=2)
    assert untouched.mean() > 0.9
    assert np.abs(shown[..., 0][untouched] - grey[untouched]).max() <= (1 if lesions == 0 else 255)
    footer = pixels[top + grey.shape[0] :]
    assert np.any(np.all(footer == drawing.AMBER, axis=2))
