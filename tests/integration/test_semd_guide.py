"""The example of the guide to SEMD drafts, run as it stands there."""

from __future__ import annotations

import re
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from dicom_node.ehr.lookup import LookupKey, assemble, look_up, read_context_file, read_known
from dicom_node.ehr.semd import unknown, write_semd
from tests.conftest import PROJECT
from tests.semd_cases import make_document
from tests.semd_judges import SemdJudges


@pytest.fixture(scope="module")
def blocks() -> dict[str, str]:
    """The first example of the guide in each language; the table has none."""
    text = (PROJECT / "docs" / "howto" / "semd.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {name or "csv": body for name, body in reversed(found)}


def test_the_example_makes_a_draft_that_the_judges_pass(
    blocks: dict[str, str], tmp_path: Path, shared_ehr: Path
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(blocks["json"].encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Say nothing."""

    (tmp_path / "patients.csv").write_text(blocks["csv"], encoding="utf-8")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        toml = blocks["toml"].replace("127.0.0.1:8099", f"127.0.0.1:{server.server_port}")
        (tmp_path / "context.toml").write_text(toml, encoding="utf-8")
        settings = read_context_file(tmp_path / "context.toml")
        thread = Thread(target=server.handle_request)
        thread.start()
        sources = settings.sources()
        asked = look_up(sources, LookupKey(study_uid="1.2.3", patient_id="17"))
        thread.join()
        sources[1].close()  # type: ignore[attr-defined]
    header = read_known({"patient": {"identifier": {"value": "17"}, "name": {"family": "Иванова", "given": "Мария"}}})
    context = assemble(settings.always, *asked.layers, header)
    request = replace(
        make_document(whole=False),
        **{name: getattr(context, name) for name in ("patient", "order", "encounter", "performer", "author")},
        legal_authenticator=context.legal_authenticator,
    )

    document = write_semd(request, settings.semd_profile())

    assert (asked.ask_again, asked.no_use) == ((), ())
    judges = SemdJudges(shared_ehr / "semd_instrumental_protocol")
    assert judges.schema_errors(document) == []
    assert judges.failed_asserts(document) == []
    assert judges.mismatches(document) == []
    assert {"patient.snils", "patient.policy", "encounter", "order.diagnosis_code"}.isdisjoint(
        unknown(request, settings.semd_profile())
    )
