"""The cases of a data set as an evaluation runs them: what is fed to a model, and what is true of it.

Made by the readers of `eval.layouts`, run by `eval.running`, paired with the scores of folds by
`training.evaluation_run`. Truth here is that of the data set's file; nothing has been said of a case yet.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.datasets import DatasetError, DatasetFile
from eval.runs import CaseRecord, LesionRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalCase:
    """One case of a data set.

    Attributes
    ----------
    case : str
        Its name within the set; unique.
    patient : str
        Pseudonym of the patient; cases of one patient are resampled together.
    inputs : tuple of Path
        Files that the model is given, in the order of their names.
    positive : bool or None
        Truth; None where it is not known or the case is not judged.
    excluded : str
        Why it is not judged though it belongs to the set.
    reading : str
        Group of the reference standard.
    lesions : tuple of LesionRecord
    traits, numbers : mapping
        What else is known: subgroups are made of the traits.
    dicom : bool
        Whether the inputs are DICOM files; pictures and volumes of other kinds take their header from the data set.
    """

    case: str
    patient: str
    inputs: tuple[Path, ...]
    positive: bool | None = None
    excluded: str = ""
    reading: str = ""
    lesions: tuple[LesionRecord, ...] = ()
    traits: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    dicom: bool = True

    def told(self, said: CaseRecord) -> CaseRecord:
        """`said`, of this case by a model, with the truth of the data set."""
        return said.model_copy(
            update={
                "case": self.case,
                "patient": self.patient,
                "positive": self.positive,
                "excluded": self.excluded,
                "reading": self.reading,
                "lesions": self.lesions,
                "traits": dict(self.traits),
                "numbers": dict(self.numbers),
            }
        )


def checked(cases: Sequence[EvalCase], dataset: DatasetFile) -> tuple[EvalCase, ...]:
    """Cases in the order of their names, with the traits that the data set's bands make of numbers.

    Raises
    ------
    DatasetError
        If there are none, two have one name, or files are missing.
    """
    if not cases:
        raise DatasetError(f"{dataset.reference}: the set has no case; see its root and its tables")
    names = Counter(case.case for case in cases)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DatasetError(f"{dataset.reference}: {len(twice)} case(s) are there twice, the first is {twice[0]}")
    missing = [case.case for case in cases if not case.inputs or not all(path.is_file() for path in case.inputs)]
    if missing:
        raise DatasetError(
            f"{dataset.reference}: {len(missing)} case(s) have no file, the first is {missing[0]}; "
            "see root and input in the data set's file, or name the folder with --root"
        )
    unknown = [trait for trait in dataset.subgroups if not any(trait in _traits(case, dataset) for case in cases)]
    if unknown:
        raise DatasetError(f"{dataset.reference}: subgroups: no case has the trait {unknown[0]}")
    ordered = sorted(cases, key=lambda case: case.case)
    return tuple(replace(case, traits=_traits(case, dataset)) for case in ordered)


def _traits(case: EvalCase, dataset: DatasetFile) -> dict[str, str]:
    banded = {name: band(case.numbers[name], edges) for name, edges in dataset.bands.items() if name in case.numbers}
    return {**{name: value for name, value in case.traits.items() if value}, **banded}


def band(value: float, edges: Sequence[float]) -> str:
    """In words, between which edges `value` lies: below 40, 40 to 59, 60 and over; of fractions 1.5 to <2."""
    ordered = sorted(edges)
    if value < ordered[0]:
        return f"below {ordered[0]:g}"
    if value >= ordered[-1]:
        return f"{ordered[-1]:g} and over"
    low = max(edge for edge in ordered if edge <= value)
    high = min(edge for edge in ordered if edge > value)
    whole = all(float(edge).is_integer() for edge in ordered)
    return f"{low:g} to {high - 1:g}" if whole else f"{low:g} to <{high:g}"


def input_name(path: Path, root: Path) -> str:
    """The file as the manifest calls it: its place below the root of the set."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def study_uid(case: str) -> str:
    """A UID for a case that has none of its own: ``2.25.`` and 128 bits of its name's digest (PS3.5 B.2)."""
    return f"2.25.{int(hashlib.sha256(case.encode()).hexdigest()[:32], 16)}"
