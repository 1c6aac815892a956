"""How a study of readers is written: the blocks that `radnode eval mrmc` and `radnode eval jafroc` share.

Called by the two commands. The arithmetic is in `eval.mrmc`; here it becomes JSON with a reason for every null, and
tables for people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field
from rich.console import Console
from rich.table import Table as RichTable

from eval.document import Document, Interval, Part, Reasons
from eval.intervals import Estimate
from eval.mrmc import (
    NO_COVARIANCE,
    Analysis,
    Contrast,
    ErrorCovariance,
    PanelComparison,
    Study,
    against_panel,
    by_reader,
    fixed_cases,
    fixed_readers,
    mean_squares,
    random_readers_random_cases,
)

PANEL = "panel"
_CHI_SQUARE = "infinitely many degrees of freedom: f times numerator_df is a chi-square"
_SEVERAL = "there are several pairs of treatments: see differences"
_COMPONENT = "it needs more readers or treatments than there are"
_OF_ONE_TREATMENT = ("ms_reader", "var_error", "cov2")
_OF_ONE_READER = ("ms_treatment", "var_error", "cov1")
_ONE = "there is one treatment: nothing to compare"


class Difference(Part):
    """Mean of `first` minus mean of `second`."""

    first: str
    second: str
    difference: float | None
    ci: Interval = Field(description="95 % interval")
    statistic: float | None = Field(description="difference over its standard error; t, or z where ddf is null")
    ddf: float | None
    p: float | None = Field(description="two-sided")
    p_holm: float | None = Field(description="p within the family of all pairs (Holm 1979)")


class Mean(Part):
    """Mean figure over the readers of one treatment, from its own readings only."""

    treatment: str
    mean: float | None
    ci: Interval = Field(description="95 % interval")


class SignificanceTest(Part):
    """One way to generalise: the test that all treatments are equal, and their differences."""

    f: float | None = Field(description="mean square of the treatments over the error term")
    numerator_df: float
    ddf: float | None = Field(description="denominator degrees of freedom (Hillis 2007); null where infinite")
    p: float | None
    first: str | None = Field(description="the difference is first minus second; null with more than two")
    second: str | None
    difference: float | None
    ci: Interval = Field(description="95 % interval of the difference")
    differences: tuple[Difference, ...]
    means: tuple[Mean, ...]


class ReaderDifference(Part):
    """Differences of treatments for one reader alone, cases random."""

    reader: str
    differences: tuple[Difference, ...]


class Components(Part):
    """Mean squares of the figures, and the estimated components of variance, which may be negative."""

    ms_treatment: float | None
    ms_reader: float | None
    ms_treatment_reader: float | None
    var_reader: float | None
    var_treatment_reader: float | None
    var_error: float | None
    cov1: float | None = Field(description="same reader, different treatments")
    cov2: float | None = Field(description="different readers, same treatment")
    cov3: float | None = Field(description="different readers, different treatments")


class Machine(Part):
    """A machine alone against a panel of readers, within one treatment; the difference is panel minus machine."""

    treatment: str
    machine: str = Field(description="name of the reader that is the machine")
    figure: float | None
    panel_mean: float | None
    random_readers_random_cases: SignificanceTest
    fixed_readers: SignificanceTest
    fixed_cases: SignificanceTest


class ReaderStudy(Document):
    """What both commands write, besides the figures themselves."""

    treatments: tuple[str, ...]
    readers: tuple[str, ...]
    cases: int
    diseased: int
    random_readers_random_cases: SignificanceTest = Field(
        description="RRRC: holds for the populations of readers and cases"
    )
    fixed_readers: SignificanceTest = Field(description="FRRC: holds for these readers and the population of cases")
    fixed_cases: SignificanceTest = Field(description="RRFC: holds for these cases and the population of readers")
    by_reader: tuple[ReaderDifference, ...]
    components: Components
    cad: tuple[Machine, ...] | None = Field(default=None, description="with --cad, one for each treatment")


class StudyBlocks:
    """Fills the blocks of a study.

    Parameters
    ----------
    study : Study
        Figures and covariance of all readers.
    treatments, readers : sequence of str
        Their names, in the order of the study.
    machine : str, optional
        The reader who is compared with the others; he is then left out of the comparison of treatments.
    """

    def __init__(
        self, study: Study, treatments: Sequence[str], readers: Sequence[str], machine: str | None, reasons: Reasons
    ) -> None:
        self._whole, self._all_readers = study, list(readers)
        self._machine = machine
        people = [index for index, reader in enumerate(readers) if reader != machine]
        self._study = study.of_readers(people)
        self._treatments, self._readers = list(treatments), [readers[index] for index in people]
        self._reasons = reasons

    def tests(self) -> tuple[SignificanceTest, SignificanceTest, SignificanceTest]:
        """RRRC, FRRC and RRFC; with a machine and one treatment, those of the panel against the machine."""
        names = ("random_readers_random_cases", "fixed_readers", "fixed_cases")
        if self._machine is not None and len(self._treatments) == 1:
            found = self._against(0)
            analyses = (found.random_readers_random_cases, found.fixed_readers, found.fixed_cases)
            labels = [PANEL, self._machine]
        else:
            analyses = (
                random_readers_random_cases(self._study),
                fixed_readers(self._study),
                fixed_cases(self._study),
            )
            labels = self._treatments
        first, second, third = (
            self._test(name, analysis, labels) for name, analysis in zip(names, analyses, strict=True)
        )
        return first, second, third

    def machine_blocks(self) -> tuple[Machine, ...] | None:
        """The machine against the panel, treatment by treatment; None without a machine."""
        if self._machine is None:
            return None
        return tuple(self._machine_block(index, self._machine) for index in range(len(self._treatments)))

    def reader_differences(self) -> tuple[ReaderDifference, ...]:
        """Differences of treatments for each reader; none with one treatment."""
        if len(self._treatments) == 1:
            return ()
        return tuple(
            ReaderDifference(
                reader=reader,
                differences=self._differences(f"by_reader.{reader}", contrasts, self._treatments),
            )
            for reader, contrasts in zip(self._readers, by_reader(self._study), strict=True)
        )

    def components(self) -> Components:
        """Mean squares and components of variance (Hillis and others 2005)."""
        squares, error = mean_squares(self._study.figures), ErrorCovariance.of(self._study.covariance)
        rest = squares.treatment_reader - error.variance + error.cov1 + error.shared_by_readers
        reader = (squares.reader - squares.treatment_reader) / len(self._treatments) - error.cov1 + error.cov3
        found = {
            "ms_treatment": squares.treatment,
            "ms_reader": squares.reader,
            "ms_treatment_reader": squares.treatment_reader,
            "var_reader": reader,
            "var_treatment_reader": rest,
            "var_error": error.variance,
            "cov1": error.cov1,
            "cov2": error.cov2,
            "cov3": error.cov3,
        }
        return Components(**{name: self._component(name, value) for name, value in found.items()})

    def _component(self, name: str, value: float) -> float | None:
        too_few = (name not in _OF_ONE_TREATMENT and len(self._treatments) == 1) or (
            name not in _OF_ONE_READER and len(self._readers) == 1
        )
        reason = self._study.unknown_figures or (_COMPONENT if too_few else NO_COVARIANCE)
        return self._reasons.number(f"components.{name}", math.nan if too_few else value, reason)

    def _against(self, treatment: int) -> PanelComparison:
        return against_panel(self._whole.of_treatment(treatment), self._all_readers.index(self._machine or ""))

    def _machine_block(self, treatment: int, machine: str) -> Machine:
        found = self._against(treatment)
        key = f"cad.{self._treatments[treatment]}"
        labels = [PANEL, machine]
        return Machine(
            treatment=self._treatments[treatment],
            machine=machine,
            figure=self._reasons.number(f"{key}.figure", found.machine, self._whole.no_figure),
            panel_mean=self._reasons.number(f"{key}.panel_mean", found.panel, self._whole.no_figure),
            random_readers_random_cases=self._test(
                f"{key}.random_readers_random_cases", found.random_readers_random_cases, labels
            ),
            fixed_readers=self._test(f"{key}.fixed_readers", found.fixed_readers, labels),
            fixed_cases=self._test(f"{key}.fixed_cases", found.fixed_cases, labels),
        )

    def _test(self, key: str, analysis: Analysis, labels: Sequence[str]) -> SignificanceTest:
        differences = self._differences(f"{key}.differences", analysis.contrasts, labels)
        only = differences[0] if len(differences) == 1 else None
        missing = _ONE if not differences else _SEVERAL
        number = self._reasons.number
        if only is None:
            self._reasons.found |= {f"{key}.difference": missing, f"{key}.ci": missing}
        else:
            self._difference_reasons(key, analysis.contrasts[0].estimate)
        return SignificanceTest(
            f=number(f"{key}.f", analysis.f, analysis.reason),
            numerator_df=analysis.numerator_df,
            ddf=number(f"{key}.ddf", analysis.ddf, analysis.reason or _CHI_SQUARE),
            p=number(f"{key}.p", analysis.p, analysis.reason),
            first=only.first if only else None,
            second=only.second if only else None,
            difference=only.difference if only else None,
            ci=only.ci if only else (None, None),
            differences=differences,
            means=tuple(
                self._mean(f"{key}.means.{name}", name, mean)
                for name, mean in zip(labels[: len(analysis.means)], analysis.means, strict=True)
            ),
        )

    def _differences(self, key: str, contrasts: Sequence[Contrast], labels: Sequence[str]) -> tuple[Difference, ...]:
        return tuple(
            self._difference(key, contrast, family, labels)
            for contrast, family in zip(contrasts, holm([contrast.p for contrast in contrasts]), strict=True)
        )

    def _difference(self, key: str, contrast: Contrast, p_holm: float, labels: Sequence[str]) -> Difference:
        first, second = labels[contrast.first], labels[contrast.second]
        key = f"{key}.{first}-{second}"
        estimate, number = contrast.estimate, self._reasons.number
        self._difference_reasons(key, estimate)
        return Difference(
            first=first,
            second=second,
            difference=_known(estimate.value),
            ci=(_known(estimate.low), _known(estimate.high)),
            statistic=number(f"{key}.statistic", contrast.statistic, estimate.reason),
            ddf=number(f"{key}.ddf", contrast.ddf, estimate.reason or _CHI_SQUARE),
            p=number(f"{key}.p", contrast.p, estimate.reason),
            p_holm=number(f"{key}.p_holm", p_holm, estimate.reason),
        )

    def _mean(self, key: str, name: str, mean: Estimate) -> Mean:
        value = self._reasons.number(f"{key}.mean", mean.value, mean.reason)
        if math.isnan(mean.low):
            self._reasons.found[f"{key}.ci"] = mean.reason
        return Mean(treatment=name, mean=value, ci=(_known(mean.low), _known(mean.high)))

    def _difference_reasons(self, key: str, estimate: Estimate) -> None:
        self._reasons.number(f"{key}.difference", estimate.value, estimate.reason)
        if math.isnan(estimate.low):
            self._reasons.found[f"{key}.ci"] = estimate.reason


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities of a family adjusted by Holm 1979, in the order given; NaN where one of them is."""
    if any(math.isnan(p) for p in probabilities):
        return [math.nan] * len(probabilities)
    adjusted, largest = dict.fromkeys(range(len(probabilities)), 0.0), 0.0
    for rank, index in enumerate(sorted(adjusted, key=lambda index: probabilities[index])):
        largest = max(largest, min(1.0, (len(probabilities) - rank) * probabilities[index]))
        adjusted[index] = largest
    return [adjusted[index] for index in range(len(probabilities))]


