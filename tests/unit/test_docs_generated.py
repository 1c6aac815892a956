"""The pages and schemas that are made from the code are those that the code makes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from dicom_node.dimse.contexts import TRANSFER_SYNTAXES
from dicom_node.implementation import IMPLEMENTATION_CLASS_UID
from dicom_node.settings import Settings
from dicom_node.states import DeliveryState, JobState, Outcome
from inference.refusals import Reason
from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", PROJECT / "scripts" / "generate_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_pages_and_schemas_equal_what_the_code_makes(generator: ModuleType) -> None:
    differing = [
        path.relative_to(PROJECT).as_posix()
        for path, text in generator.generate().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not differing, "run `make docs` and commit"


def test_every_setting_of_the_top_level_is_on_the_settings_page() -> None:
    page = (PROJECT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if not re.search(rf"[`\[]{name}[\]`]", page)] == []


def test_no_setting_of_numbers_is_without_its_default() -> None:
    page = (PROJECT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert re.search(r"\| `lease_s` \| number > 1 \| `60.0` \| \S", page)
    assert re.search(r"\| `idle_timeout_s` \| number[^|]*\| `120.0` \| \S", page)


def test_the_conformance_statement_lists_syntaxes_in_the_order_of_preference() -> None:
    page = (PROJECT / "docs" / "conformance.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\d+\. .*\(`([\d.]+)`\)$", page, flags=re.MULTILINE)
    assert tuple(listed) == TRANSFER_SYNTAXES
    assert IMPLEMENTATION_CLASS_UID in page


@pytest.mark.parametrize("enumeration", [Outcome, JobState, DeliveryState, Reason])
def test_every_state_and_reason_is_explained_in_the_glossary(enumeration: type[Outcome]) -> None:
    page = (PROJECT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert [name for name in enumeration.__members__ if not re.search(rf"\| {name} \| \S", page)] == []


def test_a_page_that_differs_is_written_again(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "generate", lambda: {tmp_path / "new" / "page.md": "text\n"})
    generator.main()
    assert (tmp_path / "new" / "page.md").read_text() == "text\n"
