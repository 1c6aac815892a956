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


@pytest.fixture(scope="module")
def films(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adult films, half of them with a marked opacity, wrapped as DX."""
    folder = shared_data / "chest_xray_nih"
    with (folder / "boxes.csv").open() as file:
        boxed = sorted({next(iter(row.values())) for row in csv.DictReader(file)})
    names = [path.name for path in sorted((folder / "images").iterdir())]
    marked = [name for name in names if name in boxed or Path(name).stem in {Path(box).stem for box in boxed}]
    chosen = marked[: FILMS // 2] + [name for name in names if name not in marked][: FILMS // 2]
    target = tmp_path_factory.mktemp("films")
    return [
        film_file(target / f"{number}.dcm", np.asarray(PIL.Image.open(folder / "images" / name).convert("L")))
        for number, name in enumerate(chosen)
    ]


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


def test_both_runtimes_say_the_same_of_real_films(films: list[Path]) -> None:
    for model in two_runtime_models():
        lesions = 0
        pairs = zip(analyses(model, "onnx", films), analyses(model, "torch", films), strict=True)
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
