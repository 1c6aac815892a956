"""What a statistic prints: numbers that are known, reasons where one is not, and never a NaN."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from eval.console import write_json
from eval.document import Document, Reasons, Source
from eval.intervals import Estimate


class Printed(Document):
    """A document with one figure."""

    figure: float | None


def test_an_undefined_figure_is_null_and_its_reason_is_kept() -> None:
    reasons = Reasons()
    value, ci = reasons.estimate("figure", Estimate.undefined("there is nothing to count"))
    assert (value, ci) == (None, (None, None))
    assert reasons.found == {"figure": "there is nothing to count"}


def test_a_figure_without_interval_keeps_its_value_and_says_why_there_is_none() -> None:
    reasons = Reasons()
    estimate = Estimate(value=1.0, low=math.nan, high=math.nan, reason="one case only")
    assert reasons.estimate("figure", estimate) == (1.0, (None, None))
    assert reasons.found == {"figure_ci": "one case only"}


def test_a_known_figure_leaves_no_reason() -> None:
    reasons = Reasons()
    assert reasons.estimate("figure", Estimate(value=0.5, low=0.4, high=0.6)) == (0.5, (0.4, 0.6))
    assert reasons.number("other", 3.0, "unused") == 3.0
    assert reasons.found == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_becomes_null_with_its_reason(value: float) -> None:
    reasons = Reasons()
    assert reasons.number("z", value, "the variance is 0") is None
    assert reasons.found == {"z": "the variance is 0"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_cannot_be_written(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Printed(command="x", radnode="0", figure=value)


def test_a_key_that_was_not_declared_is_refused_and_a_document_does_not_change() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Printed.model_validate({"command": "x", "radnode": "0", "figure": 1.0, "other": 2})
    document = Printed(command="x", radnode="0", figure=1.0)
    with pytest.raises(ValidationError, match="frozen"):
        document.figure = 2.0  # type: ignore[misc]


def test_a_source_is_found_again_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(b"truth,score\n1,0.5\n")
    source = Source.of(path, 1)
    assert (source.name, source.sha256) == ("cases.csv", hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_document_written_as_json_reads_back(tmp_path: Path) -> None:
    document = Printed(
        command="x", radnode="0", figure=None, undefined={"figure": "причина"}, settings={"seed": 0, "hit": None}
    )
    target = tmp_path / "out.json"
    write_json(document.model_dump(mode="json"), str(target))
    assert Printed.model_validate(json.loads(target.read_text(encoding="utf-8"))) == document
    assert "причина" in target.read_text(encoding="utf-8")


def test_json_that_cannot_be_written_ends_the_command_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        write_json({}, str(tmp_path / "nowhere" / "out.json"))
    assert ended.value.code == 1
    assert "cannot be written" in capsys.readouterr().err
