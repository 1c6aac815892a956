"""`radnode demo`: a real node on loopback, real studies into it by C-STORE, its results in a small archive, a table.

Nothing leaves the machine and nothing is kept outside the output folder. The parts: `studies` (what is sent), `files`
(settings and routes), `child` (the node's process), `report` (what came of it), `dimse.small_archive`.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicom_node.commands.context import fail
from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import Confirm, PacsDestination, Sent
from dicom_node.demo.child import ChildNode, NodeFailed
from dicom_node.demo.files import NODE_AE, SETTINGS_FILE, Choices, write_files
from dicom_node.demo.report import Ended, export, reasons, result_table
from dicom_node.demo.studies import DemoStudy, SamplesMissing, all_studies
from dicom_node.dimse.small_archive import SmallArchive
from dicom_node.settings import read_settings
from dicom_node.states import DeliveryState, StudyState
from models.card import ModelCard
from models.registry import installed_models

_MARK: Final = ".radnode-demo"
_TABLE_WIDTH: Final = 100  # narrower, the table cannot be read
_CALLING_AE: Final = "DEMO-PACS"
_POLL_S: Final = 0.2
_DEADLINE_S: Final = 5.0  # for views and slices that nobody will send; a hospital waits minutes
_ON_THEIR_WAY: Final = (DeliveryState.PENDING, DeliveryState.SENT)
_FOLDER_TYPE: Final = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--input", "own_folder", type=click.Path(exists=True, path_type=Path), help="DICOM files of your own.")
@click.option("--output", type=_FOLDER_TYPE, default=Path("demo-output"), show_default=True, help="Where it all goes.")
@click.option("--language", type=click.Choice(["en", "ru"]), default="en", show_default=True, help="Of the results.")
@click.option("--patience", default=600.0, show_default=True, help="Give up after so many seconds.")
@click.option("--keep", is_flag=True, help="Let the node run until Ctrl-C.")
@click.pass_context
def demo(
    ctx: click.Context,
    own_folder: Path | None,
    output: Path,
    language: Literal["en", "ru"],
    patience: float,
    keep: bool,
) -> None:
    """Start a node, send it a chest film, mammograms and a CT phantom, and show what comes back."""
    console = Console(highlight=False)
    console.width = max(console.width, _TABLE_WIDTH)
    output = output.resolve()
    try:
        _prepare(output)
        _end_in_order_when_told()
        studies = all_studies(output, own_folder)
        with SmallArchive(output / "archive") as archive:
            settings_file = write_files(output, _choices(archive, language))
            settings = read_settings(settings_file)
            cards = [model.card for model in installed_models(settings.model_folders).models.values()]
            with ChildNode(settings_file, settings.data_dir, output / "node.log") as node:
                _show_progress(console, node, studies, patience)
                lines = {line["study_uid"]: line for line in node.studies()}
                ended = [
                    Ended(
                        study=study,
                        account=node.account(study.study_uid),
                        line=lines[study.study_uid],
                        kept=archive.of_study(study.study_uid),
                    )
                    for study in studies
                ]
                _print(console, ended, cards, output)
                if keep:
                    _keep(console, node, archive)
                is_clean = node.stop() == 0
    except (SamplesMissing, NodeFailed) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped")
    if not is_clean:
        fail(f"the node did not end in order: see {output / 'node.log'}")
    ctx.exit(_judge(ended))


def _prepare(output: Path) -> None:
    """An empty folder; only one that an earlier demonstration made is emptied."""
    if output.exists() and any(output.iterdir()):
        if not (output / _MARK).exists():
            fail(f"{output} is not empty and was not made by `radnode demo`: name another folder with --output")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / _MARK).touch()


def _end_in_order_when_told() -> None:
    """SIGTERM ends as Ctrl-C does, or the node would be left behind; shells start background jobs deaf to Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _choices(archive: SmallArchive, language: Literal["en", "ru"]) -> Choices:
    return Choices(
        data_dir="node",
        dicom_port=0,
        web_port=0,
        archive_port=archive.port,
        archive_ae=archive.ae_title,
        language=language,
        mammography_deadline_s=_DEADLINE_S,
        ct_deadline_s=_DEADLINE_S,
    )


