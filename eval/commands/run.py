"""`radnode eval run`: a model over a data set, through the node's own inference; kept case by case, so it can go on.

The work is `eval.running`; this module reads what was asked, shows bars, and turns errors into messages.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eval.console import JSON_TO_STDOUT, fail, json_option, write_json
from eval.document import Document, Source
from eval.runs import CASES_FILE, MANIFEST_FILE, RunRecord, read_manifest

if TYPE_CHECKING:
    from eval.running import Bar, Options
    from models.registry import InstalledModel

_TOO_MUCH_MEMORY = "the device has no memory left; the cases that are done are kept: run it again, on another device"


class RunDocument(Document):
    """Result of ``radnode eval run``: what the folder of the run holds."""

    run: str = Field(description="name of its folder")
    record: RunRecord
    judged: int = Field(description="cases whose truth is known")
    statuses: Mapping[str, int] = Field(description="cases by what became of them")


@click.command(name="run")
@click.option("--model", "reference", required=True, help="NAME@VERSION of an installed model; NAME alone: the latest.")
@click.option(
    "--dataset", "dataset", type=click.Path(path_type=Path), required=True, help="The data set's file (DATASET.toml)."
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the data set's files.  [default: root of DATASET.toml, from where that file lies]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run.  [default: runs/MODEL-VERSION-on-DATASET-VERSION]",
)
@click.option("--label", help="Label of the card that is judged; needed only where it has several.")
@click.option(
    "--models-folder",
    "folders",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="Folder of models besides those that are shipped; may be repeated.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=lambda: os.cpu_count() or 1,
    show_default="processor cores",
    help="Cases that are read and prepared at the same time.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="What computes."
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "onnx", "torch"]),
    default="auto",
    show_default=True,
    help="Which of the card's weights are run; auto: the first.",
)
@click.option(
    "--resume/--anew",
    default=True,
    show_default=True,
    help="Go on with the run in the folder, or remove what it holds first.",
)
@json_option
def command(
    reference: str,
    dataset: Path,
    root: Path | None,
    out: Path | None,
    label: str | None,
    folders: tuple[Path, ...],
    jobs: int,
    device: Literal["auto", "cpu", "cuda"],
    runtime: Literal["auto", "onnx", "torch"],
    resume: bool,
    json_to: str | None,
) -> None:
    """Run a model over a data set and keep what it says of every case.

    Cases that the model learnt from, by its card's list of training files, are not run and not judged. A run that was
    cut off goes on where it was.
    """
    from eval.datasets import DatasetError, read_dataset
    from eval.running import Options, run
    from eval.runs import RunError
    from inference.runtimes.base import DeviceOutOfMemory
    from models.registry import WeightsError

    model = _model(reference, folders)
    try:
        read = read_dataset(dataset)
        folder = out or Path("runs") / f"{model.card.reference}-on-{read.reference}".replace("@", "-")
        options = Options(
            model=model,
            label=_label(model, label),
            dataset_file=dataset,
            root=root or (dataset.parent / read.root),
            out=folder,
            jobs=jobs,
            device=device,
            runtime=runtime,
            resume=resume,
            command=shlex.join(["radnode", "eval", "run", "--model", model.card.reference, "--dataset", dataset.name]),
        )
        with _bars() as bar:
            record = run(options, bar=bar)
    except (DatasetError, RunError, WeightsError) as error:
        fail(str(error))
    except DeviceOutOfMemory:
        fail(_TOO_MUCH_MEMORY)
    except OSError as error:
        fail(f"{error.strerror}; the cases that are done are kept: run it again to go on")
    _tell(record, options, json_to)


def _model(reference: str, folders: tuple[Path, ...]) -> InstalledModel:
    from models.registry import ZOO, installed_models

    inventory = installed_models((*folders, ZOO))
    found = inventory.models.get(reference) or (None if "@" in reference else inventory.latest(reference))
    if found is None:
        there = ", ".join(sorted(inventory.models)) or "none"
        faults = "".join(f"\n{fault}" for fault in inventory.faults)
        fail(f"{reference} is not installed; there are {there}. Name its folder with --models-folder.{faults}")
    return found


def _label(model: InstalledModel, label: str | None) -> str:
    keys = [one.key for one in model.card.labels]
    if label is None and len(keys) == 1:
        return keys[0]
    if label not in keys:
        fail(f"{model.card.reference} has the labels {', '.join(keys)}: name one with --label")
    return str(label)


@contextmanager
def _bars() -> Iterator[Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:

        def bar(name: str, total: int) -> Callable[[], None]:
            task = shown.add_task(name, total=total)
            return lambda: shown.advance(task)

        yield bar


def _tell(record: RunRecord, options: Options, json_to: str | None) -> None:
    from eval.running import counted
    from eval.runs import read_run

    done = read_run(options.out)
    counts = {str(status): number for status, number in counted(case.status for case in done.cases).items()}
    if json_to is not None:
        manifest = options.out / MANIFEST_FILE
        files = sum(map(len, read_manifest(manifest.read_text(encoding="utf-8")).values()))
        document = RunDocument(
            command="radnode eval run",
            radnode=record.radnode,
            sources=(Source.of(options.out / CASES_FILE, record.cases), Source.of(manifest, files)),
            settings={**record.settings, "label": record.label},
            notes=record.notes,
            run=options.out.name,
            record=record,
            judged=len(done.judged),
            statuses=counts,
        )
        write_json(document.model_dump(mode="json"), json_to)
    if json_to == JSON_TO_STDOUT:
        return
    click.echo(f"{record.model} on {record.dataset}: {record.cases} cases in {options.out}")
    click.echo(", ".join(f"{number} {status}" for status, number in counts.items()))
    for note in record.notes:
        click.echo(note)
    click.echo(f"Next: radnode eval report {options.out}")
