"""The demonstration as a person runs it: one command, a table, files, and nothing left running."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from PIL import Image

from dicom_node.routing import read_routes
from dicom_node.settings import read_settings
from tests.judges import dciodvfy_errors

RADNODE = (sys.executable, "-P", "-c", "from dicom_node.cli import main; main(prog_name='radnode')")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    status: int
    text: str
    errors: str
    output: Path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    output = tmp_path_factory.mktemp("demo") / "output"
    done = subprocess.run(
        [*RADNODE, "demo", "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ran(status=done.returncode, text=done.stdout, errors=done.stderr, output=output)


def running(output: Path) -> list[int]:
    """Processes that were started for this output folder."""
    found = psutil.process_iter(["cmdline"])
    return [one.pid for one in found if str(output) in " ".join(one.info["cmdline"] or ())]


def row(ran: Ran, study: str) -> str:
    return next(line for line in ran.text.splitlines() if line.startswith(f"│ {study} "))


def test_it_ends_well(ran: Ran) -> None:
    assert ran.status == 0, ran.text + ran.errors


def test_the_table_says_what_the_model_found_on_the_film_and_how_long_it_took(ran: Ran) -> None:
    said = row(ran, "chest-film")
    assert "ANALYSED" in said and "chest-opacity" in said
    assert "overlay" in said or "status_page" in said
    assert re.search(r" \d+\.\d\d │$", said)


def test_mammograms_are_looked_at_by_the_model_for_mammograms(ran: Ran) -> None:
    for number in range(1, 5):
        said = row(ran, f"mammogram-{number}")
        assert "ANALYSED" in said and "mammography-l" in said  # the name goes on in the next line of the cell
        assert list((ran.output / "results" / f"mammogram-{number}").glob("*.dcm"))


def test_studies_without_a_model_are_listed_with_the_reason(ran: Ran) -> None:
    assert "NO_ROUTE" in row(ran, "ct-phantom")
    said = " ".join(ran.text.split())
    assert re.search(r"no route for modality CT, though lung-nodule-demo@\S+ could be named", said)


def test_the_results_are_valid_files_and_the_picture_opens(ran: Ran) -> None:
    objects = sorted((ran.output / "results" / "chest-film").glob("*.dcm"))
    assert objects
    assert [line for path in objects for line in dciodvfy_errors(path)] == []
    (picture,) = (ran.output / "results" / "chest-film").glob("*.png")
    assert str(picture) in ran.text
    with Image.open(picture) as opened:
        assert opened.mode == "RGB" and min(opened.size) > 500


def test_its_settings_and_routes_are_files_that_load(ran: Ran) -> None:
    settings = read_settings(ran.output / "radnode.toml")
    assert settings.receiver.host == settings.web.host == "127.0.0.1"
    assert settings.routes_file and read_routes(settings.routes_file).route


def test_the_command_it_names_explains_the_study(ran: Ran) -> None:
    (command,) = re.findall(r"what happened +(\S*radnode --settings \S+ explain \S+)", ran.text)
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=60, check=True)
    assert "outcome analysed" in done.stdout
    assert "confirmed" in done.stdout


def test_nothing_is_left_running_and_no_name_is_in_the_log(ran: Ran) -> None:
    assert running(ran.output) == []
    assert not (ran.output / "node" / "node.json").exists()
    assert "PHANTOM^" not in (ran.output / "node.log").read_text()


def test_told_to_stop_it_takes_its_node_with_it(tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = subprocess.Popen(
        [*RADNODE, "demo", "--keep", "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert any("runs until Ctrl-C" in line for line in process.stdout)
        assert running(output)
        process.send_signal(signal.SIGTERM)
        last_words = process.stdout.read()
    assert process.wait(60) == 0, last_words
    assert running(output) == []
