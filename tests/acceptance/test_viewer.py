"""What a radiologist sees: the node's results as OHIF shows them in a real browser, from a real archive.

The node receives films by C-STORE and delivers to Orthanc by itself; OHIF reads Orthanc's DICOMweb. Places on the
screen are compared with the boxes that `radnode explain --json` tells. The picture of the README is made by
`python -m tests.make_pictures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread

from inference.images import LoadLimits
from inference.loading import load_image
from tests.archives import Orthanc
from tests.browser import Browser, Page
from tests.dx_wrapping import write_dx
from tests.ohif import OhifServer
from tests.running_node import RunningNode, to_orthanc
from tests.toy_model import install_toy_model

FILMS = ("not-square", "wrapped-monochrome1")
RULE = {"name": "chest", "model": "toy-opacity", "destinations": ["pacs"], "match": {"modality": ["CR", "DX"]}}
WITHOUT_TOUR = "localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))"
# What OHIF's error boundary and its dialogs for what it cannot load say.
ERRORS = ("something went wrong", "error details", "unsupported", "error loading", "stack trace")
COLOURED = 60  # spread between the channels of a pixel from which it is no grey
NEAR_PX = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """A film, and what the ledger says of its study."""

    film: Path
    account: Mapping[str, Any]

    @property
    def study_uid(self) -> str:
        return str(self.account["study_uid"])

    @property
    def boxes(self) -> list[tuple[float, float, float, float]]:
        return [tuple(lesion["box"]) for job in self.account["jobs"] for lesion in job["lesions"]]

    def series(self, role: str) -> str:
        (found,) = [
            written["series_uid"]
            for result in self.account["results"]
            if result["is_current"]
            for written in result["objects"]
            if written["role"] == role
        ]
        return str(found)


def crop(film: Path, target: Path, box: tuple[int, int, int, int]) -> Path:
    """A part of a film, so that it is not square."""
    with Image.open(film) as picture:
        picture.convert("L").crop(box).save(target)
    return target


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("viewed-archive")) as server:
        yield server


@pytest.fixture(scope="module")
def delivered(archive: Orthanc, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Delivered]:
    folder = tmp_path_factory.mktemp("viewed")
    first, second = sorted((shared_data / "chest_xray_nih").rglob("*.jpg"))[3:5]
    films = {
        "not-square": write_dx(crop(first, folder / "cropped.png", (40, 130, 760, 640)), folder),
        "wrapped-monochrome1": write_dx(second, folder, inverted=True),
    }
    install_toy_model(folder / "models", views=("PA", "AP", ""))
    settings = {"destination": [to_orthanc(archive)]}
    with RunningNode(folder / "node", settings, routes=[RULE], models=folder / "models") as node:
        return {name: deliver(node, archive, film) for name, film in films.items()}


def deliver(node: RunningNode, archive: Orthanc, film: Path) -> Delivered:
    """Send a film to archive and node, as a PACS would have it, and wait for the result in the archive."""
    archive.upload(film)
    node.send([film])
    study_uid = str(dcmread(film, stop_before_pixels=True).StudyInstanceUID)
    ended = node.wait_for_outcome(study_uid)
    assert [one["state"] for one in ended["deliveries"]] == ["confirmed"]
    return Delivered(film=film, account=node.explain(study_uid))


@pytest.fixture(scope="module")
def viewer(archive: Orthanc) -> Iterator[OhifServer]:
    with OhifServer(archive.http_url) as server:
        yield server


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        tab = browser.page()
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=WITHOUT_TOUR)
        yield tab


def show(page: Page, url: str, *, instance: str | None = None) -> None:
    """Open an address of the viewer and wait until it has drawn the image whose address holds `instance`."""
    page.open(url)
    page.wait_for(
        "cornerstone.getEnabledElements().length === 1 && cornerstone.getEnabledElements()"
        f".every(e => e.viewport.getCurrentImageId()?.includes('{instance or ''}') && e.viewport.getImageData())"
    )


def show_report(page: Page, viewer: OhifServer, study: Delivered) -> None:
    """Open the report, wait for one mark per lesion, and put away the question whether to go on measuring."""
    source = str(dcmread(study.film, stop_before_pixels=True).SOPInstanceUID)
    show(page, viewer.study_url(study.study_uid, first_series=study.series("sr")), instance=source)
    page.wait_for(f"document.querySelectorAll('svg.svg-layer text').length >= {len(study.boxes)}")
    button = "[...document.querySelectorAll('button')].find(b => b.innerText.trim() === 'No')"
    page.wait_for(button + " !== undefined")
    page.evaluate(button + ".click()")
    page.wait_for(button + " === undefined")
    settle(page)


def settle(page: Page) -> NDArray[np.uint8]:
    """The screenshot once two in a row are equal."""
    before = page.screenshot()
    for _ in range(50):
        page.evaluate("new Promise(done => setTimeout(done, 200))")
        now = page.screenshot()
        if np.array_equal(before, now):
            return now
        before = now
    raise AssertionError("the viewer does not come to rest")


def assert_no_error(page: Page) -> None:
    shown = page.evaluate("document.body.innerText").lower()
    assert not [word for word in ERRORS if word in shown], shown
    assert not page.troubles, page.troubles


def corners_on_screen(page: Page) -> NDArray[np.float64]:
    """Where the viewer puts the image's top-left and bottom-right corner, (2, 2) in pixels of the screenshot: x, y."""
    script = """(() => {
        const {viewport} = cornerstone.getEnabledElements()[0];
        const {imageData} = viewport.getImageData();
        const [columns, rows] = imageData.getDimensions();
        const canvas = viewport.canvas.getBoundingClientRect();
        return [[0, 0], [columns, rows]].map(corner => {
            // Of an index, whole numbers are the centres of pixels; of our boxes, the corners.
            const [x, y] = viewport.worldToCanvas(imageData.indexToWorld([corner[0] - 0.5, corner[1] - 0.5, 0]));
            return [x + canvas.left, y + canvas.top];
        });
    })()"""
    return np.asarray(page.evaluate(script), dtype=np.float64)


