"""kill -9 at fifty random moments of the couriers' work: every document arrives once, in order per study, all the same.

A child process starts as a node does and brings documents; the test lets studies come, corrects and withdraws them, and
kills the child. The receiver lives on with moods of its own: it fails, hangs, cuts connections and forgets.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_node.ledger import documents
from dicom_node.ledger.schema import document
from dicom_node.states import DocumentState
from tests.outbox_child import run_couriers
from tests.outbox_rig import Mood, MoodyService, OutboxRig, moody_service
from tests.outbox_story import (
    assert_drafts_say_their_versions,
    assert_each_arrived_once_and_in_order,
    report,
    study_of,
    take_back,
)

KILLS = 50
MAX_KILLS = 80
STUDIES = 60
PORTION = 4  # studies that are told of between two kills
SEED = 20261123
LONGEST_RUN_S = 0.5
AIMED_S = 5.0  # how long a stage that was hit too seldom is waited for
HITS_WANTED = 2
MOODS = [Mood.HONEST] * 8 + [Mood.BROKEN, Mood.SLOW, Mood.CUTS, Mood.CUTS_EARLY, Mood.FORGETS]
START_S = 30.0
DRAIN_S = 60.0

# Where a kill can hit a document, told from what it leaves behind
CLAIMED = "claimed"  # taken to be written, and no file of it is begun
WRITING = "writing"  # its file is begun or whole, and the ledger does not name it
WRITTEN = "written"  # the ledger names its file; nothing has been attempted
COUNTED = "attempt counted"  # the attempt is counted, and the receiver has not kept it
SENT = "sent"  # the receiver has kept it, and its acknowledgement is not entered
ACKNOWLEDGED = "acknowledged"  # handed over, and not yet confirmed
CONFIRMED = "confirmed"  # the last word on it was entered in this run
STAGES = (CLAIMED, WRITING, WRITTEN, COUNTED, SENT, ACKNOWLEDGED, CONFIRMED)


class Couriers:
    """The process that is killed again and again."""

    def __init__(self, rig: OutboxRig) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.outbox_child"])
        self._settings = rig.settings.model_dump_json()
        self._process: BaseProcess | None = None
        self._told: Connection | None = None

    def start(self) -> None:
        self._told, child = self._context.Pipe(duplex=False)
        self._process = self._context.Process(target=run_couriers, args=(self._settings, child), daemon=True)
        self._process.start()
        child.close()

    def wait_until_recovered(self) -> None:
        assert self._told is not None and self._told.poll(START_S), "the couriers did not start"
        assert self._told.recv() == "recovered"

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.join(START_S)
        assert self._process.exitcode == -9, f"it had ended by itself: {self._process.exitcode}"


@pytest.fixture
def service() -> Iterator[MoodyService]:
    draw = random.Random(SEED)
    with moody_service(MoodyService(mood=lambda: draw.choice(MOODS), slow_s=0.3)) as running:
        yield running


@pytest.mark.timeout(600)
def test_couriers_killed_at_fifty_random_moments_bring_every_document_once_and_in_order(
    tmp_path: Path, service: MoodyService
) -> None:
    record = {"name": "emr", "kind": "semd", "url": service.url, "accept_research": True, "response_timeout_s": 0.15}
    waits = {
        "context_file": tmp_path / "context.toml",
        "first_retry_s": 0.1,
        "longest_retry_s": 0.4,
        "first_confirm_s": 0.05,
        "resend_after_confirmations": 2,
        "poll_s": 0.02,
    }
    rig = OutboxRig(tmp_path, [record], patients=STUDIES + PORTION * (MAX_KILLS - KILLS), outbox=waits)
    couriers = Couriers(rig)
    draw = random.Random(SEED)
    story = words_on_studies(rig)
    told = STUDIES
    hits: Counter[str] = Counter()
    kills = 0
    try:
        while kills < KILLS or (min(hits[stage] for stage in STAGES) < HITS_WANTED and kills < MAX_KILLS):
            confirmed = count_confirmed(rig)
            aimed = kills >= KILLS
            if aimed:  # on a busy machine chance leaves a short stage out: now it is waited for, with work of its own
                tell(rig, range(told, told := told + PORTION))
            elif kills % 2:  # half of the words are said while nobody brings them, half to couriers at work
                next(story, None)
            couriers.start()
            started = aimed or kills % 10 != 8  # every tenth kill may hit the start itself
            if started:
                couriers.wait_until_recovered()
            if aimed:
                wait_for_a_stage(rig, service, confirmed, {stage for stage in STAGES if hits[stage] < HITS_WANTED})
            else:
                if started and not kills % 2:
                    next(story, None)
                time.sleep(draw.uniform(0.0, LONGEST_RUN_S))
            couriers.kill()
            kills += 1
            if started:
                hits.update(stages_under_way(rig, service, confirmed))
    finally:
        print(f"\n{kills} kills; under way at a kill: {dict(hits)}; {len(service.order)} documents kept by then")
    assert min(hits[stage] for stage in STAGES) >= HITS_WANTED, f"a stage was never hit often enough: {hits}"

    couriers.start()
    couriers.wait_until_recovered()
    for _rest in story:
        """What chance left untold is told before the account is taken."""
    service.mood = lambda: Mood.HONEST
    deadline = time.monotonic() + DRAIN_S
    while any(row.is_open for row in rig.every_row()) and time.monotonic() < deadline:
        time.sleep(0.1)
    couriers.kill()
    rows = rig.every_row()
    files = {path.relative_to(rig.settings.data_dir).as_posix() for path in letters(rig)}
    with rig.pipeline.ledger.read() as tx:
        known = documents.known_paths(tx)
    rig.close()
    assert_each_arrived_once_and_in_order(
        rows, service.order, studies=[study_of(number) for number in range(STUDIES)], versions=3
    )
    assert_drafts_say_their_versions(rows, service)
    assert files == known, "a letter that the ledger names is lost, or one that a kill left over is still there"
    assert sum(row.attempts for row in rows) > len(service.held), "nothing was attempted twice: the drill was too soft"


def words_on_studies(rig: OutboxRig) -> Iterator[None]:
    """Reports of some studies at a time, then their corrections, then the withdrawals of half of them: 45 portions."""
    portions = [range(first, first + PORTION) for first in range(0, STUDIES, PORTION)]
    for early, late in zip([*portions, [], []], [[], [], *portions], strict=True):
        if early:
            yield tell(rig, early)
        if late:
            yield tell(rig, late, lesions=2)
            yield take_back(rig, late[::2])


def tell(rig: OutboxRig, numbers: range, *, lesions: int = 1) -> None:
    """Films of these studies came some time ago, and a model says so many lesions of them."""
    rig.clock.now = datetime.now(UTC) - timedelta(seconds=20)  # the quiet time is over when it is told
    report(rig, numbers, lesions=lesions)


def stages_under_way(rig: OutboxRig, service: MoodyService, confirmed_before: int) -> set[str]:
    """The stages of `STAGES` at which some document stands."""
    with rig.pipeline.ledger.read() as tx:
        rows = [documents.as_row(row) for row in tx.execute(sa.select(document))]
        claimed = set(tx.execute(sa.select(document.c.id).where(document.c.attempt_started_at.is_not(None))).scalars())
    named = {path for row in rows for path in (row.path, row.request_path) if path}
    taken = [row for row in rows if row.id in claimed]
    incoming = list((rig.settings.data_dir / "incoming").iterdir())
    unnamed = any(path.relative_to(rig.settings.data_dir).as_posix() not in named for path in letters(rig))
    unwritten = any(row.path is None for row in taken)
    attempted = [row for row in taken if row.state is DocumentState.PENDING and row.path and row.attempts]
    found = {
        WRITING: bool(incoming) or unnamed,
        CLAIMED: unwritten and not (incoming or unnamed),
        WRITTEN: any(row.path and row.state is DocumentState.PENDING and not row.attempts for row in rows),
        COUNTED: any(row.document_id not in service.held for row in attempted),
        SENT: any(row.document_id in service.held for row in attempted),
        ACKNOWLEDGED: any(row.state is DocumentState.HANDED_OVER and not row.finished_at for row in rows),
        CONFIRMED: sum(is_confirmed(row) for row in rows) > confirmed_before,
    }
    return {stage for stage, is_so in found.items() if is_so}


def is_confirmed(row: documents.DocumentRow) -> bool:
    return row.state is DocumentState.HANDED_OVER and row.finished_at is not None


def count_confirmed(rig: OutboxRig) -> int:
    return sum(map(is_confirmed, rig.every_row()))


def letters(rig: OutboxRig) -> list[Path]:
    """Files of documents: what is sent, and what it was written from."""
    results = rig.settings.data_dir / "results"
    return [*results.rglob("*.letter"), *results.rglob("*.request")]


def wait_for_a_stage(rig: OutboxRig, service: MoodyService, confirmed_before: int, wanted: set[str]) -> None:
    """Return as soon as one of the stages is under way, and after a while in any case."""
    deadline = time.monotonic() + AIMED_S
    incoming = rig.settings.data_dir / "incoming"
    while time.monotonic() < deadline:
        if WRITING in wanted:  # a file is there for so short a time that nothing else is asked meanwhile
            if any(incoming.iterdir()):
                return
        elif wanted & stages_under_way(rig, service, confirmed_before):
            return
