"""From a row of the outbox to the bytes that will be sent, or the reason why there are none.

Called by `outbox.courier`. What images, order and record say of the patient is compared first; then context, findings
and their words become one `DocumentRequest`, which the receiver writes in its form. Nothing is sent here.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta, tzinfo
from pathlib import Path

import sqlalchemy as sa
import structlog
from pydicom.errors import InvalidDicomError

from dicom_node.ehr.answer import Discretion, discretion_of
from dicom_node.ehr.context import (
    ContextMissing,
    DocumentRequest,
    KeyImage,
    Patient,
    ProcessingTimes,
    RefusalNotice,
    Revision,
    SourceStudy,
)
from dicom_node.ehr.destinations import Record
from dicom_node.ehr.header import HeaderContext, HeaderUnreadable, read_header
from dicom_node.ehr.lookup import (
    ContextSettings,
    ContextSource,
    Known,
    LookedUp,
    LookupKey,
    assemble,
    look_up,
)
from dicom_node.ehr.receiver import RecordReceiver, RefusalReceiver
from dicom_node.ehr.reconciliation import Kind, reconcile, settled
from dicom_node.ehr.semd import ContextInvalid, DraftFaulty
from dicom_node.facts import InstanceFacts
from dicom_node.ledger import Ledger, documents, events, instances, jobs, results, studies, truths
from dicom_node.ledger.documents import DocumentRow
from dicom_node.ledger.instances import StoredInstance
from dicom_node.ledger.jobs import Job
from dicom_node.ledger.results import ResultKind, ResultSetRow
from dicom_node.ledger.studies import StudyRow
from dicom_node.outbox.key_image import key_image
from dicom_node.outbox.letters import Letter
from dicom_node.outbox.prepared import Needless, NotYet, Parked, Preparation, TakeBackFirst, Withheld, Written
from dicom_node.outbox.sent import pack, sent_request
from dicom_node.states import DocumentKind, InstanceState, ParkReason, Stage
from dicom_node.store import Store
from dicom_node.wording.job import text_of_job
from inference.findings import Findings, StudyUid
from models.card import ModelCard, Use

log = structlog.get_logger(__name__)


class _Stop(Exception):
    """The document cannot be written now; carries why."""

    def __init__(self, outcome: Parked | Withheld | NotYet | Needless | TakeBackFirst) -> None:
        super().__init__()
        self.outcome = outcome


_PERFORMED_AT = "source.performed_at"
_HEADERS_OF_ANOTHER = 3  # files of another study that tell whose it is


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What the ledger knows of a document."""

    row: DocumentRow
    study: StudyRow
    job: Job
    stored: tuple[StoredInstance, ...]
    result: ResultSetRow | None
    left: tuple[DocumentRow, ...]  # earlier documents of the set that the receiver has
    earlier_jobs: Mapping[int, Job]


