"""No table, however degenerate, ends in a traceback, a figure outside of its interval, or a null without reason."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.commands.drift import command as drift
from eval.commands.paired import command as paired
from eval.commands.proportions import command as proportions
from eval.commands.roc import command as roc

SCORES = {
    "constant": lambda draw, ill: 0.5,
    "certain": lambda draw, ill: float(draw.randint(0, 1)),
    "few values": lambda draw, ill: float(draw.randint(0, 4)),
    "probabilities": lambda draw, ill: draw.random(),
    "apart": lambda draw, ill: 0.2 + 0.5 * ill + 0.1 * draw.random(),
    "of both signs": lambda draw, ill: draw.gauss(0, 1),
    "enormous": lambda draw, ill: draw.choice([1e300, -1e300, 0.0, 1e-300]),
}
TABLES = st.tuples(
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 3, 5, 12, 40]),
    st.sampled_from(sorted(SCORES)),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([1, 2, 1000]),
)
# keys that are null without a reason of their own: their neighbour has it, or null is what they say
ALLOWED = {"patients", "z", "threshold", "holm_p", "independent", "lowest_subgroup"}


def write(path: Path, drawn: tuple[int, int, str, float, int]) -> Path:
    seed, rows, kind, ill_share, patients = drawn
    draw = random.Random(seed)
    lines = ["truth,score,other,person,group,call,number"]
    for row in range(rows):
        ill = draw.random() < ill_share
        group = draw.choice(["a", "b", ""])
        score = SCORES[kind](draw, ill)
        lines.append(f"{int(ill)},{score!r},{draw.random()!r},p{row % patients},{group}")
        lines[-1] += f",{draw.randint(0, 1)},{draw.randint(0, 2)}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def figures(block: Any, path: str = "") -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """Every key of every block, with the block it is in."""
    if isinstance(block, dict):
        for key, value in block.items():
            if not path and key in {"sources", "settings", "undefined", "notes"}:
                continue
            yield path, key, value, block
            yield from figures(value, f"{path}.{key}")
    elif isinstance(block, list):
        for number, value in enumerate(block):
            yield from figures(value, f"{path}[{number}]")


RESAMPLED = {"area_ci", "standardised_ci"}  # percentiles of a few resamples need not lie around the figure


def check(command: click.Command, *arguments: str | Path) -> None:
    few_resamples = "bootstrap" in arguments
    printed = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert printed.exit_code == 0, printed.stderr
    result = CliRunner().invoke(command, [*(str(argument) for argument in arguments), "--json"], catch_exceptions=False)
    document = json.loads(result.stdout)
    reasons = " ".join(document["undefined"])
    for path, key, value, block in figures(document):
        if value is None and not key.endswith("_ci"):
            assert key in ALLOWED or key in reasons, f"{path}.{key} is null without a reason"
        figure = block.get(key.removesuffix("_ci"))
        if not key.endswith("_ci") or figure is None or key.endswith(("wilson_ci", "wald_ci")):
            continue
        low, high = value
        if low is None:
            assert key in reasons, f"{path}.{key} is missing without a reason"
        else:
            around = low - 1e-9 <= figure <= high + 1e-9
            assert around or few_resamples or key in RESAMPLED, f"{path}.{key}"
            assert low < high, f"{path}.{key} claims certainty"


@pytest.mark.parametrize("by_patient", [False, True])
@given(table=TABLES, method=st.sampled_from(["plain", "logit", "bootstrap"]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scores_that_say_little_or_nothing_are_told_by_roc_with_reasons(
    tmp_path: Path, by_patient: bool, table: tuple[int, int, str, float, int], method: str
) -> None:
    path = write(tmp_path / "cases.csv", table)
    more = ("--patient", "person") if by_patient else ()
    check(
        *(roc, "--cases", path, "--truth", "truth", "--score", "score", "--compare", "other", "--threshold", "0.5"),
        *("--subgroup", "group", "--sensitivity", "0.9", "--specificity", "0.9", "--fpr", "0", "0.3"),
        *("--prevalence", "0.1", "--bootstrap", "20", "--interval", method, *more),
    )


@pytest.mark.parametrize("by_patient", [False, True])
@given(table=TABLES, other=TABLES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_calls_that_say_little_or_nothing_are_told_by_the_other_commands_with_reasons(
    tmp_path: Path,
    by_patient: bool,
    table: tuple[int, int, str, float, int],
    other: tuple[int, int, str, float, int],
) -> None:
    path, later = write(tmp_path / "cases.csv", table), write(tmp_path / "later.csv", other)
    more = ("--patient", "person") if by_patient else ()
    cases = ("--cases", path, "--truth", "truth")
    check(proportions, *cases, "--score", "score", "--threshold", "0.5", "--prevalence", "0.1", *more)
    check(proportions, *cases, "--call", "call", *more)
    check(paired, *cases, "--first", "score", "--first-threshold", "0.5", "--second", "call", "--margin", "0.1", *more)
    check(
        *(drift, "--reference", path, "--current", later, "--threshold", "0.5", "--truth", "truth"),
        *("--feature", "group", "--number", "number", "--run-length", "50", *more),
    )
