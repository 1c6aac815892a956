"""The node runs without training: no module of it loads torch, MLflow or MONAI, however it is imported."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import PROJECT

_LOAD_ALL = """
import importlib, json, pkgutil, sys
import dicom_node, inference, models
for package in (models, inference, dicom_node):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name not in ("inference.runtimes.torch", "dicom_node.ledger.migrations.env"):
            importlib.import_module(found.name)
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([sorted(names & set(sys.argv[1:])), len([name for name in sys.modules if name[:10] == "dicom_node"])]))
"""
# Left out: the runtime that is torch's own, loaded for its weights alone, and a script that only Alembic can run.
UNWANTED = ("torch", "torchvision", "monai", "mlflow", "training", "sklearn", "pandas", "onnx", "onnxscript")


def test_no_module_of_the_node_loads_training_or_its_libraries() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_ALL, *UNWANTED], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded, own = json.loads(done.stdout)
    assert loaded == []
    assert own > 70, "all modules were looked at"


def test_the_command_line_of_the_node_loads_none_of_them_either() -> None:
    code = (
        "import json, sys; from dicom_node.cli import main; main(['models', '--help'], standalone_mode=False); "
        "print(json.dumps(sorted(set(sys.argv[1:]) & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *UNWANTED], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert "promote" in done.stdout


def test_a_node_starts_without_the_statistics_that_only_monitoring_asks_for() -> None:
    code = "import sys; import dicom_node.node; print(sorted({'scipy', 'matplotlib', 'lxml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "a node that is restarted has to serve at once"
