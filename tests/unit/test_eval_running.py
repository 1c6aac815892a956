"""A shipped model over real films: what is kept, what is left out, and how a run goes on after a kill."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from click.testing import CliRunner

from eval.commands.run import RunDocument, command
from eval.keeping import PARTIAL_FILE, Kept
from eval.report.marks import match_cases
from eval.running import Options, run
from eval.runs import CaseRecord, Run, RunError, Status, read_manifest, read_run
from inference.engine import Engine, EngineSettings, StudyInput
from inference.findings import Findings
from models.card import read_card
from models.registry import ZOO, InstalledModel
from tests.dx_wrapping import write_dx
from training.nih import read_folder

CHEST = ZOO / "chest-opacity" / "0.1.1"
SET = """
name = "some-films"
version = "1.0.0"
title = "Films of a test"
layout = "table"
unit = "film"
modality = "DX"
licence = "NIH: no restriction"
citation = "X. Wang et al., CVPR 2017"
standard = "RSNA radiologists"
subgroups = ["view"]

[cases]
file = "cases.csv"
case = "image"
input = "films/{case}"
patient = "patient"
traits = { view = "view" }
numbers = { age_years = "age" }
truth = { column = "opacity", positive = ["1"], negative = ["0"] }

[[lesions]]
file = "boxes.csv"
case = "image"
shape = "corners"
columns = ["x0", "y0", "x1", "y1"]

[header]
modality = "DX"
body_part = "CHEST"
view_trait = "view"
"""


@pytest.fixture(scope="session")
def unlisted(tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
    """The shipped chest model, as if nobody had kept what it learnt from: so that it runs on films at hand."""
    folder = tmp_path_factory.mktemp("models") / "chest-opacity" / "0.1.1"
    shutil.copytree(CHEST, folder)
    lines = (folder / "card.toml").read_text(encoding="utf-8").split("\n")
    at = lines.index("[training.files]")
    (folder / "card.toml").write_text("\n".join(lines[: at - 1] + lines[at + 3 :]), encoding="utf-8")
    return InstalledModel(card=read_card(folder / "card.toml"), folder=folder)


@pytest.fixture(scope="session")
def some_films(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve judged films, a child's and one that is no picture, described as a set."""
    root = tmp_path_factory.mktemp("set")
    (root / "films").mkdir()
    films = read_folder(shared_data / "chest_xray_nih").films
    judged = [film for film in films if film.judged and film.positive][:6]
    judged += [film for film in films if film.judged and not film.positive][:6]
    child = next(film for film in films if not film.adult)
    rows, boxes = ["image,patient,view,age,opacity"], ["image,x0,y0,x1,y1"]
    for film in [*judged, child]:
        shutil.copy(film.path, root / "films")
        age = f"{film.numbers['age_years']:g}"
        rows.append(f"{film.image},{film.patient},{film.view},{age},{int(film.positive)}")
        boxes += [f"{film.image},{box.x_min},{box.y_min},{box.x_max},{box.y_max}" for box in film.boxes]
    (root / "films" / "broken.png").write_bytes(b"no picture")
    rows.append("broken.png,nobody,PA,50,1")
    (root / "cases.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n", encoding="utf-8")
    (root / "dataset.toml").write_text(SET, encoding="utf-8")
    return root


def _options(model: InstalledModel, root: Path, out: Path, **more: Any) -> Options:
    given = {"jobs": 2, "runtime": "onnx", "device": "cpu", "command": "radnode eval run"} | more
    return Options(model=model, label="opacity", dataset_file=root / "dataset.toml", root=root, out=out, **given)


