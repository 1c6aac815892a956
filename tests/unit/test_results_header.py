"""What a result repeats from its source: patient and study, whatever the sender did to character sets and dates."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.implementation import IMPLEMENTATION_CLASS_UID
from dicom_node.results.header import part_10, read_source_header
from inference.refusals import Reason, Refused


def _source(
    folder: Path,
    *,
    character_set: bytes | None = b"ISO_IR 192",
    name: bytes = b"Ivanov^Ivan",
    patient_id: bytes = b"42",
    syntax: str = ExplicitVRLittleEndian,
    **attributes: object,
) -> Path:
    """A CR header in which text attributes have exactly these bytes."""
    data_set = Dataset()
    data_set.SOPClassUID = ComputedRadiographyImageStorage
    data_set.SOPInstanceUID, data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1.2.3.1", "1.2.3", "1.2.3.0"
    data_set.Modality = "CR"
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    if character_set is not None:
        _put_raw(data_set, "SpecificCharacterSet", "CS", character_set)
    _put_raw(data_set, "PatientName", "PN", name)
    _put_raw(data_set, "PatientID", "LO", patient_id)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    output = DicomBytesIO()
    output.is_implicit_VR, output.is_little_endian = False, True
    output.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(output, meta, enforce_standard=True)
    output.is_implicit_VR, output.is_little_endian = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    for tag in sorted(data_set.keys()):  # dcmwrite would parse, and so change, the bytes that these tests are about
        write_data_element(output, data_set.get_item(tag), "ISO_IR 192")
    path = folder / "source.dcm"
    path.write_bytes(output.getvalue())
    return path


def _put_raw(data_set: Dataset, keyword: str, representation: str, value: bytes) -> None:
    padded = value + b" " * (len(value) % 2)
    data_set[Tag(keyword)] = RawDataElement(Tag(keyword), representation, len(padded), padded, 0, False, True)


def _result(source: Path) -> Dataset:
    """A minimal result beside `source`, written and read again."""
    result = Dataset()
    result.SOPClassUID, result.SOPInstanceUID = ComputedRadiographyImageStorage, "2.25.1"
    result.SeriesInstanceUID, result.Modality = "2.25.2", "SR"
    read_source_header(source).apply(result)
    path = source.with_name("result.dcm")
    path.write_bytes(part_10(result))
    return dcmread(path)


def _decoded(data_set: Dataset) -> tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the wrong sets that these tests are about
        return str(data_set.PatientName), str(data_set.PatientID)


RUSSIAN = "Иванова^Анна^Петровна"

CHARACTER_SETS = {
    "UTF-8": (b"ISO_IR 192", RUSSIAN.encode()),
    "ISO 8859-5": (b"ISO_IR 144", RUSSIAN.encode("iso8859_5")),
    "ISO 2022 with escapes": (
        b"\\ISO 2022 IR 144",
        b"^".join(b"\x1b-L" + part.encode("iso8859_5") for part in RUSSIAN.split("^")),
    ),
    "ISO 2022 without escapes": (b"\\ISO 2022 IR 144", RUSSIAN.encode("iso8859_5")),
    "CP1251 under Latin-1": (b"ISO_IR 100", RUSSIAN.encode("cp1251")),
    "CP1251 under Latin-1, ё in every word": (b"ISO_IR 100", "Соловьёв^Пётр^Семёнович".encode("cp1251")),
    "CP1251 under nothing": (None, RUSSIAN.encode("cp1251")),
    "CP1251 under an empty set": (b"", RUSSIAN.encode("cp1251")),
    "CP1251 under UTF-8": (b"ISO_IR 192", RUSSIAN.encode("cp1251")),
    "KOI8-R under Latin-1": (b"ISO_IR 100", RUSSIAN.encode("koi8_r")),
    "UTF-8 under Latin-1": (b"ISO_IR 100", RUSSIAN.encode()),
    "UTF-8 under nothing": (None, RUSSIAN.encode()),
    "Latin-1": (b"ISO_IR 100", "Müller^Jörg".encode("latin_1")),
    "Greek": (b"ISO_IR 126", "Διονυσιος".encode("iso8859_7")),
    "Japanese": (b"\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
    "a set nobody knows": (b"ISO_IR 999", RUSSIAN.encode("cp1251")),
    "ASCII": (b"ISO_IR 100", b"Ivanov^Ivan"),
    "ASCII under nothing": (None, b"Ivanov^Ivan"),
}
WRONG = {
    "ISO 2022 without escapes",
    "CP1251 under Latin-1",
    "CP1251 under Latin-1, ё in every word",
    "CP1251 under nothing",
    "CP1251 under an empty set",
    "CP1251 under UTF-8",
    "KOI8-R under Latin-1",
    "UTF-8 under Latin-1",
    "UTF-8 under nothing",
    "a set nobody knows",
}


@pytest.mark.parametrize("case", CHARACTER_SETS)
def test_a_reader_decodes_the_same_name_from_source_and_result(case: str, tmp_path: Path) -> None:
    declared, name = CHARACTER_SETS[case]
    source = _source(tmp_path, character_set=declared, name=name)
    assert _decoded(_result(source)) == _decoded(dcmread(source))


@pytest.mark.parametrize("case", sorted(set(CHARACTER_SETS) - WRONG))
def test_a_right_character_set_becomes_utf_8(case: str, tmp_path: Path) -> None:
    declared, name = CHARACTER_SETS[case]
    result = _result(_source(tmp_path, character_set=declared, name=name))
    assert result.SpecificCharacterSet == "ISO_IR 192"
    assert not read_source_header(tmp_path / "source.dcm").ascii_only


@pytest.mark.parametrize("case", sorted(WRONG))
def test_a_wrong_character_set_leaves_bytes_and_set_untouched(case: str, tmp_path: Path) -> None:
    declared, name = CHARACTER_SETS[case]
    source = _source(tmp_path, character_set=declared, name=name)
    result = _result(source)
    assert read_source_header(source).ascii_only
    stored = result.get_item("PatientName").value
    assert stored.rstrip(b" ") == name
    written = (tmp_path / "result.dcm").read_bytes()
    assert (b"ISO_IR 192" in written) == (declared == b"ISO_IR 192")


@given(
    name=st.text(st.characters(codec="cp1251", categories=("Lu", "Ll")), min_size=1, max_size=20),
    codec=st.sampled_from(["cp1251", "utf_8", "iso8859_5", "koi8_r"]),
    declared=st.sampled_from([None, b"", b"ISO_IR 100", b"ISO_IR 192", b"ISO_IR 144", b"\\ISO 2022 IR 144"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mixture_of_sets_splits_a_patient(name: str, codec: str, declared: bytes | None, tmp_path: Path) -> None:
    source = _source(tmp_path, character_set=declared, name=name.encode(codec, "replace"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert _decoded(_result(source)) == _decoded(dcmread(source))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_encoding_of_the_source_gives_the_same_result(syntax: str, tmp_path: Path) -> None:
    source = _source(tmp_path, name=RUSSIAN.encode(), syntax=syntax, PregnancyStatus=4, PatientAge="052Y")
    result = _result(source)
    assert str(result.PatientName) == RUSSIAN
    assert result.PregnancyStatus == 4
    assert result.PatientAge == "052Y"


@pytest.mark.parametrize(
    ("keyword", "bad"),
    [
        ("PatientBirthDate", "00000000"),
        ("PatientBirthDate", "19731341"),
        ("PatientSex", "X"),
        ("PatientAge", "52"),
        ("StudyTime", "2460"),
    ],
)
def test_a_value_without_the_form_of_its_representation_is_left_empty(keyword: str, bad: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = _source(tmp_path, **{keyword: bad})
    assert _result(source).get(keyword) in {"", None}


def test_a_source_without_a_patient_gives_a_result_with_empty_ones(tmp_path: Path) -> None:
    source = _source(tmp_path, name=b"", patient_id=b"")
    result = _result(source)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        assert keyword in result
        assert not result[keyword].value


@pytest.mark.parametrize("missing", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
def test_a_source_without_its_uids_is_refused_with_the_reason(missing: str, tmp_path: Path) -> None:
    source = _source(tmp_path)
    data_set = dcmread(source)
    del data_set[missing]
    data_set.save_as(source)
    with pytest.raises(Refused, match=missing) as caught:
        read_source_header(source)
    assert caught.value.refusal.reason is Reason.UNREADABLE


def test_a_file_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear colleague")
    with pytest.raises(Refused):
        read_source_header(path)


def test_the_file_meta_information_names_the_node(tmp_path: Path) -> None:
    result = _result(_source(tmp_path))
    assert result.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert str(IMPLEMENTATION_CLASS_UID).startswith("2.25.")
    assert UID(IMPLEMENTATION_CLASS_UID).is_valid


def test_times_are_written_on_the_clock_of_the_source(tmp_path: Path) -> None:
    from tests.results_cases import NOON

    header = read_source_header(_source(tmp_path, TimezoneOffsetFromUTC="+0300"))
    assert header.local_time(NOON).strftime("%H:%M") == "15:00"
    header = read_source_header(_source(tmp_path, TimezoneOffsetFromUTC="-0430"))
    assert header.local_time(NOON).strftime("%H:%M") == "07:30"
    assert read_source_header(_source(tmp_path)).local_time(NOON) == NOON
