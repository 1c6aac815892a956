"""The example files are those of the demonstration, load, and please `radnode check`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from click.testing import CliRunner

from dicom_node.cli import main
from dicom_node.demo.files import ROUTES_TEXT, Choices, settings_text
from dicom_node.dimse.small_archive import SmallArchive
from dicom_node.routing import read_routes
from dicom_node.settings import Settings, read_settings
from tests.conftest import PROJECT

EXAMPLES = PROJECT / "examples"


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
    shutil.copy(EXAMPLES / "routes.toml", tmp_path)
    with SmallArchive(tmp_path / "archive", ae_title="ORTHANC") as archive:
        text = (EXAMPLES / "radnode.toml").read_text(encoding="utf-8")
        assert "port = 4242" in text
        settings = tmp_path / "radnode.toml"
        settings.write_text(re.sub(r"port = 4242", f"port = {archive.port}", text), encoding="utf-8")
        done = CliRunner().invoke(main, ["--settings", str(settings), "check", "--json"])
    found = json.loads(done.stdout)
    assert [one for one in found if not one["ok"]] == []
    assert done.exit_code == 0
    assert {"settings", "routes", "route chest", "destination archive"} <= {one["check"] for one in found}
