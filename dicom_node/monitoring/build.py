"""Makes the document of monitoring from the ledger, the installed models and the settings: START READING HERE.

Called by `radnode monitor` and by the web console. One read transaction for all of it: what is counted together was
true together. Judging, which needs scipy, is loaded when it is asked for: a node that is restarted serves at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from dicom_node.ledger import Ledger, service
from dicom_node.ledger.service import ANY, DefectRules, Ended, LabelCount, Line, Span
from dicom_node.monitoring.defects import CLASSES, OWN_REASONS, Seen
from dicom_node.monitoring.document import (
    Agreement,
    CusumPart,
    DefectCount,
    Defects,
    LabelService,
    ModelService,
    MonitoringReport,
    NodeService,
    PeriodService,
    Rate,
    ReferencePart,
    Times,
)
from dicom_node.monitoring.periods import Period, Step, local_zone, parse_day
from dicom_node.monitoring.reference import NoReference, Reference, reference_of
from dicom_node.settings import Settings
from dicom_node.states import JobRole, JobState, Outcome, Reading, StudyState
from eval.version import version
from models.registry import InstalledModel

DEFAULT_DAYS = 30
_NO_STUDY = "no study was received"
_NOT_INSTALLED = "the version is not installed any more"


class Monitor:
    """Monitoring over one ledger.

    Parameters
    ----------
    ledger : Ledger
    settings : Settings
    installed : callable
        What is installed now, by reference: cards for titles, reports for references.
    """

    def __init__(self, ledger: Ledger, settings: Settings, installed: Callable[[], Iterable[InstalledModel]]) -> None:
        self._ledger = ledger
        self._settings = settings
        self._installed = installed
        self.zone = local_zone(settings.monitoring.time_zone)

    def period(self, first: str | None = None, last: str | None = None) -> Period:
        """Local days from `first` to `last`, both included; by default the 30 days up to and with today.

        Raises
        ------
        PeriodError
            If one is no date, or they are in the wrong order.
        """
        today = self._ledger.clock().astimezone(self.zone).date()
        end = parse_day(last) if last else today
        begin = parse_day(first) if first else end - timedelta(days=DEFAULT_DAYS - 1)
        return Period(first=begin, last=end, zone=self.zone)

    def report(self, period: Period, *, step: Step | None = None, model: str | None = None) -> MonitoringReport:
        """Count a period, and its days, weeks or months.

        Parameters
        ----------
        period : Period
            All of it.
        step : Step, optional
            How to divide it.
        model : str, optional
            ``name`` or ``name@version``: this alone.

        Raises
        ------
        PeriodError
            If it has too many parts.
        """
        parts = period.divided(step) if step else ()
        models = {one.card.reference: one for one in self._installed()}
        with self._ledger.read() as tx:
            lines = tuple(
                one
                for one in service.lines(tx, period.span)
                if model is None or model in (one.model_name, one.reference)
            )
            now = self._ledger.clock()
            with service.gathered(tx, lines, period.span, _rules(self._settings), now) as studies:
                counting = _Counting(tx, studies, self._settings, models)
                whole = counting.period(period, lines)
                periods = tuple(counting.period(part, lines) for part in parts)
        return MonitoringReport(
            radnode=version(),
            created=self._ledger.clock().astimezone(period.zone),
            time_zone=period.zone.key,
            step=step,
            settings=self._settings.monitoring.model_dump(mode="json"),
            whole=whole,
            periods=periods,
        )


class _Counting:
    """One look into the ledger: every period and version with the same rules, references read once."""

    def __init__(
        self,
        tx: sa.Connection,
        studies: service.Gathered,
        settings: Settings,
        models: Mapping[str, InstalledModel],
    ) -> None:
        self._tx = tx
        self._studies = studies
        self._limits = settings.monitoring
        self._models = models
        self._references: dict[str, Reference | str] = {}

    def period(self, period: Period, lines: Sequence[Line]) -> PeriodService:
        return PeriodService(
            name=period.name,
            begin=period.begin,
            end=period.end,
            node=_node(service.arrivals(self._tx, period.span)),
            models=tuple(self._model(line, period.span) for line in lines),
        )

    def _model(self, line: Line, span: Span) -> ModelService:
        from dicom_node.monitoring import judging

        studies, model = self._studies, self._models.get(line.reference)
        ends = studies.ends(line, span)
        reference, why_none = self._reference(line.reference)
        received = sum(one.studies for one in ends)
        defects = _defects(ends, received)
        labels = self._labels(line, span, reference, why_none)
        agreement = self._agreement(line, span, reference, why_none)
        analysed = sum(one.studies for one in ends if one.state is JobState.SUCCEEDED)
        refused, failed = _refusals(ends)
        return ModelService(
            model=line.reference,
            role=line.role,
            title=model.card.identity.title if model else None,
            received=received,
            analysed=analysed,
            refused=refused,
            failed=failed,
            open=sum(one.studies for one in ends if one.state in (JobState.QUEUED, JobState.RUNNING)),
            dropped=sum(one.studies for one in ends if one.state is JobState.SHED),
            withdrawn=sum(one.withdrawn for one in ends),
            refused_share=Rate.counted(sum(refused.values()), received, _NO_STUDY),
            failed_share=Rate.counted(sum(failed.values()), received, _NO_STUDY),
            positive=Rate.counted(
                sum(one.positive for one in ends if one.state is JobState.SUCCEEDED), analysed, "no study was analysed"
            ),
            last_image_to_confirmed_s=_times(
                studies.result_seconds(line, span) if line.role is JobRole.CHAMPION else np.empty(0),
                "nothing was confirmed by a destination" if line.role is JobRole.CHAMPION else "a shadow sends nothing",
            ),
            model_s=_times(studies.timed_seconds(line, span, "model"), "no study was analysed"),
            analysis_s=_times(studies.timed_seconds(line, span, "total"), "no study was analysed"),
            defects=defects,
            reference=_reference_part(reference) if reference else None,
            reference_reason=None if reference else why_none,
            labels=labels,
            agreement=agreement,
            warnings=tuple(judging.warnings(defects, labels, agreement.cusum, self._limits)),
        )

    def _reference(self, name: str) -> tuple[Reference | None, str]:
        if name not in self._references:
            model = self._models.get(name)
            try:
                self._references[name] = reference_of(model) if model else _NOT_INSTALLED
            except NoReference as none:
                self._references[name] = str(none)
        found = self._references[name]
        return (None, found) if isinstance(found, str) else (found, "")

    def _labels(self, line: Line, span: Span, reference: Reference | None, why_none: str) -> tuple[LabelService, ...]:
        from dicom_node.monitoring import judging

        counts = self._studies.labels(line, span)
        model = self._models.get(line.reference)
        for label in model.card.labels if model else ():
            counts.setdefault(label.key, LabelCount(studies=0, present=0))
        return tuple(
            judging.label_service(
                label,
                count,
                self._studies.scores(line, span, label) if reference and reference.label == label else None,
                reference,
                why_none,
                self._limits,
            )
            for label, count in counts.items()
        )

    def _agreement(self, line: Line, span: Span, reference: Reference | None, why_none: str) -> Agreement:
        from dicom_node.monitoring import judging

        found = self._studies.agreement(line, span)
        hits = self._studies.hits(line, span)
        return _agreement(
            found,
            self._studies.rules_of_readings(line, span),
            judging.cusum(hits, reference, why_none, self._limits),
        )


def _rules(settings: Settings) -> DefectRules:
    profiles = settings.profile
    return DefectRules(
        late_after=timedelta(seconds=settings.monitoring.late_after_s),
        own_reasons=OWN_REASONS,
        with_pictures=[one.name for one in profiles if one.writes_pictures],
        with_positive_reports=[one.name for one in profiles if one.writes_positive_report],
        with_negative_reports=[one.name for one in profiles if one.writes_negative_report],
    )


def _defects(ends: Sequence[Ended], received: int) -> Defects:
    def studies(code: str) -> int:
        return sum(one.defects[code] for one in ends)

    return Defects(
        any=Rate.counted(studies(ANY), received, _NO_STUDY),
        classes=tuple(
            DefectCount(
                code=one.code,
                title=one.title,
                seen=one.seen,
                studies=studies(one.code) if one.seen is Seen.COUNTED else None,
                share=Rate.counted(studies(one.code), received, _NO_STUDY) if one.seen is Seen.COUNTED else None,
                why=one.why,
            )
            for one in CLASSES
        ),
    )


def _refusals(ends: Sequence[Ended]) -> tuple[dict[str, int], dict[str, int]]:
    """Reasons that lie with the study, and those that lie with the service."""
    refused: dict[str, int] = {}
    failed: dict[str, int] = {}
    for one in ends:
        if one.state is JobState.REJECTED and one.reason is not None:
            (failed if one.reason in OWN_REASONS else refused)[str(one.reason)] = one.studies
        elif one.state is JobState.FAILED:
            failed["not_written"] = failed.get("not_written", 0) + one.studies
    return refused, failed


def _times(seconds: NDArray[np.float64], nothing: str) -> Times:
    if not len(seconds):
        return Times(studies=0, reason=f"undefined: {nothing}")
    middle, high = np.percentile(seconds, [50, 95]).tolist()
    return Times(studies=len(seconds), p50=round(middle, 3), p95=round(high, 3), max=round(float(seconds.max()), 3))


def _node(arrived: Mapping[tuple[str, str], int]) -> NodeService:
    def of(outcome: str) -> int:
        return sum(count for (state, _), count in arrived.items() if state == outcome)

    return NodeService(
        studies=sum(arrived.values()),
        analysed=of(Outcome.ANALYSED),
        not_analysed={why: n for (state, why), n in sorted(arrived.items()) if state == Outcome.NOT_ANALYSED},
        no_route=of(Outcome.NO_ROUTE),
        quarantined=of(Outcome.QUARANTINED),
        open=sum(of(state) for state in StudyState),
    )


def _reference_part(reference: Reference) -> ReferencePart:
    return ReferencePart(
        file=reference.file,
        sha256=reference.sha256,
        label=reference.label,
        unit=reference.unit,
        cases=len(reference.scores),
        flag_rate=Rate.counted(reference.flagged, len(reference.scores), "the report has no case"),
        sensitivity=Rate.counted(reference.found, reference.positive, "the report has no positive case"),
        notes=reference.notes,
    )


def _agreement(
    found: Mapping[tuple[Reading, bool | None], int], rules: Mapping[str, int], watched: CusumPart
) -> Agreement:
    tp, fn = found.get((Reading.POSITIVE, True), 0), found.get((Reading.POSITIVE, False), 0)
    tn, fp = found.get((Reading.NEGATIVE, False), 0), found.get((Reading.NEGATIVE, True), 0)
    silent = {reading: found.get((reading, None), 0) for reading in (Reading.POSITIVE, Reading.NEGATIVE)}
    unclear = sum(count for (reading, _), count in found.items() if reading is Reading.UNCLEAR)
    no_positive, none = "no positive reading has come back", "no reading that decides has come back"
    return Agreement(
        readings=sum(found.values()),
        agree=tp + tn,
        disagree=fp + fn,
        unclear=unclear + sum(silent.values()),
        rules=dict(rules),
        counts={
            "true_positive": tp,
            "false_positive": fp,
            "true_negative": tn,
            "false_negative": fn,
            "unclear_reading": unclear,
            "positive_not_analysed": silent[Reading.POSITIVE],
            "negative_not_analysed": silent[Reading.NEGATIVE],
        },
        agreement=Rate.counted(tp + tn, tp + tn + fp + fn, none),
        sensitivity=Rate.counted(tp, tp + fn, no_positive),
        sensitivity_with_failures=Rate.counted(tp, tp + fn + silent[Reading.POSITIVE], no_positive),
        specificity=Rate.counted(tn, tn + fp, "no negative reading has come back"),
        cusum=watched,
    )
