"""Measures CT volumes: tiles and volumes per second at batch 1, 8 and 32, on the CPU and, where there is one, the GPU.

Against whom: PyTorch running the same network eagerly, and the device's own best float32 rate, that of a large matrix
product; all in the same run. A volume is a chest of 300 x 360 x 360 mm in slices of 2.5 mm: it is resampled, cut,
looked at, decoded and merged; decoding of DICOM files is not in it. Run
``python -m benchmarks.volumes [--threads N] [--device cpu|cuda] [--json]`` from the project's folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.model_latency import peak_flops
from inference.runtimes import Device, open_network
from inference.runtimes.base import Network
from inference.volumes.decode import TileMark, tile_marks
from inference.volumes.grid import normalised, resample
from inference.volumes.merge import merged
from inference.volumes.tiles import cut, plan
from models.inputs import VolumeInput
from models.outputs import BoxesOutput
from models.registry import InstalledModel, installed_models
from tests.ct_phantoms import volume_of
from training.ct.network import Served, detector
from training.ct.recipe import read_recipe

RECIPE = Path(__file__).resolve().parents[1] / "training" / "recipes" / "lung_nodule_demo.toml"
CHEST = (120, 512, 512)
SPACING_MM = (2.5, 0.703125, 0.703125)
_Run = Callable[[NDArray[np.float32]], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One runtime at one size of batch."""

    runtime: str
    device: str
    batch: int
    ms_per_tile: float
    tiles_per_s: float
    share_of_peak: float
    volumes_per_s: float | None  # the whole way of a volume, as the node serves it: alone on a CPU, in batches on a GPU


def chest() -> NDArray[np.float32]:
    """Hounsfield units of a body with two lungs and noise: what is in it does not change the time of the network."""
    z, y, x = np.ogrid[0 : CHEST[0], 0 : CHEST[1], 0 : CHEST[2]]
    values = np.full(CHEST, -1000.0, dtype=np.float32)
    values[np.broadcast_to(((x - 256) / 240) ** 2 + ((y - 256) / 180) ** 2 < 1, CHEST)] = 40
    for middle in (150, 362):
        values[
            np.broadcast_to(((x - middle) / 85) ** 2 + ((y - 256) / 130) ** 2 + (z - 60) ** 2 / 58**2 < 1, CHEST)
        ] = -850
    return values + np.random.default_rng(0).normal(0, 20, CHEST).astype(np.float32)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The best of `repeats` calls, after one that does not count: whatever else the machine does only adds."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def whole_volume(model: InstalledModel, network: Network, batch: int) -> float:
    """Seconds of one volume from Hounsfield units to merged places."""
    spec, output = model.card.input, model.card.output
    assert isinstance(spec, VolumeInput) and isinstance(output, BoxesOutput)
    volume = volume_of(chest(), SPACING_MM)
    started = time.perf_counter()
    grid = resample(volume, spec)
    tiles = plan(grid.shape, spec.tile, spec.overlap)
    marks: list[TileMark] = []
    for start in range(0, len(tiles), batch):
        some = tiles[start : start + batch]
        outputs = network.run(np.stack([normalised(cut(grid.voxels, tile), spec)[np.newaxis] for tile in some]))
        for index, tile in enumerate(some):
            marks += tile_marks({name: array[index] for name, array in outputs.items()}, tile, model.card)
    merged(marks, nms_iou=output.nms_iou, max_lesions=output.max_lesions)
    return time.perf_counter() - started


def eager(device: str) -> tuple[_Run, float]:
    """The network in PyTorch, and operations of one tile."""
    from torch.utils.flop_counter import FlopCounterMode

    recipe = read_recipe(RECIPE)
    served = Served(detector(recipe), recipe).eval().to(device)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        served(torch.zeros(1, 1, *recipe.input.tile, device=device))

    def run(tiles: NDArray[np.float32]) -> object:
        with torch.inference_mode():
            boxes, scores = served(torch.from_numpy(tiles).to(device))
            return boxes.cpu(), scores.cpu()

    return run, float(counter.get_total_flops())


def measure(model: InstalledModel, device: Device, options: argparse.Namespace) -> list[Measured]:
    """Both runtimes on one device."""
    spec = model.card.input
    assert isinstance(spec, VolumeInput)
    torch.set_num_threads(options.threads)
    network = open_network(model, device=device, threads=options.threads)
    in_torch, flops = eager(network.device)
    peaks = [peak_flops(network.device)]
    random = np.random.default_rng(1)
    rows = []
    runs: dict[str, _Run] = {"onnx": network.run, "torch": in_torch}
    for batch in options.batches:
        tiles = random.standard_normal((batch, 1, *spec.tile), dtype=np.float32)
        for name, run in runs.items():
            spent = seconds(lambda run=run, tiles=tiles: run(tiles), options.repeats) / batch  # type: ignore[misc]
            served = name == "onnx" and batch == options.batches[-1 if network.device == "cuda" else 0]
            whole = whole_volume(model, network, batch) if served else None
            peaks.append(peak_flops(network.device))  # others may share the machine: the best of all counts
            rows.append(
                Measured(
                    runtime=name,
                    device=network.device,
                    batch=batch,
                    ms_per_tile=spent * 1000,
                    tiles_per_s=1 / spent,
                    share_of_peak=flops / spent,
                    volumes_per_s=None if whole is None else 1 / whole,
                )
            )
    network.close()
    return [replace(row, share_of_peak=row.share_of_peak / max(peaks)) for row in rows]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="threads of one inference on the CPU")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the CPU, and CUDA where there is one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = installed_models().latest("lung-nodule-demo")
    if model is None:
        raise SystemExit("models/zoo holds no lung-nodule-demo")
    devices = [Device(options.device)] if options.device else [Device.CPU]
    if not options.device and torch.cuda.is_available():
        devices.append(Device.CUDA)
    rows = [row for device in devices for row in measure(model, device, options)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{os.cpu_count()} cores, {platform.machine()}, {options.threads} threads, best of {options.repeats}")
    print("runtime device batch  ms/tile  tiles/s  of peak  onnx : torch  volumes/s")
    beside = {(row.device, row.batch): row.ms_per_tile for row in rows if row.runtime == "torch"}
    for row in rows:
        whole = f"{row.volumes_per_s:10.3f}" if row.volumes_per_s is not None else f"{'-':>10}"
        print(
            f"{row.runtime:7} {row.device:6} {row.batch:5d} {row.ms_per_tile:8.2f} {row.tiles_per_s:8.1f}"
            f" {row.share_of_peak:8.1%} {row.ms_per_tile / beside[row.device, row.batch]:13.2f} {whole}"
        )


if __name__ == "__main__":
    main()
