"""The section [returned]: what the guide shows is valid, contradictions are named, paths are meant from the file."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from dicom_node.returned.settings import ReturnedSettings
from dicom_node.returned.statuses import StateReport, read_state
from tests.conftest import PROJECT

GUIDE = (PROJECT / "docs" / "howto" / "returned.md").read_text(encoding="utf-8")


def test_the_settings_of_the_guide_are_valid_with_and_without_its_comments() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)
    for text in (shown, re.sub(r"^# ", "", shown, flags=re.MULTILINE)):
        settings = ReturnedSettings.model_validate(tomllib.loads(text)["returned"])
        assert settings.has_token and settings.has_loop and settings.mllp is not None


def test_the_states_of_the_guide_can_be_read() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", GUIDE, flags=re.DOTALL)
    for line in shown.splitlines():
        state = json.loads(line) | {"document_id": "a" * 64}
        assert isinstance(read_state(json.dumps(state).encode()), StateReport)


def test_every_door_is_closed_unless_it_is_set() -> None:
    settings = ReturnedSettings()
    assert not settings.has_token and not settings.has_loop
    assert settings.beside(Path("/etc/radnode")) == settings


def test_two_tokens_are_a_contradiction() -> None:
    with pytest.raises(ValidationError, match="give one of"):
        ReturnedSettings(token_env="A", token_file=Path("b"))


def test_paths_are_meant_from_the_settings_file() -> None:
    tls = {"certificate_file": "a.pem", "client_ca_file": "/ca.pem"}
    settings = ReturnedSettings.model_validate(
        {"folder": "in", "token_file": "t", "trusted_file": "s", "rules": "own.toml", "mllp": {"port": 1, "tls": tls}}
    ).beside(Path("/etc/radnode"))
    assert (settings.folder, settings.rules) == (Path("/etc/radnode/in"), "/etc/radnode/own.toml")
    assert settings.mllp is not None and settings.mllp.tls is not None
    assert settings.mllp.tls.certificate_file == Path("/etc/radnode/a.pem")
    assert settings.mllp.tls.client_ca_file == Path("/ca.pem")
