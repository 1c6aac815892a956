"""Where figures come from: positives against each group of negatives, lesions found by size.

Called by `eval.report.case_results` and `eval.report.lesion_results`. Both answer what one overall figure hides: easy
negatives, and small lesions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from eval.proportions import Proportion
from eval.ranking import Bools, Floats
from eval.report.judged import Judged, patients_of
from eval.report.marks import Matched
from eval.report.outcomes import Against, SizeBand
from eval.report.shares import area, shares, specificity
from eval.runs import CaseRecord, LesionRecord

TOO_FEW = 10
_THIRDS = (1 / 3, 2 / 3)


def against_groups(judged: Judged) -> tuple[Against, ...]:
    """AUROC and specificity against each group of the reference standard among the negatives, if there are several."""
    readings = np.asarray([case.reading for case in judged.records], dtype=np.str_)
    groups = sorted(set(readings[~judged.diseased].tolist()))
    return tuple(_against(judged, readings == group, group) for group in groups) if len(groups) > 1 else ()


def _against(judged: Judged, inside: Bools, group: str) -> Against:
    negatives = judged.among(inside & ~judged.diseased)
    both = judged.among(inside & ~judged.diseased | judged.diseased)
    too_few = len(negatives) < TOO_FEW
    return Against(
        reading=group,
        cases=len(negatives),
        patients=patients_of(negatives.records),
        too_few=too_few,
        auroc=None if too_few else area(both),
        specificity=None if too_few else specificity(negatives),
    )


def by_size(matched: Matched, found: Bools, cases: tuple[CaseRecord, ...]) -> tuple[SizeBand, ...]:
    """Lesions found at the served threshold in thirds of their size; empty where sizes are unknown or too few.

    The size is the diameter in mm, else that of the reader's circle, else the root of the box's area, in pixels.
    """
    sizes, unit = _sizes([lesion for _, lesion in matched.lesions])
    if sizes is None or sizes.size < 3 * TOO_FEW:
        return ()
    owners = np.asarray([cases[row].patient for row, _ in matched.lesions], dtype=np.str_)
    return tuple(_bands(sizes, unit, found, owners))


def _bands(sizes: Floats, unit: str, found: Bools, owners: NDArray[np.str_]) -> Iterator[SizeBand]:
    cuts = np.quantile(sizes, _THIRDS)
    band = np.searchsorted(cuts, sizes, side="right")
    for third in np.unique(band):
        inside = band == third
        yield SizeBand(
            unit=unit,
            low=float(sizes[inside].min()),
            high=float(sizes[inside].max()),
            lesions=int(inside.sum()),
            found=shares(Proportion.of(found[inside], owners[inside]))[0],
        )


def _sizes(lesions: list[LesionRecord]) -> tuple[Floats | None, str]:
    """Sizes of all lesions in one unit, or None."""
    for unit, size in (("mm", _in_mm), ("px", _in_px)):
        known = [size(lesion) for lesion in lesions]
        if known and None not in known:
            return np.asarray(known, dtype=np.float64), unit
    return None, ""


def _in_mm(lesion: LesionRecord) -> float | None:
    if lesion.diameter_mm is not None:
        return lesion.diameter_mm
    return None if lesion.size_mm is None else float(max(lesion.size_mm))


def _in_px(lesion: LesionRecord) -> float | None:
    if lesion.radius is not None:
        return 2 * lesion.radius
    if lesion.box is None:
        return None
    x_min, y_min, x_max, y_max = lesion.box
    return float(np.sqrt((x_max - x_min) * (y_max - y_min)))
