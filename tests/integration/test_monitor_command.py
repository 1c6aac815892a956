"""`radnode monitor` and `radnode monitor truth` as people run them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dicom_node.cli import main
from dicom_node.states import JobState
from tests.ledgers import TestClock
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import PipelineRig
from training.toml import to_toml

STUDY, OTHER = "1.2.826.0.1.881", "1.2.826.0.1.882"


class Desk:
    """A rig whose studies came today, with its settings in a file, and commands run against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rig = PipelineRig(folder)
        self.rig.clock = TestClock(datetime.now(UTC) - timedelta(minutes=10))
        self.rig.pipeline.ledger.clock = self.rig.clock
        values = {"data_dir": "data", "models": {"folders": ["models"], "include_zoo": False},
                  "monitoring": {"time_zone": "Europe/Moscow"}}  # fmt: skip
        (folder / "radnode.toml").write_text(to_toml(values), encoding="utf-8")

    def run(self, *arguments: str, status: int = 0) -> Result:
        done = CliRunner().invoke(main, ["--settings", str(self.folder / "radnode.toml"), "monitor", *arguments])
        assert done.exit_code == status, (done.output, done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), "people are shown no traceback"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def analysed(self, study: str, **header: object) -> None:
        """A film that goes all the way through the pipeline."""
        path = film_file(self.folder / f"{study[-3:]}.dcm", disc_picture(64, 48), StudyInstanceUID=study, **header)
        self.rig.receive(path)
        self.rig.settle()
        (job,) = self.rig.work()
        assert self.rig.account(study).jobs[-1].state is JobState.SUCCEEDED, job


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.rig.close()


def test_studies_of_the_pipeline_are_counted_with_verdict_and_scores(desk: Desk) -> None:
    desk.analysed(STUDY)
    report = desk.json()
    (model,) = report["whole"]["models"]
    assert (model["model"], model["received"], model["analysed"], model["positive"]["count"]) == (
        "toy-opacity@1.0.0", 1, 1, 1,
    )  # fmt: skip
    assert model["labels"][0]["label"] == "opacity" and model["labels"][0]["flag_rate"]["of"] == 1
    assert model["reference"] is None and model["reference_reason"] == "no evaluation report lies beside the card"
    assert report["time_zone"] == "Europe/Moscow" and report["periods"] == []


def test_the_table_names_periods_zone_and_reasons(desk: Desk) -> None:
    desk.analysed(STUDY)
    told = desk.run("--period", "week").output
    assert "Europe/Moscow" in told and "toy-opacity@1.0.0" in told and "all of it" in told
    assert "no evaluation report lies beside the card" in told and STUDY not in told


def test_an_empty_ledger_gives_an_empty_table(desk: Desk) -> None:
    assert "All studies that came: 0" in desk.run("--from", "2020-01-01", "--to", "2020-01-31").output


def test_files_are_written_and_the_order_has_russian_headings_under_a_mark(desk: Desk) -> None:
    desk.analysed(STUDY)
    table, order = desk.folder / "service.csv", desk.folder / "order.csv"
    desk.run("--csv", str(table), "--order-4472", str(order), "--json", str(desk.folder / "service.json"))
    (row,) = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    assert (row["model"], row["received"]) == ("toy-opacity@1.0.0", "1")
    assert order.read_bytes().startswith(b"\xef\xbb\xbf")
    (filed,) = csv.DictReader(order.read_text(encoding="utf-8-sig").splitlines())
    assert (
        filed["Обработано исследований"] == "1"
        and "не зарегистрировано" in filed["Номер регистрационного удостоверения"]
    )
    assert json.loads((desk.folder / "service.json").read_text())["whole"]["node"]["studies"] == 1
    told = desk.run("--csv", str(desk.folder / "absent" / "x.csv"), status=1).stderr
    assert "cannot be written" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--from", "March"], "'March' is no date"), (["--from", "2026-03-02", "--to", "2026-03-01"], "before it begins"),
     (["--from", "2020-01-01", "--period", "day"], "more than 400")],
)  # fmt: skip
def test_wrong_dates_are_told_in_one_line(desk: Desk, arguments: list[str], words: str) -> None:
    told = desk.run(*arguments, status=1).stderr
    assert words in told and "Traceback" not in told


def test_a_reading_finds_its_study_by_the_accession_number_of_the_images(desk: Desk) -> None:
    desk.analysed(STUDY, AccessionNumber="RIS-42")
    desk.analysed(OTHER)
    file = desk.folder / "readings.csv"
    file.write_text("accession_number,reading\nRIS-42,норма\n", encoding="utf-8")
    assert "1 new; rows refused: 0" in desk.run("truth", str(file)).output
    (model,) = desk.json()["whole"]["models"]
    assert model["agreement"]["disagree"] == 1 and model["agreement"]["specificity"]["value"] == 0
    file.write_text(f"study_uid,reading\n{OTHER},1\n1.2.3,1\n{OTHER},Ivanov has cancer\n", encoding="utf-8")
    done = desk.run("truth", str(file), status=1)
    assert "readings.csv: line 3: the ledger has no study with this study_uid" in done.stderr
    assert "readings.csv: line 4: the reading is none of" in done.stderr and "Ivanov" not in done.output + done.stderr
    (model,) = desk.json()["whole"]["models"]
    assert model["agreement"]["readings"] == 2
    as_json = json.loads(desk.run("truth", str(file), "--json", status=1).stdout)
    assert as_json["entered"]["same"] == 1 and [row["line"] for row in as_json["refused"]] == [3, 4]


def test_a_file_that_is_no_table_of_readings_is_told(desk: Desk) -> None:
    file = desk.folder / "readings.csv"
    file.write_text("study,diagnosis\n1,2\n")
    assert "readings.csv: line 1: no column 'reading'" in desk.run("truth", str(file), status=1).stderr
