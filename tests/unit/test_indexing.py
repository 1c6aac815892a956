"""From a header to facts or a refusal: never another error, never a patient's name, never one's own results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicom_node.facts import InstanceFacts
from dicom_node.indexing import Indexed, read_facts
from inference.findings import SopUid, StudyUid
from inference.refusals import Reason
from models.card import PresentationIntent
from tests.pictures import disc_picture, film_data_set, save, slice_data_set

SR, KO = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.59"
SEG, GSPS = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.11.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NAME, PATIENT_ID = "Достоевский^Фёдор^Михайлович", "SNILS-112-233-445-95"


@dataclass(frozen=True)
class Announced:
    study_uid: StudyUid
    sop_class_uid: str
    sop_instance_uid: SopUid


def announced(data_set: Dataset) -> Announced:
    """As the sender's C-STORE request would name it."""
    return Announced(
        StudyUid(str(data_set.StudyInstanceUID)), str(data_set.SOPClassUID), SopUid(str(data_set.SOPInstanceUID))
    )


def film(**changes: object) -> Dataset:
    data_set = film_data_set(disc_picture(24, 20), **changes)
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.PatientName, data_set.PatientID = NAME, changes.get("PatientID", PATIENT_ID)
    return data_set


def indexed(tmp_path: Path, data_set: Dataset, stored: Announced | None = None) -> Indexed:
    return read_facts(save(data_set, tmp_path / "one.dcm"), stored or announced(data_set))


def facts(tmp_path: Path, data_set: Dataset) -> InstanceFacts:
    found = indexed(tmp_path, data_set)
    assert found.refusal is None and found.facts is not None
    return found.facts


def test_a_film_gives_the_facts_that_routing_asks_for(tmp_path: Path) -> None:
    found = facts(
        tmp_path,
        film(
            StudyDescription="Органы грудной клетки", StationName="room 4", Manufacturer="Works", ImageLaterality="l",
            NumberOfStudyRelatedInstances=2, StudyPriorityID="high",
        ),
    )  # fmt: skip
    assert (found.modality, found.body_part, found.view, found.laterality) == ("DX", "CHEST", "PA", "L")
    assert (found.study_description, found.station_name) == ("Органы грудной клетки", "room 4")
    assert (found.rows, found.columns, found.frames, found.images_expected) == (24, 20, 1, 2)
    assert found.presentation is PresentationIntent.FOR_PRESENTATION
    assert found.urgent and not found.is_secondary
    assert InstanceFacts.from_json(found.to_json()) == found


