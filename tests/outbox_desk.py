"""What the tests of the outbox share: a rig with one receiver of drafts, and the words that people have for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lxml import etree

from dicom_node import withdrawal
from dicom_node.ledger import documents, outbox
from dicom_node.ledger.outbox import Task
from dicom_node.states import DocumentKind, DocumentState
from inference.findings import StudyUid
from inference.refusals import Reason, Refusal
from tests.outbox_rig import MoodyService, OutboxRig
from tests.pipeline_rig import OWNER

V3 = {"v": "urn:hl7-org:v3"}
RESEND_S = 3600.0  # longer than any wait between attempts

Build = Callable[..., OutboxRig]


@contextmanager
def rigs(folder: Path, service: MoodyService) -> Iterator[Build]:
    """Makes rigs whose one receiver, `emr`, is `service`; `record` and `outbox` are laid over the settings."""
    made: list[OutboxRig] = []

    def make(
        *, record: dict[str, Any] | None = None, outbox: dict[str, Any] | None = None, **settings: Any
    ) -> OutboxRig:
        table = {"name": "emr", "kind": "semd", "url": service.url, "accept_research": True} | (record or {})
        waits = {"first_retry_s": 10, "longest_retry_s": 900, "context_file": folder / "context.toml"}
        made.append(OutboxRig(folder, [table], outbox=waits | (outbox or {}), **settings))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


def said(body: bytes, path: str) -> str:
    """One value of a draft."""
    return str(etree.fromstring(body).xpath(f"string({path})", namespaces=V3))


def states(rig: OutboxRig, study_uid: StudyUid) -> list[tuple[DocumentKind, DocumentState]]:
    return [(row.kind, row.state) for row in rig.rows(study_uid)]


def retract(rig: OutboxRig, study_uid: StudyUid) -> None:
    withdrawal.retract(rig.pipeline.encoder, study_uid, "quality")


def refuse(rig: OutboxRig) -> None:
    """The model cannot speak of what is queued."""
    for job in rig.claim():
        rig.pipeline.encode(rig.say(job, refusal=Refusal(reason=Reason.VIEW)), OWNER)


def make_due(rig: OutboxRig, **changes: Any) -> int:
    """What `radnode retry` does."""
    values: dict[str, Any] = {"study_uid": None, "destination": None, "known": ["emr"]}
    with rig.pipeline.ledger.begin() as tx:
        scope = values | changes
        return documents.make_due(tx, rig.clock(), **scope) + documents.renew(tx, rig.clock(), **scope)


def only(rig: OutboxRig, study_uid: StudyUid) -> documents.DocumentRow:
    (row,) = rig.rows(study_uid)
    return row


def without(text: str, section: str) -> str:
    """A TOML text without one of its tables."""
    before, _heading, after = text.partition(section)
    assert after
    return before + after[after.index("\n[") :]


def change_patients(rig: OutboxRig, old: str, new: str) -> None:
    table = rig.folder / "patients.csv"
    text = table.read_text(encoding="utf-8")
    assert old in text
    table.write_text(text.replace(old, new), encoding="utf-8")


def under_way(rig: OutboxRig, task: Task) -> None:
    """A courier has just taken what is due, and is not done with it."""
    with rig.pipeline.ledger.begin() as tx:
        assert outbox.claim_due(tx, "emr", task, rig.clock(), limit=9)
