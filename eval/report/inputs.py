"""What a report is built from: the run, the model as it is served, what people state, and pictures if there may be any.

Called by `eval.commands.report`. Reading a run and checking its digests is `eval.runs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from eval.datasets import Passport, Plan, Words
from eval.report.faults import ReportError
from eval.report.sections import Parity
from eval.report.statements import STATEMENTS_FILE, StatementsFile, read_statements
from eval.runs import MANIFEST_FILE, Run, RunError, file_sha256, read_manifest, read_run
from models.card import ModelCard
from models.codes import Text
from models.registry import installed_models

PARITY_FILE = "parity.json"

Manifest = Mapping[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """All that a report is made of.

    Attributes
    ----------
    run : Run
    served : ModelCard
        The card that is installed, whose thresholds the run's must be.
    statements : StatementsFile
    manifest : mapping
        Case to its inputs with their sha256.
    stated : str or None
        Digest of `report.toml`; None where there is none.
    parity : tuple of Parity
        How far each runtime is from the trained network; empty where nobody measured it.
    images : Path or None
        Folder of the set's pictures; None shows none.
    """

    run: Run
    served: ModelCard
    statements: StatementsFile
    stated: str | None
    manifest: Manifest
    parity: tuple[Parity, ...]
    images: Path | None

    @property
    def plan(self) -> Plan:
        """What was to be shown.

        Raises
        ------
        ReportError
            If nobody says.
        """
        found = self.run.dataset.plan or self.statements.plan
        if found is None:
            raise ReportError([
                "section 4, objectives: dataset.toml of the run has no [plan]; add [plan] to "
                f"{STATEMENTS_FILE} in the run's folder (--draft writes one), with objective and fixed_before = "
                "false, and to the data set's file for the next run"
            ])  # fmt: skip
        return found

    @property
    def passport(self) -> Passport:
        """The passport of the data set.

        Raises
        ------
        ReportError
            If there is none.
        """
        found = self.run.dataset.passport or self.statements.passport
        if found is None:
            fields = ", ".join(name for name, field in Passport.model_fields.items() if field.is_required())
            raise ReportError([
                f"section 5, data: dataset.toml of the run has no [passport]; add [passport] to {STATEMENTS_FILE} in "
                f"the run's folder with {fields}; what is not known is said to be not known"
            ])  # fmt: skip
        return found


def read_inputs(
    folder: Path, *, models: Sequence[Path], statements: Path | None = None, images: Path | None = None
) -> Inputs:
    """Read everything.

    Parameters
    ----------
    folder : Path
        Of the run.
    models : sequence of Path
        Folders of installed models, in one of which the evaluated one lies.
    statements : Path, optional
        `report.toml`; by default that in the run's folder.
    images : Path, optional
        Folder of the pictures.

    Raises
    ------
    ReportError
        If the run cannot be used, the model is not installed, or a statement may not be made.
    """
    try:
        run = read_run(folder)
    except RunError as error:
        raise ReportError([str(error)]) from error
    if statements is not None and not statements.is_file():
        raise ReportError([f"{statements}: there is no such file of statements"])
    if images is not None and not images.is_dir():
        raise ReportError([f"{images}: there is no such folder of pictures"])
    told = statements or folder / STATEMENTS_FILE
    inventory = installed_models(models)
    installed = inventory.models.get(run.record.model)
    if installed is None:
        raise ReportError([
            f"{run.record.model} is not installed, so its thresholds cannot be held against what is served; "
            "name the folder of its models with --models-folder",
            *inventory.faults,
        ])  # fmt: skip
    return Inputs(
        run=run,
        served=installed.card,
        statements=read_statements(told),
        stated=file_sha256(told) if told.is_file() else None,
        manifest=read_manifest((folder / MANIFEST_FILE).read_text(encoding="utf-8")),
        parity=_parity(installed.folder / PARITY_FILE),
        images=images,
    )


def in_both(words: Words) -> Text:
    """A text that was given in one language stands in both."""
    return Text(en=words, ru=words) if isinstance(words, str) else words


def _parity(file: Path) -> tuple[Parity, ...]:
    """What training measured when it wrote the runtimes, if it did."""
    if not file.is_file():
        return ()
    try:
        return _PARITY.validate_json(file.read_bytes()).rows
    except ValidationError as error:
        raise ReportError([f"{file}: no record of how runtimes agree ({type(error).__name__})"]) from error


class _Difference(BaseModel):
    """Largest differences of one runtime from the trained network, edges in pixels of the input."""

    probability: float
    pixels: float


class _Films(BaseModel):
    """`parity.json` of a detector on films: each runtime for itself."""

    films: int
    runtimes: Mapping[str, _Difference]

    @property
    def rows(self) -> tuple[Parity, ...]:
        """One for each runtime."""
        return tuple(
            Parity(runtime=name, inputs=self.films, probability=one.probability, edges=one.pixels)
            for name, one in self.runtimes.items()
        )


class _Tiles(BaseModel):
    """`parity.json` of a detector on volumes: the largest difference of any runtime, edges in voxels."""

    tiles: int
    runtimes: tuple[str, ...]
    probability: float
    voxels: float

    @property
    def rows(self) -> tuple[Parity, ...]:
        """One for each runtime."""
        return tuple(
            Parity(runtime=name, inputs=self.tiles, probability=self.probability, edges=self.voxels)
            for name in self.runtimes
        )


_PARITY: TypeAdapter[_Films | _Tiles] = TypeAdapter(_Films | _Tiles)
