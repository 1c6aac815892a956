"""Training of a three-dimensional detector, stage by stage: audit, split, folds, refit, report.

The task ``detection-3d`` of `training.tasks`. Each stage keeps its result in the out folder and reads what an earlier
call left; a checkpoint made from another recipe or other scans is refused, not mixed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from models.card import ModelCard, read_card
from training.ct.grids import PreparedScan, manifest_digest, prepare
from training.ct.loop import CtProgress, fit
from training.ct.readers import read_set
from training.ct.recipe import CtRecipe, read_recipe
from training.ct.release import draft_card, release
from training.ct.score import ScanScore, score
from training.data import ImageName
from training.errors import ResumeError, SplitError
from training.files import write_whole
from training.release import CARD_FILE, FIGURES_FILE, PARITY_FILE, REPORT_FILE
from training.several import Processes
from training.splits import SPLITS_FILE, Splits, write_splits
from training.tasks import Options, Stage
from training.tracking import Part, Told, Tracking, open_tracking


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """What every stage needs."""

    recipe: CtRecipe
    scans: tuple[PreparedScan, ...]
    splits: Splits
    out: Path

    @property
    def manifest_sha256(self) -> str:
        """Digest of the list of scans and of their files' digests."""
        return manifest_digest({scan.case.name: scan.digest for scan in self.scans})


def run(recipe_file: Path, options: Options, processes: Processes) -> Path | None:
    """Run the stages asked for; see `training.tasks.Task`. Several processes are of no use here: the first works."""
    if processes.rank > 0:
        return None
    recipe = read_recipe(recipe_file)
    draft = recipe_file.with_suffix(".card.toml")
    card = draft_card(recipe, draft) if options.wants(Stage.FOLD) or options.wants(Stage.REPORT) else None
    shop = open_workshop(recipe, options)
    if not any(options.wants(stage) for stage in (Stage.FOLD, Stage.REFIT, Stage.REPORT)):
        return None
    told = Told.of(shop.recipe, shop, processes)
    with open_tracking(options.tracking, told, shop.out, say=partial(click.echo, err=True)) as tracking:
        return _train(shop, card, draft, recipe_file, options, tracking)


def _train(
    shop: Workshop, card: ModelCard | None, draft: Path, recipe_file: Path, options: Options, tracking: Tracking
) -> Path | None:
    recipe = shop.recipe
    if options.wants(Stage.FOLD):
        assert card is not None
        for fold in options.folds or range(shop.splits.folds):
            if not 0 <= fold < shop.splits.folds:
                raise SplitError(f"there is no fold {fold}: the split has {shop.splits.folds}")
            with tracking.part(f"fold-{fold}") as part:
                run_fold(shop, fold, card, part)
    if not (options.wants(Stage.REFIT) or options.wants(Stage.REPORT)):
        return None
    with tracking.part("refit") as part:
        network = fit(recipe, shop.scans, checkpoint=shop.out / "refit.pt", on_epoch=_told("refit", part))
    if not options.wants(Stage.REPORT):
        return None
    assert card is not None
    scores = [read_scores(shop, fold) for fold in range(shop.splits.folds)]
    folder = release(
        recipe,
        network,
        shop.scans,
        [one for fold in scores for one in fold],
        draft_file=draft,
        command=f"radnode train {recipe_file.name} --data FOLDER",
        manifest_sha256=shop.manifest_sha256,
        split_digest=shop.splits.digest,
        zoo=options.zoo,
        replace=options.replace,
    )
    written = [folder / name for name in (CARD_FILE, REPORT_FILE, PARITY_FILE, FIGURES_FILE)]
    files = [*written, shop.out / "audit.json", shop.out / SPLITS_FILE]
    tracking.keep(read_card(folder / CARD_FILE), folder, files, [scan.case.name for scan in shop.scans])
    return folder


def _told(name: str, part: Part) -> Callable[[CtProgress], None]:
    def tell(progress: CtProgress) -> None:
        part.epoch({"score": progress.score, "box": progress.box, "rate": progress.rate})
        line = f"{name}: scores {progress.score:.3f} boxes {progress.box:.3f} ({progress.epoch}/{progress.epochs})"
        click.echo(line, err=True)

    return tell


