"""The words of monitoring in Russian and English, for the page, the export and warnings.

Tables on the terminal are English, as all of the command line is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from models.codes import Text

_WARNINGS: Final[Mapping[str, Text]] = {
    "defects": Text(
        en="{value:.1%} of studies have a technological defect, more than {limit:.0%}",
        ru="технологические дефекты в {value:.1%} исследований, больше {limit:.0%}",
    ),
    "psi": Text(
        en="{label}: scores have moved from the evaluation report, PSI {value:.2f}, limit {limit:.2f}",
        ru="{label}: оценки сместились относительно отчёта об испытаниях, PSI {value:.2f}, порог {limit:.2f}",
    ),
    "ks": Text(
        en="{label}: scores are distributed otherwise than in the evaluation report, Kolmogorov-Smirnov p {value:.2g}",
        ru="{label}: распределение оценок отличается от отчёта об испытаниях, Колмогоров — Смирнов p {value:.2g}",
    ),
    "flag_rate": Text(
        en="{label}: the share of positive studies differs from the report by {points:+.1f} points, limit {limit:.0%}",
        ru="{label}: доля положительных исследований отличается от отчёта на {points:+.1f} п. п., порог {limit:.0%}",
    ),
    "cusum": Text(
        en="sensitivity against the radiologists' readings has fallen: CUSUM {value:.1f}, limit {limit:.1f}",
        ru="чувствительность относительно заключений врачей снизилась: CUSUM {value:.1f}, порог {limit:.1f}",
    ),
}


def warning(key: str, label: str, value: float, limit: float) -> Text:
    """The sentence of a warning, with its figures."""
    text = _WARNINGS[key]
    values = {"label": label, "value": value, "limit": limit, "points": 100 * value}
    return Text(en=text.en.format(**values), ru=text.ru.format(**values))