def natural_order(names: Iterable[str]) -> list[str]:
    """Names once each: as numbers where all are numbers, else by letters."""
    once = set(names)
    try:
        return sorted(once, key=lambda name: (float(name), name))
    except ValueError:
        return sorted(once)


def tests_table(study: ReaderStudy) -> RichTable:
    """The test that all treatments are equal, in the three ways to generalise."""
    table = RichTable(title="Are all equal?")
    for column in ("random", "F", "degrees of freedom", "p"):
        table.add_column(column)
    for random, test in _by_what_is_random(study):
        table.add_row(random, shown(test.f), _df(test), shown(test.p))
    return table


def differences_table(study: ReaderStudy) -> RichTable:
    """All differences, in the three ways to generalise."""
    table = RichTable(title="Differences, 95 % interval")
    for column in ("random", "first", "second", "first - second", "interval", "p"):
        table.add_column(column, no_wrap=column in ("interval", "p"))
    for random, test in _by_what_is_random(study):
        for one in test.differences:
            table.add_row(random, one.first, one.second, shown(one.difference), interval(one.ci), shown(one.p))
    return table


def _by_what_is_random(study: ReaderStudy) -> tuple[tuple[str, SignificanceTest], ...]:
    return (
        ("readers and cases", study.random_readers_random_cases),
        ("cases", study.fixed_readers),
        ("readers", study.fixed_cases),
    )


