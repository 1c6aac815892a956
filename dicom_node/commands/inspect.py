"""`radnode models inspect`: what an ONNX file takes and gives, and how a card could describe it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicom_node.commands.context import fail
from models.draft import as_toml, blanks, draft_card, to_card_toml

if TYPE_CHECKING:
    from inference.runtimes.proposals import Proposals

_MANY = 8
_INPUT_QUESTIONS = (
    "how was a picture scaled for the network (percentiles, mean, std), and how brought to its size (fit)?",
)


@click.command(name="inspect")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--card",
    "card_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a draft of a card for the first proposal; what only people know is left blank.",
)
@click.option("--name", default="my-model", show_default=True, help="Name of the model in the draft.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the model in the draft.")
def command(file: Path, card_file: Path | None, name: str, version: str) -> None:
    """Say what an ONNX file takes and gives, and propose how a card could describe it.

    The file is run once on noise, on this machine and without a network. Status 1 when no card can describe it.
    """
    from inference.runtimes.base import NetworkFailed
    from inference.runtimes.inspection import inspect
    from models.onnx_file import has_external_data

    weights = file.read_bytes()
    try:
        if has_external_data(weights):
            fail(f"{file}: keeps data in other files; all must be in one file")
        signature, proposals = inspect(weights)
    except ValueError as error:
        fail(f"{file}: no ONNX file: {error}")
    except NetworkFailed as error:
        fail(f"{file}: {error}")
    for side, ports in (("takes", signature.inputs), ("gives", signature.outputs)):
        for port in ports:
            click.echo(f"{side}  {port}")
    for obstacle in proposals.obstacles:
        click.echo(f"\n{obstacle}", err=True)
    if proposals.input is None or not proposals.outputs:
        raise SystemExit(1)
    _print(proposals)
    if card_file is not None:
        digest = hashlib.sha256(weights).hexdigest()
        _write(card_file, _draft(proposals, file.name, digest, name, version))


def _print(proposals: Proposals) -> None:
    for number, proposal in enumerate(proposals.outputs, start=1):
        click.echo(f"\nproposal {number}: {proposal.output['kind']}; {proposal.why}")
        click.echo("  [input]")
        for key, value in (proposals.input or {}).items():
            click.echo(f"  {key} = {as_toml(value)}")
        click.echo("  [output]")
        for key, value in proposal.output.items():
            click.echo(f"  {key} = {as_toml(value)}")
        for question in (*_INPUT_QUESTIONS, *proposal.questions):
            click.echo(f"  ? {question}")


def _draft(proposals: Proposals, file: str, digest: str, name: str, version: str) -> dict[str, object]:
    assert proposals.input is not None, "refused before"
    chosen = proposals.outputs[0]
    count = chosen.classes or 1
    # Of many classes a card names those that matter, each with its index; one is enough to begin with.
    labels = [("finding_1", 0)] if count > _MANY else [(f"finding_{index + 1}", None) for index in range(count)]
    return draft_card(
        name=name,
        version=version,
        weights={"runtime": "onnx", "file": file, "sha256": digest},
        model_input=proposals.input,
        output=chosen.output,
        labels=labels,
        marks=chosen.marks,
    )


def _write(card_file: Path, card: dict[str, object]) -> None:
    if card_file.exists():
        fail(f"{card_file}: is there already")
    try:
        card_file.write_text(to_card_toml(card), encoding="utf-8")
    except OSError as error:
        fail(f"{card_file}: cannot be written: {error.strerror}")
    click.echo(f"\n{card_file}: a draft; {len(blanks(card))} blank(s) are for you to fill in")