def open_workshop(recipe: CtRecipe, options: Options) -> Workshop:
    """Read the set, bring scans to the model's grid, deal patients into folds, write the audit.

    Raises
    ------
    TrainingError
        If the recipe or the data folder is not in order, or the out folder holds another run.
    """
    cases = read_set(recipe.data, options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        for pattern in ("fold-*.pt", "refit.pt", "*.history.jsonl", "fold-*.json", SPLITS_FILE):
            for file in options.out.glob(pattern):
                file.unlink()
    scans = prepare(cases, recipe.input, smallest_mm=recipe.data.smallest_mm, folder=options.out / "grids")
    splits = deal(scans, recipe.folds)
    stored = options.splits or options.out / SPLITS_FILE
    if stored.exists():
        kept = json.loads(stored.read_text(encoding="utf-8"))
        if kept.get("fold_of") != dict(sorted(splits.fold_of.items())) and options.splits is None:
            raise ResumeError(f"{stored} is of other scans or folds; take another --out, or run with --anew")
        splits = Splits(folds=int(kept["folds"]), seed=int(kept["seed"]), fold_of=dict(kept["fold_of"]))
        check_splits(splits, scans)
    write_splits(splits, options.out / SPLITS_FILE)
    write_whole(options.out / "audit.json", json.dumps(audit(scans, recipe), indent=1) + "\n")
    return Workshop(recipe=recipe, scans=scans, splits=splits, out=options.out)


def deal(scans: Sequence[PreparedScan], folds: int) -> Splits:
    """Patients in turn into folds, those with most lesions first; with 0 folds each patient is his own.

    Raises
    ------
    SplitError
        If there are fewer patients than folds, or only one.
    """
    lesions: dict[str, int] = {}
    for scan in scans:
        lesions[scan.case.patient] = lesions.get(scan.case.patient, 0) + len(scan.boxes)
    count = folds or len(lesions)
    if len(lesions) < max(count, 2):
        raise SplitError(f"{len(lesions)} patient(s) cannot be dealt into {max(count, 2)} folds")
    order = sorted(lesions) if not folds else sorted(lesions, key=lambda patient: (-lesions[patient], patient))
    fold_of = {patient: index % count for index, patient in enumerate(order)}
    return Splits(folds=count, seed=0, fold_of={_name(scan): fold_of[scan.case.patient] for scan in scans})


def _name(scan: PreparedScan) -> ImageName:
    """A scan's name in a split, which calls what it deals images."""
    return ImageName(scan.case.name)


def check_splits(splits: Splits, scans: Sequence[PreparedScan]) -> None:
    """Hold a split against the scans.

    Raises
    ------
    SplitError
        If a scan has no fold or a patient is in two; scans are named, patients are not.
    """
    if missing := [scan.case.name for scan in scans if _name(scan) not in splits.fold_of]:
        raise SplitError(f"the split gives {len(missing)} scan(s) no fold, the first is {missing[0]}")
    fold_of: dict[str, int] = {}
    for scan in scans:
        fold = splits.fold_of[_name(scan)]
        if fold_of.setdefault(scan.case.patient, fold) != fold:
            raise SplitError(f"the split parts a patient: scan {scan.case.name} lies in another fold than his others")


def audit(scans: Sequence[PreparedScan], recipe: CtRecipe) -> dict[str, object]:
    """What the set holds, in numbers."""
    sides = [(box[1] - box[0]) * np.asarray(recipe.input.spacing_mm) for scan in scans for box in scan.boxes]
    largest = sorted(round(float(side.max()), 1) for side in sides)
    return {
        "scans": len(scans),
        "patients": len({scan.case.patient for scan in scans}),
        "lesions": len(sides),
        "scans_without_lesions": sum(not len(scan.boxes) for scan in scans),
        "longest_sides_mm": largest,
        "scans_without_lung": [scan.case.name for scan in scans if not len(scan.lung)],
        "grids": {scan.case.name: list(scan.voxels.shape) for scan in scans},
    }


def run_fold(shop: Workshop, fold: int, card: ModelCard, part: Part) -> None:
    """Train on all other folds and score the scans of this one, unless that is kept already."""
    kept = shop.out / f"fold-{fold}.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8"))["weights_digest"] == shop.recipe.weights_digest:
        return
    others = [scan for scan in shop.scans if shop.splits.fold_of[_name(scan)] != fold]
    own = [scan for scan in shop.scans if shop.splits.fold_of[_name(scan)] == fold]
    network = fit(shop.recipe, others, checkpoint=shop.out / f"fold-{fold}.pt", on_epoch=_told(f"fold {fold}", part))
    scores = [asdict(score(network, scan, shop.recipe, card)) for scan in own]
    content = {"weights_digest": shop.recipe.weights_digest, "scores": scores}
    write_whole(kept, json.dumps(content, indent=1) + "\n")


def read_scores(shop: Workshop, fold: int) -> list[ScanScore]:
    """What `run_fold` kept.

    Raises
    ------
    ResumeError
        If the fold was not run, or under another recipe.
    """
    kept = shop.out / f"fold-{fold}.json"
    if not kept.exists():
        raise ResumeError(f"fold {fold} was not scored yet: run it first (--stage fold --fold {fold})")
    content = json.loads(kept.read_text(encoding="utf-8"))
    if content["weights_digest"] != shop.recipe.weights_digest:
        raise ResumeError(f"{kept.name} was made under another recipe; run with --anew")
    return [
        ScanScore(
            **{
                **one,
                "scores_of_found": tuple(one["scores_of_found"]),
                "scores_of_false": tuple(one["scores_of_false"]),
            }
        )
        for one in content["scores"]
    ]
