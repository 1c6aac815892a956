"""Pictures of the wrong kind sent to a running node as chest films: refused, told to the radiologist, never analysed.

The guard is fitted on some real films; what is sent is another real film, that film wrongly shown, and other things.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deid_data
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from models.inputs import ProjectionInput
from tests.archives import Orthanc
from tests.dx_wrapping import dx_bytes, wrap_film_as_dx
from tests.guards import install_guard
from tests.out_of_range import CHANGED, Picture, files
from tests.running_node import RunningNode, to_orthanc
from tests.toy_model import install_toy_model
from training.guard import FittedGuard, GuardSettings, fit_guard, guard_films
from training.readers import read_set
from training.splits import split_by_patient

FITTED, STEP = 120, 5


@pytest.fixture(scope="module")
def films(shared_data: Path) -> list[Path]:
    """Real films that the guard has not seen."""
    every = [film.path for film in read_set("nih-chest", shared_data / "chest_xray_nih").films if film.adult]
    return every[2::STEP]


@pytest.fixture(scope="module")
def guard(shared_data: Path) -> FittedGuard:
    adults = [film for film in read_set("nih-chest", shared_data / "chest_xray_nih").films if film.adult]
    some = adults[::STEP][:FITTED]
    splits = split_by_patient(some, folds=3, seed=0)
    settings = GuardSettings(variations=3)
    return fit_guard(guard_films(some, splits, ProjectionInput(height=320, width=320), settings=settings), settings)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, archive: Orthanc, guard: FittedGuard) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node")
    models = {}
    for action in ("refuse", "flag"):
        card = install_toy_model(folder / "models", name=f"toy-{action}")
        install_guard(folder / "models" / f"toy-{action}" / card.identity.version, guard, action=action)  # type: ignore[arg-type]
        models[action] = card.identity.name
    running = RunningNode(
        folder / "node",
        {
            "assembly": {"projection_quiet_s": 0.2, "other_quiet_s": 0.5, "association_idle_s": 1.0},
            "destination": [to_orthanc(archive)],
        },
        routes=[
            {
                "name": "refusing",
                "model": models["refuse"],
                "destinations": ["pacs"],
                "match": {"modality": ["CR", "DX"], "calling_ae": ["SENDER"]},
            },
            {
                "name": "flagging",
                "model": models["flag"],
                "destinations": ["pacs"],
                "match": {"modality": ["CR", "DX"], "calling_ae": ["FLAGGED"]},
            },
        ],
        models=folder / "models",
    )
    with running:
        yield running


def send(node: RunningNode, picture: Path, folder: Path, *, calling_ae: str = "SENDER", **wrapping: Any) -> Any:
    """Wrap a picture as a chest film, send it, and wait for the account of what became of it."""
    study = generate_uid()
    file = folder / "film.dcm"
    file.write_bytes(dx_bytes(wrap_film_as_dx(picture, study_uid=study, **wrapping)))
    node.send([file], calling_ae=calling_ae)
    return node.wait_for_outcome(study)


def assert_refused(account: Any, *words: str) -> None:
    """Refused for the reason, in words, with a result that says so to whoever opens the study."""
    assert (account["outcome"], account["outcome_reason"]) == ("not_analysed", "out_of_range")
    for word in (*words, "distance", "accepted up to"):
        assert word in account["outcome_detail"]
    (result,) = account["results"]
    assert [one["role"] for one in result["objects"]] == ["status_page"]


def save(pixels: np.ndarray, path: Path) -> Path:  # type: ignore[type-arg]
    Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(path)
    return path


def as_grey(path: Path) -> np.ndarray:  # type: ignore[type-arg]
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), dtype=np.float32) / 255


def test_a_real_film_is_analysed_in_either_polarity(node: RunningNode, films: list[Path], tmp_path: Path) -> None:
    for inverted in (False, True):
        account = send(node, films[0], tmp_path, inverted=inverted)
        assert account["outcome"] == "analysed"
        assert "out_of_range" not in str(account["jobs"][-1]["flags"])


def test_an_inverted_film_is_refused_and_called_inverted(node: RunningNode, films: list[Path], tmp_path: Path) -> None:
    account = send(node, save(1 - as_grey(films[0]), tmp_path / "film.png"), tmp_path)
    assert_refused(account, "inverted")


def test_a_film_upside_down_is_refused_and_called_so(node: RunningNode, films: list[Path], tmp_path: Path) -> None:
    account = send(node, save(CHANGED["turned_180"](as_grey(films[1])), tmp_path / "film.png"), tmp_path)
    assert_refused(account, "upside down")


def test_a_photograph_wrapped_as_a_chest_film_is_refused(node: RunningNode, tmp_path: Path, shared_data: Path) -> None:
    path = "matplotlib/mpl-data/sample_data/grace_hopper.jpg"
    photograph = Picture(**{"from": "package"}, kind="", note="", against=(), path=path, licence="")  # type: ignore[arg-type]
    (portrait,) = files(photograph, shared_data)
    assert_refused(send(node, portrait, tmp_path))


def test_the_cat_sent_as_a_chest_film_is_refused(node: RunningNode, tmp_path: Path) -> None:
    cat = dcmread(Path(next(iter(deid_data.__path__))) / "data" / "animals" / "cat.dcm")
    cat.StudyInstanceUID = generate_uid()
    cat.BodyPartExamined, cat.ViewPosition = "CHEST", "PA"
    cat.save_as(tmp_path / "cat.dcm", enforce_file_format=True)
    node.send([tmp_path / "cat.dcm"])
    assert_refused(node.wait_for_outcome(cat.StudyInstanceUID))


def test_a_model_that_flags_analyses_the_film_and_shows_the_caution(
    node: RunningNode, films: list[Path], tmp_path: Path
) -> None:
    account = send(node, save(1 - as_grey(films[2]), tmp_path / "film.png"), tmp_path, calling_ae="FLAGGED")
    assert account["outcome"] == "analysed"
    assert "out_of_range" in account["jobs"][-1]["flags"]
