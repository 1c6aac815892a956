"""Cards, evaluation reports and persons for tests of promotion: only what matters to a test is named in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dicom_node.ledger import Ledger, standings
from dicom_node.promotion import Act
from dicom_node.serving import read_standings
from dicom_node.states import Standing
from models.card import ModelCard
from models.evaluation_report import ReportFile, read_report
from tests.results_cases import make_card

NAME = "chest"


def card(version: str = "1.0.0", *, name: str = NAME, **changes: Any) -> ModelCard:
    """A card; `changes` are laid over its identity, but `threshold`, which changes what the model says."""
    made = make_card(version=version)
    threshold = changes.pop("threshold", None)
    if threshold is not None:
        (label, *others) = made.labels
        assert label.lesion is not None
        changed = label.model_copy(update={"lesion": label.lesion.model_copy(update={"threshold": threshold})})
        made = made.model_copy(update={"labels": (changed, *others)})
    return made.model_copy(update={"identity": made.identity.model_copy(update={"name": name, **changes})})


ALL_VERSIONS = {one.reference: one for one in map(card, ("1.0.0", "2.0.0", "3.0.0"))}


def write_report(path: Path, of: ModelCard, **changes: Any) -> ReportFile:
    """An evaluation report of a card, as `training.release` and `eval` write it; `changes` are laid over it."""
    twin: dict[str, Any] = {
        "model": of.reference,
        "model_digest": of.model_digest,
        "weights": {file.file: file.sha256 for file in of.weights},
        "figures": {"auroc": 0.98},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({key: value for key, value in (twin | changes).items() if value is not None}))
    return read_report(path)


def act(ledger: Ledger, why: str = "because") -> Act:
    """A person, now."""
    return Act(operator="dr.petrova", at=ledger.clock(), why=why)


def standing_of(ledger: Ledger) -> dict[str, Standing]:
    """What every version of `NAME` is that ever had a standing, by version."""
    with ledger.read() as tx:
        return {row.model_version: row.standing for row in read_standings(tx).rows if row.model_name == NAME}


def champions(ledger: Ledger) -> list[str]:
    """Versions that are champion."""
    return [version for version, standing in standing_of(ledger).items() if standing is Standing.CHAMPION]


def told(ledger: Ledger) -> list[tuple[str, str, str, str]]:
    """The history in words: version, from, to, action."""
    with ledger.read() as tx:
        return [
            (made.model_version, made.from_standing, made.to_standing, made.action)
            for made in standings.history(tx, NAME)
        ]
