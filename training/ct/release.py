"""Puts a trained three-dimensional detector into a folder of the zoo: weights, card, counts, proof.

Called by `training.ct.train`. What people say of the model is read from the draft beside the recipe; every number comes
from the run. The folder is built under another name and takes its place whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import replace as replace_in
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from inference.volumes.grid import normalised
from inference.volumes.tiles import cut, plan
from models.card import ModelCard, Use
from models.outputs import BoxesOutput
from training.ct.export import ONNX_FILE, CtParity, export, prove_parity
from training.ct.grids import PreparedScan
from training.ct.network import Served
from training.ct.recipe import CtRecipe
from training.ct.score import ScanScore, table
from training.errors import RecipeError
from training.files import write_whole
from training.manifest import TRAINING_LIST_FILE, named, training_list
from training.release import CARD_FILE, FIGURES_FILE, PARITY_FILE, REPORT_FILE, ReleaseError, model_folder, read_draft
from training.toml import to_toml
from training.volume_guard import write_volume_guard

_PARITY_TILES = 24
_GUARD_SCANS = 64  # that set the limits of what is taken for the same part of the body
_FEWEST_PATIENTS = 20  # with fewer no interval says anything: the card must call itself a demonstration


def draft_card(recipe: CtRecipe, draft_file: Path) -> ModelCard:
    """The card as far as it is known before training: what scoring needs of it.

    Raises
    ------
    RecipeError
        If the draft is missing or does not make a card; names every fault.
    """
    return _card(recipe, read_draft(draft_file), weights_sha256="0" * 64, manifest_sha256="0" * 64, evaluation={})


def release(
    recipe: CtRecipe,
    network: Any,
    scans: Sequence[PreparedScan],
    scores: Sequence[ScanScore],
    *,
    draft_file: Path,
    command: str,
    manifest_sha256: str,
    split_digest: str,
    zoo: Path,
    replace: bool = False,
) -> Path:
    """Export, prove and write the model; returns its folder.

    Raises
    ------
    RecipeError
        If the draft of the card breaks a rule.
    ExportError
        If the file does not say what the network says.
    ReleaseError
        If another model of this name and version is there, or if too few patients were judged for anything but a
        demonstration.
    """
    scores = _unnamed(scores)
    patients = len({one.patient for one in scores})
    draft = read_draft(draft_file)
    served = Served(network, recipe).eval()
    with model_folder(zoo, recipe.name, recipe.version, replace=replace) as folder:
        export(served, folder, recipe.input.tile)
        parity = prove_parity(served, folder, real_tiles(scans, recipe))
        counts = _counts(scores, recipe.judging.threshold)
        evaluation: dict[str, object] = {
            "method": f"each patient marked by a network that had not seen him (split {split_digest[:12]}): counts of "
            "real lesions and marks, no estimate of accuracy",
            "command": command,
            "figures": counts,
        }
        digest = hashlib.sha256((folder / ONNX_FILE).read_bytes()).hexdigest()
        files = training_list(path for scan in scans for path in scan.case.files)
        write_whole(folder / TRAINING_LIST_FILE, files)
        card = _card(
            recipe, draft, weights_sha256=digest, manifest_sha256=manifest_sha256, evaluation=evaluation, scans=scans
        )
        card = card.model_copy(update={"training": card.training.model_copy(update={"files": named(files)})})
        seen = _evenly(scans, _GUARD_SCANS)
        volumes = (scan.case.read().volume for scan in seen)
        guard = write_volume_guard(volumes, len({scan.case.patient for scan in seen}), folder)
        card = card.model_copy(update={"guard": guard})
        if patients < _FEWEST_PATIENTS and card.identity.use is not Use.DEMONSTRATION:
            raise ReleaseError(
                f"{patients} patient(s) were judged, {_FEWEST_PATIENTS} are the fewest for anything but "
                'use = "demonstration"'
            )
        values = cast("dict[str, object]", card.model_dump(mode="json", exclude_none=True))
        head = "# Written by radnode train: change the draft beside the recipe, or train anew, not this file.\n\n"
        write_whole(folder / CARD_FILE, head + to_toml(values))
        write_whole(folder / PARITY_FILE, json.dumps(asdict(parity), indent=1) + "\n")
        said = {"threshold": recipe.judging.threshold, "split": split_digest, "scans": [asdict(one) for one in scores]}
        write_whole(folder / FIGURES_FILE, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
        write_whole(folder / REPORT_FILE, report(recipe, card, scores, parity, manifest_sha256))
    return zoo / recipe.name / recipe.version


def real_tiles(scans: Sequence[PreparedScan], recipe: CtRecipe) -> NDArray[np.float32]:
    """Tiles of all scans, evenly drawn: float32 (N, 1, slices, rows, columns), normalised."""
    tiles = []
    some = _evenly(scans, _PARITY_TILES // 2)
    for scan in some:
        slices, rows, columns = scan.voxels.shape
        places = plan((slices, rows, columns), recipe.input.tile, recipe.input.overlap)
        chosen = np.linspace(0, len(places) - 1, min(_PARITY_TILES // len(some), len(places))).astype(int)
        voxels = np.asarray(scan.voxels, dtype=np.float32)
        tiles += [normalised(cut(voxels, places[index]), recipe.input)[np.newaxis] for index in chosen]
    return np.stack(tiles)


def _evenly(scans: Sequence[PreparedScan], most: int) -> list[PreparedScan]:
    """At most so many scans, evenly drawn: a large set need not be read whole."""
    return [scans[int(index)] for index in np.linspace(0, len(scans) - 1, min(most, len(scans)))]


def _unnamed(scores: Sequence[ScanScore]) -> list[ScanScore]:
    """The scores with numbers in place of names: what is shipped names no patient."""
    number = {patient: str(index) for index, patient in enumerate(sorted({one.patient for one in scores}), start=1)}
    ordered = sorted(scores, key=lambda one: (one.patient, one.scan))
    return [replace_in(one, patient=number[one.patient], scan=str(index)) for index, one in enumerate(ordered, start=1)]


def _card(
    recipe: CtRecipe,
    draft: dict[str, object],
    *,
    weights_sha256: str,
    manifest_sha256: str,
    evaluation: dict[str, object],
    scans: Sequence[PreparedScan] = (),
) -> ModelCard:
    point = {
        "threshold": recipe.judging.threshold,
        "chosen_by": f"set in the recipe, not fitted: {recipe.judging.threshold_because}",
    }
    try:
        labels = cast("list[dict[str, object]]", draft["labels"])
        if [label.get("key") for label in labels] != list(recipe.network.labels):
            raise RecipeError(f"the card's labels must be those of the recipe, in order: {recipe.network.labels}")
        identity, training = (cast("dict[str, object]", draft[part]) for part in ("identity", "training"))
        whole: dict[str, object] = {
            **draft,
            "identity": {**identity, "name": recipe.name, "version": recipe.version},
            "weights": [{"runtime": "onnx", "file": ONNX_FILE, "sha256": weights_sha256}],
            "input": recipe.input,
            "output": BoxesOutput(min_score=0.02, nms_iou=0.1, max_lesions=20),
            "labels": [{**label, "lesion": point} for label in labels],
            "training": {
                **training,
                "films": len(scans),
                "patients": len({scan.case.patient for scan in scans}),
                "manifest_sha256": manifest_sha256,
            },
            "evaluation": evaluation or {"method": "not yet", "command": "none"},
        }
        return ModelCard.model_validate(whole)
    except KeyError as error:
        raise RecipeError(f"the draft of the card lacks the part {error}") from error
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'card'}: {fault['msg']}" for fault in error.errors()]
        raise RecipeError(f"the draft of the card: {len(faults)} fault(s)\n" + "\n".join(faults)) from error


def _counts(scores: Sequence[ScanScore], threshold: float) -> list[dict[str, object]]:
    """Counts for the card: no interval is given, because none would say anything."""
    lesions = sum(one.lesions for one in scores)
    on = f"{len(scores)} scan(s) of {len({one.patient for one in scores})} patient(s), {lesions} lesion(s)"
    found, wrong = (sum(getattr(one, name)(threshold) for one in scores) for name in ("found_at", "false_at"))
    return [
        {"name": "real lesions marked (count)", "value": float(found), "on": on},
        {"name": "marks on no lesion (count)", "value": float(wrong), "on": on},
    ]


def report(
    recipe: CtRecipe, card: ModelCard, scores: Sequence[ScanScore], parity: CtParity, manifest_sha256: str
) -> str:
    """The evaluation report in Markdown."""
    limits = "\n".join(f"* {limit.en}" for limit in card.limits)
    return f"""# {card.identity.title.en} {recipe.version}

Use: {card.identity.use}. {card.intended_use.statement.en}

## Counts on patients that the network had not seen

{card.evaluation.method}. A mark hits a lesion when its centre lies in the lesion's box or both overlap by
{recipe.judging.hit_iou:g}. At the served threshold of {recipe.judging.threshold:g}:

{table(scores, recipe.judging.threshold)}

These are counts, not an accuracy: nothing can be concluded from them about other patients.

## Proof of the exported file

{parity.tiles} real tiles through {", ".join(parity.runtimes)}: probabilities differ by at most
{parity.probability:.1e}, edges of boxes by at most {parity.voxels:.1e} voxels.

## Limits

{limits}

## Provenance

Data: manifest {manifest_sha256}. Recipe: {recipe.digest}. Repeat it with `{card.evaluation.command}`.
"""
