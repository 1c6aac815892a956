"""What the tests of the receiver share: a sink of one SQLite table, a running receiver, and peers of both kinds.

`Peer` speaks DICOM byte by byte over a plain socket, so that it can stop, lie and go away where a library would not.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association

from dicom_node.dimse.scp import PynetdicomReceiver
from dicom_node.receiver import ReceiverSettings, SinkFactory
from dicom_node.reception import ReceptionBoard
from dicom_node.store import Store, StoreLimits
from dicom_node.study import NewInstance, Recorded, RecordedKind
from inference.findings import SopUid

_SCHEMA = """
CREATE TABLE IF NOT EXISTS instance (
    id INTEGER PRIMARY KEY, sop TEXT, class TEXT, series TEXT, study TEXT, syntax TEXT, sha256 TEXT, size INTEGER,
    path TEXT, calling TEXT, called TEXT, peer TEXT, received_at TEXT, seen INTEGER DEFAULT 1, UNIQUE (sop, sha256));
CREATE TABLE IF NOT EXISTS commitment (transaction_uid TEXT, committed TEXT, failed TEXT);
"""


class SqliteSink:
    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        self._database.execute("PRAGMA synchronous=FULL")

    def record_instance(self, instance: NewInstance) -> Recorded:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                kind = self._record(instance)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        return Recorded(kind=kind)

    def commitment_event(
        self, transaction_uid: str, committed: tuple[SopUid, ...], failed: Mapping[SopUid, int]
    ) -> None:
        with self._lock:
            values = (transaction_uid, json.dumps(committed), json.dumps(dict(failed)))
            self._database.execute("INSERT INTO commitment VALUES (?, ?, ?)", values)

    def _record(self, new: NewInstance) -> RecordedKind:
        again = self._database.execute(
            "UPDATE instance SET seen = seen + 1 WHERE sop = ? AND sha256 = ?", (new.sop_instance_uid, new.sha256)
        )
        if again.rowcount:
            return RecordedKind.DUPLICATE
        known = self._database.execute("SELECT 1 FROM instance WHERE sop = ?", (new.sop_instance_uid,)).fetchone()
        values = (
            new.sop_instance_uid, new.sop_class_uid, new.series_uid, new.study_uid, new.transfer_syntax_uid,
            new.sha256, new.size_bytes, new.relative_path, new.calling_ae, new.called_ae, new.peer_address,
            new.received_at.isoformat(),
        )  # fmt: skip
        self._database.execute(
            "INSERT INTO instance (sop, class, series, study, syntax, sha256, size, path, calling, called, peer,"
            " received_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        return RecordedKind.REVISED if known else RecordedKind.NEW


class FailingSink(SqliteSink):
    """A ledger that cannot commit."""

    def record_instance(self, instance: NewInstance) -> Recorded:
        raise RuntimeError(f"PATIENT^NAME in {instance}")


@dataclass(frozen=True)
class Table:
    """What the acceptors wrote, read from the test."""

    path: Path

    def __post_init__(self) -> None:
        database = sqlite3.connect(self.path)
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(_SCHEMA)
        database.close()

    @property
    def factory(self) -> SinkFactory:
        return partial(SqliteSink, self.path)

    def rows(self, table: str = "instance") -> list[sqlite3.Row]:
        database = sqlite3.connect(self.path)
        database.row_factory = sqlite3.Row
        try:
            return database.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()
        finally:
            database.close()


CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
PIECE = 64 * 1024
NO_LIMITS = StoreLimits(soft_free_bytes=0, hard_free_bytes=0, reserve_bytes=0)


@dataclass
class Rig:
    """A running receiver with everything it writes to."""

    receiver: PynetdicomReceiver
    board: ReceptionBoard
    table: Table
    store: Store

    @property
    def port(self) -> int:
        return self.receiver.port

    def files(self) -> list[Path]:
        return sorted((self.store.root / "instances").rglob("*.dcm"))

    def incoming(self) -> list[Path]:
        return list((self.store.root / "incoming").iterdir())


@contextlib.contextmanager
def receiving(
    folder: Path,
    *,
    sink: Callable[[Path], Any] = SqliteSink,
    limits: StoreLimits = NO_LIMITS,
    store_root: Path | None = None,
    **settings: Any,
) -> Iterator[Rig]:
    """A receiver on a free port, stopped at the end."""
    table = Table(folder / "table.db")
    store = Store(store_root or folder / "store", limits)
    board = ReceptionBoard()
    values: dict[str, Any] = {"port": 0, "processes": 1} | settings
    receiver = PynetdicomReceiver(
        ReceiverSettings(**values),
        store_root=store.root,
        store_limits=limits,
        sink_factory=partial(sink, table.path),
        board=board,
    )
    receiver.start()
    try:
        yield Rig(receiver, board, table, store)
    finally:
        receiver.stop(0.5)


def eventually(condition: Callable[[], object], timeout_s: float = 20.0) -> bool:
    """Whether `condition` becomes true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def a_ct(**changes: Any) -> Dataset:
    """A small CT slice with identifiers of its own; a change to None leaves the attribute out."""
    slice_ = Dataset()
    slice_.SOPClassUID = CT
    slice_.SOPInstanceUID = generate_uid()
    slice_.StudyInstanceUID = generate_uid()
    slice_.SeriesInstanceUID = generate_uid()
    slice_.PatientName, slice_.PatientID, slice_.Modality = "Nobody^Real", "7", "CT"
    slice_.Rows, slice_.Columns, slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 8, 8, 16, 12, 11
    slice_.SamplesPerPixel, slice_.PixelRepresentation, slice_.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    slice_.PixelData = bytes(128)
    for keyword, value in changes.items():
        if value is None:
            delattr(slice_, keyword)
        else:
            setattr(slice_, keyword, value)
    return slice_