@pytest.fixture(scope="session")
def whole(unlisted: InstalledModel, some_films: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(_options(unlisted, some_films, out))
    return read_run(out)


def _said(cases: tuple[CaseRecord, ...]) -> list[CaseRecord]:
    """Cases without the time they took, the only thing that may differ."""
    return [case.model_copy(update={"seconds": None}) for case in cases]


def test_every_case_is_kept_with_its_end_and_its_reason(whole: Run) -> None:
    ends = {case.case: (case.status, case.reason) for case in whole.cases}
    assert list(ends) == sorted(ends)
    assert ends["broken.png"][0] is Status.REFUSED
    assert ends["broken.png"][1].startswith("unreadable")
    assert sum(end == (Status.REFUSED, "age: younger than 18 years") for end in ends.values()) == 1
    assert sum(status is Status.ANALYSED for status, _ in ends.values()) == 12


def test_a_refused_case_keeps_its_truth_so_that_it_counts_as_missed(whole: Run) -> None:
    broken = next(case for case in whole.cases if case.case == "broken.png")
    assert broken.judged
    assert broken.positive is True
    assert broken.score is None


def test_marks_below_the_served_threshold_are_kept_with_calibrated_scores(whole: Run) -> None:
    threshold = whole.mark_threshold(whole.cases[0])
    scores = [mark.score for case in whole.cases for mark in case.marks]
    assert threshold is not None
    assert sum(score >= threshold for score in scores) >= 5
    assert sum(score < threshold for score in scores) >= 20


def test_what_is_kept_of_a_film_is_what_the_node_says_of_it_as_dicom(
    whole: Run, unlisted: InstalledModel, some_films: Path, tmp_path: Path
) -> None:
    case = max((case for case in whole.cases if case.score is not None), key=lambda case: case.score or 0)
    dx = write_dx(some_films / "films" / case.case, tmp_path, view=case.traits["view"])
    engine = Engine([unlisted], settings=EngineSettings(device="cpu", runtime="onnx"))
    try:
        analysis = engine.submit("chest-opacity@0.1.1", StudyInput(study_uid="1.2.3", images=(dx,))).result(timeout=60)
    finally:
        engine.close()
    assert analysis.findings is not None
    said = next(one for one in analysis.findings.findings if one.sop_instance_uid is None)
    assert said.score == case.score
    boxes = [lesion.region.key_plane.box for lesion in analysis.findings.lesions]
    reported = [mark for mark in case.marks if mark.score >= (whole.mark_threshold(case) or 0)]
    assert [mark.box for mark in reported] == [(box.x_min, box.y_min, box.x_max, box.y_max) for box in boxes]
    assert len(analysis.marks) == len(case.marks)


def test_findings_are_kept_with_their_digests(whole: Run) -> None:
    digests = {case.case: case.findings_sha256 for case in whole.cases if case.status is Status.ANALYSED}
    lines = (whole.folder / "findings.jsonl").read_text(encoding="utf-8").splitlines()
    found = {line["case"]: Findings.from_json(json.dumps(line["findings"])) for line in map(json.loads, lines)}
    assert {name: findings.digest for name, findings in found.items()} == digests


def test_the_manifest_names_every_input(whole: Run) -> None:
    manifest = read_manifest((whole.folder / "manifest.csv").read_text(encoding="utf-8"))
    assert list(manifest) == [case.case for case in whole.cases]
    assert manifest["broken.png"][0][0] == "films/broken.png"


def test_a_second_call_does_nothing_over_again(whole: Run, unlisted: InstalledModel, some_films: Path) -> None:
    before = (whole.folder / "cases.jsonl").stat().st_mtime_ns
    record = run(_options(unlisted, some_films, whole.folder))
    assert record == whole.record
    assert whole.record.notes[0].startswith("The card names no list of training files")
    assert (whole.folder / "cases.jsonl").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def many_films(some_films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same films three times over under other names: long enough to be killed in the middle."""
    root = tmp_path_factory.mktemp("many")
    (root / "films").mkdir()
    lines = (some_films / "cases.csv").read_text(encoding="utf-8").splitlines()
    rows = lines[:1]
    for line in lines[1:]:
        name = line.split(",")[0]
        for copy in range(3):
            rows.append(f"{copy}-{line}")
            shutil.copy(some_films / "films" / name, root / "films" / f"{copy}-{name}")
    (root / "cases.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "boxes.csv").write_text("image,x0,y0,x1,y1\n", encoding="utf-8")
    (root / "dataset.toml").write_text(SET, encoding="utf-8")
    return root


def test_a_run_that_was_killed_goes_on_and_ends_as_if_it_had_not(
    unlisted: InstalledModel, many_films: Path, tmp_path: Path
) -> None:
    out, partial = tmp_path / "killed", tmp_path / "killed" / PARTIAL_FILE
    arguments = ["--model", "chest-opacity@0.1.1", "--models-folder", str(unlisted.folder.parents[1])]
    arguments += ["--dataset", str(many_films / "dataset.toml"), "--out", str(out), "--jobs", "1"]
    arguments += ["--runtime", "onnx", "--device", "cpu"]
    code = "import sys; from eval.commands.run import command; command(sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 4):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "cases.jsonl").exists()
    with pytest.raises(RunError, match="not finished"):
        read_run(out)
    lines = [line for line in partial.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    done = {line["case"]["case"]: line["case"] for line in map(json.loads, lines)}
    partial.write_bytes(b"".join(lines) + b'{"case": {"case": "00')  # as if it had been killed while it wrote

    run(_options(unlisted, many_films, out, jobs=1))
    after = read_run(out)
    run(_options(unlisted, many_films, tmp_path / "whole"))
    assert _said(after.cases) == _said(read_run(tmp_path / "whole").cases)
    assert len(after.cases) == 42
    assert "cases share a file with another case, the first is 0-" in after.record.notes[1]
    assert not partial.exists()
    kept = {case.case: case for case in after.cases}
    for name, line in done.items():  # not done over again: even the time it took is the same
        assert kept[name] == CaseRecord.model_validate(line)


def test_a_line_that_was_altered_is_done_again(whole: Run, tmp_path: Path) -> None:
    analysed = next(case for case in whole.cases if case.status is Status.ANALYSED)
    line = (whole.folder / "findings.jsonl").read_text(encoding="utf-8").splitlines()[0]
    findings = Findings.from_json(json.dumps(json.loads(line)["findings"]))
    file = tmp_path / PARTIAL_FILE
    with Kept(file) as kept:
        kept.add(analysed, findings)
    with Kept(file) as kept:
        assert list(kept.cases) == [analysed.case]
    file.write_bytes(file.read_bytes().replace(b'\\"score\\":0.', b'\\"score\\":1.', 1))
    with Kept(file) as kept:
        assert kept.dropped == 1
        assert not kept.cases


def test_inputs_that_changed_since_end_the_resumed_run(
    unlisted: InstalledModel, some_films: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    shutil.copytree(some_films, root)
    out = tmp_path / "run"
    run(_options(unlisted, root, out))
    (root / "films" / "broken.png").write_bytes(b"another file")
    with pytest.raises(RunError, match="another input files; take another --out, or run with --anew"):
        run(_options(unlisted, root, out))
    assert run(_options(unlisted, root, out, resume=False)).data_sha256 != ""


def test_cases_that_the_model_learnt_from_are_neither_run_nor_judged(some_films: Path, tmp_path: Path) -> None:
    listed = InstalledModel(card=read_card(CHEST / "card.toml"), folder=CHEST)
    run(_options(listed, some_films, tmp_path / "run"))
    found = read_run(tmp_path / "run")
    learnt = [case for case in found.cases if case.status is Status.IN_TRAINING]
    assert len(learnt) == 12
    assert not any(case.judged or case.marks for case in learnt)
    assert "12 of 14 cases are in the card's list of training files" in found.record.notes[0]


def test_a_set_of_training_cases_alone_is_refused(some_films: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "films").mkdir(parents=True)
    lines = (some_films / "cases.csv").read_text(encoding="utf-8").splitlines()
    names = [line.split(",")[0] for line in lines[1:4]]
    (root / "cases.csv").write_text("\n".join(lines[:4]).replace(".jpg", ".png") + "\n", encoding="utf-8")
    (root / "boxes.csv").write_text("image,x0,y0,x1,y1\n", encoding="utf-8")
    for name in names:  # renamed and saved anew: known by what it shows
        PIL.Image.open(some_films / "films" / name).save(root / "films" / name.replace(".jpg", ".png"))
    (root / "dataset.toml").write_text(SET, encoding="utf-8")
    arguments = ["--model", "chest-opacity@0.1.1", "--dataset", str(root / "dataset.toml"), "--out", str(root / "run")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    assert "all 3 case(s) of some-films@1.0.0 are in the training list" in result.stderr
    assert not (root / "run").exists()


def test_the_command_prints_the_record_as_json(some_films: Path, tmp_path: Path) -> None:
    arguments = [
        "--model",
        "chest-opacity",
        "--dataset",
        str(some_films / "dataset.toml"),
        "--out",
        str(tmp_path / "r"),
    ]
    result = CliRunner().invoke(command, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    said = RunDocument.model_validate(json.loads(result.stdout))
    assert said.statuses == {"refused": 2, "in_training": 12}
    assert said.record.model == "chest-opacity@0.1.1"
    assert said.judged == 2
    assert said.notes[-1] == "No file is an input of two cases."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nobody@1.0.0", "--dataset", "x.toml"], "nobody@1.0.0 is not installed; there are "),
        (["--model", "chest-opacity@9.9.9", "--dataset", "x.toml"], "chest-opacity@9.9.9 is not installed"),
        (["--model", "chest-opacity", "--dataset", "missing.toml"], "missing.toml: cannot be read: No such file"),
        (["--model", "chest-opacity", "--dataset", "x.toml", "--label", "cat"], "has the labels opacity: name one"),
    ],
)
def test_what_is_not_there_is_told(arguments: list[str], message: str, some_films: Path, tmp_path: Path) -> None:
    shutil.copy(some_films / "dataset.toml", tmp_path / "x.toml")
    given = [str(tmp_path / word) if word.endswith(".toml") else word for word in arguments]
    result = CliRunner().invoke(command, [*given, "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_folder_that_holds_something_else_is_not_written_into(
    unlisted: InstalledModel, some_films: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        run(_options(unlisted, some_films, tmp_path))


def test_marks_and_lesions_of_a_study_of_several_films_name_their_film(
    unlisted: InstalledModel, whole: Run, some_films: Path, tmp_path: Path
) -> None:
    chosen = [case for case in whole.cases if case.status is Status.ANALYSED and case.lesions][:2]
    root = tmp_path / "set"
    root.mkdir()
    boxes = ["study,file,x0,y0,x1,y1"]
    for case in chosen:
        dx = write_dx(some_films / "films" / case.case, root, study_uid="1.2.3.4", view=case.traits["view"])
        for lesion in case.lesions:
            assert lesion.box is not None
            boxes.append(",".join(["1.2.3.4", dx.name, *(str(edge) for edge in lesion.box)]))
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n", encoding="utf-8")
    text = SET.split("[cases]")[0].replace('"table"', '"dicom"').replace('"film"', '"study"')
    text = text.replace('subgroups = ["view"]\n', "") + (
        '[[lesions]]\nfile = "boxes.csv"\ncase = "study"\nimage = "file"\nshape = "corners"\n'
        'columns = ["x0", "y0", "x1", "y1"]\n'
    )
    (root / "dataset.toml").write_text(text, encoding="utf-8")
    run(_options(unlisted, root, tmp_path / "run"))
    study = read_run(tmp_path / "run")
    (found,) = study.cases
    assert (found.case, found.positive) == ("1.2.3.4", True)
    assert len({mark.image for mark in found.marks}) == 2
    assert {lesion.image for lesion in found.lesions} == {mark.image for mark in found.marks}
    assert found.score == max(case.score or 0 for case in chosen)
    as_one = match_cases([found], "opacity", study.dataset.rules).detections.found
    apart = match_cases(chosen, "opacity", study.dataset.rules).detections.found
    assert sorted(as_one) == sorted(apart)
