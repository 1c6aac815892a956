"""What a model learnt from is recognised: renamed, re-encoded without loss, wrapped as DICOM; other films are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from eval.contamination import TrainingList, pictures_of, training_list_of
from eval.runs import file_sha256
from inference.loading.content import values_digest
from models.card import read_card
from models.registry import ZOO, InstalledModel, WeightsError
from tests.dx_wrapping import write_dx
from training.data import Teaches
from training.errors import DataError
from training.manifest import add_to_card, taught_files, training_list
from training.nih import read_folder

CHEST = ZOO / "chest-opacity" / "0.1.1"


@pytest.fixture(scope="module")
def known() -> TrainingList:
    found = training_list_of(InstalledModel(card=read_card(CHEST / "card.toml"), folder=CHEST))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def taught(shared_data: Path) -> Path:
    films = read_folder(shared_data / "chest_xray_nih").films
    return next(film.path for film in films if film.teaches is Teaches.LESIONS)


@pytest.fixture(scope="module")
def unseen(shared_data: Path) -> Path:
    films = read_folder(shared_data / "chest_xray_nih").films
    return next(film.path for film in films if film.teaches is Teaches.NOTHING)


def test_a_training_film_is_known_by_its_bytes(known: TrainingList, taught: Path) -> None:
    assert known.knows(taught, file_sha256(taught))


def test_a_training_film_saved_anew_without_loss_is_known_by_its_picture(
    known: TrainingList, taught: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "another-name.png"
    PIL.Image.open(taught).convert("L").save(copy)
    assert file_sha256(copy) not in known.files
    assert known.knows(copy, file_sha256(copy))


@pytest.mark.parametrize("inverted", [False, True])
def test_a_training_film_wrapped_as_dicom_is_known_by_its_picture(
    known: TrainingList, taught: Path, tmp_path: Path, inverted: bool
) -> None:
    wrapped = write_dx(taught, tmp_path, inverted=inverted)
    assert known.knows(wrapped, file_sha256(wrapped))


def test_a_film_that_was_not_learnt_from_is_not_known(known: TrainingList, unseen: Path) -> None:
    assert not known.knows(unseen, file_sha256(unseen))


def test_a_training_film_with_one_pixel_changed_is_another_picture(
    known: TrainingList, taught: Path, tmp_path: Path
) -> None:
    pixels = np.array(PIL.Image.open(taught).convert("L"))
    pixels[0, 0] ^= 1
    changed = tmp_path / "changed.png"
    PIL.Image.fromarray(pixels).save(changed)
    assert not known.knows(changed, file_sha256(changed))


def test_blank_pictures_are_not_one_picture() -> None:
    assert values_digest(np.zeros((4, 4))) == ""


def test_a_file_that_cannot_be_read_shows_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert pictures_of(broken) == ()


def test_the_shipped_list_is_that_of_the_films_the_card_names(shared_data: Path) -> None:
    paths = taught_files(CHEST, shared_data / "chest_xray_nih", reader="nih-chest", recipe=None)
    shipped = (CHEST / "training_files.csv").read_text(encoding="utf-8").splitlines()
    rows = training_list(paths[:20]).splitlines()[1:]
    assert len(paths) == 594
    assert set(rows) <= set(shipped)
    assert len(shipped) - 1 == 594


def test_other_films_than_the_card_names_are_refused(shared_data: Path) -> None:
    with pytest.raises(DataError, match="not those the card names"):
        taught_files(CHEST, shared_data / "mammography_mini_mias", reader="mini-mias", recipe=None)


def test_a_list_that_was_altered_is_refused(tmp_path: Path) -> None:
    shutil.copy(CHEST / "card.toml", tmp_path)
    (tmp_path / "training_files.csv").write_text("file_sha256,picture_sha256\n", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"training_files\.csv is not the file of the card"):
        training_list_of(InstalledModel(card=read_card(tmp_path / "card.toml"), folder=tmp_path))


def test_a_list_added_to_a_card_leaves_the_model_what_it_was(tmp_path: Path) -> None:
    lines = (CHEST / "card.toml").read_text(encoding="utf-8").split("\n")
    at = lines.index("[training.files]")
    (tmp_path / "card.toml").write_text("\n".join(lines[: at - 1] + lines[at + 3 :]), encoding="utf-8")
    before = read_card(tmp_path / "card.toml")
    assert before.training.files is None
    after = add_to_card(tmp_path, "file_sha256,picture_sha256\n")
    assert after.model_digest == before.model_digest
    assert training_list_of(InstalledModel(card=after, folder=tmp_path)) == TrainingList(
        files=frozenset(), pictures=frozenset()
    )


def test_the_shipped_list_of_the_ct_demonstration_is_that_of_its_slices(shared_data: Path) -> None:
    model = ZOO / "lung-nodule-demo" / "0.1.0"
    known = training_list_of(InstalledModel(card=read_card(model / "card.toml"), folder=model))
    assert known is not None
    slices = sorted((shared_data / "ct_lidc").rglob("*.dcm"))
    assert len(slices) == 28
    assert all(known.knows(path, "0" * 64) for path in slices)
