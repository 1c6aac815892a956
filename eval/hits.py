"""When a mark finds a lesion: the rules, each with its name and its words, over arrays of places.

Called by `eval.luna16` and the commands; every figure names the rule by which it was counted. Counting is
`eval.luna16` and `eval.froc`. The rule of one film in training, a mark's box against a reader's, is `eval.froc.hits`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

LEAST_REACH_PX = 100.0  # mammography: a mark this near to a lesion's centre finds it, however small the lesion is


class Hit(StrEnum):
    """How a place is compared with a lesion."""

    DISTANCE = "distance"  # centre to centre, strictly below the radius: LUNA16
    IOU = "iou"  # overlap of boxes, at least a share
    CENTER = "center"  # the mark's centre in the lesion's box
    MAMMOGRAPHY = "mammography"  # centre to centre in pixels, and near in slices: the DBT lesion detection challenge


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Places:
    """Marks or lesions of one frame: balls by their hull, boxes as they are.

    Attributes
    ----------
    center : float64 (places, 3)
        x, y, z in millimetres, or in pixels and slices; the same frame for marks and lesions.
    size : float64 (places, 3)
        Full widths along x, y, z in the same units; a ball of diameter d is (d, d, d); NaN where a mark has no size.
    """

    center: NDArray[np.float64]
    size: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.center)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Places:
        """Some of the places, by index or mask."""
        return Places(center=self.center[rows], size=self.size[rows])


Compare = Callable[[Places, Places], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True, slots=True)
class HitRule:
    """A rule by name, in words, and as a function of marks and lesions of one scan: bool (marks, lesions)."""

    name: Hit
    words: str
    compare: Compare


def hit_rule(name: Hit, *, least_iou: float = 0.1) -> HitRule:
    """The rule of a name; `least_iou` belongs to `Hit.IOU` alone."""
    words, compare = {
        Hit.DISTANCE: ("centre of the mark strictly nearer than the radius to the centre of the lesion", within_radius),
        Hit.IOU: (
            f"boxes of mark and lesion overlap by IoU {least_iou:g} or more",
            lambda marks, lesions: overlap(marks, lesions) >= least_iou,
        ),
        Hit.CENTER: ("centre of the mark in the lesion's box, edges included", center_in_box),
        Hit.MAMMOGRAPHY: (
            "centre of the mark no farther from the lesion's than half its diagonal or 100 px, whichever is more, "
            "and no more than a quarter of the slices away",
            near_in_plane,
        ),
    }[name]
    return HitRule(name=name, words=words, compare=compare)


def within_radius(marks: Places, lesions: Places) -> NDArray[np.bool_]:
    """LUNA16 (Setio 2017): distance of centres strictly below half the lesion's diameter; bool (marks, lesions)."""
    apart = _apart(marks, lesions)
    return np.asarray((apart**2).sum(axis=2) < (lesions.size[:, 0] / 2) ** 2)


def center_in_box(marks: Places, lesions: Places) -> NDArray[np.bool_]:
    """The mark's centre in the lesion's box, edges included; bool (marks, lesions)."""
    return np.asarray((np.abs(_apart(marks, lesions)) <= lesions.size / 2).all(axis=2))


def near_in_plane(marks: Places, lesions: Places) -> NDArray[np.bool_]:
    """Rule of the DBT lesion detection challenge (Buda 2021); bool (marks, lesions).

    In the plane, in pixels: centre no farther away than half the diagonal of the lesion's box or 100 px, whichever is
    more. Along z: |z| at most half the lesion's depth, to be given as half the slices of the volume, so that a mark may
    be a quarter of them away. For single images z and depth are 0.
    """
    apart = _apart(marks, lesions)
    half_diagonal = np.hypot(lesions.size[:, 0], lesions.size[:, 1]) / 2
    near = np.hypot(apart[..., 0], apart[..., 1]) <= np.maximum(half_diagonal, LEAST_REACH_PX)
    return np.asarray(near & (np.abs(apart[..., 2]) <= lesions.size[:, 2] / 2))


def overlap(marks: Places, lesions: Places) -> NDArray[np.float64]:
    """Intersection over union of boxes; float64 (marks, lesions)."""
    low = np.maximum((marks.center - marks.size / 2)[:, None], (lesions.center - lesions.size / 2)[None])
    high = np.minimum((marks.center + marks.size / 2)[:, None], (lesions.center + lesions.size / 2)[None])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    return np.asarray(shared / (marks.size.prod(axis=1)[:, None] + lesions.size.prod(axis=1)[None] - shared))


def _apart(marks: Places, lesions: Places) -> NDArray[np.float64]:
    return marks.center[:, None] - lesions.center[None]
