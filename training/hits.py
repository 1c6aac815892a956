"""When a mark finds a lesion: the rule that decides, and the other one, which is reported beside it.

Called by `training.operating` and `training.figures`. Counting is `eval.froc`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from eval.froc import HIT_RULE, Mark, MatchedFilm, hits, match
from inference.findings import Box
from training.recipe import Judging


@dataclass(frozen=True, kw_only=True, slots=True)
class HitRule:
    """A rule in words, and as a function of a mark and a lesion in source pixels."""

    words: str
    hits: Callable[[Box, Box], bool]

    def match(self, marks: Iterable[Mark], lesions: Sequence[Box]) -> MatchedFilm:
        """One film's marks held against its lesions."""
        return match(marks, lesions, hit=self.hits)


def deciding(judging: Judging) -> HitRule:
    """The rule by which marks are called true, thresholds chosen and the first figures counted."""
    if judging.hit == "iou":
        return _overlap(judging.iou)
    return _RADIUS if judging.hit == "center_in_radius" else _BOX


def beside(judging: Judging) -> HitRule:
    """The rule that is reported beside the deciding one: overlap, or where overlap decides the centre in the box."""
    return _BOX if judging.hit == "iou" else _overlap(judging.iou)


def center_in_radius(mark: Box, lesion: Box) -> bool:
    """Whether the mark's centre lies in the circle within the lesion's box: the circle of which the box is the hull."""
    (x, y), (lesion_x, lesion_y) = mark.center, lesion.center
    radius = min(lesion.x_max - lesion.x_min, lesion.y_max - lesion.y_min) / 2
    return math.hypot(x - lesion_x, y - lesion_y) <= radius


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.x_max, other.x_max) - max(one.x_min, other.x_min)
    height = min(one.y_max, other.y_max) - max(one.y_min, other.y_min)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one.area + other.area - shared)


def _overlap(least: float) -> HitRule:
    return HitRule(
        words=f"mark and reader's box overlap by IoU {least:g} or more",
        hits=lambda mark, lesion: overlap(mark, lesion) >= least,
    )


_BOX = HitRule(words=HIT_RULE, hits=hits)
_RADIUS = HitRule(words="centre of the mark within the radius of the reader's circle", hits=center_in_radius)
