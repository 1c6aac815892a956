"""Which version serves: by the ledger, by a route's pin, and never one that was altered."""

from __future__ import annotations

from pathlib import Path

from dicom_node.ledger.standings import LoadedModel, StandingRow
from dicom_node.serving import Standings, accepted_cards, choose, serving_faults, wanted_versions
from dicom_node.states import Standing
from models.card import ModelCard, Use
from models.registry import InstalledModel
from tests.ledgers import NOON
from tests.promotions import NAME, card

ONE, TWO, THREE = card("1.0.0"), card("2.0.0"), card("10.0.0")


def cards(*found: ModelCard) -> dict[str, ModelCard]:
    return {one.reference: one for one in found or (ONE, TWO, THREE)}


def known(**standing: Standing) -> Standings:
    """Standings of the cards above: ``one=Standing.CHAMPION``."""
    by_word = {"one": ONE, "two": TWO, "three": THREE}
    rows = tuple(row(by_word[word], given) for word, given in standing.items())
    return Standings(rows=rows, championed=frozenset({NAME}))


def row(of: ModelCard, standing: Standing) -> StandingRow:
    identity = of.identity
    return StandingRow(
        model_name=identity.name,
        model_version=identity.version,
        standing=standing,
        model_digest=of.model_digest,
        since=NOON,
    )


def served(wanted: str, given: Standings, *installed: ModelCard) -> str:
    choice = choose(wanted, given, cards(*installed))
    return choice.serving.reference if choice.serving else choice.why_not


def test_the_champion_serves_a_bare_name_however_new_others_are() -> None:
    choice = choose(NAME, known(one=Standing.CHAMPION, two=Standing.CANDIDATE), cards())
    assert choice.serving is not None and choice.serving.card == ONE
    assert not choice.is_first and choice.shadows == ()


def test_a_name_that_never_had_a_champion_gets_its_newest_version_and_says_so() -> None:
    choice = choose(NAME, Standings(), cards())
    assert choice.serving is not None and (choice.serving.card, choice.is_first) == (THREE, True)
    once = Standings(rows=(row(ONE, Standing.RETIRED),), championed=frozenset({NAME}))
    assert "chest has no champion" in served(NAME, once)


def test_no_demonstration_and_nothing_that_a_person_gave_a_standing_becomes_champion_by_itself() -> None:
    show = card("11.0.0", use=Use.DEMONSTRATION)
    assert served(NAME, Standings(), ONE, show) == "chest@1.0.0"
    assert "chest@11.0.0 does not become one by itself" in served(NAME, Standings(), show)
    assert served("chest@11.0.0", Standings(), show) == "chest@11.0.0", "a route that names it runs it"
    shadow = Standings(rows=(row(THREE, Standing.SHADOW),))
    assert served(NAME, shadow) == "chest@2.0.0"


def test_a_pin_overrides_the_champion_but_not_a_retirement() -> None:
    given = known(one=Standing.CHAMPION, two=Standing.RETIRED)
    assert served("chest@10.0.0", given) == "chest@10.0.0"
    assert served("chest@2.0.0", given) == "model chest@2.0.0 is retired"
    assert served("chest@3.0.0", given) == "model chest@3.0.0 is not installed"
    assert served("breast", given) == "model breast is not installed"


def test_shadows_look_on_beside_whoever_serves_but_not_beside_themselves() -> None:
    given = known(one=Standing.CHAMPION, two=Standing.SHADOW, three=Standing.SHADOW)
    assert [one.reference for one in choose(NAME, given, cards()).shadows] == ["chest@2.0.0", "chest@10.0.0"]
    assert [one.reference for one in choose("chest@2.0.0", given, cards()).shadows] == ["chest@10.0.0"]
    assert choose("breast", given, cards()).shadows == ()


def test_an_altered_or_missing_version_must_not_run_and_the_fault_names_both_digests() -> None:
    given = known(one=Standing.CHAMPION, two=Standing.SHADOW)
    altered = card("1.0.0", threshold=0.4321)
    choice = choose(NAME, given, cards(altered))
    assert choice.serving is not None and choice.serving.card is None
    for digest in (altered.model_digest, ONE.model_digest):
        assert digest[:12] in choice.serving.fault
    assert "is a new version" in choice.serving.fault
    (shadow,) = choice.shadows
    assert shadow.card is None and shadow.fault == "chest@2.0.0 is shadow and is not installed"
    pinned = choose("chest@1.0.0", given, cards(altered))
    assert pinned.serving is not None and pinned.serving.fault == choice.serving.fault
    words = card("1.0.0", manufacturer="another house")
    described = choose(NAME, given, cards(words)).serving
    assert described is not None and not described.fault, "a corrected description changes nothing that is said"


def test_workers_keep_champions_and_pinned_versions_before_shadows() -> None:
    given = known(one=Standing.CHAMPION, two=Standing.SHADOW)
    wanted = wanted_versions(["chest@10.0.0", NAME, NAME, "breast"], given, cards())
    assert [one.reference for one in wanted] == ["chest@1.0.0", "chest@10.0.0", "chest@2.0.0"]


def loaded(of: ModelCard, fault: str | None) -> LoadedModel:
    identity = of.identity
    return LoadedModel(
        owner="node:worker0:1",
        model_name=identity.name,
        model_version=identity.version,
        model_digest=of.model_digest,
        device=None,
        fault=fault,
        seen_at=NOON,
    )


def test_faults_of_what_serves_are_told_once_and_those_of_shadows_are_none_of_health() -> None:
    given = known(one=Standing.CHAMPION, two=Standing.SHADOW)
    unwell = (loaded(ONE, "no weights"), loaded(ONE, "no weights"), loaded(TWO, "too large"))
    assert serving_faults([NAME, NAME], given, cards(), unwell) == ("no weights",)
    assert serving_faults([NAME], given, cards(), (loaded(ONE, None),)) == ()
    (fault,) = serving_faults([NAME, "chest@1.0.0"], given, cards(TWO), unwell)
    assert fault == "chest@1.0.0 is champion and is not installed"


def test_without_consent_only_registered_models_are_run() -> None:
    uses = (
        card("1.0.0"),
        card("2.0.0", use=Use.DEMONSTRATION),
        card("3.0.0", use=Use.REGISTERED, registration_number="RZN 1"),
    )
    found = [InstalledModel(card=one, folder=Path()) for one in uses]
    assert list(accepted_cards(found, accept_research=False)) == ["chest@3.0.0"]
    assert len(accepted_cards(found, accept_research=True)) == 3
