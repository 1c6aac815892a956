"""Delivery over DIMSE to real archives, and to peers that misbehave on the wire."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    generate_uid,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import (
    Archive,
    ArchiveRejected,
    ArchiveUnreachable,
    CommitmentResult,
    Confirm,
    OutboundObject,
    PacsDestination,
    Sent,
)
from dicom_node.dimse import commitment
from inference.findings import SeriesUid, SopUid, StudyUid
from tests.archives import Orthanc, StoreScp, free_port, write_secondary_capture

LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"


def outbound(path: Path, **attributes: object) -> OutboundObject:
    dataset = write_secondary_capture(path, **attributes)  # type: ignore[arg-type]
    return described(path, dataset)


def described(path: Path, dataset: Dataset) -> OutboundObject:
    return OutboundObject(
        study_uid=StudyUid(dataset.StudyInstanceUID),
        series_uid=SeriesUid(dataset.SeriesInstanceUID),
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=SopUid(dataset.SOPInstanceUID),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        path=path,
    )


def result_set(folder: Path, count: int = 3) -> list[OutboundObject]:
    study, series = generate_uid(), generate_uid()
    return [outbound(folder / f"{n}.dcm", study_uid=study, series_uid=series) for n in range(count)]


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
    objects = result_set(tmp_path)
    archive = pacs(orthanc, confirm="query")
    assert archive.confirm(objects) == frozenset()
    assert [outcome.sent for outcome in archive.send(objects)] == [Sent.ACCEPTED] * 3
    assert archive.confirm(objects) == {item.sop_instance_uid for item in objects}
    assert archive.count_instances(objects[0].study_uid) == 3
    for item in objects:
        kept = orthanc.dicom_file(item.sop_instance_uid)
        assert data_set_bytes(kept) == data_set_bytes(item.path.read_bytes())


def test_a_re_send_makes_no_duplicate(orthanc: Orthanc, tmp_path: Path) -> None:
    objects = result_set(tmp_path)
    archive = pacs(orthanc)
    for _ in range(3):
        assert {outcome.sent for outcome in archive.send(objects)} == {Sent.ACCEPTED}
    assert len(orthanc.instances()) == 3


def test_an_unknown_study_counts_zero(orthanc: Orthanc) -> None:
    assert pacs(orthanc).count_instances(StudyUid("1.2.3.4")) == 0


def test_an_archive_that_was_down_gets_everything_once_it_is_back(orthanc: Orthanc, tmp_path: Path) -> None:
    objects = result_set(tmp_path)
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
        (outcome,) = pacs(server).send([described(tmp_path / "j2k.dcm", dataset)])
        assert (outcome.sent, server.files()) == (Sent.REFUSED, ())
        assert "JPEG 2000" in outcome.reason


def test_an_archive_without_query_says_so(storescp: StoreScp, tmp_path: Path) -> None:
    objects = result_set(tmp_path)
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
    objects = result_set(tmp_path)
    objects[0].path.unlink()
    outcomes = pacs(orthanc).send(objects)
    assert [outcome.sent for outcome in outcomes] == [Sent.RETRY, Sent.ACCEPTED, Sent.ACCEPTED]
    assert "cannot be read" in outcomes[0].reason
