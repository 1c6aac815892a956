"""CT volumes from DICOM files through the engine to findings, held against phantoms whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.engine import Analysis, Engine, EngineSettings, StudyInput
from inference.findings import Findings, Flag, Lesion, Presence
from inference.images import LoadLimits
from inference.refusals import Reason
from inference.runtimes import open_network
from inference.runtimes.base import DeviceOutOfMemory, Network, NetworkFailed
from models.registry import InstalledModel
from tests.ct_phantoms import Ellipsoid, Triple, hounsfield, install_blob_finder, rendered, rotation, write_series
from tests.networks import DiscFinder, export, install
from tests.pictures import film_file

WAIT_S = 120
ORIGIN_MM = (-120.0, -90.0, 40.0)
AXIAL = np.asarray([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float)
OBLIQUE = AXIAL @ rotation(15, -20, 30)
ONE_THREAD = EngineSettings(network_threads=1, device="cpu")


@pytest.fixture(scope="module")
def finders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InstalledModel]:
    root = tmp_path_factory.mktemp("models")
    return {
        "boxes": install_blob_finder(root, name="finds-boxes", output="boxes", tile=(24, 32, 32)),
        "map": install_blob_finder(root, name="finds-places", output="map", tile=(24, 32, 32)),
        "segmentation": install_blob_finder(root, name="segments", output="segmentation", tile=(24, 32, 32)),
    }


@pytest.fixture(scope="module")
def engine(finders: dict[str, InstalledModel]) -> Iterator[Engine]:
    engine = Engine(list(finders.values()), settings=ONE_THREAD)
    yield engine
    engine.close()


def analyse(engine: Engine, model: InstalledModel, paths: list[Path], **study: object) -> Analysis:
    given = StudyInput(study_uid="1.2", images=tuple(paths), **study)  # type: ignore[arg-type]
    return engine.submit(model.card.reference, given).result(WAIT_S)


def found(analysis: Analysis) -> Findings:
    assert analysis.findings is not None, analysis
    return analysis.findings


def assert_measured(lesion: Lesion, truth: Ellipsoid, spacing_mm: Triple, direction: NDArray[np.float64]) -> None:
    """Centre within half a voxel along each axis; volume and diameters within 5 %."""
    sizes = {item.quantity.meaning: item.value for item in lesion.measurements}
    long_axis, short_axis = truth.plane_axes_mm()
    assert sizes["Volume"] == pytest.approx(truth.volume_mm3, rel=0.05)
    assert sizes["Long axis"] == pytest.approx(long_axis, rel=0.05)
    assert sizes["Short axis"] == pytest.approx(short_axis, rel=0.05)
    assert sizes["Diameter"] == pytest.approx((long_axis + short_axis) / 2, rel=0.05)
    away = direction @ (center_of(lesion, spacing_mm, direction) - true_center(truth, spacing_mm, direction))
    assert (np.abs(away) <= np.asarray(spacing_mm) / 2).all()


def true_center(truth: Ellipsoid, spacing_mm: Triple, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.asarray(ORIGIN_MM) + ((np.asarray(truth.center) - 0.5) * spacing_mm) @ direction)


def center_of(lesion: Lesion, spacing_mm: Triple, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre of gravity of the outlines, as a reader of the findings would take it."""
    total, weight = np.zeros(3), 0.0
    for plane in lesion.region.planes:
        area, x, y = centroid(plane.polygon)
        index = int(plane.sop_instance_uid.rpartition(".")[2])
        total += area * (np.asarray(ORIGIN_MM) + (np.asarray([index, y - 0.5, x - 0.5]) * spacing_mm) @ direction)
        weight += area
    return np.asarray(total / weight)


