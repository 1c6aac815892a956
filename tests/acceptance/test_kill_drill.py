"""`kill -9` of the whole node at random moments under load: nothing acknowledged is lost, nothing is done twice.

A sender keeps sending films, of which some are large enough to be cut in the middle; every process of the node is
killed at a random moment and started again, fifty times and until every stage was hit often enough. What was under way
at a kill is read from what the kill left (`stages_under_way` says exactly what counts).
"""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import generate_uid

from dicom_node.delivery.archive import Sent
from dicom_node.dimse.command import file_meta
from dicom_node.ledger import Ledger, instances
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
STAGES = ("receive", "quiet", "assemble", "infer", "encode", "deliver")
SENDERS = (("LARGE", 3000), ("SMALL", 512))  # AE title, side of its films in pixels
QUIET_S = 0.3
SEED = 20261122
LONGEST_RUN_S = 3.5
AIMED_S = 15.0  # how long a stage that was hit too seldom is waited for
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
            "assembly": {"projection_quiet_s": QUIET_S, "association_idle_s": 1.0},
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
            moment = draw.uniform(0.05, LONGEST_RUN_S)
            if kills < KILLS:
                time.sleep(moment)
            else:  # on a busy machine chance leaves a short stage out: now it is waited for
                wait_for_a_stage(node, {stage for stage in STAGES if hits[stage] < HITS_WANTED})
            killed_at = datetime.now(UTC)
            node.kill()
            load.node_is_up.clear()
            kills += 1
            hits.update(stages_under_way(node, killed_at))
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
        self._senders = [threading.Thread(target=self._send, args=(name, side), daemon=True) for name, side in SENDERS]

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
        return wrap_film_as_dx(_grey_picture(self.folder / f"{name}.png", side))


def _grey_picture(path: Path, side: int) -> Path:
    """A picture of noise with one bright spot, for the toy model to find."""
    grey = np.random.default_rng(SEED).normal(90, 12, (side // 8, side // 8))
    spot = side // 16
    grey[spot : spot + side // 40, spot : spot + side // 40] = 250
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).resize((side, side)).save(path)
    return path


def stages_under_way(node: RunningNode, killed_at: datetime) -> set[str]:
    """The stages that a kill interrupted, from what it left behind.

    receive
        A file in `incoming/` that an acceptor had begun, or one in `instances/` of which the ledger does not know.
        Every start empties the first and takes up the second, so what is there is of this kill.
    quiet
        A study whose film is in the ledger, within its quiet time.
    assemble
        A study whose quiet time was over at the kill and that was not settled: its header was being read, its
        association was still open, or the decision was being taken.
    infer, encode
        A job that a worker had claimed, at this stage by its last commit.
    deliver
        A delivery whose attempt had begun and not ended.
    """
    ledger = Ledger(f"sqlite:///{node.data_dir / 'ledger.sqlite3'}")
    under_way: set[str] = set()
    with ledger.read() as tx:
        known = instances.known_paths(tx)
        received = tx.execute(sa.select(study.c.last_received_at).where(study.c.state == StudyState.RECEIVING))
        for last_received_at in received.scalars():
            is_quiet = last_received_at + timedelta(seconds=QUIET_S) > killed_at
            under_way.add("quiet" if is_quiet else "assemble")
        running = tx.execute(sa.select(job.c.stage).where(job.c.state == JobState.RUNNING)).scalars().all()
        if tx.execute(sa.select(delivery.c.id).where(delivery.c.attempt_started_at.is_not(None))).first():
            under_way.add("deliver")
    ledger.close()
    if something_is_half_received(node.data_dir, known):
        under_way.add("receive")
    if {JobStage.LOAD, JobStage.INFER} & set(running):
        under_way.add("infer")
    if JobStage.ENCODE in running:
        under_way.add("encode")
    return under_way


def wait_for_a_stage(node: RunningNode, wanted: set[str]) -> None:
    """Return as soon as one of the stages is under way, and after a while in any case."""
    deadline = time.monotonic() + AIMED_S
    while time.monotonic() < deadline and not wanted & stages_under_way(node, datetime.now(UTC)):
        time.sleep(0.01)


def something_is_half_received(data_dir: Path, known: Collection[str]) -> bool:
    """Whether an object was being received; results pass through `incoming/` too and do not count.

    An acceptor begins its file with file meta information that names the sender; a result names none, and an empty
    file says nothing.
    """
    if any(is_of_a_sender(path) for path in (data_dir / "incoming").iterdir()):
        return True
    placed = {path.relative_to(data_dir).as_posix() for path in (data_dir / "instances").rglob("*.dcm")}
    return not placed <= set(known)


def is_of_a_sender(path: Path) -> bool:
    """Whether a file begins as an acceptor begins it: with Source Application Entity Title (0002,0016) of a sender."""
    try:
        meta = read_file_meta_info(path)
    except (InvalidDicomError, EOFError, FileNotFoundError):
        return False  # empty, cut within its first bytes, or moved to its place by a node that runs
    return meta.get("SourceApplicationEntityTitle") in {name for name, _side in SENDERS}


def test_only_what_an_acceptor_began_counts_as_half_received(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    film = wrap_film_as_dx(_grey_picture(tmp_path / "film.png", 64))
    film.save_as(tmp_path / "result.dcm", enforce_file_format=True)
    result = store.create_incoming()
    assert not something_is_half_received(tmp_path, ()), "an empty file may become anything"
    result.write((tmp_path / "result.dcm").read_bytes()[:1000])
    assert not something_is_half_received(tmp_path, ()), "a result being written is not received"
    received = store.create_incoming()
    received.write(
        file_meta(
            sop_class_uid=film.SOPClassUID,
            sop_instance_uid=film.SOPInstanceUID,
            transfer_syntax_uid=film.file_meta.TransferSyntaxUID,
            calling_ae=SENDERS[0][0],
            called_ae="RADNODE",
        )
    )
    assert something_is_half_received(tmp_path, ())
    placed = store.place(received)
    assert something_is_half_received(tmp_path, ()), "placed, and not yet in the ledger"
    assert not something_is_half_received(tmp_path, (placed,))


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
