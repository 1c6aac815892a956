"""A small archive for the demonstration: takes C-ECHO, C-STORE and C-FIND on loopback and keeps files in a folder.

Started by `dicom_node.demo`, so that the node has somewhere to deliver to and can prove that its results arrived.
Nothing of it is meant for a hospital: no durability, no retrieval, one folder. The node's own receiver is `dimse.scp`.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from dicom_node.dimse.contexts import TRANSFER_SYNTAXES
from inference.findings import SeriesUid, SopUid, StudyUid

_SUCCESS: Final = 0x0000
_PENDING: Final = 0xFF00
_CANCELLED: Final = 0xFE00
_UNKNOWN_LEVEL: Final = 0xA900
_NO_ROOM: Final = 0xA700
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """One object of the archive."""

    study_uid: StudyUid
    series_uid: SeriesUid
    sop_class_uid: str
    sop_instance_uid: SopUid
    path: Path


class SmallArchive:
    """An archive on a free port of the loopback interface; used as a context manager.

    Parameters
    ----------
    folder : Path
        Where files are kept, named after a digest of their UID.
    ae_title : str
        Its AE title; other called titles are rejected.
    """

    def __init__(self, folder: Path, *, ae_title: str = "ARCHIVE") -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.port = 0
        self._kept: dict[SopUid, Kept] = {}
        self._lock = threading.Lock()
        self._server: Any = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        entity = AE(ae_title=self.ae_title)
        entity.require_called_aet = True
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), list(TRANSFER_SYNTAXES))
        entity.add_supported_context(Verification)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _send_at_once),
            (evt.EVT_C_ECHO, lambda _event: _SUCCESS),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
        ]
        self._server = entity.start_server((_LOOPBACK, 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

    def of_study(self, study_uid: StudyUid) -> tuple[Kept, ...]:
        """Everything kept of one study, in the order of arrival."""
        with self._lock:
            return tuple(kept for kept in self._kept.values() if kept.study_uid == study_uid)

    def _store(self, event: Any) -> int:
        data_set = event.dataset
        uid = SopUid(str(event.request.AffectedSOPInstanceUID))
        path = self.folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.dcm"
        try:
            path.write_bytes(event.encoded_dataset())
        except OSError:
            return _NO_ROOM
        with self._lock:
            self._kept[uid] = Kept(
                study_uid=StudyUid(str(data_set.StudyInstanceUID)),
                series_uid=SeriesUid(str(data_set.SeriesInstanceUID)),
                sop_class_uid=str(event.request.AffectedSOPClassUID),
                sop_instance_uid=uid,
                path=path,
            )
        return _SUCCESS

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        if query.get("QueryRetrieveLevel") != "IMAGE":
            yield _UNKNOWN_LEVEL, None
            return
        for kept in self.of_study(StudyUid(str(query.get("StudyInstanceUID", "")))):
            if event.is_cancelled:
                yield _CANCELLED, None
                return
            if _fits(query, kept):
                yield _PENDING, _match(kept)


def _fits(query: Dataset, kept: Kept) -> bool:
    series_uid = str(query.get("SeriesInstanceUID", "") or "")
    wanted = query.get("SOPInstanceUID") or ()
    uids = {str(wanted)} if isinstance(wanted, str) else {str(uid) for uid in wanted}
    return series_uid in ("", kept.series_uid) and (not uids or kept.sop_instance_uid in uids)


def _match(kept: Kept) -> Dataset:
    answer = Dataset()
    answer.QueryRetrieveLevel = "IMAGE"
    answer.StudyInstanceUID = kept.study_uid
    answer.SeriesInstanceUID = kept.series_uid
    answer.SOPInstanceUID = kept.sop_instance_uid
    answer.SOPClassUID = kept.sop_class_uid
    return answer


def _send_at_once(event: Any) -> None:
    """Without this every small answer waits for the kernel (Nagle's algorithm)."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
