"""Candidate, shadow, champion and back on a running node, as its people do it: by commands, with a real Orthanc."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from pydicom.uid import generate_uid

from tests.archives import Orthanc
from tests.conftest import PROJECT
from tests.dx_wrapping import wrap_film_as_dx
from tests.promotions import write_report
from tests.running_node import NodeTrouble, RunningNode, to_orthanc
from tests.toy_model import install_toy_model

SIDE = 256
ROUTE = {"name": "films", "model": "toy-opacity", "destinations": ["pacs"], "match": {"modality": ["CR", "DX"]}}
QUICK = {"projection_quiet_s": 0.3, "association_idle_s": 1.0}
OLD, NEW = "toy-opacity@1.0.0", "toy-opacity@2.0.0"
FOLLOWS_S = 30.0


@pytest.fixture
def models(tmp_path: Path) -> Path:
    install_toy_model(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def node(tmp_path: Path, models: Path, archive: Orthanc) -> Iterator[RunningNode]:
    with RunningNode(
        tmp_path / "node", {"assembly": QUICK, "destination": [to_orthanc(archive)]}, routes=[ROUTE], models=models
    ) as started:
        yield started


@pytest.fixture
def send(tmp_path: Path, node: RunningNode) -> Callable[[], str]:
    def one() -> str:
        grey = np.random.default_rng(7).normal(90, 10, (SIDE, SIDE))
        grey[60:100, 60:100] = 250
        study_uid = str(generate_uid())
        picture, film = tmp_path / "film.png", tmp_path / f"{study_uid}.dcm"
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(picture)
        wrap_film_as_dx(picture, study_uid=study_uid).save_as(film, enforce_file_format=True)
        node.send([film])
        return study_uid

    return one


def standing(node: RunningNode) -> dict[str, str]:
    """What every version is that ever had a standing, as the node's metrics tell it."""
    text = httpx.get(f"{node.web_url}/metrics", trust_env=False).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {one.labels["model"]: one.labels["standing"] for one in families["radnode_model"].samples}


def jobs(account: dict[str, Any] | None) -> dict[tuple[str, str], str]:
    return {(job["model"], job["role"]): job["state"] for job in (account or {"jobs": []})["jobs"]}


def wait(condition: Callable[[], bool], node: RunningNode) -> None:
    deadline = time.monotonic() + FOLLOWS_S
    while not condition():
        if time.monotonic() > deadline:
            raise NodeTrouble(f"it does not come to that\n{node.log_tail()}")
        time.sleep(0.1)


def objects(archive: Orthanc, study_uid: str) -> list[str]:
    return [one.sop_uid for one in archive.instances() if one.study_uid == study_uid]


def refused(node: RunningNode, *arguments: str) -> str:
    with pytest.raises(NodeTrouble) as caught:
        node.command(*arguments)
    return str(caught.value)


