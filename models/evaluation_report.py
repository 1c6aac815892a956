"""The JSON twin of an evaluation report: the few keys by which a promotion ties a report to the model it speaks of.

`radnode models promote` reads it, checks it against the card and stores it; who evaluates writes it (`training.release`
today, `eval` for independent evaluations). The figures themselves are the writer's; keys beyond these are kept as they
are and not looked at. A report is named by the sha256 of its file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.card import ModelCard, Sha256
from models.registry import InstalledModel

REPORT_FOLDER: Final = "EVALUATION"
REPORT_FILE: Final = "evaluation.json"
MAX_BYTES: Final = 32 << 20
_DIGEST_LENGTH: Final = 64


class ReportError(Exception):
    """The report cannot be found or read, or is none for this model. The message says which, and the remedy."""


class Bar(BaseModel):
    """One bar that was declared before the evaluation, and whether it was reached."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(min_length=1)
    passed: bool
    value: float | None = None
    wanted: str = Field(default="", description="what was declared, in words or as a comparison: '>= 0.97'")


class Verdict(BaseModel):
    """What the evaluation comes to. A report whose verdict is not passed promotes no model."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    passed: bool
    bars: tuple[Bar, ...] = ()


class EvaluationReport(BaseModel):
    """The keys of the twin that a promotion looks at."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}@[0-9]+\.[0-9]+\.[0-9]+$", description="name@version")
    model_digest: Sha256 = Field(description="`ModelCard.model_digest` of exactly the card that was evaluated")
    weights: Mapping[str, Sha256] = Field(default={}, description="sha256 of each file of weights")
    data_sha256: Sha256 | None = Field(default=None, description="digest of the list of cases and their digests")
    created: datetime | None = None
    verdict: Verdict | None = Field(default=None, description="null: no bars were declared")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFile:
    """A report as it was read: its digest and text are those of the same bytes."""

    path: Path
    sha256: str
    text: str
    report: EvaluationReport


def read_report(path: Path) -> ReportFile:
    """Read one twin.

    Raises
    ------
    ReportError
        Naming the file and every fault in it.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ReportError(f"{path}: larger than {MAX_BYTES >> 20} MiB, that is no twin of a report")
        data = path.read_bytes()
        text = data.decode("utf-8")
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: not UTF-8 (byte {error.start})") from error
    try:
        report = EvaluationReport.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}: not JSON: {error}; the twin of a report is wanted, not its page") from error
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'report'}: {fault['msg']}" for fault in error.errors()]
        raise ReportError("\n".join([f"{path}: {len(faults)} fault(s)", *faults])) from error
    return ReportFile(path=path, sha256=hashlib.sha256(data).hexdigest(), text=text, report=report)


def reports_of(model: InstalledModel) -> tuple[ReportFile, ...]:
    """The readable reports that lie beside a card, whatever model they speak of."""
    return tuple(_readable(model.folder))


def find_report(model: InstalledModel, wanted: str) -> ReportFile:
    """The report that a person names: a file, or the sha256 (12 digits or more) of one beside the card.

    Raises
    ------
    ReportError
        If there is none, or it cannot be read.
    """
    if not _is_digest(wanted) or Path(wanted).is_file():
        return read_report(Path(wanted))
    beside = reports_of(model)
    found = [one for one in beside if one.sha256.startswith(wanted.lower())]
    if len(found) == 1:
        return found[0]
    there = "\n".join(f"  {one.sha256}  {one.path.name}" for one in beside) or "  none"
    raise ReportError(
        f"no report beside the card of {model.card.reference} has the sha256 {wanted}; there are:\n{there}\n"
        f"Put it into {model.folder / REPORT_FOLDER}, or name the file."
    )


def check_report(found: ReportFile, card: ModelCard) -> None:
    """See that the report speaks of exactly this model and does not speak against it.

    Raises
    ------
    ReportError
        If it is of another model or of another state of its card or weights, or its verdict is not passed.
    """
    report = found.report
    if report.model != card.reference:
        raise ReportError(f"{found.path}: the report is of {report.model}, not of {card.reference}")
    if report.model_digest != card.model_digest:
        raise ReportError(
            f"{found.path}: the report is of another state of {card.reference}: it names model digest "
            f"{report.model_digest[:12]}, the installed card has {card.model_digest[:12]}. A threshold, the "
            "preprocessing, the intended use or the weights changed since: evaluate what is installed, or install "
            "what was evaluated"
        )
    installed = {file.file: file.sha256 for file in card.weights}
    other = sorted(name for name, digest in report.weights.items() if installed.get(name) != digest)
    if other:
        raise ReportError(f"{found.path}: the report names other weights: {', '.join(other)}")
    if report.verdict is not None and not report.verdict.passed:
        missed = ", ".join(f"{bar.name} ({bar.value}, wanted {bar.wanted})" for bar in _missed(report.verdict))
        raise ReportError(f"{found.path}: the report's own verdict is 'not passed': {missed or 'no bar is named'}")


def _missed(verdict: Verdict) -> tuple[Bar, ...]:
    return tuple(bar for bar in verdict.bars if not bar.passed)


def _is_digest(text: str) -> bool:
    hexadecimal = all(letter in "0123456789abcdefABCDEF" for letter in text)
    return hexadecimal and 12 <= len(text) <= _DIGEST_LENGTH  # noqa: PLR2004


def _readable(folder: Path) -> Iterator[ReportFile]:
    for path in (folder / REPORT_FILE, *sorted((folder / REPORT_FOLDER).glob("*.json"))):
        if path.is_file():
            try:
                yield read_report(path)
            except ReportError:
                continue  # another JSON file of the evaluation
