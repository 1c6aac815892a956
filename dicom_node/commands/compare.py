"""`radnode models compare` and `show`: what two versions said of the same studies, and all that is known of one."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicom_node.commands.context import JSON_TO_STDOUT, fail, json_option, load_settings, open_ledger, write_json

if TYPE_CHECKING:
    from dicom_node.comparison import Comparison, Spread
    from dicom_node.ledger import Ledger
    from models.registry import InstalledModel


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--since", metavar="DATE", help="Only jobs that ended at or after it: 2026-11-22 or 2026-11-22T08:00 (UTC)."
)
@click.option("--csv", "csv_to", type=click.Path(dir_okay=False, path_type=Path), help="Write one row a study.")
@json_option
@click.pass_context
def compare(ctx: click.Context, a: str, b: str, since: str | None, csv_to: Path | None, json_to: str | None) -> None:
    """Compare what versions A and B (NAME@VERSION) said of the studies that both saw.

    A shadow's Findings are kept for this. It says how far the two differ, not which is right.
    """
    from dicom_node.comparison import compare as compare_jobs
    from dicom_node.ledger import shadows

    ledger = open_ledger(load_settings(ctx))
    begin = _moment(since) if since else None
    with ledger.read() as tx:
        jobs_a, jobs_b = (shadows.newest_of_version(tx, *_version(one), since=begin) for one in (a, b))
        found = compare_jobs(a, b, jobs_a, jobs_b)
    if csv_to is not None:
        _write_csv(found, csv_to)
    if json_to is not None:
        write_json(found.to_json(), json_to)
    if json_to != JSON_TO_STDOUT:
        click.echo("\n".join(_lines(found)))


@click.command()
@click.argument("model")
@json_option
@click.pass_context
def show(ctx: click.Context, model: str, json_to: str | None) -> None:
    """Print all that is known of MODEL (NAME@VERSION): card, standing, reports beside it, workers, jobs, history."""
    from models.registry import installed_models

    settings = load_settings(ctx)
    name, version = _version(model)
    installed = installed_models(settings.model_folders).models.get(model)
    ledger = open_ledger(settings)
    told = {**_card(model, installed), **_known(ledger, name, version, settings.worker.lease_s)}
    if installed is None and not told["history"]:
        fail(f"{model} is not installed and never had a standing; `radnode models list` names what is installed")
    if json_to is not None:
        write_json(told, json_to)
        return
    for key, value in told.items():
        if isinstance(value, list):
            click.echo(f"{key}:{'' if value else ' none'}")
            for one in value:
                words = ", ".join(f"{name} {said}" for name, said in one.items() if said not in (None, ""))
                click.echo(f"  {words}")
        else:
            click.echo(f"{key}: {value}")


def _card(model: str, installed: InstalledModel | None) -> dict[str, object]:
    from models.evaluation_report import reports_of

    if installed is None:
        return {"model": model, "installed": False}
    card = installed.card
    return {
        "model": model,
        "installed": True,
        "title": card.identity.title.en,
        "use": str(card.identity.use),
        "model_digest": card.model_digest,
        "device_uid": card.device_uid,
        "thresholds": ", ".join(f"{label.key} {label.operating_point.threshold:g}" for label in card.labels),
        "reports": [
            {
                "file": one.path.relative_to(installed.folder).as_posix(),
                "sha256": one.sha256,
                "of_this_model": one.report.model_digest == card.model_digest,
                "verdict": None if one.report.verdict is None else one.report.verdict.passed,
            }
            for one in reports_of(installed)
        ],
    }


def _known(ledger: Ledger, name: str, version: str, alive_s: float) -> dict[str, object]:
    from datetime import timedelta

    from dicom_node.commands.standing import change_json
    from dicom_node.ledger import shadows, standings
    from dicom_node.serving import read_standings
    from dicom_node.states import Standing

    with ledger.read() as tx:
        row = read_standings(tx).of(name, version)
        loaded = standings.loaded(tx, since=ledger.lease_now(tx) - timedelta(seconds=alive_s))
        counts = shadows.count_of_version(tx, name, version)
        changes = standings.history(tx, name)
    return {
        "standing": row.standing if row else Standing.CANDIDATE,
        "since": row.since.isoformat(timespec="seconds") if row else None,
        "digest_when_it_got_its_standing": row.model_digest if row else None,
        "workers": [
            {"worker": one.owner.split(":")[-2], "device": one.device, "fault": one.fault}
            for one in loaded
            if (one.model_name, one.model_version) == (name, version)
        ],
        "jobs": [{"role": role, "state": state, "count": count} for (role, state), count in sorted(counts.items())],
        "history": [change_json(made) for made in changes if made.model_version == version],
    }


def _version(model: str) -> tuple[str, str]:
    name, _, version = model.partition("@")
    if not version:
        fail(f"say which version: {name}@VERSION; `radnode models list` names what is installed")
    return name, version


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--since {text}: not a date; write 2026-11-22 or 2026-11-22T08:00 (UTC)")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _write_csv(found: Comparison, path: Path) -> None:
    rows = found.to_rows()
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["study_uid"]
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(path)
    except OSError as error:
        fail(f"{path}: cannot be written: {error.strerror}")


def _lines(found: Comparison) -> list[str]:
    told = found.to_json()
    presence, refusals = found.presence(), found.refusals()
    lesions = told["lesions"]
    assert isinstance(lesions, dict)
    lines = [
        f"A is {found.a}, B is {found.b}",
        f"Studies: {len(found.pairs)} compared; only A saw {found.only_a}, only B {found.only_b}"
        + (f"; {found.other_images} left out, they saw other images" if found.other_images else ""),
    ]
    if not found.pairs:
        return [*lines, "Nothing to compare: run one of them as a shadow (`radnode models shadow NAME@VERSION`)."]
    agreement = "undefined" if found.agreement is None else f"{found.agreement:.1%}"
    from dicom_node.comparison import spread

    return [
        *lines,
        f"Presence, in {len(found.both_spoke)} studies where both spoke: they agree in {agreement}",
        f"  both report {presence['both']}, only A {presence['only_a']}, only B {presence['only_b']}, "
        f"neither {presence['neither']}",
        f"Refused: both {refusals['both']}, only A {refusals['only_a']}, only B {refusals['only_b']}",
        f"Score, B minus A: {_spread(spread(pair.score_difference for pair in found.both_spoke), '+.3f')}",
        f"Lesions: {lesions['matched']} matched, only A {lesions['only_a']}, only B {lesions['only_b']}",
        f"Seconds in the network, A: {_spread(spread(pair.a.model_s for pair in found.both_spoke), '.3f')}",
        f"Seconds in the network, B: {_spread(spread(pair.b.model_s for pair in found.both_spoke), '.3f')}",
        *_disagreements(found),
    ]


def _disagreements(found: Comparison, *, most: int = 10) -> list[str]:
    """Studies on whose presence they disagree, the largest difference of scores first."""
    apart = [pair for pair in found.both_spoke if pair.a.positive is not pair.b.positive]
    apart.sort(key=lambda pair: -abs(pair.score_difference or 0.0))
    more = f" (the first {most} of {len(apart)})" if len(apart) > most else ""
    lines = [f"They disagree on{more}:"] if apart else []
    return lines + [
        f"  {pair.study_uid}  A {pair.a.score or 0:.3f}, B {pair.b.score or 0:.3f}" for pair in apart[:most]
    ]


def _spread(of: Spread, form: str) -> str:
    if of.mean is None or of.p05 is None or of.p95 is None or of.largest is None:
        return "undefined, there is no study"
    return (
        f"mean {of.mean:{form}}, 5th to 95th percentile {of.p05:{form}} to {of.p95:{form}}, "
        f"largest {of.largest:{form}} (n = {of.count})"
    )
