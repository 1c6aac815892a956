"""Builds the report of a run: every section from the inputs, then the checks, then the files.

Called by `eval.commands.report`. A report that does not pass `eval.report.checks` is never printed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from eval.report import annexes, checks, parts
from eval.report.case_results import Counted, case_results
from eval.report.case_table import case_table
from eval.report.faults import ReportError
from eval.report.gallery import galleries
from eval.report.groups import groups, lowest
from eval.report.inputs import Inputs
from eval.report.judged import Judged
from eval.report.lesion_results import lesion_results
from eval.report.marks import Matched, has_places, match_cases
from eval.report.outcomes import Results
from eval.report.pictures import add_pictures
from eval.report.sections import Errors, Sections, Subgroups
from eval.report.statements import ROBUSTNESS_ITEMS, items
from eval.report.twin import Twin
from eval.report.values import NOT_STATED, Item
from eval.report.verdict import verdict
from eval.runs import Run
from eval.version import version
from models.codes import Text

CASES_FILE = "cases.csv"
_NOT_ALLOWED = Text(
    en="The licence of the data set does not allow its pictures here: identifiers and drawn boxes only.",
    ru="Лицензия набора не разрешает показывать снимки: только идентификаторы и контуры рамок.",
)
_NOT_GIVEN = Text(
    en="The folder of pictures was not given (--images): identifiers and drawn boxes only.",
    ru="Папка снимков не указана (--images): только идентификаторы и контуры рамок.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A report that may be printed.

    Attributes
    ----------
    twin : Twin
    cases : str
        Text of `cases.csv`.
    pictures : mapping
        sha256 to JPEG bytes.
    """

    twin: Twin
    cases: str
    pictures: Mapping[str, bytes]


def build(given: Inputs, *, created: datetime) -> Report:
    """Compute and check the whole report.

    Parameters
    ----------
    given : Inputs
    created : datetime
        Date of the report, with its zone: the only thing in it that does not follow from the inputs.

    Raises
    ------
    ReportError
        Naming everything for which it may not be printed.
    """
    run, record = given.run, given.run.record
    checks.before(given)
    judged = Judged.of(run)
    counted = Counted(judged=judged, rules=run.dataset.rules)
    matched = _match(run, judged)
    table = case_table(run, counted, matched)
    errors, pictures = _errors(given, counted, matched)
    results = _results(run, counted, matched)
    found = groups(counted, matched, run)
    sections = Sections(
        identity=parts.identity(given),
        intended_use=parts.intended_use(given),
        model=parts.model(given),
        objectives=parts.objectives(given),
        data=parts.data(given, judged),
        standard=parts.standard(given, judged),
        scoring=parts.scoring(given, judged, places=matched is not None),
        statistics=parts.statistics(given, judged),
        results=results,
        subgroups=Subgroups(
            groups=found,
            lowest=lowest(found),
            parity=given.parity,
            items=items(given.statements.robustness, ROBUSTNESS_ITEMS),
        ),
        readers=parts.readers(given),
        technical=parts.technical(given),
        errors=errors,
        limits=parts.limits(given),
        monitoring=parts.monitoring(given, judged),
        reproducibility=parts.reproducibility(given, pictures=bool(pictures)),
        annexes=annexes.empty(CASES_FILE, hashlib.sha256(table.encode()).hexdigest(), len(run.cases)),
    )
    missing = missing_items(sections)
    sections = sections.model_copy(update={"annexes": annexes.filled(sections, given, missing)})
    twin = Twin(
        model=record.model,
        title=given.run.card.identity.title,
        use=given.run.card.identity.use.value,
        model_digest=record.model_digest,
        weights=record.weights,
        data_sha256=record.data_sha256,
        created=created,
        radnode=version(),
        verdict=verdict(given.plan, results),
        sections=sections,
        missing=missing,
    )
    checks.after(twin)
    return Report(twin=twin, cases=table, pictures=pictures)


def _match(run: Run, judged: Judged) -> Matched | None:
    if not has_places(judged.records):
        return None
    try:
        return match_cases(judged.records, run.record.label, run.dataset.rules)
    except ValueError as error:
        raise ReportError([f"section 9, results: {error}"]) from error


def _results(run: Run, counted: Counted, matched: Matched | None) -> Results:
    judged = counted.judged
    label = run.card.label(run.record.label)
    served = np.full(len(judged), (label.picture or label.operating_point).threshold)
    own = bool((served != judged.thresholds).any())
    return Results(
        cases=case_results(counted, replace(judged, thresholds=served) if own else None),
        lesions=None if matched is None else lesion_results(counted, matched, run),
    )


def _errors(given: Inputs, counted: Counted, matched: Matched | None) -> tuple[Errors, dict[str, bytes]]:
    allowed = given.run.dataset.images_may_be_shown
    found = galleries(counted, matched, given.run)
    pictures: dict[str, bytes] = {}
    if allowed and given.images is not None:
        found, pictures = add_pictures(found, given.manifest, given.images)
    why = None if pictures else _NOT_GIVEN if allowed else _NOT_ALLOWED
    return Errors(
        pictures=bool(pictures),
        why_no_pictures=why,
        acknowledgement=given.statements.acknowledgement or given.run.dataset.citation,
        galleries=found,
        comment=given.statements.errors,
    ), pictures


def missing_items(sections: Sections) -> tuple[str, ...]:
    """Items of all sections that nobody stated, as section.item."""
    return tuple(
        f"{name}.{item.key}"
        for name in Sections.model_fields
        for item in _items(getattr(sections, name))
        if item.answer == NOT_STATED
    )


def _items(section: object) -> tuple[Item, ...]:
    found: tuple[Item, ...] = getattr(section, "items", ())
    return found
