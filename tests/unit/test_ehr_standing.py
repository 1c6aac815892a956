"""What is made of anything that a server may answer to questions about a document."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.ehr.exchange import HttpAnswer
from dicom_node.ehr.fhir.elements import document_identifier, own_identifier, report_urn
from dicom_node.ehr.fhir.standing import ids_stand, report_stands
from dicom_node.ehr.receiver import Held
from tests.record_receivers import make_envelope

ENVELOPE = make_envelope()
KNOWN = own_identifier(report_urn(ENVELOPE.set_id))
OURS = document_identifier(ENVELOPE.document_id)
LATER = document_identifier("e" * 64)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
identifiers = st.lists(st.sampled_from([KNOWN, OURS, LATER]) | anything, max_size=3) | anything
resources = st.fixed_dictionaries(
    {"resourceType": st.sampled_from(["DiagnosticReport", "Provenance", "Task"]) | anything},
    optional={"id": anything, "identifier": identifiers, "entity": anything},
)
bundles = st.fixed_dictionaries(
    {"resourceType": st.sampled_from(["Bundle", "OperationOutcome"]), "type": st.sampled_from(["searchset", "batch"])},
    optional={"entry": st.lists(st.fixed_dictionaries({"resource": resources}) | anything, max_size=3) | anything},
)
bodies = st.binary(max_size=20) | (bundles | resources | anything).map(lambda value: json.dumps(value).encode())
answers = st.builds(HttpAnswer, status=st.sampled_from([200, 200, 200, 204, 301, 404, 405, 410, 500]), body=bodies)


@given(said=st.lists(answers, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_answers_give_a_word_and_no_comes_only_from_a_search(said: list[HttpAnswer]) -> None:
    turns = list(said)
    asked: list[str] = []

    def ask(address: str) -> HttpAnswer:
        asked.append(address)
        return turns.pop(0) if len(turns) > 1 else turns[0]

    held = report_stands(ask, ENVELOPE)
    assert held in set(Held)
    if held is Held.NO:
        assert all(one.status == 200 and b"searchset" in one.body for one in said[: len(asked)])
    if held is Held.YES:
        assert str(KNOWN["value"]).encode() in said[0].body
    assert all(address.isascii() and "\n" not in address and address.count("?") == 1 for address in asked)


@given(said=answers)
@settings(max_examples=100, deadline=None)
def test_any_answer_to_an_id_gives_a_word(said: HttpAnswer) -> None:
    held = ids_stand(lambda address: said, ("Task/1", "Patient/2"))
    assert held in set(Held)
    if held is Held.NO:
        assert said.status in {404, 410} and b"OperationOutcome" in said.body


def _searchset(*found: dict[str, Any]) -> HttpAnswer:
    whole = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": one} for one in found]}
    return HttpAnswer(status=200, body=json.dumps(whole).encode())


def _report(*identifiers: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "DiagnosticReport", "id": "9/&?\r\n", "identifier": list(identifiers)}


def _revises(known: dict[str, Any], role: str = "revision") -> dict[str, Any]:
    return {"resourceType": "Provenance", "entity": [{"role": role, "what": {"identifier": known}}]}


@pytest.mark.parametrize(
    ("report", "provenance", "held"),
    [
        ([KNOWN, OURS], None, Held.YES),
        ([KNOWN, {**OURS, "use": "secondary"}], None, Held.YES),
        ([KNOWN, LATER], [_revises(OURS)], Held.YES),
        ([KNOWN, LATER], [_revises(OURS, "source")], Held.NO),
        ([KNOWN, LATER], [_revises(LATER)], Held.NO),
        ([KNOWN, LATER], [], Held.NO),
        ([KNOWN], [], Held.NO),
        ([OURS], None, Held.UNSAID),
    ],
)
def test_a_report_stands_at_our_version_or_at_one_that_revised_it(
    report: list[dict[str, Any]], provenance: list[dict[str, Any]] | None, held: Held
) -> None:
    def ask(address: str) -> HttpAnswer:
        if address.startswith("DiagnosticReport?"):
            return _searchset(_report(*report))
        assert provenance is not None and address == "Provenance?target=DiagnosticReport/9/%26%3F%0D%0A"
        return _searchset(*provenance)

    assert report_stands(ask, ENVELOPE) is held
