"""Models that our trainer did not make run from their card alone; what they say is compared with others' decoders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from scipy import ndimage

from inference.engine import Engine, EngineSettings, StudyInput
from inference.findings import Findings, Lesion, Presence
from inference.loading import load_image
from inference.preprocess import prepare
from inference.refusals import Reason
from models.inputs import ProjectionInput
from models.registry import InstalledModel
from tests.foreign_models import (
    RAW_BOXES,
    RETINA,
    TEXT,
    TEXT_FINDER,
    TEXT_TURNER,
    TURNED,
    blocks,
    install_foreign,
    raw_boxes_file,
    retina,
    retina_file,
    shipped_file,
    written,
)
from tests.pictures import film_file

WAIT_S = 120
Edges = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def analyse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Findings]]:
    """Runs films through an engine that holds one model at a time."""
    folder = tmp_path_factory.mktemp("films")
    engines: dict[str, Engine] = {}

    def run(model: InstalledModel, *pictures: NDArray[np.uint8]) -> Findings:
        reference = model.card.reference
        if reference not in engines:
            engines[reference] = Engine([model], settings=EngineSettings(network_threads=1))
        engine = engines[reference]
        assert engine.faults == {}
        paths = tuple(film_file(folder / f"{reference}-{i}.dcm", picture) for i, picture in enumerate(pictures))
        analysis = engine.submit(reference, StudyInput(study_uid="1.2", images=paths)).result(WAIT_S)
        assert analysis.findings is not None, analysis.refusal
        assert analysis.skipped == ()
        return analysis.findings

    yield run
    for engine in engines.values():
        engine.close()


def edges(lesion: Lesion) -> Edges:
    box = lesion.region.key_plane.box
    return box.x_min, box.y_min, box.x_max, box.y_max


def tensor_of(model: InstalledModel, picture: NDArray[np.uint8], folder: Path) -> NDArray[np.float32]:
    """What the network is fed, to be decoded by somebody else."""
    assert isinstance(model.card.input, ProjectionInput)
    return prepare(load_image(film_file(folder / "alone.dcm", picture)), model.card.input).tensor


def outputs_of(weights: bytes, tensor: NDArray[np.float32]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, {session.get_inputs()[0].name: tensor})]


# corner boxes, suppressed by the graph, no batch axis ----------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
    return install_foreign(tmp_path_factory.mktemp("retina"), "retina", retina_file(), **RETINA)


def test_a_torchvision_detector_says_what_torchvision_says(
    detector: InstalledModel, analyse: Callable[..., Findings], tmp_path: Path
) -> None:
    picture = blocks(256, 192, (20, 40, 70, 90, 190), (110, 150, 160, 210, 250))
    found = analyse(detector, picture).lesions
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (truth,) = retina()([torch.from_numpy(tensor_of(detector, picture, tmp_path))])
    kept = torchvision.ops.batched_nms(truth["boxes"], truth["scores"], truth["labels"], 0.3)
    wanted = [
        (
            ("grey_block", "white_block")[int(truth["labels"][i])],
            float(truth["scores"][i]),
            truth["boxes"][i].numpy() * 2,
        )
        for i in kept
        if truth["scores"][i] >= 0.3
    ]
    assert len(found) == len(wanted) >= 2
    assert [lesion.label for lesion in found] == [label for label, _, _ in wanted]
    for lesion, (_, score, box) in zip(found, wanted, strict=True):
        assert lesion.score == pytest.approx(score, abs=1e-4)
        assert edges(lesion) == pytest.approx(tuple(np.clip(box, 0, (192, 256, 192, 256))), abs=0.02)
    assert {lesion.label for lesion in found} == {"grey_block", "white_block"}


def test_pictures_with_different_numbers_of_boxes_run_one_by_one(
    detector: InstalledModel, analyse: Callable[..., Findings]
) -> None:
    films = [blocks(128, 128), blocks(128, 128, (20, 20, 50, 50, 250)), blocks(128, 128, (80, 70, 110, 100, 190))]
    findings = analyse(detector, *films)
    assert len(findings.images) == 3
    assert {lesion.label for lesion in findings.lesions} == {"grey_block", "white_block"}
    assert sum(finding.presence is Presence.ABSENT for finding in findings.findings if finding.sop_instance_uid) >= 3


# raw boxes of the form that YOLOv8 exports ---------------------------------------------------------------------------


def test_raw_boxes_are_decoded_and_suppressed(tmp_path: Path, analyse: Callable[..., Findings]) -> None:
    weights = raw_boxes_file()
    model = install_foreign(tmp_path, "raw-boxes", weights, **RAW_BOXES)
    places = ((100, 90, 150, 122, 255), (300, 300, 336, 350, 255), (60, 400, 172, 480, 255))
    picture = blocks(800, 500, *places)
    found = analyse(model, picture).lesions
    assert sorted((lesion.label, edges(lesion)) for lesion in found) == [
        ("tall", pytest.approx(places[1][:4], abs=3)),
        ("wide", pytest.approx(places[2][:4], abs=3)),
        ("wide", pytest.approx(places[0][:4], abs=3)),
    ]
    (raw,) = outputs_of(weights, tensor_of(model, picture, tmp_path)[np.newaxis])
    assert raw.shape == (1, 6, 8400)
    assert sorted(lesion.score for lesion in found) == pytest.approx(sorted(_by_torchvision(raw[0])), abs=1e-4)


def _by_torchvision(raw: NDArray[np.float32]) -> list[float]:
    """Scores that are left when torchvision converts and suppresses the same raw boxes."""
    boxes = torchvision.ops.box_convert(torch.from_numpy(raw[:4].T), "cxcywh", "xyxy")
    scores = torch.from_numpy(raw[4:].T)
    place, label = torch.nonzero(scores >= 0.25, as_tuple=True)
    assert len(place) > 6, "nothing to suppress proves nothing"
    kept = torchvision.ops.batched_nms(boxes[place], scores[place, label], label, 0.45)
    return [float(score) for score in scores[place, label][kept] if score >= 0.5]


# a probability map ---------------------------------------------------------------------------------------------------


LINES = {(30, 40): "PORTABLE", (180, 150): "R 12:45", (40, 280): "KV 110"}


def test_a_shipped_network_marks_burned_in_text(tmp_path: Path, analyse: Callable[..., Findings]) -> None:
    weights = shipped_file(TEXT_FINDER)
    model = install_foreign(tmp_path, "burned-in-text", weights, **TEXT)
    picture = written(LINES)
    found = analyse(model, picture).lesions
    (values,) = outputs_of(weights, tensor_of(model, picture, tmp_path)[np.newaxis])
    regions, count = ndimage.label(values[0, 0] >= 0.3, structure=np.ones((3, 3)))
    wanted = [
        (float(values[0, 0][regions == number].max()), (place[1].start, place[0].start, place[1].stop, place[0].stop))
        for number, place in enumerate(ndimage.find_objects(regions), start=1)
    ]
    wanted = sorted(
        ((score, box) for score, box in wanted if score >= 0.7), key=lambda pair: (-round(pair[0], 4), pair[1][1])
    )
    assert count >= len(found) >= len(LINES)
    assert [lesion.score for lesion in found] == pytest.approx([score for score, _ in wanted], abs=1e-4)
    assert {edges(lesion) for lesion in found} == {tuple(map(float, box)) for _, box in wanted}
    for left, top in LINES:  # each line was marked where it begins
        assert any(abs(edges(one)[0] - left) < 25 and top - 10 < edges(one)[1] < top + 28 for one in found)
    assert all(len(lesion.region.key_plane.outline) >= 4 for lesion in found)


def test_the_packages_own_decoder_finds_the_same_lines(tmp_path: Path, analyse: Callable[..., Findings]) -> None:
    from rapidocr.ch_ppocr_det.utils import DBPostProcess

    weights = shipped_file(TEXT_FINDER)
    model = install_foreign(tmp_path, "burned-in-text", weights, **TEXT)
    picture = written(LINES)
    found = analyse(model, picture).lesions
    (values,) = outputs_of(weights, tensor_of(model, picture, tmp_path)[np.newaxis])
    boxes, _ = DBPostProcess(thresh=0.3, box_thresh=0.5, unclip_ratio=1.6)(values, picture.shape)
    centres = sorted(tuple(np.asarray(box).mean(axis=0)) for box in boxes)
    assert sorted(lesion.region.key_plane.box.center for lesion in found) == [pytest.approx(c, abs=4) for c in centres]


# a classifier --------------------------------------------------------------------------------------------------------


def test_a_shipped_classifier_speaks_of_the_whole_picture(tmp_path: Path, analyse: Callable[..., Findings]) -> None:
    weights = shipped_file(TEXT_TURNER)
    model = install_foreign(tmp_path, "turned-text", weights, **TURNED)
    upright = written({(8, 4): "SUPINE 12"}, rows=48, columns=192)
    findings = analyse(model, upright, np.ascontiguousarray(upright[::-1, ::-1]))
    assert findings.lesions == ()
    of_images = {finding.sop_instance_uid: finding for finding in findings.findings if finding.sop_instance_uid}
    assert sorted(finding.presence for finding in of_images.values()) == [Presence.ABSENT, Presence.PRESENT]
    for picture in (upright, upright[::-1, ::-1]):
        (said,) = outputs_of(weights, tensor_of(model, np.ascontiguousarray(picture), tmp_path)[np.newaxis])
        assert any(finding.score == pytest.approx(float(said[0, 1]), abs=1e-4) for finding in of_images.values())


# what does not fit ---------------------------------------------------------------------------------------------------


def test_a_card_that_does_not_fit_its_file_is_a_fault_that_names_both(tmp_path: Path) -> None:
    parts = RETINA | {"input": RETINA["input"] | {"tensor": "picture"}}  # type: ignore[operator]
    model = install_foreign(tmp_path, "retina", retina_file(), **parts)
    engine = Engine([model])
    try:
        (fault,) = engine.faults.values()
        assert "tensor is picture, which the graph does not take" in fault
        assert "image float32(3, 128, 128)" in fault
        study = StudyInput(study_uid="1", images=())
        refusal = engine.submit("retina@1.0.0", study).result(WAIT_S).refusal
        assert refusal is not None and refusal.reason is Reason.MODEL_FAILED
    finally:
        engine.close()
