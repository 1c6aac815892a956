"""Whether marks and findings seem to be in different frames: swapped or mirrored axes, voxels against millimetres.

Called by `eval.commands.froc`. A bad detector and a wrong frame look alike in every figure; here they are told apart
as far as that can be done, and what to check is said. Nothing is corrected.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from eval.luna16 import Lesions, Marks

NEAR_MM = 10.0  # a mark this near to a lesion, or within its widest half, is about the same place
_SCANS_COMPARED = 100
_ENOUGH = 0.5  # share of lesions near a mark from which frames are taken to agree
_LEAST_LESIONS = 2
_TURNS = tuple(
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1.0, -1.0), repeat=3)
)
_Pair = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def frame_note(
    marks: Marks, lesions: Lesions, *, marks_name: str, truth_name: str, near: float = NEAR_MM
) -> str | None:
    """A sentence on what to check when hardly a lesion is near a mark, or None.

    Scans with both marks and lesions are compared, the first hundred of them. When at least half of their lesions are
    near a mark nothing is said. Else all 48 ways of swapping and mirroring axes are tried on the marks; one that brings
    at least half of the lesions, and twice as many as before, near a mark is named. Else, when no lesion at all is near
    a mark, the distance between them is told. `near` is in the units of the coordinates.
    """
    pairs = list(itertools.islice(_pairs(marks, lesions, near), _SCANS_COMPARED))
    total = sum(len(reach) for _, _, reach in pairs)
    if not total:
        return None
    now = _near(pairs, (0, 1, 2), (1.0, 1.0, 1.0))
    if now >= _ENOUGH * total:
        return None
    axes, signs = max(_TURNS, key=lambda turn: _near(pairs, *turn))
    best = _near(pairs, axes, signs)
    about = f"{marks_name} and {truth_name} seem to be in different frames: "
    if best >= max(_ENOUGH * total, 2 * now, _LEAST_LESIONS):
        turned = ", ".join(f"{'-' if sign < 0 else ''}{'XYZ'[axis]}" for axis, sign in zip(axes, signs, strict=True))
        return (
            about + f"{now} of {total} lesions are near a mark, and {best} would be if the coordinates of the marks "
            f"were read as ({turned}) instead of (X, Y, Z); check order and direction of the axes"
        )
    if now:
        return None
    away = np.median(_nearest(pairs))
    return about + (
        f"none of {total} lesions is near a mark{_voxels(marks, lesions)}; the median lesion is {away:.0f} away from "
        f"the nearest mark of its scan; check that both are in one frame and unit (world coordinates are LPS, mm), or "
        f"that the detector is that bad"
    )


def _pairs(marks: Marks, lesions: Lesions, near: float) -> Iterator[_Pair]:
    """Marks, lesions and reach of each scan that has both."""
    for scan in np.intersect1d(marks.scan, lesions.scan).tolist():
        there = lesions.scan == scan
        widest = np.nan_to_num(lesions.places.size[there]).max(axis=1) / 2
        yield marks.places.center[marks.scan == scan], lesions.places.center[there], np.maximum(widest, near)


def _near(pairs: list[_Pair], axes: tuple[int, ...], signs: tuple[float, ...]) -> int:
    """How many lesions have a mark in reach when the axes of the marks are turned so."""
    return sum(
        int((_apart(marks[:, axes] * signs, lesions).min(axis=0) <= reach).sum()) for marks, lesions, reach in pairs
    )


def _nearest(pairs: list[_Pair]) -> NDArray[np.float64]:
    return np.concatenate([_apart(marks, lesions).min(axis=0) for marks, lesions, _ in pairs])


def _apart(marks: NDArray[np.float64], lesions: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(((marks[:, None] - lesions[None]) ** 2).sum(axis=2)))


def _voxels(marks: Marks, lesions: Lesions) -> str:
    def like_voxels(center: NDArray[np.float64]) -> bool:
        return bool((center >= 0).all() and (center == np.rint(center)).all())

    if like_voxels(marks.places.center) == like_voxels(lesions.places.center):
        return ""
    which = "marks" if like_voxels(marks.places.center) else "findings"
    return f", and those of the {which} are whole and never negative like voxel indices"
