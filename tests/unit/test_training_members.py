"""Several networks answer as their mean, are trained from seeds of their own, and are stored in half the room."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training_films import blob_films, recipe
from training.export import export, prove_parity
from training.members import HalfStored, Members, fit_members
from training.network import Detector, Mirrored
from training.recipe import Network

SHAPE = Network(labels=("opacity",), neck_channels=16, frozen_blocks=16, dropout=0.4)
SIDE = 64


@pytest.fixture(autouse=True)
def one_quiet_thread() -> Iterator[None]:
    """Torch describes every step of an export to loggers that listen, as those of tests do: that takes minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(before)


def detector(seed: int) -> Detector:
    torch.manual_seed(seed)
    return Detector(SHAPE, pretrained=False).eval()


def test_the_answer_is_the_mean_of_the_members_answers() -> None:
    one, other = detector(1), detector(2)
    pictures = torch.randn(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        said = Members([one, other])(pictures)
        for mean, first, second in zip(said, one(pictures), other(pictures), strict=True):
            torch.testing.assert_close(mean, (first + second) / 2)


def test_half_stored_weights_say_nearly_the_same_and_leave_the_network_as_it_was() -> None:
    network = Mirrored(Members([detector(1), detector(2)])).eval()
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    stored = HalfStored(network)
    pictures = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        for half, whole in zip(stored(pictures), network(pictures), strict=True):
            assert 0 < float((half - whole).abs().max()) < 0.02 * float(whole.abs().max())
    for name, weights in network.state_dict().items():
        torch.testing.assert_close(weights, before[name], rtol=0, atol=0)


def test_files_of_half_stored_weights_take_half_the_room_and_prove_equal(tmp_path: Path) -> None:
    whole = detector(1)
    half = HalfStored(Mirrored(whole))
    export(half, tmp_path, height=SIDE, width=SIDE)
    whole_bytes = 4 * sum(weights.numel() for weights in whole.state_dict().values())
    assert (tmp_path / "model.onnx").stat().st_size < 0.6 * whole_bytes
    prove_parity(half, tmp_path, np.random.default_rng(5).standard_normal((3, 1, SIDE, SIDE)).astype(np.float32))


def test_members_are_trained_from_seeds_of_their_own_and_resumed_each(tmp_path: Path) -> None:
    films, prepared = blob_films()
    two = recipe(epochs=1).model_copy(update={"members": 2})
    first = fit_members(two, films, prepared, checkpoint=tmp_path / "fold-0.pt")
    assert isinstance(first, Members)
    assert {file.name for file in tmp_path.glob("*.pt")} == {"fold-0.pt", "fold-0.member-1.pt"}
    one, other = (member.get_parameter("picture.weight") for member in first.members)
    assert not torch.equal(one, other)
    again = fit_members(two, films, prepared, checkpoint=tmp_path / "fold-0.pt")
    for name, weights in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weights, rtol=0, atol=0)


def test_one_member_is_the_plain_network(tmp_path: Path) -> None:
    films, prepared = blob_films()
    network = fit_members(recipe(epochs=1), films, prepared, checkpoint=tmp_path / "fold-0.pt")
    assert isinstance(network, Detector)
    assert [file.name for file in tmp_path.glob("*.pt")] == ["fold-0.pt"]
