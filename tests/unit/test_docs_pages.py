"""Pages name files, commands and targets that exist, and the README opens as it should."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from dicom_node.cli import LazyGroup, main
from tests.conftest import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def page_id(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_that_pages_name_exist(page: Path) -> None:
    assert isinstance(main, LazyGroup)
    known = set(main.list_commands(click.Context(main)))
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^    )radnode (?:--settings \S+ )?([a-z]+)", text, flags=re.MULTILINE))
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_that_pages_name_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named - targets == set()


def test_the_readme_has_two_commands_a_picture_and_a_page_for_each_kind_of_reader() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert "\n    make demo" in readme and "\n    make test" in readme
    assert re.search(r"!\[[^\]]+\]\(docs/images/\w+\.png\)", readme)
    for reader in ("pacs-administrators", "radiologists", "data-scientists", "regulators"):
        assert f"docs/for-{reader}.md" in readme


def test_the_changelog_begins_with_what_is_not_released() -> None:
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)[0] == "Unreleased"


def test_every_decision_is_dated() -> None:
    text = (PROJECT / "docs" / "decisions.md").read_text(encoding="utf-8")
    paragraphs = text.strip().split("\n\n")[2:]
    assert paragraphs
    assert [one[:40] for one in paragraphs if not re.match(r"\*\*\d{4}-\d{2}-\d{2} · ", one)] == []
