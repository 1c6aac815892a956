"""The audit of a data set: counts, faults, twins, leakage between folds, shortcuts; one file and one table.

Called by `training.detection` and by ``radnode data audit``. It names films, never patients. `training.report` prints
it into the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.cache import PreparedFilms
from training.data import Film, FilmSet, ImageName, counts
from training.faults import Fault
from training.files import write_whole
from training.hashes import Separation, Twins, find_twins, hashes_of, separation
from training.recipe import Data
from training.shortcuts import Shortcut, find_shortcuts
from training.splits import Splits, parted_patients, patients_per_fold

AUDIT_FILE, AUDIT_TEXT = "audit.json", "audit.md"
_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What was found.

    Attributes
    ----------
    reader, manifest_sha256 : str
        Layout of the folder, and the digest of its films.
    counts : dict
        Films, patients, boxes and views by reading and by what films teach.
    faults : tuple of Fault
        What the recipe let pass.
    separation : Separation
        Where the threshold of near twins comes from.
    twins : tuple of Twins
        Films that are one picture.
    shortcuts : tuple of Shortcut
        Traits that separate the label, the strongest first.
    folds : dict
        How evenly films were dealt; empty before the split.
    leaks : tuple
        Twins of different patients in different folds: a network is judged on a picture it learnt from.
    parted : int
        Patients in two folds; a split with any is refused, so this is 0 in every audit that is kept.
    warnings : tuple of str
        What a person must look at.
    """

    reader: str
    manifest_sha256: str
    counts: dict[str, dict[str, int]]
    faults: tuple[Fault, ...]
    separation: Separation
    twins: tuple[Twins, ...]
    shortcuts: tuple[Shortcut, ...]
    folds: dict[int, dict[str, int]]
    leaks: tuple[tuple[ImageName, ImageName], ...]
    parted: int
    warnings: tuple[str, ...]


def twins_of(films: Sequence[Film], prepared: PreparedFilms, rules: Data) -> tuple[Separation, tuple[Twins, ...]]:
    """The threshold of near twins on this set, and all twins."""
    hashes = hashes_of(films, prepared)
    apart = separation(films, prepared, hashes, threshold_bits=rules.near_duplicate_bits)
    return apart, find_twins(films, prepared, hashes, threshold_bits=apart.threshold_bits)


def audit(
    read: FilmSet,
    prepared: PreparedFilms,
    faults: tuple[Fault, ...],
    twins: tuple[Separation, tuple[Twins, ...]],
    splits: Splits | None,
    rules: Data,
    manifest_sha256: str,
) -> Audit:
    """Look at all films; `splits` adds what can be said only when films are dealt."""
    apart, found = twins
    shortcuts = find_shortcuts(read, prepared, level=rules.shortcut_auroc)
    leaks = tuple(
        (pair.one, pair.other)
        for pair in found
        if splits and not pair.same_patient and splits.fold_of[pair.one] != splits.fold_of[pair.other]
    )
    return Audit(
        reader=rules.reader,
        manifest_sha256=manifest_sha256,
        counts=counts(read.films),
        faults=faults,
        separation=apart,
        twins=found,
        shortcuts=shortcuts,
        folds=patients_per_fold(splits, read.films) if splits else {},
        leaks=leaks,
        parted=len(parted_patients(splits, read.films)) if splits else 0,
        warnings=_warnings(read, faults, found, leaks, shortcuts),
    )


def _warnings(
    read: FilmSet,
    faults: Sequence[Fault],
    twins: Sequence[Twins],
    leaks: Sequence[tuple[ImageName, ImageName]],
    shortcuts: Sequence[Shortcut],
) -> tuple[str, ...]:
    warnings = [f"{len(faults)} film(s) or boxes were clipped or left out"] if faults else []
    if strangers := [pair for pair in twins if not pair.same_patient]:
        named = _pairs([(pair.one, pair.other) for pair in strangers])
        warnings.append(f"{len(strangers)} pair(s) of films of different patients look like one picture: {named}")
    if leaks:
        warnings.append(
            f'{len(leaks)} of them lie in different folds, which flatters the figures; set twins = "bind" under [data]'
        )
    warnings += [
        f"{one.trait} alone separates {one.against} at AUROC {one.auroc} "
        f"({one.low} to {one.high}): read figures within it"
        for one in shortcuts
        if one.warned
    ]
    return tuple(warnings)


def _pairs(pairs: Sequence[tuple[ImageName, ImageName]]) -> str:
    named = "; ".join(f"{one} and {other}" for one, other in pairs[:_SHOWN])
    return named + (" ..." if len(pairs) > _SHOWN else "")


def write_audit(found: Audit, folder: Path) -> None:
    """Write `audit.json`, and `audit.md` for people."""
    write_whole(folder / AUDIT_FILE, json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / AUDIT_TEXT, f"# Audit of the films ({found.reader})\n\n{audit_text(found)}\n")


def audit_text(found: Audit) -> str:
    """The audit in Markdown, without a title."""
    columns = list(next(iter(found.counts.values()), {}))
    rows = [(name, *(row[column] for column in columns)) for name, row in found.counts.items()]
    parts = [f"Manifest of the films: `{found.manifest_sha256}`.", table(("films", *columns), rows)]
    if found.warnings:
        parts.append("Warnings:\n\n" + "\n".join(f"* {warning}" for warning in found.warnings))
    if found.faults:
        faults = [(one.image, one.kind, one.what, one.done) for one in found.faults[:_SHOWN]]
        parts.append(table(("film", "fault", "what", "done"), faults))
    parts += [_twins_text(found), _shortcuts_text(found)]
    if found.folds:
        columns = list(found.folds[0])
        rows = [(fold, *(row[column] for column in columns)) for fold, row in found.folds.items()]
        parts.append("No patient is in two folds.\n\n" + table(("fold", *columns), rows))
    return "\n\n".join(parts)


def _twins_text(found: Audit) -> str:
    apart = found.separation
    text = (
        f"Twins: films whose hashes of 255 bits differ in at most {apart.threshold_bits}. Copies made of these films "
        f"(smaller, brighter, cropped) stay within {apart.copies_bits:.0f} bits in 99 of 100 cases; of films of "
        f"different patients 1 in 1,000 pairs comes as near as {apart.strangers_bits:.0f}. Found: "
        f"{len(found.twins)} pair(s), {sum(pair.exact for pair in found.twins)} with equal pixels, "
        f"{sum(not pair.same_patient for pair in found.twins)} of different patients, {len(found.leaks)} across folds."
    )
    if not found.twins:
        return text
    rows = [
        (
            pair.one,
            pair.other,
            pair.bits,
            "equal pixels" if pair.exact else "alike",
            "yes" if pair.same_patient else "no",
        )
        for pair in found.twins[:_SHOWN]
    ]
    return text + "\n\n" + table(("film", "and film", "bits", "how", "same patient"), rows)


def _shortcuts_text(found: Audit) -> str:
    if not found.shortcuts:
        return "Shortcuts were not looked for: too few films of known truth."
    rows = [
        (
            one.trait,
            one.against,
            f"{one.auroc:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            one.films,
            "warned" if one.warned else "",
        )
        for one in found.shortcuts
    ]
    text = "How well traits that are no lesion separate films alone (0.5: not at all; below: the other way round):"
    return text + "\n\n" + table(("trait", "of", "AUROC", "95 % interval", "films", ""), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines)
