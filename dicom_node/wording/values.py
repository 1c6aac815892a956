"""What the text of a report is, and what has to be known of an image to say where on it something lies.

Made by `wording.report` and `wording.shown`; the words themselves are in `templates/`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportText:
    """A report in one language; paragraphs are separated by line feeds, and there is no markup in it.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownImage:
    """What the header of an image says of what it shows, in DICOM's values; empty where it says nothing.

    Attributes
    ----------
    view : str
        PA, AP, LL, CC, MLO and the like.
    laterality : str
        Image Laterality or Laterality: L, R, B.
    row_direction, column_direction : str
        Patient Orientation (0020,0020): towards which side of the patient a row runs from left to right, and a column
        from top to bottom. Only the first letter of each decides.
    """

    modality: str = ""
    view: str = ""
    laterality: str = ""
    row_direction: str = ""
    column_direction: str = ""
