"""Drift, change of the flag rate and CUSUM, and when each is worth a warning by the limits of the settings.

Called by `build`. The statistics are `eval.drift` and `eval.two_groups`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dicom_node.ledger.service import LabelCount
from dicom_node.monitoring import words
from dicom_node.monitoring.document import Caution, Change, CusumPart, Defects, Drift, LabelService, Level, Rate
from dicom_node.monitoring.reference import Reference
from dicom_node.settings import MonitoringSettings
from eval.drift import cusum_limit, kolmogorov_smirnov, psi, sensitivity_cusum
from eval.two_groups import TwoGroups, miettinen_nurminen

_SHOWN_READINGS = 500
_DECIMALS = 6


def label_service(
    label: str,
    count: LabelCount,
    scores: NDArray[np.float64] | None,
    reference: Reference | None,
    why_none: str,
    limits: MonitoringSettings,
) -> LabelService:
    """One label against the reference; `scores` are None where there is nothing to compare them with."""
    if reference is not None and reference.label != label:
        why_none = f"the evaluation report judges {reference.label}, not {label}"
        reference = None
    return LabelService(
        label=label,
        flag_rate=Rate.counted(count.present, count.studies, "no study was analysed"),
        flag_rate_change=_change(count, reference, why_none),
        drift=_drift(count, scores, reference, why_none, limits),
    )


def _change(count: LabelCount, reference: Reference | None, why_none: str) -> Change:
    if reference is None:
        return Change(value=None, reason=f"undefined: {why_none}")
    groups = TwoGroups(
        first=count.present, first_cases=count.studies, second=reference.flagged, second_cases=len(reference.scores)
    )
    if not count.studies:
        return Change(value=None, reason="undefined: no study was analysed")
    return Change.of(miettinen_nurminen(groups))


def _drift(
    count: LabelCount,
    scores: NDArray[np.float64] | None,
    reference: Reference | None,
    why_none: str,
    limits: MonitoringSettings,
) -> Drift:
    cases = 0 if reference is None else len(reference.scores)
    if reference is None or scores is None:
        return Drift(studies=count.studies, reference_cases=cases, reason=f"undefined: {why_none}")
    if len(scores) < limits.min_studies:
        few = f"undefined: {len(scores)} analysed studies, fewer than min_studies {limits.min_studies}"
        return Drift(studies=len(scores), reference_cases=cases, reason=few)
    moved, distance = psi(reference.scores, scores), kolmogorov_smirnov(reference.scores, scores)
    return Drift(
        studies=len(scores),
        reference_cases=cases,
        psi=moved.value,
        psi_unmoved_95=moved.unmoved_95,
        bins=tuple((one.label, one.reference, one.current) for one in moved.bins),
        ks=distance.distance,
        ks_p=distance.p,
    )


def cusum(
    found: NDArray[np.bool_], reference: Reference | None, why_none: str, limits: MonitoringSettings
) -> CusumPart:
    """Sensitivity over positive readings, against that of the report."""
    reason = _why_no_cusum(found, reference, why_none, limits)
    if reason or reference is None:
        return CusumPart(readings=len(found), reason=f"undefined: {reason}")
    expected = reference.found / reference.positive
    unacceptable = expected - limits.cusum_drop
    limit = _limit(round(expected, _DECIMALS), round(unacceptable, _DECIMALS), limits.cusum_false_alarm_every)
    watched = sensitivity_cusum(found, expected=expected, unacceptable=unacceptable, limit=limit)
    return CusumPart(
        readings=len(found),
        expected=expected,
        unacceptable=unacceptable,
        limit=limit,
        last=float(watched.path[-1]),
        highest=float(watched.path.max()),
        signals=len(watched.signals),
        path=tuple(np.round(watched.path[-_SHOWN_READINGS:], 4).tolist()),
    )


def _why_no_cusum(
    found: NDArray[np.bool_], reference: Reference | None, why_none: str, limits: MonitoringSettings
) -> str:
    if not len(found):
        return "no positive reading of an analysed study has come back"
    if reference is None:
        return why_none
    if not reference.positive or not limits.cusum_drop < reference.found / reference.positive < 1:
        return "the report's sensitivity is 0, 1, not known, or not above cusum_drop"
    return ""


@lru_cache(maxsize=64)
def _limit(expected: float, unacceptable: float, run_length: float) -> float:
    return cusum_limit(expected=expected, unacceptable=unacceptable, run_length=run_length)


# warnings ------------------------------------------------------------------------------------------------------------


def warnings(
    defects: Defects, labels: tuple[LabelService, ...], watched: CusumPart, limits: MonitoringSettings
) -> Iterator[Caution]:
    """Every figure beyond its limit."""
    share = defects.any.value
    if share is not None and share > limits.max_defect_share:
        yield _caution(Level.ALARM, "defects", None, share, limits.max_defect_share)
    for one in labels:
        yield from _of_label(one, limits)
    if watched.signals and watched.limit is not None and watched.highest is not None:
        yield _caution(Level.ALARM, "cusum", None, watched.highest, watched.limit)


def _of_label(one: LabelService, limits: MonitoringSettings) -> Iterator[Caution]:
    drift, change = one.drift, one.flag_rate_change
    if drift.psi is not None and drift.psi >= limits.psi_notice and drift.psi > (drift.psi_unmoved_95 or 0.0):
        alarm = drift.psi >= limits.psi_alarm
        level, limit = (Level.ALARM, limits.psi_alarm) if alarm else (Level.NOTICE, limits.psi_notice)
        yield _caution(level, "psi", one.label, drift.psi, limit)
    if drift.ks_p is not None and drift.ks_p < limits.ks_notice_p:
        yield _caution(Level.NOTICE, "ks", one.label, drift.ks_p, limits.ks_notice_p)
    low, high = change.ci
    if change.value is None or low is None or high is None or low <= 0 <= high or drift.studies < limits.min_studies:
        return
    if abs(change.value) >= limits.flag_rate_notice:
        alarm = abs(change.value) >= limits.flag_rate_alarm
        level, limit = (Level.ALARM, limits.flag_rate_alarm) if alarm else (Level.NOTICE, limits.flag_rate_notice)
        yield _caution(level, "flag_rate", one.label, change.value, limit)


def _caution(level: Level, key: str, label: str | None, value: float, limit: float) -> Caution:
    text = words.warning(key, label or "", value, limit)
    return Caution(level=level, key=key, label=label, value=value, limit=limit, text=text)
