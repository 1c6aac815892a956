"""The states of everything the ledger keeps, one enumeration each, as `docs/glossary.md` explains them."""

from __future__ import annotations

from enum import StrEnum


class InstanceState(StrEnum):
    """What is known of a stored instance."""

    STORED = "stored"  # bytes are safe; the header has not been read yet
    INDEXED = "indexed"  # the header is read, the instance can be analysed
    NOT_ANALYSABLE = "not_analysable"  # readable, but nothing to analyse: report, own result, secondary capture
    QUARANTINED = "quarantined"  # unreadable or contradictory: set aside with its reason


class StudyState(StrEnum):
    """Whether a study is whole."""

    RECEIVING = "receiving"  # images may still come
    COMPLETE = "complete"  # whole by rule
    INCOMPLETE = "incomplete"  # its deadline passed with images missing


class Outcome(StrEnum):
    """How a study ended; every study ends in exactly one."""

    ANALYSED = "analysed"  # at least one model has spoken
    NOT_ANALYSED = "not_analysed"  # a model was meant for it and could not, for a named reason
    NO_ROUTE = "no_route"  # no rule, or no installed model
    QUARANTINED = "quarantined"  # nothing in it could be read


class JobState(StrEnum):
    """One model on one study revision."""

    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds its lease
    SUCCEEDED = "succeeded"  # findings and result sets are committed
    UNCHANGED = "unchanged"  # what the model sees is what it saw before: the earlier result stands
    OUTDATED = "outdated"  # a later revision of the study has a job of its own: nothing is written for this one
    REJECTED = "rejected"  # not analysed, for a named reason; the reason is a result
    FAILED = "failed"  # could not even be told in a result: a person must look
    SHED = "shed"  # a shadow's job that was dropped: the queue was long, or it had waited too long


class JobRole(StrEnum):
    """Whether what a job says is for people or for comparison."""

    CHAMPION = "champion"  # its result is written and delivered: the champion's, or that of the version a route pins
    SHADOW = "shadow"  # its Findings are kept in the ledger only; it never touches the study's state or results


class JobStage(StrEnum):
    """How far a running job has come; committed before each stage begins."""

    CLAIMED = "claimed"  # a worker took it
    LOAD = "load"  # decode and preprocess
    INFER = "infer"  # waits for its batch or is inferred
    ENCODE = "encode"  # findings are committed, results are being written


class Standing(StrEnum):
    """What a version of a model is to this node; `radnode models` changes it."""

    CANDIDATE = "candidate"  # installed and known, does nothing; every version begins so
    SHADOW = "shadow"  # runs beside the serving version on the same studies; what it says stays in the ledger
    CHAMPION = "champion"  # the one version of its name that serves routes which pin none
    RETIRED = "retired"  # withdrawn by a person: runs nowhere, not even where a route pins it


class StandingAction(StrEnum):
    """Why the standing of a version changed."""

    FIRST_START = "first_start"  # a route named the model and no version of it had ever been champion
    SHADOW = "shadow"  # a person had it run beside the champion
    PROMOTE = "promote"  # a person made it champion by an evaluation report, in place of the one before
    ROLLBACK = "rollback"  # a person put the champion before back
    RETIRE = "retire"  # a person withdrew it
    CANDIDATE = "candidate"  # a person took a shadow or a retired version back to candidate


class DeliveryState(StrEnum):
    """One result set on its way to one destination."""

    PENDING = "pending"  # to be sent, now or at its next attempt
    SENT = "sent"  # the destination answered success; confirmation outstanding, or not on offer
    CONFIRMED = "confirmed"  # the destination committed to it or shows it
    FAILED = "failed"  # permanently refused; `radnode retry` sends again


class DocumentKind(StrEnum):
    """What a document tells the regional record."""

    REPORT = "report"  # what a model said of a study
    WITHDRAWAL = "withdrawal"  # that nothing of an earlier report holds any more
    REFUSAL = "refusal"  # that a model could not say anything, and why; only receivers that ask for it get one


class DocumentState(StrEnum):
    """One document on its way to one receiver of the regional record, and what became of it there."""

    PENDING = "pending"  # a draft: to be written or sent, now or at its next attempt
    PARKED = "parked"  # not sent, for a named reason that a person must look at; then `radnode retry`
    WITHHELD = "withheld"  # by rule never sent: the receiver does not take documents of research models
    HANDED_OVER = "handed_over"  # the receiver acknowledged it
    SIGNED = "signed"  # a physician signed it, and the signature was verified
    REGISTERED = "registered"  # the register took it, under a number of its own
    REFUSED = "refused"  # the register refused it, with a code of its own
    FAILED = "failed"  # a dead letter: the receiver will not take it however often; `radnode retry` sends again
    OVERTAKEN = "overtaken"  # a newer version or a withdrawal came before anything of it had left


class ParkReason(StrEnum):
    """Why a document waits for a person."""

    CONTEXT_MISSING = "context_missing"  # something lacks that the form cannot do without; it is named
    CONTEXT_INVALID = "context_invalid"  # a value cannot be right, such as a SNILS with a wrong sum
    PATIENT_DISAGREES = "patient_disagrees"  # images, order and record do not speak of the same person
    MODEL_GONE = "model_gone"  # the card that spoke is no longer installed, so its findings have no words
    FILES_GONE = "files_gone"  # no image is left to take patient and study from
    NOT_WRITABLE = "not_writable"  # what was written does not pass the form's own check
    MISCONFIGURED = "misconfigured"  # the settings of the receiver or of the context cannot work


class Reading(StrEnum):
    """What the radiologist's report says of a study, or of one label of it: the truth that monitoring goes by."""

    POSITIVE = "positive"  # the finding is there
    NEGATIVE = "negative"  # it is not
    UNCLEAR = "unclear"  # the report does not decide; counted, and left out of sensitivity and specificity


class TruthSource(StrEnum):
    """From where a reading came."""

    CSV = "csv"  # a table that a person imported
    FHIR = "fhir"  # a DiagnosticReport
    HL7 = "hl7"  # an ORU message


class Stage(StrEnum):
    """The stages of a study's way, as events name them (`docs/architecture.md` draws them)."""

    RECEIVE = "receive"
    ASSEMBLE = "assemble"
    ROUTE = "route"
    INFER = "infer"
    ENCODE = "encode"
    DELIVER = "deliver"
    RETRACT = "retract"
    RETURN = "return"  # what radiologists and registers said of it afterwards
