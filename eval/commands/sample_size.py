"""`radnode eval sample-size`: how many cases a study needs, by the paper that each subcommand is named after.

The arithmetic is `eval.sample_size`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import click
from pydantic import Field
from rich.console import Console

from eval import sample_size
from eval.case_options import BETWEEN, NUMBER, POSITIVE, RATE, Finite
from eval.console import JSON_TO_STDOUT, fail, json_option, misused, write_json
from eval.document import Document
from eval.sample_size import AreaVariance, PilotComponents, Sides, Size
from eval.version import version

_Command = TypeVar("_Command", bound=Callable[..., None])


class SampleSizeDocument(Document):
    """The result of ``radnode eval sample-size``; which numbers there are depends on the method."""

    method: str
    needed: Mapping[str, int] = Field(description="cases of each kind, pairs, or cases of each group; rounded up")
    power: float | None = Field(description="reached with these numbers, where the method gives it")


def _tested(function: _Command) -> _Command:
    """Options of methods that test."""
    for option in (
        click.option("--power", type=BETWEEN, default=0.8, show_default=True, help="Chance to show the difference."),
        click.option("--alpha", type=BETWEEN, default=0.05, show_default=True, help="Error of the first kind."),
        click.option(
            "--sides", type=click.Choice([str(one) for one in Sides]), default="two", show_default=True,
            help="Sides of the test.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group(name="sample-size")
def command() -> None:
    """How many cases a study needs."""


@command.command()
@click.option("--sensitivity", type=BETWEEN, help="Expected sensitivity, where it is to be estimated.")
@click.option("--specificity", type=BETWEEN, help="Expected specificity, where it is to be estimated.")
@click.option("--half-width", type=BETWEEN, required=True, help="Of the interval, as a share.")
@click.option("--prevalence", type=BETWEEN, required=True, help="Among those who are recruited.")
@click.option("--level", type=BETWEEN, default=0.95, show_default=True, help="Of the interval.")
@json_option
def buderer(
    sensitivity: float | None,
    specificity: float | None,
    half_width: float,
    prevalence: float,
    level: float,
    json_to: str | None,
) -> None:
    """Sensitivity and specificity with an interval of a given width (Buderer 1996)."""
    asked = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "half_width": half_width,
        "prevalence": prevalence,
        "level": level,
    }
    try:
        size = sample_size.buderer(
            sensitivity=sensitivity, specificity=specificity, half_width=half_width, prevalence=prevalence, level=level
        )
    except ValueError as error:
        fail(str(error))
    _say("Buderer 1996", asked, _kinds(size), json_to, notes=(_recruited(size, prevalence),))


def _recruited(size: Size, prevalence: float) -> str:
    """Of which kinds those are who must be recruited: the kind that decides as needed, the other what comes with it."""
    by_diseased = size.diseased / prevalence >= size.others / (1 - prevalence)
    diseased = size.diseased if by_diseased else size.total - size.others
    return (
        f"for these numbers {size.total} are recruited: about {diseased} diseased and {size.total - diseased} not "
        f"diseased at a prevalence of {prevalence:g}; a kind of which 0 are needed comes with the other"
    )


def _area_command(model: AreaVariance, paper: str) -> None:
    @command.command(name=str(model), help=f"One area with a given width, against a value, or two areas ({paper}).")
    @click.option("--auc", type=BETWEEN, required=True, help="Expected area.")
    @click.option("--half-width", type=BETWEEN, help="Estimate the area with an interval of ± this.")
    @click.option("--null", type=BETWEEN, help="Show that the area differs from this.")
    @click.option("--other", type=BETWEEN, help="Show that the area differs from another score's expected area.")
    @click.option(
        "--correlation",
        type=Finite(min=-1, max=1, min_open=True, max_open=True),
        default=0.0,
        show_default=True,
        help="Between the two estimated areas; 0 for two groups of cases.",
    )
    @click.option("--ratio", type=POSITIVE, default=1.0, show_default=True, help="Other cases for each diseased one.")
    @_tested
    @json_option
    def area(
        auc: float,
        half_width: float | None,
        null: float | None,
        other: float | None,
        correlation: float,
        ratio: float,
        power: float,
        alpha: float,
        sides: str,
        json_to: str | None,
    ) -> None:
        if sum(given is not None for given in (half_width, null, other)) != 1:
            misused("give one of --half-width, --null and --other")
        asked: dict[str, str | float | None] = {"auc": auc, "half_width": half_width, "null": null, "other": other}
        asked |= {"correlation": correlation, "ratio": ratio, "power": power, "alpha": alpha, "sides": sides}
        test = {"power": power, "alpha": alpha, "ratio": ratio}
        try:
            if half_width is not None:
                size = sample_size.area_precision(model, auc=auc, half_width=half_width, ratio=ratio, level=1 - alpha)
            elif null is not None:
                size = sample_size.area_against(model, auc=auc, null=null, sides=Sides(sides), **test)
            else:
                size = sample_size.area_difference(
                    model, first=auc, second=other or auc, correlation=correlation, sides=Sides(sides), **test
                )
        except ValueError as error:
            fail(str(error))
        _say(paper, asked, _kinds(size), json_to)


_area_command(AreaVariance.HANLEY_MCNEIL, "Hanley and McNeil 1982, 1983")
_area_command(AreaVariance.OBUCHOWSKI, "Obuchowski 1994")


@command.command()
@click.option("--first-only", type=BETWEEN, required=True, help="Share of cases only the first gets right.")
@click.option("--second-only", type=RATE, required=True, help="Share only the second gets right.")
@_tested
@json_option
def connor(first_only: float, second_only: float, power: float, alpha: float, sides: str, json_to: str | None) -> None:
    """Pairs for McNemar's test (Connor 1987)."""
    asked: dict[str, str | int | float | None] = {
        "first_only": first_only,
        "second_only": second_only,
        "power": power,
        "alpha": alpha,
        "sides": sides,
    }
    try:
        pairs = sample_size.connor(
            first_only=first_only, second_only=second_only, power=power, alpha=alpha, sides=Sides(sides)
        )
    except ValueError as error:
        fail(str(error))
    _say("Connor 1987", asked, {"pairs": pairs}, json_to)


