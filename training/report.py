"""EVALUATION.md from its JSON twin: every number in the text comes from there.

Called by `training.release`. The full seventeen-section report of a model that is to be judged for service belongs to
`eval`; this one says what a person must know before trying the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from training.audit import table

_Values = Mapping[str, object]
_USES = {
    "demonstration": "**A demonstration of the machinery. No accuracy is claimed. Not a medical device.**",
    "research": "**Research only. Not a medical device.**",
    "registered": "Registered; see the card for the number.",
}


def report(twin: _Values, audit: str) -> str:
    """The report as Markdown; `audit` is the audit's text."""
    sections = [
        f"# {twin['model']}: {twin['title']}",
        _USES[str(twin["use"])],
        _identity(twin),
        f"## Intended use\n\n{twin['intended_use']}",
        _data(twin, audit),
        _method(twin),
        _figures(twin),
        _operating(twin),
        _parity(cast("_Values", twin["parity"])),
        *_guard(cast("_Values | None", twin["guard"])),
        "## Limits\n\n" + "\n".join(f"* {limit}" for limit in cast("Sequence[str]", twin["limits"])),
        _files(twin),
    ]
    return "\n\n".join(sections) + "\n"


def _identity(twin: _Values) -> str:
    weights = cast("Mapping[str, str]", twin["weights"])
    rows = [("model digest", twin["model_digest"]), *weights.items()]
    rows += [(name.replace("_", " "), twin[name]) for name in ("recipe_digest", "split_digest", "manifest_sha256")]
    return "## Identity\n\n" + table(("what", "sha256"), [(name, f"`{digest}`") for name, digest in rows])


def _data(twin: _Values, audit: str) -> str:
    text = f"{twin['training']}\n\nLicence: {twin['licence']}.\n\nCitation: {twin['citation']}."
    return f"## Data\n\n{text}\n\n### Audit\n\n{audit}"


def _method(twin: _Values) -> str:
    rules = cast("Mapping[str, str]", twin["rules"])
    return (
        f"## Method\n\n{twin['method']}\n\n"
        f"{twin['standard']}\n\n"
        f"Rules: film threshold, {rules['picture']}; mark threshold, {rules['lesion']}.\n\n"
        f"To repeat: `{twin['command']}`"
    )


_FIGURE_HEAD = ("figure", "value", "95 % interval", "counted on")


def _figures(twin: _Values) -> str:
    rows = [_figure_row(row) for row in cast("Sequence[_Values]", twin["figures"])]
    notes = "".join(f"**Not fitted:** {note}.\n\n" for note in cast("Sequence[str]", twin["notes"]))
    return f"## Results\n\n{notes}" + table(_FIGURE_HEAD, rows)


def _figure_row(row: _Values) -> tuple[str, ...]:
    known = row["low"] is not None and row["high"] is not None
    interval = f"{row['low']:.3f} to {row['high']:.3f}" if known else ""
    return str(row["name"]), f"{row['value']:.3f}", interval, str(row["on"])


def _operating(twin: _Values) -> str:
    folds = cast("Mapping[str, _Values]", twin["folds"])
    rows = [
        (name, _three(point["picture_threshold"]), _three(point["lesion_threshold"])) for name, point in folds.items()
    ]
    served = cast("_Values", twin["served"])
    rows.append(("**served**", _three(served["picture_threshold"]), _three(served["lesion_threshold"])))
    text = "Thresholds of the calibrated score; those of a fold were fitted on the other folds."
    return f"## Operating points\n\n{text}\n\n" + table(("fold", "film", "mark"), rows)


def _three(value: object) -> str:
    return f"{value:.3f}"


def _parity(parity: _Values) -> str:
    runtimes = cast("Mapping[str, _Values]", parity["runtimes"])
    names = list(cast("Mapping[str, float]", next(iter(runtimes.values()))["outputs"]))
    rows = []
    for runtime, off in runtimes.items():
        outputs = cast("Mapping[str, float]", off["outputs"])
        row = (runtime, f"{off['probability']:.1e}", f"{off['pixels']:.1e}")
        rows.append((*row, *(f"{outputs[name]:.1e}" for name in names)))
    text = (
        f"Largest difference from the trained network on {parity['films']} real films, in batches of 1 and 4: of "
        "probabilities, of edges in input pixels, and of each raw output."
    )
    return f"## Same network in every file\n\n{text}\n\n" + table(("runtime", "probability", "edges", *names), rows)


def _guard(guard: _Values | None) -> list[str]:
    if guard is None:
        return []
    rows = [_figure_row(row) for row in cast("Sequence[_Values]", guard["figures"])]
    text = f"Pictures unlike the training films are met with: {guard['action']}. Method `{guard['method']}`."
    return [f"## Guard\n\n{text}\n\n" + table(_FIGURE_HEAD, rows)]


def _files(twin: _Values) -> str:
    return (
        "## Files\n\n"
        "`predictions.csv`: every film with the fold it was held out in, its logit and its score calibrated on the "
        "other folds. `marks.csv`: every out-of-fold mark in source pixels. `evaluation.json`: the figures above. "
        "Seeds: " + ", ".join(f"{name} {seed}" for name, seed in cast("Mapping[str, int]", twin["seeds"]).items()) + "."
    )
