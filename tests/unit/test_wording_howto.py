"""The examples of docs/howto/report-wording.md are what the node writes."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from dicom_node.wording import ReportText, report_text
from inference.findings import Finding, Flag, Presence
from inference.refusals import Reason, Refusal
from models.card import ModelCard, read_card
from models.registry import ZOO
from tests.conftest import PROJECT
from tests.wording_cases import findings_of, of_study, shown_on

PAGE = PROJECT / "docs" / "howto" / "report-wording.md"


def installed(name: str) -> ModelCard:
    """The newest card of a model that ships with the node."""
    return read_card(max((ZOO / name).glob("*/card.toml")))


def examples() -> dict[str, str]:
    """Every example of the page by its heading."""
    return {
        "chest film, two opacities, Russian": chest(2, "ru"),
        "chest film, nothing found, Russian": chest(0, "ru"),
        "chest film, nothing found, English": chest(0, "en"),
        "mammograms, one breast suspected, Russian": mammograms("ru"),
        "CT, two nodules, a demonstration, Russian": ct("ru"),
        "CT, two nodules, a demonstration, English": ct("en"),
        "not analysed, Russian": refused("ru"),
    }


def chest(lesions: int, language: str) -> str:
    card = installed("chest-opacity")
    findings = findings_of(card, lesions=lesions, center=(0.24, 0.71), said=[judged(card, lesions > 0, 0.91)])
    shown = shown_on(findings, "DX", views=("PA",), orientation=("L", "F"))
    return printed(report_text(findings, card, language=language, shown=shown, images_given=1 if lesions else 2))


def mammograms(language: str) -> str:
    card = installed("mammography-lesion")
    label = card.labels[0]
    assert label.breast is not None and label.picture is not None
    sides = [
        Finding(
            label=label.key,
            code=label.finding,
            site=label.site,
            presence=Presence.PRESENT if side == "R" else Presence.ABSENT,
            score=score,
            raw_score=0.5,
            threshold=label.breast.point.threshold,
            laterality=of_study(card, label.key, True, side=side).laterality,
        )
        for side, score in (("R", 0.41), ("L", 0.12))
    ]
    findings = findings_of(
        card,
        lesions=2,
        images=4,
        side="R",
        in_mm=False,
        flags=(Flag.SPACING_UNKNOWN,),
        score=0.37,
        said=[judged(card, True, 0.44), *sides],
    )
    shown = shown_on(findings, "MG", views=("CC", "MLO"))
    for number, (uid, image) in enumerate(shown.items()):
        shown[uid] = replace(image, laterality="R" if number < 2 else "L")
    return printed(report_text(findings, card, language=language, shown=shown, images_given=4))


def ct(language: str) -> str:
    card = installed("lung-nodule-demo")
    findings = findings_of(
        card, lesions=2, images=60, planes=3, score=0.97, long_mm=12.4, said=[judged(card, True, 0.97)]
    )
    return printed(report_text(findings, card, language=language, shown=shown_on(findings, "CT"), images_given=60))


def refused(language: str) -> str:
    refusal = Refusal(reason=Reason.BODY_PART, detail="HAND")
    return printed(report_text(None, installed("chest-opacity"), language=language, refusal=refusal))


def judged(card: ModelCard, present: bool, score: float) -> Finding:
    return of_study(card, card.labels[0].key, present, score)


def printed(text: ReportText) -> str:
    """As the page prints it."""
    parts = [text.description, text.conclusion, text.recommendation, "\n".join(f"! {one}" for one in text.warnings)]
    return "\n\n".join(part for part in parts if part)


def on_page() -> dict[str, str]:
    found = re.findall(r"^### Example: (.*?)\n+```text\n(.*?)\n```", PAGE.read_text("utf-8"), flags=re.M | re.S)
    return dict(found)


def test_every_example_of_the_page_is_what_is_written() -> None:
    assert on_page() == examples()


if __name__ == "__main__":
    blocks = "\n\n".join(f"### Example: {name}\n\n```text\n{text}\n```" for name, text in examples().items())
    page = PAGE.read_text("utf-8")
    begin = page.index("### Example: ") if "### Example: " in page else len(page)
    Path(sys.argv[1]).write_text(page[:begin] + blocks + "\n", encoding="utf-8")
