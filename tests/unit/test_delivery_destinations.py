"""Destinations as people write them: what is accepted, and that every fault is told."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import (
    ArchiveMisconfigured,
    Confirm,
    Destination,
    DicomwebDestination,
    PacsDestination,
)
from tests.conftest import PROJECT

DESTINATION: TypeAdapter[PacsDestination | DicomwebDestination] = TypeAdapter(Destination)
PACS = {"kind": "pacs", "name": "main", "host": "pacs.hospital.example", "port": 104, "called_ae": "PACS"}
WEB = {"kind": "dicomweb", "name": "web", "url": "https://pacs.hospital.example/dicom-web"}


def test_the_kind_tells_which_destination_it_is() -> None:
    pacs = DESTINATION.validate_python(PACS)
    assert isinstance(pacs, PacsDestination)
    assert (pacs.confirm, pacs.calling_ae) == (Confirm.AUTO, "RADNODE")
    assert isinstance(DESTINATION.validate_python(WEB), DicomwebDestination)


@pytest.mark.parametrize("title", ["", " ", "SEVENTEEN_LETTERS", "BACK\\SLASH", "ТИТУЛ", " LEADS", "TRAILS ", "A\nB"])
def test_a_title_that_is_no_ae_title_is_refused(title: str) -> None:
    with pytest.raises(ValidationError):
        DESTINATION.validate_python({**PACS, "called_ae": title})


@pytest.mark.parametrize("title", ["A", "PACS 1", "SIXTEEN_LETTERS_", "a-b.c"])
def test_a_title_may_be_anything_the_standard_allows(title: str) -> None:
    assert DESTINATION.validate_python({**PACS, "called_ae": title})


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ValidationError) as told:
        DESTINATION.validate_python({**PACS, "port": 0, "called_ae": "", "speed": "fast"})
    assert {error["loc"][-1] for error in told.value.errors()} == {"port", "called_ae", "speed"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"url": "ftp://archive/"}, "http:// or https://"),
        ({"url": "archive/dicom-web"}, "http:// or https://"),
        ({"url": "https://node:secret@archive/"}, "must not hold credentials"),
        ({"url": "https://archive/?a=b"}, "root of the service"),
        ({"token_env": "A", "token_file": "b"}, "give one of"),
        ({"username": "node"}, "belong together"),
        ({"password_env": "A"}, "belong together"),
        ({"url": "http://archive/", "token_env": "A"}, "credentials over plain http"),
        ({"confirm": "commitment"}, "confirm"),
    ],
)
def test_a_web_destination_that_cannot_work_is_refused(changes: dict[str, str], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DESTINATION.validate_python({**WEB, **changes})


def test_credentials_in_clear_need_a_word_of_consent() -> None:
    assert DESTINATION.validate_python({**WEB, "url": "http://127.0.0.1:8042", "token_env": "A"})
    consented = {**WEB, "url": "http://archive", "token_env": "A", "clear_text_credentials": True}
    assert DESTINATION.validate_python(consented)


def test_a_refused_url_does_not_show_its_password() -> None:
    with pytest.raises(ValidationError, match="must not hold credentials") as told:
        DicomwebDestination.model_validate({**WEB, "url": "https://node:hunter2@archive/"})
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("destination", [PACS, WEB])
def test_a_certificate_that_is_not_there_shows_when_the_archive_is_opened(
    destination: dict[str, object], tmp_path: Path
) -> None:
    tls = {"ca_file": tmp_path / "absent.pem"}
    with pytest.raises(ArchiveMisconfigured, match="certificate files"):
        open_archive(DESTINATION.validate_python({**destination, "tls": tls}))


def test_the_examples_of_the_guide_are_valid_settings() -> None:
    guide = (PROJECT / "docs" / "howto" / "destinations.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        for destination in tomllib.loads(example)["destination"]:
            assert DESTINATION.validate_python(destination).name in {"main", "web", "secure"}


def test_the_guide_names_only_reasons_that_exist() -> None:
    guide = (PROJECT / "docs" / "howto" / "destinations.md").read_text(encoding="utf-8")
    sources = [*(PROJECT / "dicom_node" / "delivery").glob("*.py"), *(PROJECT / "dicom_node" / "dimse").glob("*.py")]
    code = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    for reason in ("no connection to", "does not answer an association request", "redirects to", "is url the root"):
        assert reason in guide
        assert reason in code