class Preparer:
    """Writes documents for one destination.

    Parameters
    ----------
    destination : Record
    receiver : RecordReceiver
        Whose form is written.
    context : ContextSettings
        Of the installation.
    ledger, store
        The node's.
    cards : callable
        The installed models by reference.
    zone : tzinfo
        In which documents say their own times.
    image_zone : tzinfo or None
        In which times of headers without a zone are meant. None: such times are unknown, for a guess could be hours
        wrong and nobody would see it.
    """

    def __init__(
        self,
        destination: Record,
        receiver: RecordReceiver,
        context: ContextSettings,
        ledger: Ledger,
        store: Store,
        *,
        cards: Callable[[], Mapping[str, ModelCard]],
        zone: tzinfo,
        image_zone: tzinfo | None,
    ) -> None:
        self._destination = destination
        self._receiver = receiver
        self._configured = context.always
        self._sources: Sequence[ContextSource] = context.sources()
        self._ledger = ledger
        self._store = store
        self._cards = cards
        self._zone = zone
        self._image_zone = image_zone

    def close(self) -> None:
        """Let go of connections to where context is looked up."""
        for source in self._sources:
            source.close()

    def prepare(self, row: DocumentRow) -> Preparation:
        """Write one document, or say why not."""
        try:
            known = self._known(row)
            if row.kind is DocumentKind.REFUSAL:
                return self._refusal(known)
            before = sent_request(self._store, known.left[-1]) if known.left else None
            if row.kind is DocumentKind.WITHDRAWAL and before is not None:
                return self._withdrawal(known, before)
            return self._document(known, before)
        except _Stop as stop:
            return stop.outcome
        except ContextMissing as error:
            zone = "; set [monitoring] time_zone: these images do not name theirs"
            told = f"{error}{zone if self._image_zone is None and _PERFORMED_AT in error.missing else ''}"
            return Parked(why=ParkReason.CONTEXT_MISSING, told=told)
        except ContextInvalid as error:
            return Parked(why=ParkReason.CONTEXT_INVALID, told=str(error))
        except DraftFaulty as error:
            return Parked(why=ParkReason.NOT_WRITABLE, told=str(error))

    # what the ledger knows -------------------------------------------------------------------------------------------

    def _known(self, row: DocumentRow) -> _Known:
        with self._ledger.read() as tx:
            left = tuple(
                one
                for one in documents.of_set(tx, row.set_id)
                if one.id < row.id and one.is_there and one.kind is not DocumentKind.REFUSAL
            )
            every = {one.id: one for one in jobs.of_study(tx, row.study_uid)}
            told = row.job_id
            if row.kind is DocumentKind.WITHDRAWAL:
                told = self._report_to_take_back(left).job_id
            study = studies.get(tx, row.study_uid)
            assert study is not None, "a document's study is never removed"
            return _Known(
                row=row,
                study=study,
                job=every[told],
                stored=instances.of_study(tx, row.study_uid, only_current=False),
                result=self._result(tx, every[told]),
                left=left,
                earlier_jobs={one.job_id: every[one.job_id] for one in left},
            )

    @staticmethod
    def _report_to_take_back(left: Sequence[DocumentRow]) -> DocumentRow:
        if not left or left[-1].kind is DocumentKind.WITHDRAWAL:
            raise _Stop(Needless(told="nothing of it had left that could be taken back"))
        return left[-1]

    def _result(self, tx: sa.Connection, job: Job) -> ResultSetRow | None:
        sets = [one for one in results.of_study(tx, job.study_uid) if one.job_id == job.id]
        of_result = [one for one in sets if one.kind is ResultKind.RESULT]
        return next((one for one in of_result if one.profile == self._destination.profile), None)

    # a refusal -------------------------------------------------------------------------------------------------------

    def _refusal(self, known: _Known) -> Written:
        job = known.job
        assert job.refusal is not None, "queued for a refusal"
        if not isinstance(self._receiver, RefusalReceiver):  # another kind has taken the destination's name since
            raise _Stop(Withheld(told="receivers of this kind are not told of refusals"))
        card = self._cards().get(job.reference)
        if card is not None:
            self._refuse_research(card)
        notice = RefusalNotice(
            document_id=known.row.document_id,
            created_at=known.row.created_at,
            study_uid=known.row.study_uid,
            model_name=job.model_name,
            model_version=job.model_version,
            refusal=job.refusal,
            times=_times(known),
            language=self._destination.language,
            withdraws=bool(known.left) and known.left[-1].kind is DocumentKind.REPORT,
        )
        body = self._receiver.write_refusal(notice)
        letter = Letter(body=body, discretion=Discretion())
        return Written(letter=letter, version=1, replaces=None, set_id=known.row.set_id, request=None)

    # a report, or its withdrawal -------------------------------------------------------------------------------------

    def _document(self, known: _Known, before: DocumentRequest | None) -> Written:
        card = self._card(known.job)
        self._refuse_research(card)
        request = self._request(known, card)
        if request.revision.replaces_id is None:
            return self._written(request, None)
        if before is not None and not _same_patient(before.patient, request.patient):
            raise _Stop(TakeBackFirst(told="the version before was filed under another patient number or SNILS"))
        return self._written(request, before or self._replaced(known, request))

    def _withdrawal(self, known: _Known, before: DocumentRequest) -> Written:
        """Of exactly what left, to where it went: neither model nor images nor any lookup is needed."""
        revision = replace(
            before.revision,
            version=before.revision.version + 1,
            replaces_id=before.document_id,
            withdrawn=True,
        )
        created_at = known.row.created_at.astimezone(self._zone)
        request = replace(before, document_id=known.row.document_id, revision=revision, created_at=created_at)
        return self._written(request, before)

    def _written(self, request: DocumentRequest, replaced: DocumentRequest | None) -> Written:
        body = self._receiver.write(request, replaced=replaced)
        return Written(
            letter=Letter(body=body, discretion=discretion_of(request)),
            version=request.revision.version,
            replaces=request.revision.replaces_id,
            set_id=request.revision.set_id,
            request=pack(request),
        )

    def _refuse_research(self, card: ModelCard) -> None:
        if card.identity.use is Use.RESEARCH and not self._destination.accept_research:
            told = "the model is for research, and accept_research is not set for this destination"
            raise _Stop(Withheld(told=told))

    def _card(self, job: Job) -> ModelCard:
        card = self._cards().get(job.reference)
        if card is None or card.model_digest != job.model_digest:
            told = f"{job.reference} is no longer installed as it was; put it back, then `radnode retry`"
            raise _Stop(Parked(why=ParkReason.MODEL_GONE, told=told))
        return card

    def _request(self, known: _Known, card: ModelCard) -> DocumentRequest:
        job, language = known.job, self._destination.language
        text = text_of_job(job, known.stored, card, language=language)
        assert text is not None and job.findings is not None, "a report is queued with findings, and the card is there"
        header = self._header(known)
        found = self._looked_up(known, header)
        context = assemble(self._configured, *found.layers, settled(header.known, found.named_layers))
        return DocumentRequest(
            document_id=known.row.document_id,
            revision=_revision(known),
            created_at=known.row.created_at.astimezone(self._zone),
            source=header.source,
            patient=context.patient,
            findings=job.findings,
            card=card,
            text=text,
            order=context.order,
            encounter=context.encounter,
            performer=context.performer,
            author=context.author,
            legal_authenticator=context.legal_authenticator,
            key_image=self._picture(known, job.findings),
            base_url=self._destination.dicomweb_url,
            language=language,
            times=_times(known),
        )

    def _picture(self, known: _Known, findings: Findings) -> KeyImage | None:
        """A document without its picture is better than none."""
        try:
            return key_image(self._store, known.result.objects, findings) if known.result else None
        except (OSError, ValueError, KeyError, AttributeError, InvalidDicomError) as error:
            log.error("a key image cannot be made", alarm=True, stage="deliver", error=type(error).__name__)
            return None

    def _replaced(self, known: _Known, request: DocumentRequest) -> DocumentRequest | None:
        """The version before, as far as it can be told again: its observations are what a correction deletes."""
        if not known.left:
            return None
        last = known.left[-1]
        job = known.earlier_jobs[last.job_id]
        card = self._cards().get(job.reference)
        text = text_of_job(job, known.stored, card, language=request.language)
        if card is None or text is None or job.findings is None:
            return None
        revision = replace(request.revision, version=last.version or 1, replaces_id=last.replaces, withdrawn=False)
        return replace(
            request, document_id=last.document_id, revision=revision, findings=job.findings, card=card, text=text
        )

    # who and where ---------------------------------------------------------------------------------------------------

    def _header(self, known: _Known) -> HeaderContext:
        files = self._images(known.stored, set(known.job.instance_ids)) or self._images(known.stored, None)
        from_result = not files and known.result is not None
        if from_result and known.result is not None:  # all images are evicted: our own result names patient and study
            files = [self._store.path(one.path) for one in known.result.objects if one.path]
        files = [path for path in files if path.exists()]
        if not files:
            told = "every file of the study is gone; let the source send its images again, then `radnode retry`"
            raise _Stop(Parked(why=ParkReason.FILES_GONE, told=told))
        try:
            header = read_header(files, zone=self._image_zone)
        except HeaderUnreadable as error:
            told = f"the header of the images cannot be used: {error}"
            raise _Stop(Parked(why=ParkReason.FILES_GONE, told=told)) from error
        return replace(header, source=_as_received(header.source, known)) if from_result else header

    def _images(self, stored: Sequence[StoredInstance], wanted: set[int] | None) -> list[Path]:
        chosen = [one for one in stored if one.state is InstanceState.INDEXED and (wanted is None or one.id in wanted)]
        return [self._store.path(one.path) for one in chosen if one.path]

    def _looked_up(self, known: _Known, header: HeaderContext) -> LookedUp:
        """What order and record know, once it is sure that they mean the person of the images."""
        found = look_up(self._sources, header.key)
        if found.ask_again:
            raise _Stop(NotYet(told="; ".join(found.ask_again)))
        if found.no_use:
            raise _Stop(Parked(why=ParkReason.CONTEXT_INVALID, told="; ".join(found.no_use)))
        others = self._under_same_accession_number(known.study.study_uid, header.key)
        compared = reconcile(
            header.known,
            found.named_layers,
            guessed_character_set=header.guessed_character_set,
            others=list(others.values()),
            contradictions=header.contradictions,
        )
        if any(one.kind is Kind.TWO_PATIENTS for one in compared.disagreements):
            self._warn(others)
        if not compared.agrees:
            raise _Stop(Parked(why=ParkReason.PATIENT_DISAGREES, told=compared.reason))
        return found

    def _warn(self, studies_too: Collection[StudyUid]) -> None:
        """Documents of the other patient may have left before this study came: a person must hear of it."""
        now = self._ledger.clock()
        with self._ledger.begin() as tx:
            for study_uid in studies_too:
                left = [row for row in documents.of_study(tx, study_uid) if row.is_there]
                what = "another study under this accession number is of another patient"
                told = [event for event in events.of_study(tx, study_uid) if event.what == what]
                if left and not told:
                    detail = f"see whose documents stand at {', '.join(sorted({row.destination for row in left}))}"
                    events.add(tx, study_uid, at=now, stage=Stage.DELIVER, what=what, detail=detail)
                    log.error("two patients under one accession number", alarm=True, study_uid=study_uid)

    def _under_same_accession_number(self, study_uid: StudyUid, key: LookupKey) -> dict[StudyUid, Known]:
        """Headers of other studies under the accession number of this one, as far as their images are still here."""
        if not key.accession_number:
            return {}
        with self._ledger.read() as tx:
            uids = truths.with_accession_number(tx, key.accession_number)
            stored = {uid: instances.of_study(tx, uid) for uid in uids if uid != study_uid}
        headers: dict[StudyUid, Known] = {}
        for uid, arrived in stored.items():
            files = [path for path in self._images(arrived, None) if path.exists()][:_HEADERS_OF_ANOTHER]
            with contextlib.suppress(HeaderUnreadable):  # the other study's trouble, told in its own account
                headers |= {uid: read_header(files, zone=self._image_zone).known} if files else {}
        return headers


