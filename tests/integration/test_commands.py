"""`radnode`, command by command, as people run it: what it prints, what it writes, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dicom_node.cli import main
from dicom_node.ledger import deliveries
from inference.findings import SopUid, StudyUid
from inference.refusals import Reason, Refusal
from tests.archives import StoreScp, free_port
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import CHEST, PipelineRig
from training.toml import to_toml

STUDY, OTHER = "1.2.826.0.1.771", "1.2.826.0.1.772"
SECRETS = ("Test^Film", "PatientName")


class Desk:
    """A rig with its settings written to a file, and commands run against it."""

    def __init__(self, folder: Path) -> None:
        self.rig = PipelineRig(folder)
        self.settings_file = folder / "radnode.toml"
        self.values: dict[str, Any] = {
            "data_dir": "data",
            "routes_file": "routes.toml",
            "models": {"folders": ["models"], "include_zoo": False},
            "storage": {"soft_free_bytes": 0, "hard_free_bytes": 0, "reserve_bytes": 0},
            "destination": [
                {"name": "pacs", "kind": "pacs", "host": "127.0.0.1", "port": free_port(), "called_ae": "ARCHIVE"},
                {"name": "web", "kind": "pacs", "host": "127.0.0.1", "port": free_port(), "called_ae": "ARCHIVE"},
            ],
        }
        self.write()

    def write(self, **changes: Any) -> None:
        """Write the settings file anew."""
        self.values |= changes
        self.settings_file.write_text(to_toml(self.values), encoding="utf-8")

    def run(self, *arguments: str, status: int = 0, given: str | None = None) -> Result:
        """Run a command; its words hold no patient's."""
        done = CliRunner().invoke(main, ["--settings", str(self.settings_file), *arguments], input=given)
        assert done.exit_code == status, (done.output, done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), "people are shown no traceback"
        assert not any(secret in done.output for secret in SECRETS)
        return done

    def json(self, *arguments: str, status: int = 0) -> Any:
        """What a command prints with ``--json``."""
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def film(self, study: str = STUDY, name: str = "a", **changes: object) -> Path:
        return film_file(self.rig.folder / f"{name}.dcm", disc_picture(64, 48), StudyInstanceUID=study, **changes)

    def analysed(self, study: str = STUDY) -> None:
        self.rig.receive(self.film(study, study[-3:]))
        self.rig.settle()
        self.rig.work()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.rig.close()


# the group -----------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from dicom_node.cli import main
try:
    main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
