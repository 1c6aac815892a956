"""Who the patient is, read from real files: character sets, issuers, dates, and files that contradict each other."""

from __future__ import annotations

import warnings
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_charset_files
from pydicom.uid import ComprehensiveSRStorage, DigitalXRayImageStorageForPresentation

from dicom_node.ehr.context import Sex
from dicom_node.ehr.header import HeaderContext, HeaderUnreadable, read_header
from dicom_node.ehr.lookup import LookupKey, assemble, read_known
from tests.raw_headers import item, png, write_header

RUSSIAN = "Соловьёва^Анна^Петровна"
PARTS = {"family": "Соловьёва", "given": "Анна", "patronymic": "Петровна"}
MOSCOW = ZoneInfo("Europe/Moscow")
WRITTEN = """
PatientName PatientID PatientBirthDate PatientSex AccessionNumber StudyDate StudyTime Modality IssuerOfPatientID
StudyDescription TimezoneOffsetFromUTC SpecificCharacterSet
"""


def read(folder: Path, **attributes: object) -> HeaderContext:
    return read_header([write_header(folder / "one.dcm", **attributes)], zone=MOSCOW)


def patient(header: HeaderContext) -> dict[str, object]:
    found = header.known["patient"]
    assert isinstance(found, dict)
    return found


def test_a_header_says_who_the_patient_is_and_what_was_done(tmp_path: Path) -> None:
    header = read(
        tmp_path,
        PatientName=RUSSIAN.encode(),
        InstitutionName="ГБУЗ Поликлиника",
        ManufacturerModelName="Rosa",
        DeviceSerialNumber="17",
    )

    assert header.known == {
        "patient": {
            "identifier": {"value": "77-1"},
            "name": PARTS,
            "birth_date": date(1973, 6, 11),
            "sex": Sex.MALE,
        },
        "order": {"accession_number": "A26030201"},
    }
    assert read_known(header.known) == header.known
    assert header.key == LookupKey(study_uid=header.source.study_uid, patient_id="77-1", accession_number="A26030201")
    source = header.source
    assert (source.modality, source.description, source.body_part) == ("DX", "Chest", "CHEST")
    assert (source.manufacturer, source.device_model, source.device_serial) == ("radnode tests", "Rosa", "17")
    assert source.performed_at == datetime(2026, 3, 2, 11, 45, tzinfo=MOSCOW)
    assert source.dose_msv is None
    assert [list(series.images.values()) for series in source.series] == [[DigitalXRayImageStorageForPresentation]]
    assert (header.guessed_character_set, header.contradictions, header.notes) == (False, (), ())
    assert header.institution_name == "ГБУЗ Поликлиника"
    assert assemble(header.known).performer is None


@pytest.mark.parametrize(
    ("declared", "codec", "guessed"),
    [
        (b"ISO_IR 192", "utf_8", False),
        (b"ISO_IR 144", "iso8859_5", False),
        (b"GB18030", "gb18030", False),
        (b"ISO_IR 100", "cp1251", True),
        (b"ISO_IR 192", "cp1251", True),
        (b"ISO_IR 144", "cp1251", True),
        (b"", "cp1251", True),
        (None, "cp1251", True),
        (b"ISO_IR 999", "cp1251", True),
        (b"ISO_IR 100", "utf_8", True),
        (None, "utf_8", True),
        (b"\\ISO 2022 IR 144", "iso8859_5", True),
    ],
)
def test_a_name_is_read_in_its_character_set_or_as_the_cyrillic_that_it_is(
    tmp_path: Path, declared: bytes | None, codec: str, guessed: bool
) -> None:
    header = read(tmp_path, SpecificCharacterSet=declared, PatientName=RUSSIAN.encode(codec))

    assert patient(header)["name"] == PARTS
    assert header.guessed_character_set is guessed
    assert any("PatientName" in note for note in header.notes) is guessed


@pytest.mark.parametrize(
    ("declared", "raw"),
    [
        (b"ISO_IR 100", RUSSIAN.encode("koi8_r")),
        (None, RUSSIAN.encode("iso8859_5")),
        (None, "Müller^Jörg".encode("latin_1")),
        (None, RUSSIAN.encode("cp866")),
        (b"ISO_IR 192", b"\xff\xfe^\x81"),
    ],
    ids=["KOI8-R", "ISO 8859-5", "Latin-1", "CP866", "rubbish"],
)
def test_a_name_that_could_be_anything_is_unknown_and_not_mojibake(
    tmp_path: Path, declared: bytes | None, raw: bytes
) -> None:
    header = read(tmp_path, SpecificCharacterSet=declared, PatientName=raw)

    assert "name" not in patient(header)
    assert header.notes == ("PatientName: not in the character set that the file declares",)
    assert patient(header)["identifier"] == {"value": "77-1"}


