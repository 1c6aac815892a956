"""One text: what the SR of a study says in words is what its account and `radnode explain` say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from pydicom import Dataset, dcmread

from dicom_node.account import StudyAccount, account_of
from dicom_node.explanation import explanation
from dicom_node.health import Health
from dicom_node.results.profile import Profile
from dicom_node.results.result_set import encode
from dicom_node.web.app import build_app
from dicom_node.web.server import WebServer
from dicom_node.wording import ReportText
from inference.findings import StudyUid
from inference.refusals import Reason, Refusal
from models.registry import installed_models
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import PipelineRig
from tests.results_cases import make_card, make_findings, make_request

STUDY = "1.2.826.0.1.77"
PROFILE = {"name": "default", "language": "ru", "negative_sr": True}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[PipelineRig]:
    made = PipelineRig(tmp_path, profile=[PROFILE])
    yield made
    made.close()


def film(rig: PipelineRig, name: str = "a", **changes: Any) -> Path:
    values: dict[str, Any] = {
        "StudyInstanceUID": STUDY,
        "StudyID": "1",
        "PatientSex": "O",
        "SpecificCharacterSet": "ISO_IR 192",
    }
    values |= {"PatientOrientation": ["L", "F"], "ViewPosition": "PA"}
    return film_file(rig.folder / f"{name}.dcm", disc_picture(64, 48), **(values | changes))


def account(rig: PipelineRig) -> StudyAccount:
    cards = {one.card.reference: one.card for one in installed_models([rig.models]).models.values()}
    found = account_of(rig.pipeline.ledger, StudyUid(STUDY), cards)
    assert found is not None
    return found


def text_in(account: StudyAccount, language: str = "ru") -> ReportText:
    (job,) = account.jobs
    return next(text for text in account.texts[job.id] if text.language == language)


def words_in(report: Dataset) -> dict[str, list[str]]:
    """TEXT items of the container beside the measurements, by the meaning of their concept."""
    container = next(
        item
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations"
    )
    found: dict[str, list[str]] = {}
    for item in container.ContentSequence:
        if item.ValueType == "TEXT":
            words = item.TextValue.replace("\r\n", "\n")
            found.setdefault(item.ConceptNameCodeSequence[0].CodeMeaning, []).append(words)
    return found


def expected(text: ReportText) -> dict[str, list[str]]:
    words = {"Finding": [text.description], "Conclusion": [text.conclusion]}
    if text.recommendation:
        words["Recommendation"] = [text.recommendation]
    return words | {"Comment": list(text.warnings)}


@pytest.mark.parametrize("lesions", [1, 2])
def test_the_report_of_lesions_says_what_the_account_says(rig: PipelineRig, lesions: int) -> None:
    rig.receive(film(rig))
    rig.settle()
    (job,) = rig.claim()
    findings = rig.findings(job, lesions)
    without_side = tuple(replace(lesion, laterality=None) for lesion in findings.lesions)
    rig.pipeline.encode(rig.say(job, replace(findings, lesions=without_side)), "node:worker0:1")
    text = text_in(account(rig))
    assert "сторона пациента" in text.description.lower()
    assert "проекция: задне-передняя" in text.description
    assert words_in(rig.result(STUDY, "sr")) == expected(text)


def test_a_negative_report_says_what_the_account_says(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    (job,) = rig.claim()
    rig.pipeline.encode(rig.say(job, rig.findings(job, 0)), "node:worker0:1")
    text = text_in(account(rig))
    assert "не выявлено затемнений в лёгких" in text.conclusion
    assert words_in(rig.result(STUDY, "negative_sr")) == expected(text)


def test_a_refused_study_says_why_everywhere(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    rig.work(refusal=Refusal(reason=Reason.OUT_OF_RANGE, detail="distance 3.1"))
    text = text_in(account(rig))
    assert "не похоже на те" in text.conclusion
    assert words_in(rig.result(STUDY, "negative_sr")) == expected(text)


def test_images_that_were_left_out_are_counted_everywhere(rig: PipelineRig) -> None:
    first, second = film(rig), film(rig, "b", SOPInstanceUID="1.2.3.9")
    for path in (first, second):
        rig.receive(path)
    rig.settle()
    (job,) = rig.claim()
    card = rig.pipeline.cards[job.reference]
    seen = rig.pipeline.study_input(job).images[:1]
    rig.pipeline.encode(rig.say(job, make_findings(seen, card, lesions=1)), "node:worker0:1")
    text = text_in(account(rig))
    assert any("осталось 1 изображение из 2" in warning.replace("\xa0", " ") for warning in text.warnings)
    assert words_in(rig.result(STUDY, "sr")) == expected(text)


def test_explain_prints_the_report_and_its_json_has_both_languages(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    rig.work()
    found = account(rig)
    lines = explanation(found, language="ru")
    for line in text_in(found).description.split("\n"):
        assert f"      {line}" in lines
    written: Any = found.to_json()
    (job,) = written["jobs"]
    assert set(job["report"]) == {"ru", "en"}
    assert job["report"]["en"]["conclusion"] == text_in(found, "en").conclusion


def test_the_api_has_the_report_in_words(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    rig.work()
    app = build_app(
        rig.pipeline.ledger, CollectorRegistry(), lambda: Health(parts={}), cards=lambda: rig.pipeline.cards
    )
    server = WebServer(app, "127.0.0.1", 0)
    server.start()
    try:
        (job,) = httpx.get(f"http://127.0.0.1:{server.port}/api/studies/{STUDY}", trust_env=False).json()["jobs"]
    finally:
        server.stop()
    assert job["report"]["ru"]["description"] == text_in(account(rig)).description


def test_without_its_card_a_result_is_explained_without_words(rig: PipelineRig) -> None:
    rig.receive(film(rig))
    rig.settle()
    rig.work()
    assert not any("Report in words" in line for line in explanation(rig.account(STUDY)))


def test_words_keep_to_ascii_where_the_source_leaves_nothing_else(rig: PipelineRig) -> None:
    path = film(rig, SpecificCharacterSet="ISO_IR 100")
    header = dcmread(path)
    header.PatientName = "Иванов".encode("cp1251").decode("latin-1")
    header.save_as(path)
    card = make_card()
    request = make_request([path], card=card, findings=make_findings([path], card), profile=Profile(language="ru"))
    words = words_in(dcmread(BytesIO(encode(request)[0].data)))
    assert "34 x 28 mm" in words["Finding"][0]
    assert all(text.isascii() for texts in words.values() for text in texts)
