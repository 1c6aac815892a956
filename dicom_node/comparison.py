"""What two versions of a model said of the same studies: agreement, scores, lesions and time, study by study.

Built by `radnode models compare` from the jobs in the ledger, a shadow's or a champion's alike; pure. It says how far
two versions differ on live studies, not which of them is right: that takes a reference, and is `eval`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from dicom_node.ledger.jobs import Job
from inference.findings import Findings, Lesion, StudyUid

SCHEMA: Final = "radnode.comparison/1"
MATCH_RULE: Final = "same label and image, and the centre of one box lies in the other; the highest scores first"


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What one version said of one study.

    Attributes
    ----------
    role : str
        champion or shadow.
    model_digest : str
        Of the card that spoke.
    positive : bool or None
        Whether anything was reported; None when it refused.
    scores : mapping of str to float
        The highest score of each label, of lesions and of statements about pictures or the study; 0 to 1.
    lesions : int
        Reported, at or above the threshold.
    refusal : str or None
        Reason, when it did not analyse the study.
    model_s, total_s : float or None
        Time in the network, and from the first image on.
    """

    role: str
    model_digest: str
    positive: bool | None
    scores: Mapping[str, float]
    lesions: int
    refusal: str | None
    model_s: float | None
    total_s: float | None

    @property
    def score(self) -> float | None:
        """The highest score of all labels."""
        return max(self.scores.values(), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPair:
    """Both versions on one study. Lesions: matched, and those that only one of them reported."""

    study_uid: StudyUid
    a: Said
    b: Said
    lesions_matched: int
    lesions_only_a: int
    lesions_only_b: int

    @property
    def score_difference(self) -> float | None:
        """Score of b minus score of a; None when one of them gave none."""
        return None if self.a.score is None or self.b.score is None else self.b.score - self.a.score


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How a quantity is spread over studies; every field but `count` is None without studies."""

    count: int
    mean: float | None = None
    median: float | None = None
    p05: float | None = None
    p95: float | None = None
    largest: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two versions on the studies that both were given the same images of.

    Attributes
    ----------
    a, b : str
        References, ``name@version``.
    pairs : tuple of StudyPair
        Oldest first.
    only_a, only_b : int
        Studies of which the other has not ended a job.
    other_images : int
        Studies that both ended, on different images: left out.
    """

    a: str
    b: str
    pairs: tuple[StudyPair, ...]
    only_a: int = 0
    only_b: int = 0
    other_images: int = 0
    both_spoke: tuple[StudyPair, ...] = field(init=False)

    def __post_init__(self) -> None:
        spoke = tuple(pair for pair in self.pairs if pair.a.positive is not None and pair.b.positive is not None)
        object.__setattr__(self, "both_spoke", spoke)

    def presence(self) -> dict[str, int]:
        """How often both, one or none of them reported something, where both spoke."""
        votes = [(pair.a.positive, pair.b.positive) for pair in self.both_spoke]
        return {
            "both": votes.count((True, True)),
            "only_a": votes.count((True, False)),
            "only_b": votes.count((False, True)),
            "neither": votes.count((False, False)),
        }

    @property
    def agreement(self) -> float | None:
        """Share of studies on whose presence both agree; None when there is no study."""
        if not self.both_spoke:
            return None
        return sum(pair.a.positive is pair.b.positive for pair in self.both_spoke) / len(self.both_spoke)

    def refusals(self) -> dict[str, int]:
        """Where at least one refused."""
        refused = [(pair.a.refusal is not None, pair.b.refusal is not None) for pair in self.pairs]
        return {
            "both": refused.count((True, True)),
            "only_a": refused.count((True, False)),
            "only_b": refused.count((False, True)),
        }

    def to_json(self) -> dict[str, object]:
        """Plain values; the layout is named by `schema`."""
        return {
            "schema": SCHEMA,
            "a": self.a,
            "b": self.b,
            "studies": {
                "compared": len(self.pairs),
                "both_spoke": len(self.both_spoke),
                "only_a": self.only_a,
                "only_b": self.only_b,
                "other_images": self.other_images,
            },
            "presence": self.presence(),
            "agreement": self.agreement,
            "refusals": self.refusals(),
            "score_difference": asdict(spread(pair.score_difference for pair in self.both_spoke)),
            "lesions": {
                "rule": MATCH_RULE,
                "matched": sum(pair.lesions_matched for pair in self.pairs),
                "only_a": sum(pair.lesions_only_a for pair in self.pairs),
                "only_b": sum(pair.lesions_only_b for pair in self.pairs),
            },
            "model_s": {
                "a": asdict(spread(pair.a.model_s for pair in self.both_spoke)),
                "b": asdict(spread(pair.b.model_s for pair in self.both_spoke)),
            },
            "cases": [_case(pair) for pair in self.pairs],
        }

    def to_rows(self) -> list[dict[str, object]]:
        """One flat row a study, for CSV."""
        rows: list[dict[str, object]] = []
        for pair in self.pairs:
            row: dict[str, object] = {"study_uid": pair.study_uid}
            for which, said in (("a", pair.a), ("b", pair.b)):
                row |= {f"{which}_{name}": value for name, value in _flat(said).items()}
            matched = {"matched": pair.lesions_matched, "only_a": pair.lesions_only_a, "only_b": pair.lesions_only_b}
            row |= {f"lesions_{name}": value for name, value in matched.items()}
            rows.append(row | {"score_difference": pair.score_difference})
        return rows


def compare(a: str, b: str, jobs_a: Iterable[Job], jobs_b: Iterable[Job]) -> Comparison:
    """Compare by study; each version's jobs hold one a study, its newest."""
    by_study_a = {job.study_uid: job for job in jobs_a}
    by_study_b = {job.study_uid: job for job in jobs_b}
    shared = [uid for uid in by_study_a if uid in by_study_b]
    alike = [uid for uid in shared if _same_images(by_study_a[uid], by_study_b[uid])]
    return Comparison(
        a=a,
        b=b,
        pairs=tuple(_pair(by_study_a[uid], by_study_b[uid]) for uid in alike),
        only_a=len(by_study_a) - len(shared),
        only_b=len(by_study_b) - len(shared),
        other_images=len(shared) - len(alike),
    )


def match_lesions(a: Sequence[Lesion], b: Sequence[Lesion]) -> int:
    """How many lesions of `a` and `b` are the same one (`MATCH_RULE`); each is matched once."""
    left = sorted(b, key=lambda lesion: -lesion.score)
    matched = 0
    for lesion in sorted(a, key=lambda lesion: -lesion.score):
        found = next((other for other in left if _same_place(lesion, other)), None)
        if found is not None:
            left.remove(found)
            matched += 1
    return matched


def spread(values: Iterable[float | None]) -> Spread:
    """Mean, median and percentiles (linear interpolation) of what is known; `largest` by absolute value."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return Spread(count=0)
    return Spread(
        count=len(known),
        mean=statistics.fmean(known),
        median=_percentile(known, 0.5),
        p05=_percentile(known, 0.05),
        p95=_percentile(known, 0.95),
        largest=max(known, key=abs),
    )


def _percentile(known: Sequence[float], share: float) -> float:
    place = share * (len(known) - 1)
    below = int(place)
    above = min(below + 1, len(known) - 1)
    return known[below] + (known[above] - known[below]) * (place - below)


def _same_images(a: Job, b: Job) -> bool:
    """The same revision of the study, or the same bytes: a model may be made for some of a study's views alone."""
    return a.revision == b.revision or a.sources_digest == b.sources_digest


def _pair(a: Job, b: Job) -> StudyPair:
    lesions_a, lesions_b = (job.findings.lesions if job.findings else () for job in (a, b))
    matched = match_lesions(lesions_a, lesions_b)
    return StudyPair(
        study_uid=a.study_uid,
        a=_said(a),
        b=_said(b),
        lesions_matched=matched,
        lesions_only_a=len(lesions_a) - matched,
        lesions_only_b=len(lesions_b) - matched,
    )


def _said(job: Job) -> Said:
    findings = job.findings
    return Said(
        role=job.role,
        model_digest=job.model_digest,
        positive=findings.is_positive if findings else None,
        scores=_scores(findings) if findings else {},
        lesions=len(findings.lesions) if findings else 0,
        refusal=job.refusal.reason if job.refusal else None,
        model_s=job.timings_s.get("model"),
        total_s=job.timings_s.get("total"),
    )


def _scores(findings: Findings) -> dict[str, float]:
    scores: dict[str, float] = {}
    said = [(one.label, one.score) for one in findings.findings] + [(one.label, one.score) for one in findings.lesions]
    for label, score in said:
        scores[label] = max(score, scores.get(label, 0.0))
    return scores


def _same_place(a: Lesion, b: Lesion) -> bool:
    if a.label != b.label:
        return False
    if a.region.lps_min_mm and a.region.lps_max_mm and b.region.lps_min_mm and b.region.lps_max_mm:
        return _centre_in(
            (a.region.lps_min_mm, a.region.lps_max_mm), (b.region.lps_min_mm, b.region.lps_max_mm)
        ) or _centre_in((b.region.lps_min_mm, b.region.lps_max_mm), (a.region.lps_min_mm, a.region.lps_max_mm))
    one, other = a.region.key_plane, b.region.key_plane
    if (one.sop_instance_uid, one.frame_number) != (other.sop_instance_uid, other.frame_number):
        return False
    corners_a, corners_b = (((box.x_min, box.y_min), (box.x_max, box.y_max)) for box in (one.box, other.box))
    return _centre_in(corners_a, corners_b) or _centre_in(corners_b, corners_a)


def _centre_in(a: tuple[Sequence[float], Sequence[float]], b: tuple[Sequence[float], Sequence[float]]) -> bool:
    """Whether the centre of box `a` (lowest corner, highest corner) lies in box `b`."""
    centre = [(low + high) / 2 for low, high in zip(*a, strict=True)]
    return all(low <= value <= high for value, low, high in zip(centre, *b, strict=True))


def _case(pair: StudyPair) -> dict[str, object]:
    return {
        "study_uid": pair.study_uid,
        "a": {**asdict(pair.a), "score": pair.a.score},
        "b": {**asdict(pair.b), "score": pair.b.score},
        "score_difference": pair.score_difference,
        "lesions": {"matched": pair.lesions_matched, "only_a": pair.lesions_only_a, "only_b": pair.lesions_only_b},
    }


def _flat(said: Said) -> dict[str, object]:
    plain: dict[str, object] = {
        "role": said.role,
        "model_digest": said.model_digest,
        "positive": None if said.positive is None else int(said.positive),
        "score": said.score,
        "lesions": said.lesions,
        "refusal": said.refusal,
        "model_s": said.model_s,
        "total_s": said.total_s,
    }
    return plain | {f"score_{label}": score for label, score in sorted(said.scores.items())}
