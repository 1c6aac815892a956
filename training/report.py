"""EVALUATION.md from its JSON twin: every number in the text comes from there.

Called by `training.release`. The full seventeen-section report of a model that is to be judged for service belongs to
`eval`; this one says what a person must know before trying the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

_Values = Mapping[str, object]


def report(twin: _Values) -> str:
    """The report as Markdown."""
    sections = [
        f"# {twin['model']}: {twin['title']}",
        "**Research only. Not a medical device.**",
        _identity(twin),
        f"## Intended use\n\n{twin['intended_use']}",
        _data(twin),
        _method(twin),
        _figures(cast("Sequence[_Values]", twin["figures"])),
        _operating(twin),
        _parity(cast("_Values", twin["parity"])),
        "## Limits\n\n" + "\n".join(f"* {limit}" for limit in cast("Sequence[str]", twin["limits"])),
        _files(twin),
    ]
    return "\n\n".join(sections) + "\n"


def _identity(twin: _Values) -> str:
    weights = cast("Mapping[str, str]", twin["weights"])
    rows = [("model digest", twin["model_digest"]), *weights.items()]
    rows += [(name.replace("_", " "), twin[name]) for name in ("recipe_digest", "split_digest", "manifest_sha256")]
    return "## Identity\n\n" + _table(("what", "sha256"), [(name, f"`{digest}`") for name, digest in rows])


def _data(twin: _Values) -> str:
    audit = cast("Mapping[str, Mapping[str, int]]", twin["audit"])
    columns = list(next(iter(audit.values())))
    rows = [(name, *(str(counts[column]) for column in columns)) for name, counts in audit.items()]
    text = f"{twin['training']}\n\nLicence: {twin['licence']}.\n\nCitation: {twin['citation']}."
    return f"## Data\n\n{text}\n\n" + _table(("films", *columns), rows)


def _method(twin: _Values) -> str:
    rules = cast("Mapping[str, str]", twin["rules"])
    return (
        f"## Method\n\n{twin['method']}\n\n"
        "Reference standard: the class that the RSNA radiologists gave a film (opacity, normal, or other findings "
        "without opacity) and their boxes. Films that only text mining labelled are not judged. Films on which the NIH "
        "drew an opacity box and the RSNA radiologists saw no opacity count as films without opacity.\n\n"
        f"Rules: film threshold, {rules['picture']}; mark threshold, {rules['lesion']}.\n\n"
        f"To repeat: `{twin['command']}`"
    )


def _figures(figures: Sequence[_Values]) -> str:
    rows = [
        (str(row["name"]), f"{row['value']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", str(row["on"]))
        for row in figures
    ]
    return "## Results\n\n" + _table(("figure", "value", "95 % interval", "counted on"), rows)


def _operating(twin: _Values) -> str:
    folds = cast("Mapping[str, _Values]", twin["folds"])
    rows = [
        (name, _three(point["picture_threshold"]), _three(point["lesion_threshold"])) for name, point in folds.items()
    ]
    served = cast("_Values", twin["served"])
    rows.append(("**served**", _three(served["picture_threshold"]), _three(served["lesion_threshold"])))
    text = "Thresholds of the calibrated score; those of a fold were fitted on the other folds."
    return f"## Operating points\n\n{text}\n\n" + _table(("fold", "film", "mark"), rows)


def _three(value: object) -> str:
    return f"{value:.3f}"


def _parity(parity: _Values) -> str:
    onnx, archive = cast("Mapping[str, float]", parity["onnx"]), cast("Mapping[str, float]", parity["torch"])
    rows = [(name, f"{onnx[name]:.1e}", f"{archive[name]:.1e}") for name in onnx]
    text = f"Largest difference from the trained network on {parity['films']} real films, in batches of 1 and 4."
    return f"## Same network in both files\n\n{text}\n\n" + _table(("output", "ONNX Runtime", "torch.export"), rows)


def _files(twin: _Values) -> str:
    return (
        "## Files\n\n"
        "`predictions.csv`: every film with the fold it was held out in, its logit and its score calibrated on the "
        "other folds. `marks.csv`: every out-of-fold mark in source pixels. `evaluation.json`: the figures above. "
        "Seeds: " + ", ".join(f"{name} {seed}" for name, seed in cast("Mapping[str, int]", twin["seeds"]).items()) + "."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)