def coded(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def test_a_mammogram_gives_what_its_completeness_is_decided_by(tmp_path: Path) -> None:
    view = coded("399162004", "cranio-caudal")
    view.ViewModifierCodeSequence = [coded("399163009", "Magnification")]
    asked = Dataset()
    asked.RequestedProcedureDescription = "Маммография правой молочной железы"
    found = facts(
        tmp_path,
        film(
            Modality="MG", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2", ViewPosition=None, ViewCodeSequence=[view],
            ImageLaterality="R", ImagesInAcquisition=2, AcquisitionNumber=7, StudyDescription="",
            RequestAttributesSequence=[asked],
        ),
    )  # fmt: skip
    assert (found.laterality, found.view, found.view_modifiers) == ("R", "CC", ("MAG",))
    assert (found.acquisition_number, found.images_in_acquisition, found.requested_side) == (7, 2, "R")
    assert InstanceFacts.from_json(json.loads(json.dumps(found.to_json()))) == found
    coding = film(StudyDescription="", ProcedureCodeSequence=[coded("1", "Mammography of left breast")])
    assert facts(tmp_path, coding).requested_side == "L"


def test_facts_of_an_earlier_version_are_still_read() -> None:
    old = InstanceFacts(modality="MG").to_json()
    for added_later in ("requested_side", "acquisition_number", "images_in_acquisition"):
        del old[added_later]
    assert InstanceFacts.from_json(old) == InstanceFacts(modality="MG")


def test_a_patient_is_told_from_another_and_not_named(tmp_path: Path) -> None:
    study = "1.2.3.4"
    keys = [
        facts(tmp_path, film(StudyInstanceUID=study, PatientID=patient, **more)).patient_key
        for patient, more in (("A", {}), ("A", {}), ("B", {}), ("A", {"IssuerOfPatientID": "Other"}), ("", {}))
    ]
    assert keys[0] == keys[1] and len({keys[0], keys[2], keys[3]}) == 3 and keys[4] == ""
    other_study = facts(tmp_path, film(StudyInstanceUID="1.2.3.5", PatientID="A")).patient_key
    assert other_study != keys[0], "across studies the key tells nothing"
    said = str(facts(tmp_path, film()))
    assert PATIENT_ID not in said and "Достоевский" not in said


def test_a_slice_has_its_place_along_the_normal(tmp_path: Path) -> None:
    pixels = disc_picture(8, 8)
    axial = facts(tmp_path, slice_data_set((-100.0, -90.0, 42.5), pixels))
    assert (axial.position_mm, axial.normal) == (42.5, (0.0, 0.0, 1.0))
    oblique = slice_data_set((0.0, 10.0, 0.0), pixels, ImageOrientationPatient=[1, 0, 0, 0, 0.6, 0.8])
    tilted = facts(tmp_path, oblique)
    assert tilted.normal == (0.0, -0.8, 0.6) and tilted.position_mm == pytest.approx(-8.0)
    for broken in ([1, 0, 0, 1, 0, 0], [0] * 6, [1, 0, 0]):
        flat = facts(tmp_path, slice_data_set((0.0, 0.0, 1.0), pixels, ImageOrientationPatient=broken))
        assert flat.position_mm is None and flat.normal is None


@pytest.mark.parametrize("sop_class", [SR, KO, SEG, GSPS])
def test_what_an_ai_or_a_reader_wrote_is_kept_and_never_analysed(tmp_path: Path, sop_class: str) -> None:
    found = indexed(tmp_path, film(SOPClassUID=sop_class, Modality="SR"))
    assert found.refusal is not None and found.refusal.reason is Reason.NOT_AN_IMAGE
    assert found.facts is not None, "it is readable: an archive counts it"


def test_a_picture_that_an_ai_processed_is_the_loop_guards(tmp_path: Path) -> None:
    equipment, purpose = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109102", "DCM", "Processing Equipment"
    equipment.Manufacturer, equipment.PurposeOfReferenceCodeSequence = "Another AI", [purpose]
    found = indexed(tmp_path, film(ContributingEquipmentSequence=[equipment]))
    assert found.refusal is not None and found.refusal.reason is Reason.OWN_RESULT
    purpose.CodeValue = "109101"  # acquisition equipment is no reason
    assert indexed(tmp_path, film(ContributingEquipmentSequence=[equipment])).refusal is None


def test_a_secondary_capture_is_marked_for_the_routes_to_decide(tmp_path: Path) -> None:
    assert facts(tmp_path, film(SOPClassUID=SECONDARY_CAPTURE, Modality="OT")).is_secondary
    assert facts(tmp_path, film(SOPClassUID=SECONDARY_CAPTURE + ".2", Modality="OT")).is_secondary
    assert facts(tmp_path, film(ImageType=["derived", "Secondary"])).is_secondary
    assert not facts(tmp_path, film(ImageType=["DERIVED", "PRIMARY"])).is_secondary


@pytest.mark.parametrize("keyword", ["sop_instance_uid", "sop_class_uid", "study_uid"])
def test_an_object_that_is_not_what_was_announced_is_a_contradiction(tmp_path: Path, keyword: str) -> None:
    data_set = film()
    said = announced(data_set)
    other = Announced(**{**said.__dict__, keyword: "1.9.9.9"})
    found = indexed(tmp_path, data_set, other)
    assert found.facts is None
    assert found.refusal is not None and found.refusal.reason is Reason.CONTRADICTION
    assert "1.9.9.9" not in found.refusal.detail


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": 0}, Reason.NO_PIXELS),
        ({"Rows": 65535, "Columns": 65535}, Reason.TOO_LARGE),
        ({"NumberOfFrames": "9"}, Reason.CONTRADICTION),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, Reason.NOT_GREY),
        ({"Modality": "CT"}, Reason.CONTRADICTION),
        ({"SeriesInstanceUID": "not a uid"}, Reason.UNREADABLE),
        ({"Rows": None, "Columns": None}, Reason.NOT_AN_IMAGE),
    ],
)
def test_a_hostile_header_is_refused_by_name(tmp_path: Path, changes: dict[str, object], reason: Reason) -> None:
    found = indexed(tmp_path, film(**changes))
    assert found.refusal is not None and found.refusal.reason is reason


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\0" * 128 + b"DICM", b"\0" * 4096])
def test_what_is_no_dicom_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    found = read_facts(path, announced(film()))
    assert found.facts is None and found.refusal is not None and found.refusal.reason is Reason.UNREADABLE