def encoded(dataset: Dataset, *, implicit: bool = False) -> bytes:
    """The data set's bytes, little endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, dataset)
    return buffer.getvalue()


@contextlib.contextmanager
def associated(
    port: int, *contexts: tuple[str, list[str]], called: str = "RADNODE", calling: str = "MODALITY", **options: Any
) -> Iterator[Association]:
    """An association made by pynetdicom, with TCP_NODELAY."""
    _config.STORE_SEND_CHUNKED_DATASET = True
    entity = AE(ae_title=calling)
    for abstract_syntax, transfer_syntaxes in contexts or ((CT, [EXPLICIT]),):
        entity.add_requested_context(abstract_syntax, transfer_syntaxes)
    association = entity.associate("127.0.0.1", port, ae_title=called, evt_handlers=[NO_DELAY], **options)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


NO_DELAY = (evt.EVT_CONN_OPEN, _no_delay)


class Peer:
    """A sender written out in bytes (PS3.8 9.3)."""

    def __init__(self, port: int, *, calling: str = "MODALITY", called: str = "RADNODE") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.calling, self.called = calling, called

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def associate(self, sop_class: str = CT, syntax: str = EXPLICIT) -> Peer:
        """Ask for one presentation context, with ID 1, and expect to be accepted."""
        try:
            self.socket.sendall(self.request(sop_class, syntax))
            kind, _ = self.read()
            assert kind == 2, "the association was not accepted"
        except BaseException:
            self.socket.close()
            raise
        return self

    def request(self, sop_class: str = CT, syntax: str = EXPLICIT) -> bytes:
        """An A-ASSOCIATE-RQ."""
        context = b"\x01\x00\x00\x00" + _item(0x30, sop_class.encode()) + _item(0x40, syntax.encode())
        user = _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.3.4")
        body = struct.pack(">HH16s16s32x", 1, 0, self.called.ljust(16).encode(), self.calling.ljust(16).encode())
        body += _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context) + _item(0x50, user)
        return struct.pack(">BxL", 1, len(body)) + body

    def command(self, dataset: Dataset | None = None, message_id: int = 1, **changes: bytes) -> bytes:
        """A C-STORE-RQ for `dataset`."""
        sop_class = str(dataset.SOPClassUID) if dataset is not None else CT
        sop_instance = str(dataset.SOPInstanceUID) if dataset is not None else "1.2.3"
        elements = {
            0x0002: changes.get("sop_class", sop_class.encode()),
            0x0100: changes.get("field", b"\x01\x00"),
            0x0110: struct.pack("<H", message_id),
            0x0700: b"\x00\x00",
            0x0800: changes.get("data_set_type", b"\x00\x00"),
            0x1000: changes.get("sop_instance", sop_instance.encode()),
        }
        body = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements.items())
        return struct.pack("<HHLL", 0, 0, 4, len(body)) + body

    def send(self, control: int, data: bytes, context_id: int = 1) -> None:
        """One P-DATA-TF with one PDV; control 3 is a whole command, 0 a part and 2 the end of a data set."""
        pdv = struct.pack(">LBB", len(data) + 2, context_id, control) + data
        self.socket.sendall(struct.pack(">BxL", 4, len(pdv)) + pdv)

    def store(self, dataset: Dataset, **changes: bytes) -> int:
        """Send a whole object and return the status."""
        self.send(3, self.command(dataset, **changes))
        data = encoded(dataset)
        while len(data) > PIECE:
            self.send(0, data[:PIECE])
            data = data[PIECE:]
        self.send(2, data)
        return self.status()

    def status(self) -> int:
        """The status of the next response."""
        kind, body = self.read()
        assert kind == 4, f"a PDU of type {kind} instead of a response"
        at = body.index(struct.pack("<HHL", 0, 0x0900, 2))
        status: int = struct.unpack_from("<H", body, at + 8)[0]
        return status

    def read(self) -> tuple[int, bytes]:
        """The next PDU: its type and what follows the header; type 0 when the connection is closed."""
        header = self._exactly(6)
        if len(header) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", header)
        return kind, self._exactly(length)

    def is_closed(self) -> bool:
        """Whether the receiver aborted or closed: waits for it."""
        with contextlib.suppress(ConnectionError):
            while True:
                kind, _ = self.read()
                if kind in (0, 7):
                    return True
        return True

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                return data
            data += piece
        return data


def _item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(data)) + data
