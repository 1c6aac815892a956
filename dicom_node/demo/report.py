"""What came of the demonstration: the table, why a study has no route, and the results as files that open anywhere.

Called by `command` once every study has ended. All it says is taken from the node's account of each study.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from dicom_node.demo.studies import DemoStudy
from dicom_node.dimse.small_archive import Kept
from dicom_node.states import DeliveryState, Outcome
from models.card import ModelCard

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A study that has ended.

    Attributes
    ----------
    account, line : mapping
        What the node says of it: `/api/studies/UID` and its entry in `/api/studies`.
    kept : sequence of Kept
        What the archive has of it.
    """

    study: DemoStudy
    account: Mapping[str, Any]
    line: Mapping[str, Any]
    kept: Sequence[Kept]

    @property
    def has_model_result(self) -> bool:
        """Whether a model has spoken and everything it said is confirmed in the archive."""
        return self.account["outcome"] == Outcome.ANALYSED and self.is_delivered and bool(self.kept)

    @property
    def is_delivered(self) -> bool:
        """Whether nothing failed on its way."""
        return all(one["state"] == DeliveryState.CONFIRMED for one in self.account["deliveries"])


def result_table(ended: Sequence[Ended], cards: Sequence[ModelCard]) -> Table:
    """One row a study."""
    table = Table(title="What became of the studies")
    for heading in ("study", "what it is", "outcome", "model", "lesions", "result objects"):
        table.add_column(heading, overflow="fold")
    table.add_column("seconds", justify="right", no_wrap=True)
    table.caption = "seconds: from the last image to the result confirmed in the archive"
    for one in ended:
        seconds = one.line["seconds_from_last_image_to_result"]
        table.add_row(
            one.study.name,
            one.study.title,
            str(one.account["outcome"]).upper(),
            ", ".join(one.line["models"]) or "–",
            _lesions(one.account, cards),
            _objects(one.account),
            "–" if seconds is None else f"{seconds:.2f}",
        )
    return table


def _lesions(account: Mapping[str, Any], cards: Sequence[ModelCard]) -> str:
    succeeded = [job for job in account["jobs"] if job["state"] == "succeeded"]
    if not succeeded:
        return "–"
    said = []
    for job in succeeded:
        titles = {
            label.key: label.title.en for card in cards if card.reference == job["model"] for label in card.labels
        }
        said += [f"{titles.get(lesion['label'], lesion['label'])} {lesion['score']:.0%}" for lesion in job["lesions"]]
    return "\n".join(said) or "none above the threshold"


def _objects(account: Mapping[str, Any]) -> str:
    roles = [written["role"] for row in account["results"] if row["is_current"] for written in row["objects"]]
    return (
        ", ".join(f"{role} × {roles.count(role)}" if roles.count(role) > 1 else role for role in dict.fromkeys(roles))
        or "–"
    )


def reasons(ended: Sequence[Ended], cards: Sequence[ModelCard]) -> list[str]:
    """Why studies were not analysed, one line for all of the same reason."""
    names: dict[str, list[str]] = {}
    for one in ended:
        outcome = one.account["outcome"]
        if outcome != Outcome.ANALYSED:
            why = _why(one, cards) if outcome == Outcome.NO_ROUTE else str(one.account["outcome_detail"])
            names.setdefault(f"{str(outcome).upper()}: {why}", []).append(one.study.name)
    return [f"{', '.join(studies)}: {reason}" for reason, studies in names.items()]


def _why(one: Ended, cards: Sequence[ModelCard]) -> str:
    modality = one.study.modality or "unknown"
    fitting = [card.reference for card in cards if one.study.modality in card.intended_use.modalities]
    if not fitting:
        return f"no model installed for modality {modality}"
    return f"no route for modality {modality}, though {' and '.join(fitting)} could be named in one"


def export(one: Ended, folder: Path) -> list[Path]:
    """Copy a study's results into a folder of its own, pictures as PNG too; returns what was written."""
    roles = {
        written["sop_instance_uid"]: written["role"] for row in one.account["results"] for written in row["objects"]
    }
    written: list[Path] = []
    for number, kept in enumerate(one.kept, start=1):
        target = folder / one.study.name / f"{number}-{roles.get(kept.sop_instance_uid, 'object')}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept.path, target)
        written.append(target)
        if kept.sop_class_uid == _SECONDARY_CAPTURE:
            written.append(_picture(target))
    return written


def _picture(path: Path) -> Path:
    """The picture of a Secondary Capture as PNG beside it; results are 8-bit RGB."""
    import pydicom
    from PIL import Image

    picture = path.with_suffix(".png")
    Image.fromarray(pydicom.dcmread(path).pixel_array).save(picture)
    return picture
