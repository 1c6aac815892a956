"""The page of monitoring and its JSON over real HTTP, and as Chromium shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from dicom_node.health import Health
from dicom_node.ledger import truths
from dicom_node.ledger.truths import NewTruth
from dicom_node.monitoring.build import Monitor
from dicom_node.monitoring.words import PAGE
from dicom_node.node import Node
from dicom_node.settings import Settings
from dicom_node.states import Reading, TruthSource
from dicom_node.web.app import build_app
from dicom_node.web.monitoring import language_of
from dicom_node.web.server import WebServer
from inference.refusals import Reason
from models.registry import installed_models
from tests.browser import Browser
from tests.ledgers import NOON, TestClock, open_ledger
from tests.pipeline_rig import PipelineRig
from tests.service import Service
from tests.toy_model import install_toy_model

DAY = "from=2026-03-01&to=2026-03-02"


@dataclass
class Console:
    """A running web server over a ledger with studies."""

    root: str
    studies: tuple[str, ...]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.root + path, headers=headers, trust_env=False, timeout=30)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    clock = TestClock()
    install_toy_model(tmp_path / "models")
    settings = Settings.model_validate({"monitoring": {"time_zone": "Europe/Moscow"}})
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", clock) as ledger:
        service = Service(ledger, clock)
        studies = tuple(service.arrive() for _ in range(3))
        for study, score in zip(studies, (0.9, 0.2, 0.7), strict=True):
            service.analyse(study, score, lesions=int(score > 0.8))
        refused = service.arrive()
        service.refuse(refused, Reason.VIEW)
        with ledger.begin() as tx:
            read = NewTruth(study_uid=studies[0], reading=Reading.POSITIVE, source=TruthSource.CSV,
                            rule="<script>alert(1)</script>", read_at=NOON)  # fmt: skip
            truths.record(tx, read, NOON)
        monitor = Monitor(ledger, settings, lambda: installed_models((tmp_path / "models",)).models.values())
        app = build_app(ledger, CollectorRegistry(), lambda: Health(parts={}), monitor)
        server = WebServer(app, "127.0.0.1", 0)
        server.start()
        yield Console(f"http://127.0.0.1:{server.port}", (*studies, refused))
        server.stop()


def test_the_json_has_the_periods_that_were_asked_for(console: Console) -> None:
    answer = console.get(f"/api/monitoring?{DAY}&period=day&model=toy-opacity")
    assert answer.status_code == 200
    report = answer.json()
    assert [period["name"] for period in report["periods"]] == ["2026-03-01", "2026-03-02"]
    (model,) = report["whole"]["models"]
    assert (model["model"], model["received"], model["analysed"]) == ("toy-opacity@1.0.0", 4, 3)
    assert model["refused"] == {"view": 1} and model["positive"]["count"] == 2
    assert console.get(f"/api/monitoring?{DAY}&model=other").json()["whole"]["models"] == []


def test_by_default_the_last_thirty_days_are_shown(console: Console) -> None:
    report = console.get("/api/monitoring").json()
    assert report["whole"]["name"] == "2026-02-01 … 2026-03-02" and report["periods"] == []


@pytest.mark.parametrize(
    ("query", "words"),
    [("from=yesterday", "is no date"), ("from=2026-03-02&to=2026-03-01", "before it begins"),
     ("from=2020-01-01&period=day", "more than 400")],
)  # fmt: skip
def test_what_cannot_be_asked_is_answered_with_the_reason(console: Console, query: str, words: str) -> None:
    answer = console.get(f"/api/monitoring?{query}")
    assert answer.status_code == 400 and words in answer.json()["detail"]
    page = console.get(f"/monitoring?{query}")
    assert page.status_code == 400 and words in page.text and "<form" in page.text


def test_the_page_speaks_the_language_that_is_asked_for(console: Console) -> None:
    for language, word in (("ru", "Мониторинг в эксплуатации"), ("en", "Monitoring in service")):
        assert word in console.get(f"/monitoring?{DAY}&lang={language}").text
        preferred = console.get(f"/monitoring?{DAY}", **{"Accept-Language": f"de, {language};q=0.8, xx;q=0.9"})
        assert word in preferred.text and f'<html lang="{language}">' in preferred.text
    assert [language_of(None, one) for one in (None, "", "ru-RU,ru;q=0.9,en;q=0.8", "en;q=0.1,ru;q=0.9", "ru;q=x")] == [
        "en", "en", "ru", "ru", "en",
    ]  # fmt: skip


def test_every_word_of_the_page_is_there_in_both_languages() -> None:
    assert all(text.en.strip() and text.ru.strip() for text in PAGE.values())


def test_the_page_names_no_study_and_escapes_what_it_is_told(console: Console) -> None:
    page = console.get(f"/monitoring?{DAY}&lang=en&model=%22%3E%3Cscript%3Ealert(2)%3C/script%3E").text
    assert "<script" not in page and "&lt;script" in page
    page = console.get(f"/monitoring?{DAY}&lang=en").text
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert not any(study in page for study in console.studies) and "MODALITY" not in page


def test_no_script_may_run_and_nothing_is_kept_in_caches(console: Console) -> None:
    for path in (f"/monitoring?{DAY}", "/monitoring?from=x", f"/api/monitoring?{DAY}", "/monitoring/style.css"):
        headers = console.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "script-src" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"


def test_chromium_shows_the_page_whole(console: Console, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        page = browser.page(width=1280, height=1400)
        for language in ("ru", "en"):
            page.open(f"{console.root}/monitoring?{DAY}&lang={language}")
            page.wait_for("document.readyState === 'complete' && !!document.querySelector('footer')")
            assert page.troubles == []
            drawn = page.evaluate("[...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().width)")
            assert len(drawn) == 3 and min(drawn) > 300
            assert page.evaluate("document.querySelectorAll('svg rect.bar').length") == 2  # analysed and declined
            styled = page.evaluate("getComputedStyle(document.querySelector('.bar.a')).fill")
            assert styled not in ("rgb(0, 0, 0)", ""), "the style sheet is applied under the page's own policy"
        page.resize(400, 900)
        page.open(f"{console.root}/monitoring?{DAY}&lang=ru")
        page.wait_for("document.readyState === 'complete' && !!document.querySelector('footer')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, "nothing sticks out on a telephone"


def test_a_running_node_serves_the_page(tmp_path: Path) -> None:
    rig = PipelineRig(tmp_path, receiver={"port": 0, "processes": 1}, web={"port": 0}, worker={"count": 0})
    node = Node(rig.settings)
    try:
        node.startup()
        answer = httpx.get(f"http://127.0.0.1:{node.web.port}/monitoring?lang=en", trust_env=False, timeout=30)
        assert answer.status_code == 200 and "Monitoring in service" in answer.text
    finally:
        node.shutdown()
        rig.close()
