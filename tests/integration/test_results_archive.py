"""Results beside their sources in a real archive: Orthanc must not split the patient, whatever the character set."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_node.results.header import part_10
from dicom_node.results.profile import Profile
from dicom_node.results.result_set import encode
from tests import judges
from tests.archives import Orthanc
from tests.dx_wrapping import wrap_film_as_dx
from tests.results_cases import make_card, make_findings, make_request

NAME = "Щукина^Мария^Львовна"
CHARACTER_SETS = {
    "UTF-8": (b"ISO_IR 192", NAME.encode()),
    "ISO 8859-5": (b"ISO_IR 144", NAME.encode("iso8859_5")),
    "ISO 2022 with escapes": (
        b"\\ISO 2022 IR 144",
        b"^".join(b"\x1b-L" + part.encode("iso8859_5") for part in NAME.split("^")),
    ),
    "ISO 2022 without escapes": (b"\\ISO 2022 IR 144", NAME.encode("iso8859_5")),
    "CP1251 under Latin-1": (b"ISO_IR 100", NAME.encode("cp1251")),
    "CP1251 under nothing": (None, NAME.encode("cp1251")),
    "UTF-8 under nothing": (None, NAME.encode()),
}

RIGHT = {"UTF-8", "ISO 8859-5", "ISO 2022 with escapes"}


def _film(shared: Path, folder: Path, declared: bytes | None, name: bytes) -> Path:
    film = min((shared / "chest_xray_nih" / "images").glob("*"))
    dx: Dataset = wrap_film_as_dx(film, patient_name="X", patient_id="SPLIT-1")
    if declared is None:
        del dx.SpecificCharacterSet
    else:
        _put_raw(dx, "SpecificCharacterSet", "CS", declared)
    _put_raw(dx, "PatientName", "PN", name)
    path = folder / "film.dcm"
    path.write_bytes(part_10(dx))
    return path


def _put_raw(dx: Dataset, keyword: str, representation: str, value: bytes) -> None:
    padded = value + b" " * (len(value) % 2)
    dx[Tag(keyword)] = RawDataElement(Tag(keyword), representation, len(padded), padded, 0, False, True)


@pytest.mark.parametrize("case", CHARACTER_SETS)
def test_the_archive_reads_the_same_patient_from_source_and_results(
    case: str, orthanc: Orthanc, shared_data: Path, tmp_path: Path
) -> None:
    declared, name = CHARACTER_SETS[case]
    source = _film(shared_data, tmp_path, declared, name)
    card = make_card()
    request = make_request(
        [source], card=card, findings=make_findings([source], card, lesions=1), profile=Profile(language="ru")
    )
    orthanc.upload(source)
    for number, written in enumerate(encode(request)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(written.data)
        if case in RIGHT:  # validators object to the others as they do to their sources
            assert judges.dciodvfy_errors(path) == []
        orthanc.upload(path)
    tags = [orthanc.get(f"/instances/{known}/simplified-tags") for known in orthanc.get("/instances")]
    assert len(tags) == 3
    assert len({(found.get("PatientName"), found.get("PatientID")) for found in tags}) == 1
    assert len(orthanc.get("/patients")) == len(orthanc.get("/studies")) == 1


def test_words_of_a_report_stay_within_ascii_where_the_character_set_is_wrong(
    shared_data: Path, tmp_path: Path
) -> None:
    source = _film(shared_data, tmp_path, b"ISO_IR 100", NAME.encode("cp1251"))
    card = make_card()
    request = make_request([source], card=card, findings=make_findings([source], card), profile=Profile(language="ru"))
    path = tmp_path / "report.dcm"
    path.write_bytes(encode(request)[0].data)
    report = dcmread(path)
    assert report.SeriesDescription.isascii()
    language = report.ContentSequence[0]
    assert language.ConceptCodeSequence[0].CodeValue == "en"
    own_words = [
        str(element.value)
        for element in report.iterall()
        if element.VR in {"LO", "SH", "ST", "LT", "UT", "PN"} and element.keyword != "PatientName"
    ]
    assert own_words
    assert all(words.isascii() for words in own_words)
