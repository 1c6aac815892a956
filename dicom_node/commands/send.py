"""`radnode send`: a folder of DICOM files by C-STORE, to a node or to any archive."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import Progress

from dicom_node.commands.context import fail, json_option, load_settings, write_json
from dicom_node.delivery.archive import ArchiveError, Confirm, OutboundObject, PacsDestination, SendOutcome, Sent

BATCH = 50


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, help="Default: the port of the settings.")
@click.option("--called-ae", help="Default: the node's own title.")
@click.option("--calling-ae", default="RADNODE-SEND", show_default=True)
@json_option
@click.pass_context
def send(
    ctx: click.Context,
    folder: Path,
    host: str,
    port: int | None,
    called_ae: str | None,
    calling_ae: str,
    json_to: str | None,
) -> None:
    """Send every DICOM file under FOLDER (or the one file) by C-STORE, as it is."""
    settings = load_settings(ctx)
    destination = PacsDestination(
        name="send",
        host=host,
        port=port or settings.receiver.port,
        called_ae=called_ae or (settings.receiver.ae_titles or ("RADNODE",))[0],
        calling_ae=calling_ae,
        confirm=Confirm.NONE,
    )
    objects, unreadable = find_objects(folder)
    if not objects:
        fail(f"{folder}: no DICOM file found")
    outcomes = send_objects(destination, objects)
    failed = [outcome for outcome in outcomes if outcome.sent is not Sent.ACCEPTED]
    if json_to is not None:
        write_json(
            {
                "sent": len(outcomes) - len(failed),
                "not_sent": [
                    {"sop_instance_uid": one.sop_instance_uid, "result": one.sent, "reason": one.reason}
                    for one in failed
                ],
                "not_dicom": len(unreadable),
            },
            json_to,
        )
    else:
        click.echo(f"{len(outcomes) - len(failed)} of {len(outcomes)} sent; {len(unreadable)} file(s) are no DICOM")
        for reason in sorted({f"{one.sent}: {one.reason}" for one in failed}):
            click.echo(f"  {reason}", err=True)
    if failed:
        ctx.exit(1)


def find_objects(folder: Path) -> tuple[list[OutboundObject], list[Path]]:
    """The DICOM part-10 files under `folder`, and the files that are none."""
    from inference.findings import SeriesUid, SopUid, StudyUid
    from inference.images import LoadLimits
    from inference.loading import attributes as read
    from inference.loading.reading import read_data_set
    from inference.refusals import Refused

    objects: list[OutboundObject] = []
    unreadable: list[Path] = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if not path.is_file():
            continue
        try:
            data_set, syntax = read_data_set(path, limits=LoadLimits(), pixels=False)
        except Refused:
            unreadable.append(path)
            continue
        objects.append(
            OutboundObject(
                study_uid=StudyUid(read.text(data_set, "StudyInstanceUID")),
                series_uid=SeriesUid(read.text(data_set, "SeriesInstanceUID")),
                sop_class_uid=read.text(data_set, "SOPClassUID"),
                sop_instance_uid=SopUid(read.text(data_set, "SOPInstanceUID")),
                transfer_syntax_uid=syntax,
                path=path,
            )
        )
    return objects, unreadable


def send_objects(destination: PacsDestination, objects: list[OutboundObject]) -> list[SendOutcome]:
    """Send in batches, with a progress bar on a terminal."""
    from dicom_node.delivery import open_archive

    outcomes: list[SendOutcome] = []
    try:
        archive = open_archive(destination)
        with Progress(transient=True) as progress:
            bar = progress.add_task("sending", total=len(objects))
            for start in range(0, len(objects), BATCH):
                batch = objects[start : start + BATCH]
                outcomes.extend(archive.send(batch))
                progress.advance(bar, len(batch))
        archive.close()
    except ArchiveError as error:
        fail(str(error))
    return outcomes
