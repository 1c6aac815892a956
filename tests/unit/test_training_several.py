"""Several processes train one network: what is equal, and with what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training_films import STILL, blob_films, recipe
from training.loop import fit
from training.several import Processes

PROJECT = Path(__file__).resolve().parents[2]
WORKER = """
import sys
from pathlib import Path
import torch
from tests.training_films import STILL, blob_films, recipe
from training.loop import fit
from training.several import joined

torch.set_num_threads(1)
out = Path(sys.argv[1])
films, prepared = blob_films(8, every=1)
with joined() as processes:
    plan = recipe(epochs=2, augmentation=STILL, dropout=0.0)
    network = fit(plan, films, prepared, checkpoint=out / "a.pt", pretrained=False, processes=processes)
    torch.save(network.state_dict(), out / f"rank-{processes.rank}.pt")
"""


def test_two_processes_end_with_equal_weights_which_are_those_of_one_where_losses_are_plain_means(
    tmp_path: Path,
) -> None:
    """Every film shows one and the same box, nothing is changed at random: then the loss of a batch is the mean of
    the losses of its halves, and two processes must do what one does, up to the order of sums."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*launch, str(worker), str(tmp_path)], env=environment, check=True, timeout=200, capture_output=True)
    one, other = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    films, prepared = blob_films(8, every=1)
    plan = recipe(epochs=2, augmentation=STILL, dropout=0.0)
    alone = fit(plan, films, prepared, checkpoint=tmp_path / "alone.pt", pretrained=False).state_dict()
    moved = fit(plan, films, prepared, checkpoint=tmp_path / "b.pt", pretrained=False, stop_after=1).state_dict()
    for name, value in alone.items():
        assert torch.allclose(one[name], value, atol=2e-4), name
    assert any(not torch.allclose(alone[name], moved[name], atol=1e-3) for name in alone)  # there was much to learn


@given(st.lists(st.integers(), min_size=1, max_size=20, unique=True), st.integers(1, 6))
def test_the_shares_of_all_processes_are_the_batch(batch: list[int], count: int) -> None:
    shares = [Processes(rank=rank, count=count, device=torch.device("cpu")).share(batch) for rank in range(count)]  # type: ignore[type-var]
    assert {film for share in shares for film in share} == set(batch)
    assert all(shares)
    if len(batch) >= count:
        assert sorted(film for share in shares for film in share) == sorted(batch)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
