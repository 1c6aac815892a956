"""The way of one study, stage by stage, on one page.

    receive   `record_instance`    an acceptor has a durable file              → instance row, study woken
    index     `index`              coordinator: headers of new instances       → facts, or set aside with a reason
    assemble  `assemble`           coordinator: is the study whole?            → COMPLETE or INCOMPLETE
    route     `_route`             in the same transaction                     → jobs, or an Outcome
    infer     `study_input`,       worker: what the engine needs, and          → Findings or a refusal, committed
              `commit_analysis`      what it said
    encode    `encode`             worker: findings to DICOM objects           → result set and its deliveries
    deliver   `dicom_node.deliverer`  one thread per destination               → SENT, CONFIRMED
    retract   `dicom_node.withdrawal`  a person withdraws results              → rejection notes and their deliveries

Each method is one stage and commits its own work; a stage that is repeated after a crash changes nothing that stands.
The loops that call them are `coordinator`, `worker` and `deliverer`; decisions are made in `assembly` and `routing`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog

from dicom_node import assembly, withdrawal
from dicom_node.indexing import Indexed, read_facts
from dicom_node.ledger import Ledger, events, instances, jobs, results, studies
from dicom_node.ledger.instances import StoredInstance
from dicom_node.ledger.jobs import Job, NewJob
from dicom_node.ledger.studies import StudyRow
from dicom_node.results.profile import Profile
from dicom_node.results.request import EncodeRequest, ResultObject
from dicom_node.routing import Candidate, Plan, Routes, route_study
from dicom_node.settings import Settings
from dicom_node.states import InstanceState, JobState, Outcome, Stage, StudyState
from dicom_node.store import Store
from dicom_node.study import NewInstance, Recorded
from inference.engine import Analysis, StudyInput
from inference.findings import Findings, SopUid, StudyUid
from inference.refusals import Reason, Refusal
from models.card import Use
from models.registry import InstalledModel

log = structlog.get_logger(__name__)


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
        What is installed; research models are left out unless the settings accept them.
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
        self.cards = {
            model.card.reference: model.card
            for model in models
            if settings.accept_research or model.card.identity.use is not Use.RESEARCH
        }

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
        if read:
            with self.ledger.begin() as tx:
                for stored, indexed in read:
                    self._enter_facts(tx, stored, indexed)
        return len(read)

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
        events.add(
            tx,
            stored.study_uid,
            at=self.ledger.clock(),
            stage=Stage.RECEIVE,
            what="an instance is kept but not analysed" if readable else "an instance is set aside",
            detail=f"{refusal} (SOP Instance UID {stored.sop_instance_uid})",
        )

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
        return sum(self._assemble_one(study, holders(study), archive_count) for study in due)

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
            self._event(tx, study, Stage.ASSEMBLE, f"study {state}, {len(arrived)} instance(s)", now, why)
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
            self._end(tx, study, Outcome.NOT_ANALYSED, refusal.reason, refusal.detail, now)
            return
        if arrived and all(stored.state is InstanceState.QUARANTINED for stored in arrived):
            reasons = sorted({stored.reason or "" for stored in arrived})
            self._end(tx, study, Outcome.QUARANTINED, reasons[0], "no instance can be read", now)
            return
        routing = route_study(candidates, self.routes, list(self.cards.values()))
        for line in routing.trace:
            self._event(tx, study, Stage.ROUTE, line, now)
        if not routing.plans:
            if study.outcome is not Outcome.ANALYSED:
                self._end(tx, study, Outcome.NO_ROUTE, Reason.NO_ROUTE, routing.why_not, now)
            return
        queued = [self._queue(tx, study, plan, incomplete, now) for plan in routing.plans]
        if not any(queued) and study.outcome is None:
            self._conclude(tx, study.study_uid, now)

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
        last = jobs.last_begun(tx, study.study_uid, plan.card.identity.name)
        same_model = last is not None and last.model_version == plan.card.identity.version
        if last and same_model and last.sources_digest == plan.sources_digest and last.incomplete == incomplete:
            what = f"{plan.card.reference}: its images are those of revision {last.revision}, whose result stands"
            self._event(tx, study, Stage.ROUTE, what, now)
            return False
        jobs.add(
            tx,
            NewJob(
                study_uid=study.study_uid,
                revision=study.revision,
                model_name=plan.card.identity.name,
                model_version=plan.card.identity.version,
                route=plan.route.name,
                destinations=plan.route.destinations,
                instance_ids=tuple(chosen.instance_id for chosen in plan.instances),
                sources_digest=plan.sources_digest,
                incomplete=incomplete,
                priority=plan.priority,
            ),
            now,
        )
        return True

    # infer -----------------------------------------------------------------------------------------------------------

    def study_input(self, job: Job) -> StudyInput:
        """What the engine is given for a job."""
        with self.ledger.read() as tx:
            chosen = instances.by_ids(tx, job.instance_ids)
            last = jobs.last_ended(tx, job.study_uid, job.model_name)
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
            if jobs.is_outdated(tx, job):
                self._drop_outdated(tx, job, owner, now)
            elif analysis.unchanged:
                jobs.finish(tx, job.id, owner=owner, state=JobState.UNCHANGED, at=now, timings_s=analysis.timings_s)
                what = f"{job.reference}: the images are what the model saw before, the earlier result stands"
                self._event(tx, job, Stage.INFER, what, now)
                self._conclude(tx, job.study_uid, now)
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
                )
                self._event(tx, job, Stage.INFER, f"{job.reference}: {_said(analysis)}", now)
            for name, refusal in analysis.skipped:
                self._event(tx, job, Stage.INFER, f"{job.reference}: an image was left out: {refusal}", now, name)
            return next(row for row in jobs.of_study(tx, job.study_uid) if row.id == job.id)

    # encode ----------------------------------------------------------------------------------------------------------

    def encode(self, job: Job, owner: str) -> None:
        """Write the committed findings or refusal for every destination's profile, and queue the deliveries.

        Files come first, durably; the rows that name them are committed together with the job's end. After a crash
        between the two the files are unknown and are removed at the next start.
        """
        started = self.ledger.clock()
        with self.ledger.read() as tx:
            stored = instances.by_ids(tx, job.instance_ids)
        sources = {one.sop_instance_uid: self.store.path(one.path) for one in stored if one.path}
        written = [
            (profile_name, destinations, self._write(job, profile_name, sources))
            for profile_name, destinations in self._by_profile(job.destinations).items()
        ]
        now = self.ledger.clock()
        with self.ledger.begin() as tx:
            if jobs.is_outdated(tx, job):
                self._drop_outdated(tx, job, owner, now)
                self._forget_files([one for _name, _destinations, objects in written for one in objects])
                return
            for profile_name, destinations, objects in written:
                superseded = results.current_of(tx, job.study_uid, job.model_name, profile_name)
                committed = results.commit(
                    tx,
                    job_id=job.id,
                    study_uid=job.study_uid,
                    model_name=job.model_name,
                    profile=profile_name,
                    objects=objects,
                    destinations=destinations,
                    at=now,
                )
                roles = ", ".join(one.role for one in objects)
                what = f"{job.reference}: {roles}" if committed else f"{job.reference}: the same result stands already"
                self._event(tx, job, Stage.ENCODE, what, now, f"profile {profile_name}")
                if committed is None:
                    self._forget_files(objects)
                elif superseded and self.profile(profile_name).reject_superseded:
                    withdrawal.reject(tx, self, superseded, withdrawal.SUPERSEDED)
            jobs.finish(
                tx,
                job.id,
                owner=owner,
                state=JobState.SUCCEEDED if job.findings else JobState.REJECTED,
                at=now,
                timings_s={**job.timings_s, "encode": (now - started).total_seconds()},
            )
            self._conclude(tx, job.study_uid, now)

    def _drop_outdated(self, tx: sa.Connection, job: Job, owner: str, now: datetime) -> None:
        """A slow job must not replace the result of the study's later revision."""
        jobs.finish(tx, job.id, owner=owner, state=JobState.OUTDATED, at=now, timings_s=job.timings_s)
        what = f"{job.reference}: a later revision is analysed, nothing is written for this one"
        self._event(tx, job, Stage.INFER, what, now)
        self._conclude(tx, job.study_uid, now)

    def profile(self, name: str) -> Profile:
        """The profile called `name`."""
        return next(profile for profile in self.settings.profile if profile.name == name)

    def _by_profile(self, destinations: Sequence[str]) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = {}
        for name in destinations:
            grouped.setdefault(self.settings.profile_of(name).name, []).append(name)
        return grouped

    def _write(self, job: Job, profile_name: str, sources: dict[SopUid, Path]) -> list[results.WrittenObject]:
        from dicom_node.results.result_set import encode  # highdicom is needed by workers alone

        with self.ledger.read() as tx:
            current = results.current_of(tx, job.study_uid, job.model_name, profile_name)
        request = EncodeRequest(
            study_uid=job.study_uid,
            sources=sources,
            card=self.cards.get(job.reference),
            findings=job.findings,
            refusal=job.refusal,
            profile=self.profile(profile_name),
            content_time=job.content_time or self.ledger.clock(),
            predecessors=current.references if current else (),
        )
        return [self.write_object(job.study_uid, encoded) for encoded in encode(request)]

    def write_object(self, study_uid: StudyUid, encoded: ResultObject) -> results.WrittenObject:
        """Write one encoded object durably; nothing names it until its row is committed."""
        return results.WrittenObject(
            role=encoded.role,
            study_uid=study_uid,
            series_uid=encoded.series_uid,
            sop_class_uid=encoded.sop_class_uid,
            sop_instance_uid=encoded.sop_instance_uid,
            path=self.store.write_result(encoded.data),
            size_bytes=len(encoded.data),
        )

    def _forget_files(self, objects: Sequence[results.WrittenObject]) -> None:
        for written in objects:
            with contextlib.suppress(OSError):
                self.store.remove(written.path)

    def fail(self, tx: sa.Connection, job: Job, owner: str, why: str, now: datetime) -> None:
        """Give a job up that cannot even be told in a result: a person must look (`radnode retry`)."""
        jobs.finish(tx, job.id, owner=owner, state=JobState.FAILED, at=now, timings_s=job.timings_s)
        self._event(tx, job, Stage.ENCODE, f"{job.reference}: {why}", now)
        self._conclude(tx, job.study_uid, now)

    def stop_hopeless(self) -> int:
        """Give jobs that ended their worker too often their refusal, or give them up; returns how many there were."""
        now = self.ledger.clock()
        with self.ledger.begin() as tx:
            poisonous, unwritable = jobs.poisonous(tx), jobs.unwritable(tx)
            for job in poisonous:
                jobs.mark_poison(tx, job.id)
                self._event(tx, job, Stage.INFER, f"{job.reference}: given up after {job.attempts} attempt(s)", now)
            for job in unwritable:
                jobs.give_up(tx, job.id, at=now)
                what = f"{job.reference}: writing the result ended its worker repeatedly"
                self._event(tx, job, Stage.ENCODE, what, now)
                self._conclude(tx, job.study_uid, now)
        return len(poisonous) + len(unwritable)

    def _conclude(self, tx: sa.Connection, study_uid: StudyUid, now: datetime) -> None:
        """When the last job of the current revision has ended, the study has its Outcome."""
        study = studies.get(tx, study_uid)
        if study is None or study.state is StudyState.RECEIVING:
            return
        every = jobs.of_study(tx, study_uid)
        if any(job.state in (JobState.QUEUED, JobState.RUNNING) for job in every):
            return
        no_result = (JobState.UNCHANGED, JobState.OUTDATED)
        last_of = {job.model_name: job for job in every if job.state not in no_result}
        if any(job.state is JobState.SUCCEEDED for job in last_of.values()):
            self._end(tx, study, Outcome.ANALYSED, "", "", now)
            return
        refused = next((job.refusal for job in last_of.values() if job.refusal), None)
        if refused:
            self._end(tx, study, Outcome.NOT_ANALYSED, refused.reason, refused.detail, now)
        elif any(job.state is JobState.FAILED for job in last_of.values()):
            self._end(tx, study, Outcome.NOT_ANALYSED, Reason.POISON, "the result could not be written", now)

    # events ----------------------------------------------------------------------------------------------------------

    def _end(
        self, tx: sa.Connection, study: StudyRow, outcome: Outcome, reason: str, detail: str, now: datetime
    ) -> None:
        studies.end(tx, study.study_uid, outcome=outcome, at=now, reason=reason, detail=detail)
        what = f"outcome {outcome}" + (f": {reason}" if reason else "")
        self._event(tx, study, Stage.ROUTE if outcome is Outcome.NO_ROUTE else Stage.ENCODE, what, now, detail)
        log.info("study ended", study_uid=study.study_uid, outcome=outcome, reason=reason or None)

    def _event(
        self, tx: sa.Connection, of: StudyRow | Job, stage: Stage, what: str, now: datetime, detail: str = ""
    ) -> None:
        events.add(tx, of.study_uid, at=now, stage=stage, what=what, detail=detail, revision=of.revision)


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
