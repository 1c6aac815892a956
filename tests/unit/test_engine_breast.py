"""A model of breasts through the engine: each breast is turned and cut out, and what is found lies where it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from inference.engine import Analysis, Engine, EngineSettings, StudyInput
from inference.findings import Presence
from inference.refusals import Reason
from models.card import IntendedUse
from models.codes import Text
from models.inputs import BreastInput
from models.registry import InstalledModel
from tests.networks import DiscFinder, export, install
from tests.pictures import film_file

MAMMOGRAPHY = "1.2.840.10008.5.1.4.1.1.1.2"
ROWS, COLUMNS = 400, 300
WAIT_S = 60


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    installed = install(tmp_path_factory.mktemp("models"), export(DiscFinder()))
    use = IntendedUse(modalities=("MG",), views=("MLO", "CC"), statement=Text(en="tests only", ru="только для тестов"))
    picture = BreastInput(height=64, width=64, low_percentile=0, high_percentile=100, mean=(0.0,), std=(1.0,))
    card = installed.card.model_copy(update={"input": picture, "intended_use": use})
    engine = Engine([InstalledModel(card=card, folder=installed.folder)], settings=EngineSettings(network_threads=1))
    yield engine
    engine.close()


def breast(side: str, *, lesion: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Half an ellipse of even tissue with a bright speck, its chest wall where it is hung, a white label opposite."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    pixels = np.where(np.hypot(x / 200, (y - 210) / 160) < 1, 90, 8).astype(np.uint8)
    pixels[10:30, 240:280] = 255
    pixels[300:314, 40:54] = 250  # too small to be marked; the brightest grey of the breast
    if side == "R":
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    if lesion is not None:
        pixels[lesion[1] - 30 : lesion[1] + 30, lesion[0] - 30 : lesion[0] + 30] = 250
    return pixels


def mammogram(folder: Path, side: str, view: str, **changes: object) -> Path:
    lesion = changes.pop("lesion", None)
    return film_file(
        folder / f"{side}{view}.dcm",
        breast(side, lesion=lesion),  # type: ignore[arg-type]
        SOPClassUID=MAMMOGRAPHY,
        Modality="MG",
        ImageLaterality=side,
        ViewPosition=view,
        BodyPartExamined="BREAST",
        **changes,
    )


def analyse(engine: Engine, *images: Path) -> Analysis:
    return engine.submit("disc-finder@1.0.0", StudyInput(study_uid="1.2", images=images)).result(WAIT_S)


@pytest.mark.parametrize(("side", "lesion"), [("L", (70, 200)), ("R", (230, 200))])
def test_a_lesion_of_either_breast_is_marked_where_it_is(
    engine: Engine, tmp_path: Path, side: str, lesion: tuple[int, int]
) -> None:
    findings = analyse(engine, mammogram(tmp_path, side, "MLO", lesion=lesion)).findings
    assert findings is not None
    box = findings.lesions[0].region.key_plane.box
    assert box.center == pytest.approx(lesion, abs=35)
    assert findings.lesions[0].laterality is not None
    assert findings.lesions[0].laterality.meaning == {"L": "Left", "R": "Right"}[side]


def test_each_breast_of_a_study_has_its_own_finding_over_its_views(engine: Engine, tmp_path: Path) -> None:
    images = [
        mammogram(tmp_path, "L", "MLO"),
        mammogram(tmp_path, "L", "CC"),
        mammogram(tmp_path, "R", "MLO", lesion=(230, 200)),
        mammogram(tmp_path, "R", "CC"),
    ]
    findings = analyse(engine, *images).findings
    assert findings is not None
    by_side = {finding.laterality.meaning: finding for finding in findings.findings if finding.laterality}
    assert by_side["Right"].presence is Presence.PRESENT
    assert by_side["Left"].presence is Presence.ABSENT
    of_views = {finding.sop_instance_uid: finding for finding in findings.findings if finding.sop_instance_uid}
    assert len(of_views) == 4
    assert by_side["Right"].score == max(finding.score for finding in of_views.values())
    study = findings.findings[0]
    assert (study.laterality, study.sop_instance_uid, study.score) == (None, None, by_side["Right"].score)


def test_another_name_of_the_view_is_another_input(engine: Engine, tmp_path: Path) -> None:
    path = mammogram(tmp_path, "L", "MLO")
    one = analyse(engine, path)
    data_set = dcmread(path)
    data_set.ViewPosition = "CC"
    data_set.save_as(path)
    assert one.inputs_digest != analyse(engine, path).inputs_digest


def test_the_label_beside_the_breast_is_never_marked(engine: Engine, tmp_path: Path) -> None:
    findings = analyse(engine, mammogram(tmp_path, "L", "MLO"), mammogram(tmp_path, "R", "MLO")).findings
    assert findings is not None
    assert findings.lesions == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PresentationIntentType": "FOR PROCESSING"}, Reason.PRESENTATION),
        ({"ViewPosition": "ML"}, Reason.VIEW),
        ({"PhotometricInterpretation": "RGB"}, Reason.NOT_GREY),
    ],
)
def test_what_the_model_is_not_made_for_is_refused(
    engine: Engine, tmp_path: Path, changes: dict[str, object], reason: Reason
) -> None:
    path = mammogram(tmp_path, "L", "MLO")
    data_set = dcmread(path)
    for keyword, value in changes.items():
        setattr(data_set, keyword, value)
    data_set.save_as(path)
    analysis = analyse(engine, path)
    assert analysis.refusal is not None
    assert analysis.refusal.reason is reason


def test_a_picture_without_a_breast_is_refused(engine: Engine, tmp_path: Path) -> None:
    empty = np.full((ROWS, COLUMNS), 8, dtype=np.uint8)
    empty[10:18, 40:280] = 255
    path = film_file(
        tmp_path / "a.dcm",
        empty,
        SOPClassUID=MAMMOGRAPHY,
        Modality="MG",
        ImageLaterality="L",
        ViewPosition="MLO",
        BodyPartExamined="BREAST",
    )
    refusal = analyse(engine, path).refusal
    assert refusal is not None
    assert refusal.reason is Reason.OUT_OF_RANGE
