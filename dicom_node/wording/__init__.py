"""The report in words: what a model found, as a radiologist would put it, in Russian and English.

Used by the writers of SR, of documents for the record and by the console, so that all say the same. Words on overlays
and status pages, which are labels and no report, are `dicom_node.results.texts`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportText:
    """A report in one language; paragraphs are separated by line feeds.

    Attributes
    ----------
    language : str
        ``"ru"`` or ``"en"``.
    description : str
        What is seen and where; nothing that the findings do not say.
    conclusion : str
        What it comes to, with its probability; never more certain than the model.
    recommendation : str
        What a physician is asked to do; empty where the card supports none.
    warnings : tuple of str
        Use of the model, cautions of the analysis: they belong under every copy of the text.
    """

    language: str
    description: str
    conclusion: str
    recommendation: str
    warnings: tuple[str, ...] = ()
