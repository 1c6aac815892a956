"""The reports that are shipped beside the models: of exactly these cards, whole, no picture that may not be shown."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from eval.report import checks
from eval.report.language import LANGUAGES, number
from eval.report.twin import Twin
from models.evaluation_report import REPORT_FILE, REPORT_FOLDER, check_report, read_report
from models.registry import ZOO, InstalledModel, installed_models

MODELS = sorted(installed_models().models.values(), key=lambda model: model.card.reference)
LARGEST_BYTES = 3_200_000


def folder_of(model: InstalledModel) -> Path:
    return model.folder / REPORT_FOLDER


def twin_of(model: InstalledModel) -> Twin:
    return Twin.model_validate_json((folder_of(model) / REPORT_FILE).read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.card.reference)
def test_a_shipped_model_has_a_report_of_exactly_its_card_that_a_promotion_accepts(model: InstalledModel) -> None:
    check_report(read_report(folder_of(model) / REPORT_FILE), model.card)
    twin = twin_of(model)
    checks.after(twin)
    assert "changes" not in twin.radnode + twin.sections.identity.evaluated_by
    label = model.card.label(twin.sections.scoring.label)
    assert twin.sections.scoring.case_threshold == (label.picture or label.operating_point).threshold


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.card.reference)
def test_pages_and_table_of_a_shipped_report_are_those_of_its_twin(model: InstalledModel) -> None:
    folder, twin = folder_of(model), twin_of(model)
    assert sum(file.stat().st_size for file in folder.iterdir()) < LARGEST_BYTES
    text = (folder / twin.sections.annexes.cases_file).read_text(encoding="utf-8")
    assert hashlib.sha256(text.encode()).hexdigest() == twin.sections.annexes.cases_sha256
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["positive"] and row["score"]]
    found = twin.sections.results.cases
    assert found is not None
    if found.auroc.value is not None:
        scores, truth = [float(row["score"]) for row in rows], [int(row["positive"]) for row in rows]
        assert found.auroc.value == pytest.approx(roc_auc_score(truth, scores))
    for language in LANGUAGES:
        page = (folder / f"report.{language}.html").read_text(encoding="utf-8")
        assert twin.model_digest in page
        assert number(found.auroc.value, language=language, places=3) in page
        assert page.count("data:image/jpeg") == sum(
            one.picture_sha256 is not None for gallery in twin.sections.errors.galleries for one in gallery.shown
        )


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.card.reference)
def test_every_earlier_use_of_the_films_of_a_shipped_report_has_a_date_before_it(model: InstalledModel) -> None:
    twin = twin_of(model)
    dates = [one.on for one in twin.sections.data.reuse if one.on is not None]
    assert len(dates) == len(twin.sections.data.reuse)
    assert dates == sorted(dates)
    assert all(date <= twin.created.date() for date in dates)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.card.reference)
def test_a_shipped_report_counts_cases_of_errors_as_its_table_does(model: InstalledModel) -> None:
    folder, twin = folder_of(model), twin_of(model)
    with (folder / twin.sections.annexes.cases_file).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["positive"]]
    missed = [int(row["lesions"]) - int(row["lesions_found"]) for row in rows if row["lesions"]]
    wrong = [int(row["false_marks"]) for row in rows if row["false_marks"]]
    found = {one.kind: (one.total, one.places) for one in twin.sections.errors.galleries}
    assert found["missed_lesions"] == (sum(count > 0 for count in missed), sum(missed))
    assert found["false_marks"] == (sum(count > 0 for count in wrong), sum(wrong))


def test_no_film_is_shown_whose_licence_does_not_allow_it() -> None:
    (model,) = [one for one in MODELS if one.card.identity.name == "mammography-lesion"]
    assert not twin_of(model).sections.errors.pictures
    for language in LANGUAGES:
        assert "image/jpeg" not in (folder_of(model) / f"report.{language}.html").read_text(encoding="utf-8")


def test_shipped_reports_name_no_place_of_the_machine_they_were_made_on() -> None:
    for model in MODELS:
        for file in folder_of(model).glob("*.[hjct]*"):
            text = file.read_text(encoding="utf-8")
            assert "/tmp/" not in text
            assert str(ZOO) not in text
