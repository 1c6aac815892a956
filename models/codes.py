"""What a card is made of: coded concepts as DICOM writes them, and statements in two languages.

Used by model cards (labels), by findings and by every result writer. The product's own vocabulary of codes that do
not depend on a model (purposes of reference, units, observers) lives with the writer that uses it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CardPart(BaseModel):
    """A piece of a card: immutable, and a misspelt key is a fault, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(CardPart):
    """A coded concept: DICOM PS3.3 section 8 (Basic Coded Entry Attributes).

    Attributes
    ----------
    value : str
        Code Value (0008,0100), for example ``"76752008"``.
    scheme : str
        Coding Scheme Designator (0008,0102), for example ``"SCT"``, ``"RADLEX"`` or ``"DCM"``.
    meaning : str
        Code Meaning (0008,0104) in English, as the scheme spells it.
    """

    value: str = Field(min_length=1, max_length=64)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


class Text(CardPart):
    """One statement in the languages the node speaks."""

    en: str = Field(min_length=1)
    ru: str = Field(min_length=1)

    def in_language(self, language: str) -> str:
        """The statement in `language` (``"en"`` or ``"ru"``).

        Raises
        ------
        ValueError
            If the node does not speak `language`.
        """
        if language == "en":
            return self.en
        if language == "ru":
            return self.ru
        raise ValueError(f"language {language!r} is not spoken here: use 'en' or 'ru'")
