"""`radnode studies`, `explain`, `retry` and `retract`: what happened to a study, and what a person can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from dicom_node.account import StudyLine, account_of, newest_studies
from dicom_node.commands.context import fail, json_option, load_settings, one_study, open_ledger, write_json
from dicom_node.explanation import explanation
from dicom_node.ledger import Ledger
from dicom_node.ledger.documents import DocumentRow
from dicom_node.settings import Settings
from dicom_node.states import DeliveryState, DocumentKind, DocumentState, JobState
from inference.findings import StudyUid

_SHORT_UID = 12
WIDTH_IN_FILES = 140


@click.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many.")
@json_option
@click.pass_context
def studies(ctx: click.Context, limit: int, json_to: str | None) -> None:
    """List the studies that arrived last."""
    lines = newest_studies(open_ledger(load_settings(ctx)), limit=limit)
    if json_to is not None:
        write_json([line.to_json() for line in lines], json_to)
        return
    wide_console().print(studies_table(lines) if lines else "No study has arrived yet.")


def wide_console() -> Console:
    """The terminal as it is; what goes into a file or a pipe is not folded at 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_IN_FILES)


def studies_table(lines: tuple[StudyLine, ...]) -> Table:
    """One row a study, as `radnode studies` and the demo print it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    to_record = ("record",) if any(line.documents for line in lines) else ()
    for heading in ("study", "images", "outcome", "model", "lesions", "objects", "seconds", "delivery", *to_record):
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("outcome", "model", "lesions"))
    table.caption = "seconds: from the last image to the result in the archive"
    for line in lines:
        study = line.study
        outcome = str(study.outcome or study.state)
        if study.outcome_reason and study.outcome_reason != study.outcome:
            outcome += f": {study.outcome_reason}"
        seconds = "" if line.seconds_to_result is None else f"{line.seconds_to_result:.1f}"
        table.add_row(
            _short(study.study_uid),
            str(line.instance_count),
            outcome,
            ", ".join(line.models),
            ", ".join(f"{score:.0%}" for score in line.lesion_scores),
            str(line.objects),
            seconds,
            _delivered(line.deliveries),
            *([_delivered(line.documents)] if to_record else []),
        )
    return table


def _delivered(deliveries: tuple[str, ...]) -> str:
    """States of the deliveries; a state that all of them share is said once."""
    states = {delivery.rpartition(" ")[2] for delivery in deliveries}
    return states.pop() if len(states) == 1 else ", ".join(deliveries)


def _short(uid: str) -> str:
    """The end of a UID is what tells studies of one sender apart; `--json` gives it whole."""
    return uid if len(uid) <= _SHORT_UID else "…" + uid[1 - _SHORT_UID :]


@click.command()
@click.argument("study")
@json_option
@click.pass_context
def explain(ctx: click.Context, study: str, json_to: str | None) -> None:
    """Print every decision about STUDY (its UID, or how it begins or ends), in order."""
    from models.registry import installed_models

    settings = load_settings(ctx)
    ledger = open_ledger(settings)
    cards = {one.card.reference: one.card for one in installed_models(settings.model_folders).models.values()}
    account = account_of(ledger, one_study(ledger, study), cards)
    if account is None:
        fail(f"no study {study}")
    if json_to is not None:
        write_json(account.to_json(), json_to)
        return
    click.echo("\n".join(explanation(account, language=settings.profile[0].language)))


def check_destination(settings: Settings, name: str | None) -> None:
    """End the command when no archive and no receiver of the record is called so."""
    known = settings.all_destinations_list()
    if name and name not in known:
        fail(f"no destination is called {name}; there are: {', '.join(known) or 'none'}")


@click.command()
@click.argument("study", required=False)
@click.option("--destination", help="Only what goes to this destination.")
@click.option("--all", "every", is_flag=True, help="Every failed, parked or waiting delivery and document.")
@json_option
@click.pass_context
def retry(ctx: click.Context, study: str | None, destination: str | None, every: bool, json_to: str | None) -> None:
    """Try failed jobs, deliveries and documents again now: of STUDY, of a destination, or of all.

    A STUDY of which nothing failed, or whose model has another champion now, is assembled and routed anew.
    """
    if not (study or destination or every):
        fail("say what to retry: a study, --destination NAME, or --all")
    from dicom_node.ledger import deliveries, documents, events, instances, jobs
    from dicom_node.ledger import studies as study_rows
    from dicom_node.serving import is_replaced
    from dicom_node.states import Stage

    settings = load_settings(ctx)
    check_destination(settings, destination)
    ledger = open_ledger(settings)
    study_uid = one_study(ledger, study) if study else None
    now = ledger.clock()
    with ledger.begin() as tx:
        due = deliveries.make_due(
            tx, now, study_uid=study_uid, destination=destination, known=settings.destinations_list()
        )
        scope: dict[str, Any] = {"study_uid": study_uid, "destination": destination, "known": settings.records_list()}
        told = documents.make_due(tx, now, **scope) + documents.renew(tx, now, **scope)
        again, reopened = 0, False
        if study_uid:
            newest = jobs.newest_of_study(tx, study_uid)
            # What failed with a version that serves no more is routed anew instead of tried with it again.
            failed = [job for job in newest if job.state in (JobState.FAILED, JobState.REJECTED)]
            replaced = any(is_replaced(tx, job) for job in failed)
            again = 0 if replaced else sum(jobs.queue_again(tx, job.id, now) for job in failed)
            study_rows.look_now(tx, study_uid, now)
            if replaced or (not again and not due and not told):
                reopened = study_rows.reopen(tx, study_uid, now)
                instances.index_again(tx, study_uid)
            what = f"a person asks for another try: {again} job(s), {due} delivery(ies), {told} document(s)"
            what += ", assembled and routed anew" if reopened else ""
            events.add(tx, study_uid, at=now, stage=Stage.DELIVER, what=what)
    if json_to is not None:
        counted = {"jobs": again, "deliveries": due, "documents": told}
        write_json({"study_uid": study_uid, **counted, "routed_anew": reopened}, json_to)
        return
    jobs_too = f"{again} job(s), {due} delivery(ies) and {told} document(s)"
    click.echo(f"{jobs_too if settings.record else f'{again} job(s) and {due} delivery(ies)'} are tried again now")
    if reopened:
        click.echo("the study is assembled and routed anew by the rules and models of now")


@click.command()
@click.argument("study")
@click.option(
    "--reason",
    type=click.Choice(["quality", "patient_safety", "wrong_worklist_entry"]),
    default="quality",
    show_default=True,
    help="Title of the rejection note.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def retract(ctx: click.Context, study: str, reason: str, yes: bool, json_to: str | None) -> None:
    """Withdraw the results of STUDY.

    A rejection note goes to every archive that has them, a withdrawal of the document to every receiver of the record.
    What has not left yet does not leave any more.
    """
    from dicom_node.building import build_pipeline, installed
    from dicom_node.routing import RoutesError
    from dicom_node.withdrawal import NoImageLeft
    from dicom_node.withdrawal import retract as withdraw

    settings = load_settings(ctx)
    ledger = open_ledger(settings)
    study_uid = one_study(ledger, study)
    if not yes:
        where = "every archive and every receiver of the record" if settings.record else "every archive"
        click.confirm(f"Withdraw all results of study {study_uid} from {where}?", abort=True)
    before = _documents(ledger, study_uid)
    try:
        pipeline = build_pipeline(settings, ledger.clock, installed(settings))
        withdrawn = withdraw(pipeline.encoder, study_uid, reason)
    except (RoutesError, NoImageLeft) as error:
        fail(str(error))
    with ledger.read() as tx:
        from dicom_node.ledger import deliveries

        open_ones = [row for row in deliveries.of_study(tx, study_uid) if row.state is DeliveryState.PENDING]
    queued, stopped = _taken_back(before, _documents(ledger, study_uid))
    if not (withdrawn or queued or stopped):
        fail("the study has no result that stands")
    if json_to is not None:
        counted = {"withdrawn": withdrawn, "notes_on_their_way": len(open_ones)}
        of_documents = {"document_withdrawals": queued, "documents_not_leaving": stopped}
        write_json({"study_uid": study_uid, **counted, **of_documents}, json_to)
        return
    click.echo(f"{withdrawn} result set(s) withdrawn; {len(open_ones)} rejection note(s) on their way")
    if settings.record or queued or stopped:
        click.echo(f"{queued} withdrawal(s) of documents queued; {stopped} document(s) will not leave any more")


def _documents(ledger: Ledger, study_uid: StudyUid) -> tuple[DocumentRow, ...]:
    from dicom_node.ledger import documents

    with ledger.read() as tx:
        return documents.of_study(tx, study_uid)


def _taken_back(before: Sequence[DocumentRow], after: Sequence[DocumentRow]) -> tuple[int, int]:
    """How many withdrawals were queued in between, and how many documents were overtaken before they had left."""
    known = {row.id: row.state for row in before}
    queued = sum(row.id not in known and row.kind is DocumentKind.WITHDRAWAL for row in after)
    stopped = sum(
        row.state is DocumentState.OVERTAKEN and known.get(row.id) is not DocumentState.OVERTAKEN for row in after
    )
    return queued, stopped
