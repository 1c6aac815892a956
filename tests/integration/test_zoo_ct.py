"""The shipped CT model through the engine on a real series; it was learnt from that series, so nothing is judged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from inference.engine import Engine, EngineSettings, StudyInput
from models.card import Use
from models.registry import ZOO, installed_models
from tests.conftest import PROJECT
from training.ct.boxes_csv import read_cases

NAME = "lung-nodule-demo"
pytestmark = pytest.mark.timeout(300)


def test_a_real_series_gives_findings_with_regions_on_its_slices_and_sizes(shared_data: Path) -> None:
    model = installed_models().latest(NAME)
    assert model is not None
    case = next(case for case in read_cases(shared_data / "ct_lidc") if case.patient == "LIDC-IDRI-0001")
    engine = Engine([model], settings=EngineSettings(network_threads=1, device="cpu"))
    analysis = engine.submit(model.card.reference, StudyInput(study_uid="1.2", images=case.files)).result(240)
    engine.close()
    findings = analysis.findings
    assert findings is not None, analysis.refusal
    assert len(findings.images) == len(case.files)
    scan = case.read()
    uids = set(scan.volume.sop_instance_uids)
    assert findings.lesions
    for lesion in findings.lesions:
        assert {plane.sop_instance_uid for plane in lesion.region.planes} <= uids
        assert lesion.region.lps_min_mm is not None
        assert lesion.measurements
    (truth,) = scan.lesions
    middles = [lesion.region.key_plane.box.center for lesion in findings.lesions]
    assert any(truth.low[2] <= x <= truth.high[2] and truth.low[1] <= y <= truth.high[1] for x, y in middles), (
        "the lesion it has learnt is not marked"
    )


def test_it_is_a_demonstration_with_counts_and_no_accuracy() -> None:
    folder = next((ZOO / NAME).iterdir())
    report = (folder / "EVALUATION.md").read_text(encoding="utf-8")
    assert "counts, not an accuracy" in report
    assert not re.search(r"sensitivity|specificity|AUROC|95 %", report)
    said = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert {one["patient"] for one in said["scans"]} == {"1", "2", "3"}  # nobody is named
    assert "LIDC-IDRI-0001" not in report
    parity = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    assert parity["probability"] < 1e-4
    assert parity["voxels"] < 0.1
    model = installed_models().latest(NAME)
    assert model is not None
    assert model.card.identity.use is Use.DEMONSTRATION
    assert np.prod(model.card.input.tile) > 0


def test_no_example_routes_studies_to_it() -> None:
    written = [*PROJECT.glob("examples/**/*.toml"), *PROJECT.glob("dicom_node/**/*.toml")]
    assert not [path for path in written if NAME in path.read_text(encoding="utf-8")]
