"""The JSON twin of an evaluation report: found by file or digest, and tied to exactly one state of one model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from models.evaluation_report import (
    MAX_BYTES,
    ReportError,
    check_report,
    find_report,
    read_report,
    reports_of,
)
from models.registry import InstalledModel, installed_models
from tests.promotions import write_report
from tests.toy_model import install_toy_model


@pytest.fixture
def model(tmp_path: Path) -> InstalledModel:
    install_toy_model(tmp_path / "models")
    (found,) = installed_models([tmp_path / "models"]).models.values()
    return found


def test_a_report_is_named_by_the_digest_of_its_file(model: InstalledModel) -> None:
    path = model.folder / "evaluation.json"
    written = write_report(path, model.card, created="2026-11-22T20:00:00Z", verdict={"passed": True})
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    check_report(written, model.card)
    assert find_report(model, str(path)) == written
    for digits in (64, 12):
        assert find_report(model, written.sha256[:digits].upper()) == written


def test_reports_lie_beside_the_card_or_in_its_evaluation_folder(model: InstalledModel) -> None:
    write_report(model.folder / "evaluation.json", model.card)
    write_report(model.folder / "EVALUATION" / "independent.json", model.card, figures={"auroc": 0.9})
    (model.folder / "EVALUATION" / "roc.json").write_text("[1, 2]")
    assert [one.path.name for one in reports_of(model)] == ["evaluation.json", "independent.json"]


def test_a_digest_of_no_report_is_answered_with_those_that_there_are(model: InstalledModel) -> None:
    written = write_report(model.folder / "evaluation.json", model.card)
    with pytest.raises(ReportError, match=f"no report beside the card of toy-opacity@1.0.0.*\n  {written.sha256}"):
        find_report(model, "0123456789ab")
    (model.folder / "evaluation.json").unlink()
    with pytest.raises(ReportError, match=r"there are:\n  none\nPut it into .*EVALUATION"):
        find_report(model, "0123456789ab")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe", "not UTF-8"),
        (b"<html>", "not JSON.*the twin of a report is wanted"),
        (b"[]", "1 fault"),
        (b'{"model": "toy-opacity", "model_digest": "abc", "verdict": {"passed": "perhaps"}}', "3 fault"),
        (b"{}", "  model: Field required\n  model_digest: Field required"),
    ],
)
def test_what_is_no_report_is_refused_by_name_with_every_fault(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "evaluation.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReportError, match=told) as caught:
        read_report(path)
    assert str(path) in str(caught.value)


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ReportError, match="that is no twin"):
        read_report(path)


def test_a_threshold_that_was_changed_after_the_evaluation_unties_the_report(model: InstalledModel) -> None:
    written = write_report(model.folder / "evaluation.json", model.card)
    path = model.folder / "card.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("threshold = 0.5,", "threshold = 0.6,"), encoding="utf-8")
    (altered,) = installed_models([model.folder.parents[1]]).models.values()
    with pytest.raises(ReportError, match="of another state of toy-opacity@"):
        check_report(written, altered.card)
