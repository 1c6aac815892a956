"""Health, metrics and the account of studies over real HTTP."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.dimse.scp import PynetdicomReceiver
from dicom_node.health import Health
from dicom_node.ledger import deliveries
from dicom_node.metrics import NodeMetrics
from dicom_node.node import Node
from dicom_node.reception import Happened, ReceptionBoard, Report
from dicom_node.web.app import build_app
from dicom_node.web.server import WebError, WebServer
from inference.findings import StudyUid
from tests.integration.receiving_rig import eventually
from tests.pictures import film_file
from tests.pipeline_rig import PipelineRig

STUDY = "1.2.826.0.1.99"


@dataclass
class Served:
    """A running web server over a rig's ledger; `parts` is what the node would say of its health."""

    rig: PipelineRig
    board: ReceptionBoard
    metrics: NodeMetrics
    parts: dict[str, str] = field(default_factory=lambda: {"coordinator": "", "disk": ""})
    root: str = ""

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.root + path, trust_env=False, timeout=30)

    def samples(self) -> dict[tuple[str, str], float]:
        """Every sample by its name and the value of its last label."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return {
            (one.name, list(one.labels.values())[-1] if one.labels else ""): one.value
            for family in families
            for one in family.samples
        }


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    rig = PipelineRig(tmp_path)
    board = ReceptionBoard()
    restarts = {"acceptor": 2, "worker": 1}
    found = Served(rig, board, NodeMetrics(rig.pipeline.ledger, rig.pipeline.store, board, restarts=lambda: restarts))
    app = build_app(rig.pipeline.ledger, found.metrics.registry, lambda: Health(parts=found.parts))
    server = WebServer(app, "127.0.0.1", 0)
    server.start()
    found.root = f"http://127.0.0.1:{server.port}"
    yield found
    server.stop()
    rig.close()


def analysed(served: Served) -> str:
    served.rig.receive(film_file(served.rig.folder / "a.dcm", StudyInstanceUID=STUDY))
    served.rig.settle()
    served.rig.work()
    return STUDY


def test_a_node_that_works_is_well(served: Served) -> None:
    answer = served.get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "parts": {"coordinator": "ok", "disk": "ok"}}


def test_a_node_with_a_dead_part_is_unwell_and_names_it(served: Served) -> None:
    served.parts["coordinator"] = "stopped"
    answer = served.get("/healthz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unwell", "parts": {"coordinator": "stopped", "disk": "ok"}}


def test_metrics_count_what_the_ledger_knows_and_name_no_study(served: Served) -> None:
    analysed(served)
    served.board.apply("a", Report(happened=Happened.OPENED, association=1, calling_ae="CR1"))
    served.rig.clock.move(30)
    before = served.samples()
    assert before[("radnode_studies", "analysed")] == before[("radnode_jobs", "succeeded")] == 1
    assert before[("radnode_instances", "indexed")] == before[("radnode_open_associations", "")] == 1
    assert before[("radnode_associations_total", "")] == 1
    assert before[("radnode_deliveries", "pending")] == 1
    assert before[("radnode_oldest_open_delivery_age_seconds", "pacs")] == 30
    assert before[("radnode_disk_free_bytes", "")] > 0
    with served.rig.pipeline.ledger.begin() as tx:
        row = deliveries.of_study(tx, StudyUid(STUDY))[0]
        deliveries.set_confirmed(tx, row.id, at=served.rig.clock(), how="a query")
    served.metrics.on_confirmed(row, served.rig.clock())
    after = served.samples()
    assert after[("radnode_last_image_to_confirmed_seconds_count", "pacs")] == 1
    assert after[("radnode_last_image_to_confirmed_seconds_sum", "pacs")] == 40
    text = served.get("/metrics").text
    assert STUDY not in text and "1.2." not in text and "CR1" not in text


def test_metrics_count_what_happened_at_the_port_and_which_processes_died(served: Served) -> None:
    def report(happened: Happened) -> None:
        served.board.apply("a", Report(happened=happened, association=1, study_uid=STUDY, calling_ae="CR1"))

    for happened in (Happened.REJECTED, Happened.OPENED, *[Happened.STORED] * 3, *[Happened.DUPLICATE] * 2):
        report(happened)
    report(Happened.REFUSED)
    found = served.samples()
    assert found[("radnode_associations_rejected_total", "")] == 1
    answers = {name: found[("radnode_received_instances_total", name)] for name in ("stored", "duplicate", "refused")}
    assert answers == {"stored": 3, "duplicate": 2, "refused": 1}
    assert found[("radnode_process_restarts_total", "acceptor")] == 2
    assert found[("radnode_process_restarts_total", "worker")] == 1
    text = served.get("/metrics").text
    assert STUDY not in text and "CR1" not in text


def test_a_node_whose_workers_receiver_or_ledger_do_not_work_is_unwell(tmp_path: Path) -> None:
    rig = PipelineRig(tmp_path, receiver={"port": 0, "processes": 1}, web={"port": 0}, worker={"count": 1})
    node = Node(rig.settings)
    try:
        parts = node.health().parts
        assert (parts["receiver"], parts["workers"], parts["ledger"]) == ("not started", "none is running", "")
        node.startup()
        root = f"http://127.0.0.1:{node.web.port}/healthz"

        def parts_now() -> dict[str, str]:
            parts: dict[str, str] = httpx.get(root, trust_env=False, timeout=30).json()["parts"]
            return parts

        assert eventually(lambda: set(parts_now().values()) == {"ok"}), parts_now()
        receiver = node.receiver
        assert isinstance(receiver, PynetdicomReceiver)
        (acceptor,), (worker,) = receiver.process_ids, node.workers.process_ids
        os.kill(worker, signal.SIGSTOP)  # alive, so it is counted until it is dead
        assert parts_now()["workers"] == "ok"
        with rig.pipeline.ledger.begin() as tx:
            tx.execute(sa.text("ALTER TABLE job RENAME TO job_away"))
        assert parts_now()["ledger"].startswith("does not answer")
        os.kill(worker, signal.SIGKILL)
        assert eventually(lambda: parts_now()["workers"] == "none is running"), "nobody replaces it without a ledger"
        with rig.pipeline.ledger.begin() as tx:
            tx.execute(sa.text("ALTER TABLE job_away RENAME TO job"))
        assert eventually(lambda: parts_now()["workers"] == parts_now()["ledger"] == "ok")
        os.kill(acceptor, signal.SIGKILL)
        assert eventually(lambda: receiver.restarts == 1 and parts_now()["receiver"] == "ok")
        receiver.stop(0.1)
        assert parts_now()["receiver"] == "stopped"
    finally:
        node.shutdown()
        rig.close()


def test_metrics_of_an_empty_node_can_be_read(served: Served) -> None:
    assert served.samples()[("radnode_open_associations", "")] == 0


def test_studies_are_listed_and_told_whole(served: Served) -> None:
    assert served.get("/api/studies").json() == []
    analysed(served)
    (line,) = served.get("/api/studies").json()
    assert (line["study_uid"], line["outcome"], line["models"]) == (STUDY, "analysed", ["toy-opacity@1.0.0"])
    assert (line["instance_count"], line["lesion_scores"]) == (1, [0.874])
    account = served.get(f"/api/studies/{STUDY}").json()
    assert account["jobs"][0]["lesions"][0]["box"][0] > 0
    assert [one["destination"] for one in account["deliveries"]] == ["pacs", "web"]
    assert "Test^Film" not in served.get(f"/api/studies/{STUDY}").text
    assert served.get("/api/studies?limit=-5").status_code == 200


def test_a_study_nobody_sent_is_not_found_and_nothing_can_be_written(served: Served) -> None:
    assert served.get("/api/studies/1.2.3").status_code == 404
    assert httpx.post(served.root + "/api/studies", trust_env=False).status_code == 405
    assert served.get("/docs").status_code == served.get("/openapi.json").status_code == 404


def test_a_taken_port_is_named(served: Served) -> None:
    port = int(served.root.rpartition(":")[2])
    with pytest.raises(WebError, match=f"127.0.0.1 port {port}"):
        WebServer(build_app(served.rig.pipeline.ledger, served.metrics.registry, lambda: Health(parts={})), "127.0.0.1",
                  port).start()  # fmt: skip