def test_a_disk_that_fails_is_no_fault_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        read_facts(tmp_path / "absent.dcm", announced(film()))


def test_real_files_give_what_their_headers_say(shared_data: Path) -> None:
    samples = {
        "dicom_samples/WG04_RG1_JLSN": ("CR", 1),
        "dicom_samples/WG04_MG1_J2KI": ("RG", 1),
        "dicom_samples/WG04_CT1_RLE": ("CT", 1),
        "dicom_samples/pydicom-data_eCT_Supplemental.dcm": ("CT", 2),
    }
    for name, (modality, frames) in samples.items():
        path = shared_data / name
        header = pydicom.dcmread(path, stop_before_pixels=True)
        found = read_facts(path, announced(header))
        assert found.facts is not None, name
        assert found.facts.modality == modality
        assert (found.facts.rows, found.facts.columns, found.facts.frames) == (header.Rows, header.Columns, frames)
        assert str(header.get("PatientID") or "no id") not in str(found)


def test_a_real_ct_series_lies_in_one_stack(shared_data: Path) -> None:
    paths = sorted((shared_data / "ct_lidc" / "LIDC-IDRI-0001").rglob("*.dcm"))
    found = [read_facts(path, announced(pydicom.dcmread(path, stop_before_pixels=True))) for path in paths]
    assert len(found) > 5 and all(one.refusal is None for one in found)
    normals = {one.facts.normal for one in found if one.facts}
    positions = [one.facts.position_mm for one in found if one.facts]
    assert len(normals) == 1 and len(set(positions)) == len(positions) and None not in positions


@pytest.fixture(scope="module")
def header_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Announced]:
    data_set = film()
    return save(data_set, tmp_path_factory.mktemp("film") / "film.dcm").read_bytes(), announced(data_set)


@given(
    edits=st.lists(st.tuples(st.integers(128, 1100), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.integers(100, 1 << 12),
)
@example(edits=[(132, 0)], length=4096)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_bytes_are_there_are_facts_or_a_refusal_that_names_no_patient(
    tmp_path: Path, header_bytes: tuple[bytes, Announced], edits: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(header_bytes[0])
    for place, value in edits:
        if place < len(content):
            content[place] = value
    path = tmp_path / f"{hashlib.sha256(content).hexdigest()[:16]}.dcm"
    path.write_bytes(content[:length])
    found = read_facts(path, header_bytes[1])
    path.unlink()
    assert (found.facts is not None) or (found.refusal is not None)
    if found.refusal:
        told = str(found.refusal)
        assert not any(part in told for part in ("Достоевский", "Фёдор", "Test^Film", PATIENT_ID, "045Y"))
    if found.facts:
        assert InstanceFacts.from_json(found.facts.to_json()) == found.facts
