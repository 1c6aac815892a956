"""A CT study from the scanner to the archive: a real node, a real archive, and outside judges of what comes back."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node.results.texts import DEMONSTRATION_SENTENCE, DEMONSTRATION_SERIES
from models.registry import ZOO
from tests import judges
from tests.archives import Orthanc
from tests.ct_phantoms import Ellipsoid, hounsfield, install_blob_finder, rendered, rotation, write_series
from tests.running_node import RunningNode, to_orthanc

pytestmark = pytest.mark.timeout(300)

SPACING_MM = (2.0, 0.8, 0.8)
SHAPE = (36, 90, 90)
ORIGIN_MM = (-120.0, -90.0, 40.0)
LESIONS = [
    Ellipsoid(center=(12.3, 30.2, 40.4), half_axes_mm=(6.0, 6.0, 6.0)),
    Ellipsoid(center=(25.1, 60.7, 52.8), half_axes_mm=(5.0, 8.0, 6.0), turned=rotation(15, 20, 30)),
]
ROUTE = {"name": "lung-ct", "model": "blob-finder@1.0.0", "destinations": ["pacs"], "match": {"modality": ["CT"]}}
AXIAL = np.asarray([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float)
TILTED = AXIAL @ rotation(8, -12, 10)


@pytest.fixture
def node(tmp_path: Path, archive: Orthanc) -> Iterator[RunningNode]:
    models = tmp_path / "models"
    install_blob_finder(models, use="demonstration")
    settings = {
        "destination": [to_orthanc(archive)],
        "assembly": {"ct_quiet_s": 1.0, "ct_deadline_s": 3.0, "association_idle_s": 1.0},
    }
    with RunningNode(tmp_path / "node", settings, routes=[ROUTE], models=models) as running:
        yield running


def measured(report: Path) -> list[dict[str, float]]:
    """What an independent reader finds measured of each lesion."""
    groups = judges.tid1500(report)["Measurements"]
    return [
        {item["quantity"]["CodeValue"]: float(item["value"]) for item in group["measurementItems"]} for group in groups
    ]


def lps_center(lesion: Ellipsoid, direction: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    index = (np.asarray(lesion.center) - 0.5) * SPACING_MM
    return np.asarray(ORIGIN_MM) + index @ direction


@pytest.mark.parametrize("direction", [AXIAL, TILTED], ids=["axial", "oblique"])
def test_nodules_on_ct_come_back_as_report_overlay_and_segmentation_of_the_right_size(
    direction: np.ndarray,  # type: ignore[type-arg]
    node: RunningNode,
    archive: Orthanc,
    tmp_path: Path,
) -> None:
    study, series = generate_uid(), generate_uid()
    values = hounsfield(rendered(SHAPE, SPACING_MM, LESIONS), noise_hu=15)
    slices = write_series(
        tmp_path / "ct", values, SPACING_MM, direction=direction, origin_mm=ORIGIN_MM,
        StudyInstanceUID=study, SeriesInstanceUID=series, FrameOfReferenceUID=generate_uid(), PatientID="CT-1",
    )  # fmt: skip
    random.Random(1).shuffle(slices)
    node.send(slices)
    account = node.wait_for_outcome(study)
    assert account["outcome"] == "analysed", str(account)[:3000]
    objects = account["results"][0]["objects"]
    assert {one["role"] for one in objects} == {"sr", "overlay", "segmentation"}
    paths: dict[str, list[Path]] = {}
    for one in objects:
        path = tmp_path / f"{one['sop_instance_uid'][-12:]}.dcm"
        path.write_bytes(archive.dicom_file(one["sop_instance_uid"]))
        paths.setdefault(one["role"], []).append(path)
        judges.assert_valid_result_object(path, slices)
        assert str(dcmread(path).SeriesDescription).startswith(DEMONSTRATION_SERIES.ru)
    (report,), (segmentation,) = paths["sr"], paths["segmentation"]
    assert len(paths["overlay"]) == len(LESIONS)
    judges.assert_pixelmed_accepts([report])
    assert {DEMONSTRATION_SENTENCE.en, DEMONSTRATION_SENTENCE.ru} <= report_texts(report)

    sizes = measured(report)
    assert len(sizes) == len(LESIONS)
    masks = segments(segmentation)
    by_volume = sorted(range(len(sizes)), key=lambda index: -sizes[index]["118565006"])
    for index, lesion in zip(by_volume, sorted(LESIONS, key=lambda one: -one.volume_mm3), strict=True):
        long_axis, short_axis = lesion.plane_axes_mm()
        assert sizes[index]["118565006"] == pytest.approx(lesion.volume_mm3, rel=0.05)
        assert sizes[index]["103339001"] == pytest.approx(long_axis, rel=0.05)
        assert sizes[index]["103340004"] == pytest.approx(short_axis, rel=0.05)
        volume_mm3, center_mm = masks[index]
        assert volume_mm3 == pytest.approx(sizes[index]["118565006"], rel=0.05)
        away = direction @ (center_mm - lps_center(lesion, direction))
        assert (np.abs(away) < np.asarray(SPACING_MM) / 2).all()


def report_texts(path: Path) -> set[str]:
    return {str(element.value) for element in dcmread(path).iterall() if element.keyword == "TextValue"}


def segments(path: Path) -> list[tuple[float, np.ndarray]]:  # type: ignore[type-arg]
    """Volume in mm3 and centre of gravity (LPS, mm) of each segment, as highdicom reads the object back."""
    segmentation = hd.seg.segread(path)
    read = []
    for number in segmentation.segment_numbers:
        volume = segmentation.get_volume(segment_numbers=[number], combine_segments=True)
        places = np.argwhere(np.asarray(volume.array) > 0)
        centers = volume.map_indices_to_reference(places.astype(float))
        read.append((len(places) * math.prod(volume.spacing), np.asarray(centers).mean(axis=0)))
    return read


def test_a_series_with_a_missing_slice_is_told_to_the_radiologist_and_not_guessed(
    node: RunningNode, archive: Orthanc, tmp_path: Path
) -> None:
    study = generate_uid()
    values = hounsfield(rendered(SHAPE, SPACING_MM, LESIONS))
    slices = write_series(
        tmp_path / "ct", values, SPACING_MM, StudyInstanceUID=study, SeriesInstanceUID=generate_uid(), PatientID="CT-2"
    )
    node.send([path for number, path in enumerate(slices) if number != 17])
    account = node.wait_for_outcome(study)
    assert account["outcome"] == "not_analysed"
    (result,) = account["results"]
    assert [one["role"] for one in result["objects"]] == ["status_page"]
    assert "1 slice(s) missing at a spacing of 2.00 mm" in str(account)


def test_a_real_series_through_the_shipped_demonstration_gives_objects_that_judges_accept(
    archive: Orthanc, shared_data: Path, tmp_path: Path
) -> None:
    """JPEG-LS slices of LIDC-IDRI; what is found is not judged, only what is written of it."""
    slices = sorted(shared_data.glob("ct_lidc/LIDC-IDRI-0001/*/*/*.dcm"))
    study = dcmread(slices[0], stop_before_pixels=True).StudyInstanceUID
    settings = {
        "destination": [to_orthanc(archive)],
        "assembly": {"ct_quiet_s": 1.0, "ct_deadline_s": 3.0, "association_idle_s": 1.0},
    }
    route = {**ROUTE, "model": "lung-nodule-demo@0.1.0"}
    with RunningNode(tmp_path / "node", settings, routes=[route], models=ZOO) as running:
        running.send(slices)
        account = running.wait_for_outcome(study)
    assert account["outcome"] == "analysed", str(account)[:3000]
    objects = account["results"][0]["objects"]
    assert {one["role"] for one in objects} == {"sr", "overlay", "segmentation"}
    for one in objects:
        path = tmp_path / f"{one['sop_instance_uid'][-12:]}.dcm"
        path.write_bytes(archive.dicom_file(one["sop_instance_uid"]))
        judges.assert_valid_result_object(path, slices)
        assert str(dcmread(path).SeriesDescription).startswith((DEMONSTRATION_SERIES.ru, DEMONSTRATION_SERIES.en))
