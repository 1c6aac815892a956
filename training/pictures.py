"""Pictures of a run for its records: loss curves, ROC and FROC, and example films with truth and marks.

Called by `training.tracking`. Films are drawn as the network saw them, without names; whether they may be drawn at all
is the recipe's word on the licence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import PIL.ImageDraw

from eval.froc import Mark, froc
from inference.findings import Box
from training.cache import PreparedFilms
from training.figures import Evaluation
from training.hits import HitRule, deciding
from training.operating import Pair
from training.recipe import Judging

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TRUTH, _MARK = (80, 220, 120), (255, 120, 60)
_SMALLEST_SIDE = 512


def loss_curves(histories: Mapping[str, Sequence[Mapping[str, float | None]]]) -> Figure:
    """One line for each training and part of the loss."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(12, 4), layout="constrained")
    for axes, part in zip(picture.subplots(1, 3), ("centre", "edges", "picture"), strict=True):
        for name, history in histories.items():
            axes.plot(range(1, len(history) + 1), [one[part] for one in history], label=name)
        axes.set(title=f"loss: {part}", xlabel="epoch")
    picture.axes[-1].legend(fontsize="small")
    return picture


def roc_and_froc(evaluation: Evaluation, judging: Judging) -> Figure:
    """The out-of-fold curves of films and of marks."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 4.5), layout="constrained")
    films, marks = picture.subplots(1, 2)
    logits = np.asarray([pair.scored.picture_logit for pair in evaluation.judged])
    positive = np.asarray([pair.film.positive for pair in evaluation.judged])
    ranked = positive[np.argsort(-logits)]
    films.plot(np.cumsum(~ranked) / max(1, (~ranked).sum()), np.cumsum(ranked) / max(1, ranked.sum()))
    films.set(title="films, out-of-fold", xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    rule = deciding(judging)
    curve = froc([rule.match(pair.scored.marks, pair.film.boxes) for pair in evaluation.judged])
    marks.step(curve.false_per_film, curve.sensitivity, where="post")
    marks.set(
        title=f"marks; hit: {rule.words}", xlabel="false marks per judged film", ylabel="lesions found", ylim=(0, 1)
    )
    marks.title.set_fontsize("small")
    return picture


def telling_films(evaluation: Evaluation, judging: Judging, *, each: int = 3) -> dict[str, tuple[Pair, ...]]:
    """A few films of each kind that a person should look at, by kind."""
    rule = deciding(judging)
    ill = [pair for pair in evaluation.judged if pair.film.boxes]
    well = [pair for pair in evaluation.judged if not pair.film.boxes]

    def best_hit(pair: Pair) -> float:
        return max((mark.score for mark in pair.scored.marks if _hit(mark, pair, rule)), default=-np.inf)

    def loudest(pair: Pair) -> float:
        return max((mark.score for mark in pair.scored.marks), default=-np.inf)

    return {
        "found": tuple(sorted(ill, key=best_hit, reverse=True)[:each]),
        "missed": tuple(sorted(ill, key=best_hit)[:each]),
        "false-alarm": tuple(sorted(well, key=loudest, reverse=True)[:each]),
        "quiet": tuple(sorted(well, key=loudest)[:each]),
    }


def _hit(mark: Mark, pair: Pair, rule: HitRule) -> bool:
    return any(rule.hits(mark.box, box) for box in pair.film.boxes)


def overlay(pair: Pair, prepared: PreparedFilms, evaluation: Evaluation) -> PIL.Image.Image:
    """The film as prepared: readers' boxes green, marks above the fold's threshold orange with their score."""
    grey = np.clip(prepared.grey(pair.film.image), 0, 1)
    scale = max(1.0, _SMALLEST_SIDE / max(grey.shape))
    film = PIL.Image.fromarray(np.round(grey * 255).astype(np.uint8)).convert("RGB")
    film = film.resize((round(film.width * scale), round(film.height * scale)))
    pen, point = PIL.ImageDraw.Draw(film), evaluation.nested[pair.scored.fold]
    for box in pair.film.boxes:
        pen.rectangle(_corners(pair, prepared, box, scale), outline=_TRUTH, width=2)
    for mark in pair.scored.marks:
        if (score := point.lesion_score(mark.score)) >= point.lesion_threshold:
            corners = _corners(pair, prepared, mark.box, scale)
            pen.rectangle(corners, outline=_MARK, width=2)
            pen.text((corners[0] + 3, corners[1] + 2), f"{score:.2f}", fill=_MARK)
    return film


def _corners(pair: Pair, prepared: PreparedFilms, box: Box, scale: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) * scale for value in prepared.to_input(pair.film.image, box))
    return left, top, right, bottom
