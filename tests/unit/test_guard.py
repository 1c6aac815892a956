"""The guard's statistics, judgement and file: what it measures, what it says, and which files it refuses."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from inference.appearance import LENGTHS, SIDE, Part, describe, surroundings, thumbnail
from inference.findings import Flag, SeriesUid, SopUid, StudyUid
from inference.guard import (
    BREAST,
    WHOLE,
    AppearanceGuard,
    Verdict,
    guard_bytes,
    guard_flags,
    guard_of,
    read_guard,
    see,
)
from inference.guard_file import GuardError
from inference.images import Image, ImageHeader
from inference.refusals import Reason, Refused
from models.card import Guard
from models.inputs import BreastInput, ProjectionInput
from models.registry import InstalledModel
from tests.guards import SPEC, drawn_chest, drawn_films, fitted, install_guard
from tests.toy_model import install_toy_model
from training.data import Film, ImageName, PatientKey, Teaches
from training.guard import (
    GuardDataError,
    GuardFilm,
    GuardSettings,
    false_alarms,
    fit_guard,
    guard_films,
    stacked,
    varied,
)
from training.splits import Splits

FEW = GuardSettings(variations=2)


def judge(guard: AppearanceGuard, pixels: NDArray[np.float32], padded: NDArray[np.bool_] | None = None) -> Verdict:
    return guard.judge(see(pixels, SPEC, padded))


def card_guard(content: bytes, **other: object) -> Guard:
    values: dict[str, object] = {
        "file": "guard.npz",
        "sha256": hashlib.sha256(content).hexdigest(),
        "method": WHOLE,
        "threshold": 2.0,
    }
    return Guard.model_validate(values | other)


def test_a_film_of_the_kind_is_accepted_and_a_turned_or_inverted_one_is_not() -> None:
    guard, film = fitted().guard, drawn_chest(1000)
    assert judge(guard, film).accepted
    assert judge(guard, film[:, ::-1]).accepted, "a mirrored film is of the right kind"
    for unlike in (1 - film, film[::-1], np.rot90(film), np.rot90(film, 3)):
        assert not judge(guard, unlike).accepted


def test_what_is_wrong_is_said_in_words() -> None:
    guard, film = fitted().guard, drawn_chest(1001)
    assert "inverted" in judge(guard, 1 - film).detail
    assert "upside down" in judge(guard, film[::-1, ::-1]).detail
    assert "side" in judge(guard, np.rot90(film)).detail
    noise = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    verdict = judge(guard, noise)
    assert not verdict.resembles
    assert verdict.detail.startswith(f"distance {verdict.distance:.2f}, accepted up to {guard.threshold:.2f}")
    assert "detail" in verdict.detail


def as_image(pixels: NDArray[np.float32]) -> Image:
    uid = "2.25.1"
    header = ImageHeader(
        sop_instance_uid=SopUid(uid),
        sop_class_uid=uid,
        series_uid=SeriesUid(uid),
        study_uid=StudyUid(uid),
        transfer_syntax_uid=uid,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
    )
    return Image(header=header, pixels=pixels, pixel_digest="")


def test_the_card_decides_whether_to_refuse_or_to_flag() -> None:
    refusing, spec = fitted().guard, ProjectionInput(height=64, width=64)
    flagging = AppearanceGuard(statistics=refusing.statistics, threshold=refusing.threshold, action="flag")
    usual, inverted = as_image(drawn_chest(1002)), as_image(1 - drawn_chest(1002))
    assert guard_flags(refusing, usual, spec) == guard_flags(flagging, usual, spec) == ()
    assert guard_flags(flagging, inverted, spec) == (Flag.OUT_OF_RANGE,)
    with pytest.raises(Refused) as refused:
        guard_flags(refusing, inverted, spec)
    assert refused.value.refusal.reason is Reason.OUT_OF_RANGE
    assert "inverted" in refused.value.refusal.detail


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_a_blank_picture_is_out_of_range(grey: float) -> None:
    assert not judge(fitted().guard, np.full((300, 200), grey, dtype=np.float32)).accepted


def test_size_window_and_padding_hardly_change_the_distance() -> None:
    guard, film = fitted().guard, drawn_chest(1003, side=1024)
    plain = judge(guard, film).distance
    small = np.asarray(PIL.Image.fromarray(film).resize((512, 512), PIL.Image.Resampling.BOX))
    assert judge(guard, small).distance == pytest.approx(plain, abs=0.4)
    assert judge(guard, film * 0.4 + 0.3).distance == pytest.approx(plain, abs=1e-2)
    framed, padded = np.zeros((1400, 1200), dtype=np.float32), np.ones((1400, 1200), dtype=np.bool_)
    framed[200:1224, 100:1124], padded[200:1224, 100:1124] = film, False
    assert judge(guard, framed, padded).distance == pytest.approx(plain, abs=1e-6)
    assert judge(guard, framed).distance > judge(guard, framed, padded).distance


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 70), st.integers(1, 70)), elements=st.floats(0, 1, width=32)),
    st.booleans(),
)
def test_any_picture_gets_finite_numbers_of_the_promised_length(pixels: NDArray[np.float32], flat: bool) -> None:
    picture = np.zeros_like(pixels) if flat else pixels
    for part, features in describe(thumbnail(picture)).items():
        assert features.shape == (LENGTHS[part],)
        assert np.isfinite(features).all()
    verdict = judge(fitted().guard, picture)
    assert np.isfinite(verdict.distance)
    assert verdict.distance >= max(verdict.parts.values())


def test_inversion_negates_the_layout() -> None:
    grey = thumbnail(drawn_chest(1))
    assert np.allclose(describe(1 - grey)[Part.LAYOUT], -describe(grey)[Part.LAYOUT], atol=5e-3)


def test_the_file_gives_the_guard_back_to_the_last_digit() -> None:
    made = fitted()
    read = read_guard(made.content, made.card_part())
    assert read.threshold == made.guard.threshold
    for number in range(2000, 2010):
        film = drawn_chest(number)
        assert judge(read, film).distance == judge(made.guard, film).distance


def test_the_same_films_give_the_same_file() -> None:
    assert fit_guard(drawn_films()).content == fitted().content


def changed(content: bytes, name: str, array: NDArray[np.generic] | None) -> bytes:
    """The file with one array replaced, or left out."""
    with np.load(io.BytesIO(content)) as opened:
        kept = {key: opened[key] for key in opened.files if key != name}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **(kept if array is None else kept | {name: array}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("edges.mean", None, "edges.mean is missing"),
        ("edges.mean", np.zeros(7, dtype=np.float32), "expected float32 (512,)"),
        ("edges.mean", np.zeros(512), "float64"),
        ("layout.mean", np.full(256, np.nan, dtype=np.float32), "not numbers"),
        ("texture.scale", np.asarray([1, 0, 0, 0, 1], dtype=np.float32), "not positive"),
        ("texture.scale", np.zeros((0,), dtype=np.float32), "expected float32 (5,)"),
        ("layout.mean", np.asarray([{"a": 1}], dtype=object), "not a file of arrays"),
    ],
)
def test_an_odd_array_is_refused_by_name(name: str, array: NDArray[np.generic] | None, says: str) -> None:
    content = changed(fitted().content, name, array)
    with pytest.raises(GuardError) as error:
        read_guard(content, card_guard(content))
    assert says in str(error.value)
    assert "guard.npz" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 half a zip", b"\x80\x04K\x01."])
def test_what_is_no_file_of_arrays_is_refused(content: bytes) -> None:
    with pytest.raises(GuardError, match="not a file of arrays"):
        read_guard(content, card_guard(content))


def test_a_single_array_a_truncated_file_and_a_damaged_entry_are_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    single = buffer.getvalue()
    damaged = bytearray(fitted().content)
    damaged[200] ^= 0xFF
    for content in (single, fitted().content[:-300], bytes(damaged)):
        with pytest.raises(GuardError):
            read_guard(content, card_guard(content))


def test_an_altered_file_and_an_unknown_method_are_refused() -> None:
    content = fitted().content
    with pytest.raises(GuardError, match="sha256 differs"):
        read_guard(content + b"\0", card_guard(content))
    with pytest.raises(GuardError, match="appearance-9"):
        read_guard(content, card_guard(content, method="appearance-9"))


def test_the_file_holds_arrays_only() -> None:
    with zipfile.ZipFile(io.BytesIO(guard_bytes(fitted().guard.statistics))) as archive:
        assert len(archive.namelist()) == 12
        assert all(name.endswith(".npy") for name in archive.namelist())


def test_a_patient_in_two_folds_is_refused() -> None:
    parted = drawn_films(12)
    parted[1] = GuardFilm(name="x", patient=parted[0].patient, fold=2, usual=True, features=parted[1].features)
    with pytest.raises(GuardDataError, match="two folds"):
        fit_guard(parted)


def test_a_fold_that_leaves_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(GuardDataError, match="without fold 0"):
        fit_guard([film for film in drawn_films(12) if film.fold == 0])


def test_films_outside_the_intended_use_are_counted_apart() -> None:
    counted = false_alarms(drawn_films(40), np.arange(40) >= 38)
    names = {figure.name: figure for figure in counted}
    assert names["real films refused"].value == pytest.approx(1 / 36, abs=1e-5)
    assert "36 films of 20 patients" in names["real films refused"].on
    interval = names["real films refused, view PA"]
    assert (interval.value, interval.low) == (0.05, 0.00127)
    assert interval.high == pytest.approx(0.24873, abs=1e-4)


def test_the_threshold_leaves_as_many_films_beyond_as_the_confidence_allows() -> None:
    films = drawn_films(200)
    many, few = (fit_guard(films, GuardSettings(max_refused=share)) for share in (0.05, 0.01))
    usual = [film for film in films if film.usual]
    assert many.guard.threshold < few.guard.threshold
    beyond = [sum(made.distances > made.guard.threshold) for made in (many, few)]
    assert beyond[0] > beyond[1]
    assert beyond[0] <= 0.05 * len(usual) + 2, "so few that more than 5 % of such films is unlikely"


def test_one_film_upside_down_among_the_training_films_teaches_nothing() -> None:
    good = drawn_films(80)
    upside_down = stacked([see(drawn_chest(0)[::-1, ::-1], SPEC).features])
    bad = GuardFilm(name="bad", patient="bad", fold=0, usual=True, features=upside_down)
    guard = fit_guard([*good, bad], GuardSettings(max_refused=0.08)).guard
    assert not judge(guard, drawn_chest(1000)[::-1, ::-1]).accepted
    assert judge(guard, drawn_chest(1000)).accepted


def drawn_breast(number: int) -> NDArray[np.float32]:
    """A bright half disc at the left edge of a dark film, with a small label beside it."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[0:600, 0:500]
    height, width = random.uniform(200, 260), random.uniform(180, 300)
    grey = np.where((y - 300) ** 2 / height**2 + x**2 / width**2 < 1, 0.6, 0.05)
    grey[20:60, 400:470] = 0.9
    return np.asarray(np.clip(grey + random.normal(0, 0.02, grey.shape), 0, 1), dtype=np.float32)


