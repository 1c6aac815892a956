"""Documents on their way to the regional record, and destinations that a person holds back.

Written out, as `0001_first_schema` is.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.BigInteger()


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "document",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("document_id", sa.Text(), nullable=False),
        sa.Column("set_id", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), sa.ForeignKey("study.study_uid"), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("job_id", _ID, sa.ForeignKey("job.id"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("content_digest", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer()),
        sa.Column("replaces", sa.Text()),
        sa.Column("path", sa.Text()),
        sa.Column("sha256", sa.Text()),
        sa.Column("size_bytes", sa.BigInteger()),
        sa.Column("request_path", sa.Text()),
        sa.Column("sent_set_id", sa.Text()),
        sa.Column("resends", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("preparations", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("may_have_arrived", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("confirmations_asked", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("attempt_started_at", _TIME),
        sa.Column("next_attempt_at", _TIME),
        sa.Column("park_reason", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("receiver_ids", sa.JSON()),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("handed_over_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("returned_at", _TIME),
        sa.Column("register_number", sa.Text()),
        sa.Column("register_code", sa.Text()),
        sa.UniqueConstraint("document_id", name="document_once"),
    )
    op.create_index("document_due", "document", ["destination", "state", "next_attempt_at"])
    op.create_index("document_by_study", "document", ["study_uid"])
    op.create_index("document_by_set", "document", ["set_id", "id"])
    op.create_table(
        "destination_hold",
        sa.Column("destination", sa.Text(), primary_key=True),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
    )