def _as_received(named: SourceStudy, known: _Known) -> SourceStudy:
    """The study of which our own result tells: by its header it would be a report, made by this node."""
    facts = [one.facts for one in known.stored if one.id in set(known.job.instance_ids) and one.facts]
    said = facts[0] if facts else InstanceFacts()
    return replace(
        named,
        modality=said.modality,
        series=(),
        description=said.study_description,
        body_part=said.body_part,
        manufacturer=said.manufacturer,
        device_model="",
        device_serial="",
    )


def _revision(known: _Known) -> Revision:
    """The next version of what the receiver has; after a withdrawal a document of its own begins."""
    withdrawals = sum(one.kind is DocumentKind.WITHDRAWAL for one in known.left)
    last = known.left[-1] if known.left else None
    withdraws = known.row.kind is DocumentKind.WITHDRAWAL
    if last is None or last.kind is DocumentKind.WITHDRAWAL:
        set_id = known.row.set_id
        if withdrawals:
            set_id = hashlib.sha256(f"{set_id}\x1fafter withdrawal {withdrawals}".encode()).hexdigest()
        return Revision(set_id=set_id, version=1)
    return Revision(
        set_id=last.sent_set_id or known.row.set_id,
        version=(last.version or 0) + 1,
        replaces_id=last.document_id,
        withdrawn=withdraws,
    )


def _same_patient(one: Patient, other: Patient) -> bool:
    """Whether both are filed under the same numbers; another spelling or birth date is a correction of one record."""
    numbers = [(who.identifier.value.strip().casefold(), who.identifier.system) for who in (one, other)]
    snils_differ = bool(one.snils and other.snils and one.snils != other.snils)
    return numbers[0] == numbers[1] and not snils_differ


def _times(known: _Known) -> ProcessingTimes:
    """When images came and the model worked: its own stages, counted back from the moment its word stood."""
    ended = known.job.content_time or known.job.finished_at or known.row.created_at
    spent_s = sum(seconds for stage, seconds in known.job.timings_s.items() if stage != "encode")
    return ProcessingTimes(
        received_from=known.study.first_received_at,
        received_until=known.study.last_received_at,
        begun=max(ended - timedelta(seconds=spent_s), known.job.queued_at),
        ended=ended,
    )
