"""``radnode train`` on twenty real films: the whole way in seconds, twice the same figures, and clear refusals."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

from eval.contamination import training_list_of
from eval.runs import file_sha256, read_run
from inference.engine import Engine, EngineSettings, StudyInput
from models.card import read_card
from models.registry import installed_models
from tests.dx_wrapping import wrap_film_as_dx
from tests.training_films import chest_subset
from training.train import command

pytestmark = pytest.mark.timeout(
    900
)  # a machine that is busy with other trainings takes minutes over what else takes one
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "tiny_chest.toml"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def films(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chest_subset(shared_data / "chest_xray_nih", tmp_path_factory.mktemp("films") / "chest")


def train(recipe: Path, data: Path, out: Path, *more: str) -> Result:
    arguments = [str(recipe), "--data", str(data), "--out", str(out), "--zoo", str(out.parent / "zoo"), *more]
    if "--tracking" not in more:
        arguments += ["--tracking", "off"]
    return CliRunner().invoke(command, arguments)


@contextmanager
def no_connections() -> Iterator[list[object]]:
    """Whoever connects anywhere but within this machine is told no, and remembered."""
    asked: list[object] = []
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family is socket.AF_UNIX:
            connect(self, address)  # type: ignore[arg-type]
            return
        asked.append(address)
        raise OSError("this test has no network")

    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    try:
        yield asked
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def trained(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder below which a whole run lies: out, zoo, records."""
    folder = tmp_path_factory.mktemp("first")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with no_connections() as asked:
        ended = train(RECIPE, films, folder / "out", "--tracking", str(folder / "records"))
    torch.set_num_threads(before)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.strip() == str(folder / "zoo" / "tiny-chest" / "0.0.1")
    assert asked == []
    return folder


def test_twenty_films_become_a_model_and_the_same_figures_twice(trained: Path, films: Path, tmp_path: Path) -> None:
    again = train(RECIPE, films, tmp_path / "out")
    assert again.exit_code == 0, again.output
    one, other = (
        json.loads((folder / "zoo" / "tiny-chest" / "0.0.1" / "evaluation.json").read_text())
        for folder in (trained, tmp_path)
    )
    assert one["figures"] == other["figures"]
    assert one["folds"] == other["folds"]
    for name in ("predictions.csv", "marks.csv"):
        files = [folder / "zoo" / "tiny-chest" / "0.0.1" / name for folder in (trained, tmp_path)]
        assert files[0].read_bytes() == files[1].read_bytes()
    for name in ("fold-0", "fold-1", "refit"):
        histories = [(folder / "out" / f"{name}.history.jsonl").read_text() for folder in (trained, tmp_path)]
        assert histories[0] == histories[1]
        assert len(histories[0].splitlines()) == 3


def test_what_is_written_into_the_zoo_is_a_model_that_a_node_runs(trained: Path, films: Path, tmp_path: Path) -> None:
    inventory = installed_models([trained / "zoo"])
    assert inventory.faults == ()
    wrapped = tmp_path / "film.dcm"
    wrap_film_as_dx(sorted((films / "images").iterdir())[0], patient_id="1").save_as(wrapped)
    engine = Engine(list(inventory.models.values()), settings=EngineSettings(network_threads=1))
    try:
        study = StudyInput(study_uid="1.2.3", images=(wrapped,))
        analysis = engine.submit("tiny-chest@0.0.1", study).result(60)
    finally:
        engine.close()
    assert engine.faults == {}
    assert analysis.findings is not None or analysis.refusal is not None  # twenty films make a strict guard
    folder = trained / "zoo" / "tiny-chest" / "0.0.1"
    card = read_card(folder / "card.toml")
    assert card.training.films == 20
    assert card.guard is not None
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["films"] == 18
    assert all(off["probability"] < 1e-4 and off["pixels"] < 0.1 for off in parity["runtimes"].values())
    assert sorted(path.name for path in (trained / "zoo").iterdir()) == ["tiny-chest"]


