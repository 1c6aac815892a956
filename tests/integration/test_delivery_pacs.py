"""Delivery over DIMSE to real archives, and to peers that misbehave on the wire."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import (
    Archive,
    ArchiveRejected,
    ArchiveUnreachable,
    DicomwebDestination,
    OutboundObject,
    PacsDestination,
    Sent,
)
from inference.findings import StudyUid
from tests.archives import (
    Orthanc,
    ScriptedServer,
    StoreScp,
    as_outbound,
    free_port,
    outbound_set,
    write_secondary_capture,
)

LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"


def outbound(path: Path, **attributes: object) -> OutboundObject:
    return as_outbound(path, write_secondary_capture(path, **attributes))  # type: ignore[arg-type]


def pacs(server: Orthanc | StoreScp | int, **settings: object) -> Archive:
    if isinstance(server, int):
        port, title = server, "PEER"
    else:
        port, title = server.dimse_port, server.ae_title
    values: dict[str, object] = {"name": "archive", "host": "127.0.0.1", "port": port, "called_ae": title}
    return open_archive(PacsDestination.model_validate(values | settings))


def data_set_bytes(part_10: bytes) -> bytes:
    group_length = struct.unpack_from("<I", part_10, 140)[0]
    return part_10[144 + group_length :]


def test_objects_are_stored_bit_for_bit_and_confirmed_by_query(orthanc: Orthanc, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path)
    archive = pacs(orthanc, confirm="query")
    assert archive.confirm(objects) == frozenset()
    assert [outcome.sent for outcome in archive.send(objects)] == [Sent.ACCEPTED] * 3
    assert archive.confirm(objects) == {item.sop_instance_uid for item in objects}
    assert archive.count_instances(objects[0].study_uid) == 3
    for item in objects:
        kept = orthanc.dicom_file(item.sop_instance_uid)
        assert data_set_bytes(kept) == data_set_bytes(item.path.read_bytes())


def test_a_re_send_makes_no_duplicate(orthanc: Orthanc, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path)
    archive = pacs(orthanc)
    for _ in range(3):
        assert {outcome.sent for outcome in archive.send(objects)} == {Sent.ACCEPTED}
    assert len(orthanc.instances()) == 3


def test_an_unknown_study_counts_zero(orthanc: Orthanc) -> None:
    assert pacs(orthanc).count_instances(StudyUid("1.2.3.4")) == 0


def test_an_archive_that_was_down_gets_everything_once_it_is_back(orthanc: Orthanc, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path)
    archive = pacs(orthanc)
    orthanc.stop()
    outcomes = archive.send(objects)
    assert [outcome.sent for outcome in outcomes] == [Sent.RETRY] * 3
    assert "is the archive running" in outcomes[0].reason
    with pytest.raises(ArchiveUnreachable, match="no connection"):
        archive.confirm(objects)
    orthanc.start()
    assert {outcome.sent for outcome in archive.send(objects)} == {Sent.ACCEPTED}
    assert orthanc.sop_uids() == {item.sop_instance_uid for item in objects}


def test_a_wrong_called_title_is_named_with_its_remedy(orthanc: Orthanc, tmp_path: Path) -> None:
    archive = pacs(orthanc, called_ae="WRONG")
    (outcome,) = archive.send([outbound(tmp_path / "a.dcm")])
    assert outcome.sent is Sent.RETRY
    assert "set called_ae, which is WRONG" in outcome.reason
    with pytest.raises(ArchiveRejected, match="called_ae"):
        archive.echo()


def test_an_archive_answers_the_echo(orthanc: Orthanc, storescp: StoreScp) -> None:
    pacs(orthanc).echo()
    pacs(storescp).echo()


def test_a_sop_class_that_the_archive_does_not_take_is_refused_and_the_others_go(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    label_map = outbound(tmp_path / "seg.dcm", SOPClassUID=LABEL_MAP_SEGMENTATION)
    picture = outbound(tmp_path / "sc.dcm")
    refused, accepted = pacs(orthanc).send([label_map, picture])
    assert refused.sent is Sent.REFUSED
    assert LABEL_MAP_SEGMENTATION in refused.reason
    assert accepted.sent is Sent.ACCEPTED
    (alone,) = pacs(orthanc).send([label_map])
    assert alone == refused


def test_an_archive_of_the_default_syntax_gets_objects_re_encoded(tmp_path: Path) -> None:
    item = outbound(tmp_path / "a.dcm")
    with StoreScp(tmp_path / "scp", options=("+xi",)) as server:
        (outcome,) = pacs(server).send([item])
        assert outcome.sent is Sent.ACCEPTED
        (path,) = server.files()
        stored = pydicom.dcmread(path)
        assert stored.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        assert stored == pydicom.dcmread(item.path)


def test_a_compressed_object_is_never_re_encoded(tmp_path: Path) -> None:
    dataset = write_secondary_capture(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "j2k.dcm", enforce_file_format=True)
    with StoreScp(tmp_path / "scp", options=("+xi",)) as server:
        (outcome,) = pacs(server).send([as_outbound(tmp_path / "j2k.dcm", dataset)])
        assert (outcome.sent, server.files()) == (Sent.REFUSED, ())
        assert "JPEG 2000" in outcome.reason


def test_an_archive_without_query_says_so(storescp: StoreScp, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path)
    archive = pacs(storescp)
    assert {outcome.sent for outcome in archive.send(objects)} == {Sent.ACCEPTED}
    assert archive.confirm(objects) is None
    assert archive.count_instances(objects[0].study_uid) is None
    assert len(storescp.files()) == 3


def test_more_sop_classes_than_one_association_holds_are_sent(orthanc: Orthanc, tmp_path: Path) -> None:
    unknown = [outbound(tmp_path / f"{n}.dcm", SOPClassUID=f"1.2.3.{n}") for n in range(140)]
    outcomes = pacs(orthanc).send([*unknown, outbound(tmp_path / "sc.dcm")])
    assert [outcome.sent for outcome in outcomes] == [Sent.REFUSED] * 140 + [Sent.ACCEPTED]


def test_a_file_that_is_gone_does_not_stop_the_others(orthanc: Orthanc, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path)
    objects[0].path.unlink()
    outcomes = pacs(orthanc).send(objects)
    assert [outcome.sent for outcome in outcomes] == [Sent.RETRY, Sent.ACCEPTED, Sent.ACCEPTED]
    assert "cannot be read" in outcomes[0].reason


def test_a_host_by_name_is_reached(orthanc: Orthanc) -> None:
    pacs(orthanc, host="localhost").echo()


def test_a_port_where_nobody_listens_is_no_connection(tmp_path: Path) -> None:
    (outcome,) = pacs(free_port()).send([outbound(tmp_path / "a.dcm")])
    assert outcome.sent is Sent.RETRY
    assert "no connection to 127.0.0.1" in outcome.reason


def test_a_name_that_does_not_resolve_is_no_connection(tmp_path: Path) -> None:
    (outcome,) = pacs(free_port(), host="archive.invalid").send([outbound(tmp_path / "a.dcm")])
    assert outcome.sent is Sent.RETRY
    assert "no connection to archive.invalid" in outcome.reason


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            (1, 1, 3),
            "permanently (calling ae title not recognised): enter the AE title RADNODE in the archive; in a node",
        ),
        ((1, 1, 7), "permanently (called ae title not recognised): set called_ae, which is PEER"),
        ((2, 3, 2), "for now (local limit exceeded): see the archive's log"),
    ],
)
def test_a_rejected_association_is_tried_again_and_its_remedy_named(
    tmp_path: Path, answer: tuple[int, int, int], told: str
) -> None:
    def reject(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(bytes([3, 0, 0, 0, 0, 4, 0, *answer]))
        silent(connection)

    with ScriptedServer(reject) as peer:
        (outcome,) = pacs(peer.port).send([outbound(tmp_path / "a.dcm")])
    assert outcome.sent is Sent.RETRY
    assert told in outcome.reason


@pytest.mark.parametrize("when", ["--abort-during", "--abort-after"])
def test_an_archive_that_aborts_on_every_object_is_tried_again(tmp_path: Path, when: str) -> None:
    with StoreScp(tmp_path / "scp", options=("+xa", when)) as server:
        outcomes = pacs(server).send(outbound_set(tmp_path, 6))
    assert [outcome.sent for outcome in outcomes] == [Sent.RETRY] * 6
    assert "ended the association" in outcomes[0].reason
    assert "not tried" in outcomes[-1].reason


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def not_dicom(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def resets(connection: socket.socket) -> None:
    connection.recv(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("script", [silent, not_dicom, resets])
def test_a_peer_that_is_no_archive_is_tried_again_in_bounded_time(
    tmp_path: Path, script: Callable[[socket.socket], None]
) -> None:
    with ScriptedServer(script) as peer:
        (outcome,) = pacs(peer.port, response_timeout_s=0.5).send([outbound(tmp_path / "a.dcm")])
    assert outcome.sent is Sent.RETRY
    assert "does not answer an association request" in outcome.reason


class Cut:
    """Forwards connections to an archive, and cuts or stalls each after so many bytes of the sender."""

    def __init__(self, port: int, *, after_bytes: int, stall: bool = False) -> None:
        self._port, self._after_bytes, self._stall = port, after_bytes, stall
        self.released = threading.Event()

    def __call__(self, sender: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=10.0) as archive:
            back = threading.Thread(target=self._return, args=(archive, sender), daemon=True)
            back.start()
            left = self._after_bytes
            while left > 0 and (data := sender.recv(min(left, 4096))):
                archive.sendall(data)
                left -= len(data)
            if self._stall:
                self.released.wait(10.0)
            archive.shutdown(socket.SHUT_RDWR)
            back.join(10.0)

    @staticmethod
    def _return(archive: socket.socket, sender: socket.socket) -> None:
        try:
            while data := archive.recv(4096):
                sender.sendall(data)
        except OSError:
            return


def test_a_connection_cut_in_the_middle_of_an_object_is_tried_again(orthanc: Orthanc, tmp_path: Path) -> None:
    item = outbound(tmp_path / "large.dcm", side=2000)
    with ScriptedServer(Cut(orthanc.dimse_port, after_bytes=1_000_000)) as peer:
        (cut,) = pacs(peer.port, called_ae="ORTHANC").send([item])
    assert cut.sent is Sent.RETRY
    (sent,) = pacs(orthanc).send([item])
    assert sent.sent is Sent.ACCEPTED
    assert len(orthanc.instances()) == 1


def test_an_archive_that_stops_reading_does_not_hold_the_node(orthanc: Orthanc, tmp_path: Path) -> None:
    item = outbound(tmp_path / "large.dcm", side=4000)
    script = Cut(orthanc.dimse_port, after_bytes=100_000, stall=True)
    with ScriptedServer(script) as peer:
        (outcome,) = pacs(peer.port, called_ae="ORTHANC", idle_timeout_s=0.5, response_timeout_s=2).send([item])
        script.released.set()
    assert outcome.sent is Sent.RETRY


@pytest.mark.parametrize("kind", ["pacs", "dicomweb"])
def test_a_large_object_is_not_read_into_memory(
    orthanc: Orthanc, storescp: StoreScp, tmp_path: Path, kind: str
) -> None:
    item = outbound(tmp_path / "large.dcm", side=4500)  # 40 MB
    if kind == "pacs":
        archive = pacs(storescp)
    else:
        archive = open_archive(DicomwebDestination(name="web", kind="dicomweb", url=orthanc.dicomweb_url))
    tracemalloc.start()
    try:
        (outcome,) = archive.send([item])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        archive.close()
    assert outcome.sent is Sent.ACCEPTED
    assert peak_bytes < item.path.stat().st_size // 4


class AnswersHalf:
    """Forwards to an archive, but of its second PDU, the answer to a request, passes on only a trickle."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __call__(self, sender: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=10.0) as archive:
            there = threading.Thread(target=Cut._return, args=(sender, archive), daemon=True)
            there.start()
            with contextlib.suppress(OSError):
                accepted = archive.recv(65536)
                sender.sendall(accepted)
                for byte in archive.recv(65536):
                    sender.sendall(bytes([byte]))
                    time.sleep(0.1)
            archive.shutdown(socket.SHUT_RDWR)
            there.join(10.0)


