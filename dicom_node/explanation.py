"""The account of a study in words, as `radnode explain` prints it: every decision in order, then jobs, deliveries and
documents of the record.

The report in words follows its job, as it stands in the SR and in documents for the record. What is told many times for
one reason (an image that was left out) is told once with its number; `--json` has each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

from dicom_node.account import StudyAccount
from dicom_node.ledger.deliveries import DeliveryRow
from dicom_node.ledger.documents import DocumentRow
from dicom_node.ledger.events import Event
from dicom_node.ledger.jobs import Job
from dicom_node.states import JobRole
from dicom_node.wording import ReportText

_LEFT_OUT = "an image was left out: "
_SET_ASIDE = ("an instance is kept but not analysed", "an instance is set aside")
_INDENT = " " * 34


def explanation(account: StudyAccount, *, language: str = "en") -> list[str]:
    """Lines for people; the report of a job is in `language`, everything else in English."""
    lines = [*_study(account), "What happened (UTC):", *_events(account.events)]
    for job in account.jobs:
        lines += _job(job)
        lines += _report(next((text for text in account.texts.get(job.id, ()) if text.language == language), None))
    for row in account.deliveries:
        lines += _delivery(row, account)
    for document in account.documents:
        lines += _document(document)
    return lines


def _study(account: StudyAccount) -> Iterator[str]:
    study = account.study
    yield f"Study {study.study_uid}"
    yield f"  state {study.state}, revision {study.revision}"
    if study.waiting_for:
        yield f"  waits for: {study.waiting_for}"
    if study.outcome:
        detail = f" ({study.outcome_detail})" if study.outcome_detail else ""
        reason = f": {study.outcome_reason}" if study.outcome_reason else ""
        yield f"  outcome {study.outcome}{reason}{detail}"
    current = sum(one.is_current for one in account.instances)
    yield f"  {current} instance(s), {len(account.instances) - current} replaced by newer ones"
    yield f"  the first came at {_time(study.first_received_at)}, the last at {_time(study.last_received_at)}"


def _events(events: Sequence[Event]) -> Iterator[str]:
    for (what, stage, number, _single), alike in groupby(enumerate(events), key=_told_together):
        group = [event for _place, event in alike]
        first = group[0]
        revision = f" r{number}" if number else ""
        times = f"{len(group)} × " if len(group) > 1 else ""
        yield f"  {_time(first.at)} {stage:<8}{revision:>3}  {times}{what if times else first.what}"
        if times:
            yield f"{_INDENT}the first: {first.what.partition(_LEFT_OUT)[2] or first.detail}"
        elif first.detail:
            yield f"{_INDENT}{first.detail}"


def _told_together(placed: tuple[int, Event]) -> tuple[str, str, int | None, int | None]:
    """Equal for neighbours that leave out an image for the same reason; every other event stands alone."""
    place, event = placed
    said, left_out, refusal = event.what.partition(_LEFT_OUT)
    if left_out:
        return f"{said}{left_out}{refusal.partition(':')[0]}", event.stage, event.revision, None
    if event.what in _SET_ASIDE:
        return f"{event.what}: {event.detail.partition(':')[0].split(' ')[0]}", event.stage, event.revision, None
    return event.what, event.stage, event.revision, place


def _job(job: Job) -> Iterator[str]:
    spent = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in job.timings_s.items())
    yield f"Job {job.title} on revision {job.revision}: {job.state}{' (' + spent + ')' if spent else ''}"
    if job.role is JobRole.SHADOW:
        yield "  kept for comparison only: nothing of it was written or sent"
    for lesion in job.findings.lesions if job.findings else ():
        box = lesion.region.key_plane.box
        yield (
            f"  {lesion.label} {lesion.score:.1%} at x {box.x_min:.0f} to {box.x_max:.0f}, "
            f"y {box.y_min:.0f} to {box.y_max:.0f} of {lesion.region.key_plane.sop_instance_uid}"
        )


def _report(text: ReportText | None) -> Iterator[str]:
    if text is None:
        return
    parts = (
        ("description", text.description),
        ("conclusion", text.conclusion),
        ("recommendation", text.recommendation),
    )
    yield "  Report in words:"
    for name, words in (*parts, ("warnings", "\n".join(text.warnings))):
        if words:
            yield f"    {name}:"
            yield from (f"      {line}" for line in words.split("\n"))


def _delivery(row: DeliveryRow, account: StudyAccount) -> Iterator[str]:
    result = account.result_of(row)
    what = f"the {result.kind} of {result.model_name} (profile {result.profile})" if result else "a result"
    when = f" {_time(row.finished_at)}" if row.finished_at else ""
    yield f"Delivery of {what} to {row.destination}: {row.state}{when} after {row.attempts} attempt(s)"
    if row.reason:
        yield f"  {row.reason}"


def _document(row: DocumentRow) -> Iterator[str]:
    which = f" (version {row.version})" if row.version else ""
    when = f" {_time(row.handed_over_at)}" if row.handed_over_at else ""
    state = f"{row.state} ({row.park_reason})" if row.park_reason else row.state
    yield f"Document{which} of {row.model_name} for {row.destination}, {row.kind}: {state}{when}"
    yield f"  {row.document_id}, {row.attempts} attempt(s)"
    if row.reason:
        yield f"  {row.reason}"
    if row.register_number or row.register_code:
        said = [f"number {row.register_number}" if row.register_number else ""]
        said += [f"code {row.register_code}" if row.register_code else ""]
        yield f"  the register's word: {', '.join(part for part in said if part)}"
    if row.next_attempt_at:
        yield f"  next attempt {_time(row.next_attempt_at)}"


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
