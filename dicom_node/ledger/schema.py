"""The ledger's tables. Times are UTC microseconds since 1970 (one type on both databases, exact and sortable).

Read by the query modules beside this one and by the migrations; states are those of `dicom_node.states`. Rows hold
identifiers and decisions, no patient's name.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime, stored as whole microseconds since 1970."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        """Microseconds of an aware datetime."""
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        """The datetime of stored microseconds."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


class Words(sa.types.TypeDecorator[str]):
    """Text that may repeat what a header or an archive said: what no database takes is replaced."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Without NUL, which PostgreSQL refuses, and lone surrogates, which no encoding knows."""
        return (
            None
            if value is None
            else value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        )


metadata = sa.MetaData()
_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

instance = sa.Table(
    "instance",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("study_uid", sa.Text, nullable=False),
    sa.Column("series_uid", sa.Text, nullable=False),
    sa.Column("sop_instance_uid", sa.Text, nullable=False),
    sa.Column("sop_class_uid", sa.Text, nullable=False),
    sa.Column("transfer_syntax_uid", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("path", sa.Text, nullable=True),  # null once the file is evicted
    sa.Column("calling_ae", sa.Text, nullable=False),
    sa.Column("called_ae", sa.Text, nullable=False),
    sa.Column("peer_address", sa.Text, nullable=False),
    sa.Column("received_at", UtcTime, nullable=False),
    sa.Column("is_current", sa.Boolean, nullable=False),  # false: another instance with the same UID came later
    sa.Column("times_received", sa.Integer, nullable=False, server_default="1"),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=True),
    sa.Column("detail", Words, nullable=True),
    sa.Column("facts", sa.JSON, nullable=True),
    sa.UniqueConstraint("sop_instance_uid", "study_uid", "sha256", name="instance_once"),
)
sa.Index("instance_by_study", instance.c.study_uid, instance.c.is_current)
sa.Index("instance_by_state", instance.c.state)