def _show_progress(console: Console, node: ChildNode, studies: Sequence[DemoStudy], patience_s: float) -> None:
    console.print(
        f"The node listens for DICOM on 127.0.0.1 port {node.dicom_port}, health on {node.web_address}/healthz"
    )
    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        images = progress.add_task("images sent", total=sum(len(study.objects) for study in studies))
        finished = progress.add_task("studies ended", total=len(studies))
        for study in studies:
            _send(node, study)
            progress.advance(images, len(study.objects))
            progress.update(finished, completed=_ended(node, studies))
        deadline = time.monotonic() + patience_s
        while (count := _ended(node, studies)) < len(studies):
            progress.update(finished, completed=count)
            if time.monotonic() > deadline:
                raise NodeFailed(
                    f"{len(studies) - count} studies have not ended: `radnode explain` says what they wait for"
                )
            time.sleep(_POLL_S)
        progress.update(finished, completed=count)


def _send(node: ChildNode, study: DemoStudy) -> None:
    destination = PacsDestination(
        name="node",
        host="127.0.0.1",
        port=node.dicom_port,
        called_ae=NODE_AE,
        calling_ae=_CALLING_AE,
        confirm=Confirm.NONE,
    )
    archive = open_archive(destination)
    refused = [outcome for outcome in archive.send(study.objects) if outcome.sent is not Sent.ACCEPTED]
    archive.close()
    if refused:
        raise NodeFailed(f"{study.name}: {len(refused)} image(s) were not taken: {refused[0].reason}")


def _ended(node: ChildNode, studies: Sequence[DemoStudy]) -> int:
    """How many studies have their outcome, and their results where they belong."""
    wanted = {study.study_uid for study in studies}
    return sum(
        line["outcome"] is not None
        and line["state"] != StudyState.RECEIVING
        and not any(delivery.endswith(_ON_THEIR_WAY) for delivery in line["deliveries"])
        for line in node.studies()
        if line["study_uid"] in wanted
    )


def _print(console: Console, ended: Sequence[Ended], cards: Sequence[ModelCard], output: Path) -> None:
    console.print(result_table(ended, cards))
    for reason in reasons(ended, cards):
        console.print(reason, soft_wrap=True, markup=False)
    results = output / "results"
    pictures = [path for one in ended for path in export(one, results) if path.suffix == ".png"]
    console.print("\nWhere to look:")
    console.print(f"  results as DICOM   {results}", soft_wrap=True, markup=False)
    for picture in pictures:
        console.print(f"  marked picture     {picture}", soft_wrap=True, markup=False)
    settings_file = output / SETTINGS_FILE
    example = ended[0].study.study_uid
    console.print(f"  settings, routes   {settings_file}", soft_wrap=True, markup=False)
    console.print(f"  the node's log     {output / 'node.log'}", soft_wrap=True, markup=False)
    console.print(
        f"  what happened      {own_command()} --settings {settings_file} explain {example}",
        soft_wrap=True,
        markup=False,
    )


def own_command() -> str:
    """How to call `radnode` from here: by its path, where the shell would not find this one by its name."""
    installed = Path(sys.executable).with_name("radnode")
    found = shutil.which("radnode")
    if not installed.exists() or (found and Path(found) == installed):
        return "radnode"
    here = Path.cwd()
    return str(installed.relative_to(here) if installed.is_relative_to(here) else installed)


def _keep(console: Console, node: ChildNode, archive: SmallArchive) -> None:
    try:
        console.print(
            f"\nThe node runs until Ctrl-C: DICOM port {node.dicom_port} (AE {NODE_AE}), archive port {archive.port} "
            f"(AE {archive.ae_title}), {node.web_address}/healthz, /metrics and /api/studies",
            soft_wrap=True,
        )
        while True:
            node.studies()  # raises when the node has ended by itself
            time.sleep(1.0)
    except KeyboardInterrupt:
        console.print("stopping")


def _judge(ended: Sequence[Ended]) -> int:
    """0 when every result is in the archive and a model has looked at what it was installed for."""
    is_good = all(one.is_delivered for one in ended) and all(
        one.has_model_result for one in ended if one.study.must_be_analysed
    )
    return 0 if is_good else 1