def test_a_mammogram_is_judged_by_its_breast_and_by_what_lies_beside_it() -> None:
    spec = BreastInput(height=64, width=64)
    made = [
        GuardFilm(
            name=str(number),
            patient=str(number),
            fold=number % 3,
            usual=True,
            features=stacked([
                one.features
                for one in (see(drawn_breast(number), spec), *varied(str(number), drawn_breast(number), spec, FEW))
            ]),
        )
        for number in range(40)
    ]  # fmt: skip
    fit = fit_guard(made)
    assert fit.card_part().method == BREAST
    guard = read_guard(fit.content, fit.card_part())
    assert guard.judge(see(drawn_breast(100), spec)).accepted
    assert guard.judge(see(drawn_breast(100)[:, ::-1], spec)).accepted, "the other breast"
    two = np.concatenate([drawn_breast(100)[:, ::-1], drawn_breast(101)], axis=1)
    verdict = guard.judge(see(np.concatenate([two, two[:, ::-1]], axis=1), spec))
    assert not verdict.accepted
    assert "beside the breast" in verdict.detail
    assert not guard.judge(see(1 - drawn_breast(100), spec)).accepted


def test_surroundings_count_what_is_bright_outside() -> None:
    pixels, inside = np.zeros((200, 200), dtype=np.float32), np.zeros((200, 200), dtype=np.bool_)
    inside[:, :100] = True
    pixels[inside] = 0.8
    assert surroundings(pixels, inside).tolist() == [0, 0, 0]
    pixels[20:25, 110:180] = 0.7
    assert surroundings(pixels, inside).tolist() == [0, 0, 0], "lettering does not count"
    pixels[100:150, 120:170] = 0.5
    share = pytest.approx(np.sqrt(42 * 42 / 20000))
    assert surroundings(pixels, inside).tolist() == [share, share, 0]
    assert surroundings(pixels, np.ones_like(inside)).tolist() == [0, 0, 0]