study = sa.Table(
    "study",
    metadata,
    sa.Column("study_uid", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("calling_ae", sa.Text, nullable=False),
    sa.Column("first_received_at", UtcTime, nullable=False),
    sa.Column("last_received_at", UtcTime, nullable=False),
    sa.Column("revision_started_at", UtcTime, nullable=False),
    sa.Column("look_at", UtcTime, nullable=True),  # when assembly looks again; null: nothing to decide
    sa.Column("waiting_for", Words, nullable=True),
    sa.Column("waved_through", sa.Integer, nullable=True),  # revision that a person wants looked at, however many
    sa.Column("completed_at", UtcTime, nullable=True),
    sa.Column("outcome", sa.Text, nullable=True),
    sa.Column("outcome_reason", sa.Text, nullable=True),
    sa.Column("outcome_detail", Words, nullable=True),
    sa.Column("outcome_at", UtcTime, nullable=True),
    sa.Column("retracted_at", UtcTime, nullable=True),
    sa.Column("accession_number", Words, nullable=True),  # by which truth from a reporting system finds the study
)
sa.Index("study_to_look_at", study.c.look_at)
sa.Index("study_by_accession_number", study.c.accession_number)
sa.Index("study_by_arrival", study.c.first_received_at)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("study_uid", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=True),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("what", Words, nullable=False),
    sa.Column("detail", Words, nullable=False, server_default=""),
)
sa.Index("event_by_study", event.c.study_uid, event.c.id)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("study_uid", sa.Text, sa.ForeignKey("study.study_uid"), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("model_digest", sa.Text, nullable=False),  # of the card that was meant; another one must not run
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("destinations", sa.JSON, nullable=False),
    sa.Column("instance_ids", sa.JSON, nullable=False),
    sa.Column("sources_digest", sa.Text, nullable=False),  # over the stored bytes: equal sources need no job
    sa.Column("incomplete", sa.Boolean, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=True),
    sa.Column("stage_at", UtcTime, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("interruptions", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_batch", sa.Integer, nullable=True),
    sa.Column("device", sa.Text, nullable=True),  # set to cpu after the accelerator failed this job
    sa.Column("queued_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime, nullable=True),
    sa.Column("lease_owner", sa.Text, nullable=True),
    sa.Column("lease_until", UtcTime, nullable=True),
    sa.Column("inputs_digest", sa.Text, nullable=True),
    sa.Column("findings", sa.Text, nullable=True),
    sa.Column("findings_digest", sa.Text, nullable=True),
    sa.Column("content_time", UtcTime, nullable=True),
    sa.Column("refusal_reason", sa.Text, nullable=True),
    sa.Column("refusal_detail", Words, nullable=True),
    sa.Column("timings_s", sa.JSON, nullable=True),
    sa.Column("positive", sa.Boolean, nullable=True),  # anything reported; null without findings
    sa.Column("images_unread", sa.Integer, nullable=True),  # images left out that the model should have seen
    # However often a model changes: one result of it on one revision.
    sa.Index(
        "job_once_per_revision",
        "study_uid",
        "revision",
        "model_name",
        unique=True,
        sqlite_where=sa.text("role = 'champion'"),
        postgresql_where=sa.text("role = 'champion'"),
    ),
    sa.UniqueConstraint("study_uid", "revision", "model_name", "model_version", name="job_of_a_version_once"),
)
sa.Index("job_by_state", job.c.state, job.c.role, job.c.priority, job.c.queued_at)
sa.Index("job_by_model", job.c.model_name, job.c.model_version, job.c.finished_at)
sa.Index("job_by_study", job.c.study_uid, job.c.revision)
sa.Index("job_by_version_and_time", job.c.model_name, job.c.model_version, job.c.queued_at)

label_score = sa.Table(
    "label_score",
    metadata,
    sa.Column("job_id", _id, sa.ForeignKey("job.id"), primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("score", sa.Float, nullable=False),  # of the statement about the study, calibrated
    sa.Column("present", sa.Boolean, nullable=False),
)

result_set = sa.Table(
    "result_set",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("job_id", _id, sa.ForeignKey("job.id"), nullable=False),
    sa.Column("study_uid", sa.Text, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("profile", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # result | retraction
    sa.Column("is_current", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
)
sa.Index("result_set_by_job", result_set.c.job_id)
sa.Index(
    "result_set_one_current",
    result_set.c.study_uid,
    result_set.c.model_name,
    result_set.c.profile,
    unique=True,
    sqlite_where=result_set.c.is_current,
    postgresql_where=result_set.c.is_current,
)

result_object = sa.Table(
    "result_object",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("result_set_id", _id, sa.ForeignKey("result_set.id"), nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("study_uid", sa.Text, nullable=False),
    sa.Column("series_uid", sa.Text, nullable=False),
    sa.Column("sop_class_uid", sa.Text, nullable=False),
    sa.Column("sop_instance_uid", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=True),  # null once the file is evicted
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("result_set_id", "sop_instance_uid", name="result_object_once"),
)
sa.Index("result_object_by_uid", result_object.c.sop_instance_uid)
sa.Index("result_object_by_study", result_object.c.study_uid)

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("result_set_id", _id, sa.ForeignKey("result_set.id"), nullable=False),
    sa.Column("study_uid", sa.Text, nullable=False),
    sa.Column("destination", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("confirmations_asked", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempt_started_at", UtcTime, nullable=True),  # not null while an attempt is under way
    sa.Column("next_attempt_at", UtcTime, nullable=True),
    sa.Column("reason", Words, nullable=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("sent_at", UtcTime, nullable=True),
    sa.Column("finished_at", UtcTime, nullable=True),
    sa.UniqueConstraint("result_set_id", "destination", name="delivery_once"),
)
sa.Index("delivery_due", delivery.c.destination, delivery.c.state, delivery.c.next_attempt_at)
sa.Index("delivery_by_study", delivery.c.study_uid)

commitment = sa.Table(
    "commitment",
    metadata,
    sa.Column("transaction_uid", sa.Text, primary_key=True),
    sa.Column("delivery_id", _id, sa.ForeignKey("delivery.id"), nullable=False),
    sa.Column("requested_at", UtcTime, nullable=False),
    sa.Column("answered_at", UtcTime, nullable=True),
    sa.Column("committed", sa.JSON, nullable=True),
    sa.Column("failed", sa.JSON, nullable=True),
)

evaluation_report = sa.Table(
    "evaluation_report",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),  # the file itself: what a promotion rests on can be read for ever
    sa.Column("stored_at", UtcTime, nullable=False),
)

model_standing = sa.Table(
    "model_standing",
    metadata,
    sa.Column("model_name", sa.Text, primary_key=True),
    sa.Column("model_version", sa.Text, primary_key=True),
    sa.Column("standing", sa.Text, nullable=False),
    sa.Column("model_digest", sa.Text, nullable=False),
    sa.Column("since", UtcTime, nullable=False),
)
sa.Index(
    "model_one_champion",
    model_standing.c.model_name,
    unique=True,
    sqlite_where=sa.text("standing = 'champion'"),
    postgresql_where=sa.text("standing = 'champion'"),
)

standing_change = sa.Table(
    "standing_change",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("operator", Words, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("from_standing", sa.Text, nullable=False),
    sa.Column("to_standing", sa.Text, nullable=False),
    sa.Column("model_digest", sa.Text, nullable=False),
    sa.Column("report_sha256", sa.Text, sa.ForeignKey("evaluation_report.sha256"), nullable=True),
    sa.Column("why", Words, nullable=False),
)
sa.Index("standing_change_by_model", standing_change.c.model_name, standing_change.c.id)

loaded_model = sa.Table(
    "loaded_model",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),  # the worker, as it holds leases
    sa.Column("model_name", sa.Text, primary_key=True),
    sa.Column("model_version", sa.Text, primary_key=True),
    sa.Column("model_digest", sa.Text, nullable=False),
    sa.Column("device", sa.Text, nullable=True),
    sa.Column("fault", Words, nullable=True),  # why it cannot be loaded
    sa.Column("seen_at", UtcTime, nullable=False),  # renewed with the leases; old rows are of dead workers
)

truth = sa.Table(
    "truth",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("study_uid", sa.Text, sa.ForeignKey("study.study_uid"), nullable=False),
    sa.Column("label", sa.Text, nullable=False),  # key of a card's label; empty: the study as a whole
    sa.Column("reading", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("rule", Words, nullable=False),  # what in the source decided, in words
    sa.Column("read_at", UtcTime, nullable=False),
    sa.Column("entered_at", UtcTime, nullable=False),
    sa.Column("is_current", sa.Boolean, nullable=False),  # false: a later reading replaced it
)
sa.Index("truth_by_study", truth.c.study_uid)
sa.Index(
    "truth_one_current",
    truth.c.study_uid,
    truth.c.label,
    unique=True,
    sqlite_where=truth.c.is_current,
    postgresql_where=truth.c.is_current,
)

document = sa.Table(
    "document",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("document_id", sa.Text, nullable=False),  # equal for every attempt; derived, no patient in it
    sa.Column("set_id", sa.Text, nullable=False),  # equal for all versions: study, model and destination
    sa.Column("study_uid", sa.Text, sa.ForeignKey("study.study_uid"), nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("destination", sa.Text, nullable=False),
    sa.Column("job_id", _id, sa.ForeignKey("job.id"), nullable=False),  # what it tells or takes back
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("content_digest", sa.Text, nullable=False),  # of model and findings: equal content is no new version
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=True),  # given when it is written, so that versions count what left
    sa.Column("replaces", sa.Text, nullable=True),
    sa.Column("path", sa.Text, nullable=True),  # what is sent, fixed before the first attempt
    sa.Column("sha256", sa.Text, nullable=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=True),
    sa.Column("request_path", sa.Text, nullable=True),  # what it was written from; stays when the letter is evicted
    sa.Column("sent_set_id", sa.Text, nullable=True),  # as the receiver knows the set: another one after a withdrawal
    sa.Column("resends", sa.Integer, nullable=False, server_default="0"),  # acknowledged, and then not there
    sa.Column("preparations", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),  # counted before anything leaves
    sa.Column("may_have_arrived", sa.Boolean, nullable=False, server_default=sa.false()),  # an attempt ended unanswered
    sa.Column("confirmations_asked", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempt_started_at", UtcTime, nullable=True),
    sa.Column("next_attempt_at", UtcTime, nullable=True),
    sa.Column("park_reason", sa.Text, nullable=True),
    sa.Column("reason", Words, nullable=True),
    sa.Column("receiver_ids", sa.JSON, nullable=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("handed_over_at", UtcTime, nullable=True),
    sa.Column("finished_at", UtcTime, nullable=True),  # nothing more is asked or sent
    sa.Column("returned_at", UtcTime, nullable=True),  # when signer or register spoke, by their own word
    sa.Column("register_number", Words, nullable=True),
    sa.Column("register_code", Words, nullable=True),
    sa.UniqueConstraint("document_id", name="document_once"),
)
sa.Index("document_due", document.c.destination, document.c.state, document.c.next_attempt_at)
sa.Index("document_by_study", document.c.study_uid)
sa.Index("document_by_set", document.c.set_id, document.c.id)

destination_hold = sa.Table(
    "destination_hold",
    metadata,
    sa.Column("destination", sa.Text, primary_key=True),
    sa.Column("since", UtcTime, nullable=False),
    sa.Column("operator", Words, nullable=False),
    sa.Column("why", Words, nullable=False),
)
