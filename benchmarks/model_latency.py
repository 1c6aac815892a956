"""Measures the networks of the zoo alone: time a film and films per second at batch 1, 8 and 32, on CPU and GPU.

Against whom: PyTorch running the same network's archive eagerly, and the device's own best rate, that of a large
matrix product; both in the same run. Preparing films and reading marks are not in it: `batching.py` has the whole way.
Run ``python -m benchmarks.model_latency [--threads N] [--device cpu|cuda] [--json]`` from the project's folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from inference.runtimes import Device, open_network
from models.card import Runtime
from models.inputs import VolumeInput
from models.registry import ZOO, InstalledModel, installed_models

_MATRIX_SIDES = {"cpu": 2048, "cuda": 8192}
_FLOPS_PER_MULTIPLICATION = 2  # it is added to something


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One model on one runtime at one size of batch."""

    model: str
    runtime: str
    device: str
    batch: int
    median_ms: float  # of a batch
    ms_per_film: float
    films_per_s: float
    share_of_peak: float | None  # of the device's float32 rate; None where the network's operations cannot be counted
    weights_bytes: int


def pictures_models(roots: Sequence[Path]) -> list[InstalledModel]:
    """The installed models that look at pictures, in the order of their references."""
    models = installed_models(roots).models
    return [models[name] for name in sorted(models) if not isinstance(models[name].card.input, VolumeInput)]


def peak_flops(device: str) -> float:
    """Float32 operations a second in the product of two large matrices: the best of a few tries."""
    side = _MATRIX_SIDES[device]
    one = torch.ones(side, side, device=device)

    def multiply() -> None:
        torch.mm(one, one)
        if device == "cuda":
            torch.cuda.synchronize()

    return _FLOPS_PER_MULTIPLICATION * side**3 / min(_times(multiply, repeats=8))


def flops_per_film(model: InstalledModel, shape: tuple[int, ...]) -> float | None:
    """Operations of convolutions and products for one film, counted while the archive runs once; None without one."""
    from torch.utils.flop_counter import FlopCounterMode

    if Runtime.TORCH not in model.runtimes:
        return None
    network = open_network(model, runtime=Runtime.TORCH, device=Device.CPU)
    try:
        with FlopCounterMode(display=False) as counter:
            network.run(np.zeros((1, *shape), dtype=np.float32))
        return float(counter.get_total_flops())
    finally:
        network.close()


def _times(call: Callable[[], object], *, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def measure(
    model: InstalledModel, runtime: Runtime, device: Device, batches: Sequence[int], threads: int, repeats: int
) -> list[Measured]:
    """Time one model on one runtime at every size of batch."""
    spec = model.card.input
    assert not isinstance(spec, VolumeInput)
    shape = (spec.channels, spec.height, spec.width)
    flops = flops_per_film(model, shape)
    network = open_network(model, runtime=runtime, device=device, threads=threads)
    torch.set_num_threads(threads)
    peak = peak_flops(network.device)
    random = np.random.default_rng(20)
    rows = []
    try:
        for batch in batches:
            films: NDArray[np.float32] = random.standard_normal((batch, *shape), dtype=np.float32)
            median = statistics.median(_times(lambda films=films: network.run(films), repeats=repeats))  # type: ignore[misc]
            rows.append(
                Measured(
                    model=model.card.reference,
                    runtime=runtime,
                    device=network.device,
                    batch=batch,
                    median_ms=median * 1000,
                    ms_per_film=median * 1000 / batch,
                    films_per_s=batch / median,
                    share_of_peak=None if flops is None else flops * batch / median / peak,
                    weights_bytes=len(model.weights(runtime)),
                )
            )
    finally:
        network.close()
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="threads of one inference on the CPU")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the CPU, and CUDA where there is one")
    parser.add_argument("--models", type=Path, default=ZOO, help="folder of models, <name>/<version>/card.toml")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    devices = [Device(options.device)] if options.device else [Device.CPU]
    if not options.device and torch.cuda.is_available():
        devices.append(Device.CUDA)
    rows = [
        row
        for model in pictures_models([options.models])
        for device in devices
        for runtime in model.runtimes
        for row in measure(model, runtime, device, options.batches, options.threads, options.repeats)
    ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{os.cpu_count()} cores, {platform.machine()}, {options.threads} threads, medians of {options.repeats}")
    print("model                     runtime device batch   ms/film  films/s  of peak  onnx/torch  weights MB")
    eager = {(row.model, row.device, row.batch): row.ms_per_film for row in rows if row.runtime == Runtime.TORCH}
    for row in rows:
        beside = eager.get((row.model, row.device, row.batch))
        ratio = f"{row.ms_per_film / beside:10.2f}" if beside else f"{'-':>10}"
        share = f"{row.share_of_peak:7.1%}" if row.share_of_peak is not None else f"{'-':>7}"
        print(
            f"{row.model:25} {row.runtime:7} {row.device:6} {row.batch:5d} {row.ms_per_film:9.2f}"
            f" {row.films_per_s:8.1f}  {share}  {ratio}  {row.weights_bytes / 1e6:10.1f}"
        )


if __name__ == "__main__":
    main()