def test_a_guard_of_whole_pictures_is_not_for_a_mammography_model(tmp_path: Path) -> None:
    card = install_toy_model(tmp_path)
    folder = tmp_path / card.identity.name / card.identity.version
    guarded = install_guard(folder, fitted())
    assert guard_of(InstalledModel(card=guarded, folder=folder)) is not None
    breast = guarded.model_copy(update={"input": BreastInput(height=128, width=128)})
    with pytest.raises(GuardError, match="not for an input of kind 'breast'"):
        guard_of(InstalledModel(card=breast, folder=folder))
    assert guard_of(InstalledModel(card=card, folder=folder)) is None


def test_of_a_large_set_whole_patients_are_taken(tmp_path: Path) -> None:
    films = []
    for number in range(12):
        path = tmp_path / f"{number}.png"
        PIL.Image.fromarray(np.round(drawn_chest(number) * 255).astype(np.uint8)).save(path)
        films.append(
            Film(
                image=ImageName(path.name),
                path=path,
                patient=PatientKey(str(number // 3)),
                reading="normal",
                positive=False,
                judged=True,
                teaches=Teaches.NO_LESION,
                traits={"view": "PA"},
                numbers={"age_years": 70.0 if number < 6 else 10.0},
            )
        )
    splits = Splits(folds=2, seed=0, fold_of={film.image: index // 6 for index, film in enumerate(films)})
    taken = guard_films(films, splits, SPEC, settings=FEW, most=4)
    patients = [film.patient for film in taken]
    assert sorted(patients) == sorted(patients[:1] * 3 + patients[-1:] * 3)
    everything = guard_films(films, splits, SPEC, settings=FEW)
    assert {film.groups for film in everything} == {("view PA", "age 60 and over"), ("view PA", "age under 18")}
    assert {film.usual for film in everything if "age under 18" in film.groups} == {False}