def test_a_new_version_is_tried_as_a_shadow_compared_promoted_and_rolled_back(
    node: RunningNode, send: Callable[[], str], archive: Orthanc, models: Path, tmp_path: Path
) -> None:
    assert standing(node) == {OLD: "champion"}
    card = install_toy_model(models, version="2.0.0", threshold=0.3)
    rows = json.loads(node.command("models", "list", "--json"))["models"]
    assert {row["model"]: row["standing"] for row in rows} == {OLD: "champion", NEW: "candidate"}
    assert "is a shadow" in node.command("models", "shadow", NEW, "--operator", "Иванова", "--why", "проба")
    study = send()
    node.wait_for_outcome(study)
    wait(lambda: jobs(node.account(study)).get((NEW, "shadow")) == "succeeded", node)
    account = node.explain(study)
    assert account["outcome"] == "analysed"
    assert sorted(one["role"] for one in account["jobs"]) == ["champion", "shadow"]
    written = [one["sop_instance_uid"] for result in account["results"] for one in result["objects"]]
    assert sorted(objects(archive, study)) == sorted(written) and len(written) == 2
    for sop_uid in written:
        data = archive.dicom_file(sop_uid)
        assert card.device_uid.encode() not in data and b"2.0.0" not in data, "the archive holds nothing of the shadow"
    (shadow,) = [one for one in account["jobs"] if one["role"] == "shadow"]
    assert shadow["lesions"] and shadow["model_digest"] == card.model_digest

    table = tmp_path / "compared.csv"
    compared = json.loads(node.command("models", "compare", OLD, NEW, "--json", "--csv", str(table)))
    assert compared["studies"]["both_spoke"] >= 1 and compared["agreement"] == 1.0
    assert compared["lesions"]["matched"] >= 1 and compared["score_difference"]["largest"] == 0
    with table.open(encoding="utf-8", newline="") as file:
        assert study in {row["study_uid"] for row in csv.DictReader(file) if row["b_role"] == "shadow"}

    assert "is promoted by an evaluation report alone" in refused(node, "models", "promote", NEW)
    other = write_report(tmp_path / "other.json", card, model_digest="0" * 64)
    assert "of another state of" in refused(node, "models", "promote", NEW, "--report", str(other.path))
    report = write_report(models / "toy-opacity" / "2.0.0" / "EVALUATION" / "evaluation.json", card)
    assert f"{report.sha256}  evaluation.json" in refused(node, "models", "promote", NEW)
    shown = json.loads(node.command("models", "show", NEW, "--json"))
    assert shown["reports"] == [
        {"file": "EVALUATION/evaluation.json", "sha256": report.sha256, "of_this_model": True, "verdict": None}
    ]
    assert [(one["device"], one["fault"]) for one in shown["workers"]] == [("cpu", None)]
    assert shown["jobs"] == [{"role": "shadow", "state": "succeeded", "count": 1}]
    node.command("models", "promote", NEW, "--report", report.sha256, "--why", "лучше на AP")
    assert standing(node) == {OLD: "candidate", NEW: "champion"}
    study = send()
    node.wait_for_outcome(study)
    assert jobs(node.account(study)) == {(NEW, "champion"): "succeeded"}
    assert any(card.device_uid.encode() in archive.dicom_file(one) for one in objects(archive, study))

    assert f"{OLD} is champion again" in node.command("models", "rollback", "toy-opacity", "--why", "ложные метки")
    study = send()
    node.wait_for_outcome(study)
    assert jobs(node.account(study)) == {(OLD, "champion"): "succeeded"}
    told = json.loads(node.command("models", "history", "toy-opacity", "--json"))
    assert [(one["model"], one["action"], one["to"]) for one in told] == [
        (OLD, "first_start", "champion"),
        (NEW, "shadow", "shadow"),
        (OLD, "promote", "candidate"),
        (NEW, "promote", "champion"),
        (NEW, "rollback", "candidate"),
        (OLD, "rollback", "champion"),
    ]
    assert (told[1]["operator"], told[1]["why"]) == ("Иванова", "проба")
    assert told[3]["report_sha256"] == report.sha256

    metrics = httpx.get(f"{node.web_url}/metrics", trust_env=False).text
    assert f'radnode_model{{model="{OLD}",standing="champion"}} 1.0' in metrics
    assert 'radnode_jobs{role="shadow",state="succeeded"}' in metrics and study not in metrics