@command.command(name="farrington-manning")
@click.option("--first", type=BETWEEN, required=True, help="Expected share of the first group.")
@click.option("--second", type=BETWEEN, required=True, help="Expected share of the second group.")
@click.option("--margin", type=BETWEEN, required=True, help="What the first may lose, as a share.")
@click.option("--ratio", type=POSITIVE, default=1.0, show_default=True, help="Cases of the second for each first.")
@click.option("--power", type=BETWEEN, default=0.8, show_default=True, help="Chance to show non-inferiority.")
@click.option("--alpha", type=BETWEEN, default=0.025, show_default=True, help="Error of the first kind, one-sided.")
@json_option
def farrington_manning(
    first: float, second: float, margin: float, ratio: float, power: float, alpha: float, json_to: str | None
) -> None:
    """Non-inferiority of the shares of two independent groups (Farrington and Manning 1990)."""
    asked = {"first": first, "second": second, "margin": margin, "ratio": ratio, "power": power, "alpha": alpha}
    try:
        sizes = sample_size.farrington_manning(**asked)
    except ValueError as error:
        fail(str(error))
    needed = {"first": sizes.first, "second": sizes.second, "total": sizes.first + sizes.second}
    _say("Farrington and Manning 1990", asked, needed, json_to)


@command.command()
@click.option("--treatment-reader", type=NUMBER, required=True, help="Variance of the interaction, from a pilot study.")
@click.option("--error", type=POSITIVE, required=True, help="Variance of an area over the pilot's cases.")
@click.option("--cov1", type=NUMBER, required=True, help="Covariance: same reader, other treatment.")
@click.option("--cov2", type=NUMBER, required=True, help="Covariance: other reader, same treatment.")
@click.option("--cov3", type=NUMBER, required=True, help="Covariance: other reader, other treatment.")
@click.option("--pilot-cases", type=click.IntRange(min=2), required=True, help="Cases of the pilot study.")
@click.option("--difference", type=BETWEEN, required=True, help="Of mean areas that is to be shown.")
@click.option("--readers", type=click.IntRange(min=2), required=True, help="Readers of the study to be planned.")
@click.option("--cases", type=click.IntRange(min=2), help="Cases, where the power is asked for instead.")
@click.option("--power", type=BETWEEN, default=0.8, show_default=True, help="Chance to show the difference.")
@click.option("--alpha", type=BETWEEN, default=0.05, show_default=True, help="Error of the first kind, two-sided.")
@json_option
def mrmc(
    treatment_reader: float,
    error: float,
    cov1: float,
    cov2: float,
    cov3: float,
    pilot_cases: int,
    difference: float,
    readers: int,
    cases: int | None,
    power: float,
    alpha: float,
    json_to: str | None,
) -> None:
    """Cases of a reader study of two treatments, or its power (Hillis, Obuchowski and Berbaum 2011)."""
    components = {"treatment_reader": treatment_reader, "error": error, "cov1": cov1, "cov2": cov2, "cov3": cov3}
    asked: dict[str, str | int | float | None] = {
        **components,
        "pilot_cases": pilot_cases,
        "difference": difference,
        "readers": readers,
        "alpha": alpha,
    }
    pilot = PilotComponents(**components, cases=pilot_cases)
    try:
        needed = cases or sample_size.mrmc_cases(
            pilot, difference=difference, readers=readers, power=power, alpha=alpha
        )
        reached = sample_size.mrmc_power(pilot, difference=difference, readers=readers, cases=needed, alpha=alpha)
    except ValueError as fault:
        fail(str(fault))
    _say(
        "Hillis, Obuchowski and Berbaum 2011",
        {**asked, "power": power, "cases": cases},
        {"readers": readers, "cases": needed},
        json_to,
        power=reached.power,
    )


def _kinds(size: Size) -> dict[str, int]:
    return {"diseased": size.diseased, "not_diseased": size.others, "total": size.total}


def _say(
    method: str,
    asked: Mapping[str, str | int | float | None],
    needed: Mapping[str, int],
    json_to: str | None,
    power: float | None = None,
    notes: tuple[str, ...] = (),
) -> None:
    document = SampleSizeDocument(
        command="sample-size",
        radnode=version(),
        settings=dict(asked),
        method=method,
        needed=needed,
        notes=notes,
        power=power,
        undefined={} if power is not None else {"power": "the method gives numbers for a power, not the power"},
    )
    if json_to != JSON_TO_STDOUT:
        numbers = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in needed.items())
        reached = "" if power is None else f"; power {power:.4f}"
        console = Console()
        console.print(f"{numbers}{reached} ({method})", highlight=False)
        for note in notes:
            console.print(f"note: {note}", highlight=False)
    if json_to:
        write_json(document.model_dump(mode="json"), json_to)
