"""What a PACS sees of the receiver: what it accepts, how it answers, and that the bytes arrive as they were."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import psutil
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info, read_preamble
from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node.dimse.contexts import TRANSFER_SYNTAXES, storage_sop_classes
from dicom_node.dimse.scp import PynetdicomReceiver
from dicom_node.receiver import Peer as AllowedPeer
from dicom_node.receiver import ReceiverError, ReceiverSettings
from dicom_node.reception import ReceptionBoard
from inference.findings import StudyUid
from tests.conftest import require_tool
from tests.integration.receiving_rig import (
    CT,
    EXPLICIT,
    IMPLICIT,
    NO_DELAY,
    FailingSink,
    Peer,
    Rig,
    a_ct,
    associated,
    encoded,
    eventually,
    receiving,
)

SYNTAX_FILES = (
    "CT_small.dcm",  # explicit little endian
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEG-LL.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPEG2000.dcm",
    "image_dfl.dcm",
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory):
    with receiving(tmp_path_factory.mktemp("receiving"), processes=2) as running:
        yield running


def data_set_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        read_preamble(file, force=True)
        meta = read_file_meta_info(path)
        start = 132 + 12 + meta.FileMetaInformationGroupLength
        file.seek(start)
        return file.read()


def row_of(rig: Rig, sop_instance_uid: str):
    return [row for row in rig.table.rows() if row["sop"] == sop_instance_uid]


@pytest.mark.parametrize("name", SYNTAX_FILES)
def test_the_data_set_is_stored_byte_for_byte_in_its_transfer_syntax(rig: Rig, name: str) -> None:
    source = Path(get_testdata_file(name))
    meta = read_file_meta_info(source)
    contexts = (str(meta.MediaStorageSOPClassUID), [str(meta.TransferSyntaxUID)])
    with associated(rig.port, contexts) as association:
        assert association.send_c_store(source).Status == 0x0000
    row = row_of(rig, str(meta.MediaStorageSOPInstanceUID))[-1]  # some of these files share one UID
    stored = rig.store.path(row["path"])
    assert data_set_bytes(stored) == data_set_bytes(source)
    assert row["syntax"] == str(meta.TransferSyntaxUID)
    assert row["sha256"] == hashlib.sha256(data_set_bytes(source)).hexdigest()
    assert row["size"] == len(data_set_bytes(source))


def test_the_stored_file_is_part_10_with_a_zero_preamble_and_readable_by_others(rig: Rig, tmp_path: Path) -> None:
    dcmdump, storescu = require_tool("dcmdump"), require_tool("storescu")
    source = tmp_path / "ct.dcm"
    slice_ = a_ct()
    slice_.file_meta = pydicom.dataset.FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = EXPLICIT
    slice_.preamble = b"MZ" + bytes(126)
    slice_.save_as(source, enforce_file_format=True)
    sending = [storescu, "-aet", "MODALITY", "-aec", "RADNODE", "127.0.0.1", str(rig.port), str(source)]
    subprocess.run(sending, check=True, env={**os.environ, "TCP_NODELAY": "1"})
    (row,) = row_of(rig, str(slice_.SOPInstanceUID))
    stored = rig.store.path(row["path"])
    assert stored.read_bytes()[:132] == bytes(128) + b"DICM"
    assert stored.stat().st_mode & 0o777 == 0o600
    dump = subprocess.run([dcmdump, str(stored)], capture_output=True, text=True)
    assert dump.returncode == 0 and not dump.stderr
    meta = read_file_meta_info(stored)
    assert meta.SourceApplicationEntityTitle == "MODALITY"
    assert meta.ReceivingApplicationEntityTitle == "RADNODE"
    assert (row["calling"], row["called"], row["peer"]) == ("MODALITY", "RADNODE", "127.0.0.1")


def test_every_storage_class_is_accepted_in_every_listed_syntax(rig: Rig) -> None:
    classes = storage_sop_classes()
    assert len(classes) == len(AllStoragePresentationContexts) > 150
    for start in range(0, len(classes), 120):
        contexts = [(uid, list(TRANSFER_SYNTAXES)) for uid in classes[start : start + 120]]
        with associated(rig.port, *contexts) as association:
            assert len(association.accepted_contexts) == len(contexts)


def test_explicit_little_endian_is_preferred_and_implicit_taken_when_alone(rig: Rig) -> None:
    with associated(rig.port, (CT, [IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.4.50"])) as association:
        assert association.accepted_contexts[0].transfer_syntax == [EXPLICIT]
    with associated(rig.port, (CT, [IMPLICIT])) as association:
        assert association.accepted_contexts[0].transfer_syntax == [IMPLICIT]


def test_video_and_jpip_are_not_accepted(rig: Rig) -> None:
    jpip, mpeg4 = "1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.102"
    with associated(rig.port, (CT, [jpip, mpeg4]), (Verification, [EXPLICIT])) as association:
        assert [cx.abstract_syntax for cx in association.accepted_contexts] == [Verification]


def test_echo_is_answered_to_dcmtk_and_pynetdicom(rig: Rig) -> None:
    echoscu = require_tool("echoscu")
    subprocess.run([echoscu, "-aec", "RADNODE", "127.0.0.1", str(rig.port)], check=True)
    with associated(rig.port, (Verification, [IMPLICIT])) as association:
        assert association.send_c_echo().Status == 0x0000


def test_the_same_bytes_again_are_success_but_neither_file_nor_row(rig: Rig) -> None:
    slice_ = a_ct()
    before = len(rig.files())
    with Peer(rig.port).associate() as peer:
        assert [peer.store(slice_) for _ in range(3)] == [0x0000] * 3
    (row,) = row_of(rig, slice_.SOPInstanceUID)
    assert row["seen"] == 3
    assert len(rig.files()) == before + 1
    assert rig.store.path(row["path"]).exists()


def test_the_same_uid_with_other_bytes_is_success_and_both_are_kept(rig: Rig) -> None:
    slice_ = a_ct()
    with Peer(rig.port).associate() as peer:
        assert peer.store(slice_) == 0x0000
        slice_.PixelData = bytes(range(128))
        assert peer.store(slice_) == 0x0000
    rows = row_of(rig, slice_.SOPInstanceUID)
    assert len(rows) == 2
    assert all(rig.store.path(row["path"]).exists() for row in rows)


def test_a_data_set_unlike_its_command_is_a900_and_the_association_goes_on(rig: Rig) -> None:
    before = rig.files()
    with Peer(rig.port).associate() as peer:
        assert peer.store(a_ct(), sop_instance=b"1.2.3.4") == 0xA900
        assert peer.store(a_ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), sop_class=CT.encode()) == 0xA900
        assert rig.files() == before and rig.incoming() == []
        assert peer.store(a_ct()) == 0x0000


@pytest.mark.parametrize("missing", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_data_set_without_an_identifier_is_c000(rig: Rig, missing: str) -> None:
    with Peer(rig.port).associate() as peer:
        named = {"sop_class": CT.encode(), "sop_instance": b"1.2.3"}
        peer.send(3, peer.command(**named))
        peer.send(2, encoded(a_ct(**{"SOPInstanceUID": "1.2.3", missing: None})))
        assert peer.status() == 0xC000
        assert peer.store(a_ct()) == 0x0000


def test_bytes_that_are_no_data_set_are_c000(rig: Rig) -> None:
    with Peer(rig.port).associate() as peer:
        for data in (b"", b"\x00", b"\xff" * 5000, b"PK\x03\x04" + bytes(300), encoded(a_ct(), implicit=True)):
            peer.send(3, peer.command())
            peer.send(2, data)
            assert peer.status() == 0xC000
        peer.send(3, peer.command(data_set_type=b"\x01\x01"))
        assert peer.status() == 0xC000
    assert rig.incoming() == []


def test_hostile_uids_are_stored_and_never_become_paths(rig: Rig) -> None:
    hostile = a_ct()
    names = ("../../../../tmp/radnode", "/etc/cron.d/x", "..%5c..%5cx", "a;rm -rf $HOME", "%2e%2e%2f")
    with Peer(rig.port).associate() as peer:
        for name in names:
            with warnings.catch_warnings():  # pydicom warns of such UIDs unless reading is set not to
                warnings.simplefilter("ignore")
                hostile = a_ct(StudyInstanceUID=name, SOPInstanceUID=name)
            assert peer.store(hostile) == 0x0000
    for name in names:
        (row,) = row_of(rig, name)
        assert row["study"] == name
        stored = rig.store.path(row["path"])
        assert stored.resolve().is_relative_to((rig.store.root / "instances").resolve())
        assert set(stored.stem) <= set("0123456789abcdef")
    assert all(set(path.stem) <= set("0123456789abcdef") for path in rig.files())


def test_two_processes_and_eight_associations_store_everything_once(rig: Rig) -> None:
    slices = [a_ct() for _ in range(48)]

    def send(part: list[Dataset]) -> None:
        with Peer(rig.port).associate() as peer:
            assert all(peer.store(slice_) == 0x0000 for slice_ in part)

    senders = [threading.Thread(target=send, args=(slices[number::8],)) for number in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    stored = {row["sop"] for row in rig.table.rows()}
    assert {str(slice_.SOPInstanceUID) for slice_ in slices} <= stored
    for slice_ in slices:
        (row,) = row_of(rig, slice_.SOPInstanceUID)
        assert data_set_bytes(rig.store.path(row["path"])) == encoded(slice_)


def test_titles_and_addresses_decide_who_may_send(tmp_path: Path) -> None:
    peers = (AllowedPeer(ae_title="PACS"), AllowedPeer(ae_title="CT1", addresses=("127.0.0.1",)),
             AllowedPeer(ae_title="CT2", addresses=("192.0.2.1",)))  # fmt: skip
    with receiving(tmp_path, ae_titles=("RADNODE", "AI"), peers=peers) as rig:
        answers = {}
        for calling, called in (("PACS", "RADNODE"), ("PACS", "AI"), ("CT1", "AI"), ("CT2", "AI"), ("WHO", "AI"),
                                ("PACS", "OTHER"), ("pacs", "AI")):  # fmt: skip
            with associated(rig.port, calling=calling, called=called) as association:
                answer = association.acceptor.primitive
                answers[calling, called] = (answer.result, answer.result_source, answer.diagnostic)
        unknown_calling, unknown_called = (1, 1, 3), (1, 1, 7)
        assert answers["PACS", "RADNODE"][0] == answers["PACS", "AI"][0] == answers["CT1", "AI"][0] == 0
        assert answers["CT2", "AI"] == answers["WHO", "AI"] == answers["pacs", "AI"] == unknown_calling
        assert answers["PACS", "OTHER"] == unknown_called
        assert eventually(lambda: rig.board.counts().rejected == 4)


def test_one_association_too_many_is_rejected_as_transient_and_its_slot_comes_back(tmp_path: Path) -> None:
    with receiving(tmp_path, max_associations=3, processes=2) as rig:
        peers = [Peer(rig.port).associate() for _ in range(3)]
        with associated(rig.port) as association:
            answer = association.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        peers.pop().socket.close()
        assert eventually(lambda: len(rig.board.snapshot()) == 2)
        with Peer(rig.port).associate() as peer:
            assert peer.store(a_ct()) == 0x0000
        for peer in peers:
            peer.socket.close()


def test_the_board_knows_what_holds_a_study(tmp_path: Path) -> None:
    with receiving(tmp_path) as rig:
        told: list[str] = []
        rig.board.subscribe(told.append)
        slice_, other = a_ct(), a_ct()
        study, elsewhere = StudyUid(str(slice_.StudyInstanceUID)), StudyUid("1.2.3.999")

        def holds(study_uid: StudyUid, calling: str = "MODALITY") -> bool:
            return bool(rig.board.holders(study_uid, calling, 60.0))

        with Peer(rig.port).associate() as peer:
            assert peer.store(slice_) == 0x0000
            assert eventually(lambda: told == [study])
            assert holds(study) and not holds(elsewhere)
            assert not rig.board.holders(study, "MODALITY", idle_s=0.0), "an idle association holds nothing"
            peer.send(3, peer.command(other))
            assert eventually(lambda: holds(elsewhere)), "an object of a study not yet known holds its sender's studies"
            assert not holds(elsewhere, "OTHER")
            data = encoded(other)
            peer.send(0, data[:-50])
            half = StudyUid(str(other.StudyInstanceUID))
            assert eventually(lambda: holds(half, "OTHER")) and not holds(elsewhere)
            peer.send(2, data[-50:])
            assert peer.status() == 0x0000
        assert eventually(lambda: not rig.board.snapshot())
        assert not holds(study) and not holds(half)
        assert rig.board.counts().stored == 2


def test_an_archives_commitment_report_reaches_the_sink(rig: Rig) -> None:
    transaction, kept, lost = generate_uid(), generate_uid(), generate_uid()
    report = Dataset()
    report.TransactionUID = transaction
    report.ReferencedSOPSequence, report.FailedSOPSequence = [Dataset()], [Dataset()]
    report.ReferencedSOPSequence[0].ReferencedSOPClassUID = CT
    report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = kept
    report.FailedSOPSequence[0].ReferencedSOPClassUID = CT
    report.FailedSOPSequence[0].ReferencedSOPInstanceUID = lost
    report.FailedSOPSequence[0].FailureReason = 0x0112
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    archive = (StorageCommitmentPushModel, [IMPLICIT])
    with associated(rig.port, archive, ext_neg=[role], calling="PACS") as association:
        status, _ = association.send_n_event_report(
            report, 2, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1", meta_uid=None
        )
        assert status.Status == 0x0000
    (row,) = rig.table.rows("commitment")
    assert row["transaction_uid"] == transaction
    assert json.loads(row["committed"]) == [kept]
    assert json.loads(row["failed"]) == {lost: 0x0112}


def test_nobody_is_promised_storage_commitment(rig: Rig) -> None:
    with associated(rig.port, (StorageCommitmentPushModel, [IMPLICIT]), (CT, [EXPLICIT])) as association:
        assert [cx.abstract_syntax for cx in association.accepted_contexts] == [CT]


def test_without_its_ledger_the_receiver_answers_a700_and_keeps_patients_out_of_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with receiving(tmp_path, sink=FailingSink) as rig:
        with Peer(rig.port).associate() as peer:
            assert peer.store(a_ct()) == 0xA700
            assert peer.store(a_ct()) == 0xA700
        assert rig.incoming() == []
        assert len(rig.files()) == 1, "while the ledger fails objects are refused before they are written"
    log = capfd.readouterr()
    assert "RuntimeError" in log.out + log.err
    assert "PATIENT^NAME" not in log.out + log.err and "Nobody" not in log.out + log.err


def test_a_killed_acceptor_is_replaced_and_its_associations_are_forgotten(tmp_path: Path) -> None:
    with receiving(tmp_path, processes=2) as rig:
        first = rig.receiver.process_ids
        peers = [Peer(rig.port).associate() for _ in range(4)]
        assert eventually(lambda: len(rig.board.snapshot()) == 4)
        os.kill(first[0], signal.SIGKILL)
        assert eventually(lambda: len(rig.receiver.process_ids) == 2 and first[0] not in rig.receiver.process_ids)
        assert len(rig.board.snapshot()) < 4
        assert rig.receiver.restarts == 1
        with Peer(rig.port).associate() as peer:
            assert peer.store(a_ct()) == 0x0000
        for peer in peers:
            peer.socket.close()


NODE = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from tests.integration.receiving_rig import receiving
if __name__ == "__main__":
    with receiving(Path({folder!r}), processes=2) as rig:
        print(*rig.receiver.process_ids, flush=True)
        time.sleep(600)
"""


