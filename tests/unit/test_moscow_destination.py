"""Destinations of the exchange of Moscow as people write them, and what they are told of mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ehr.destinations import Record
from dicom_node.ehr.moscow.destination import KafkaDestination
from dicom_node.ehr.receivers import open_receiver
from dicom_node.ehr.receivers.kafka import KafkaReceiver

PLAIN: dict[str, Any] = {"kind": "kafka", "name": "moscow", "bootstrap_servers": ["127.0.0.1:9092"]}
RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def _record(**changed: Any) -> KafkaDestination:
    made = RECORD.validate_python(PLAIN | changed)
    assert isinstance(made, KafkaDestination)
    return made


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"bootstrap_servers": ["localhost:9092", "[::1]:9093"]},
        {"bootstrap_servers": ["kafka.example:9093"], "tls": {}},
        {"bootstrap_servers": ["kafka.example:9092"], "clear_text": True},
        {"username": "radnode", "password_env": "EXCHANGE_PASSWORD"},
        {"model_ids": {"chest-opacity": 101, "chest-opacity@0.2.0": "102a"}},
    ],
)
def test_a_destination_that_can_work_is_taken(changed: dict[str, Any]) -> None:
    assert _record(**changed).document == "moscow"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"bootstrap_servers": ["kafka.example:9092"]}, "clear_text = true"),
        ({"bootstrap_servers": ["127.0.0.1:9092", "kafka.example:9092"]}, "clear_text = true"),
        ({"bootstrap_servers": []}, "at least 1"),
        *[
            ({"bootstrap_servers": [server]}, "host:port")
            for server in ("127.0.0.1", "127.0.0.1:0", "127.0.0.1:http", "http://127.0.0.1:9092", "a@127.0.0.1:9092",
                           "127.0.0.1:9092,127.0.0.1:9093", "127.0.0.1:9092/x", "[::1:9092")
        ],
        ({"username": "radnode"}, "password_env or password_file"),
        ({"password_file": "/run/secrets/kafka"}, "password_env or password_file"),
        ({"username": "u", "password_env": "A", "password_file": "b"}, "one of"),
        ({"password": "secret"}, "not permitted"),
        ({"model_ids": {"chest-opacity": True}}, "model_ids"),
        ({"sasl_mechanism": "GSSAPI", "username": "u", "password_env": "A"}, "SCRAM-SHA-512"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_without_its_value(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told) as refused:
        KafkaDestination.model_validate(PLAIN | changed)
    assert "secret'" not in str(refused.value)


def test_the_receiver_is_opened_by_its_kind() -> None:
    receiver = open_receiver(_record(), semd_profile=None)
    assert isinstance(receiver, KafkaReceiver) and receiver.takes_refusals and _record().takes_refusals
    receiver.close()


def test_faulty_files_are_told_when_the_receiver_is_opened(tmp_path: Path) -> None:
    with pytest.raises(DestinationMisconfigured, match=r"region\.toml"):
        open_receiver(_record(document=str(tmp_path / "region.toml")), semd_profile=None)
    with pytest.raises(DestinationMisconfigured, match="certificate files"):
        open_receiver(_record(tls={"ca_file": str(tmp_path / "missing.pem")}), semd_profile=None)


def test_a_missing_library_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(DestinationMisconfigured, match=r"radnode\[kafka\]"):
        open_receiver(_record(), semd_profile=None)


def test_reading_settings_does_not_load_the_library() -> None:
    code = (
        "import sys, dicom_node.ehr.destinations, dicom_node.ehr.receivers; assert 'confluent_kafka' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
