"""The first schema: instances, studies, events, jobs, results, deliveries, commitments.

Written out, not taken from `dicom_node.ledger.schema`: what a migration does must not change when the schema does.
Times are whole microseconds since 1970, UTC.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.BigInteger()


def upgrade() -> None:
    """Create every table of the first release."""
    _create_received()
    _create_work()
    _create_results()
    _create_deliveries()
    _create_models()


def _create_received() -> None:
    op.create_table(
        "instance",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.Column("sop_instance_uid", sa.Text(), nullable=False),
        sa.Column("sop_class_uid", sa.Text(), nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text()),
        sa.Column("calling_ae", sa.Text(), nullable=False),
        sa.Column("called_ae", sa.Text(), nullable=False),
        sa.Column("peer_address", sa.Text(), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("times_received", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("detail", sa.Text()),
        sa.Column("facts", sa.JSON()),
        sa.UniqueConstraint("sop_instance_uid", "study_uid", "sha256", name="instance_once"),
    )
    op.create_index("instance_by_study", "instance", ["study_uid", "is_current"])
    op.create_index("instance_by_state", "instance", ["state"])
    op.create_table(
        "study",
        sa.Column("study_uid", sa.Text(), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("calling_ae", sa.Text(), nullable=False),
        sa.Column("first_received_at", _TIME, nullable=False),
        sa.Column("last_received_at", _TIME, nullable=False),
        sa.Column("revision_started_at", _TIME, nullable=False),
        sa.Column("look_at", _TIME),
        sa.Column("waiting_for", sa.Text()),
        sa.Column("waved_through", sa.Integer()),
        sa.Column("completed_at", _TIME),
        sa.Column("outcome", sa.Text()),
        sa.Column("outcome_reason", sa.Text()),
        sa.Column("outcome_detail", sa.Text()),
        sa.Column("outcome_at", _TIME),
        sa.Column("retracted_at", _TIME),
    )
    op.create_index("study_to_look_at", "study", ["look_at"])
    op.create_table(
        "event",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer()),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False, server_default=""),
    )
    op.create_index("event_by_study", "event", ["study_uid", "id"])


def _create_work() -> None:
    op.create_table(
        "job",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("study_uid", sa.Text(), sa.ForeignKey("study.study_uid"), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("destinations", sa.JSON(), nullable=False),
        sa.Column("instance_ids", sa.JSON(), nullable=False),
        sa.Column("sources_digest", sa.Text(), nullable=False),
        sa.Column("incomplete", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text()),
        sa.Column("stage_at", _TIME),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("interruptions", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("max_batch", sa.Integer()),
        sa.Column("device", sa.Text()),
        sa.Column("queued_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("lease_owner", sa.Text()),
        sa.Column("lease_until", _TIME),
        sa.Column("inputs_digest", sa.Text()),
        sa.Column("findings", sa.Text()),
        sa.Column("findings_digest", sa.Text()),
        sa.Column("content_time", _TIME),
        sa.Column("refusal_reason", sa.Text()),
        sa.Column("refusal_detail", sa.Text()),
        sa.Column("timings_s", sa.JSON()),
        sa.UniqueConstraint("study_uid", "revision", "model_name", "model_version", name="job_of_a_version_once"),
    )
    op.create_index(
        "job_once_per_revision",
        "job",
        ["study_uid", "revision", "model_name"],
        unique=True,
        sqlite_where=sa.text("role = 'champion'"),
        postgresql_where=sa.text("role = 'champion'"),
    )
    op.create_index("job_by_state", "job", ["state", "role", "priority", "queued_at"])
    op.create_index("job_by_model", "job", ["model_name", "model_version", "finished_at"])
    op.create_index("job_by_study", "job", ["study_uid", "revision"])


def _create_results() -> None:
    op.create_table(
        "result_set",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("job_id", _ID, sa.ForeignKey("job.id"), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_index(
        "result_set_one_current",
        "result_set",
        ["study_uid", "model_name", "profile"],
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    )
    op.create_table(
        "result_object",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("result_set_id", _ID, sa.ForeignKey("result_set.id"), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.Column("sop_class_uid", sa.Text(), nullable=False),
        sa.Column("sop_instance_uid", sa.Text(), nullable=False),
        sa.Column("path", sa.Text()),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("result_set_id", "sop_instance_uid", name="result_object_once"),
    )
    op.create_index("result_object_by_uid", "result_object", ["sop_instance_uid"])
    op.create_index("result_object_by_study", "result_object", ["study_uid"])


def _create_deliveries() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("result_set_id", _ID, sa.ForeignKey("result_set.id"), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("confirmations_asked", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("attempt_started_at", _TIME),
        sa.Column("next_attempt_at", _TIME),
        sa.Column("reason", sa.Text()),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("sent_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.UniqueConstraint("result_set_id", "destination", name="delivery_once"),
    )
    op.create_index("delivery_due", "delivery", ["destination", "state", "next_attempt_at"])
    op.create_index("delivery_by_study", "delivery", ["study_uid"])
    op.create_table(
        "commitment",
        sa.Column("transaction_uid", sa.Text(), primary_key=True),
        sa.Column("delivery_id", _ID, sa.ForeignKey("delivery.id"), nullable=False),
        sa.Column("requested_at", _TIME, nullable=False),
        sa.Column("answered_at", _TIME),
        sa.Column("committed", sa.JSON()),
        sa.Column("failed", sa.JSON()),
    )


def _create_models() -> None:
    op.create_table(
        "evaluation_report",
        sa.Column("sha256", sa.Text(), primary_key=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("stored_at", _TIME, nullable=False),
    )
    op.create_table(
        "model_standing",
        sa.Column("model_name", sa.Text(), primary_key=True),
        sa.Column("model_version", sa.Text(), primary_key=True),
        sa.Column("standing", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("since", _TIME, nullable=False),
    )
    op.create_index(
        "model_one_champion",
        "model_standing",
        ["model_name"],
        unique=True,
        sqlite_where=sa.text("standing = 'champion'"),
        postgresql_where=sa.text("standing = 'champion'"),
    )
    op.create_table(
        "standing_change",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("from_standing", sa.Text(), nullable=False),
        sa.Column("to_standing", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("report_sha256", sa.Text(), sa.ForeignKey("evaluation_report.sha256")),
        sa.Column("why", sa.Text(), nullable=False),
    )
    op.create_index("standing_change_by_model", "standing_change", ["model_name", "id"])
    op.create_table(
        "loaded_model",
        sa.Column("owner", sa.Text(), primary_key=True),
        sa.Column("model_name", sa.Text(), primary_key=True),
        sa.Column("model_version", sa.Text(), primary_key=True),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("device", sa.Text()),
        sa.Column("fault", sa.Text()),
        sa.Column("seen_at", _TIME, nullable=False),
    )