def test_acceptors_do_not_outlive_a_killed_node(tmp_path: Path) -> None:
    script = tmp_path / "node.py"
    script.write_text(NODE.format(path=[str(Path(__file__).parents[2]), *filter(None, sys.path)], folder=str(tmp_path)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        acceptors: list[int] = []
        for line in node.stdout:
            words = line.split()
            if words and all(word.isdigit() for word in words):
                acceptors = [int(word) for word in words]
                break
        assert len(acceptors) == 2 and all(psutil.pid_exists(pid) for pid in acceptors)
        node.kill()
        assert eventually(lambda: not any(_runs(pid) for pid in acceptors))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stopping_lets_an_object_on_its_way_arrive(tmp_path: Path) -> None:
    with receiving(tmp_path) as rig:
        slice_ = a_ct()
        data = encoded(slice_)
        with Peer(rig.port).associate() as peer, Peer(rig.port).associate() as idle:
            peer.send(3, peer.command(slice_))
            peer.send(0, data[:100])
            stopping = threading.Thread(target=rig.receiver.stop, args=(15.0,))
            stopping.start()
            assert idle.is_closed()
            peer.send(2, data[100:])
            assert peer.status() == 0x0000
            stopping.join()
        assert len(rig.table.rows()) == 1
        assert rig.receiver.process_ids == ()


def test_a_port_that_is_taken_is_said_plainly(rig: Rig, tmp_path: Path) -> None:
    second = PynetdicomReceiver(
        ReceiverSettings(port=rig.port), store_root=tmp_path, sink_factory=rig.table.factory, board=ReceptionBoard()
    )
    with pytest.raises(ReceiverError, match=f"cannot listen on 127.0.0.1 port {rig.port}"):
        second.start()


def unopened(path: Path) -> None:
    raise PermissionError("secret://user:password@host")


def test_a_sink_that_does_not_open_keeps_the_receiver_from_starting(tmp_path: Path) -> None:
    with (
        pytest.raises(ReceiverError, match="the sink did not open: PermissionError"),
        receiving(tmp_path, sink=unopened),
    ):
        pass


def test_one_response_may_be_in_pieces_for_a_peer_with_a_tiny_pdu(rig: Rig) -> None:
    entity = AE(ae_title="TINY")
    entity.maximum_pdu_size = 64
    entity.add_requested_context(CT, EXPLICIT)
    association = entity.associate("127.0.0.1", rig.port, ae_title="RADNODE", evt_handlers=[NO_DELAY])
    slice_ = a_ct()
    slice_.file_meta = pydicom.dataset.FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = EXPLICIT
    assert association.send_c_store(slice_).Status == 0x0000
    association.release()