def test_the_records_tell_of_each_fold_and_name_no_film(trained: Path, films: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{trained / 'records' / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tiny-chest")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"tiny-chest 0.0.1", "fold-0", "fold-1", "refit"}
    parent = runs["tiny-chest 0.0.1"]
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert runs["fold-0"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert len(client.get_metric_history(runs["fold-1"].info.run_id, "train/centre")) == 3
    assert parent.data.params["schedule.epochs"] == "3"
    assert {"git_commit", "data_manifest_sha256", "split_digest", "hardware", "seed"} <= set(parent.data.tags)
    assert "val/AUROC opacity vs normal" in parent.data.metrics
    kept = [path for path in (trained / "records").rglob("*") if path.is_file()]
    assert {"losses.png", "roc-froc.png", "audit.json", "splits.json", "card.toml"} <= {path.name for path in kept}
    assert any(path.name.endswith(".onnx") for path in kept)
    assert any(path.name.startswith(("found-", "missed-")) for path in kept)
    names = [path.name.encode() for path in (films / "images").iterdir()]
    for path in kept:
        content = path.read_bytes()
        assert not any(name in content or name.decode() in path.name for name in names), path.name


def test_a_data_sets_file_beside_the_recipe_makes_the_folds_a_run_for_evaluation(
    trained: Path, films: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "out", tmp_path / "out")
    for end in (".toml", ".card.toml"):
        shutil.copy(RECIPE.with_suffix(end), tmp_path)
    dataset = RECIPE.parents[2] / "training" / "recipes" / "chest_opacity.dataset.toml"
    shutil.copy(dataset, tmp_path / "tiny_chest.dataset.toml")
    ended = train(tmp_path / RECIPE.name, films, tmp_path / "out", "--stage", "report")
    assert ended.exit_code == 0, ended.output
    made = read_run(tmp_path / "out" / "evaluation-run")
    card = read_card(tmp_path / "zoo" / "tiny-chest" / "0.0.1" / "card.toml")
    assert made.record.model_digest == card.model_digest
    figure = next(one for one in card.evaluation.figures if one.name.startswith("film sensitivity (thresholds from"))
    positive = [case for case in made.judged if case.positive]
    called = sum((case.score or 0) >= made.threshold(case) for case in positive)
    assert figure.value == pytest.approx(called / len(positive), abs=5e-4)
    assert {case.fold for case in made.cases} == {0, 1}


def test_a_released_model_names_what_it_learnt_from(trained: Path, films: Path) -> None:
    (model,) = installed_models([trained / "zoo"]).models.values()
    known = training_list_of(model)
    assert known is not None
    assert all(known.knows(path, file_sha256(path)) for path in (films / "images").iterdir())


def test_a_finished_run_is_not_trained_again_and_its_records_are_not_begun_anew(trained: Path, films: Path) -> None:
    from mlflow import MlflowClient

    records = trained / "records"
    client = MlflowClient(tracking_uri=f"sqlite:///{records / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny-chest").experiment_id
    before = len(client.search_runs([experiment]))
    checkpoints = {path: path.stat().st_mtime_ns for path in (trained / "out").glob("*.pt")}
    assert len(checkpoints) == 3
    arguments = ["--stage", "fold", "--stage", "refit", "--tracking", str(records)]
    assert train(RECIPE, films, trained / "out", *arguments).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in checkpoints} == checkpoints
    assert len(client.search_runs([experiment])) == before


def refused(recipe: Path, data: Path, out: Path, *more: str) -> str:
    """What the command says when it refuses; it must leave no half-written file."""
    ended = train(recipe, data, out, *more)
    assert ended.exit_code == 1, ended.output
    assert ended.exception is None or isinstance(ended.exception, SystemExit)
    assert "Traceback" not in ended.output
    assert not list(out.parent.rglob("*.partial"))
    assert not list((out.parent / "zoo").glob("*"))
    return " ".join(ended.stderr.split())


def copied(films: Path, target: Path) -> Path:
    """A copy of the films whose tables and pictures may be spoilt."""
    shutil.copytree(films, target, symlinks=True)
    return target


def test_unknown_keys_of_a_recipe_are_all_named(films: Path, tmp_path: Path) -> None:
    text = RECIPE.read_text().replace("epochs =", "epoch =").replace("flip =", "flop =")
    (tmp_path / "r.toml").write_text(text + "\n[views]\nkind = 'film'\nzoom = 3\n")
    said = refused(tmp_path / "r.toml", films, tmp_path / "out")
    assert all(
        key in said for key in ("schedule.epoch:", "schedule.epochs:", "augmentation.flop:", "augmentation.flip:")
    )
    (tmp_path / "r.toml").write_text(RECIPE.read_text() + "\n[views]\nkind = 'film'\nzoom = 3\n")
    assert "views.zoom" in refused(tmp_path / "r.toml", films, tmp_path / "out")
    (tmp_path / "r.toml").write_text("task = 'poetry'\n")
    assert "there is no 'poetry'; there are detection-2d" in refused(tmp_path / "r.toml", films, tmp_path / "out")
    (tmp_path / "r.toml").write_text(RECIPE.read_text().replace("nih-chest", "none-such"))
    assert "no reader is called 'none-such'" in refused(tmp_path / "r.toml", films, tmp_path / "out")


def test_pictures_without_labels_are_refused_by_name_unless_the_recipe_lets_them_be(
    films: Path, tmp_path: Path
) -> None:
    data = copied(films, tmp_path / "data")
    shutil.copy(next((films / "images").iterdir()).resolve(), data / "images" / "stray.jpg")
    said = refused(RECIPE, data, tmp_path / "out")
    assert "1 picture(s) have no label: stray.jpg" in said
    assert 'unlabelled = "ignore"' in said
    (tmp_path / "r.toml").write_text(RECIPE.read_text().replace("[data]", '[data]\nunlabelled = "ignore"'))
    assert train(tmp_path / "r.toml", data, tmp_path / "out", "--stage", "audit").exit_code == 0
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["faults"][0]["image"] == "stray.jpg"


def test_boxes_beyond_a_film_are_refused_clipped_or_their_film_left_out(films: Path, tmp_path: Path) -> None:
    data = copied(films, tmp_path / "data")
    lines = (data / "boxes.csv").read_text().splitlines()
    image = lines[1].split(",")[0]
    (data / "boxes.csv").write_text("\n".join([*lines, f"{image},Lung Opacity,700,700,200,300,RSNA"]) + "\n")
    said = refused(RECIPE, data, tmp_path / "out")
    assert f"{image}: (700, 700) to (900, 1000) on a film of 768 x 768 pixels" in said
    assert 'on_fault = "clip" or "skip"' in said
    for rule, films_left in (("clip", 20), ("skip", 19)):
        (tmp_path / "r.toml").write_text(RECIPE.read_text().replace("[data]", f'[data]\non_fault = "{rule}"'))
        out = tmp_path / rule
        assert train(tmp_path / "r.toml", data, out, "--stage", "audit").exit_code == 0
        audit = json.loads((out / "audit.json").read_text())
        assert audit["counts"]["all"]["films"] == films_left
        assert [fault["image"] for fault in audit["faults"]] == [image]


def test_a_corrupt_picture_is_named_and_left_out_only_where_the_recipe_says_so(films: Path, tmp_path: Path) -> None:
    data = copied(films, tmp_path / "data")
    broken = sorted((data / "images").iterdir())[3]
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[: len(content) // 3])
    said = refused(RECIPE, data, tmp_path / "out")
    assert f"1 film(s) cannot be read: {broken.name}:" in said
    assert 'on_fault = "skip"' in said
    (tmp_path / "r.toml").write_text(RECIPE.read_text().replace("[data]", '[data]\non_fault = "skip"'))
    ended = train(tmp_path / "r.toml", data, tmp_path / "out", "--stage", "audit")
    assert ended.exit_code == 0
    assert "| all | 19 |" in ended.stderr


def test_a_split_that_parts_a_patient_or_was_altered_is_refused(films: Path, tmp_path: Path) -> None:
    assert train(RECIPE, films, tmp_path / "out", "--stage", "split").exit_code == 0
    stored = json.loads((tmp_path / "out" / "splits.json").read_text())
    altered = dict(stored["fold_of"])
    first = next(iter(altered))
    altered[first] = 1 - altered[first]
    (tmp_path / "mine.json").write_text(json.dumps({**stored, "fold_of": altered}))
    assert "was changed after it was stored" in refused(
        RECIPE, films, tmp_path / "o1", "--splits", str(tmp_path / "mine.json")
    )
    patients: dict[str, list[str]] = {}
    for line in (films / "labels.csv").read_text().splitlines()[1:]:
        patients.setdefault(line.split(",")[2], []).append(line.split(",")[0])
    two = next(images for images in patients.values() if len(images) > 1)
    parted = stored["fold_of"] | {two[0]: 0, two[1]: 1}
    from training.splits import Splits

    digest = Splits(folds=2, seed=0, fold_of=parted).digest
    (tmp_path / "mine.json").write_text(json.dumps({"folds": 2, "seed": 0, "digest": digest, "fold_of": parted}))
    said = refused(RECIPE, films, tmp_path / "o2", "--splits", str(tmp_path / "mine.json"))
    assert "1 patient(s) are in two folds" in said
    assert two[0] in said
    (tmp_path / "mine.json").write_text("{}")
    assert "is not a split" in refused(RECIPE, films, tmp_path / "o3", "--splits", str(tmp_path / "mine.json"))


def test_an_out_folder_of_another_run_is_refused_until_it_is_begun_anew(films: Path, tmp_path: Path) -> None:
    assert train(RECIPE, films, tmp_path / "out", "--stage", "split").exit_code == 0
    (tmp_path / "r.toml").write_text(RECIPE.read_text().replace("epochs = 3", "epochs = 4"))
    said = refused(tmp_path / "r.toml", films, tmp_path / "out", "--stage", "split")
    assert "holds a run with another weights_digest" in said
    assert train(tmp_path / "r.toml", films, tmp_path / "out", "--stage", "split", "--anew").exit_code == 0


def test_stages_tell_what_they_lack(films: Path, tmp_path: Path) -> None:
    assert "there is no fold 7" in refused(RECIPE, films, tmp_path / "out", "--fold", "7")
    assert "is not a folder" in refused(RECIPE, tmp_path / "nowhere", tmp_path / "out2")
    (tmp_path / "empty").mkdir()
    assert "boxes.csv cannot be read" in refused(RECIPE, tmp_path / "empty", tmp_path / "out3")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: to a program the same as a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_nothing_half_written_is_left(films: Path, trained: Path, tmp_path: Path) -> None:
    with largest_file(100_000):  # the prepared films do not fit
        said = refused(RECIPE, films, tmp_path / "a" / "out", "--stage", "split")
    assert "the disk is full" in said
    assert not (tmp_path / "a" / "out" / "prepared" / "greys.npy").exists()
    with largest_file(5_000_000):  # the checkpoint does not fit
        said = refused(RECIPE, films, tmp_path / "a" / "out", "--fold", "0")
    assert "the disk is full" in said
    assert not list((tmp_path / "a" / "out").glob("fold-0.p*"))
    shutil.copytree(trained / "out", tmp_path / "b" / "out")
    with largest_file(5_000_000):  # the model does not fit
        said = refused(RECIPE, films, tmp_path / "b" / "out", "--stage", "report")
    assert "the disk is full" in said


def test_twins_of_two_patients_are_told_and_bound_where_the_recipe_says_so(films: Path, tmp_path: Path) -> None:
    data = copied(films, tmp_path / "data")
    rows = (data / "labels.csv").read_text().splitlines()
    normal = next(row for row in rows if row.endswith(",Normal"))
    original, twin = normal.split(",")[0], "99999999_000.jpg"
    with PIL.Image.open(data / "images" / original) as picture:
        picture.resize((700, 700)).save(data / "images" / twin, quality=80)
    row = normal.replace(original, twin).replace(f",{normal.split(',')[2]},", ",99999999,", 1)
    (data / "labels.csv").write_text("\n".join([*rows, row]) + "\n")
    assert train(RECIPE, data, tmp_path / "out", "--stage", "audit").exit_code == 0
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert [(pair["one"], pair["other"]) for pair in audit["twins"]] == [(original, twin)]
    assert not audit["twins"][0]["same_patient"]
    assert any("look like one picture" in warning for warning in audit["warnings"])
    (tmp_path / "r.toml").write_text(RECIPE.read_text().replace("[data]", '[data]\ntwins = "bind"'))
    for seed in range(3):
        text = (tmp_path / "r.toml").read_text().replace("folds = 2", f"folds = 2\nsplit_seed = {seed}")
        (tmp_path / f"r{seed}.toml").write_text(text)
        assert train(tmp_path / f"r{seed}.toml", data, tmp_path / f"o{seed}", "--stage", "split").exit_code == 0
        fold_of = json.loads((tmp_path / f"o{seed}" / "splits.json").read_text())["fold_of"]
        assert fold_of[original] == fold_of[twin]


def test_the_help_tells_the_stages_without_loading_torch() -> None:
    said = CliRunner().invoke(command, ["--help"])
    assert said.exit_code == 0
    assert all(stage in said.output for stage in ("audit", "split", "fold", "refit", "report", "torchrun"))