def test_western_names_in_their_own_set_stay_as_they_are(tmp_path: Path) -> None:
    header = read(tmp_path, SpecificCharacterSet=b"ISO_IR 100", PatientName="Müller^Jörg Åke".encode("latin_1"))

    assert patient(header)["name"] == {"family": "Müller", "given": "Jörg Åke"}
    assert not header.guessed_character_set


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.text(st.sampled_from("абвгдежзийклмнопрстуфхцчшщьыэюяё"), min_size=2), min_size=1, max_size=3),
    declared=st.sampled_from([None, b"ISO_IR 100", b"ISO_IR 192"]),
    capital=st.booleans(),
)
def test_every_name_in_cp1251_is_read_and_said_to_be_guessed(
    tmp_path: Path, words: list[str], declared: bytes | None, capital: bool
) -> None:
    text = "^".join(word.upper() if capital else word.title() for word in words)
    header = read(tmp_path, SpecificCharacterSet=declared, PatientName=text.encode("cp1251"))

    assert "^".join(map(str, patient(header)["name"].values())) == text  # type: ignore[attr-defined]
    assert header.guessed_character_set


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Ivanov^Ivan=Иванов^Иван=", {"family": "Иванов", "given": "Иван"}),
        ("Ivanov^Ivan==Иванов^Иван", {"family": "Иванов", "given": "Иван"}),
        ("Wang^XiaoDong=王^小东=", {"family": "Wang", "given": "XiaoDong"}),
        ("=王^小东", {"family": "王", "given": "小东"}),
        ("ИВАНОВ ИВАН ИВАНОВИЧ", {"family": "ИВАНОВ", "given": "ИВАН", "patronymic": "ИВАНОВИЧ"}),
        ("Иванов^Иван Иванович^^^", {"family": "Иванов", "given": "Иван", "patronymic": "Иванович"}),
        ("Люкceмбypг", {"family": "Люкceмбypг"}),
        ("^^^", None),
        ("", None),
    ],
)
def test_names_in_groups_and_parts(tmp_path: Path, raw: str, name: dict[str, str] | None) -> None:
    assert patient(read(tmp_path, PatientName=raw.encode())).get("name") == name


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("chrRuss.dcm", {"family": "Люкceмбypг"}),
        ("chrX2.dcm", {"family": "Wang", "given": "XiaoDong"}),
        ("chrH31.dcm", {"family": "Yamada", "given": "Tarou"}),
        ("chrI2.dcm", {"family": "Hong", "given": "Gildong"}),
        ("chrFrenMulti.dcm", {"family": "Buc", "given": "Jérôme"}),
        ("chrJapMulti.dcm", {"family": "やまだ", "given": "たろう"}),
    ],
)
def test_files_of_others_with_declared_sets_are_read(file: str, name: dict[str, str]) -> None:
    (path,) = get_charset_files(file)
    header = read_header([Path(path)])

    assert patient(header)["name"] == name
    assert not header.guessed_character_set


def test_files_of_others_are_read_or_refused_without_a_word_of_theirs() -> None:
    refused = 0
    paths = [path for path in Path(pydicom.__file__).parent.rglob("*.dcm") if path.stat().st_size < 300_000]
    for path in paths:
        try:
            read_header([path])
        except HeaderUnreadable as error:
            refused += 1
            assert str(error).startswith(("file 1 of 1", "one of the 1 files")), path
    assert len(paths) > 50
    assert refused < len(paths) / 4


@pytest.mark.parametrize("raw", [b"", b"00000000", b"19730230", b"1973", b"197306", b"19000101", b"20990101", b"x"])
def test_a_birth_date_that_is_none_is_unknown(tmp_path: Path, raw: bytes) -> None:
    header = read(tmp_path, PatientBirthDate=raw)

    assert "birth_date" not in patient(header)
    assert any("PatientBirthDate" in note for note in header.notes) is bool(raw)


