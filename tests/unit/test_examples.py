"""The example files are those of the demonstration, load, and please `radnode check`."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from dicom_node.cli import main
from dicom_node.demo.files import ROUTES_TEXT, Choices, settings_text
from dicom_node.dimse.small_archive import SmallArchive
from dicom_node.ehr.lookup import LookupKey, assemble, look_up, read_context_file, read_known
from dicom_node.ehr.semd import unknown, write_semd
from dicom_node.routing import read_routes
from dicom_node.settings import Settings, read_settings
from tests.conftest import PROJECT
from tests.semd_cases import make_document

EXAMPLES = PROJECT / "examples"
RECORD = "# Whom the patient's record is told by"


def test_the_examples_are_the_demonstrations_files_with_the_usual_ports() -> None:
    assert (EXAMPLES / "radnode.toml").read_text(encoding="utf-8") == settings_text(Choices())
    assert (EXAMPLES / "routes.toml").read_text(encoding="utf-8") == ROUTES_TEXT


def test_the_example_settings_say_what_the_defaults_are() -> None:
    settings, defaults = read_settings(EXAMPLES / "radnode.toml"), Settings()
    for part in ("receiver", "assembly", "worker", "web", "log", "profile", "storage", "delivery"):
        assert getattr(settings, part) == getattr(defaults, part), part


def test_the_example_routes_name_destinations_of_the_example_settings() -> None:
    settings = read_settings(EXAMPLES / "radnode.toml")
    routes = read_routes(EXAMPLES / "routes.toml")
    assert routes.route
    assert {name for route in routes.route for name in route.destinations} <= set(settings.destinations_list())


def test_radnode_check_finds_no_fault_in_the_examples(tmp_path: Path) -> None:
    checked = check(tmp_path, (EXAMPLES / "radnode.toml").read_text(encoding="utf-8"))
    assert {"settings", "routes", "route chest", "destination archive"} <= checked


def test_radnode_check_finds_no_fault_once_the_record_is_taken_out_of_its_comment(tmp_path: Path) -> None:
    plain, sign, record = (EXAMPLES / "radnode.toml").read_text(encoding="utf-8").partition(RECORD)
    assert sign
    (tmp_path / "drafts").mkdir()
    record = uncommented(record.partition("\n")[2]).replace("/srv/exchange/drafts", str(tmp_path / "drafts"))
    assert {"record mis", "time zone"} <= check(tmp_path, plain + record)


def check(folder: Path, settings: str) -> set[str]:
    """What `radnode check` looked at, with the examples beside these settings; it finds no fault."""
    for name in ("routes.toml", "context.toml", "patients.csv"):
        shutil.copy(EXAMPLES / name, folder)
    with SmallArchive(folder / "archive", ae_title="ORTHANC") as archive:
        assert "port = 4242" in settings
        file = folder / "radnode.toml"
        file.write_text(settings.replace("port = 4242", f"port = {archive.port}"), encoding="utf-8")
        done = CliRunner().invoke(main, ["--settings", str(file), "check", "--json"])
    found = json.loads(done.stdout)
    assert [one for one in found if not one["ok"]] == []
    assert done.exit_code == 0
    return {one["check"] for one in found}


def uncommented(block: str) -> str:
    """Lines of settings that stand in comments, as they are once a person takes the sign away."""
    return re.sub(r"^# ?", "", block, flags=re.MULTILINE)


def patients() -> list[str]:
    with (EXAMPLES / "patients.csv").open(encoding="utf-8", newline="") as file:
        return [row["patient_id"] for row in csv.DictReader(file, delimiter=";")]


def test_the_example_of_the_context_suffices_for_a_draft_of_each_of_its_patients() -> None:
    settings = read_context_file(EXAMPLES / "context.toml")
    parts = ("patient", "order", "encounter", "performer", "author", "legal_authenticator")
    said = {"patient.snils", "patient.birth_date", "patient.sex", "patient.policy", "encounter", "order.diagnosis_code"}
    assert len(patients()) > 1
    for patient_id in patients():
        asked = look_up(settings.sources(), LookupKey(study_uid="1.2.3", patient_id=patient_id))
        assert (len(asked.layers), asked.ask_again, asked.no_use) == (1, (), ())
        header = read_known({"patient": {"identifier": {"value": patient_id}}})
        context = assemble(settings.always, *asked.layers, header)
        request = replace(make_document(whole=False), **{name: getattr(context, name) for name in parts})
        draft = write_semd(request, settings.semd_profile())
        assert context.patient.name is not None and context.patient.name.family.encode() in draft
        assert said.isdisjoint(unknown(request, settings.semd_profile()))


def test_a_patient_who_is_not_in_the_examples_table_is_no_fault() -> None:
    settings = read_context_file(EXAMPLES / "context.toml")
    asked = look_up(settings.sources(), LookupKey(study_uid="1.2.3", patient_id="nobody"))
    assert (asked.layers, asked.ask_again, asked.no_use) == ((), (), ())


def test_the_service_of_the_context_can_be_taken_out_of_its_comment(tmp_path: Path) -> None:
    text = (EXAMPLES / "context.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^# \[\[lookup\]\]\n(?:# .*\n)+", text, flags=re.MULTILINE)
    (tmp_path / "context.toml").write_text(text.replace(block, uncommented(block)), encoding="utf-8")
    assert [one.kind for one in read_context_file(tmp_path / "context.toml").lookup] == ["csv", "http"]
