"""From committed findings to durable result objects and their deliveries: the encode stage of the pipeline.

Called by `pipeline.encode` in a worker process, and for its files by `withdrawal`. What the objects hold is
`dicom_node.results`; how they travel is `deliverer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from dicom_node.ledger import Ledger, deliveries, instances, jobs, results
from dicom_node.ledger.jobs import Job
from dicom_node.outbox.queueing import RecordRoute, queue_job
from dicom_node.outcomes import conclude, conclude_job, is_outdated, note
from dicom_node.results.profile import Profile
from dicom_node.results.request import EncodeRequest, ResultObject
from dicom_node.settings import Settings
from dicom_node.states import JobState, Stage
from dicom_node.store import Store
from dicom_node.withdrawal import SUPERSEDED, Rejection, commit_rejection, write_rejection
from inference.findings import SopUid, StudyUid
from models.card import ModelCard


class Encoder:
    """Writes results.

    Parameters
    ----------
    settings, ledger, store
        The node's.
    cards : mapping of str to ModelCard
        The installed models by reference.
    """

    def __init__(self, settings: Settings, ledger: Ledger, store: Store, cards: Mapping[str, ModelCard]) -> None:
        self.settings = settings
        self.ledger = ledger
        self.store = store
        self.cards = cards

    def encode(self, job: Job, owner: str) -> None:
        """Write the committed findings or refusal for every destination's profile, and queue the deliveries.

        Files come first, durably; the rows that name them are committed together with the job's end. After a crash
        between the two the files are unknown and are removed at the next start.
        """
        started = self.ledger.clock()
        grouped, gone = self._by_profile(job.destinations)
        records = self._records(job.destinations)
        written = [
            (name, destinations, self._write(job, name), self._rejection_of_current(job, name))
            for name, destinations in grouped.items()
        ]
        now = self.ledger.clock()
        with self.ledger.begin() as tx:
            if is_outdated(tx, job):
                self.drop_outdated(tx, job, owner)
                self._forget_files([one for _name, _destinations, objects, _note in written for one in objects])
                return
            for missing in gone:
                what = f"{job.reference}: nothing is written for {missing}, which is no longer a destination"
                note(tx, job, Stage.ENCODE, what, now)
            for name, destinations, objects, rejection in written:
                self._commit(tx, job, name, destinations, objects, rejection)
            ended = JobState.SUCCEEDED if job.findings else JobState.REJECTED
            queue_job(tx, job, records, now)
            timings_s = {**job.timings_s, "encode": (now - started).total_seconds()}
            jobs.finish(
                tx, job.id, owner=owner, state=ended if written else JobState.FAILED, at=now, timings_s=timings_s
            )
            conclude(tx, job.study_uid, now)

    def drop_outdated(self, tx: sa.Connection, job: Job, owner: str) -> None:
        """A slow job must not replace the result of the study's later revision, nor undo a withdrawal."""
        now = self.ledger.clock()
        jobs.finish(tx, job.id, owner=owner, state=JobState.OUTDATED, at=now, timings_s=job.timings_s)
        what = f"{job.title}: overtaken by a later revision or a withdrawal, nothing is written"
        note(tx, job, Stage.INFER, what, now)
        conclude_job(tx, job, now)

    def card_of(self, job: Job) -> ModelCard | None:
        """The card that the job meant; not the one that now lies in its place."""
        card = self.cards.get(job.reference)
        return card if card and card.model_digest == job.model_digest else None

    def profile(self, name: str) -> Profile:
        """The profile called `name`; the first one when it was removed from the settings since."""
        return next((one for one in self.settings.profile if one.name == name), self.settings.profile[0])

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

    def _by_profile(self, destinations: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Archives by the profile they name, and destinations that the settings no longer have.

        A receiver of the record has its profile written, too, for the key image of its documents, but gets no object.
        """
        archives, known = self.settings.destinations_list(), self.settings.all_destinations_list()
        grouped: dict[str, list[str]] = {}
        for name in destinations:
            if name in known:
                of_profile = grouped.setdefault(self.settings.profile_of(name).name, [])
                of_profile += [name] if name in archives else []
        return grouped, [name for name in destinations if name not in known]

    def _records(self, destinations: Sequence[str]) -> tuple[RecordRoute, ...]:
        return tuple(
            RecordRoute(name=one.name, takes_refusals=one.takes_refusals)
            for one in self.settings.record
            if one.name in destinations
        )

    def _write(self, job: Job, profile_name: str) -> list[results.WrittenObject]:
        from dicom_node.results.result_set import encode  # highdicom is needed by workers alone

        with self.ledger.read() as tx:
            current = results.current_of(tx, job.study_uid, job.model_name, profile_name)
            sources = self._sources(tx, job)
        request = EncodeRequest(
            study_uid=job.study_uid,
            sources=sources,
            card=self.card_of(job),
            findings=job.findings,
            refusal=job.refusal,
            profile=self.profile(profile_name),
            content_time=job.content_time or self.ledger.clock(),
            predecessors=current.references if current else (),
        )
        return [self.write_object(job.study_uid, encoded) for encoded in encode(request)]

    def _sources(self, tx: sa.Connection, job: Job) -> dict[SopUid, Path]:
        stored = instances.by_ids(tx, job.instance_ids)
        return {one.sop_instance_uid: self.store.path(one.path) for one in stored if one.path}

    def _rejection_of_current(self, job: Job, profile_name: str) -> Rejection | None:
        """The note that rejects what is about to be superseded, where the archive honours such notes."""
        if not self.profile(profile_name).reject_superseded:
            return None
        with self.ledger.read() as tx:
            current = results.current_of(tx, job.study_uid, job.model_name, profile_name)
        return write_rejection(self, current, SUPERSEDED) if current else None

    def _commit(
        self,
        tx: sa.Connection,
        job: Job,
        profile_name: str,
        destinations: Sequence[str],
        objects: Sequence[results.WrittenObject],
        rejection: Rejection | None,
    ) -> None:
        now = self.ledger.clock()
        if not objects:
            self._take_back(tx, job, profile_name, rejection)
            return
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
        note(tx, job, Stage.ENCODE, what, now, f"profile {profile_name}")
        if committed is None:
            self._forget_files(objects)
        elif rejection:
            commit_rejection(tx, rejection, now)

    def _take_back(self, tx: sa.Connection, job: Job, profile_name: str, rejection: Rejection | None) -> None:
        """The profile writes nothing of this study: an earlier result does not stand any more, nor leave."""
        now = self.ledger.clock()
        current = results.current_of(tx, job.study_uid, job.model_name, profile_name)
        if current:
            results.withdraw_current(tx, current.id)
        if rejection:
            commit_rejection(tx, rejection, now)
        elif current:
            deliveries.cancel_unsent(tx, current.id, at=now, reason="a later revision was not analysed")
        what = f"{job.reference}: this profile writes nothing for a study that was not analysed"
        note(tx, job, Stage.ENCODE, what, now, f"profile {profile_name}")

    def _forget_files(self, objects: Sequence[results.WrittenObject]) -> None:
        for written in objects:
            if written.path:
                with contextlib.suppress(OSError):
                    self.store.remove(written.path)
