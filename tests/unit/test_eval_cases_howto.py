"""The page on cases shows what the commands print over the files that come with it."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from eval.commands.drift import command as drift
from eval.commands.paired import command as paired
from eval.commands.proportions import command as proportions
from eval.commands.roc import command as roc
from eval.commands.sample_size import command as sample_size

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLES = PROJECT / "examples" / "evaluation" / "cases"
PAGE = (PROJECT / "docs" / "howto" / "evaluate-cases.md").read_text(encoding="utf-8")
COMMANDS: dict[str, click.Command] = {
    "roc": roc,
    "proportions": proportions,
    "paired": paired,
    "sample-size": sample_size,
    "drift": drift,
}
SHOWN = re.findall(r"\$ radnode eval ((?:\\\n|[^\n])*)\n(.*?)\n```", PAGE, re.DOTALL)


def test_the_page_shows_every_command() -> None:
    assert {command.split()[0] for command, _ in SHOWN} == set(COMMANDS)


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_what_the_page_shows_is_what_is_printed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    command, shown = SHOWN[number]
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setenv("COLUMNS", "80")
    name, *arguments = command.replace("\\\n", " ").split()
    result = CliRunner().invoke(COMMANDS[name], arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.split() == shown.split()
