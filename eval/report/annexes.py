"""The annexes: model facts label, checklists of CLAIM 2024 and STARD-AI, crosswalk to GOST R 59921.

Called by `eval.report.build` when all other sections are there, since a row of a checklist points at them and says
what of it is missing. The rows are TOML files in `eval/report/words`, each title in our own words.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field

from eval.report.inputs import Inputs
from eval.report.sections import Annexes, Fact, Row, Sections
from eval.report.values import NOT_STATED, Answer, Value
from models.codes import Text

CHECKLISTS = ("claim", "stard", "gost")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    number: str
    title: Text
    section: int | None = Field(default=None, ge=1, le=17)
    needs: tuple[str, ...] = Field(default=(), description="items, section.item, without which the row is unanswered")
    absent: Text | None = Field(default=None, description="why no section answers it")


class _Rows(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    row: tuple[_Row, ...]


def empty(file: str, sha256: str, cases: int) -> Annexes:
    """The annexes before anything can point at the other sections."""
    return Annexes(cases_file=file, cases_sha256=sha256, cases=cases, facts=(), claim=(), stard=(), gost=())


def filled(sections: Sections, given: Inputs, missing: Collection[str]) -> Annexes:
    """The annexes of finished sections."""
    rows = {name: tuple(_row(row, missing) for row in read_rows(name)) for name in CHECKLISTS}
    return sections.annexes.model_copy(update={"facts": _facts(sections, given), **rows})


def read_rows(name: str) -> tuple[_Row, ...]:
    """Rows of a checklist that is shipped."""
    text = (files("eval.report") / "words" / f"{name}.toml").read_text(encoding="utf-8")
    return _Rows.model_validate(tomllib.loads(text)).row


def _row(row: _Row, missing: Collection[str]) -> Row:
    """The row with its section, and what is not answered there."""
    answer = Answer(not_provided=row.absent) if row.absent is not None else None
    if answer is None and row.needs and all(need in missing for need in row.needs):
        answer = NOT_STATED
    return Row(number=row.number, title=row.title, section=row.section, answer=answer)


def _facts(sections: Sections, given: Inputs) -> tuple[Fact, ...]:
    use, data = sections.intended_use, sections.data
    title, model = given.run.card.identity.title, given.run.record.model
    facts = [
        Fact(key="name", text=Text(en=f"{title.en} · {model}", ru=f"{title.ru} · {model}")),
        Fact(key="purpose", text=use.statement),
        Fact(key="standing", text=_same(given.run.card.identity.use.value)),
        Fact(key="trained_on", text=_same(sections.model.training)),
        Fact(key="judged_on", text=data.title),
        *_numbers(sections),
        *(Fact(key="warning", text=limit) for limit in sections.limits.model[:3]),
    ]
    return tuple(facts)


def _numbers(sections: Sections) -> list[Fact]:
    found: list[tuple[str, Value]] = []
    if (cases := sections.results.cases) is not None:
        found.append(("auroc", cases.auroc))
        found += [(name, cases.operating.figures[name][0]) for name in ("sensitivity", "specificity", "ppv", "npv")]
    if (lesions := sections.results.lesions) is not None:
        found += [("found", lesions.found), ("false_per_case", lesions.false_per_case)]
    return [Fact(key=key, value=value) for key, value in found]


def _same(text: str) -> Text:
    return Text(en=text, ru=text)
