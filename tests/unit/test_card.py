"""Reading `card.toml`: whatever is wrong with the file is a CardError that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.card import CardError, read_card

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"


def test_a_card_in_another_encoding_is_a_fault_of_the_card(tmp_path: Path) -> None:
    whole = next(ZOO.rglob("card.toml")).read_text(encoding="utf-8")
    path = tmp_path / "card.toml"
    path.write_bytes(whole.encode("utf-16"))
    with pytest.raises(CardError, match=r"card\.toml: not UTF-8"):
        read_card(path)


def test_a_card_that_is_not_there_or_not_toml_or_not_a_card_is_a_fault_too(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    with pytest.raises(CardError, match="cannot be read"):
        read_card(path)
    path.write_text("name = ", encoding="utf-8")
    with pytest.raises(CardError, match="not valid TOML"):
        read_card(path)
    path.write_text("name = 'x'", encoding="utf-8")
    with pytest.raises(CardError, match=r"(?s)\d+ fault.*identity: Field required.*name: Extra inputs"):
        read_card(path)
