"""Evaluation runs in MLflow: what is recorded, that no case is named, and what is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dicom_node.cli import main
from models.evaluation_report import read_report
from tests.report_runs import make_run


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy model with its report, without pages."""
    folder = tmp_path_factory.mktemp("reported")
    make_run(folder / "run", folder / "models")
    ended = radnode(
        "eval", "report", str(folder / "run"), "--models-folder", str(folder / "models"), "--no-pdf", "--language", "en"
    )
    assert ended.exit_code == 0, ended.output
    return folder / "run"


def radnode(*arguments: str) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of its own insides while it is imported
        return CliRunner().invoke(main, arguments)


def records(folder: Path) -> list[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


def test_a_run_is_recorded_with_its_figures_and_digests_and_once(reported: Path, tmp_path: Path) -> None:
    said = [radnode("eval", "log", str(reported), "--tracking", str(tmp_path / "records")) for _ in range(2)]
    assert [ended.exit_code for ended in said] == [0, 0], said[0].output + said[1].output
    assert said[0].output.startswith("logged") and said[1].output.startswith("already logged")
    (run,) = records(tmp_path / "records")
    report = read_report(reported / "EVALUATION" / "evaluation.json")
    tags, metrics = run.data.tags, run.data.metrics  # type: ignore[attr-defined]
    assert tags["report_sha256"] == report.sha256
    assert tags["model_digest"] == report.report.model_digest
    assert tags["data_manifest_sha256"] == report.report.data_sha256
    assert tags["model"] == "toy-opacity@1.0.0" and tags["dataset"] == "toy-set@1.0.0"
    twin = json.loads(report.text)
    auroc = twin["sections"]["results"]["cases"]["auroc"]
    assert metrics["val/auroc"] == pytest.approx(auroc["value"])
    assert (metrics["val/auroc/low"], metrics["val/auroc/high"]) == pytest.approx(tuple(auroc["ci"]))


def test_no_case_and_no_patient_is_named_and_no_picture_is_kept(reported: Path, tmp_path: Path) -> None:
    assert radnode("eval", "log", str(reported), "--tracking", str(tmp_path)).exit_code == 0
    kept = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["evaluation.json"]
    assert "film-0" in (reported / "EVALUATION" / "evaluation.json").read_text()  # else nothing is proven
    assert "film-0" not in kept[0].read_text()
    assert kept[0].stat().st_size > 10_000


def test_a_report_of_another_run_is_refused(reported: Path, tmp_path: Path) -> None:
    from tests.report_runs import cases

    make_run(tmp_path / "run", tmp_path / "models", cases(60, seed=5))
    ended = radnode(
        "eval",
        "log",
        str(tmp_path / "run"),
        "--report",
        str(reported / "EVALUATION"),
        "--tracking",
        str(tmp_path / "r"),
    )
    assert ended.exit_code == 1
    assert "the report is of another run" in ended.output
    assert not (tmp_path / "r").exists()


def test_a_run_without_its_report_is_told_so(tmp_path: Path) -> None:
    make_run(tmp_path / "run", tmp_path / "models")
    ended = radnode("eval", "log", str(tmp_path / "run"), "--tracking", str(tmp_path / "r"))
    assert ended.exit_code == 1
    assert "evaluation.json: cannot be read" in ended.output


def test_a_run_that_was_altered_is_refused(reported: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "run", tmp_path / "models")
    lines = (tmp_path / "run" / "cases.jsonl").read_text().splitlines()
    (tmp_path / "run" / "cases.jsonl").write_text("\n".join(lines[1:]) + "\n")
    ended = radnode(
        "eval",
        "log",
        str(tmp_path / "run"),
        "--report",
        str(reported / "EVALUATION"),
        "--tracking",
        str(tmp_path / "r"),
    )
    assert ended.exit_code == 1
    assert "changed after the run" in ended.output
