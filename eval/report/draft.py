"""A `report.toml` to begin with: what the report of a run still asks for, each item to be filled in or left unknown.

Called by ``radnode eval report --draft``. What is left as it is drafted is printed as not stated and listed at the
front of the report, so that a first report takes no writing and hides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from eval.datasets import Passport
from eval.report.statements import MONITORING_ITEMS, ROBUSTNESS_ITEMS, STUDY_ITEMS, UNKNOWN, USE_ITEMS
from eval.runs import Run

_HEAD = """\
# What is stated in the report of this run beyond its card and its data set. Text stands in both languages, or give
# { en = "…", ru = "…" }; what will never be stated: { not_provided = "why" }.

# limits = ["what this evaluation cannot show"]
"""
_COMMENTED = {
    "use": USE_ITEMS,
    "robustness": ROBUSTNESS_ITEMS,
    "monitoring": MONITORING_ITEMS,
    "study": STUDY_ITEMS,
}


def draft(run: Run) -> str:
    """The text of a `report.toml` with which the report of the run is built at once."""
    return "\n".join([_HEAD, *_needed(run), *_optional()])


def _needed(run: Run) -> Iterator[str]:
    """Parts without which no report is built, where the data set's file has none."""
    if run.dataset.plan is None:
        yield f'[plan]\nobjective = "{UNKNOWN.en}"\nfixed_before = false  # a plan written now was not fixed before\n'
    if run.dataset.passport is None:
        yield "[passport]  # better in the data set's file, for the next run"
        yield from (f'{name} = "{UNKNOWN.en}"' for name, field in Passport.model_fields.items() if field.is_required())
        yield ""


def _optional() -> Iterator[str]:
    for part, keys in _COMMENTED.items():
        yield "\n".join([f"[{part}]", *(f'# {key} = ""' for key in keys), ""])