def test_a_date_with_full_stops_is_read_and_a_wrong_sex_is_not(tmp_path: Path) -> None:
    header = read(tmp_path, PatientBirthDate=b"1973.06.11", PatientSex=b"W")

    assert patient(header)["birth_date"] == date(1973, 6, 11)
    assert "sex" not in patient(header)
    assert header.notes == ("PatientSex: none of M, F, O",)


@pytest.mark.parametrize(
    ("attributes", "identifier", "number"),
    [
        ({}, {"value": "77-1"}, None),
        ({"IssuerOfPatientID": "HOSPITAL"}, {"value": "77-1"}, None),
        ({"IssuerOfPatientID": "1.2.643.7"}, {"value": "77-1", "system": "1.2.643.7"}, None),
        (
            {
                "IssuerOfPatientIDQualifiersSequence": [
                    item(UniversalEntityID="1.2.643.9", UniversalEntityIDType="ISO")
                ],
                "IssuerOfPatientID": "HOSPITAL",
            },
            {"value": "77-1", "system": "1.2.643.9"},
            None,
        ),
        (
            {"OtherPatientIDsSequence": [item(PatientID="112-233-445 95", IssuerOfPatientID="1.2.643.100.3")]},
            {"value": "77-1"},
            "11223344595",
        ),
        (
            {"OtherPatientIDsSequence": [item(PatientID="5", IssuerOfPatientID="X"), item(PatientID="7")]},
            {"value": "77-1"},
            None,
        ),
        (
            {"OtherPatientIDsSequence": [item(PatientID="11223344596", IssuerOfPatientID="СНИЛС")]},
            {"value": "77-1"},
            "11223344596",
        ),
        (
            {"PatientID": "11223344595", "IssuerOfPatientID": "1.2.643.100.3"},
            {"value": "11223344595", "system": "1.2.643.100.3"},
            "11223344595",
        ),
        ({"PatientID": "11223344595"}, {"value": "11223344595"}, None),
    ],
    ids=["plain", "local", "OID", "qualifier", "SNILS", "other numbers", "wrong SNILS", "SNILS as ID", "undeclared"],
)
def test_numbers_are_what_their_issuer_says(
    tmp_path: Path, attributes: dict[str, object], identifier: dict[str, str], number: str | None
) -> None:
    header = read(tmp_path, **attributes)

    assert patient(header)["identifier"] == identifier
    assert patient(header).get("snils") == number


@pytest.mark.parametrize(
    ("attributes", "order"),
    [
        ({"AccessionNumber": b""}, None),
        (
            {"PlacerOrderNumberImagingServiceRequest": "P1"},
            {"accession_number": "A26030201", "placer": {"value": "P1"}},
        ),
        (
            {
                "AccessionNumber": b"",
                "RequestAttributesSequence": [
                    item(AccessionNumber="R7", FillerOrderNumberImagingServiceRequest="F1"),
                    item(AccessionNumber="R7"),
                ],
            },
            {"accession_number": "R7", "filler": {"value": "F1"}},
        ),
        ({"AccessionNumber": b"", "RequestAttributesSequence": [item(AccessionNumber=n) for n in ("1", "2")]}, None),
    ],
    ids=["none", "placer", "one request", "two requests"],
)
def test_order_numbers(tmp_path: Path, attributes: dict[str, object], order: dict[str, object] | None) -> None:
    assert read(tmp_path, **attributes).known.get("order") == order


@pytest.mark.parametrize(
    ("attributes", "zone", "moment"),
    [
        ({"TimezoneOffsetFromUTC": "+0500"}, None, datetime(2026, 3, 2, 6, 45, tzinfo=UTC)),
        ({"TimezoneOffsetFromUTC": "+0500"}, MOSCOW, datetime(2026, 3, 2, 6, 45, tzinfo=UTC)),
        ({"TimezoneOffsetFromUTC": "+0000"}, MOSCOW, datetime(2026, 3, 2, 11, 45, tzinfo=UTC)),
        ({"TimezoneOffsetFromUTC": b"+99"}, MOSCOW, datetime(2026, 3, 2, 8, 45, tzinfo=UTC)),
        ({}, timezone(timedelta(hours=7)), datetime(2026, 3, 2, 4, 45, tzinfo=UTC)),
        ({}, None, None),
        ({"StudyTime": b"", "SeriesTime": b"0930"}, MOSCOW, datetime(2026, 3, 2, 6, 30, tzinfo=UTC)),
        (
            dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), b""),
            MOSCOW,
            None,
        ),
    ],
)
def test_a_time_needs_a_date_a_time_of_day_and_a_zone(
    tmp_path: Path, attributes: dict[str, object], zone: timezone | None, moment: datetime | None
) -> None:
    header = read_header([write_header(tmp_path / "one.dcm", **attributes)], zone=zone)

    assert header.source.performed_at == moment
    assert moment is not None or any("StudyTime" in note for note in header.notes)


