"""Measures the dynamic batcher against batch 1: throughput, p95 latency, and what of a study's time is not the model.

Against whom: the same engine and model with `max_batch=1`. Run ``python -m benchmarks.batching [--films N] [--json]``
from the project's folder; it takes the newest model of `models/zoo`, else a network it exports itself, and films of
``../shared/data`` wrapped as DX, else drawn ones. Prints figures and their ratios; absolute figures are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from inference.engine import Analysis, Engine, EngineSettings, StudyInput
from models.registry import InstalledModel, installed_models
from tests.networks import DiscFinder, export, install
from tests.pictures import disc_picture, film_file

FILMS_FOLDER = Path(__file__).resolve().parents[1] / "../shared/data/chest_xray_nih/images"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One way of running, all films sent at once."""

    max_batch: int
    films: int
    device: str
    films_per_s: float
    median_s: float
    p95_s: float
    model_share: float  # of the run's wall time, some batch was in the network
    alone_s: float  # one film in an idle engine, end to end, median
    alone_not_model: float  # share of that which is not the network


def a_model(folder: Path) -> InstalledModel:
    """The newest shipped model, else a network of convolutions exported here."""
    shipped = list(installed_models().models.values())
    return shipped[-1] if shipped else install(folder / "models", export(DiscFinder(work=6)))


def some_films(folder: Path, count: int) -> list[Path]:
    """DX files: real films where they are, else drawn ones of the same size."""
    sources = sorted(FILMS_FOLDER.iterdir())[:count] if FILMS_FOLDER.is_dir() else []
    pictures = [np.asarray(PIL.Image.open(source).convert("L")) for source in sources]
    pictures = pictures or [disc_picture(768, 768)]
    return [
        film_file(folder / f"{number}.dcm", pictures[number % len(pictures)], PatientAge="050Y")
        for number in range(count)
    ]


def measure(model: InstalledModel, films: Sequence[Path], max_batch: int, device: str) -> Measured:
    """Send all films at once, then a few alone."""
    settings = EngineSettings(max_batch=max_batch, device=device)  # type: ignore[arg-type]
    engine = Engine([model], settings=settings)
    reference = model.card.reference
    try:
        ended: dict[int, float] = {}
        started = time.perf_counter()
        futures: list[Future[Analysis]] = []
        for number, film in enumerate(films):
            future = engine.submit(reference, StudyInput(study_uid=f"1.2.{number}", images=(film,)))
            future.add_done_callback(lambda _done, number=number: ended.setdefault(number, time.perf_counter()))
            futures.append(future)
        analyses = [future.result() for future in futures]
        wall = time.perf_counter() - started
        refused = [analysis.refusal for analysis in analyses if analysis.findings is None]
        if refused:
            raise SystemExit(f"a film was refused: {refused[0]}")
        latencies = sorted(end - started for end in ended.values())
        batches = {analysis.timings_s["model"] for analysis in analyses}  # films of one batch share one figure
        alone = [engine.submit(reference, StudyInput(study_uid="1.2", images=(film,))).result() for film in films[:10]]
        return Measured(
            max_batch=max_batch,
            films=len(films),
            device=engine.devices[reference],
            films_per_s=len(films) / wall,
            median_s=statistics.median(latencies),
            p95_s=latencies[min(int(len(latencies) * 0.95), len(latencies) - 1)],
            model_share=min(sum(batches) / wall, 1.0),
            alone_s=statistics.median(one.timings_s["total"] for one in alone),
            alone_not_model=statistics.median(1 - one.timings_s["model"] / one.timings_s["total"] for one in alone),
        )
    finally:
        engine.close()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, films = a_model(folder), some_films(folder, arguments.films)
        runs = [measure(model, films, max_batch, arguments.device) for max_batch in arguments.batches]
    if arguments.json:
        print(json.dumps({"model": model.card.reference, "runs": [asdict(run) for run in runs]}))
        return
    print(
        f"{model.card.reference} on {runs[0].device}, {os.cpu_count()} cores, {platform.machine()}, {len(films)} films"
    )
    print("max batch  films/s  ratio  median s  p95 s  ratio  model share  alone s  of it not model")
    for run in runs:
        print(
            f"{run.max_batch:9d}  {run.films_per_s:7.1f}  {run.films_per_s / runs[0].films_per_s:5.2f}"
            f"  {run.median_s:8.3f}  {run.p95_s:5.2f}  {run.p95_s / runs[0].p95_s:5.2f}  {run.model_share:11.0%}"
            f"  {run.alone_s:7.3f}  {run.alone_not_model:15.0%}"
        )


if __name__ == "__main__":
    main()
