"""`kill -9` of the whole node at random moments under load: nothing acknowledged is lost, nothing is done twice.

A sender keeps sending films, of which some are large enough to be cut in the middle; every process of the node is
killed at a random moment and started again, fifty times and until every stage was hit often enough. What was under way
at a kill is read from what the kill left: half-received files, unsettled studies, jobs and deliveries in the ledger.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from dicom_node.delivery.archive import Sent
from dicom_node.ledger import Ledger
from dicom_node.ledger.schema import delivery, instance, job, result_object, result_set, study
from dicom_node.states import DeliveryState, JobStage, JobState, Outcome, StudyState
from dicom_node.store import Store
from tests.archives import Orthanc
from tests.dx_wrapping import wrap_film_as_dx
from tests.running_node import RunningNode, to_orthanc
from tests.toy_model import install_toy_model

KILLS = 50
HITS_WANTED = 3
MAX_KILLS = 90
STAGES = ("receive", "assemble", "infer", "encode", "deliver")
SMALL_SIDE, LARGE_SIDE = 512, 3000
SEED = 20261122
LONGEST_RUN_S = 3.5
BACKLOG = 25  # studies ahead of the node: every stage has work at any moment
BUSY_ROUNDS = 200  # the toy network then takes a good part of the time, as a real one does


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    orthanc = Orthanc(tmp_path_factory.mktemp("archive"))
    orthanc.start()
    yield orthanc
    orthanc.stop()


@pytest.mark.timeout(1800)
def test_a_node_killed_at_fifty_random_moments_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, archive: Orthanc
) -> None:
    models = tmp_path / "models"
    card = install_toy_model(models, busy_rounds=BUSY_ROUNDS)
    node = RunningNode(
        tmp_path / "node",
        {
            "receiver": {"processes": 2},
            "assembly": {"projection_quiet_s": 0.3, "association_idle_s": 1.0},
            "delivery": {"first_retry_s": 0.2, "longest_retry_s": 1.0},
            "destination": [to_orthanc(archive)],
        },
        routes=[{"name": "films", "model": card.identity.name, "destinations": ["pacs"]}],
        models=models,
    )
    load = Load(node, tmp_path / "films")
    draw = random.Random(SEED)
    hits: Counter[str] = Counter()
    kills = 0
    load.start()
    try:
        while kills < KILLS or (min(hits[stage] for stage in STAGES) < HITS_WANTED and kills < MAX_KILLS):
            node.start()
            load.node_is_up.set()
            time.sleep(draw.uniform(0.05, LONGEST_RUN_S))
            node.kill()
            load.node_is_up.clear()
            kills += 1
            hits.update(stages_under_way(node))
    finally:
        load.stop()
        print(f"\n{kills} kills; under way at a kill: {dict(hits)}; {len(load.acknowledged)} instances acknowledged")
    assert min(hits[stage] for stage in STAGES) >= HITS_WANTED, f"a stage was never hit often enough: {hits}"

    node.start()
    try:
        wait_until_idle(node)
    finally:
        node.stop()
    ledger = Ledger(f"sqlite:///{node.data_dir / 'ledger.sqlite3'}")
    assert_every_acknowledged_instance_is_there(ledger, Store(node.data_dir), load.acknowledged)
    assert_every_study_ended_once(ledger)
    assert_the_archive_has_each_current_object_once_and_nothing_else(ledger, archive)


class Load:
    """Sends films on two associations, each until it is acknowledged, whoever dies, and never far ahead of the node."""

    def __init__(self, node: RunningNode, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.acknowledged: dict[str, str] = {}
        self.node_is_up = threading.Event()
        self._stop = threading.Event()
        folder.mkdir()
        self._senders = [
            threading.Thread(target=self._send, args=(name, side), daemon=True)
            for name, side in (("LARGE", LARGE_SIDE), ("SMALL", SMALL_SIDE))
        ]

    def start(self) -> None:
        for sender in self._senders:
            sender.start()

    def stop(self) -> None:
        self._stop.set()
        for sender in self._senders:
            sender.join()

    def _send(self, name: str, side: int) -> None:
        film = self._film(name, side)
        digest = hashlib.sha256(film.PixelData).hexdigest()
        path = self.folder / f"{name}.dcm"
        for serial in itertools.count():
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(film, keyword, generate_uid(entropy_srcs=[name, keyword, str(serial)]))
            film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
            film.PatientID = f"DRILL-{name}-{serial}"
            film.save_as(path, enforce_file_format=True)
            while not self._acknowledges(path, name):
                if self._stop.is_set():
                    return
            self.acknowledged[film.SOPInstanceUID] = digest

    def _acknowledges(self, path: Path, name: str) -> bool:
        if not self.node_is_up.wait(0.1) or unsettled_and_undelivered(self.node)[0] > BACKLOG:
            time.sleep(0.02)
            return False
        return self.node.try_to_send([path], calling_ae=name)[0].sent is Sent.ACCEPTED

    def _film(self, name: str, side: int) -> FileDataset:
        grey = np.random.default_rng(SEED).normal(90, 12, (side // 8, side // 8))
        spot = side // 16
        grey[spot : spot + side // 40, spot : spot + side // 40] = 250
        picture = self.folder / f"{name}.png"
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).resize((side, side)).save(picture)
        return wrap_film_as_dx(picture)


def stages_under_way(node: RunningNode) -> set[str]:
    """The stages that the kill interrupted, from what it left behind."""
    ledger = Ledger(f"sqlite:///{node.data_dir / 'ledger.sqlite3'}")
    under_way: set[str] = set()
    if any((node.data_dir / "incoming").iterdir()):
        under_way.add("receive")
    with ledger.read() as tx:
        if tx.execute(sa.select(study.c.study_uid).where(study.c.state == StudyState.RECEIVING)).first():
            under_way.add("assemble")
        running = tx.execute(sa.select(job.c.stage).where(job.c.state == JobState.RUNNING)).scalars().all()
        if tx.execute(sa.select(delivery.c.id).where(delivery.c.attempt_started_at.is_not(None))).first():
            under_way.add("deliver")
    ledger.close()
    if {JobStage.LOAD, JobStage.INFER} & set(running):
        under_way.add("infer")
    if JobStage.ENCODE in running:
        under_way.add("encode")
    return under_way


def unsettled_and_undelivered(node: RunningNode) -> tuple[int, int]:
    """How many studies have no Outcome yet, and how many deliveries are not confirmed."""
    ledger = Ledger(f"sqlite:///{node.data_dir / 'ledger.sqlite3'}")
    open_study = sa.or_(study.c.state == StudyState.RECEIVING, study.c.outcome.is_(None))
    open_delivery = delivery.c.state != DeliveryState.CONFIRMED
    try:
        with ledger.read() as tx:
            unsettled = tx.execute(sa.select(sa.func.count()).select_from(study).where(open_study)).scalar_one()
            undelivered = tx.execute(sa.select(sa.func.count()).select_from(delivery).where(open_delivery)).scalar_one()
        return unsettled, undelivered
    finally:
        ledger.close()


def wait_until_idle(node: RunningNode, timeout_s: float = 240.0) -> None:
    """Wait until every study has its Outcome and every delivery has ended."""
    deadline = time.monotonic() + timeout_s
    while any(left := unsettled_and_undelivered(node)):
        assert time.monotonic() < deadline, f"unsettled, undelivered: {left}\n{node.log_tail()}"
        time.sleep(0.2)


def assert_every_acknowledged_instance_is_there(ledger: Ledger, store: Store, acknowledged: dict[str, str]) -> None:
    from pydicom import dcmread

    assert acknowledged
    with ledger.read() as tx:
        rows = tx.execute(sa.select(instance.c.sop_instance_uid, instance.c.path).where(instance.c.is_current)).all()
    paths = {row.sop_instance_uid: row.path for row in rows}
    assert len(paths) == len(rows), "an instance has two current rows"
    lost = set(acknowledged) - set(paths)
    assert not lost, f"{len(lost)} acknowledged instance(s) have no row"
    for uid, digest in acknowledged.items():
        pixels = dcmread(store.path(paths[uid])).PixelData
        assert hashlib.sha256(pixels).hexdigest() == digest


def assert_every_study_ended_once(ledger: Ledger) -> None:
    with ledger.read() as tx:
        outcomes = Counter(tx.execute(sa.select(study.c.outcome)).scalars())
        current = Counter(
            tx.execute(
                sa.select(result_set.c.study_uid, result_set.c.model_name, result_set.c.profile).where(
                    result_set.c.is_current
                )
            ).all()
        )
        studies = set(tx.execute(sa.select(study.c.study_uid)).scalars())
    assert set(outcomes) == {Outcome.ANALYSED}, outcomes
    assert {key[0] for key in current} == studies
    assert set(current.values()) == {1}


def assert_the_archive_has_each_current_object_once_and_nothing_else(ledger: Ledger, archive: Orthanc) -> None:
    with ledger.read() as tx:
        written = tx.execute(
            sa.select(result_object.c.sop_instance_uid)
            .join(result_set, result_set.c.id == result_object.c.result_set_id)
            .where(result_set.c.is_current)
        ).scalars()
        expected = Counter(written)
    assert Counter(one.sop_uid for one in archive.instances()) == expected