def test_an_archive_that_trickles_its_answer_is_given_up(orthanc: Orthanc, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path, 1)
    with ScriptedServer(AnswersHalf(orthanc.dimse_port)) as peer:
        archive = pacs(peer.port, called_ae="ORTHANC", response_timeout_s=1)
        (outcome,) = archive.send(objects)
        with pytest.raises(ArchiveUnreachable):
            archive.confirm(objects)
    assert outcome.sent is Sent.RETRY


def test_a_pdu_of_four_gigabytes_is_not_read(tmp_path: Path) -> None:
    def boasts(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\x02\x00\xff\xff\xff\xff")
        silent(connection)

    with ScriptedServer(boasts) as peer:
        (outcome,) = pacs(peer.port).send([outbound(tmp_path / "a.dcm")])
    assert outcome.sent is Sent.RETRY


def test_an_archive_that_lists_without_end_is_given_up(tmp_path: Path) -> None:
    def everything(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        match = Dataset()
        match.SOPInstanceUID = "1.2.3"
        while True:
            yield 0xFF00, match

    entity = AE(ae_title="PEER")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, everything)])
    assert server is not None
    try:
        archive = pacs(server.server_address[1], response_timeout_s=1)
        with pytest.raises(ArchiveUnreachable, match="does not end its answer"):
            archive.confirm(outbound_set(tmp_path, 1))
    finally:
        server.shutdown()


def test_a_list_that_was_cut_short_is_completed_by_name(tmp_path: Path) -> None:
    objects = outbound_set(tmp_path, 4)
    asked: list[str] = []

    def at_most_one(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        uid = event.identifier.get("SOPInstanceUID") or objects[0].sop_instance_uid
        asked.append(uid)
        match = Dataset()
        match.SOPInstanceUID = uid
        if uid != objects[3].sop_instance_uid:
            yield 0xFF00, match

    entity = AE(ae_title="PEER")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, at_most_one)])
    assert server is not None
    try:
        shown = pacs(server.server_address[1]).confirm(objects)
    finally:
        server.shutdown()
    assert shown == {item.sop_instance_uid for item in objects[:3]}
    assert asked == [item.sop_instance_uid for item in objects]
