"""The report in words: what a model found, as a radiologist would put it, in Russian and English.

Used by the writers of SR, of documents for the record and by the console, so that all say the same. Words on overlays
and status pages, which are labels and no report, are `dicom_node.results.texts`. The sentences are in `templates/`,
one file for each kind of study; a card may add words of its own (`models.wording`).
"""

from __future__ import annotations

from dicom_node.wording.report import report_text, withdrawal_text
from dicom_node.wording.values import ReportText, ShownImage

__all__ = ["ReportText", "ShownImage", "report_text", "withdrawal_text"]