def test_while_studies_stream_a_promotion_leaves_each_with_one_result_of_one_version(
    node: RunningNode, send: Callable[[], str], archive: Orthanc, models: Path
) -> None:
    card = install_toy_model(models, version="2.0.0")
    report = write_report(models / "toy-opacity" / "2.0.0" / "evaluation.json", card)
    sent: list[str] = []
    enough = threading.Event()

    def stream() -> None:
        while not enough.is_set():
            sent.append(send())

    streaming = threading.Thread(target=stream)
    streaming.start()
    try:
        wait(lambda: len(sent) > 5, node)
        node.command("models", "promote", NEW, "--report", report.sha256[:16])
        node.command("models", "rollback", "toy-opacity")
        node.command("models", "shadow", NEW)
        node.command("models", "promote", NEW, "--report", report.sha256)
        promoted = len(sent)
        wait(lambda: len(sent) > promoted + 3, node)
    finally:
        enough.set()
        streaming.join()
    spoke: Counter[str] = Counter()
    for study in sent:
        account = node.wait_for_outcome(study)
        assert account["outcome"] == "analysed"
        champions = [one for one in account["jobs"] if one["role"] == "champion" and one["state"] == "succeeded"]
        (result,) = [one for one in account["results"] if one["is_current"]]
        assert len(champions) == len(account["results"]) == 1
        assert sorted(objects(archive, study)) == sorted(one["sop_instance_uid"] for one in result["objects"])
        spoke[champions[0]["model"]] += 1
    assert set(spoke) == {OLD, NEW}, "studies came before and after"


def test_a_command_that_is_killed_leaves_one_champion_that_serves(
    node: RunningNode, send: Callable[[], str], models: Path
) -> None:
    card = install_toy_model(models, version="2.0.0")
    report = write_report(models / "toy-opacity" / "2.0.0" / "evaluation.json", card)
    started = time.monotonic()
    node.command("models", "history", "toy-opacity")
    usual_s = time.monotonic() - started
    radnode = [sys.executable, "-c", "from dicom_node.cli import main; main()", "--settings", str(node.settings_file)]
    for share in (0.7, 1.0, 1.2):
        command = [*radnode, "models", "promote", NEW, "--report", report.sha256]
        child = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(usual_s * share)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        (champion,) = [model for model, found in standing(node).items() if found == "champion"]
        study = send()
        node.wait_for_outcome(study)
        assert jobs(node.account(study))[(champion, "champion")] == "succeeded"
        if champion == NEW:
            node.command("models", "rollback", "toy-opacity")


def test_health_and_check_tell_of_a_champion_that_was_altered_and_of_a_route_without_one(
    node: RunningNode, send: Callable[[], str], models: Path
) -> None:
    def parts() -> dict[str, str]:
        answer: dict[str, str] = httpx.get(f"{node.web_url}/healthz", trust_env=False).json()["parts"]
        return answer

    assert parts()["models"] == "ok"
    card = models / "toy-opacity" / "1.0.0" / "card.toml"
    good = card.read_text(encoding="utf-8")
    card.write_text(good.replace("threshold = 0.5,", "threshold = 0.6,"), encoding="utf-8")
    wait(lambda: parts()["models"].startswith(f"{OLD} is not what became champion"), node)
    assert "models list ended with 1" in refused(node, "models", "list")
    study = send()
    account = node.wait_for_outcome(study)
    assert (account["outcome"], account["outcome_reason"]) == ("not_analysed", "model_failed")
    card.write_text(good, encoding="utf-8")
    wait(lambda: parts()["models"] == "ok", node)
    node.command("retry", study)
    wait(lambda: (node.account(study) or {})["outcome"] == "analysed", node)
    node.command("models", "retire", OLD, "--yes", "--why", "drill")
    study = send()
    account = node.wait_for_outcome(study)
    assert (account["outcome"], "has no champion" in account["outcome_detail"]) == ("no_route", True)
    checks = subprocess.run(
        [sys.executable, "-c", "from dicom_node.cli import main; main()", "--settings", str(node.settings_file),
         "check", "--json"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    faults = {one["check"]: one["fault"] for one in json.loads(checks.stdout) if one["fault"]}
    assert "model toy-opacity has no champion" in faults["route films"]


def test_no_process_of_a_node_that_serves_onnx_has_a_library_of_training_in_memory(
    node: RunningNode, send: Callable[[], str]
) -> None:
    node.wait_for_outcome(send())
    group = [one for one in psutil.process_iter() if _is_of(node.pid, one)]
    assert len(group) >= 3, "the node, an acceptor and a worker"
    for process in group:
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert not [name for name in ("libtorch", "mlflow", "monai", "sklearn") if name in mapped]


def _is_of(group: int, process: psutil.Process) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
