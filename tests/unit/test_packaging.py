"""Installation: names, entry points, pinned versions, the image's steps."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib.metadata import entry_points, metadata, packages_distributions
from pathlib import Path
from typing import Any

import click
import pytest
from packaging.requirements import Requirement

from tests.conftest import PROJECT, require_tool

OWN_NAMES = ("models", "inference", "dicom_node", "training", "eval")
DOCKERFILE = PROJECT / "Dockerfile.gpu"


def project() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def constraints() -> dict[str, str]:
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    return {name.casefold().replace("_", "-"): version for name, _, version in (pin.partition("==") for pin in pins)}


@pytest.mark.parametrize("name", OWN_NAMES)
def test_no_other_distribution_owns_an_import_name_of_ours(name: str) -> None:
    # An editable installation is known by its finder alone, an ordinary one by its files.
    assert set(packages_distributions().get(name, ["radnode"])) == {"radnode"}


def test_an_index_would_refuse_the_project() -> None:
    assert "Private :: Do Not Upload" in metadata("radnode").get_all("Classifier", [])


@pytest.mark.parametrize("name", sorted(project()["project"]["entry-points"]["radnode.commands"]))
def test_every_command_can_be_loaded(name: str) -> None:
    (found,) = entry_points(group="radnode.commands", name=name)
    assert isinstance(found.load(), click.Command)


def requirements() -> list[str]:
    declared = project()["project"]
    return [*declared["dependencies"], *(one for extra in declared["optional-dependencies"].values() for one in extra)]


@pytest.mark.parametrize("requirement", [one for one in requirements() if not one.startswith("radnode")])
def test_every_dependency_has_its_licence_beside_it(requirement: str) -> None:
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    beside = text.partition(f'"{requirement}"')
    words = beside[0].splitlines()[-2] + beside[2].splitlines()[0]
    assert re.search(r"# .*(MIT|BSD|Apache|MPL|PSF|GPL|CC BY)", words)


def test_every_direct_dependency_is_pinned_to_a_version_that_it_accepts() -> None:
    pins = constraints()
    for requirement in map(Requirement, requirements()):
        if requirement.name != "radnode":
            pinned = pins.get(requirement.name.casefold().replace("_", "-"))
            assert pinned, f"{requirement.name} is not in constraints.txt"
            assert requirement.specifier.contains(pinned), requirement.name


def test_constraints_name_versions_and_no_place_to_fetch_them_from() -> None:
    text = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text and "--" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


def test_cpu_and_gpu_runtimes_are_never_in_one_extra() -> None:
    extras = project()["project"]["optional-dependencies"]
    runtimes = {name: " ".join(extra) for name, extra in extras.items() if name not in ("gpu",)}
    assert all("onnxruntime-gpu" not in text and "radnode[gpu" not in text for text in runtimes.values())


def test_makefile_and_image_install_with_the_same_script() -> None:
    makefile, dockerfile = (PROJECT / "Makefile").read_text(), DOCKERFILE.read_text()
    assert re.findall(r"scripts/install \S+ ([\w,]+)", makefile) == ["cpu,demo", "dev"]
    assert re.findall(r"scripts/install \S+ ([\w,]+)", dockerfile) == ["gpu"]
    for text in (makefile, dockerfile):
        assert not re.search(r"\bpip\b.*install|\buv\b", text), "install with scripts/install only"


def test_everything_that_the_image_installs_is_sent_to_its_build() -> None:
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word.split("/")[0]
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("COPY") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied == allowed
    packages = set(project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages <= copied


def test_the_image_is_lint_free() -> None:
    done = subprocess.run([require_tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_special_and_tells_its_health() -> None:
    text = DOCKERFILE.read_text()
    assert re.findall(r"^USER (\S+)", text, flags=re.MULTILINE)[-1] == "10112"
    assert "PYTHONSAFEPATH=1" in text and "/healthz" in text and "--no-cache-dir" in text
    assert re.search(r'^VOLUME .*"/models"', text, flags=re.MULTILINE)


def test_the_install_script_refuses_an_old_python_and_names_the_remedy(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        [str(PROJECT / "scripts" / "install"), str(tmp_path / "venv"), "cpu"],
        env={**os.environ, "PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_scripts_are_bash_that_stops_at_the_first_fault() -> None:
    for script in (PROJECT / ".ci" / "run", PROJECT / "scripts" / "install", PROJECT / "scripts" / "debian-packages"):
        assert os.access(script, os.X_OK)
        assert "set -euo pipefail" in script.read_text()
        subprocess.run(["bash", "-n", str(script)], check=True)