def print_study(console: Console, study: ReaderStudy) -> None:
    """Means, tests, differences, the machine against the panel, and what is undefined."""
    if study.random_readers_random_cases.means:
        console.print(means_table(study))
    if study.random_readers_random_cases.differences:
        console.print(tests_table(study))
        console.print(differences_table(study))
    if study.cad:
        console.print(machine_table(study.cad))
    for line in (*reasons_told(study), *study.notes):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def means_table(study: ReaderStudy) -> RichTable:
    """Mean over the readers of each treatment, readers and cases random where that is defined."""
    table = RichTable(title="Mean over readers, 95 % interval")
    for column in ("treatment", "mean", "readers and cases random", "cases random"):
        table.add_column(column)
    for both, cases in zip(study.random_readers_random_cases.means, study.fixed_readers.means, strict=True):
        table.add_row(both.treatment, shown(both.mean), interval(both.ci), interval(cases.ci))
    return table


def machine_table(machines: Sequence[Machine]) -> RichTable:
    """The machine against the panel."""
    table = RichTable(title="Panel minus machine, readers and cases random, 95 % interval")
    for column in ("treatment", "machine", "its figure", "panel", "difference", "interval", "p"):
        table.add_column(column)
    for one in machines:
        test = one.random_readers_random_cases
        figures = (shown(one.figure), shown(one.panel_mean), shown(test.difference), interval(test.ci), shown(test.p))
        table.add_row(one.treatment, one.machine, *figures)
    return table


