"""The bounded parse before the acknowledgement, and the command sets beside it: right on real files, calm on others."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import generate_uid

from dicom_node.dimse.command import Command, CommandError, Status, file_meta, parse_command, store_response
from dicom_node.dimse.header_sniff import (
    DEFLATED,
    EXPLICIT_BIG,
    IMPLICIT_LITTLE,
    MAX_INFLATED_BYTES,
    HeaderSniffer,
    ObjectIdentity,
    clean_uid,
)
from dicom_node.implementation import IMPLEMENTATION_CLASS_UID

EXPLICIT = "1.2.840.10008.1.2.1"
SYNTAXES = (EXPLICIT, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED)
IDENTITY = ObjectIdentity(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2", sop_instance_uid="1.2.3.4", study_uid="1.2.3", series_uid="1.2.3.5"
)


def element(tag: int, vr: bytes, value: bytes, syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    order = ">" if syntax == EXPLICIT_BIG else "<"
    length = len(value) if length is None else length
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT_LITTLE or not vr:
        return head + struct.pack(f"{order}L", length) + value
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"QQ"):
        return head + vr + struct.pack(f"{order}HL", 0, length) + value
    return head + vr + struct.pack(f"{order}H", length) + value


def header(syntax: str = EXPLICIT, before: bytes = b"", between: bytes = b"") -> bytes:
    inner = EXPLICIT if syntax == DEFLATED else syntax
    data = element(0x00080005, b"CS", b"ISO_IR 192", inner) + before
    data += element(0x00080016, b"UI", IDENTITY.sop_class_uid.encode() + b"\0", inner)
    data += element(0x00080018, b"UI", IDENTITY.sop_instance_uid.encode() + b"\0", inner) + between
    data += element(0x0020000D, b"UI", IDENTITY.study_uid.encode() + b"\0", inner)
    data += element(0x0020000E, b"UI", IDENTITY.series_uid.encode() + b"\0", inner)
    data += element(0x7FE00010, b"OW", bytes(64), inner)
    if syntax == DEFLATED:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return compressor.compress(data) + compressor.flush()
    return data


def sniffed(data: bytes, syntax: str = EXPLICIT, piece: int = 1 << 30) -> HeaderSniffer:
    sniffer = HeaderSniffer(syntax)
    for start in range(0, len(data), piece):
        sniffer.feed(data[start : start + piece])
    return sniffer


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("piece", [1, 7, 1 << 30])
def test_the_identifiers_are_found_however_the_bytes_are_cut(syntax: str, piece: int) -> None:
    assert sniffed(header(syntax), syntax, piece).identity() == IDENTITY


def test_it_agrees_with_pydicom_on_every_file_pydicom_ships() -> None:
    compared = 0
    for name in sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*.dcm")):
        try:
            meta = read_file_meta_info(name)
            expected = pydicom.dcmread(name, stop_before_pixels=True)
            uids = [str(expected[tag].value) for tag in (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)]
            offset = 144 + meta.FileMetaInformationGroupLength
            syntax = str(meta.TransferSyntaxUID)
        except Exception:  # noqa: BLE001 - broken on purpose; what we say of those is tested below
            continue
        found = sniffed(name.read_bytes()[offset:], syntax, 16384).identity()
        assert found is not None, name
        assert [found.sop_class_uid, found.sop_instance_uid, found.study_uid, found.series_uid] == uids, name
        compared += 1
    assert compared > 60


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT_LITTLE, EXPLICIT_BIG])
def test_sequences_of_every_kind_are_passed_over(syntax: str) -> None:
    undefined = 0xFFFFFFFF
    decoy = element(0x0020000D, b"UI", b"9.9.9.", syntax)
    end_item = element(0xFFFEE00D, b"", b"", syntax)
    end_sequence = element(0xFFFEE0DD, b"", b"", syntax)
    item_open = element(0xFFFEE000, b"", decoy + end_item, syntax, undefined)
    item_known = element(0xFFFEE000, b"", decoy, syntax)
    inner = element(0x00081140, b"SQ", item_open + item_known + end_sequence, syntax, undefined)
    nested = element(0xFFFEE000, b"", inner + decoy + end_item, syntax, undefined)
    between = element(0x00081110, b"SQ", nested + end_sequence, syntax, undefined)
    between += element(0x00081115, b"SQ", item_known, syntax)
    unknown = element(0x0020000D, b"UI", b"9.9.9.", IMPLICIT_LITTLE)
    if syntax == EXPLICIT:  # PS3.5 6.2.2: a UN of undefined length is implicit inside
        in_un = element(0xFFFEE000, b"", unknown + end_item, syntax, undefined)
        between += element(0x00091001, b"UN", in_un + end_sequence, syntax, undefined)
    assert sniffed(header(syntax, between=between), syntax, 5).identity() == IDENTITY


def test_a_large_private_value_before_the_identifiers_is_skipped_without_being_kept() -> None:
    sniffer = HeaderSniffer(EXPLICIT)
    data = header(between=element(0x00091010, b"OB", b"", length=200 * 1024**2))
    cut = data.index(struct.pack("<L", 200 * 1024**2)) + 4
    sniffer.feed(data[:cut])
    for _ in range(200):
        sniffer.feed(bytes(1024**2))
        assert len(sniffer._pending) < 100
    sniffer.feed(data[cut:])
    assert sniffer.identity() == IDENTITY


def test_a_value_representation_of_the_future_has_a_long_length() -> None:
    assert sniffed(header(before=element(0x00080015, b"QQ", b"abcd"))).identity() == IDENTITY


def test_the_first_of_two_equal_tags_counts() -> None:
    again = element(0x00080018, b"UI", b"9.9.9\0")
    assert sniffed(header(between=again)).identity() == IDENTITY


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "missing 0008,0016"),
        (header()[:60], "missing"),
        (b"\x00" * 128 + b"DICM", "not in the encoding"),
        (element(0x00080016, b"UI", b"1" * 70), "too long"),
        (element(0x00080016, b"UI", b""), "empty or unreadable"),
        (element(0x00080016, b"UI", b"1.2\x0a3\0"), "empty or unreadable"),
        (element(0x00080016, b"UI", "1.2.я".encode()), "empty or unreadable"),
        (element(0xFFFEE00D, b"", b""), "delimiter"),
        (element(0x00100010, b"PN", b"A^B "), "missing"),
    ],
)
def test_what_cannot_be_read_has_its_reason(data: bytes, words: str) -> None:
    sniffer = sniffed(data)
    assert sniffer.identity() is None
    assert words in sniffer.missing()


def test_a_length_of_two_gigabytes_is_not_followed() -> None:
    sniffer = sniffed(header(before=element(0x00080008, b"OB", b"abc", length=2**31)))
    assert sniffer.identity() is None and not sniffer.done


def test_nesting_without_end_is_given_up() -> None:
    deep = element(0x00081110, b"SQ", b"", length=0xFFFFFFFF) + element(0xFFFEE000, b"", b"", length=0xFFFFFFFF)
    sniffer = sniffed(deep * 2000)
    assert sniffer.done and "nested" in sniffer.missing()


def test_elements_without_end_are_given_up() -> None:
    sniffer = HeaderSniffer(EXPLICIT)
    empty = element(0x00080006, b"CS", b"") * 10_000
    for _ in range(20):
        sniffer.feed(empty)
    assert sniffer.done and sniffer.identity() is None


def test_a_deflate_bomb_is_inflated_no_further_than_needed() -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = compressor.compress(element(0x00080008, b"OB", b"", length=2**31))
    bomb += b"".join(compressor.compress(bytes(1024**2)) for _ in range(300)) + compressor.flush()
    assert len(bomb) < 1024**2
    sniffer = sniffed(bomb, DEFLATED, 16384)
    assert sniffer.done and sniffer.identity() is None
    assert sniffer._inflated <= MAX_INFLATED_BYTES + 64 * 1024


def test_bytes_that_are_not_deflated_are_unreadable() -> None:
    sniffer = sniffed(b"\xff" * 100, DEFLATED)
    assert sniffer.done and "inflated" in sniffer.missing()


@settings(max_examples=300, deadline=None)
@given(
    syntax=st.sampled_from(SYNTAXES),
    at=st.integers(0, 400),
    noise=st.binary(max_size=30),
    drop=st.integers(0, 30),
    piece=st.integers(1, 100),
)
def test_mutated_headers_never_raise_and_never_invent_identifiers(
    syntax: str, at: int, noise: bytes, drop: int, piece: int
) -> None:
    data = header(syntax)
    at %= len(data)
    sniffer = sniffed(data[:at] + noise + data[at + drop :], syntax, piece)
    identity = sniffer.identity()
    if identity is not None:
        assert all(
            0 < len(uid) <= 64 and uid.isprintable() and uid.isascii()
            for uid in (identity.sop_class_uid, identity.sop_instance_uid, identity.study_uid, identity.series_uid)
        )


@settings(max_examples=300, deadline=None)
@given(syntax=st.sampled_from(SYNTAXES), pieces=st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_are_taken_calmly(syntax: str, pieces: list[bytes]) -> None:
    sniffer = HeaderSniffer(syntax)
    for piece in pieces:
        sniffer.feed(piece)
    assert sniffer.identity() is None or sniffer.done
    assert sniffer.missing() or sniffer.identity()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cutting_the_bytes_elsewhere_changes_nothing(data: st.DataObject) -> None:
    # Not for deflated data: zlib gives nothing of a piece that has an error in it, whatever came before the error.
    syntax = data.draw(st.sampled_from([EXPLICIT, IMPLICIT_LITTLE, EXPLICIT_BIG]))
    whole = header(syntax)
    noise = data.draw(st.binary(max_size=8))
    at = data.draw(st.integers(0, len(whole)))
    mutated = whole[:at] + noise + whole[at:]
    piece = data.draw(st.integers(1, 50))
    assert sniffed(mutated, syntax).identity() == sniffed(mutated, syntax, piece).identity()


@pytest.mark.parametrize(
    ("raw", "clean"),
    [(b"1.2\0", "1.2"), (b" 1.2 ", "1.2"), (b"../..", "../.."), (b"", None), (b"\0\0", None), (b"1\x002", None),
     (b"1" * 64, "1" * 64), (b"1" * 65, None), (b"\xd1\x8f", None)],
)  # fmt: skip
def test_a_uid_is_printable_ascii_or_nothing(raw: bytes, clean: str | None) -> None:
    assert clean_uid(raw) == clean


def test_a_response_reads_back_in_pynetdicom_with_its_group_length() -> None:
    from io import BytesIO

    from pynetdicom.dsutils import decode

    command = Command(
        field=1, message_id=77, sop_class_uid=b"1.2.840.10008.5.1.4.1.1.2\0", sop_instance_uid=b"1.2.3\0",
        has_data_set=True,
    )  # fmt: skip
    raw = store_response(command, Status.OUT_OF_RESOURCES, "диск" + "x" * 100)
    read = decode(BytesIO(raw), True, True)
    assert read.CommandGroupLength == len(raw) - 12
    assert (read.CommandField, read.MessageIDBeingRespondedTo, read.Status) == (0x8001, 77, 0xA700)
    assert read.AffectedSOPInstanceUID == "1.2.3" and read.CommandDataSetType == 0x0101
    assert len(read.ErrorComment) <= 64


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_command_bytes_are_a_command_or_a_command_error(data: bytes) -> None:
    with contextlib.suppress(CommandError):
        parse_command(data)


def test_the_file_meta_information_reads_back_and_the_preamble_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    uid = generate_uid()
    path.write_bytes(
        file_meta(
            sop_class_uid=IDENTITY.sop_class_uid,
            sop_instance_uid=uid,
            transfer_syntax_uid=EXPLICIT,
            calling_ae="CT1",
            called_ae="RADNODE",
        )
        + header()
    )
    read = pydicom.dcmread(path)
    assert isinstance(read, Dataset)
    assert read.preamble == bytes(128)
    assert read.file_meta.MediaStorageSOPInstanceUID == uid
    assert read.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert read.file_meta.SourceApplicationEntityTitle == "CT1"
    assert read.StudyInstanceUID == IDENTITY.study_uid
