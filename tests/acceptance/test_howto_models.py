"""The worked examples of the pages are followed as a reader follows them: files written, scripts run, models tried."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from tests.conftest import PROJECT
from tests.foreign_models import TEXT_FINDER, shipped_file, written
from tests.pictures import film_file

HOWTO = PROJECT / "docs" / "howto"
PAGES = (HOWTO / "bring-your-own-model.md", HOWTO / "monai-bundle.md")
BLANK_DIGEST = "the digest of your file"


def files_of(page: Path) -> dict[str, str]:
    """What the page tells to write: each line ``NAME`` followed by a colon, and the indented block after it."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^`([^`]+)`:\n\n((?:(?: {4}.*)?\n)+)", text, flags=re.MULTILINE)
    return {name: re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for name, block in blocks}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder after the pages' first steps."""
    folder = tmp_path_factory.mktemp("desk")
    for name, content in (pair for page in PAGES for pair in files_of(page).items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    film = get_testdata_file("RG1_J2KI.dcm")
    assert isinstance(film, str), "pydicom-data is installed with the tests"
    (folder / "film.dcm").write_bytes(Path(film).read_bytes())
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(folder: Path, name: str) -> None:
    """Put the digest where the page says to put it."""
    home = folder / "models" / name / "1.0.0"
    card = (home / "card.toml").read_text(encoding="utf-8")
    assert BLANK_DIGEST in card
    digest = hashlib.sha256((home / "model.onnx").read_bytes()).hexdigest()
    (home / "card.toml").write_text(card.replace(BLANK_DIGEST, digest), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "script", "label"),
    [("my-detector", "export_detector.py", "opacity"), ("fractures", "make_stand_in.py", "fracture")],
)
def test_the_examples_with_boxes_work_as_they_are_written(desk: Path, name: str, script: str, label: str) -> None:
    run(desk, script)
    install(desk, name)
    findings = json.loads(run(desk, "try_model.py", name, "film.dcm").strip().splitlines()[-1])
    assert {finding["label"] for finding in findings["findings"]} == {label}


def test_the_example_with_a_map_finds_text_on_a_film(desk: Path) -> None:
    (desk / "models" / "burned-in-text" / "1.0.0" / "model.onnx").write_bytes(shipped_file(TEXT_FINDER))
    install(desk, "burned-in-text")
    film_file(desk / "text.dcm", np.pad(written({(30, 40): "PORTABLE"}), 60))
    findings = json.loads(run(desk, "try_model.py", "burned-in-text", "text.dcm").strip().splitlines()[-1])
    (lesion,) = findings["lesions"]
    box = lesion["region"]["planes"][0]["box"]
    assert (box["x_min"], box["y_min"]) == pytest.approx((90, 100), abs=25)
    assert len(lesion["region"]["planes"][0]["outline"]) > 4


def test_the_example_of_a_bundle_works_as_it_is_written(desk: Path) -> None:
    run(desk, "make_bundle.py")
    radnode = ("-c", "from dicom_node.cli import main; main()")
    said = run(desk, *radnode, "models", "import", "opacity_segmentation", "--into", "models", "--card", "codes.toml")
    assert "written" in said and "to fill in" not in said
    findings = json.loads(run(desk, "try_model.py", "opacity-segmentation", "film.dcm").strip().splitlines()[-1])
    assert {finding["label"] for finding in findings["findings"]} == {"lung_opacity"}
