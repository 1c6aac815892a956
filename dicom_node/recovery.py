"""At start: a durable file without a row is entered into the ledger as if it had just been received.

Called through `Store.scan` by `node`. Such a file was stored when the node died before its row was committed; its
sender was not told success and may send it again, which then is a duplicate.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from dicom_node.ledger import events, instances
from dicom_node.pipeline import Pipeline
from dicom_node.states import Stage
from dicom_node.study import NewInstance, RecordedKind
from inference.findings import SeriesUid, SopUid, StudyUid
from inference.images import LoadLimits
from inference.loading import attributes as read
from inference.loading.reading import read_data_set
from inference.refusals import Refused

UNKNOWN_SENDER = "RECOVERED"
_META_LENGTH_END = 128 + 4 + 12  # preamble, prefix, File Meta Information Group Length (PS3.10 7.1)
_CHUNK = 1 << 20


def reindex_file(pipeline: Pipeline, relative_path: str) -> bool:
    """Record the file; False when it cannot be understood (it stays where it is and is reported)."""
    path = pipeline.store.path(relative_path)
    try:
        data_set, syntax = read_data_set(path, limits=LoadLimits(), pixels=False)
        sha256, size_bytes = _data_set_digest(path)
        new = NewInstance(
            sop_instance_uid=SopUid(read.uid(data_set, "SOPInstanceUID")),
            sop_class_uid=read.uid(data_set, "SOPClassUID"),
            series_uid=SeriesUid(read.uid(data_set, "SeriesInstanceUID")),
            study_uid=StudyUid(read.uid(data_set, "StudyInstanceUID")),
            transfer_syntax_uid=syntax,
            sha256=sha256,
            size_bytes=size_bytes,
            relative_path=relative_path,
            calling_ae=UNKNOWN_SENDER,
            called_ae=UNKNOWN_SENDER,
            peer_address="",
            received_at=pipeline.ledger.clock(),
        )
    except (Refused, OSError, ValueError):
        return False
    with pipeline.ledger.begin() as tx:
        recorded = instances.record(tx, new)
        if recorded.kind is not RecordedKind.DUPLICATE:
            what = "a stored file without a row was found at start and entered"
            events.add(tx, new.study_uid, at=new.received_at, stage=Stage.RECEIVE, what=what)
    if recorded.kind is RecordedKind.DUPLICATE:
        pipeline.store.remove(relative_path)
    return True


def _data_set_digest(path: Path) -> tuple[str, int]:
    """sha256 and length of the data set after the file meta information, as the acceptor computed them."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        head = file.read(_META_LENGTH_END)
        if len(head) < _META_LENGTH_END or head[128:132] != b"DICM":
            raise ValueError("no part-10 file")
        file.seek(_META_LENGTH_END + int.from_bytes(head[-4:], "little"))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
