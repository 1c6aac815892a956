"""What a hospital's network really brings: each kind of bad input gets a clear reason, and the next study is served.

One node serves all of it; every test ends by sending a good film and waiting for its result.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import deid_data
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import build_context

from dicom_node.delivery.archive import Sent
from tests.archives import Orthanc, write_secondary_capture
from tests.dx_wrapping import wrap_film_as_dx
from tests.running_node import RunningNode, to_orthanc
from tests.toy_model import install_toy_model

SIDE = 256


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, archive: Orthanc) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node")
    card = install_toy_model(folder / "models")
    running = RunningNode(
        folder / "node",
        {
            "assembly": {
                "projection_quiet_s": 0.2,
                "mammography_quiet_s": 0.3,
                "mammography_deadline_s": 2.0,
                "ct_quiet_s": 0.5,
                "other_quiet_s": 0.5,
                "association_idle_s": 1.0,
            },
            "receiver": {"association_timeout_s": 2.0},
            "destination": [to_orthanc(archive)],
        },
        routes=[
            {
                "name": "chest films",
                "model": card.identity.name,
                "destinations": ["pacs"],
                "match": {"modality": ["CR", "DX"]},
            },
            {
                "name": "mammograms",
                "model": "no-such-model",
                "destinations": ["pacs"],
                "allow_secondary_capture": True,
                "match": {"modality": ["MG"]},
            },
        ],
        models=folder / "models",
    )
    with running:
        yield running


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Dataset]:
    """Makes a DX film of noise with one bright spot."""

    def make(*, seed: int = 0, **wrapping: object) -> Dataset:
        grey = np.random.default_rng(seed).normal(90, 10, (SIDE, SIDE))
        grey[60:90, 60:90] = 250
        picture = tmp_path / f"film-{seed}.png"
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(picture)
        wrapped: Dataset = wrap_film_as_dx(picture, study_uid=generate_uid(), **wrapping)  # type: ignore[arg-type]
        return wrapped

    return make


@pytest.fixture
def assert_next_study_is_served(node: RunningNode, film: Callable[..., Dataset], tmp_path: Path) -> Iterator[None]:
    """After each test a good film goes its way."""
    yield
    good = film(seed=99)
    assert send(node, good, tmp_path / "good.dcm") is Sent.ACCEPTED
    assert node.wait_for_outcome(good.StudyInstanceUID)["outcome"] == "analysed"


pytestmark = pytest.mark.usefixtures("assert_next_study_is_served")


def send(node: RunningNode, dataset: Dataset, path: Path) -> Sent:
    dataset.save_as(path, enforce_file_format=True)
    return node.try_to_send([path])[0].sent


def send_bytes(node: RunningNode, dataset: Dataset, encoded: bytes) -> int:
    """C-STORE with the data set's bytes as given, whatever they are; returns the status."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE

    entity = ApplicationEntity("HOSTILE")
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    association = entity.associate(
        "127.0.0.1", node.dicom_port, [build_context(dataset.SOPClassUID, syntax)], ae_title="RADNODE"
    )
    assert association.is_established
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = dataset.SOPClassUID
    request.AffectedSOPInstanceUID = dataset.SOPInstanceUID
    request.Priority = 2
    request.DataSet = BytesIO(encoded)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _context_id, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    return int(answer.Status)


def body_of(dataset: Dataset, path: Path) -> bytes:
    """The encoded data set without preamble and file meta information."""
    dataset.save_as(path, enforce_file_format=True)
    raw = path.read_bytes()
    return raw[144 + int.from_bytes(raw[140:144], "little") :]


