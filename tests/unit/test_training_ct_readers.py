"""Readers of CT sets: tiny files in the true layouts, and the real ones where they are at hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.ct_phantoms import rotation, volume_of, write_series
from training.ct import boxes_csv, decathlon, lidc, luna16
from training.ct.cases import CtCase, LesionBox, consensus, from_world, read_itk
from training.ct.readers import read_set
from training.ct.recipe import CtData
from training.errors import DataError

SPACING_XYZ = (0.7, 0.8, 2.0)
ORIGIN = (-100.0, -50.0, 30.0)


def write_image(path: Path, voxels: NDArray[Any], direction: NDArray[np.float64] | None = None) -> None:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(voxels.astype(np.int16))
    image.SetSpacing(SPACING_XYZ)
    image.SetOrigin(ORIGIN)
    image.SetDirection((np.eye(3) if direction is None else direction).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def block(low: tuple[int, int, int], high: tuple[int, int, int], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Lung with a bright block from voxel `low` to before `high`."""
    voxels = np.full(shape, -850.0)
    voxels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 40
    return voxels


def bright_box(case: CtCase) -> tuple[LesionBox, LesionBox]:
    """The case's only lesion, and the box of what is bright in its voxels."""
    scan = case.read()
    (lesion,) = scan.lesions
    places = np.argwhere(scan.volume.voxels > 0)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    truth = LesionBox(low=tuple(low.astype(float)), high=tuple(high.astype(float)))
    return lesion, truth


# world coordinates ----------------------------------------------------------------------------------------------------


