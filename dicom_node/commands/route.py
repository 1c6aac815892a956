"""`radnode route --explain`: which route each study of a folder would take, without receiving or storing anything."""

from __future__ import annotations

from pathlib import Path

import click

from dicom_node.commands.context import fail, json_option, load_settings, write_json
from dicom_node.routing import Candidate
from dicom_node.states import JobRole
from inference.findings import StudyUid

CALLING_AE = "DRY-RUN"


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--explain", is_flag=True, help="Print every rule's answer, not only the result.")
@click.option("--calling-ae", default=CALLING_AE, show_default=True, help="As if it came from this sender.")
@json_option
@click.pass_context
def route(ctx: click.Context, folder: Path, explain: bool, calling_ae: str, json_to: str | None) -> None:
    """Say which model and destinations each study under FOLDER would go to."""
    from dicom_node.building import installed, standings_if_any
    from dicom_node.routing import Routes, RoutesError, read_routes, route_study
    from dicom_node.serving import accepted_cards

    settings = load_settings(ctx)
    try:
        routes = read_routes(settings.routes_file) if settings.routes_file else Routes()
    except RoutesError as error:
        fail(str(error))
    cards = accepted_cards(installed(settings), accept_research=settings.accept_research)
    known = standings_if_any(settings)
    answers: list[dict[str, object]] = []
    for study_uid, (candidates, set_aside) in _studies(folder, calling_ae).items():
        routing = route_study(candidates, routes, cards, known)
        answers.append(
            {
                "study_uid": study_uid,
                "images": len(candidates),
                "set_aside": set_aside,
                "plans": [
                    {
                        "route": plan.route.name,
                        "model": plan.model.reference,
                        "role": plan.role,
                        "images": len(plan.instances),
                        "destinations": list(plan.route.destinations),
                        "priority": plan.priority,
                    }
                    for plan in routing.plans
                ],
                "trace": list(routing.trace),
            }
        )
    if json_to is not None:
        write_json(answers, json_to)
        return
    for answer in answers:
        _print(answer, explain)


def _print(answer: dict[str, object], explain: bool) -> None:
    click.echo(f"Study {answer['study_uid']}: {answer['images']} image(s)")
    plans, trace, set_aside = answer["plans"], answer["trace"], answer["set_aside"]
    assert isinstance(plans, list) and isinstance(trace, list) and isinstance(set_aside, list)
    for plan in plans:
        if plan["role"] == JobRole.SHADOW:
            click.echo(f"  → {plan['model']} as a shadow: nothing of it leaves the node")
            continue
        click.echo(f"  → {plan['model']} by route {plan['route']}, results to {', '.join(plan['destinations'])}")
    if not plans:
        click.echo("  no route")
    if explain:
        for line in [*set_aside, *trace] or ["no routes are configured"]:
            click.echo(f"    {line}")


def _studies(folder: Path, calling_ae: str) -> dict[StudyUid, tuple[list[Candidate], list[str]]]:
    """Analysable images by study, and why the others are set aside."""
    from dicom_node.commands.send import find_objects
    from dicom_node.indexing import read_facts

    found: dict[StudyUid, tuple[list[Candidate], list[str]]] = {}
    objects, unreadable = find_objects(folder)
    for number, one in enumerate(objects):
        candidates, set_aside = found.setdefault(one.study_uid, ([], []))
        indexed = read_facts(one.path, one)
        if indexed.refusal or indexed.facts is None:
            set_aside.append(f"{one.path.name}: {indexed.refusal}")
            continue
        candidates.append(
            Candidate(
                instance_id=number,
                sop_instance_uid=one.sop_instance_uid,
                sha256=str(number),
                calling_ae=calling_ae,
                called_ae="",
                facts=indexed.facts,
            )
        )
    if unreadable:
        click.echo(f"{len(unreadable)} file(s) are no DICOM", err=True)
    return found
