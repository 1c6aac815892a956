"""The pages: one self-contained HTML file for each language, printed from the twin and the fixed words alone.

Called by `eval.commands.report`. Templates see the twin, never a run or a card; pictures and plots are inside the
page as data, so that it asks for nothing from outside.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from eval.report.language import Language, Names, Words, number, read_words, short
from eval.report.pictures import COLOURS
from eval.report.plots import plots
from eval.report.sections import Sections
from eval.report.twin import Twin


def page(twin: Twin, language: Language, pictures: Mapping[str, bytes]) -> str:
    """The report as one HTML file.

    Parameters
    ----------
    twin : Twin
    language : str
        ``"en"`` or ``"ru"``.
    pictures : mapping
        sha256 to JPEG, as the galleries of the twin name them.
    """
    words = read_words(language)
    names = Names(words, language)
    printed = _environment(words, names, language).get_template("report.html.j2").render(
        t=twin,
        s=twin.sections,
        w=words,
        language=language,
        number={name: place for place, name in enumerate(Sections.model_fields, start=1)},
        plots={name: _data("image/svg+xml", svg) for name, svg in plots(twin, names).items()},
        pictures={digest: _data("image/jpeg", jpeg) for digest, jpeg in pictures.items()},
        colours=COLOURS,
        running=f"{words['text']['title']}: {twin.model}",
        digest=twin.model_digest[:16],
        dated=twin.created.date().isoformat(),
        stamp=twin.created.date().isoformat(),
    )  # fmt: skip
    return "\n".join(line.rstrip() for line in printed.splitlines() if line.strip()) + "\n"


def _environment(words: Words, names: Names, language: Language) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("eval.report"),
        autoescape=lambda name: name is None or "html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named: dict[str, Callable[..., str]] = {
        "num": partial(number, language=language, places=3),
        "num4": partial(number, language=language, places=4),
        "short": partial(short, language=language),
        "tiny": lambda value: f"{value:.1e}",
        "say": lambda text: text.in_language(language),
        "reason": lambda text: words["reasons"].get(text, text),
        "day": lambda moment: moment.date().isoformat(),
        "moment": _moment,
        "trait": names.trait,
        "level": names.level,
        "css": lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"',
        "spread": names.spread,
    }
    environment.filters |= named
    return environment


def _moment(moment: datetime | None) -> str:
    return "—" if moment is None else moment.strftime("%Y-%m-%d %H:%M UTC")


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
