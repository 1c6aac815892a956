"""Marks, suppression, calibration, sizes and the study's verdict."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.findings import Box, Presence, SeriesUid, SopUid, StudyUid
from inference.images import ImageHeader
from inference.intended_use import check
from inference.postprocess import (
    AREA,
    LONG_AXIS,
    SHORT_AXIS,
    Picture,
    calibrated,
    decode,
    iou,
    measurements,
    say,
    study_findings,
    study_lesions,
)
from inference.preprocess import Transform
from inference.refusals import Reason, Refusal, Refused
from models.card import Calibration
from models.outputs import CenterHeatmapOutput
from tests.networks import SIZE, STRIDE, disc_card

GRID = SIZE // STRIDE
OUTPUT = CenterHeatmapOutput(stride=STRIDE)
SAME = Transform(source_rows=SIZE, source_columns=SIZE, scale_x=1.0, scale_y=1.0)
HEADER = ImageHeader(
    sop_instance_uid=SopUid("1.2.1"),
    sop_class_uid="1.2.2",
    series_uid=SeriesUid("1.2.3"),
    study_uid=StudyUid("1.2"),
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    modality="DX",
    body_part="CHEST",
    view="PA",
    patient_age_years=50.0,
    rows=SIZE,
    columns=SIZE,
)
PICTURE = Picture(header=HEADER)


def arrays(*peaks: tuple[int, int, float], half: float = 8.0, picture: float = -3.0) -> dict[str, NDArray[np.float32]]:
    """Outputs with peaks (row, column, logit) on a low, slightly uneven ground."""
    heatmap = np.linspace(-9, -8, GRID * GRID, dtype=np.float32).reshape(1, GRID, GRID)
    for row, column, logit in peaks:
        heatmap[0, row, column] = logit
    return {
        "heatmap": heatmap,
        "ltrb": np.full((4, GRID, GRID), half, dtype=np.float32),
        "picture": np.asarray([picture], dtype=np.float32),
    }


def test_a_peak_becomes_a_box_around_its_cells_centre() -> None:
    made = arrays((3, 4, 2.0))
    mark, *_ = decode(made["heatmap"], made["ltrb"], OUTPUT, SAME)
    assert mark.box == Box(x_min=28, y_min=20, x_max=44, y_max=36)
    assert mark.logit == 2.0


def test_edges_are_left_top_right_bottom() -> None:
    made = arrays((3, 4, 2.0))
    made["ltrb"][:, 3, 4] = [1, 2, 3, 4]
    assert decode(made["heatmap"], made["ltrb"], OUTPUT, SAME)[0].box == Box(x_min=35, y_min=26, x_max=39, y_max=32)


def test_a_neighbour_of_a_peak_is_no_peak_and_an_overlapping_one_is_suppressed() -> None:
    made = arrays((3, 3, 3.0), (3, 4, 2.0), (3, 5, 2.5), half=20)
    marks = [mark for mark in decode(made["heatmap"], made["ltrb"], OUTPUT, SAME) if mark.logit > 0]
    assert [mark.logit for mark in marks] == [3.0]


def test_distant_peaks_are_kept_strongest_first_up_to_the_limit() -> None:
    made = arrays((1, 1, 1.0), (1, 6, 3.0), (6, 3, 2.0), half=4)
    assert [mark.logit for mark in decode(made["heatmap"], made["ltrb"], OUTPUT, SAME)[:3]] == [3.0, 2.0, 1.0]
    few = CenterHeatmapOutput(stride=STRIDE, max_lesions=2)
    assert len(decode(made["heatmap"], made["ltrb"], few, SAME)) == 2


def test_boxes_are_clipped_to_the_picture_and_those_in_the_padding_are_dropped() -> None:
    narrow = Transform(source_rows=128, source_columns=64, scale_x=0.5, scale_y=0.5)
    made = arrays((0, 0, 3.0), (4, 7, 5.0), half=9)
    (mark, *_) = [mark for mark in decode(made["heatmap"], made["ltrb"], OUTPUT, narrow) if mark.logit > 0]
    assert mark.box == Box(x_min=0, y_min=0, x_max=26, y_max=26)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(40, 3000), columns=st.integers(40, 3000))
def test_marks_lie_inside_the_picture_and_overlap_no_more_than_allowed(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    scale = min(SIZE / rows, SIZE / columns)
    way = Transform(source_rows=rows, source_columns=columns, scale_x=scale, scale_y=scale)
    heatmap = rng.normal(size=(2, GRID, GRID)).astype(np.float32)
    ltrb = rng.uniform(0, 40, size=(4, GRID, GRID)).astype(np.float32)
    marks = decode(heatmap, ltrb, OUTPUT, way)
    assert marks
    assert [mark.logit for mark in marks] == sorted((mark.logit for mark in marks), reverse=True)
    for i, mark in enumerate(marks):
        assert 0 <= mark.box.x_min < mark.box.x_max <= columns
        assert 0 <= mark.box.y_min < mark.box.y_max <= rows
        for other in marks[:i]:
            assert mark.label_index != other.label_index or iou(mark.box, other.box) <= OUTPUT.nms_iou


def test_platt_scaling_moves_the_score_and_keeps_the_raw_one() -> None:
    card = disc_card()
    label = card.labels[0].model_copy(update={"lesion_calibration": Calibration(slope=0.5, intercept=1.0)})
    said = say(arrays((3, 4, 2.0)), PICTURE, SAME, card.model_copy(update={"labels": (label,)}))
    assert said.lesions[0].score == pytest.approx(1 / (1 + math.exp(-2.0)), abs=1e-4)
    assert said.lesions[0].raw_score == pytest.approx(1 / (1 + math.exp(-2.0)), abs=1e-4)
    assert calibrated(1000.0, Calibration()) == 1.0
    assert calibrated(-1000.0, Calibration()) == 0.0


def test_a_lesion_below_the_threshold_is_not_said() -> None:
    assert say(arrays((3, 4, -0.1)), PICTURE, SAME, disc_card()).lesions == ()
    assert len(say(arrays((3, 4, 0.0)), PICTURE, SAME, disc_card()).lesions) == 1  # score >= threshold


def test_sizes_are_in_millimetres_only_with_trustworthy_spacing() -> None:
    box = Box(x_min=0, y_min=0, x_max=100, y_max=50)
    assert measurements(box, None) == ()
    found = {entry.quantity: entry.value for entry in measurements(box, (0.4, 0.1))}
    assert found == {LONG_AXIS: 20.0, SHORT_AXIS: 10.0, AREA: 200.0}


def test_the_picture_is_judged_by_its_own_output_where_there_is_one() -> None:
    said = say(arrays((3, 4, 2.0), picture=-1.0), PICTURE, SAME, disc_card())
    assert said.findings[0].presence is Presence.ABSENT
    assert said.findings[0].score == calibrated(-1.0, Calibration())


def test_without_a_picture_output_the_strongest_mark_speaks() -> None:
    card = disc_card(output=CenterHeatmapOutput(stride=STRIDE, picture=None))
    made = arrays((3, 4, 2.0))
    del made["picture"]
    assert say(made, PICTURE, SAME, card).findings[0].score == calibrated(2.0, Calibration())


@pytest.mark.parametrize("name", ["heatmap", "ltrb", "picture"])
@pytest.mark.parametrize("fault", ["nan", "inf", "shape", "missing"])
def test_unusable_outputs_are_the_models_failure(name: str, fault: str) -> None:
    made = arrays((3, 4, 2.0))
    if fault == "missing":
        del made[name]
    elif fault == "shape":
        made[name] = made[name][..., :-1]
    else:
        made[name].flat[0] = float(fault)
    with pytest.raises(Refused) as caught:
        say(made, PICTURE, SAME, disc_card())
    assert caught.value.refusal.reason is Reason.MODEL_FAILED


def test_the_study_speaks_with_its_most_suspicious_picture() -> None:
    other = Picture(header=replace(HEADER, sop_instance_uid=SopUid("1.2.9")))
    said = [say(arrays(picture=-2.0), PICTURE, SAME, disc_card()), say(arrays(picture=2.0), other, SAME, disc_card())]
    study, first, second = study_findings(said)
    assert (study.sop_instance_uid, study.presence, study.score) == (None, Presence.PRESENT, second.score)
    assert first.presence is Presence.ABSENT


def test_tracking_identifiers_are_the_same_for_the_same_analysis_only() -> None:
    said = [say(arrays((1, 1, 1.0), (6, 6, 3.0), half=4), PICTURE, SAME, disc_card())]

    def uids(**changes: str) -> list[str]:
        names = {"study_uid": "1.2", "model_digest": "m", "inputs_digest": "i"} | changes
        return [lesion.tracking_uid for lesion in study_lesions(said, **names)]

    assert uids() == uids()
    assert len(set(uids())) == 2
    assert not set(uids()) & set(uids(inputs_digest="j"))
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids())
    lesions = study_lesions(said, study_uid="1.2", model_digest="m", inputs_digest="i")
    assert [lesion.tracking_id for lesion in lesions] == ["opacity-1", "opacity-2"]
    assert lesions[0].score > lesions[1].score


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modality": "MG"}, Reason.MODALITY),
        ({"modality": ""}, Reason.MODALITY),
        ({"body_part": "BREAST"}, Reason.BODY_PART),
        ({"view": "LL"}, Reason.VIEW),
        ({"view": ""}, Reason.VIEW),
        ({"view_modifiers": ("SPOT",)}, Reason.VIEW),
        ({"patient_age_years": 17.9}, Reason.AGE),
    ],
)
def test_what_the_model_was_not_made_for_is_refused(change: dict[str, object], reason: Reason) -> None:
    verdict = check(replace(HEADER, **change), disc_card().intended_use)  # type: ignore[arg-type]
    assert isinstance(verdict, Refusal)
    assert verdict.reason is reason


def test_what_is_unknown_but_accepted_is_flagged() -> None:
    use = disc_card().intended_use.model_copy(update={"accept_unknown_view": True})
    header = replace(HEADER, body_part="", view="", patient_age_years=None, lossy=True, spacing_mm=None)
    verdict = check(header, use)
    assert not isinstance(verdict, Refusal)
    assert [flag.value for flag in verdict] == [
        "age_unknown",
        "view_unknown",
        "body_part_unknown",
        "spacing_unknown",
        "lossy_compression",
    ]


def test_nothing_to_caution_about_gives_no_flags() -> None:
    assert check(replace(HEADER, spacing_mm=(0.1, 0.1)), disc_card().intended_use) == ()
