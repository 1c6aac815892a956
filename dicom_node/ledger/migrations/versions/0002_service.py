"""What monitoring in service counts: verdict and scores of each job, images left unread, and truth that comes back.

Written out, as `0001_first_schema` is. Verdicts and scores of jobs that ended before are taken from their findings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.BigInteger()
_AT_A_TIME = 500


def upgrade() -> None:
    """Add columns, tables and indexes, and fill them from the findings that are there."""
    op.add_column("study", sa.Column("accession_number", sa.Text()))
    op.create_index("study_by_accession_number", "study", ["accession_number"])
    op.create_index("study_by_arrival", "study", ["first_received_at"])
    op.add_column("job", sa.Column("positive", sa.Boolean()))
    op.add_column("job", sa.Column("images_unread", sa.Integer()))
    op.create_index("job_by_version_and_time", "job", ["model_name", "model_version", "queued_at"])
    op.create_index("result_set_by_job", "result_set", ["job_id"])
    op.create_table(
        "label_score",
        sa.Column("job_id", _ID, sa.ForeignKey("job.id"), primary_key=True),
        sa.Column("label", sa.Text(), primary_key=True),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "truth",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("study_uid", sa.Text(), sa.ForeignKey("study.study_uid"), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("reading", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("read_at", _TIME, nullable=False),
        sa.Column("entered_at", _TIME, nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
    )
    op.create_index("truth_by_study", "truth", ["study_uid"])
    op.create_index(
        "truth_one_current",
        "truth",
        ["study_uid", "label"],
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    )
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    last = 0
    some = sa.text("SELECT id, findings FROM job WHERE findings IS NOT NULL AND id > :last ORDER BY id LIMIT :limit")
    verdict = sa.text("UPDATE job SET positive = :positive WHERE id = :job_id").bindparams(
        sa.bindparam("positive", type_=sa.Boolean())
    )
    score = sa.text(
        "INSERT INTO label_score (job_id, label, score, present) VALUES (:job_id, :label, :score, :present)"
    ).bindparams(sa.bindparam("present", type_=sa.Boolean()))
    while rows := connection.execute(some, {"last": last, "limit": _AT_A_TIME}).all():
        for job_id, text in rows:
            findings = json.loads(text)
            present = [one["presence"] == "present" for one in findings["findings"]]
            connection.execute(verdict, {"job_id": job_id, "positive": any(present) or bool(findings["lesions"])})
            for label, value, said in _scores(findings):
                connection.execute(score, {"job_id": job_id, "label": label, "score": value, "present": said})
        last = rows[-1][0]


def _scores(findings: Mapping[str, Any]) -> list[tuple[str, float, bool]]:
    """Of each label the statement about the study, else the highest about a picture; those about a side are others."""
    of_study = [one for one in findings["findings"] if not one.get("sop_instance_uid") and not one.get("laterality")]
    of_picture = [one for one in findings["findings"] if one.get("sop_instance_uid")]
    found: dict[str, tuple[float, bool]] = {}
    for statements in (of_picture, of_study):
        best: dict[str, tuple[float, bool]] = {}
        for one in statements:
            said = (float(one["score"]), one["presence"] == "present")
            best[one["label"]] = max(said, best.get(one["label"], said))
        found |= best
    return [(label, score, present) for label, (score, present) in found.items()]
