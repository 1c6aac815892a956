"""The main job from sender to archive, as a hospital would see it: real node, real Orthanc, real protocols."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.delivery.archive import Sent
from tests.archives import Orthanc
from tests.conftest import PROJECT
from tests.dx_wrapping import wrap_film_as_dx
from tests.judges import assert_valid_result_object
from tests.postgresql import running_postgresql
from tests.running_node import RunningNode, to_dicomweb, to_orthanc
from tests.toy_model import install_toy_model

SIDE = 384
ROUTE = {"name": "films", "model": "toy-opacity", "destinations": ["pacs"], "match": {"modality": ["CR", "DX"]}}
QUICK = {"projection_quiet_s": 0.3, "association_idle_s": 1.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    install_toy_model(folder)
    return folder


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Dataset]:
    def make(name: str, *, spot: int = 60, **wrapping: object) -> Dataset:
        grey = np.random.default_rng(len(name)).normal(90, 10, (SIDE, SIDE))
        grey[spot : spot + 40, 60:100] = 250
        picture = tmp_path / f"{name}.png"
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(picture)
        study_uid = wrapping.pop("study_uid", None) or generate_uid()
        wrapped: Dataset = wrap_film_as_dx(picture, study_uid=str(study_uid), **wrapping)  # type: ignore[arg-type]
        wrapped.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
        return wrapped

    return make


@pytest.fixture
def start(tmp_path: Path, models: Path) -> Iterator[Callable[..., RunningNode]]:
    started: list[RunningNode] = []

    def make(settings: dict[str, object], **route: object) -> RunningNode:
        node = RunningNode(
            tmp_path / "node", {"assembly": QUICK, **settings}, routes=[{**ROUTE, **route}], models=models
        )
        node.start()
        started.append(node)
        return node

    yield make
    for node in started:
        node.kill()


@pytest.fixture
def ledger_url() -> Iterator[str]:
    """Address of an empty database of a real PostgreSQL."""
    with running_postgresql() as server, server.fresh_database() as url:
        yield url


def of_study(archive: Orthanc, dataset: Dataset) -> list[str]:
    return [one.sop_uid for one in archive.instances() if one.study_uid == dataset.StudyInstanceUID]


@pytest.mark.parametrize("protocol", ["dimse", "dicomweb"])
def test_a_film_comes_back_as_valid_objects_by_either_protocol(
    protocol: str, start: Callable[..., RunningNode], archive: Orthanc, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    destination = to_orthanc(archive) if protocol == "dimse" else to_dicomweb(archive)
    node = start({"destination": [destination]})
    sent = film("film", patient_name="Щёголев^Юрий^Ъ", patient_id=f"E2E-{protocol}")
    node.send([tmp_path / "film.dcm"])
    account = node.wait_for_outcome(sent.StudyInstanceUID)
    assert account["outcome"] == "analysed"
    assert [one["state"] for one in account["deliveries"]] == ["confirmed"]
    objects = {one["role"]: one["sop_instance_uid"] for one in account["results"][0]["objects"]}
    assert set(objects) == {"sr", "overlay"}
    for role, sop_uid in objects.items():
        path = tmp_path / f"{role}.dcm"
        path.write_bytes(archive.dicom_file(sop_uid))
        assert_valid_result_object(path, [tmp_path / "film.dcm"])
        assert str(dcmread(path).PatientName) == "Щёголев^Юрий^Ъ"


def test_an_archive_that_calls_back_confirms_by_storage_commitment(
    start: Callable[..., RunningNode], archive: Orthanc, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    node = start({"destination": [to_orthanc(archive, confirm="commitment", commitment_patience_s=20.0)]})
    archive.know("RADNODE", node.dicom_port)
    try:
        sent = film("film")
        node.send([tmp_path / "film.dcm"])
        account = node.wait_for_outcome(sent.StudyInstanceUID)
        assert [(one["state"], one["reason"]) for one in account["deliveries"]] == [("confirmed", "storage commitment")]
    finally:
        archive.forget()


def test_an_archive_that_is_down_for_a_while_gets_everything_once_and_nobody_needs_a_hand(
    start: Callable[..., RunningNode], archive: Orthanc, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    node = start({"destination": [to_orthanc(archive)], "delivery": {"first_retry_s": 0.2, "longest_retry_s": 1.0}})
    archive.stop()
    studies = [film(f"film-{number}", patient_id=f"DOWN-{number}") for number in range(8)]
    node.send(sorted(tmp_path.glob("film-*.dcm")))
    for study in studies:
        account = node.wait_for_outcome(study.StudyInstanceUID, delivered=False)
        assert account["outcome"] == "analysed"
    time.sleep(2.5)  # at the longest wait of 1 s: several attempts fail, and the circuit opens
    waiting = node.account(studies[0].StudyInstanceUID)
    assert waiting is not None
    assert [one["state"] for one in waiting["deliveries"]] == ["pending"]
    assert waiting["deliveries"][0]["attempts"] >= 1
    archive.start()
    for study in studies:
        account = node.wait_for_outcome(study.StudyInstanceUID)
        assert [one["state"] for one in account["deliveries"]] == ["confirmed"]
        expected = [one["sop_instance_uid"] for row in account["results"] for one in row["objects"]]
        assert Counter(of_study(archive, study)) == Counter(expected)


def test_a_lateral_film_that_comes_late_costs_the_frontal_nothing_and_changes_nothing(
    start: Callable[..., RunningNode], archive: Orthanc, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    node = start({"destination": [to_orthanc(archive)]})
    frontal = film("frontal")
    node.send([tmp_path / "frontal.dcm"])
    first = node.wait_for_outcome(frontal.StudyInstanceUID)
    film("lateral", view="LL", study_uid=frontal.StudyInstanceUID, patient_id="TEST-frontal")
    node.send([tmp_path / "lateral.dcm"])
    deadline = time.monotonic() + 30
    while (account := node.wait_for_outcome(frontal.StudyInstanceUID))["revision"] < 2 or account[
        "state"
    ] == "receiving":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(account["jobs"]) == 1
    assert account["results"] == first["results"]
    assert any("whose result stands" in event["what"] for event in account["events"])


def test_a_late_frontal_film_supersedes_the_result_and_names_it(
    start: Callable[..., RunningNode], archive: Orthanc, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    node = start({"destination": [to_orthanc(archive)]})
    first = film("first", spot=60)
    node.send([tmp_path / "first.dcm"])
    before = node.wait_for_outcome(first.StudyInstanceUID)
    film("second", spot=240, study_uid=first.StudyInstanceUID, patient_id="TEST-first")
    node.send([tmp_path / "second.dcm"])
    deadline = time.monotonic() + 30
    while len((account := node.wait_for_outcome(first.StudyInstanceUID))["results"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    old, new = account["results"]
    assert (old["is_current"], new["is_current"]) == (False, True)
    old_sr, new_sr = (
        next(one["sop_instance_uid"] for one in row["objects"] if one["role"] == "sr") for row in (old, new)
    )
    assert before["results"][0]["objects"] == old["objects"]
    path = tmp_path / "new-sr.dcm"
    path.write_bytes(archive.dicom_file(new_sr))
    report = dcmread(path)
    predecessors = [
        one.ReferencedSOPInstanceUID
        for item in report.PredecessorDocumentsSequence
        for series in item.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    ]
    assert old_sr in predecessors


def test_retracting_a_study_tells_the_archive(
    start: Callable[..., RunningNode], archive: Orthanc, film: Callable[..., Dataset], tmp_path: Path
) -> None:
    node = start({"destination": [to_orthanc(archive)]})
    sent = film("film")
    node.send([tmp_path / "film.dcm"])
    before = node.wait_for_outcome(sent.StudyInstanceUID)
    node.command("retract", sent.StudyInstanceUID, "--yes", "--reason", "patient_safety")
    deadline = time.monotonic() + 30
    while len(of_study(archive, sent)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    account = node.wait_for_outcome(sent.StudyInstanceUID)
    note_uid = account["results"][-1]["objects"][0]["sop_instance_uid"]
    path = tmp_path / "note.dcm"
    path.write_bytes(archive.dicom_file(note_uid))
    note = dcmread(path)
    assert note.Modality == "KO"
    named = {
        one.ReferencedSOPInstanceUID
        for item in note.CurrentRequestedProcedureEvidenceSequence
        for series in item.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert {one["sop_instance_uid"] for one in before["results"][0]["objects"]} <= named


def test_a_second_machine_works_from_the_same_postgresql_ledger_and_files(
    start: Callable[..., RunningNode],
    archive: Orthanc,
    film: Callable[..., Dataset],
    ledger_url: str,
    tmp_path: Path,
) -> None:
    node = start(
        {
            "destination": [to_orthanc(archive)],
            "ledger": {"url": ledger_url},
            "worker": {"count": 0},
        }
    )
    sent = film("film")
    node.send([tmp_path / "film.dcm"])
    time.sleep(2)
    waiting = node.account(sent.StudyInstanceUID)
    assert waiting is not None
    assert [job["state"] for job in waiting["jobs"]] == ["queued"]
    other = tmp_path / "other-machine.toml"
    other.write_text(node.settings_file.read_text().replace("count = 0", "count = 1"))
    (tmp_path / "routes.toml").write_text((node.folder / "routes.toml").read_text())
    other.write_text(other.read_text().replace('data_dir = "data"', f'data_dir = "{node.data_dir}"'))
    worker = subprocess.Popen(
        [sys.executable, "-c", "from dicom_node.cli import main; main()", "--settings", str(other), "worker"],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        account = node.wait_for_outcome(sent.StudyInstanceUID)
        assert account["outcome"] == "analysed"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def test_a_ledger_that_goes_away_for_a_while_costs_nothing_that_was_acknowledged(
    start: Callable[..., RunningNode],
    archive: Orthanc,
    film: Callable[..., Dataset],
    ledger_url: str,
    tmp_path: Path,
) -> None:
    node = start({"destination": [to_orthanc(archive)], "ledger": {"url": ledger_url}})
    before, during = film("before"), film("during", patient_id="DURING")
    node.send([tmp_path / "before.dcm"])
    with outage(ledger_url):
        outcome = node.try_to_send([tmp_path / "during.dcm"])[0]
        assert outcome.sent is Sent.RETRY, outcome
        time.sleep(4)  # every loop of the node meets the outage
    assert node.wait_for_outcome(before.StudyInstanceUID)["outcome"] == "analysed"
    deadline = time.monotonic() + 30
    while node.try_to_send([tmp_path / "during.dcm"])[0].sent is not Sent.ACCEPTED:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    account = node.wait_for_outcome(during.StudyInstanceUID)
    assert account["outcome"] == "analysed"
    assert all(job["attempts"] <= 2 for job in account["jobs"])


@contextmanager
def outage(ledger_url: str) -> Iterator[None]:
    """A database that ends every connection and takes no new one."""
    address = sa.make_url(ledger_url)
    server = sa.create_engine(address.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {address.database} WITH ALLOW_CONNECTIONS false")
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        connection.execute(sa.text(ended), {"name": address.database})
        try:
            yield
        finally:
            connection.exec_driver_sql(f"ALTER DATABASE {address.database} WITH ALLOW_CONNECTIONS true")
    server.dispose()
