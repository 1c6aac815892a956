"""What people say in a report beyond card and data set: `report.toml` in the run's folder, read here.

Everything in it is optional; what is neither there nor in the data set's file is printed as not provided and listed at
the front of the report. Which items may not be missing is decided in `eval.report.checks`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from eval.datasets import Passport, Plan
from eval.report.faults import ReportError
from eval.report.values import NOT_STATED, Answer, Item, Words
from models.codes import Text

STATEMENTS_FILE: Final = "report.toml"
UNKNOWN: Final = Text(en="not known", ru="не известно")

USE_ITEMS: Final = ("users", "place", "contraindications", "human_control")
READER_ITEMS: Final = ("design", "readers", "results")
ROBUSTNESS_ITEMS: Final = ("repeatability", "hardware", "stress")
MONITORING_ITEMS: Final = ("plan", "responsible", "actions")
STUDY_ITEMS: Final = (
    "design",
    "external",
    "registration",
    "protocol",
    "ethics",
    "funding",
    "interests",
    "availability",
    "contact",
)


def _answer(given: object) -> object:
    """Text, or ``{en, ru}``, or ``{not_provided = reason}``."""
    if isinstance(given, str) or (isinstance(given, dict) and "en" in given):
        return {"text": given}
    return given


Statement = Annotated[Answer, BeforeValidator(_answer)]
Statements = Mapping[str, Statement]


class StatementsFile(BaseModel):
    """`report.toml`. A statement is text, ``{ en = "…", ru = "…" }``, or ``{ not_provided = "why" }``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: Statements = Field(default={}, description=f"{', '.join(USE_ITEMS)}: beside the card's intended use")
    readers: Statements = Field(
        default={}, description=f"the reader study, if one is claimed: {', '.join(READER_ITEMS)}"
    )
    robustness: Statements = Field(default={}, description=", ".join(ROBUSTNESS_ITEMS))
    monitoring: Statements = Field(default={}, description=", ".join(MONITORING_ITEMS))
    study: Statements = Field(default={}, description=", ".join(STUDY_ITEMS))
    errors: Words | None = Field(default=None, description="what the errors have in common, by those who looked")
    limits: tuple[Words, ...] = Field(default=(), description="what this evaluation cannot show")
    defects: Mapping[str, int] = Field(default={}, description="defect class of the node's monitoring to cases")
    acknowledgement: str = Field(default="", description="printed under pictures whose owner asks for it")
    plan: Plan | None = Field(default=None, description="if the data set's file has none: never fixed beforehand")
    passport: Passport | None = Field(default=None, description="if the data set's file has none")


def read_statements(path: Path) -> StatementsFile:
    """Read `report.toml`; without the file nothing is stated.

    Raises
    ------
    ReportError
        If it is no TOML, or says something it may not say; names every fault.
    """
    if not path.is_file():
        return StatementsFile()
    try:
        found = StatementsFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ReportError([f"{path.name}: not valid TOML in UTF-8: {error}"]) from error
    except ValidationError as error:
        faults = [f"{path.name}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ReportError(faults) from error
    if unknown := _unknown(found):
        raise ReportError([f"{path.name}: nothing is printed under {', '.join(unknown)}; see the schema for the items"])
    if found.plan is not None and found.plan.fixed_before:
        raise ReportError([
            f"{path.name}: a [plan] given after the run was not fixed before it: say fixed_before = false, "
            "or put it into the data set's file before the next run"
        ])  # fmt: skip
    return found


def items(given: Statements, keys: tuple[str, ...]) -> tuple[Item, ...]:
    """The items of a section in their order; those not given are not stated."""
    return tuple(Item(key=key, answer=given.get(key, NOT_STATED)) for key in keys)


def stated(text: Text) -> Answer:
    """A text as an answer; one that only says that nothing is known is no statement."""
    bare = text.en.strip().rstrip(".").casefold()
    return NOT_STATED if bare == UNKNOWN.en else Answer(text=text)


def _unknown(found: StatementsFile) -> list[str]:
    known = {
        "use": USE_ITEMS,
        "readers": READER_ITEMS,
        "robustness": ROBUSTNESS_ITEMS,
        "monitoring": MONITORING_ITEMS,
        "study": STUDY_ITEMS,
    }
    return [f"{part}.{key}" for part, keys in known.items() for key in getattr(found, part) if key not in keys]
