"""Remakes the picture of the README: `python -m tests.make_pictures`.

A real film (NIH ChestX-ray14, wrapped as DX; Wang et al., CVPR 2017, images of the NIH Clinical Center) goes through a
node with the chest model of this repository into Orthanc, and is photographed in OHIF as the tests see it.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from tests.acceptance.test_viewer import WITHOUT_TOUR, deliver, settle, show_report
from tests.archives import Orthanc
from tests.browser import Browser
from tests.conftest import PROJECT, SHARED
from tests.dx_wrapping import write_dx
from tests.ohif import OhifServer
from tests.running_node import RunningNode, to_orthanc

TARGET = PROJECT / "docs" / "images" / "viewer.png"
RULE = {"name": "chest", "model": "chest-opacity", "destinations": ["pacs"], "match": {"modality": ["DX"]}}
PROFILE = {"name": "default", "language": "en"}


def chosen_film(films: Path) -> Path:
    """The first film with two opacities marked by radiologists."""
    with (films / "boxes.csv").open(newline="") as table:
        marked = [row for row in csv.DictReader(table) if "RSNA" in str(row.values())]
    names = [next(value for value in row.values() if value and value.endswith((".jpg", ".png"))) for row in marked]
    stems = [Path(name).stem for name in names if names.count(name) == 2]
    return next(film for stem in stems for film in films.rglob(f"{stem}.jpg"))


def view_of(film: Path) -> str:
    """AP or PA, as the labels beside the films say."""
    with (SHARED / "data" / "chest_xray_nih" / "labels.csv").open(newline="") as table:
        return next(row["view"] for row in csv.DictReader(table) if row["image"] == film.name)


def main() -> None:
    """Write `docs/images/viewer.png`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = chosen_film(SHARED / "data" / "chest_xray_nih")
        wrapped = write_dx(film, folder, view=view_of(film), patient_name="Example^Film")
        with Orthanc(folder / "archive") as archive, OhifServer(archive.http_url) as viewer:
            settings = {
                "destination": [to_orthanc(archive)],
                "profile": [PROFILE],
                "models": {"include_zoo": True},
            }
            with RunningNode(folder / "node", settings, routes=[RULE]) as node:
                study = deliver(node, archive, wrapped)
            with Browser(folder) as browser:
                page = browser.page(width=1280, height=800)
                page.call("Page.addScriptToEvaluateOnNewDocument", source=WITHOUT_TOUR)
                show_report(page, viewer, study)
                settle(page)
                TARGET.write_bytes(page.screenshot_png())
    print(f"{TARGET.relative_to(PROJECT)}: {TARGET.stat().st_size // 1024} kB, {len(study.boxes)} lesion(s)")


if __name__ == "__main__":
    main()
