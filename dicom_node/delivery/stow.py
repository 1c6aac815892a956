"""What travels in STOW-RS and QIDO-RS, without the travelling: multipart bodies out, DICOM JSON and XML in.

Used by `delivery.dicomweb` alone. Answers come from outside and may be anything: every reader here gives values or
raises `ValueError`, on any bytes.
"""

from __future__ import annotations

import json
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dicom_node.delivery.archive import OutboundObject, SendOutcome, Sent
from dicom_node.delivery.statuses import judge_status
from inference.findings import SopUid

CHUNK_BYTES: Final = 64 * 1024
MAX_DIGITS: Final = 9

STUDY_UID: Final = "0020000D"
SOP_UID: Final = "00080018"
NUMBER_OF_STUDY_RELATED_INSTANCES: Final = "00201208"
REFERENCED_SOP_SEQUENCE: Final = "00081199"
FAILED_SOP_SEQUENCE: Final = "00081198"
REFERENCED_SOP_UID: Final = "00081155"
WARNING_REASON: Final = "00081196"
FAILURE_REASON: Final = "00081197"

# One data set as its attributes: tag in eight upper-case digits, values as text, numbers or further data sets.
Attributes = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class MultipartFiles:
    """A ``multipart/related`` body of part-10 files, streamed from disk (PS3.18 section 8.6.1.2)."""

    paths: tuple[Path, ...]
    sizes_bytes: tuple[int, ...]
    boundary: str

    @property
    def content_type(self) -> str:
        """Value of the header of that name."""
        return f'multipart/related; type="application/dicom"; boundary={self.boundary}'

    @property
    def length_bytes(self) -> int:
        """Exact length, so that no archive has to understand chunked transfer."""
        return len(self.paths) * len(self._opening()) + sum(self.sizes_bytes) + len(self._closing())

    def _opening(self) -> bytes:
        return f"\r\n--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()

    def _closing(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()

    def __iter__(self) -> Iterator[bytes]:
        for path in self.paths:
            yield self._opening()
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        yield self._closing()


def multipart(objects: Sequence[OutboundObject]) -> MultipartFiles:
    """Describe the body for `objects`; raises OSError when a file is not there."""
    paths = tuple(item.path for item in objects)
    sizes = tuple(path.stat().st_size for path in paths)
    return MultipartFiles(paths=paths, sizes_bytes=sizes, boundary=uuid.uuid4().hex)


def read_json(body: bytes) -> list[Attributes]:
    """Read DICOM JSON (PS3.18 annex F): one data set or an array of them.

    Raises
    ------
    ValueError
        When it is anything else.
    """
    try:
        content = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    found = content if isinstance(content, list) else [content]
    return [_attributes_of_json(item) for item in found]


def _attributes_of_json(item: object) -> Attributes:
    if not isinstance(item, dict):
        raise ValueError("not a data set")
    attributes: dict[str, Sequence[Any]] = {}
    for tag, element in item.items():
        values = element.get("Value", []) if isinstance(element, dict) else []
        attributes[str(tag).upper()] = values if isinstance(values, list) else []
    return attributes


def read_xml(body: bytes) -> list[Attributes]:
    """Read one data set of the Native DICOM Model (PS3.19 annex A.1), its sequences one level deep.

    Raises
    ------
    ValueError
        When it is anything else, or brings a document type of its own: entities are not expanded.
    """
    if b"<!DOCTYPE" in body or b"\0" in body:
        raise ValueError("XML with a document type, or not in UTF-8")
    try:
        root = ET.fromstring(body)
    except ET.ParseError as error:
        raise ValueError(str(error)) from None
    if not root.tag.endswith("NativeDicomModel"):
        raise ValueError("not a Native DICOM Model")
    return [_attributes_of_xml(root, sequences=True)]


def _attributes_of_xml(parent: ET.Element, *, sequences: bool) -> Attributes:
    found: dict[str, Sequence[Any]] = {}
    for element in parent.iterfind("{*}DicomAttribute"):
        values: list[Any] = [value.text or "" for value in element.iterfind("{*}Value")]
        if sequences:
            items = element.iterfind("{*}Item")
            # As in JSON, where an item of a sequence is a data set of elements with values.
            values += [
                {tag: {"Value": held} for tag, held in _attributes_of_xml(item, sequences=False).items()}
                for item in items
            ]
        found[element.get("tag", "").upper()] = values
    return found


def first(attributes: Attributes, tag: str) -> str | None:
    """Give the first value of an attribute as text; None when there is none."""
    values = attributes.get(tag) or [None]
    return None if values[0] is None or isinstance(values[0], dict | list) else str(values[0]).strip()


def number(attributes: Attributes, tag: str) -> int | None:
    """Give the first value of an attribute as a whole number; None when there is none or it is not one."""
    text = first(attributes, tag)
    plain = text is not None and text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    return int(text) if text is not None and plain else None


def store_outcomes(answer: Attributes, objects: Sequence[OutboundObject]) -> dict[SopUid, SendOutcome]:
    """Read a Store Instances Response (PS3.18 table 10.5.3-1): the outcomes of those `objects` that it mentions.

    Raises
    ------
    ValueError
        When the answer lists neither what was stored nor what failed, and so is none.
    """
    if REFERENCED_SOP_SEQUENCE not in answer and FAILED_SOP_SEQUENCE not in answer:
        raise ValueError("no list of instances")
    stored = _listed(answer, REFERENCED_SOP_SEQUENCE)
    failed = _listed(answer, FAILED_SOP_SEQUENCE)
    found = (_store_outcome(item.sop_instance_uid, stored, failed) for item in objects)
    return {outcome.sop_instance_uid: outcome for outcome in found if outcome is not None}


def _listed(answer: Attributes, sequence: str) -> dict[str, Attributes]:
    items = (_attributes_of_json(item) for item in answer.get(sequence, ()) if isinstance(item, dict))
    return {uid: item for item in items if (uid := first(item, REFERENCED_SOP_UID))}


def _store_outcome(
    uid: SopUid, stored: Mapping[str, Attributes], failed: Mapping[str, Attributes]
) -> SendOutcome | None:
    if uid in failed:
        code = number(failed[uid], FAILURE_REASON)
        sent, reason = (Sent.RETRY, "the archive did not store the object and gave no reason: see its log")
        if code:
            sent, reason = judge_status(code)
        return SendOutcome(sop_instance_uid=uid, sent=sent, reason=reason)
    if uid in stored:
        warning = number(stored[uid], WARNING_REASON)
        reason = f"stored, with a warning (status {warning:04X})" if warning else ""
        return SendOutcome(sop_instance_uid=uid, sent=Sent.ACCEPTED, reason=reason)
    return None
