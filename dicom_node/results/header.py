"""Patient and study attributes of a result, taken from a source file so that the archive keeps them together.

Used by every writer. A result must never split a patient: what an archive decodes as PatientName and PatientID from
the source and from the result has to be equal, whatever the sender did to character sets. Image attributes beyond
patient and study are read by `inference.loading`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element, write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from inference.loading.reading import refusing
from inference.refusals import Reason, Refused

# The node's own identity in the file meta information (PS3.7 D.3.3.2); random once, constant ever after.

UTF_8: Final = "ISO_IR 192"
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_CHARACTER_SET: Final = Tag(0x0008, 0x0005)
# fmt: off
# Patient, General Study and Patient Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2): an archive may take these from any
# object of a study, so every result says what the source says, also that a value is empty.
_REPEATED: Final = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
    "StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "RequestingService", "PatientName",
    "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex", "OtherPatientIDs",
    "OtherPatientNames", "EthnicGroup", "PatientComments", "PatientSpeciesDescription", "PatientBreedDescription",
    "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization", "QualityControlSubject",
    "PatientIdentityRemoved", "DeidentificationMethod", "AdmittingDiagnosesDescription", "PatientAge",
    "PatientSize", "PatientWeight", "Occupation", "AdditionalPatientHistory", "MedicalAlerts", "Allergies",
    "SmokingStatus", "LastMenstrualDate", "PatientState", "PatientSexNeutered", "AdmissionID", "ServiceEpisodeID",
    "ServiceEpisodeDescription", "LongitudinalTemporalInformationModified", "TimezoneOffsetFromUTC",
)
_REPEATED_SEQUENCES: Final = (
    "ProcedureCodeSequence", "OtherPatientIDsSequence", "IssuerOfPatientIDQualifiersSequence",
    "IssuerOfAccessionNumberSequence", "DeidentificationMethodCodeSequence", "PatientSpeciesCodeSequence",
    "PatientBreedCodeSequence", "AdmittingDiagnosesCodeSequence",
)
# fmt: on
_TEXT_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_TYPE_2: Final = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
)
_DATE: Final = re.compile(r"(?:1[5-9]|2\d)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_TIME: Final = re.compile(r"(?:[01]\d|2[0-3])(?:[0-5]\d(?:[0-5]\d(?:\.\d{1,6})?)?)?")
_FORMS: Final = {
    "DA": _DATE,
    "TM": _TIME,
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9_ ]{1,16}"),
    "UI": re.compile(r"[0-9.]{1,64}"),
    "DS": re.compile(r"[+]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"),
    "PatientSex": re.compile(r"[MFO]"),
    "PatientIdentityRemoved": re.compile(r"YES|NO"),
    "TimezoneOffsetFromUTC": re.compile(r"[+-](?:0\d|1[0-4])[0-5]\d"),
}
# Single-byte sets of PS3.3 C.12.1.1.2 and the Python codec that reads them.
_SINGLE_BYTE: Final = {
    "ISO_IR 100": "iso8859_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 203": "iso8859_15",
    "ISO_IR 166": "iso8859_11",
    "ISO_IR 13": "shift_jis",
}
_ASCII_LIMIT: Final = 0x80
_ESCAPE: Final = 0x1B
_DELIMITERS: Final = set(b"\\^=")  # after each of them the first character set applies again (PS3.5 6.1.2.5.3)
_LATIN_LETTERS: Final = 0xC0  # first accented letter of ISO 8859-1; in CP1251 every Cyrillic letter but two lies here
_YO: Final = b"\xa8\xb8"  # these two, Ё and ё; in ISO 8859-1 they are no letters


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceHeader:
    """The header of one source image and the part of it that every result repeats.

    Attributes
    ----------
    dataset : pydicom.Dataset
        The source, without pixel data. Read-only by agreement.
    ascii_only : bool
        The source's declared character set is wrong or missing: its bytes are repeated as they are, and words of our
        own have to stay within ASCII.
    """

    dataset: Dataset
    repeated: tuple[RawDataElement, ...]
    sequences: tuple[DataElement, ...]
    ascii_only: bool
    utc_offset: timedelta | None

    def text(self, keyword: str) -> str:
        """A coded or numeric attribute of the source as plain text, ``""`` when absent."""
        value = self.dataset.get(keyword)
        return "" if value is None else str(value).strip()

    def local_time(self, moment: datetime) -> datetime:
        """`moment` on the clock that the source declares, else as it was given."""
        return moment if self.utc_offset is None else moment.astimezone(timezone(self.utc_offset))

    def apply(self, result: Dataset) -> None:
        """Write the repeated attributes into `result`, replacing what is there."""
        for element in self.repeated:
            result[element.tag] = element
        for sequence in self.sequences:
            result[sequence.tag] = sequence


def read_source_header(path: Path) -> SourceHeader:
    """Read one source file without its pixels.

    Raises
    ------
    Refused
        When the file is not DICOM or lacks the UIDs by which an archive could file a result.
    OSError
        When the disk fails.
    """
    with refusing(Reason.UNREADABLE):
        dataset = dcmread(path, stop_before_pixels=True)
        missing = [keyword for keyword in _UIDS if not raw_bytes(dataset, keyword).strip(b"\0 ")]
        if missing:
            raise Refused(Reason.UNREADABLE, f"missing {', '.join(missing)}")
        return _header_of(dataset)


def _header_of(dataset: Dataset) -> SourceHeader:
    declared = declared_sets(dataset)
    present = [keyword for keyword in _REPEATED if keyword in dataset]
    texts = [keyword for keyword in present if _is_text(keyword)]
    trusted = all(is_trustworthy(raw_bytes(dataset, keyword), declared) for keyword in texts)
    elements = {Tag(keyword): _raw_element(keyword, b"") for keyword in _TYPE_2}
    for keyword in present:
        raw = raw_bytes(dataset, keyword)
        if not _is_text(keyword):
            raw = _well_formed(keyword, raw)
        elif trusted:
            raw = to_utf_8(raw, declared)
        elements[Tag(keyword)] = _raw_element(keyword, raw)
    if "PregnancyStatus" in dataset:
        # the one binary number of these modules: the source's byte order may differ
        value = dataset.PregnancyStatus
        raw = value.to_bytes(2, "little") if isinstance(value, int) else b""
        elements[Tag("PregnancyStatus")] = _raw_element("PregnancyStatus", raw)
    if trusted:
        elements[_CHARACTER_SET] = _raw_element("SpecificCharacterSet", UTF_8.encode())
    elif _CHARACTER_SET in dataset:
        elements[_CHARACTER_SET] = _raw_element("SpecificCharacterSet", raw_bytes(dataset, "SpecificCharacterSet"))
    return SourceHeader(
        dataset=dataset,
        repeated=tuple(elements.values()),
        sequences=_sequences(dataset) if trusted else (),
        ascii_only=not trusted,
        utc_offset=_utc_offset(elements.get(Tag("TimezoneOffsetFromUTC"))),
    )


def _is_text(keyword: str) -> bool:
    """Whether the attribute's bytes depend on the character set."""
    return dictionary_VR(Tag(keyword)) in _TEXT_VRS


