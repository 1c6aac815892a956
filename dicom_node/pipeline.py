"""The way of one study, stage by stage, on one page.

    receive   `record_instance`    an acceptor has a durable file              → instance row, study woken
    index     `index`              coordinator: headers of new instances       → facts, or set aside with a reason
    assemble  `assemble`           coordinator: is the study whole?            → COMPLETE or INCOMPLETE
    route     `_route`             in the same transaction                     → jobs, or an Outcome
    infer     `study_input`,       worker: what the engine needs, and          → Findings or a refusal, committed
              `commit_analysis`      what it said
    encode    `encoding`           worker: findings to DICOM objects           → result set and its deliveries
    deliver   `dicom_node.deliverer`  one thread per archive                   → SENT, CONFIRMED
    tell      `dicom_node.outbox`  one thread per receiver of the record       → documents handed over
    retract   `dicom_node.withdrawal`  a person withdraws results              → rejection notes and their deliveries

Each method is one stage and commits its own work; a stage that is repeated after a crash changes nothing that stands.
The loops that call them are `coordinator`, `worker` and `deliverer`; decisions are made in `assembly` and `routing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from dicom_node import assembly
from dicom_node.encoding import Encoder
from dicom_node.indexing import Indexed, read_facts
from dicom_node.ledger import Ledger, events, instances, jobs, shadows, standings, studies
from dicom_node.ledger.instances import StoredInstance
from dicom_node.ledger.jobs import Job, NewJob
from dicom_node.ledger.studies import StudyRow
from dicom_node.outbox.queueing import queue_withdrawal
from dicom_node.outcomes import conclude, conclude_job, end, is_outdated, note
from dicom_node.promotion import enter_first
from dicom_node.routing import Candidate, Plan, Routes, route_study
from dicom_node.serving import accepted_cards, choose, read_standings, serving_faults
from dicom_node.settings import Settings
from dicom_node.states import InstanceState, JobRole, JobState, Outcome, Stage, StudyState
from dicom_node.store import Store
from dicom_node.study import NewInstance, Recorded
from inference.engine import Analysis, StudyInput
from inference.findings import Findings, StudyUid
from inference.refusals import UNREAD, Reason, Refusal
from models.registry import InstalledModel

log = structlog.get_logger(__name__)

SHED_AT_A_TIME = 500
PUT_OFF_S = 60.0  # a study that met an unforeseen fault is looked at again after this


class Pipeline:
    """The stages of a study, over one ledger and one store.

    Parameters
    ----------
    settings : Settings
        The node's settings.
    ledger : Ledger
        Open and up to date.
    store : Store
        Prepared.
    routes : Routes
        The routing rules.
    models : sequence of InstalledModel
        What is installed; only registered models are run unless the settings accept others.

    Attributes
    ----------
    models_changed : callable
        Asked when a version is not there that is meant to look: what is installed now, None when that is no news.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: Store,
        routes: Routes,
        models: Sequence[InstalledModel],
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.store = store
        self.routes = routes
        self.cards = accepted_cards(models, accept_research=settings.accept_research)
        self.models_changed: Callable[[], Sequence[InstalledModel] | None] = lambda: None
        self.encoder = Encoder(settings, ledger, store, self.cards)

    def look_for_models(self) -> bool:
        """Look at what is installed now; False when that is no news."""
        found = self.models_changed()
        if found is not None:
            self.take_models(found)
            log.info("models installed", models=sorted(self.cards))
        return found is not None

    def take_models(self, models: Sequence[InstalledModel]) -> None:
        """From now on these are installed."""
        found = accepted_cards(models, accept_research=self.settings.accept_research)
        self.cards.update(found)
        for reference in self.cards.keys() - found.keys():
            del self.cards[reference]

    # receive ---------------------------------------------------------------------------------------------------------

    def record_instance(self, new: NewInstance) -> Recorded:
        """Commit one durable instance; after this the sender may be told success."""
        with self.ledger.begin() as tx:
            return instances.record(tx, new)

    # index -----------------------------------------------------------------------------------------------------------

    def index(self, *, limit: int = 200) -> int:
        """Read the headers of instances that have just come; returns how many there were."""
        with self.ledger.read() as tx:
            waiting = instances.to_index(tx, limit=limit)
        read = [(stored, indexed) for stored in waiting if (indexed := self._read_facts(stored)) is not None]
        try:
            with self.ledger.begin() as tx:
                for stored, indexed in read:
                    self._enter_facts(tx, stored, indexed)
        except (sa.exc.DataError, sa.exc.IntegrityError):
            self._enter_one_by_one(read)
        return len(read)

    def _enter_one_by_one(self, read: Sequence[tuple[StoredInstance, Indexed]]) -> None:
        """One instance's facts cannot be stored: set that one aside, enter the others."""
        for stored, indexed in read:
            try:
                with self.ledger.begin() as tx:
                    self._enter_facts(tx, stored, indexed)
            except (sa.exc.DataError, sa.exc.IntegrityError):
                unstorable = Refusal(reason=Reason.UNREADABLE, detail="its header facts cannot be stored")
                with self.ledger.begin() as tx:
                    self._enter_facts(tx, stored, Indexed(facts=None, refusal=unstorable))

    def _read_facts(self, stored: StoredInstance) -> Indexed | None:
        """Facts or a refusal; None when the disk does not give the file now: it stays to be indexed."""
        try:
            return read_facts(self.store.path(stored.path or ""), stored)
        except (FileNotFoundError, ValueError):
            log.error("an acknowledged file is missing", alarm=True, instance=stored.id)
            return Indexed(facts=None, refusal=Refusal(reason=Reason.UNREADABLE, detail="its file is gone"))
        except OSError as error:
            log.error("a file cannot be read now", alarm=True, instance=stored.id, errno=error.errno)
            return None

    def _enter_facts(self, tx: sa.Connection, stored: StoredInstance, indexed: Indexed) -> None:
        if indexed.refusal is None and indexed.facts is not None:
            instances.set_indexed(tx, stored.id, indexed.facts)
            return
        refusal = indexed.refusal or Refusal(reason=Reason.UNREADABLE)
        readable = indexed.facts is not None
        state = InstanceState.NOT_ANALYSABLE if readable else InstanceState.QUARANTINED
        instances.set_aside(tx, stored.id, state, refusal, indexed.facts)
        what = "an instance is kept but not analysed" if readable else "an instance is set aside"
        detail = f"{refusal} (SOP Instance UID {stored.sop_instance_uid})"
        events.add(tx, stored.study_uid, at=self.ledger.clock(), stage=Stage.RECEIVE, what=what, detail=detail)

    # assemble --------------------------------------------------------------------------------------------------------

    def assemble(
        self,
        *,
        holders: Callable[[StudyRow], Sequence[str]] = lambda _study: (),
        archive_count: Callable[[StudyUid], int | None] = lambda _study_uid: None,
    ) -> int:
        """Look at every study that is due; returns how many were settled."""
        with self.ledger.read() as tx:
            due = studies.due(tx, self.ledger.clock(), limit=100)
        return sum(self._assemble_guarded(study, holders(study), archive_count) for study in due)

    def _assemble_guarded(
        self, study: StudyRow, holders: Sequence[str], archive_count: Callable[[StudyUid], int | None]
    ) -> bool:
        """A study that cannot be decided for an unforeseen reason is put off; the others go on."""
        try:
            return self._assemble_one(study, holders, archive_count)
        except sa.exc.DBAPIError:
            raise  # the ledger's trouble is everybody's
        except Exception:  # the edge of the loop over studies: one must not hold the others
            log.exception("a study cannot be assembled", stage="assemble", study_uid=study.study_uid)
            again = self.ledger.clock() + timedelta(seconds=PUT_OFF_S)
            with self.ledger.begin() as tx:
                studies.wait(tx, study, look_at=again, waiting_for="an unforeseen fault, see the log; tried again")
            return False

    def _assemble_one(
        self, study: StudyRow, holders: Sequence[str], archive_count: Callable[[StudyUid], int | None]
    ) -> bool:
        now = self.ledger.clock()
        # The cheap answer first: a large study that is still being sent is not read again and again.
        early = assembly.too_early(study.last_received_at, self.settings.assembly, now, holders)
        arrived: tuple[StoredInstance, ...] = ()
        decision: assembly.Decision
        if early:
            decision = early
        else:
            with self.ledger.read() as tx:
                arrived = instances.of_study(tx, study.study_uid)
            decision = self._decide(study, arrived, now, archive_count)
        with self.ledger.begin() as tx:
            if isinstance(decision, assembly.Wait):
                studies.wait(tx, study, look_at=decision.until, waiting_for=decision.because)
                return False
            whole = isinstance(decision, assembly.Whole)
            state = StudyState.COMPLETE if whole else StudyState.INCOMPLETE
            if not studies.settle(tx, study, state=state, at=now):
                return False  # an image came while we decided: look again
            why = f"because {decision.because}" if isinstance(decision, assembly.Whole) else decision.missing
            note(tx, study, Stage.ASSEMBLE, f"study {state}, {len(arrived)} instance(s)", now, why)
            self._route(tx, study, arrived, incomplete=not whole, now=now)
            return True

    def _decide(
        self,
        study: StudyRow,
        arrived: Sequence[StoredInstance],
        now: datetime,
        archive_count: Callable[[StudyUid], int | None],
    ) -> assembly.Decision:
        if any(stored.state is InstanceState.STORED for stored in arrived):
            return assembly.Wait(until=now + timedelta(seconds=assembly.HELD_POLL_S), because="headers are being read")
        too_often = study.revision > self.settings.assembly.max_revisions_per_day
        if too_often and study.waved_through != study.revision:
            again = study.first_received_at + timedelta(
                days=study.revision / self.settings.assembly.max_revisions_per_day
            )
            if now < again:
                return assembly.Wait(until=again, because="changed too often today: `radnode retry` looks at it now")
        readable = tuple(
            assembly.ArrivedInstance(series_uid=stored.series_uid, facts=stored.facts)
            for stored in arrived
            if stored.state is InstanceState.INDEXED and stored.facts
        )
        arrivals = assembly.Arrivals(
            instances=readable,
            count=len(arrived),
            last_received_at=study.last_received_at,
            revision_started_at=study.revision_started_at,
        )
        return assembly.decide(
            arrivals, self.settings.assembly, now, archive_count=lambda: archive_count(study.study_uid)
        )

    # route -----------------------------------------------------------------------------------------------------------

    def _route(
        self, tx: sa.Connection, study: StudyRow, arrived: Sequence[StoredInstance], *, incomplete: bool, now: datetime
    ) -> None:
        jobs.withdraw_queued(tx, study.study_uid, study.revision, now)
        candidates = _candidates(arrived)
        refusal = self._refuse_whole_study(arrived)
        if refusal:
            if refusal.reason is Reason.TWO_PATIENTS:  # what the record was told may stand under the wrong one
                queue_withdrawal(tx, study.study_uid, now)
            end(tx, study, Outcome.NOT_ANALYSED, now, refusal)
            return
        if arrived and all(stored.state is InstanceState.QUARANTINED for stored in arrived):
            reasons = sorted({Reason(stored.reason) for stored in arrived if stored.reason})
            end(tx, study, Outcome.QUARANTINED, now, Refusal(reason=reasons[0], detail="no instance can be read"))
            return
        known = read_standings(tx)
        routing = route_study(candidates, self.routes, self.cards, known)
        if routing.lacks and self.look_for_models():  # perhaps it was put there a moment ago
            routing = route_study(candidates, self.routes, self.cards, known)
        for line in routing.trace:
            note(tx, study, Stage.ROUTE, line, now)
        if not routing.plans:
            if study.outcome is not Outcome.ANALYSED:
                end(tx, study, Outcome.NO_ROUTE, now, Refusal(reason=Reason.NO_ROUTE, detail=routing.why_not))
            return
        queued = {plan.model.reference: self._queue(tx, study, plan, incomplete, now) for plan in routing.plans}
        if not any(queued[plan.model.reference] for plan in routing.plans if plan.role is JobRole.CHAMPION):
            conclude(tx, study.study_uid, now)

    def _refuse_whole_study(self, arrived: Sequence[StoredInstance]) -> Refusal | None:
        limit = self.settings.assembly.max_instances
        if len(arrived) > limit:
            return Refusal(reason=Reason.TOO_MANY_INSTANCES, detail=f"{len(arrived)}, accepted are {limit}")
        patients = {stored.facts.patient_key for stored in arrived if stored.facts and stored.facts.patient_key}
        if len(patients) > 1:
            return Refusal(
                reason=Reason.TWO_PATIENTS,
                detail=f"{len(patients)} different Patient IDs under one Study Instance UID; no result is written, "
                "because it could be filed under the wrong patient",
            )
        return None

    def _queue(self, tx: sa.Connection, study: StudyRow, plan: Plan, incomplete: bool, now: datetime) -> bool:
        model, is_shadow = plan.model, plan.role is JobRole.SHADOW
        if plan.is_first:
            enter_first(tx, model, now)
        shadow = model.model_version if is_shadow else None
        last = jobs.last_begun(tx, study.study_uid, model.model_name, shadow=shadow)
        same_model = last is not None and last.model_digest == model.model_digest
        if last and same_model and last.sources_digest == plan.sources_digest and last.incomplete == incomplete:
            withdrawn = study.retracted_at is not None and last.queued_at < study.retracted_at
            became = "was withdrawn and is not written again" if withdrawn else "stands"
            what = f"{model.reference}: its images are those of revision {last.revision}, whose result {became}"
            note(tx, study, Stage.ROUTE, what, now)
            return False
        queue = shadows.queue_length(tx) if is_shadow else 0
        shed = is_shadow and queue >= self.settings.shadow.max_queue
        jobs.add(tx, _job(study, plan, incomplete), now, shed=shed)
        if shed:
            what = f"{model.reference} (shadow): left out, because {queue} job(s) wait for a worker"
            note(tx, study, Stage.ROUTE, what, now)
        return True

    # infer -----------------------------------------------------------------------------------------------------------

    def study_input(self, job: Job) -> StudyInput:
        """What the engine is given for a job."""
        with self.ledger.read() as tx:
            chosen = instances.by_ids(tx, job.instance_ids)
            shadow = job.model_version if job.role is JobRole.SHADOW else None
            last = jobs.last_ended(tx, job.study_uid, job.model_name, shadow=shadow)
        card = self.cards[job.reference]
        known = None
        if last and last.findings and last.findings.model.model_digest == card.model_digest:
            known = last.inputs_digest
        return StudyInput(
            study_uid=job.study_uid,
            images=tuple(self.store.path(stored.path) for stored in chosen if stored.path),
            priority=job.priority,
            incomplete=job.incomplete,
            known_inputs_digest=known,
        )

    def commit_analysis(self, job: Job, owner: str, analysis: Analysis) -> Job:
        """Commit what the engine said; a retry after this encodes exactly these findings."""
        now = self.ledger.clock()
        with self.ledger.begin() as tx:
            if is_outdated(tx, job):
                self.encoder.drop_outdated(tx, job, owner)
            elif analysis.unchanged:
                jobs.finish(tx, job.id, owner=owner, state=JobState.UNCHANGED, at=now, timings_s=analysis.timings_s)
                what = f"{job.title}: the images are what the model saw before, the earlier result stands"
                note(tx, job, Stage.INFER, what, now)
                conclude_job(tx, job, now)
            else:
                jobs.commit_findings(
                    tx,
                    job.id,
                    owner=owner,
                    inputs_digest=analysis.inputs_digest,
                    findings=analysis.findings,
                    refusal=analysis.refusal,
                    content_time=now,
                    timings_s=analysis.timings_s,
                    at=now,
                    images_unread=sum(refusal.reason in UNREAD for _, refusal in analysis.skipped),
                )
                note(tx, job, Stage.INFER, f"{job.title}: {_said(analysis)}", now)
                self._end_shadow(tx, job, owner, analysis, now)
            for name, refusal in analysis.skipped:
                note(tx, job, Stage.INFER, f"{job.title}: an image was left out: {refusal}", now, name)
            return next(row for row in jobs.of_study(tx, job.study_uid) if row.id == job.id)

    def _end_shadow(self, tx: sa.Connection, job: Job, owner: str, analysis: Analysis, now: datetime) -> None:
        """What a shadow says is kept with its job, and that is all: nothing is encoded, nothing leaves."""
        if job.role is JobRole.SHADOW:
            state = JobState.SUCCEEDED if analysis.findings else JobState.REJECTED
            jobs.finish(tx, job.id, owner=owner, state=state, at=now, timings_s=analysis.timings_s)

    # encode ----------------------------------------------------------------------------------------------------------

    def encode(self, job: Job, owner: str) -> None:
        """Write what was committed, for every destination's profile, and queue the deliveries."""
        self.encoder.encode(job, owner)

    def fail(self, tx: sa.Connection, job: Job, owner: str, why: str, now: datetime) -> None:
        """Give a job up that cannot even be told in a result: a person must look (`radnode retry`)."""
        jobs.finish(tx, job.id, owner=owner, state=JobState.FAILED, at=now, timings_s=job.timings_s)
        note(tx, job, Stage.ENCODE, f"{job.title}: {why}", now)
        conclude_job(tx, job, now)

    def stop_hopeless(self) -> int:
        """Give jobs that ended their worker too often their refusal, or give them up; returns how many there were."""
        now = self.ledger.clock()
        with self.ledger.begin() as tx:
            poisonous, unwritable = jobs.poisonous(tx), jobs.unwritable(tx)
            for job in poisonous:
                if job.role is JobRole.SHADOW:  # nobody waits for a word of it
                    jobs.give_up(tx, job.id, at=now)
                else:
                    jobs.mark_poison(tx, job.id)
                note(tx, job, Stage.INFER, f"{job.title}: given up after {job.attempts} attempt(s)", now)
            for job in unwritable:
                jobs.give_up(tx, job.id, at=now)
                what = f"{job.title}: writing the result ended its worker repeatedly"
                note(tx, job, Stage.ENCODE, what, now)
                conclude_job(tx, job, now)
        return len(poisonous) + len(unwritable)

    def shed_shadows(self) -> int:
        """Drop shadows' jobs that have waited too long, so that their images are not kept for ever."""
        now = self.ledger.clock()
        hours = self.settings.shadow.max_wait_hours
        with self.ledger.read() as tx:
            late = shadows.waiting(tx, queued_before=now - timedelta(hours=hours), limit=SHED_AT_A_TIME)
        if not late:
            return 0
        with self.ledger.begin() as tx:
            gone = [job for job in late if shadows.shed(tx, job.id, at=now)]
            for job in gone:
                note(tx, job, Stage.INFER, f"{job.title}: dropped, because no worker had time for {hours:g} hours", now)
        return len(gone)

    # models ----------------------------------------------------------------------------------------------------------

    def enter_first_champions(self) -> tuple[str, ...]:
        """Names that routes use and that never had a champion get their newest installed version; which they are."""
        now, entered = self.ledger.clock(), []
        with self.ledger.begin() as tx:
            for model in sorted({route.model for route in self.routes.route}):
                choice = choose(model, read_standings(tx), self.cards)
                if choice.is_first and choice.serving:
                    enter_first(tx, choice.serving, now)
                    entered.append(choice.serving.reference)
        return tuple(entered)

    def model_faults(self, tx: sa.Connection) -> tuple[str, ...]:
        """Why a version that is to serve does not: altered, gone, or a worker cannot load it. Shadows are no fault."""
        known = read_standings(tx)
        alive_s = self.settings.worker.lease_s
        loaded = standings.loaded(tx, since=self.ledger.lease_now(tx) - timedelta(seconds=alive_s))
        return serving_faults([route.model for route in self.routes.route], known, self.cards, loaded)