def centroid(polygon: tuple[tuple[float, float], ...]) -> tuple[float, float, float]:
    area = x_sum = y_sum = 0.0
    for (x_1, y_1), (x_2, y_2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        cross = x_1 * y_2 - x_2 * y_1
        area, x_sum, y_sum = area + cross / 2, x_sum + (x_1 + x_2) * cross / 6, y_sum + (y_1 + y_2) * cross / 6
    return abs(area), x_sum / area, y_sum / area


def phantom_series(
    folder: Path,
    lesions: list[Ellipsoid],
    spacing_mm: Triple,
    shape: tuple[int, int, int],
    *,
    direction: NDArray[np.float64] = AXIAL,
    noise_hu: float = 0.0,
) -> list[Path]:
    """A series whose SOP Instance UIDs end with the slice's index."""
    values = hounsfield(rendered(shape, spacing_mm, lesions), noise_hu=noise_hu)
    paths = write_series(folder, values, spacing_mm, direction=direction, origin_mm=ORIGIN_MM)
    from pydicom import dcmread

    for index, path in enumerate(paths):
        data_set = dcmread(path)
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"1.2.77.{index}"
        data_set.save_as(path, enforce_file_format=True)
    return paths


# what is measured -----------------------------------------------------------------------------------------------------

GRIDS = {
    "isotropic": ((1.0, 1.0, 1.0), AXIAL, 0.0),
    "anisotropic": ((2.5, 0.7, 0.7), AXIAL, 0.0),
    "oblique": ((1.25, 0.8, 0.8), OBLIQUE, 0.0),
    "oblique, anisotropic and noisy": ((2.5, 0.75, 0.75), OBLIQUE, 25.0),
}


@pytest.mark.parametrize("output", ["boxes", "map", "segmentation"])
@pytest.mark.parametrize("grid", GRIDS)
def test_balls_and_ellipsoids_are_measured_within_five_per_cent(
    grid: str, output: str, engine: Engine, finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    spacing_mm, direction, noise_hu = GRIDS[grid]
    shape = tuple(round(52 / step) for step in spacing_mm)
    lesions = [
        Ellipsoid(center=at((14.3, 15.1, 16.2), spacing_mm), half_axes_mm=(6.0, 6.0, 6.0)),
        Ellipsoid(center=at((36.4, 36.7, 34.2), spacing_mm), half_axes_mm=(6.0, 9.0, 7.0), turned=rotation(20, 30, 40)),
    ]
    paths = phantom_series(tmp_path, lesions, spacing_mm, shape, direction=direction, noise_hu=noise_hu)  # type: ignore[arg-type]
    findings = found(analyse(engine, finders[output], paths))
    assert len(findings.lesions) == 2
    assert len(findings.images) == len(paths)
    assert findings.findings[0].presence is Presence.PRESENT
    for truth in lesions:
        middle = true_center(truth, spacing_mm, direction)
        nearest = min(
            findings.lesions,
            key=lambda lesion: float(np.linalg.norm(center_of(lesion, spacing_mm, direction) - middle)),
        )
        assert_measured(nearest, truth, spacing_mm, direction)


def at(place_mm: Triple, spacing_mm: Triple) -> Triple:
    z, y, x = (place / step for place, step in zip(place_mm, spacing_mm, strict=True))
    return z, y, x


@pytest.mark.parametrize("output", ["boxes", "map", "segmentation"])
@pytest.mark.parametrize(
    ("where", "half_axes_mm"),
    [
        ((24.0, 26.0, 14.0), (6.0, 6.0, 6.0)),  # across one face of a tile
        ((24.0, 32.0, 32.0), (6.0, 7.0, 6.0)),  # across a corner, where eight tiles meet
        ((26.0, 26.0, 26.0), (16.0, 18.0, 17.0)),  # larger than a tile's overlap: no tile sees it whole
    ],
)
def test_a_lesion_that_tiles_cut_is_one_lesion_of_the_right_size(
    where: Triple,
    half_axes_mm: Triple,
    output: str,
    engine: Engine,
    finders: dict[str, InstalledModel],
    tmp_path: Path,
) -> None:
    truth = Ellipsoid(center=where, half_axes_mm=half_axes_mm)
    paths = phantom_series(tmp_path, [truth], (1.0, 1.0, 1.0), (52, 52, 52))
    (lesion,) = found(analyse(engine, finders[output], paths)).lesions
    assert_measured(lesion, truth, (1.0, 1.0, 1.0), AXIAL)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spacing_mm=st.tuples(st.sampled_from([0.8, 1.25, 2.0, 2.5]), *[st.sampled_from([0.6, 0.8])] * 2),
    half_axes_mm=st.tuples(*[st.floats(4.5, 9.0)] * 3),
    where_mm=st.tuples(*[st.floats(14.0, 26.0)] * 3),
    turned=st.tuples(*[st.floats(-90, 90)] * 3),
    oblique=st.tuples(*[st.floats(-20, 20)] * 3),
)
def test_any_ellipsoid_on_any_grid_is_measured_within_five_per_cent(
    spacing_mm: Triple,
    half_axes_mm: Triple,
    where_mm: Triple,
    turned: Triple,
    oblique: Triple,
    engine: Engine,
    finders: dict[str, InstalledModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    direction = AXIAL @ rotation(*oblique)
    truth = Ellipsoid(center=at(where_mm, spacing_mm), half_axes_mm=half_axes_mm, turned=rotation(*turned))
    shape = tuple(round(40 / step) for step in spacing_mm)
    folder = tmp_path_factory.mktemp("series")
    paths = phantom_series(folder, [truth], spacing_mm, shape, direction=direction)  # type: ignore[arg-type]
    (lesion,) = found(analyse(engine, finders["map"], paths)).lesions
    assert_measured(lesion, truth, spacing_mm, direction)


def test_bounds_in_the_patient_hold_all_outlines(
    engine: Engine, finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    truth = Ellipsoid(center=(12.0, 20.0, 20.0), half_axes_mm=(7.0, 7.0, 7.0))
    paths = phantom_series(tmp_path, [truth], (2.0, 1.0, 1.0), (24, 40, 40), direction=OBLIQUE)
    (lesion,) = found(analyse(engine, finders["map"], paths)).lesions
    low, high = np.asarray(lesion.region.lps_min_mm), np.asarray(lesion.region.lps_max_mm)
    for plane in lesion.region.planes:
        index = int(plane.sop_instance_uid.rpartition(".")[2])
        for x, y in plane.polygon:
            point = np.asarray(ORIGIN_MM) + (np.asarray([index, y - 0.5, x - 0.5]) * (2.0, 1.0, 1.0)) @ OBLIQUE
            assert (point >= low - 0.02).all()
            assert (point <= high + 0.02).all()
    assert lesion.region.key_plane.box.area == max(plane.box.area for plane in lesion.region.planes)


def test_what_stands_out_from_nothing_keeps_its_box_and_gets_no_volume(
    engine: Engine, finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    """A whole volume of soft tissue: the finder marks it, and there is no border to measure."""
    paths = write_series(tmp_path, np.full((12, 24, 24), 30.0), (2.0, 1.0, 1.0))
    findings = found(analyse(engine, finders["map"], paths))
    assert findings.lesions
    assert "Volume" not in {item.quantity.meaning for item in findings.lesions[0].measurements}


def test_a_lesion_of_too_few_slices_gets_its_size_on_one_slice_and_no_volume(
    engine: Engine, finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    """Five-millimetre slices of a ball of eight: no voxel is lesion alone along the normal."""
    truth = Ellipsoid(center=(5.2, 30.3, 30.1), half_axes_mm=(4.0, 4.0, 4.0))
    paths = phantom_series(tmp_path, [truth], (5.0, 0.8, 0.8), (10, 60, 60))
    (lesion,) = found(analyse(engine, finders["segmentation"], paths)).lesions
    sizes = {item.quantity.meaning: item.value for item in lesion.measurements}
    assert set(sizes) == {"Long axis", "Short axis", "Area"}
    assert sizes["Long axis"] == pytest.approx(8.0, abs=2 * 0.8)


def test_empty_lung_is_said_to_hold_nothing(engine: Engine, finders: dict[str, InstalledModel], tmp_path: Path) -> None:
    for model in finders.values():
        findings = found(analyse(engine, model, write_series(tmp_path, np.full((8, 24, 24), -850.0), (2.0, 1.0, 1.0))))
        assert not findings.is_positive
        assert findings.findings[0].presence is Presence.ABSENT


def test_the_same_volume_is_not_looked_at_twice_and_any_batch_says_the_same(
    finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    truth = Ellipsoid(center=(20.0, 20.0, 20.0), half_axes_mm=(6.0, 6.0, 6.0))
    paths = phantom_series(tmp_path, [truth], (1.0, 1.0, 1.0), (40, 40, 40))
    said = []
    for batch in (1, 5):
        engine = Engine([finders["boxes"]], settings=EngineSettings(network_threads=1, device="cpu", max_batch=batch))
        first = analyse(engine, finders["boxes"], paths)
        assert first.inputs_digest is not None
        again = analyse(engine, finders["boxes"], paths[::-1], known_inputs_digest=first.inputs_digest)
        assert again.unchanged
        said.append(found(first).to_json())
        engine.close()
    assert said[0] == said[1]


# which series ---------------------------------------------------------------------------------------------------------


def test_the_thin_lung_series_is_chosen_and_the_others_are_named(
    engine: Engine, finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    lung = np.full((24, 24, 24), -850.0)
    thin = write_series(
        tmp_path / "a", lung, (1.0, 1.0, 1.0), SeriesInstanceUID="1.2.3.1", ConvolutionKernel="STANDARD"
    )
    sharp = write_series(tmp_path / "b", lung, (1.0, 1.0, 1.0), SeriesInstanceUID="1.2.3.2", ConvolutionKernel="LUNG")
    thick = write_series(
        tmp_path / "c", lung[:5], (5.0, 1.0, 1.0), SeriesInstanceUID="1.2.3.3", ConvolutionKernel="LUNG"
    )
    scout = write_series(
        tmp_path / "d",
        lung[:1],
        (1.0, 1.0, 1.0),
        SeriesInstanceUID="1.2.3.4",
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    upright = AXIAL[[1, 0, 2]]
    coronal = write_series(tmp_path / "e", lung, (1.0, 1.0, 1.0), direction=upright, SeriesInstanceUID="1.2.3.5")
    analysis = analyse(engine, finders["map"], [*thin, *thick, *scout, *coronal, *sharp])
    assert {image.series_uid for image in found(analysis).images} == {"1.2.3.2"}
    reasons = {name: refusal.reason for name, refusal in analysis.skipped}
    assert reasons == {
        "1.2.3.1": Reason.OTHER_SERIES,
        "1.2.3.3": Reason.OTHER_SERIES,
        "1.2.3.4": Reason.INCOMPLETE,
        "1.2.3.5": Reason.GEOMETRY,
    }
    assert Flag.STUDY_INCOMPLETE not in found(analysis).flags


def test_a_series_that_is_no_volume_leaves_its_place_to_the_next(
    engine: Engine, finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    lung = np.full((24, 24, 24), -850.0)
    gapped = write_series(tmp_path / "a", lung, (1.0, 1.0, 1.0), SeriesInstanceUID="1.2.3.1")
    whole = write_series(tmp_path / "b", lung[:12], (2.0, 1.0, 1.0), SeriesInstanceUID="1.2.3.2")
    analysis = analyse(engine, finders["map"], [*gapped[:9], *gapped[10:], *whole])
    assert {image.series_uid for image in found(analysis).images} == {"1.2.3.2"}
    (skipped,) = analysis.skipped
    assert skipped[0] == "1.2.3.1"
    assert "1 slice(s) missing" in skipped[1].detail


# what is refused ------------------------------------------------------------------------------------------------------


def lung_series(folder: Path, count: int = 12, step_mm: float = 2.0, **changes: object) -> list[Path]:
    return write_series(folder, np.full((count, 24, 24), -850.0), (step_mm, 1.0, 1.0), **changes)


def test_bad_volumes_are_refused_with_their_reason(
    engine: Engine, finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    def refusal(paths: list[Path]) -> str:
        analysis = analyse(engine, finders["map"], paths)
        assert analysis.findings is None
        return str(analysis.refusal)

    whole = lung_series(tmp_path / "whole")
    assert "1 slice(s) missing" in refusal(whole[:5] + whole[6:])
    closer = lung_series(tmp_path / "closer", step_mm=1.3)
    assert "slice distances from" in refusal(whole[:6] + closer[10:])
    assert "slices are 7.00 mm apart, the model accepts 5 mm" in refusal(lung_series(tmp_path / "far", step_mm=7.0))
    assert "Rescale Type US" in refusal(lung_series(tmp_path / "us", RescaleType="US"))
    assert "2 slice(s), a volume needs 3" in refusal(whole[:2])
    assert "body_part: ABDOMEN; the model accepts CHEST, LUNG (12 images)" in refusal(
        lung_series(tmp_path / "abdomen", BodyPartExamined="ABDOMEN")
    )
    assert "the study has no images" in refusal([])


def test_a_volume_beyond_the_limits_is_refused_before_it_is_decoded(
    finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    limits = LoadLimits(max_voxels=5000)
    engine = Engine([finders["map"]], settings=EngineSettings(network_threads=1, device="cpu", limits=limits))
    refusal = analyse(engine, finders["map"], lung_series(tmp_path)).refusal
    engine.close()
    assert refusal is not None
    assert refusal.reason is Reason.TOO_LARGE
    assert refusal.detail == "12 slices of 24 x 24"


# the engine's promises ------------------------------------------------------------------------------------------------


class Faulty:
    """A real network that fails as a device would, from its second batch on."""

    def __init__(self, inner: Network, error: Exception) -> None:
        self.inner, self.error, self.batches = inner, error, 0

    @property
    def device(self) -> str:
        return self.inner.device

    @property
    def max_batch(self) -> int | None:
        return self.inner.max_batch

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        self.batches += 1
        if self.batches > 1:
            raise self.error
        return self.inner.run(batch)

    def warm_up(self, shape: tuple[int, ...]) -> None:
        self.inner.warm_up(shape)

    def close(self) -> None:
        self.inner.close()


def faulty_engine(model: InstalledModel, error: Exception) -> Engine:
    return Engine(
        [model], settings=ONE_THREAD, networks=lambda chosen, _: Faulty(open_network(chosen, threads=1), error)
    )


def test_nothing_is_said_of_a_volume_of_which_a_tile_failed(finders: dict[str, InstalledModel], tmp_path: Path) -> None:
    paths = write_series(tmp_path, np.full((52, 52, 52), -850.0), (1.0, 1.0, 1.0))
    engine = faulty_engine(finders["map"], NetworkFailed("broken"))
    analysis = analyse(engine, finders["map"], paths)
    engine.close()
    assert analysis.findings is None
    assert analysis.refusal is not None
    assert analysis.refusal.reason is Reason.MODEL_FAILED


def test_a_device_out_of_memory_ends_the_study_as_a_matter_of_the_process(
    finders: dict[str, InstalledModel], tmp_path: Path
) -> None:
    paths = write_series(tmp_path, np.full((52, 52, 52), -850.0), (1.0, 1.0, 1.0))
    engine = faulty_engine(finders["map"], DeviceOutOfMemory("full"))
    future = engine.submit(finders["map"].card.reference, StudyInput(study_uid="1.2", images=tuple(paths)))
    assert isinstance(future.exception(WAIT_S), DeviceOutOfMemory)
    engine.close()


def test_a_film_does_not_wait_for_a_volume(finders: dict[str, InstalledModel], tmp_path: Path) -> None:
    """The volume gives its tiles one batch at a time: a film that comes while it is looked at is done before it."""
    films = install(tmp_path / "films", export(DiscFinder()))
    engine = Engine([finders["boxes"], films], settings=EngineSettings(network_threads=1, device="cpu", max_batch=1))
    paths = write_series(tmp_path / "ct", np.full((56, 56, 56), -850.0), (1.0, 1.0, 1.0))
    film = film_file(tmp_path / "film.dcm")
    order: list[str] = []
    volume = engine.submit(
        finders["boxes"].card.reference,
        StudyInput(study_uid="1.2", images=tuple(paths)),
        on_stage=lambda stage: order.append(stage),
    )
    volume.add_done_callback(lambda _: order.append("volume"))
    while "infer" not in order:
        assert not volume.done()
    picture = engine.submit(films.card.reference, StudyInput(study_uid="1.3", images=(film,)))
    picture.add_done_callback(lambda _: order.append("film"))
    assert picture.result(WAIT_S).findings is not None
    assert volume.result(WAIT_S).findings is not None
    engine.close()
    assert order.index("film") < order.index("volume")


def test_timings_of_a_volume_add_up(engine: Engine, finders: dict[str, InstalledModel], tmp_path: Path) -> None:
    times = analyse(engine, finders["map"], lung_series(tmp_path)).timings_s
    assert set(times) == {"load", "wait", "model", "total"}
    assert times["model"] <= times["total"]
    assert math.isfinite(times["wait"])
