"""A training that is killed at any moment goes on to the same curve and the same weights."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parents[2]
EPOCHS, KILLS = 6, 3
WORKER = f"""
import sys
from pathlib import Path
import torch
from tests.training_films import blob_films, recipe
from training.loop import fit

torch.set_num_threads(1)
films, prepared = blob_films()
out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
(out / "started").touch()
fit(recipe(epochs={EPOCHS}), films, prepared, checkpoint=out / "a.pt", pretrained=False)
(out / "ended").touch()
"""


def started(worker: Path, out: Path) -> subprocess.Popen[bytes]:
    """The worker, once it has loaded its libraries."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    (out / "started").unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, str(worker), str(out)], env=environment)
    while not (out / "started").exists():
        assert process.poll() is None, "the worker ended before it began"
        time.sleep(0.01)
    return process


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    whole = started(worker, tmp_path / "whole")
    training = time.monotonic()
    assert whole.wait(200) == 0
    lasts = time.monotonic() - training
    cut, moments = tmp_path / "cut", []
    for _ in range(KILLS):
        process = started(worker, cut)
        moments.append(random.uniform(0, lasts / 2))
        time.sleep(moments[-1])
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    assert started(worker, cut).wait(200) == 0
    told = f"killed after {moments} s"
    assert (cut / "ended").exists(), told
    histories = [(tmp_path / name / "a.history.jsonl").read_text() for name in ("whole", "cut")]
    assert len(histories[0].splitlines()) == EPOCHS
    assert histories[0] == histories[1], told
    one, other = (torch.load(tmp_path / name / "a.pt", weights_only=True) for name in ("whole", "cut"))
    for name, weights in one["average"].items():
        assert torch.equal(weights, other["average"][name]), f"{name}, {told}"
