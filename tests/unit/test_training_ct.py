"""The three-dimensional detector: what it is shown, that it resumes and repeats, and that its file says the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import Engine, EngineSettings, StudyInput
from inference.outputs.seen import logit
from inference.volumes.merge import Place
from models.card import Use
from models.registry import installed_models
from tests.conftest import PROJECT
from tests.ct_phantoms import Ellipsoid, rendered, write_series
from training.ct.boxes_csv import read_cases
from training.ct.export import ONNX_FILE, export, prove_parity
from training.ct.grids import PreparedScan, prepare
from training.ct.loop import fit
from training.ct.network import Served, detector
from training.ct.nodules import draw, lung_mask, put
from training.ct.patches import patch
from training.ct.recipe import CtRecipe, Synthesis, read_recipe
from training.ct.release import draft_card
from training.ct.score import hit, score
from training.ct.train import check_splits, deal
from training.errors import DataError, ExportError, RecipeError, ResumeError, SplitError
from training.train import command

RECIPES = PROJECT / "training" / "recipes"
SPACING_MM = (2.0, 1.5, 1.5)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:monai.*", "ignore::FutureWarning:monai.*")


def small(recipe: CtRecipe) -> CtRecipe:
    """The recipe of the zoo made so small that it trains in seconds."""
    changes = recipe.model_dump()
    changes["name"] = "tiny-nodule"
    changes["data"] |= {"folders": ["."]}
    changes["input"] |= {"spacing_mm": (2.0, 2.0, 2.0), "tile": (16, 24, 24)}
    changes["network"] |= {"channels": 8, "boxes_per_tile": 8}
    changes["schedule"] |= {"epochs": 2, "steps_per_epoch": 2, "batch_size": 2}
    return CtRecipe.model_validate(changes)


@pytest.fixture(scope="module")
def recipe() -> CtRecipe:
    return small(read_recipe(RECIPES / "lung_nodule_demo.toml"))


def chest(seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """A body with two lungs in it, one with a nodule, and noise."""
    y, x = np.mgrid[0:64, 0:64]
    plane = np.full((64, 64), -1000.0)
    plane[((x - 32) / 31) ** 2 + ((y - 32) / 29) ** 2 < 1] = 30
    for middle in (19, 45):
        plane[((x - middle) / 12) ** 2 + ((y - 32) / 20) ** 2 < 1] = -850
    lesion = Ellipsoid(center=(10.0, 32.0, 19.0), half_axes_mm=(7.0, 7.0, 7.0))
    part = rendered((20, 64, 64), SPACING_MM, [lesion])
    whole = np.repeat(plane[np.newaxis], 20, axis=0) * (1 - part) + 40 * part
    return whole + np.random.default_rng(seed).normal(0, 20, whole.shape)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    rows = ["path,patient,xmin,ymin,xmax,ymax"]
    for number in range(3):
        home = folder / f"P{number}" / "s"
        slices = write_series(home, chest(number), SPACING_MM, SeriesInstanceUID=f"1.2.3.{number}")
        rows += [f"{path.relative_to(folder)},P{number},15,28,22,35" for path in slices[7:13]]
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def scans(data: Path, recipe: CtRecipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedScan, ...]:
    kept = tmp_path_factory.mktemp("grids")
    first = prepare(read_cases(data), recipe.input, smallest_mm=3.0, folder=kept)
    times = {file: file.stat().st_mtime_ns for file in kept.iterdir()}
    again = prepare(read_cases(data), recipe.input, smallest_mm=3.0, folder=kept)
    assert {file: file.stat().st_mtime_ns for file in kept.iterdir()} == times
    assert [one.digest for one in first] == [one.digest for one in again]
    return again


# what is shown --------------------------------------------------------------------------------------------------------


def test_the_lung_mask_is_the_air_inside_the_body(scans: tuple[PreparedScan, ...], recipe: CtRecipe) -> None:
    voxels = np.asarray(scans[0].voxels, dtype=np.float32)
    mask = lung_mask(voxels, recipe.input)
    assert not mask[:, 0].any()
    assert 0.1 < mask.mean() < 0.4
    assert voxels[mask].max() < 0.45


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_a_synthesised_nodule_lies_in_its_box_and_brightens_only_there(seed: int) -> None:
    recipe = read_recipe(RECIPES / "lung_nodule_demo.toml")
    random = np.random.default_rng(seed)
    how = Synthesis(smallest_mm=4.0, largest_mm=20.0)
    before = np.full((40, 40, 40), 0.1, dtype=np.float32)
    nodule = draw(np.full(3, 20.0) + random.random(3), (40, 40, 40), recipe.input, how, random)
    assert nodule is not None
    after = before.copy()
    put(after, nodule)
    assert (after >= before - 1e-6).all()
    half = (0.1 + nodule.value) / 2
    places = np.argwhere(after >= half)
    assert (places.min(axis=0) == nodule.box[0]).all()
    assert (places.max(axis=0) + 1 == nodule.box[1]).all()
    sides_mm = (nodule.box[1] - nodule.box[0]) * recipe.input.spacing_mm
    assert 1.0 < sides_mm.max() < 20.0 * 1.4 * 1.4 + 2.5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_boxes_of_a_patch_hold_what_is_denser_than_lung(
    seed: int, scans: tuple[PreparedScan, ...], recipe: CtRecipe
) -> None:
    shown = patch(scans, recipe, np.random.default_rng(seed))
    again = patch(scans, recipe, np.random.default_rng(seed))
    assert (shown.voxels == again.voxels).all()
    assert shown.voxels.shape == (1, *recipe.input.tile)
    windowed = shown.voxels[0] * recipe.input.std + recipe.input.mean
    for box in shown.boxes:
        low, high = box[:3], box[3:]
        assert (low < high).all()
        assert (low >= 0).all()
        assert (high <= recipe.input.tile).all()
        z, y, x = (slice(int(np.floor(a)), int(np.ceil(b))) for a, b in zip(low, high, strict=True))
        assert windowed[z, y, x].max() > 0.15


# training -------------------------------------------------------------------------------------------------------------


def test_a_training_that_was_cut_off_resumes_to_the_same_weights_and_history(
    scans: tuple[PreparedScan, ...], recipe: CtRecipe, tmp_path: Path
) -> None:
    whole = fit(recipe, scans, checkpoint=tmp_path / "whole.pt")
    fit(recipe, scans, checkpoint=tmp_path / "cut.pt", stop_after=1)
    resumed = fit(recipe, scans, checkpoint=tmp_path / "cut.pt")
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)
    histories = [(tmp_path / f"{name}.history.jsonl").read_text() for name in ("whole", "cut")]
    assert histories[0] == histories[1]
    assert len(histories[0].splitlines()) == 2


def test_a_checkpoint_of_another_recipe_is_refused(
    scans: tuple[PreparedScan, ...], recipe: CtRecipe, tmp_path: Path
) -> None:
    fit(recipe, scans, checkpoint=tmp_path / "a.pt", stop_after=1)
    other = recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"rate": 0.01})})
    with pytest.raises(ResumeError, match="another recipe or from other scans"):
        fit(other, scans, checkpoint=tmp_path / "a.pt")
    with pytest.raises(ResumeError, match="other scans"):
        fit(recipe, scans[:2], checkpoint=tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ResumeError, match="cannot be read"):
        fit(recipe, scans, checkpoint=tmp_path / "a.pt")
    with pytest.raises(DataError, match="no scan is left"):
        fit(recipe, [], checkpoint=tmp_path / "b.pt")


def test_the_served_graph_gives_the_boxes_that_monai_decodes(recipe: CtRecipe) -> None:
    torch.manual_seed(3)
    made = detector(recipe).eval()
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    tiles = torch.randn(2, 1, *recipe.input.tile)
    made.set_box_selector_parameters(
        score_thresh=0.0, topk_candidates_per_level=8, nms_thresh=1.0, detections_per_img=64
    )
    with torch.inference_mode():
        boxes, scores = Served(made, recipe).eval()(tiles)
        expected = made(tiles)
    for index, theirs in enumerate(expected):
        best = int(theirs["labels_scores"].argmax())
        assert scores[index, 0] == pytest.approx(float(theirs["labels_scores"][best]), abs=1e-5)
        x_first = theirs["boxes"][best][[2, 1, 0, 5, 4, 3]]
        sides = torch.tensor([*recipe.input.tile[::-1]] * 2, dtype=torch.float32)
        clipped = torch.minimum(boxes[index, 0].clamp(min=0), sides)  # MONAI clips to the tile
        assert torch.allclose(clipped, x_first, atol=1e-3)


def test_the_written_file_says_what_the_network_says_and_another_network_is_noticed(
    scans: tuple[PreparedScan, ...], recipe: CtRecipe, tmp_path: Path
) -> None:
    served = Served(fit(recipe, scans, checkpoint=tmp_path / "a.pt", stop_after=1), recipe).eval()
    export(served, tmp_path, recipe.input.tile)
    random = np.random.default_rng(0)
    tiles = np.stack([patch(scans, recipe, random).voxels for _ in range(6)])
    parity = prove_parity(served, tmp_path, tiles)
    assert parity.probability < 1e-4
    assert parity.voxels < 0.1
    assert str(tmp_path).encode() not in (tmp_path / ONNX_FILE).read_bytes()
    with torch.no_grad():
        next(served.network.classification_head.parameters()).add_(0.5)
    with pytest.raises(ExportError, match="differs from the trained one"):
        prove_parity(served, tmp_path, tiles)


# judging --------------------------------------------------------------------------------------------------------------


def place(low: tuple[float, ...], high: tuple[float, ...]) -> Place:
    return Place(label_index=0, low=np.asarray(low), high=np.asarray(high), logit=float(logit(np.asarray(0.7))))


def test_a_mark_hits_by_its_centre_or_by_overlap() -> None:
    low, high = np.asarray([10.0, 10.0, 10.0]), np.asarray([20.0, 20.0, 20.0])
    assert hit(place((14, 14, 14), (16, 16, 16)), low, high, 0.1)
    assert hit(place((10, 10, 15), (20, 20, 30)), low, high, 0.2)
    assert not hit(place((10, 10, 19), (20, 20, 40)), low, high, 0.1)


def test_every_patient_is_left_out_once_and_none_is_parted(scans: tuple[PreparedScan, ...]) -> None:
    splits = deal(scans, 0)
    assert splits.folds == 3
    assert sorted(splits.fold_of.values()) == [0, 1, 2]
    with pytest.raises(SplitError, match="cannot be dealt into 5 folds"):
        deal(scans, 5)
    with pytest.raises(SplitError, match="cannot be dealt"):
        deal(scans[:1], 0)
    with pytest.raises(SplitError, match="no fold"):
        check_splits(deal(scans[:2], 0), scans)


def test_scores_count_lesions_and_false_marks(
    scans: tuple[PreparedScan, ...], recipe: CtRecipe, tmp_path: Path
) -> None:
    card = draft_card(recipe, RECIPES / "lung_nodule_demo.card.toml")
    assert card.identity.use is Use.DEMONSTRATION
    trained = fit(recipe, scans, checkpoint=tmp_path / "a.pt", stop_after=1)
    said = score(trained, scans[0], recipe, card)
    assert said.lesions == 1
    assert said.found_at(0.0) == 1
    assert said.found_at(1.1) == said.false_at(1.1) == 0
    assert said.litres == pytest.approx(20 * 64 * 64 * np.prod(SPACING_MM) / 1e6, rel=0.05)


# the command ----------------------------------------------------------------------------------------------------------


def recipe_file(folder: Path, recipe: CtRecipe) -> Path:
    from training.toml import to_toml

    file = folder / "tiny.toml"
    file.write_text(to_toml(recipe.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    shutil.copy(RECIPES / "lung_nodule_demo.card.toml", folder / "tiny.card.toml")
    return file


def test_one_command_makes_a_model_that_the_engine_serves(data: Path, recipe: CtRecipe, tmp_path: Path) -> None:
    arguments = [str(recipe_file(tmp_path, recipe)), "--data", str(data), "--out", str(tmp_path / "run")]
    arguments += ["--zoo", str(tmp_path / "zoo"), "--tracking", str(tmp_path / "records")]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    kept = [path for path in (tmp_path / "records").rglob("*") if path.is_file()]
    assert {"mlflow.db", "card.toml", "EVALUATION.md", "audit.json"} <= {path.name for path in kept}
    (model,) = installed_models([tmp_path / "zoo"]).models.values()
    assert model.card.identity.use is Use.DEMONSTRATION
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert (audit["scans"], audit["patients"], audit["lesions"]) == (3, 3, 3)
    report = (model.folder / "EVALUATION.md").read_text()
    assert "counts, not an accuracy" in report
    engine = Engine([model], settings=EngineSettings(network_threads=1, device="cpu"))
    images = tuple(sorted((data / "P0" / "s").glob("*.dcm")))
    analysis = engine.submit(model.card.reference, StudyInput(study_uid="1.2", images=images)).result(60)
    engine.close()
    assert analysis.findings is not None
    weights = (model.folder / "model.onnx").read_bytes()
    again = CliRunner().invoke(command, arguments)  # all is kept: nothing is trained, the same is written
    assert again.exit_code == 0, again.output
    assert (tmp_path / "run" / "mlflow-runs.json").is_file()
    assert (model.folder / "model.onnx").read_bytes() == weights


def test_what_people_get_wrong_is_told_in_one_line(data: Path, recipe: CtRecipe, tmp_path: Path) -> None:
    good = recipe_file(tmp_path, recipe)
    text = good.read_text()

    def said(changed: str, folder: Path = data) -> str:
        good.write_text(changed)
        arguments = [str(good), "--data", str(folder), "--out", str(tmp_path / "run"), "--tracking", "off"]
        done = CliRunner().invoke(command, [*arguments, "--stage", "audit"])
        assert done.exit_code == 1
        return done.output

    assert "chanels: Extra inputs are not permitted" in said(text.replace("channels = 8", "chanels = 8"))
    assert "tile sides must be multiples of 8" in said(text.replace("[16, 24, 24]", "[16, 24, 20]"))
    assert "is not a folder; docs/howto/ct.md" in said(text, tmp_path / "nowhere")


def test_a_draft_without_a_part_is_refused(recipe: CtRecipe, tmp_path: Path) -> None:
    draft = (RECIPES / "lung_nodule_demo.card.toml").read_text()
    (tmp_path / "a.card.toml").write_text(draft.replace('key = "nodule"', 'key = "mass"'))
    with pytest.raises(RecipeError, match="labels must be those of the recipe"):
        draft_card(recipe, tmp_path / "a.card.toml")
    (tmp_path / "a.card.toml").write_text(draft.partition("[training]")[0])
    with pytest.raises(RecipeError, match="lacks the part 'training'"):
        draft_card(recipe, tmp_path / "a.card.toml")