heavy = {"numpy", "pydicom", "pynetdicom", "highdicom", "sqlalchemy", "torch", "onnxruntime", "fastapi", "pydantic",
         "structlog", "rich", "httpx"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    for name in ("serve", "studies", "explain", "retry", "retract", "models", "check", "route", "schema", "send"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "name", ["studies", "explain", "retry", "retract", "models", "check", "route", "schema", "send"]
)
def test_every_command_explains_itself(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0 and "Usage:" in done.output


def test_faulty_settings_end_every_command_with_all_faults(desk: Desk) -> None:
    desk.write(web={"port": -1}, worker={"count": -1})
    told = desk.run("studies", status=1).stderr
    assert "2 fault(s)" in told and "web.port" in told and "worker.count" in told


def test_without_a_ledger_the_remedy_is_named(tmp_path: Path) -> None:
    (tmp_path / "radnode.toml").write_text('data_dir = "nowhere"')
    for arguments in (["studies"], ["explain", "1"], ["retry", "--all"], ["retract", "1", "--yes"]):
        done = CliRunner().invoke(main, ["--settings", str(tmp_path / "radnode.toml"), *arguments])
        assert done.exit_code == 1 and "radnode serve" in done.stderr


def test_an_empty_or_unreachable_ledger_is_told_without_a_traceback(desk: Desk) -> None:
    desk.write(ledger={"url": f"postgresql+pg8000://me:geheim@127.0.0.1:{free_port()}/x"})
    told = desk.run("studies", status=1).stderr
    assert "cannot be opened" in told and "geheim" not in told
    desk.write(ledger={"url": f"sqlite:///{desk.rig.folder}/empty.sqlite3"})
    assert "radnode serve" in desk.run("studies", status=1).stderr


# studies and explain -------------------------------------------------------------------------------------------------


def test_studies_lists_what_came_newest_first(desk: Desk) -> None:
    assert "No study has arrived yet" in desk.run("studies").output
    assert desk.json("studies") == []
    desk.analysed()
    desk.rig.clock.move(60)
    desk.rig.receive(desk.film(OTHER, "b"))
    newest, oldest = desk.json("studies")
    assert (newest["study_uid"], newest["state"], newest["outcome"]) == (OTHER, "receiving", None)
    assert (oldest["outcome"], oldest["models"]) == ("analysed", ["toy-opacity@1.0.0"])
    assert oldest["lesion_scores"] == [0.874] and oldest["deliveries"] == ["pacs: pending", "web: pending"]
    assert len(desk.json("studies", "--limit", "1")) == 1
    assert "analysed" in desk.run("studies").output


def test_json_goes_to_a_file_when_one_is_named(desk: Desk) -> None:
    desk.analysed()
    target = desk.rig.folder / "out.json"
    assert desk.run("studies", "--json", str(target)).output == ""
    assert json.loads(target.read_text())[0]["study_uid"] == STUDY
    told = desk.run("studies", "--json", str(desk.rig.folder / "absent" / "out.json"), status=1).stderr
    assert "absent" in told and "No such file" in told


def test_explain_tells_every_decision_in_order(desk: Desk) -> None:
    desk.analysed()
    told = desk.run("explain", STUDY).output
    places = [
        told.index(words) for words in ("first instance received", "study complete", "route chest", "1 lesion(s)")
    ]
    assert places == sorted(places)
    assert "outcome analysed" in told and "opacity 87.4%" in told
    assert "Delivery of the result of toy-opacity (profile default) to pacs: pending" in told
    account = desk.json("explain", STUDY)
    assert account["study_uid"] == STUDY and len(account["events"]) == len(desk.rig.account(STUDY).events)
    assert account["jobs"][0]["lesions"][0]["sop_instance_uid"] == account["instances"][0]["sop_instance_uid"]


def test_explain_tells_a_result_from_its_retraction_and_when_the_last_image_came(desk: Desk) -> None:
    desk.analysed()
    with desk.rig.pipeline.ledger.begin() as tx:
        for row in deliveries.of_study(tx, StudyUid(STUDY)):
            deliveries.set_confirmed(tx, row.id, at=desk.rig.clock.move(3600), how="shown")
    desk.rig.receive(desk.film(name="late", SOPInstanceUID="1.2.3.9"))
    desk.run("retract", STUDY, "--yes")
    told = desk.run("explain", STUDY).output
    study = desk.rig.account(STUDY).study
    assert f"the last at {study.last_received_at:%Y-%m-%d %H:%M:%S}" in told and "2 instance(s)" in told
    assert "Delivery of the retraction of toy-opacity (profile default) to pacs" in told
    kinds = {(one["model"], one["kind"]) for one in desk.json("explain", STUDY)["deliveries"]}
    assert ("toy-opacity", "retraction") in kinds


def test_explain_counts_images_that_were_left_out_for_one_reason(desk: Desk) -> None:
    wrong_view = Refusal(reason=Reason.VIEW, detail="LL; the model accepts PA")
    left_out = [(SopUid(f"1.2.3.{number}"), wrong_view) for number in range(3)]
    left_out.append((SopUid("1.2.3.9"), Refusal(reason=Reason.AGE, detail="12 years")))
    desk.rig.receive(desk.film())
    for number in range(4):
        desk.rig.receive(desk.film(name=f"r{number}", SOPInstanceUID=f"1.2.4.{number}", Rows=0))
    desk.rig.settle()
    (job,) = desk.rig.claim()
    desk.rig.say(job, findings=desk.rig.findings(job), skipped=tuple(left_out))
    told = desk.run("explain", STUDY).output
    assert "3 × toy-opacity@1.0.0: an image was left out: view" in told
    assert "the first: view: LL; the model accepts PA" in told
    assert told.count("an image was left out") == 2 and "an image was left out: age: 12 years" in told
    assert "4 × an instance is kept but not analysed: no_pixels" in told
    account = desk.json("explain", STUDY)
    assert sum("left out" in event["what"] for event in account["events"]) == 4


def test_a_study_is_found_by_a_part_and_several_are_offered(desk: Desk) -> None:
    desk.analysed(STUDY)
    desk.analysed(OTHER)
    assert STUDY in desk.run("explain", "771").output
    assert STUDY in desk.run("explain", "…771").output
    told = desk.run("explain", "1.2.826", status=1).stderr
    assert STUDY in told and OTHER in told
    assert "no study begins or ends with 999" in desk.run("explain", "999", status=1).stderr


# retry and retract ---------------------------------------------------------------------------------------------------


def test_retry_tries_a_refused_study_and_its_failed_deliveries_again(desk: Desk) -> None:
    desk.rig.receive(desk.film())
    desk.rig.settle()
    desk.rig.work(refusal=Refusal(reason=Reason.MODEL_FAILED))
    with desk.rig.pipeline.ledger.begin() as tx:
        for row in deliveries.of_study(tx, StudyUid(STUDY)):
            deliveries.set_failed(tx, row.id, at=desk.rig.clock(), reason="refused")
    assert (
        desk.run("retry", STUDY, "--destination", "web").output == "1 job(s) and 1 delivery(ies) are tried again now\n"
    )
    assert desk.run("retry", "--all").output.startswith("0 job(s) and 2 delivery(ies)")
    assert any("a person asks for another try" in words for words in desk.rig.told(STUDY))
    desk.rig.work()
    assert desk.rig.account(STUDY).study.outcome == "analysed"


def test_retry_wants_to_know_what(desk: Desk) -> None:
    assert "say what to retry" in desk.run("retry", status=1).stderr
    assert (
        "no destination is called nobody; there are: pacs, web"
        in desk.run("retry", "--destination", "nobody", status=1).stderr
    )


def test_retract_asks_first_and_then_withdraws_everywhere(desk: Desk) -> None:
    desk.analysed()
    desk.run("retract", STUDY, given="n\n", status=1)
    assert len(desk.rig.account(STUDY).results) == 1
    told = desk.run("retract", STUDY, given="y\n").output
    assert "from every archive?" in told and "1 result set(s) withdrawn" in told and "document" not in told
    assert [row.kind for row in desk.rig.account(STUDY).results] == ["result", "retraction"]
    assert "no result that stands" in desk.run("retract", STUDY, "--yes", status=1).stderr


# models, check, route, schema ----------------------------------------------------------------------------------------


def test_models_are_listed_and_altered_weights_are_told(desk: Desk) -> None:
    (row,) = desk.json("models")["models"]
    assert (row["model"], row["use"], row["weights"]) == ("toy-opacity@1.0.0", "research", "verified")
    assert "toy-opacity" in desk.run("models").output
    weights = desk.rig.models / "toy-opacity" / "1.0.0" / "model.onnx"
    weights.write_bytes(weights.read_bytes() + b"x")
    assert "sha256 differs" in desk.json("models", status=1)["models"][0]["weights"]
    (weights.parent / "card.toml").write_text("[identity]")
    assert "card.toml" in desk.json("models", status=1)["faults"][0]


def test_check_passes_when_everything_answers(desk: Desk, storescp: StoreScp) -> None:
    archive = {
        "name": "pacs",
        "kind": "pacs",
        "host": "127.0.0.1",
        "port": storescp.dimse_port,
        "called_ae": storescp.ae_title,
    }
    desk.write(destination=[archive, {**archive, "name": "web"}])
    checked = {one["check"]: one["ok"] for one in desk.json("check")}
    assert checked == dict.fromkeys(
        ["settings", "model toy-opacity@1.0.0", "routes", "route chest", "disk", "ledger", "destination pacs",
         "destination web"], True,
    )  # fmt: skip
    assert "fault" not in desk.run("check").output


def test_check_names_each_fault(desk: Desk) -> None:
    routes = [
        CHEST,
        {"name": "lost", "model": "absent", "destinations": ["nobody"]},
        {**CHEST, "name": "b", "model": "x"},
    ]
    (desk.rig.folder / "routes.toml").write_text(to_toml({"route": routes}))
    desk.write(storage={"soft_free_bytes": 1 << 60, "hard_free_bytes": 0, "reserve_bytes": 0})
    faults = {one["check"]: one["fault"] for one in desk.json("check", status=1) if not one["ok"]}
    assert set(faults) == {"route lost", "route b", "disk", "destination pacs", "destination web"}
    assert "nobody" in faults["route lost"] and "x is not installed" in faults["route b"]
    assert "soft watermark" in faults["disk"] and "127.0.0.1" in faults["destination pacs"]
    desk.run("check", status=1)


def test_check_lists_what_waits_for_destinations_that_are_no_longer_set(desk: Desk, storescp: StoreScp) -> None:
    desk.analysed()
    desk.rig.receive(film_file(desk.rig.folder / "other.dcm", disc_picture(64, 48), StudyInstanceUID=OTHER))
    desk.rig.settle()
    only = {"name": "new", "kind": "pacs", "host": "127.0.0.1", "port": storescp.dimse_port, "called_ae": "STORESCP"}
    desk.write(destination=[only])
    faults = {one["check"]: one["fault"] for one in desk.json("check", status=1) if not one["ok"]}
    assert "1 open delivery(ies) and 1 open job(s)" in faults["destination pacs"]
    assert "is not set" in faults["destination web"]
    assert "routes" not in [one["check"] for one in desk.json("check", status=1) if one["ok"]]
    assert desk.run("retry", "--all").output.startswith("0 job(s) and 0 delivery(ies)")
    told = desk.run("check", status=1).output
    long = next(line for line in told.splitlines() if "open delivery(ies)" in line)
    assert len(long) > 80 and "closes the deliveries as failed" in long, "a fault is one line in a file"


def test_route_says_where_each_study_of_a_folder_would_go_and_stores_nothing(desk: Desk) -> None:
    folder = desk.rig.folder / "films"
    folder.mkdir()
    film_file(folder / "a.dcm", disc_picture(32, 32), StudyInstanceUID=STUDY)
    film_file(folder / "b.dcm", disc_picture(32, 32), StudyInstanceUID=OTHER, Modality="PX")
    film_file(folder / "c.dcm", disc_picture(32, 32), StudyInstanceUID=OTHER, Rows=0)
    (folder / "notes.txt").write_text("no DICOM")
    plain = desk.run("route", str(folder))
    assert f"Study {STUDY}: 1 image(s)\n  → toy-opacity@1.0.0 by route chest, results to pacs, web" in plain.stdout
    assert f"Study {OTHER}: 1 image(s)\n  no route" in plain.stdout and "1 file(s) are no DICOM" in plain.stderr
    told = desk.run("route", str(folder), "--explain").stdout
    assert "modality is 'PX', wanted 'CR' or 'DX'" in told and "c.dcm: no_pixels" in told
    answers = {one["study_uid"]: one for one in json.loads(desk.run("route", str(folder), "--json").stdout)}
    assert answers[STUDY]["plans"][0]["destinations"] == ["pacs", "web"] and answers[OTHER]["plans"] == []
    assert desk.json("studies") == []


@pytest.mark.parametrize(
    ("name", "keys"),
    [("settings", {"receiver", "destination"}), ("routes", {"route"}), ("card", {"identity", "weights", "labels"})],
)
def test_schemas_are_printed_for_the_files_that_people_write(desk: Desk, name: str, keys: set[str]) -> None:
    schema = json.loads(desk.run("schema", name).output)
    assert keys <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    parts = [part for part in schema["$defs"].values() if "properties" in part]
    assert parts and all(part["additionalProperties"] is False for part in parts), "a misspelt key is a fault"


# send ----------------------------------------------------------------------------------------------------------------


def test_send_brings_a_folder_to_an_archive(desk: Desk, storescp: StoreScp) -> None:
    folder = desk.rig.folder / "films"
    folder.mkdir()
    for name in "abc":
        film_file(folder / f"{name}.dcm", disc_picture(32, 32))
    (folder / "notes.txt").write_text("no DICOM")
    to = ("--port", str(storescp.dimse_port), "--called-ae", storescp.ae_title)
    assert "3 of 3 sent; 1 file(s) are no DICOM" in desk.run("send", str(folder), *to).output
    assert json.loads(desk.run("send", str(folder / "a.dcm"), *to, "--json").stdout)["sent"] == 1
    assert len(storescp.files()) == 3


def test_send_says_when_nobody_listens_and_when_there_is_nothing_to_send(desk: Desk) -> None:
    done = desk.run("send", str(desk.film()), "--port", str(free_port()), status=1)
    assert "127.0.0.1" in done.stderr
    (desk.rig.folder / "empty").mkdir()
    assert "no DICOM file found" in desk.run("send", str(desk.rig.folder / "empty"), status=1).stderr