def grey_of(study: Delivered) -> NDArray[np.float32]:
    return np.asarray(load_image(study.film, limits=LoadLimits()).pixels)


def correlation_with_film(page: Page, study: Delivered) -> float:
    """Of what is shown with the film as it is to be displayed, over what of the film is on the screen."""
    shot = page.screenshot().astype(np.float64)
    (left, top), (right, bottom) = corners_on_screen(page)
    canvas = page.evaluate(
        "(r => [r.left, r.top, r.right, r.bottom])"
        "(cornerstone.getEnabledElements()[0].viewport.canvas.getBoundingClientRect())"
    )
    margin = 40  # the viewer's own words lie along the edges
    x = np.arange(max(left, canvas[0]) + margin, min(right, canvas[2]) - margin).astype(int)
    y = np.arange(max(top, canvas[1]) + margin, min(bottom, canvas[3]) - margin).astype(int)
    film = grey_of(study)
    rows = ((y + 0.5 - top) / (bottom - top) * film.shape[0]).astype(int)
    columns = ((x + 0.5 - left) / (right - left) * film.shape[1]).astype(int)
    seen = shot[np.ix_(y, x)]
    grey = np.ptp(seen, axis=2) < 8  # marks are no film
    return float(np.corrcoef(seen.mean(axis=2)[grey], film[np.ix_(rows, columns)][grey])[0, 1])


def share_of_outline(
    coloured: NDArray[np.bool_], corners: NDArray[np.float64], size: tuple[int, int], box: tuple[float, ...]
) -> list[float]:
    """Of each edge of a box in source pixels, the share that has colour within `NEAR_PX` on the screen."""
    rows, columns = size
    scale = (corners[1] - corners[0]) / (columns, rows)
    (x0, y0), (x1, y1) = (corners[0] + np.asarray(point) * scale for point in (box[:2], box[2:]))
    across, down = np.linspace(x0, x1, 60), np.linspace(y0, y1, 60)
    edges: list[tuple[Any, Any]] = [(across, [y0] * 60), (across, [y1] * 60), ([x0] * 60, down), ([x1] * 60, down)]
    return [float(np.mean([_near(coloured, x, y) for x, y in zip(*edge, strict=True)])) for edge in edges]


def _near(coloured: NDArray[np.bool_], x: float, y: float) -> bool:
    column, row = int(x), int(y)
    part = coloured[max(0, row - NEAR_PX) : row + NEAR_PX + 1, max(0, column - NEAR_PX) : column + NEAR_PX + 1]
    return bool(part.any())


@pytest.mark.parametrize("name", FILMS)
def test_the_source_film_is_shown_as_it_is_to_be_displayed(
    name: str, delivered: dict[str, Delivered], viewer: OhifServer, page: Page
) -> None:
    study = delivered[name]
    show(page, viewer.study_url(study.study_uid))
    settle(page)
    assert correlation_with_film(page, study) > 0.98
    assert_no_error(page)


@pytest.mark.parametrize("name", FILMS)
def test_the_reports_polygons_lie_where_the_ledger_says(
    name: str, delivered: dict[str, Delivered], viewer: OhifServer, page: Page
) -> None:
    study = delivered[name]
    assert study.boxes, "the film must have a lesion"
    show_report(page, viewer, study)
    assert correlation_with_film(page, study) > 0.98
    corners, size = corners_on_screen(page), grey_of(study).shape
    coloured = np.ptp(page.screenshot().astype(int), axis=2) > COLOURED
    for x_min, y_min, x_max, y_max in study.boxes:
        shares = share_of_outline(coloured, corners, (size[0], size[1]), (x_min, y_min, x_max, y_max))
        assert min(shares) > 0.6, (x_min, y_min, x_max, y_max, shares)
        # The same test at half the size and doubled about the same centre must fail, or it would see colour anywhere.
        dx, dy = (x_max - x_min) / 6, (y_max - y_min) / 6
        inside = share_of_outline(
            coloured, corners, (size[0], size[1]), (x_min + dx, y_min + dy, x_max - dx, y_max - dy)
        )
        assert np.mean(inside) < 0.5, inside
    words = page.evaluate("[...document.querySelectorAll('svg.svg-layer text')].map(t => t.textContent).join(' ')")
    for job in study.account["jobs"]:
        for lesion in job["lesions"]:
            assert f"{lesion['score'] * 100:.2f}" in words
    assert_no_error(page)


@pytest.mark.parametrize("name", FILMS)
def test_the_overlay_series_opens_and_shows_coloured_marks(
    name: str, delivered: dict[str, Delivered], viewer: OhifServer, page: Page
) -> None:
    study = delivered[name]
    show(
        page, viewer.study_url(study.study_uid, first_series=study.series("overlay")), instance=study.series("overlay")
    )
    shot = settle(page).astype(int)
    (left, top), (right, bottom) = corners_on_screen(page).astype(int)
    part = shot[max(top, 0) : bottom, max(left, 0) : right]
    assert np.mean(np.ptp(part, axis=2) > COLOURED) > 0.002
    assert_no_error(page)
