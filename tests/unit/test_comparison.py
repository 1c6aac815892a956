"""What two versions said of the same studies: counted by hand, and by properties that any counting must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.comparison import compare, match_lesions, spread
from dicom_node.ledger.jobs import Job
from dicom_node.states import JobRole, JobState
from inference.findings import (
    AnalysedImage,
    Box,
    Findings,
    Lesion,
    ModelIdentity,
    PlanarRegion,
    Region,
    SeriesUid,
    SopUid,
    StudyUid,
)
from inference.refusals import Reason, Refusal
from models.codes import Code
from tests.ledgers import NOON

CODE = Code(value="1", scheme="SCT", meaning="something")
FILM = SopUid("1.2.3")


def lesion(x: float = 0, y: float = 0, *, score: float = 0.9, side: float = 10, **changes: Any) -> Lesion:
    film = changes.pop("film", FILM)
    box = Box(x_min=x, y_min=y, x_max=x + side, y_max=y + side)
    made = Lesion(
        label="opacity",
        code=CODE,
        site=CODE,
        score=score,
        raw_score=score,
        threshold=0.5,
        region=Region(planes=(PlanarRegion(sop_instance_uid=film, box=box),)),
        tracking_id="1",
        tracking_uid="1.2",
    )
    return replace(made, **changes)


def volume_lesion(z_mm: float) -> Lesion:
    flat = lesion()
    return replace(flat, region=replace(flat.region, lps_min_mm=(0.0, 0.0, z_mm), lps_max_mm=(10.0, 10.0, z_mm + 5.0)))


def job(study: str, version: str, lesions: Sequence[Lesion] | Refusal = (), **changes: Any) -> Job:
    findings = None
    if not isinstance(lesions, Refusal):
        identity = ModelIdentity(name="m", version=version, weights_digest="w", model_digest=version, device_uid="1")
        image = AnalysedImage(
            sop_instance_uid=FILM, sop_class_uid="1.2", series_uid=SeriesUid("1.2"), rows=99, columns=99
        )
        findings = Findings(
            model=identity, study_uid=StudyUid(study), inputs_digest="d", images=(image,), lesions=tuple(lesions)
        )
    values: dict[str, Any] = dict.fromkeys(Job.__slots__)
    values |= {
        "study_uid": StudyUid(study),
        "revision": 1,
        "model_name": "m",
        "model_version": version,
        "model_digest": version,
        "role": JobRole.CHAMPION,
        "sources_digest": study,
        "state": JobState.SUCCEEDED if findings else JobState.REJECTED,
        "queued_at": NOON,
        "findings": findings,
        "refusal": lesions if isinstance(lesions, Refusal) else None,
        "timings_s": {"model": 0.25, "total": 0.5},
    }
    return Job(**values | changes)


def test_agreement_is_counted_where_both_spoke_of_the_same_images() -> None:
    view = Refusal(reason=Reason.VIEW)
    a = [
        job("both", "1", [lesion(score=0.6)]),
        job("only a", "1", [lesion(score=0.9), lesion(50, score=0.7)]),
        job("neither", "1"),
        job("refused by a", "1", view),
        job("refused by both", "1", view),
        job("not seen by b", "1"),
        job("other images", "1", [lesion()]),
    ]
    b = [
        job("both", "2", [lesion(1, 1, score=0.8)], role=JobRole.SHADOW, timings_s={"model": 0.1}),
        job("only a", "2"),
        job("neither", "2"),
        job("refused by a", "2", [lesion()]),
        job("refused by both", "2", view),
        job("not seen by a", "2"),
        job("not seen by a either", "2"),
        job("other images", "2", [lesion()], revision=2, sources_digest="more"),
    ]
    found = compare("m@1", "m@2", a, b)
    assert (len(found.pairs), len(found.both_spoke)) == (5, 3)
    assert (found.only_a, found.only_b, found.other_images) == (1, 2, 1)
    assert found.presence() == {"both": 1, "only_a": 1, "only_b": 0, "neither": 1}
    assert found.agreement == pytest.approx(2 / 3)
    assert found.refusals() == {"both": 1, "only_a": 1, "only_b": 0}
    told = found.to_json()
    assert told["lesions"] == {
        "rule": "same label and image, and the centre of one box lies in the other; the highest scores first",
        "matched": 1,
        "only_a": 2,
        "only_b": 1,
    }
    difference = told["score_difference"]
    assert isinstance(difference, dict) and difference["count"] == 1
    assert difference["mean"] == pytest.approx(0.2)
    first = found.to_rows()[0]
    assert (first["a_role"], first["b_role"], first["b_model_s"]) == ("champion", "shadow", 0.1)
    assert (first["a_positive"], first["b_score_opacity"], first["lesions_matched"]) == (1, 0.8, 1)


def test_without_studies_nothing_is_made_up() -> None:
    found = compare("m@1", "m@2", [job("one", "1")], [job("other", "2")])
    assert found.pairs == () and found.agreement is None
    difference = found.to_json()["score_difference"]
    assert difference == {"count": 0, "mean": None, "median": None, "p05": None, "p95": None, "largest": None}


@pytest.mark.parametrize(
    ("other", "matched"),
    [
        (lesion(4, 4), 1),
        (lesion(-20, -20, side=100), 1),  # the small one's centre lies in the large one
        (lesion(11, 0), 0),
        (lesion(film=SopUid("1.2.4")), 0),
        (lesion(label="nodule"), 0),
    ],
)
def test_lesions_are_one_when_a_centre_lies_in_the_other_box(other: Lesion, matched: int) -> None:
    assert match_lesions([lesion()], [other]) == match_lesions([other], [lesion()]) == matched


def test_lesions_of_a_volume_are_compared_in_space() -> None:
    assert match_lesions([volume_lesion(0.0)], [volume_lesion(2.0)]) == 1
    assert match_lesions([volume_lesion(0.0)], [volume_lesion(20.0)]) == 0


_LESIONS = st.lists(st.builds(lesion, st.floats(0, 60), st.floats(0, 60), score=st.floats(0.5, 1)), max_size=6)


@given(a=_LESIONS, b=_LESIONS)
@settings(max_examples=60, deadline=None)
def test_no_lesion_is_matched_twice_and_every_lesion_matches_itself(a: list[Lesion], b: list[Lesion]) -> None:
    matched = match_lesions(a, b)
    assert 0 <= matched <= min(len(a), len(b))
    assert match_lesions(a, a) == len(a)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_spreads_are_those_of_numpy(values: list[float]) -> None:
    found = spread([*values, None])
    assert found.count == len(values)
    for share, value in ((5, found.p05), (50, found.median), (95, found.p95)):
        assert value == pytest.approx(float(np.percentile(values, share)), abs=1e-12)
