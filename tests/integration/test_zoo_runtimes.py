"""Every shipped model that has weights for both runtimes says the same through both, on real films."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from inference.engine import Analysis, Engine, EngineSettings, StudyInput
from models.card import Runtime
from models.registry import InstalledModel, installed_models
from tests.conftest import missing
from tests.pictures import film_file

FILMS = 8
BOX_PIXELS = 0.1
SCORE = 1e-3


def two_runtime_models() -> list[InstalledModel]:
    found = [model for model in installed_models().models.values() if set(model.runtimes) == set(Runtime)]
    if not found:
        missing("no model in models/zoo carries weights for both runtimes")
    return found


def written(folder: Path, pictures: list[Path], **changes: str) -> list[Path]:
    return [
        film_file(folder / f"{number}.dcm", np.asarray(PIL.Image.open(path).convert("L")), **changes)
        for number, path in enumerate(pictures)
    ]


def some(names: list[str], marked: set[str]) -> list[str]:
    """Films, half of them with a lesion."""
    return [name for name in names if name in marked][: FILMS // 2] + [n for n in names if n not in marked][
        : FILMS // 2
    ]


def rows(table: Path) -> list[dict[str, str]]:
    with table.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def films(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """By modality: chest films wrapped as DX, film mammograms as MG."""
    chest, breast = shared_data / "chest_xray_nih", shared_data / "mammography_mini_mias"
    boxed = {row["image"] for row in rows(chest / "boxes.csv")}
    located = {row["image"] for row in rows(breast / "lesions.csv") if row["x"]}
    names = some(sorted(path.name for path in (chest / "images").iterdir()), boxed)
    views = some(sorted(path.name for path in (breast / "images").iterdir()), located)
    as_mammogram = {"Modality": "MG", "BodyPartExamined": "BREAST", "ViewPosition": "MLO", "ImageLaterality": "R"}
    return {
        "DX": written(tmp_path_factory.mktemp("chest"), [chest / "images" / name for name in names]),
        "MG": written(
            tmp_path_factory.mktemp("breast"),
            [breast / "images" / name for name in views],
            SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2",
            **as_mammogram,
        ),
    }


def analyses(model: InstalledModel, runtime: str, films: list[Path]) -> list[Analysis]:
    settings = EngineSettings(runtime=runtime, network_threads=1, device="cpu")  # type: ignore[arg-type]
    engine = Engine([model], settings=settings)
    try:
        futures = [
            engine.submit(model.card.reference, StudyInput(study_uid=f"1.2.{number}", images=(film,)))
            for number, film in enumerate(films)
        ]
        return [future.result(120) for future in futures]
    finally:
        engine.close()


def test_both_runtimes_say_the_same_of_real_films(films: dict[str, list[Path]]) -> None:
    for model in two_runtime_models():
        lesions = 0
        (own,) = (paths for modality, paths in films.items() if modality in model.card.intended_use.modalities)
        pairs = zip(analyses(model, "onnx", own), analyses(model, "torch", own), strict=True)
        for one, other in pairs:
            assert one.inputs_digest == other.inputs_digest
            assert one.findings is not None
            assert other.findings is not None
            assert len(one.findings.lesions) == len(other.findings.lesions)
            for mine, theirs in zip(one.findings.lesions, other.findings.lesions, strict=True):
                assert mine.score == pytest.approx(theirs.score, abs=SCORE)
                boxes = mine.region.key_plane.box, theirs.region.key_plane.box
                assert np.ravel(boxes[0].corners) == pytest.approx(np.ravel(boxes[1].corners), abs=BOX_PIXELS)
            for said, also in zip(one.findings.findings, other.findings.findings, strict=True):
                assert said.presence is also.presence
                assert said.score == pytest.approx(also.score, abs=SCORE)
            lesions += len(one.findings.lesions)
        assert lesions  # a comparison of silences would prove nothing