@given(
    st.tuples(*[st.floats(-40, 40)] * 3),
    st.tuples(*[st.floats(2, 9)] * 3),
    st.tuples(*[st.floats(-25, 25)] * 3),
)
def test_the_middle_of_a_world_box_is_where_the_volume_says(
    center: tuple[float, float, float], size: tuple[float, float, float], turned: tuple[float, float, float]
) -> None:
    axes = np.asarray([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float) @ rotation(*turned)
    base = volume_of(np.zeros((3, 4, 5), dtype=np.float32), (2.0, 0.8, 0.7))
    volume = replace(base, direction=tuple(map(tuple, axes.tolist())), origin_mm=(1.0, 2.0, 3.0))
    box = from_world(volume, center, size)
    middle = (np.asarray(box.low) + box.high) / 2 - 0.5
    assert volume.to_lps_mm(*middle) == pytest.approx(center, abs=1e-6)
    assert sorted(box.sides_mm(volume.spacing_mm)) == pytest.approx(sorted(size))


# LUNA16 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip_slices", [False, True])
def test_luna16_nodules_lie_where_the_voxels_are_bright(flip_slices: bool, tmp_path: Path) -> None:
    uid = "1.3.6.1.4.1.14519.5.2.1.6279.6001.100225287222365663678666836860"
    low, high = (4, 6, 8), (8, 16, 18)
    direction = np.diag([1.0, 1.0, -1.0 if flip_slices else 1.0])
    write_image(tmp_path / "subset0" / f"{uid}.mhd", block(low, high, (12, 30, 32)), direction)
    write_image(tmp_path / "subset1" / "1.2.3.mhd", np.full((6, 8, 8), -850))
    middle = (np.asarray(low) + high)[::-1] / 2 - 0.5  # x, y, z voxel index of the file
    world = np.asarray(ORIGIN) + direction @ (middle * SPACING_XYZ)
    rows = ["seriesuid,coordX,coordY,coordZ,diameter_mm", f"{uid},{world[0]},{world[1]},{world[2]},8.0"]
    (tmp_path / "annotations.csv").write_text("\n".join(rows) + "\n")
    cases = luna16.read_cases(tmp_path)
    assert [len(case.read().lesions) for case in cases] == [1, 0]
    lesion, truth = bright_box(cases[0])
    assert (np.asarray(lesion.low) + lesion.high) / 2 == pytest.approx((np.asarray(truth.low) + truth.high) / 2)
    assert lesion.sides_mm((2.0, 0.8, 0.7)) == pytest.approx((8.0, 8.0, 8.0))
    assert {file.suffix for file in cases[0].files} == {".mhd", ".raw"}


def test_a_luna16_folder_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        luna16.read_cases(tmp_path)
    (tmp_path / "annotations.csv").write_text("seriesuid,coordX\n1,2\n")
    with pytest.raises(DataError, match="no column coordY, coordZ, diameter_mm"):
        luna16.read_cases(tmp_path)
    (tmp_path / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\nuid,1,2,three,4\n")
    with pytest.raises(DataError, match="line 2: coordinates and diameter must be numbers"):
        luna16.read_cases(tmp_path)
    (tmp_path / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\nuid,1,2,3,4\n")
    with pytest.raises(DataError, match=r"no \.mhd file"):
        luna16.read_cases(tmp_path)
    write_image(tmp_path / "uid.mhd", np.zeros((4, 5, 6)))
    (tmp_path / "uid.raw").unlink()
    with pytest.raises(DataError, match="file of voxels beside it"):
        luna16.read_cases(tmp_path)[0].read()


# decathlon lists ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".mhd"])
@pytest.mark.parametrize("world", ["lps", "ras", "voxel"])
@pytest.mark.parametrize("box_mode", ["cccwhd", "xyzxyz", "xxyyzz", "xyzwhd"])
def test_boxes_of_a_list_lie_where_the_voxels_are_bright(
    box_mode: decathlon.BoxMode, world: decathlon.World, suffix: str, tmp_path: Path
) -> None:
    low, high = (4, 6, 8), (8, 16, 18)
    write_image(tmp_path / f"imagesTr/case{suffix}", block(low, high, (12, 30, 32)))
    start, end = np.asarray(low[::-1], dtype=float), np.asarray(high[::-1], dtype=float)
    if world != "voxel":  # outer faces in the patient
        start, end = ((place - 0.5) * SPACING_XYZ + ORIGIN for place in (start, end))
    if world == "ras":
        turn = np.asarray([-1, -1, 1])
        start, end = np.minimum(start * turn, end * turn), np.maximum(start * turn, end * turn)
    numbers = {
        "cccwhd": [*((start + end) / 2), *(end - start)],
        "xyzxyz": [*start, *end],
        "xxyyzz": np.stack((start, end), axis=1).ravel().tolist(),
        "xyzwhd": [*start, *(end - start)],
    }[box_mode]
    entry = {"image": f"imagesTr/case{suffix}", "box": [list(map(float, numbers))], "label": [0], "fold": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "LUNA16", "training": [entry], "validation": []}))
    (case,) = decathlon.read_cases(tmp_path, box_mode=box_mode, world=world)
    lesion, truth = bright_box(case)
    assert lesion.low == pytest.approx(truth.low, abs=1e-3)
    assert lesion.high == pytest.approx(truth.high, abs=1e-3)


def test_a_list_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    file = tmp_path / "dataset.json"
    write_image(tmp_path / "a.nii.gz", np.zeros((4, 5, 6)))
    for entries, words in [
        ([{"image": "../../etc/passwd", "box": []}], "an image outside"),
        ([{"image": "b.nii.gz", "box": []}], "in the list and not in"),
        ([{"image": "a.nii.gz", "box": [[1, 2, 3]]}], "cannot be understood"),
        ([{"image": "a.nii.gz", "box": [[1, 1, 1, 2, 2, 2]], "label": []}], r"1 box\(es\) and 0 label\(s\)"),
    ]:
        file.write_text(json.dumps({"training": entries}))
        with pytest.raises(DataError, match=words):
            decathlon.read_cases(tmp_path)
    file.write_text("{")
    with pytest.raises(DataError, match="no JSON"):
        decathlon.read_cases(tmp_path)
    file.write_text(json.dumps({"training": [{"image": "a.nii.gz", "box": [[5, 5, 5, 1, 1, 1]]}]}))
    with pytest.raises(DataError, match="is xyzxyz what the list means"):
        decathlon.read_cases(tmp_path, box_mode="xyzxyz")[0].read()


def test_axes_that_are_not_perpendicular_are_refused(tmp_path: Path) -> None:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), dtype=np.int16))
    try:
        image.SetDirection([1.0, 0.3, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
        SimpleITK.WriteImage(image, str(tmp_path / "sheared.nrrd"))
    except RuntimeError:
        pytest.skip("this SimpleITK writes no sheared image")
    with pytest.raises(DataError, match="perpendicular"):
        read_itk(tmp_path / "sheared.nrrd")


# LIDC -----------------------------------------------------------------------------------------------------------------

XML = """<?xml version="1.0" encoding="UTF-8"?>
<LidcReadMessage xmlns="http://www.nih.gov"><readingSession>{nodules}
<nonNodule><nonNoduleID>7</nonNoduleID></nonNodule></readingSession></LidcReadMessage>"""
ROI = """<roi><imageZposition>0</imageZposition><imageSOP_UID>{uid}</imageSOP_UID><inclusion>{inclusion}</inclusion>
{edges}</roi>"""


def contour(uid: str, low: tuple[int, int], high: tuple[int, int], inclusion: str = "TRUE") -> str:
    """The pixels just outside of rows and columns `low` to before `high`, as the readers' tool wrote them."""
    corners = [(low[0] - 1, low[1] - 1), (low[0] - 1, high[1]), (high[0], high[1]), (high[0], low[1] - 1)]
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for y, x in corners)
    return ROI.format(uid=uid, inclusion=inclusion, edges=edges)


def lidc_folder(tmp_path: Path) -> tuple[Path, list[str]]:
    from pydicom import dcmread

    home = tmp_path / "LIDC-IDRI-0001" / "1.2.2" / "1.2.3"
    slices = write_series(
        home, block((3, 6, 8), (7, 16, 18), (10, 30, 32)), (2.0, 0.8, 0.7), PatientID="LIDC-IDRI-0001"
    )
    return home, [str(dcmread(path).SOPInstanceUID) for path in slices]


def test_lidc_contours_become_the_box_that_readers_agree_on(tmp_path: Path) -> None:
    home, uids = lidc_folder(tmp_path)
    readers = []
    for grow in (0, 0, 1):
        regions = "".join(contour(uids[index], (6 - grow, 8), (16, 18)) for index in range(3, 7))
        regions += contour(uids[8], (2, 2), (4, 4), inclusion="FALSE")
        readers.append(f"<unblindedReadNodule><noduleID>n</noduleID>{regions}</unblindedReadNodule>")
    small = f"<unblindedReadNodule><noduleID>s</noduleID><roi><imageSOP_UID>{uids[5]}</imageSOP_UID>"
    small += "<inclusion>TRUE</inclusion><edgeMap><xCoord>1</xCoord><yCoord>2</yCoord></edgeMap></roi>"
    readers.append(small + "</unblindedReadNodule>")
    (home / "069.xml").write_text(XML.format(nodules="".join(readers)))
    (case,) = lidc.read_cases(tmp_path)
    assert case.patient == "LIDC-IDRI-0001"
    lesion, truth = bright_box(case)
    assert lesion == truth


def test_an_annotation_that_is_none_is_refused(tmp_path: Path) -> None:
    home, _ = lidc_folder(tmp_path)
    with pytest.raises(DataError, match="no folder with DICOM slices and an XML"):
        lidc.read_cases(tmp_path)
    (home / "a.xml").write_text("<a>")
    with pytest.raises(DataError, match="no readable annotation"):
        lidc.read_cases(tmp_path)
    (home / "a.xml").write_text('<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>')
    with pytest.raises(DataError, match="declares entities"):
        lidc.read_cases(tmp_path)


# boxes.csv ------------------------------------------------------------------------------------------------------------


def test_rows_of_a_table_become_one_lesion_over_its_slices(tmp_path: Path) -> None:
    home = tmp_path / "P1" / "series"
    slices = write_series(home, block((3, 6, 8), (7, 16, 18), (10, 30, 32)), (2.0, 0.8, 0.7))
    rows = ["path,reader,nodule_id,xmin,ymin,xmax,ymax"]
    for reader in range(2):
        rows += [f"{path.relative_to(tmp_path)},{reader},n,8,6,17,15" for path in slices[3:7]]
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n")
    (case,) = boxes_csv.read_cases(tmp_path)
    assert case.patient == "P1"
    lesion, truth = bright_box(case)
    assert lesion == truth


def test_a_table_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        boxes_csv.read_cases(tmp_path)
    (tmp_path / "boxes.csv").write_text("path,xmin\na,1\n")
    with pytest.raises(DataError, match="no column ymin, xmax, ymax"):
        boxes_csv.read_cases(tmp_path)
    (tmp_path / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\na/b.dcm,9,1,2,3\n")
    with pytest.raises(DataError, match="line 2: an empty box"):
        boxes_csv.read_cases(tmp_path)


def test_readers_who_see_different_lesions_are_not_mixed() -> None:
    boxes = [np.asarray([[0, 0, 0], [4, 4, 4]], float), np.asarray([[0, 0, 0], [4, 4, 5]], float)]
    far = np.asarray([[9, 9, 9], [12, 12, 12]], float)
    assert len(consensus([*boxes, far])) == 2
    assert len(consensus([*boxes, far], readers=2)) == 1


def test_the_real_sets_are_read_and_their_boxes_lie_on_dense_tissue(shared_data: Path) -> None:
    data = CtData(folders=("ct_lidc", "ct_lung_pet_ct_dx"))
    cases = read_set(data, shared_data)
    assert sorted({case.patient for case in cases}) == ["LIDC-IDRI-0001", "LIDC-IDRI-0002", "Lung_Dx-A0001"]
    for case in cases[:2]:
        scan = case.read()
        assert len(scan.lesions) == 1
        low, high = np.asarray(scan.lesions[0].low), np.asarray(scan.lesions[0].high)
        inner = (low + high) / 2 - (high - low) / 4, (low + high) / 2 + (high - low) / 4
        z, y, x = (slice(int(start), int(np.ceil(end))) for start, end in zip(*inner, strict=True))
        assert np.percentile(scan.volume.voxels[z, y, x], 75) > -500  # one of them is ground glass
        assert np.median(scan.volume.voxels[z, x, y]) < -800  # rows and columns are not mixed up


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_set(CtData(folders=("nowhere",)), tmp_path)