def reasons_told(study: ReaderStudy) -> list[str]:
    """Why figures are undefined, each reason once with the first key that has it."""
    first: dict[str, str] = {}
    for key, reason in study.undefined.items():
        if reason not in (_CHI_SQUARE, _SEVERAL, _COMPONENT):
            first.setdefault(reason, key)
    return [f"{key} is undefined: {reason}" for reason, key in first.items()]


def print_by_reader(console: Console, study: ReaderStudy, figures: Mapping[tuple[str, str], float | None]) -> None:
    """A row a reader, a column a treatment; `figures` by (treatment, reader)."""
    table = RichTable()
    table.add_column("reader")
    for treatment in study.treatments:
        table.add_column(treatment)
    for reader in study.readers:
        table.add_row(reader, *(shown(figures[treatment, reader]) for treatment in study.treatments))
    console.print(table)


def shown(value: float | None) -> str:
    """A number for people, or a dash where there is none."""
    return "–" if value is None else f"{value:.4f}"


def interval(ci: Interval) -> str:
    """An interval for people, or a dash."""
    low, high = ci
    return "–" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _df(test: SignificanceTest) -> str:
    if test.f is None:
        return "–"
    return f"{test.numerator_df:g}, {'∞' if test.ddf is None else f'{test.ddf:.2f}'}"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
