"""A model that another house made, described by a card alone: from a film sent to a report in the archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.archives import Orthanc
from tests.dx_wrapping import wrap_film_as_dx
from tests.foreign_models import TEXT, TEXT_FINDER, install_foreign, shipped_file, written
from tests.judges import assert_valid_result_object
from tests.running_node import RunningNode, to_orthanc

ROUTE = {
    "name": "films",
    "model": "burned-in-text@1.0.0",
    "destinations": ["pacs"],
    "match": {"modality": ["DX", "CR"]},
}
QUICK = {"projection_quiet_s": 0.3, "association_idle_s": 1.0}
LINES = {(30, 40): "PORTABLE", (40, 280): "KV 110"}


def polygons(path: Path) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Every outline (SCOORD) of a report, as points (x, y)."""
    found, waiting = [], list(dcmread(path).ContentSequence)
    while waiting:
        item = waiting.pop()
        waiting += list(item.get("ContentSequence", []))
        if item.ValueType == "SCOORD":
            found.append(np.asarray(item.GraphicData, dtype=np.float64).reshape(-1, 2))
    return found


def test_a_foreign_model_reports_what_it_marks(archive: Orthanc, tmp_path: Path) -> None:
    install_foreign(tmp_path / "models", "burned-in-text", shipped_file(TEXT_FINDER), **TEXT)
    Image.fromarray(written(LINES)).save(tmp_path / "film.png")
    film = wrap_film_as_dx(tmp_path / "film.png", study_uid=generate_uid())
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    settings = {"assembly": QUICK, "destination": [to_orthanc(archive)]}
    with RunningNode(tmp_path / "node", settings, routes=[ROUTE], models=tmp_path / "models") as node:
        node.send([tmp_path / "film.dcm"])
        account = node.wait_for_outcome(film.StudyInstanceUID)
    assert account["outcome"] == "analysed", [(one["what"], one["detail"]) for one in account["events"]]
    objects = {one["role"]: one["sop_instance_uid"] for one in account["results"][0]["objects"]}
    report = tmp_path / "sr.dcm"
    report.write_bytes(archive.dicom_file(objects["sr"]))
    assert_valid_result_object(report, [tmp_path / "film.dcm"])
    outlines = polygons(report)
    for left, top in LINES:
        assert any(
            points.min(axis=0) == pytest.approx((left, top), abs=25) and len(points) > 4 for points in outlines
        ), outlines
