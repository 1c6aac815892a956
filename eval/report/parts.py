"""The sections that say what was given: identity, use, model, plan, data, standard, rules, limits, monitoring.

Called by `eval.report.build`. Sections with results are `case_results`, `lesion_results`, `groups` and `gallery`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

import numpy as np

from eval.datasets import Hit, Passport, Words
from eval.intervals import Estimate
from eval.proportions import Proportion
from eval.report import describe
from eval.report.breakdown import TOO_FEW
from eval.report.inputs import Inputs, in_both
from eval.report.judged import Judged
from eval.report.sections import (
    Data,
    HypothesisPart,
    Identity,
    IntendedUse,
    LabelPart,
    Limits,
    Model,
    Monitoring,
    Objectives,
    Readers,
    Reproducibility,
    Scoring,
    SetUse,
    Standard,
    Statistics,
    Technical,
)
from eval.report.shares import shares
from eval.report.statements import (
    MONITORING_ITEMS,
    READER_ITEMS,
    STATEMENTS_FILE,
    STUDY_ITEMS,
    USE_ITEMS,
    items,
    stated,
)
from eval.report.values import Answer, Item, Value
from eval.runs import Run, Status
from models.card import ModelCard
from models.codes import Text

STANDARD_ITEMS = ("readers", "truth_method", "agreement", "verification")
_PACKAGES = ("numpy", "scipy", "onnxruntime", "torch", "pydicom", "pillow")
_PRINTERS = ("jinja2", "matplotlib", "weasyprint")
_NO_STUDY = Answer(
    not_provided=Text(
        en="no reader study is claimed: nothing is said of how people do with the model",
        ru="исследование с участием врачей не заявлено: о работе врачей с моделью ничего не утверждается",
    )
)
_PLAN = Answer(
    text=Text(
        en="In service the node counts, per model and period: studies, refusals by reason, defects by class, time, the "
        "share of positives and the drift of scores (PSI, KS) against the reference values below, and, where the truth "
        "comes back, agreement with radiologists (radnode monitor). A drift is a reason to look at cases and, if it "
        "stays, to repeat this evaluation on local studies.",
        ru="В работе узел считает по каждой модели и периоду: исследования, отказы по причинам, дефекты по классам, "
        "время, долю положительных и сдвиг оценок (PSI, KS) относительно опорных значений ниже, а где известна "
        "истина — согласие с рентгенологами (radnode monitor). Сдвиг — повод посмотреть случаи, а если он "
        "сохраняется — повторить эту оценку на местных исследованиях.",
    )
)


def identity(given: Inputs) -> Identity:
    """Section 1."""
    record, card = given.run.record, given.run.card
    return Identity(
        manufacturer=card.identity.manufacturer,
        registration_number=card.identity.registration_number,
        device_uid=card.device_uid,
        weights_digest=card.weights_digest,
        kind=record.kind,
        runtime=record.runtime,
        dataset=record.dataset,
        dataset_digest=record.dataset_digest,
        evaluated_by=record.radnode,
        hardware=record.hardware,
        started=record.started,
        finished=record.finished,
    )


def intended_use(given: Inputs) -> IntendedUse:
    """Section 2."""
    use = given.run.card.intended_use
    return IntendedUse(
        statement=use.statement,
        modalities=use.modalities,
        body_parts=use.body_parts,
        views=use.views,
        presentation=tuple(one.value for one in use.presentation),
        min_age_years=use.min_age_years,
        max_age_years=use.max_age_years,
        items=items(given.statements.use, USE_ITEMS),
    )


def model(given: Inputs) -> Model:
    """Section 3."""
    card = given.run.card
    guard = card.guard
    return Model(
        description=card.identity.description,
        licence=card.identity.licence,
        input=_flat(card.input.model_dump(mode="json")),
        output=card.output.kind,
        labels=_labels(card),
        evaluated_label=given.run.record.label,
        training=card.training.description,
        training_licence=card.training.licence,
        citation=card.training.citation,
        films=card.training.films,
        patients=card.training.patients,
        manifest_sha256=card.training.manifest_sha256,
        guard=None if guard is None else f"{guard.method}: {guard.action}",
    )


def _flat(given: Mapping[str, object]) -> dict[str, str]:
    shown = {name: value for name, value in given.items() if value is not None}
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in shown.items()
    }


def _labels(card: ModelCard) -> tuple[LabelPart, ...]:
    return tuple(
        LabelPart(
            key=label.key,
            title=label.title,
            finding=f"{label.finding.value} {label.finding.scheme} {label.finding.meaning}",
            case_threshold=None if label.picture is None else label.picture.threshold,
            case_chosen_by="" if label.picture is None else label.picture.chosen_by,
            mark_threshold=None if label.lesion is None else label.lesion.threshold,
            mark_chosen_by="" if label.lesion is None else label.lesion.chosen_by,
        )
        for label in card.labels
    )


def objectives(given: Inputs) -> Objectives:
    """Section 4."""
    plan, margins = given.plan, given.run.dataset.margins
    known = {} if margins is None else margins.model_dump(include={"auroc", "sensitivity", "specificity", "froc"})
    return Objectives(
        objective=in_both(plan.objective),
        hypotheses=tuple(
            HypothesisPart(statement=in_both(one.statement), figure=one.figure, at_least=one.at_least)
            for one in plan.hypotheses
        ),
        fixed_before=plan.fixed_before,
        fixed_on=plan.fixed_on,
        family=None if plan.family is None else in_both(plan.family),
        margins={name: value for name, value in known.items() if value is not None},
    )


def data(given: Inputs, judged: Judged) -> Data:
    """Section 5."""
    dataset, run = given.run.dataset, given.run
    lesions = [lesion for case in judged.records for lesion in case.lesions]
    folds = {case.fold for case in judged.records if case.fold is not None}
    return Data(
        name=dataset.name,
        version=dataset.version,
        title=in_both(dataset.title),
        modality=dataset.modality,
        licence=dataset.licence,
        citation=dataset.citation,
        files=sum(len(inputs) for inputs in given.manifest.values()),
        items=_passport(given.passport, leave=STANDARD_ITEMS),
        reuse=tuple(SetUse(on=one.on, model=one.model, purpose=in_both(one.purpose)) for one in given.passport.reuse),
        flow=describe.flow(run),
        prevalence=shares(Proportion.of(judged.diseased, judged.patients if judged.clustered else None))[0],
        traits=describe.counts(judged.records, describe.traits_of(run)),
        spreads=describe.spreads(judged.records),
        lesions=sum(not lesion.excluded for lesion in lesions),
        excluded_lesions=sum(lesion.excluded for lesion in lesions),
        folds=len(folds) or None,
        patients_in_two_folds=_in_two_folds(run),
    )


def _in_two_folds(run: Run) -> int:
    folds: dict[str, set[int | None]] = {}
    for case in run.cases:
        folds.setdefault(case.patient, set()).add(case.fold)
    return sum(len(found) > 1 for found in folds.values())


def _passport(passport: Passport, *, leave: tuple[str, ...] = ()) -> tuple[Item, ...]:
    given: dict[str, Words | None] = {
        name: getattr(passport, name) for name in Passport.model_fields if name != "reuse" and name not in leave
    }
    return tuple(Item(key=name, answer=stated(in_both(words))) for name, words in given.items() if words is not None)


def standard(given: Inputs, judged: Judged) -> Standard:
    """Section 6."""
    told = _passport(given.passport)
    return Standard(
        standard=in_both(given.run.dataset.standard),
        positive=given.run.dataset.positive,
        items=tuple(item for item in told if item.key in STANDARD_ITEMS),
        readings=describe.readings(judged.records),
    )


def scoring(given: Inputs, judged: Judged, *, places: bool) -> Scoring:
    """Section 7."""
    run, rules = given.run, given.run.dataset.rules
    label = run.card.label(run.record.label)
    marks = {run.mark_threshold(case) for case in judged.records} - {None}
    return Scoring(
        unit=run.dataset.unit.value,
        label=run.record.label,
        hit_rule=rules.hit.value if places else None,
        iou=rules.iou if places and rules.hit is Hit.IOU else None,
        false_marks_per=rules.false_marks_per,
        case_threshold=(label.picture or label.operating_point).threshold,
        case_thresholds=tuple(sorted(set(judged.thresholds.tolist()))),
        mark_threshold=None if label.lesion is None else label.lesion.threshold,
        mark_thresholds=tuple(sorted(threshold for threshold in marks if threshold is not None)),
    )


def statistics(given: Inputs, judged: Judged) -> Statistics:
    """Section 8."""
    rules = given.run.dataset.rules
    _, counts = np.unique(judged.patients, return_counts=True)
    return Statistics(
        seed=rules.seed,
        resamples=rules.resamples,
        confidence=0.95,
        prevalence_by_design=rules.prevalence_by_design,
        patients_with_several_cases=int((counts > 1).sum()),
        too_few=TOO_FEW,
    )


def readers(given: Inputs) -> Readers:
    """Section 11."""
    claimed = bool(given.statements.readers)
    told = items(given.statements.readers, READER_ITEMS) if claimed else (Item(key="design", answer=_NO_STUDY),)
    return Readers(claimed=claimed, items=told)


def technical(given: Inputs) -> Technical:
    """Section 12."""
    run = given.run
    tried = [case for case in run.cases if case.status is not Status.IN_TRAINING]
    failed = np.asarray([case.status is not Status.ANALYSED for case in tried], dtype=np.bool_)
    return Technical(
        timed=sum(case.seconds is not None for case in run.cases),
        seconds=describe.seconds(run),
        failures=describe.failures(run),
        failure_share=shares(Proportion.of(failed))[0],
        defects=dict(given.statements.defects),
    )


def limits(given: Inputs) -> Limits:
    """Section 14."""
    return Limits(model=given.run.card.limits, evaluation=tuple(given.statements.limits))


def monitoring(given: Inputs, judged: Judged) -> Monitoring:
    """Section 15: reference values are those of the judged cases that were analysed."""
    kept = judged.among(judged.analysed)
    called = kept.called
    rate = Proportion.of(called, kept.patients if kept.clustered else None) if len(kept) else None
    stated = {"plan": _PLAN, **given.statements.monitoring}
    nothing = Value.made(Estimate.undefined("no case was analysed"), "clopper_pearson")
    quantiles = np.percentile(kept.scores, [5, 25, 50, 75, 95]).tolist() if len(kept) else []
    return Monitoring(
        items=items(stated, MONITORING_ITEMS),
        flag_rate=shares(rate)[0] if rate is not None else nothing,
        refused_share=technical(given).failure_share,
        score_quantiles=dict(zip(("p5", "p25", "p50", "p75", "p95"), quantiles, strict=False)),
        seconds_p95=describe.seconds(given.run).get("p95"),
    )


def reproducibility(given: Inputs, *, pictures: bool) -> Reproducibility:
    """Section 16."""
    record = given.run.record
    assert record.cases_sha256 is not None, "a run that was read is finished"
    command = ("radnode eval report RUN", given.stated and "--statements FILE", pictures and "--images FOLDER")
    there = dict(line.split("==", 1) for line in record.environment if "==" in line)
    return Reproducibility(
        command=record.command,
        report_command=" ".join(said for said in command if said),
        settings={name: "" if value is None else str(value) for name, value in record.settings.items()},
        run_notes=record.notes,
        environment_sha256=record.environment_sha256,
        digests={
            "manifest.csv": record.data_sha256,
            "dataset.toml": record.dataset_digest,
            "card.toml": record.card_sha256,
            "cases.jsonl": record.cases_sha256,
            **({STATEMENTS_FILE: given.stated} if given.stated is not None else {}),
        },
        run_packages={name: there[name] for name in _PACKAGES if name in there},
        report_packages={name: importlib.metadata.version(name) for name in ("numpy", "scipy", *_PRINTERS)},
        items=items(given.statements.study, STUDY_ITEMS),
    )
