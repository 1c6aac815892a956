"""Destinations of the record as the settings have them: kinds, faults, secrets, and what reading them costs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from dicom_node.ehr.destination import DestinationMisconfigured, read_secret
from dicom_node.ehr.destinations import Record
from dicom_node.ehr.fhir.destination import FhirDestination
from dicom_node.ehr.hl7v2.destination import MllpDestination
from dicom_node.ehr.semd.destination import SemdDestination
from dicom_node.stored_secret import SecretUnusable
from dicom_node.stored_secret import read_secret as read_stored
from tests.conftest import PROJECT

_RECORDS: TypeAdapter[list[Any]] = TypeAdapter(list[Record])
_TABLES = """
[[record]]
kind = "semd"
name = "physicians"
folder = "/var/spool/radnode/physicians"

[[record]]
kind = "semd"
name = "mis"
url = "https://mis.example/drafts"
token_file = "/etc/radnode/mis.token"

[[record]]
kind = "fhir"
name = "region"
url = "https://region.example/fhir"
attach_semd = true

[[record]]
kind = "mllp"
name = "ris"
host = "127.0.0.1"
port = 2575
"""


def test_tables_of_the_settings_become_destinations_of_their_kind() -> None:
    read = _RECORDS.validate_python(tomllib.loads(_TABLES)["record"])
    assert [type(one) for one in read] == [SemdDestination, SemdDestination, FhirDestination, MllpDestination]
    assert read[0].folder == Path("/var/spool/radnode/physicians") and read[0].accept_research is False


@pytest.mark.parametrize(("page", "kinds"), [("semd", ["semd", "semd"]), ("fhir", ["fhir"]), ("hl7v2", ["mllp"])])
def test_the_examples_of_the_guides_can_be_copied_into_settings(page: str, kinds: list[str]) -> None:
    text = (PROJECT / "docs" / "howto" / f"{page}.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[[record]]" in block]
    read = [one for block in blocks for one in _RECORDS.validate_python(tomllib.loads(block)["record"])]
    assert [one.kind for one in read] == kinds


def test_reading_them_loads_neither_writers_nor_senders() -> None:
    told = (
        "import sys, dicom_node.ehr.destinations, dicom_node.ehr.receivers;"
        "print([one for one in ('lxml', 'httpx', 'httpcore', 'PIL', 'confluent_kafka') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "one of folder and url"),
        ({"folder": "/a", "url": "https://mis.example"}, "one of folder and url"),
        ({"folder": "drafts"}, "whole path"),
        ({"folder": "/a", "token_env": "T"}, "belong to url"),
        ({"folder": "/a", "tls": {}}, "belong to url"),
        ({"url": "http://mis.example"}, "plain http"),
        ({"url": "https://user:pw@mis.example"}, "no credentials"),
        ({"url": "https://mis.example?x=1"}, "no \\?"),
        ({"url": "ftp://mis.example"}, "http"),
        ({"url": "https://mis.example:99999"}, "ort"),
        ({"url": "https://mis.example:0"}, "port"),
        ({"url": "https://mis.example", "token_env": "A", "token_file": "b"}, "one of token"),
        ({"folder": "/a", "language": "en"}, "ru"),
        ({"folder": "/a", "fodler": "/b"}, "fodler"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        SemdDestination.model_validate({"name": "mis", **settings})


def test_a_draft_that_is_attached_is_russian() -> None:
    with pytest.raises(ValidationError, match="attach_semd"):
        FhirDestination(name="region", url="https://region.example", attach_semd=True, language="en")


def test_an_unknown_kind_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ValidationError, match="expected tags: 'fhir'"):
        _RECORDS.validate_python([{"kind": "fax", "name": "old"}])


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "holds no secret"), (b" \n", "holds no secret"), (b"\xff\xfe", "holds no secret"), (None, "no secret"),
     ("пароль".encode(), "no header"), (b"a\nb", "no header"), (b"a\x00b", "no header")],
)  # fmt: skip
def test_a_token_that_cannot_be_sent_is_told_without_its_value(
    tmp_path: Path, content: bytes | None, fault: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DestinationMisconfigured, match=fault) as caught:
        read_secret(None, file)
    assert "token" in str(caught.value) and "пароль" not in str(caught.value)


def test_a_password_need_not_fit_into_a_header_because_it_is_encoded(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("пароль\n", encoding="utf-8")
    assert read_stored(None, file, as_header=False) == "пароль"
    with pytest.raises(SecretUnusable):
        read_stored(None, file, as_header=True)


def test_a_variable_goes_before_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RADNODE_TEST_TOKEN", "t-1")
    assert read_secret("RADNODE_TEST_TOKEN", tmp_path / "none") == "t-1"