def test_a_truncated_film_is_set_aside_with_its_reason(
    node: RunningNode, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = film()
    encoded = body_of(dataset, tmp_path / "whole.dcm")
    assert send_bytes(node, dataset, encoded[: len(encoded) // 2]) == 0
    account = node.wait_for_outcome(dataset.StudyInstanceUID)
    assert (account["outcome"], account["outcome_reason"]) == ("not_analysed", "unreadable")
    assert "ends in the pixel data" in account["outcome_detail"] + str(account["events"])


def test_a_lie_about_two_gigabytes_is_refused_without_using_them(
    node: RunningNode, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = film()
    dataset.Rows = dataset.Columns = 46341
    encoded = bytearray(body_of(dataset, tmp_path / "whole.dcm"))
    where = encoded.index(b"\xe0\x7f\x10\x00")
    encoded[where + 8 : where + 12] = (0x7FFFFFFE).to_bytes(4, "little")
    assert send_bytes(node, dataset, bytes(encoded)) == 0
    account = node.wait_for_outcome(dataset.StudyInstanceUID)
    assert account["outcome"] != "analysed"
    assert account["instances"][0]["reason"] in ("too_large", "unreadable")


def test_missing_uids_are_told_to_the_sender(node: RunningNode, film: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = film()
    announced = film(seed=1)
    del dataset.StudyInstanceUID
    assert send_bytes(node, announced, body_of(dataset, tmp_path / "no-study.dcm")) in (0xA900, 0xC000)


def test_zero_size_pixel_data_are_a_reason(node: RunningNode, film: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = film()
    dataset.PixelData = b""
    dataset.Rows = 0
    assert send(node, dataset, tmp_path / "empty.dcm") is Sent.ACCEPTED
    account = node.wait_for_outcome(dataset.StudyInstanceUID)
    assert account["outcome"] in ("no_route", "not_analysed")
    assert account["instances"][0]["reason"] == "no_pixels"


def test_a_colour_photo_wrapped_as_dx_is_not_analysed(
    node: RunningNode, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = film()
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = bytes(SIDE * SIDE * 3)
    assert send(node, dataset, tmp_path / "photo.dcm") is Sent.ACCEPTED
    account = node.wait_for_outcome(dataset.StudyInstanceUID)
    assert account["instances"][0]["reason"] == "not_grey"


def test_the_chest_of_a_cat_is_outside_the_intended_use_or_flagged(node: RunningNode, tmp_path: Path) -> None:
    source = sorted(Path(next(iter(deid_data.__path__))).rglob("*.dcm"))[0]
    cat = dcmread(source)
    cat.StudyInstanceUID = generate_uid()
    assert send(node, cat, tmp_path / "cat.dcm") is Sent.ACCEPTED
    account = node.wait_for_outcome(cat.StudyInstanceUID)
    assert account["outcome"] in ("not_analysed", "no_route", "analysed")
    if account["outcome"] == "analysed":
        assert account["jobs"][-1]["flags"]
    else:
        assert account["outcome_reason"]


def test_sop_class_and_modality_that_disagree_are_a_contradiction(
    node: RunningNode, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = film()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    assert send(node, dataset, tmp_path / "odd.dcm") is Sent.ACCEPTED
    account = node.wait_for_outcome(dataset.StudyInstanceUID)
    assert account["instances"][0]["reason"] == "contradiction"


def test_two_patients_in_one_study_get_no_result_at_all(
    node: RunningNode, film: Callable[..., Dataset], archive: Orthanc, tmp_path: Path
) -> None:
    first, second = film(seed=1, patient_id="A-1"), film(seed=2, patient_id="B-2")
    second.StudyInstanceUID = first.StudyInstanceUID
    for number, dataset in enumerate((first, second)):
        dataset.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    node.send([tmp_path / "0.dcm", tmp_path / "1.dcm"])
    account = node.wait_for_outcome(first.StudyInstanceUID)
    assert (account["outcome"], account["outcome_reason"]) == ("not_analysed", "two_patients")
    assert not account["results"]
    assert all(one.study_uid != first.StudyInstanceUID for one in archive.instances())


def test_single_mammograms_under_four_patient_ids_each_say_what_is_missing(
    node: RunningNode, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    studies = []
    for number, (side, view) in enumerate((("L", "CC"), ("R", "CC"), ("L", "MLO"), ("R", "MLO"))):
        dataset = write_secondary_capture(
            tmp_path / f"{number}.dcm", PatientID=f"W-{number}", Modality="MG", ImageLaterality=side, ViewPosition=view
        )
        studies.append(dataset.StudyInstanceUID)
    node.send(sorted(tmp_path.glob("*.dcm")))
    for study_uid in studies:
        account = node.wait_for_outcome(study_uid)
        assert account["state"] == "incomplete"
        assert account["outcome"] == "no_route"
        assert "no-such-model is not installed" in account["outcome_detail"]
        assert any("MLO" in event["detail"] for event in account["events"] if event["stage"] == "assemble")


def test_a_study_of_five_thousand_instances_is_kept_whole(node: RunningNode, tmp_path: Path) -> None:
    study_uid, series_uid = generate_uid(), generate_uid()
    folder = tmp_path / "many"
    folder.mkdir()
    template = write_secondary_capture(folder / "0.dcm", study_uid=study_uid, series_uid=series_uid, side=8)
    for number in range(1, 5000):
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = f"{series_uid}.{number}"[:64]
        template.InstanceNumber = number
        template.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    outcomes = node.try_to_send([folder])
    assert all(outcome.sent is Sent.ACCEPTED for outcome in outcomes)
    shutil.rmtree(folder)
    account = node.wait_for_outcome(study_uid, timeout_s=120)
    assert account["outcome"] == "no_route"
    assert len(account["instances"]) == 5000


def test_an_association_cut_in_the_middle_of_an_object_leaves_nothing_half_done(
    node: RunningNode, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    first, cut = film(seed=1), film(seed=2)
    cut.StudyInstanceUID = first.StudyInstanceUID
    first.save_as(tmp_path / "first.dcm", enforce_file_format=True)
    encoded = body_of(cut, tmp_path / "cut.dcm")
    entity = ApplicationEntity("CUTTER")
    association = entity.associate(
        "127.0.0.1",
        node.dicom_port,
        [build_context(first.SOPClassUID, str(first.file_meta.TransferSyntaxUID))],
        ae_title="RADNODE",
    )
    assert association.send_c_store(dcmread(tmp_path / "first.dcm")).Status == 0
    raw = association.dul.socket.socket
    assert isinstance(raw, socket.socket)
    header = bytes([4, 0]) + (len(encoded) + 6).to_bytes(4, "big")
    raw.sendall(header + (len(encoded) + 2).to_bytes(4, "big") + bytes([1, 0]) + encoded[:100])
    raw.close()
    association.kill()
    account = node.wait_for_outcome(first.StudyInstanceUID)
    assert account["outcome"] == "analysed"
    assert len(account["instances"]) == 1


def test_an_association_that_is_never_closed_holds_its_study_only_while_it_is_not_idle(
    node: RunningNode, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = film()
    entity = ApplicationEntity("NEVERCLOSES")
    association = entity.associate(
        "127.0.0.1",
        node.dicom_port,
        [build_context(dataset.SOPClassUID, str(dataset.file_meta.TransferSyntaxUID))],
        ae_title="RADNODE",
    )
    try:
        dataset.save_as(tmp_path / "film.dcm", enforce_file_format=True)
        assert association.send_c_store(dcmread(tmp_path / "film.dcm")).Status == 0
        started = time.monotonic()
        account = node.wait_for_outcome(dataset.StudyInstanceUID)
        assert account["outcome"] == "analysed"
        assert time.monotonic() - started > 0.5, "it was not held while the association could still bring more"
        assert association.is_established
    finally:
        association.release()


def test_wrong_value_representations_do_not_stop_anything(
    node: RunningNode, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = film()
    encoded = body_of(dataset, tmp_path / "film.dcm").replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00FD", 1)
    assert send_bytes(node, dataset, encoded) == 0
    account = node.wait_for_outcome(dataset.StudyInstanceUID)
    assert account["outcome"] in ("analysed", "not_analysed", "no_route", "quarantined")
    if account["outcome"] != "analysed":
        assert account["outcome_reason"]
