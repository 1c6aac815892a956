"""Which series of a CT study is looked at: axial, thin enough, of the lung's kernel where several were made.

Called by `volumes.run` with headers only; whether the series' slices make a volume is decided when it is loaded, by
`inference.loading.load_volume`, and the next series is tried where they do not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.findings import SeriesUid
from inference.loading import SliceHeader, select_slices
from inference.refusals import Reason, Refusal

_AXIAL = 0.8  # least cosine between the slices' normal and the long axis of the body: 37 degrees
_FEWEST = 3  # slices of a volume
_WHOLE = 0.7  # a series that covers this much of the longest one's length covers the same
_SAME_STEP_MM = 0.1  # slice distances closer than this are alike
# Names of kernels made for lung and bone: GE, Siemens (B and Br/Bl with a number from 50), Philips, Canon.
_SHARP = re.compile(r"LUNG|BONE|DETAIL|EDGE|CHST|(B|BR|BL|BV|I|T|H)[5-9]\d[A-Z]*(\b|_)|(L|YA|YB|YC|YD|D)$|FC[58]\d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One series, its slices and what speaks for it.

    Attributes
    ----------
    uid : SeriesUid
    slices : tuple of SliceHeader
        What belongs to a volume.
    dropped : int
        Images of the series that never belong to one: localizers, reformats.
    step_mm : float
        Median distance of neighbouring slices.
    length_mm : float
        Extent along the normal.
    sharp : bool
        Made with a kernel for lung or bone.
    """

    uid: SeriesUid
    slices: tuple[SliceHeader, ...]
    dropped: int
    step_mm: float
    length_mm: float
    sharp: bool


def ranked(
    headers: Sequence[SliceHeader], *, max_step_mm: float
) -> tuple[tuple[Series, ...], tuple[tuple[SeriesUid, Refusal], ...]]:
    """Series that may be looked at, the best first, and the others each with its reason.

    The best covers most of the body's length, has the thinnest slices, a sharp kernel, and the most slices.

    Parameters
    ----------
    headers : sequence of SliceHeader
        Of all images of the study that are within the model's intended use.
    max_step_mm : float
        Slices further apart are refused.
    """
    fit: list[Series] = []
    unfit: list[tuple[SeriesUid, Refusal]] = []
    for uid in sorted({header.header.series_uid for header in headers}):
        found = _judged(uid, [header for header in headers if header.header.series_uid == uid], max_step_mm)
        if isinstance(found, Refusal):
            unfit.append((uid, found))
        else:
            fit.append(found)
    longest = max((series.length_mm for series in fit), default=0.0)
    return tuple(sorted(fit, key=lambda series: _rank(series, longest))), tuple(unfit)


def _rank(series: Series, longest_mm: float) -> tuple[bool, int, bool, int, str]:
    covers = series.length_mm >= _WHOLE * longest_mm
    return not covers, round(series.step_mm / _SAME_STEP_MM), not series.sharp, -len(series.slices), series.uid


def _judged(uid: SeriesUid, headers: Sequence[SliceHeader], max_step_mm: float) -> Series | Refusal:
    kept, dropped = select_slices([header.header for header in headers])
    wanted = {header.sop_instance_uid for header in kept}
    slices = tuple(header for header in headers if header.header.sop_instance_uid in wanted)
    if len(slices) < _FEWEST:
        common = Counter(one.why for one in dropped).most_common(1)
        why = f"; {len(dropped)} image(s) dropped, {common[0][0]}" if common else ""
        return Refusal(reason=Reason.INCOMPLETE, detail=f"{len(slices)} slice(s), a volume needs {_FEWEST}{why}")
    if any(one.position_mm is None or one.orientation is None for one in slices):
        return Refusal(reason=Reason.GEOMETRY, detail="Image Position or Image Orientation is missing")
    normal = _normal(slices[0])
    if abs(float(normal[2])) < _AXIAL:
        return Refusal(reason=Reason.GEOMETRY, detail="the slices are not axial")
    places = np.sort([np.asarray(one.position_mm) @ normal for one in slices])
    step, length = float(np.median(np.diff(places))), float(places[-1] - places[0])
    if step > max_step_mm:
        far = f"slices are {step:.2f} mm apart, the model accepts {max_step_mm:g} mm"
        return Refusal(reason=Reason.GEOMETRY, detail=far)
    sharp = bool(_SHARP.match(slices[0].kernel))
    return Series(uid=uid, slices=slices, dropped=len(dropped), step_mm=step, length_mm=length, sharp=sharp)


def _normal(one: SliceHeader) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    along = np.asarray(one.orientation, dtype=np.float64)
    return np.cross(along[:3], along[3:])
