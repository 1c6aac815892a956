"""The page on lesions shows what the commands print over the files that come with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eval.commands.boxes import command as boxes
from eval.commands.froc import command as froc

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLES = PROJECT / "examples" / "evaluation" / "lesions"
PAGE = (PROJECT / "docs" / "howto" / "evaluate-lesions.md").read_text(encoding="utf-8")
COMMANDS = {"froc": froc, "boxes": boxes}


def words(text: str) -> str:
    """Text without its line breaks and spacing, which the width of a terminal decides."""
    return " ".join(text.split())


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setenv("COLUMNS", "80")
    name, *arguments = command.replace("\\\n", " ").split()
    return CliRunner().invoke(COMMANDS[name], arguments, catch_exceptions=False)


@pytest.mark.parametrize("name", ["froc", "boxes"])
def test_what_the_page_shows_is_what_is_printed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(rf"\$ radnode eval ({name}(?:\\\n|[^\n])*)\n(.*?)```", PAGE, re.DOTALL)
    assert found
    result = run(found[1], monkeypatch)
    assert result.exit_code == 0
    shown, _, noted = found[2].partition("note: ")
    assert words(result.stdout).startswith(words(shown))
    assert words(noted) in words(result.stderr)


def test_the_note_on_swapped_axes_is_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = re.search(r"note: swapped\.csv.*?axes\n", PAGE, re.DOTALL)
    assert shown
    result = run("froc --truth annotations.csv --scans seriesuids.csv --marks swapped.csv", monkeypatch)
    assert words(shown[0]) in words(result.stderr)