def _series(folder: Path, **second: object) -> list[Path]:
    shared: dict[str, object] = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}
    return [
        write_header(folder / "a.dcm", SOPInstanceUID="1.2.3.1.1", **shared),
        write_header(folder / "b.dcm", SOPInstanceUID="1.2.3.1.2", **shared),
        write_header(folder / "c.dcm", **(shared | {"SOPInstanceUID": "1.2.3.1.3"} | second)),
    ]


def test_series_are_told_apart_and_a_report_is_not_the_study_s_modality(tmp_path: Path) -> None:
    report = {"SeriesInstanceUID": "1.2.3.0", "Modality": "SR", "SOPClassUID": str(ComprehensiveSRStorage)}
    source = read_header(_series(tmp_path, **report)).source

    assert source.modality == "DX"
    assert [(one.series_uid, one.modality, len(one.images)) for one in source.series] == [
        ("1.2.3.0", "SR", 1),
        ("1.2.3.1", "DX", 2),
    ]


@pytest.mark.parametrize(
    ("second", "contradictions"),
    [
        ({"PatientName": "Иванов^Иван^Иванович".encode()}, ()),
        ({"PatientName": b"IVANOV^IVAN"}, ()),
        ({"PatientName": b"", "PatientID": b"", "PatientBirthDate": b"", "PatientSex": b""}, ()),
        ({"IssuerOfPatientID": "1.2.643.7"}, ()),
        ({"PatientName": "Петров^Иван".encode()}, ("patient.name",)),
        ({"PatientID": b"78"}, ("patient.identifier",)),
        ({"PatientBirthDate": b"19731106"}, ("patient.birth_date",)),
        ({"PatientSex": b"F", "AccessionNumber": b"A2"}, ("patient.sex", "order.accession_number")),
    ],
)
def test_files_of_one_study_that_contradict_each_other_are_reported(
    tmp_path: Path, second: dict[str, object], contradictions: tuple[str, ...]
) -> None:
    files = _series(tmp_path, **second)
    header = read_header(files, zone=MOSCOW)

    assert header.contradictions == contradictions
    assert patient(header)["name"] == {"family": "Иванов", "given": "Иван", "patronymic": "Иванович"}
    assert read_header(files[::-1], zone=MOSCOW) == header


def test_files_of_two_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeaderUnreadable, match="3 files are of 2 studies"):
        read_header(_series(tmp_path, StudyInstanceUID="1.2.4"))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "DICM"), (png(), "DICM"), (b"\0" * 128 + b"DICM" + b"\2\0\x10\0UI", "file 1 of 1")],
    ids=["empty", "PNG", "cut off"],
)
def test_what_is_no_dicom_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "Иванов.dcm"
    path.write_bytes(content)

    with pytest.raises(HeaderUnreadable, match=said) as raised:
        read_header([path])
    assert "Иванов" not in str(raised.value)


def test_no_file_a_file_that_is_gone_and_one_without_uids(tmp_path: Path) -> None:
    with pytest.raises(HeaderUnreadable, match="no file"):
        read_header([])
    with pytest.raises(FileNotFoundError):
        read_header([tmp_path / "gone.dcm"])
    with pytest.raises(HeaderUnreadable, match="no usable StudyInstanceUID"):
        read(tmp_path, StudyInstanceUID=b"")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=st.dictionaries(
        st.sampled_from(WRITTEN.split()),
        st.binary(max_size=40),
    )
)
def test_any_bytes_are_read_without_a_warning_and_never_repeated(tmp_path: Path, raw: dict[str, bytes]) -> None:
    path = write_header(tmp_path / "one.dcm", **raw)
    with warnings.catch_warnings(record=True) as told:
        try:
            said = list(read_header([path], zone=UTC).notes)
        except HeaderUnreadable as error:  # a name of a character set that no codec can have ends the parsing
            assert "SpecificCharacterSet" in raw
            said = [str(error)]

    assert not told
    for name, value in raw.items():
        text = value.decode("latin_1").strip()
        assert len(text) < 4 or all(text not in one for one in said), name
