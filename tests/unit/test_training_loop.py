"""The training itself, on a few small films: it learns, it resumes exactly, and boxes follow the picture."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training_films import STILL, blob_films, recipe
from training.augment import Placement, augment, move_boxes
from training.detection import check
from training.errors import RecipeError, ResumeError
from training.loop import Progress, fit
from training.losses import Targets, centre_targets, losses
from training.network import STRIDE, Outputs
from training.recipe import EarlyStopping, read_recipe
from training.tasks import task_of

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on busy cores take minutes over what one does in seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_few_steps_lower_the_loss(tmp_path: Path) -> None:
    films, prepared = blob_films()
    seen: list[Progress] = []
    fit(
        recipe(epochs=5, augmentation=STILL),
        films,
        prepared,
        checkpoint=tmp_path / "a.pt",
        on_epoch=seen.append,
        pretrained=False,
    )
    assert [progress.epoch for progress in seen] == [1, 2, 3, 4, 5]
    assert seen[-1].centre < seen[0].centre
    assert seen[-1].edges < seen[0].edges


def test_a_training_that_was_cut_off_ends_with_the_same_weights(tmp_path: Path) -> None:
    films, prepared = blob_films()
    plan = recipe(epochs=3)
    whole = fit(plan, films, prepared, checkpoint=tmp_path / "whole.pt", pretrained=False).state_dict()
    fit(plan, films, prepared, checkpoint=tmp_path / "cut.pt", stop_after=1, pretrained=False)
    resumed = fit(plan, films, prepared, checkpoint=tmp_path / "cut.pt", pretrained=False).state_dict()
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_the_history_of_a_resumed_training_is_that_of_an_unbroken_one(tmp_path: Path) -> None:
    films, prepared = blob_films()
    plan = recipe(epochs=3)
    fit(plan, films, prepared, checkpoint=tmp_path / "whole.pt", pretrained=False)
    for epochs in (1, 2, 3):
        fit(plan, films, prepared, checkpoint=tmp_path / "cut.pt", stop_after=epochs, pretrained=False)
    whole = (tmp_path / "whole.history.jsonl").read_text()
    assert len(whole.splitlines()) == 3
    assert (tmp_path / "cut.history.jsonl").read_text() == whole
    (tmp_path / "cut.history.jsonl").unlink()  # a kill between the two files
    told: list[Progress] = []
    fit(plan, films, prepared, checkpoint=tmp_path / "cut.pt", on_epoch=told.append, pretrained=False)
    assert (tmp_path / "cut.history.jsonl").read_text() == whole
    assert [progress.epoch for progress in told] == [1, 2, 3]


def test_a_training_that_learns_no_better_stops_and_gives_its_best_weights(tmp_path: Path) -> None:
    films, prepared = blob_films(12, unread=None)
    stopping = EarlyStopping(patience_epochs=1, share=0.25)
    plan = recipe(epochs=30, augmentation=STILL, early_stopping=stopping)
    plan = plan.model_copy(update={"schedule": plan.schedule.model_copy(update={"head_rate": 0.3})})  # far too fast
    seen: list[Progress] = []
    best = fit(plan, films, prepared, checkpoint=tmp_path / "a.pt", on_epoch=seen.append, pretrained=False)
    said = [progress.validation for progress in seen]
    assert len(seen) < 30
    assert min(said) == said[-2] <= said[-1]
    until = len(seen) - 1
    fit(plan, films, prepared, checkpoint=tmp_path / "b.pt", stop_after=until, pretrained=False)
    again = fit(plan, films, prepared, checkpoint=tmp_path / "b.pt", pretrained=False)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in best.state_dict().items())


def test_nothing_is_held_back_from_a_training_that_never_stops_early(tmp_path: Path) -> None:
    films, prepared = blob_films()
    seen: list[Progress] = []
    fit(recipe(epochs=1), films, prepared, checkpoint=tmp_path / "a.pt", on_epoch=seen.append, pretrained=False)
    assert seen[0].validation is None


def test_a_damaged_checkpoint_is_refused_and_named(tmp_path: Path) -> None:
    films, prepared = blob_films()
    (tmp_path / "a.pt").write_bytes(b"half a file")
    with pytest.raises(ResumeError, match=r"a\.pt cannot be read.*remove it"):
        fit(recipe(epochs=1), films, prepared, checkpoint=tmp_path / "a.pt", pretrained=False)


def test_how_a_network_is_judged_may_be_settled_after_its_training(tmp_path: Path) -> None:
    films, prepared = blob_films()
    plan = recipe(epochs=1)
    fit(plan, films, prepared, checkpoint=tmp_path / "a.pt", pretrained=False)
    other = plan.network.model_copy(update={"mirror_axis": "vertical", "mirror_when_judged": False})
    judged = plan.model_copy(update={"network": other})
    assert judged.weights_digest == plan.weights_digest
    fit(judged, films, prepared, checkpoint=tmp_path / "a.pt", pretrained=False)
    wider = plan.model_copy(update={"network": plan.network.model_copy(update={"dropout": 0.9})})
    assert wider.weights_digest != plan.weights_digest


def test_changed_labels_are_other_films_to_a_checkpoint(tmp_path: Path) -> None:
    films, prepared = blob_films()
    fit(recipe(epochs=2), films, prepared, checkpoint=tmp_path / "a.pt", stop_after=1, pretrained=False)
    moved = [replace(film, boxes=()) if index == 0 else film for index, film in enumerate(films)]
    with pytest.raises(ResumeError, match="other films"):
        fit(recipe(epochs=2), moved, prepared, checkpoint=tmp_path / "a.pt", pretrained=False)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    films, prepared = blob_films()
    fit(recipe(epochs=2), films, prepared, checkpoint=tmp_path / "a.pt", stop_after=1, pretrained=False)
    with pytest.raises(ResumeError, match="another recipe"):
        fit(recipe(epochs=3), films, prepared, checkpoint=tmp_path / "a.pt", pretrained=False)


def test_boxes_follow_the_picture_also_where_it_is_not_square() -> None:
    picture, box = torch.zeros(8, 1, 96, 128), torch.tensor([[40.0, 30.0, 90.0, 70.0]])
    picture[:, :, 30:70, 40:90] = 1
    bounds = STILL.model_copy(update={"flip": 0.5, "shift": 0.05, "scale": 0.1})
    present = torch.ones(8, 1, dtype=torch.bool)
    moved, boxes, _ = augment(picture, box.expand(8, 1, 4), present, bounds, torch.Generator().manual_seed(1))
    for one, (x_min, y_min, x_max, y_max) in zip(moved[:, 0], boxes[:, 0].tolist(), strict=True):
        rows, columns = (one > 0.5).nonzero(as_tuple=True)
        assert (columns.min().item(), rows.min().item()) == (
            pytest.approx(x_min, abs=1.5),
            pytest.approx(y_min, abs=1.5),
        )
        assert (columns.max().item() + 1, rows.max().item() + 1) == (
            pytest.approx(x_max, abs=1.5),
            pytest.approx(y_max, abs=1.5),
        )


def test_the_middle_of_a_box_turns_with_the_picture() -> None:
    picture, box = torch.zeros(1, 1, 96, 128), torch.tensor([[[80.0, 20.0, 92.0, 32.0]]])
    picture[:, :, 20:32, 80:92] = 1
    bounds = STILL.model_copy(update={"rotation_degrees": 40.0})
    for seed in range(6):
        random = torch.Generator().manual_seed(seed)
        moved, boxes, _ = augment(picture, box, torch.ones(1, 1, dtype=torch.bool), bounds, random)
        rows, columns = (moved[0, 0] > 0.5).nonzero(as_tuple=True)
        x_min, y_min, x_max, y_max = boxes[0, 0].tolist()
        assert columns.float().mean().item() + 0.5 == pytest.approx((x_min + x_max) / 2, abs=1.0)
        assert rows.float().mean().item() + 0.5 == pytest.approx((y_min + y_max) / 2, abs=1.0)


def test_a_box_that_leaves_the_picture_is_no_longer_shown() -> None:
    away = Placement(shift_x=95.0)
    _, present = move_boxes(torch.tensor([[10.0, 10.0, 90.0, 90.0]]), torch.ones(1, dtype=torch.bool), away, 100, 100)
    assert not present.any()


def targets(boxes: list[list[float]]) -> Targets:
    return Targets(
        boxes=torch.tensor([boxes]),
        present=torch.ones(1, len(boxes), dtype=torch.bool),
        picture=torch.ones(1, 1),
        weight=torch.ones(1),
        findings=torch.zeros(1, 2),
    )


def test_the_right_answer_costs_less_than_a_shifted_one() -> None:
    truth = targets([[32.0, 32.0, 112.0, 96.0]])
    bell, _ = centre_targets(truth, 10, 10)
    assert bell.max() == pytest.approx(1.0)
    logits = torch.where(bell > 0.5, 4.0, -6.0)[:, None]
    y, x = torch.meshgrid((torch.arange(10) + 0.5) * STRIDE, (torch.arange(10) + 0.5) * STRIDE, indexing="ij")
    ltrb = torch.stack([x - 32, y - 32, 112 - x, 96 - y])[None]
    right = losses(Outputs(logits, ltrb, torch.full((1, 1), 4.0)), torch.zeros(1, 2), truth)
    wrong = losses(Outputs(logits.roll(4, dims=3), ltrb + 16, torch.full((1, 1), -4.0)), torch.zeros(1, 2), truth)
    assert right.edges == pytest.approx(0.0, abs=1e-4)
    assert all(one < other for one, other in zip(right[:3], wrong[:3], strict=True))


def test_the_shipped_recipes_are_in_order() -> None:
    recipes = [path for path in RECIPES.glob("*.toml") if not path.name.endswith((".card.toml", ".dataset.toml"))]
    flat = [path for path in recipes if tomllib.loads(path.read_text()).get("task", "detection-2d") == "detection-2d"]
    assert len(flat) >= 2
    for path in flat:
        check(read_recipe(path))
        assert read_recipe(path).folds >= 3
    for path in recipes:
        assert callable(task_of(path))
        assert path.with_suffix(".card.toml").is_file()


def test_a_recipe_tells_all_its_faults_at_once(tmp_path: Path) -> None:
    text = (RECIPES / "chest_opacity.toml").read_text().replace("epochs = ", "epoch = ").replace("= 384", "= 390")
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError) as raised:
        read_recipe(tmp_path / "r.toml")
    assert "schedule.epochs" in str(raised.value)
    assert "schedule.epoch:" in str(raised.value)