def _job(study: StudyRow, plan: Plan, incomplete: bool) -> NewJob:
    fault = plan.model.fault
    return NewJob(
        study_uid=study.study_uid,
        revision=study.revision,
        model_name=plan.model.model_name,
        model_version=plan.model.model_version,
        model_digest=plan.model.model_digest,
        role=plan.role,
        route=plan.route.name,
        destinations=() if plan.role is JobRole.SHADOW else plan.route.destinations,
        instance_ids=tuple(chosen.instance_id for chosen in plan.instances),
        sources_digest=plan.sources_digest,
        incomplete=incomplete,
        priority=plan.priority,
        refusal=Refusal(reason=Reason.MODEL_FAILED, detail=fault) if fault else None,
    )


def _candidates(arrived: Sequence[StoredInstance]) -> list[Candidate]:
    return [
        Candidate(
            instance_id=stored.id,
            sop_instance_uid=stored.sop_instance_uid,
            sha256=stored.sha256,
            calling_ae=stored.calling_ae,
            called_ae=stored.called_ae,
            facts=stored.facts,
        )
        for stored in arrived
        if stored.state is InstanceState.INDEXED and stored.facts
    ]


def _said(analysis: Analysis) -> str:
    findings: Findings | None = analysis.findings
    if findings is None:
        return f"not analysed: {analysis.refusal}"
    flags = f" ({', '.join(findings.flags)})" if findings.flags else ""
    scores = ", ".join(f"{lesion.label} {lesion.score:.2f}" for lesion in findings.lesions)
    return f"{len(findings.lesions)} lesion(s){': ' + scores if scores else ''}{flags}"
