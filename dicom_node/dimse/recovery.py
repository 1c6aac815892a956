"""Reads back a stored file that has no row in the ledger: placed by an acceptor that ended before it could record.

Used by the scan at start (`Store.scan`), before any acceptor runs. The file says what the acceptor knew, the address
of the sender excepted.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

import structlog

from dicom_node.dimse.header_sniff import HeaderSniffer
from dicom_node.store import Store
from dicom_node.study import NewInstance, Recorded, RecordedKind
from inference.findings import SeriesUid, SopUid, StudyUid

log = structlog.get_logger(__name__)

_PREAMBLE = 128
_GROUP_LENGTH = struct.Struct("<HH2sHL")
_MAX_META_BYTES = 64 * 1024
_CHUNK_BYTES = 1024**2
_TRANSFER_SYNTAX, _SOURCE_AE, _RECEIVING_AE = 0x0010, 0x0016, 0x0018


def reindexer(store: Store, record: Callable[[NewInstance], Recorded]) -> Callable[[str], bool]:
    """The callback for `Store.scan`: reads a file and records it; a duplicate is removed as on reception."""
    return partial(_reindex, store, record)


def read_stored(path: Path, relative_path: str) -> NewInstance | None:
    """What the file at `path` is, or None when it is not one that an acceptor placed whole."""
    with path.open("rb") as file:
        meta = _read_meta(file)
        if meta is None or not meta.get(_TRANSFER_SYNTAX):
            return None
        sniffer = HeaderSniffer(meta[_TRANSFER_SYNTAX])
        digest = hashlib.sha256()
        size_bytes = 0
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            sniffer.feed(chunk)
            size_bytes += len(chunk)
        received_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    identity = sniffer.identity()
    if identity is None:
        return None
    return NewInstance(
        sop_instance_uid=SopUid(identity.sop_instance_uid),
        sop_class_uid=identity.sop_class_uid,
        series_uid=SeriesUid(identity.series_uid),
        study_uid=StudyUid(identity.study_uid),
        transfer_syntax_uid=meta[_TRANSFER_SYNTAX],
        sha256=digest.hexdigest(),
        size_bytes=size_bytes,
        relative_path=relative_path,
        calling_ae=meta.get(_SOURCE_AE, ""),
        called_ae=meta.get(_RECEIVING_AE, ""),
        peer_address="",
        received_at=received_at,
    )


def _reindex(store: Store, record: Callable[[NewInstance], Recorded], relative_path: str) -> bool:
    instance = read_stored(store.path(relative_path), relative_path)
    if instance is None:
        log.error("a stored file without a row cannot be read", path=relative_path)
        return False
    if record(instance).kind is RecordedKind.DUPLICATE:
        store.remove(relative_path)
    log.warning("a stored file without a row was taken up", path=relative_path)
    return True


def _read_meta(file: BinaryIO) -> dict[int, str] | None:
    """The text elements of group 0002, as `dimse.command.file_meta` writes them."""
    head = file.read(_PREAMBLE + len(b"DICM") + _GROUP_LENGTH.size)
    if len(head) < _PREAMBLE + len(b"DICM") + _GROUP_LENGTH.size or head[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        return None
    group, element, vr, _, length = _GROUP_LENGTH.unpack(head[_PREAMBLE + 4 :])
    if (group, element, vr) != (2, 0, b"UL") or length > _MAX_META_BYTES:
        return None
    return _meta_elements(file.read(length))


def _meta_elements(data: bytes) -> dict[int, str] | None:
    values: dict[int, str] = {}
    position = 0
    while position + 8 <= len(data):
        _, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        position += 8
        if vr == b"OB":
            if position + 4 > len(data):
                return None
            (length,) = struct.unpack_from("<L", data, position)
            position += 4
        value = data[position : position + length]
        position += length
        values[element] = value.decode("ascii", "replace").strip("\0 ")
    return values