def _well_formed(keyword: str, raw: bytes) -> bytes:
    """The value if it keeps the form of its representation, else nothing: a date of zeros is no date."""
    form = _FORMS.get(keyword) or _FORMS[dictionary_VR(Tag(keyword))]
    text = raw.decode("ascii", "replace").strip("\0 ")
    return text.encode() if form.fullmatch(text) else b""


def _sequences(dataset: Dataset) -> tuple[DataElement, ...]:
    found = (dataset[keyword] for keyword in _REPEATED_SEQUENCES if keyword in dataset)
    return tuple(element for element in found if element.value)


def raw_bytes(dataset: Dataset, keyword: str) -> bytes:
    """The stored bytes of an attribute, before any library has interpreted them."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    if tag not in dataset:
        return b""
    element: DataElement | RawDataElement = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        return element.value or b""
    # pydicom has parsed it already, as it does for the character set: these are ASCII by definition
    value = element.value
    values = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return "\\".join("" if item is None else str(item) for item in values).encode("ascii", "replace")


def _raw_element(keyword: str, value: bytes) -> RawDataElement:
    tag = Tag(keyword)
    representation = dictionary_VR(tag)
    if len(value) % 2:
        value += b"\0" if representation == "UI" else b" "
    return RawDataElement(tag, representation, len(value), value, 0, False, True)


def declared_sets(dataset: Dataset) -> tuple[str, ...]:
    """The values of Specific Character Set (0008,0005), none where it says nothing."""
    text = raw_bytes(dataset, "SpecificCharacterSet").decode("ascii", "replace")
    return tuple(part.strip("\0 ") for part in text.split("\\")) if text.strip("\0 ") else ()


def is_trustworthy(raw: bytes, declared: tuple[str, ...]) -> bool:
    """Whether `raw` certainly means what its declared character set says.

    False for bytes that a sender wrote in another set than it declares: such bytes are repeated untouched, because an
    archive set up for that sender reads them in its own way, and any conversion here would change what it reads.
    """
    if all(byte < _ASCII_LIMIT for byte in raw):
        return True
    if not declared:
        return False
    if len(declared) > 1:
        return _ESCAPE in raw  # code extensions with escapes are well defined, high bytes without them are not
    return _decodes_in(raw, declared[0])


def _decodes_in(raw: bytes, declared: str) -> bool:
    codec = _SINGLE_BYTE.get(declared, {UTF_8: "utf_8", "GB18030": "gb18030", "GBK": "gbk"}.get(declared))
    if codec is None:
        return False
    try:
        raw.decode(codec)
    except UnicodeDecodeError:
        return False
    if declared not in _SINGLE_BYTE or declared == "ISO_IR 13":
        return True
    if any(_ASCII_LIMIT <= byte < _ASCII_LIMIT + 0x20 for byte in raw) or _is_utf_8(raw):
        return False
    return declared != "ISO_IR 100" or not _looks_cyrillic(raw)


def _is_utf_8(raw: bytes) -> bool:
    try:
        raw.decode("utf_8")
    except UnicodeDecodeError:
        return False
    return True


def _looks_cyrillic(raw: bytes) -> bool:
    """Whether some word consists of nothing but accented letters: no Western name does, every CP1251 name does."""
    words = (word.translate(None, _YO) for word in re.split(rb"[\x00-\x40\\^=_`-]+", raw))
    return any(min(word) >= _LATIN_LETTERS for word in words if word)


def to_utf_8(raw: bytes, declared: tuple[str, ...]) -> bytes:
    """Text in the character sets that it certainly is in (`is_trustworthy`), in UTF-8 without padding."""
    raw = raw.rstrip(b"\0 ")
    if all(byte < _ASCII_LIMIT and byte != _ESCAPE for byte in raw):
        return raw
    encodings = convert_encodings(list(declared))
    return str(decode_bytes(raw, encodings, _DELIMITERS)).encode()


def _utc_offset(element: RawDataElement | None) -> timedelta | None:
    if element is None or not element.value:
        return None
    text = element.value.decode("ascii")
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[3:5]))
    return -offset if text[0] == "-" else offset


def without_patient(source: SourceHeader) -> Dataset:
    """A copy of the source's header for libraries that stumble over real patients: type 2 attributes made up or empty.

    Only for objects over which `SourceHeader.apply` writes the true values afterwards.
    """
    copy = Dataset(source.dataset)
    references = ("ReferencedStudySequence", "ReferencedPatientSequence", "PregnancyStatus")
    for keyword in (*_REPEATED, *_REPEATED_SEQUENCES, *references):
        if keyword in copy:
            delattr(copy, keyword)
    for keyword in _TYPE_2:
        setattr(copy, keyword, None)
    copy.SpecificCharacterSet, copy.PatientName, copy.PatientID = UTF_8, "X^", "X"
    copy.StudyInstanceUID = source.text("StudyInstanceUID")
    return copy


def part_10(dataset: Dataset) -> bytes:
    """A whole part-10 file (PS3.10 7.1) with the node's own file meta information, Explicit VR Little Endian.

    Repeated elements are written byte for byte. Everything else is written in UTF-8, which for a source whose character
    set is wrong is plain ASCII.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    output = DicomBytesIO()
    output.is_implicit_VR, output.is_little_endian = False, True
    output.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(output, meta, enforce_standard=True)
    # dcmwrite would parse the repeated elements again and so damage those that do not follow their character set
    dataset = correct_ambiguous_vr(dataset, True)
    for tag in sorted(dataset.keys()):
        write_data_element(output, dataset.get_item(tag), UTF_8)
    return output.getvalue()
