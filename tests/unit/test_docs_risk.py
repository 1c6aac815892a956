"""The risk file: every hazard has a control and a proof, and every test it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (?P<id>[A-F]\d+) \|(?P<rest>.*)\|$", re.MULTILINE)
PROOF = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ROWS = [
    (found["id"], [cell.strip() for cell in found["rest"].split("|")])
    for found in ROW.finditer((PROJECT / "docs" / "risk.md").read_text(encoding="utf-8"))
]


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((PROJECT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_there_are_hazards_and_none_is_numbered_twice() -> None:
    names = [name for name, _ in ROWS]
    assert len(names) >= 35
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("name", "cells"), ROWS, ids=[name for name, _ in ROWS])
def test_a_hazard_has_severity_control_proof_and_what_remains(name: str, cells: list[str]) -> None:
    hazard, severity, control, proof, remains = cells
    assert hazard and control and remains
    assert severity in ("S1", "S2", "S3")
    proofs = PROOF.findall(proof)
    assert proofs, f"{name} has no proof"
    assert len(proofs) == proof.count("::")
    for file, test in proofs:
        assert test in names_in(file), f"{name}: {file} has no {test}"
