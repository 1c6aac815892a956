"""Routing: which rule takes which images to which model, and every rule's answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.facts import InstanceFacts
from dicom_node.routing import Candidate, Route, RouteMatch, Routes, RoutesError, Routing, read_routes, route_study
from dicom_node.serving import Standings
from inference.findings import SopUid
from models.card import ModelCard, PresentationIntent
from tests.results_cases import make_card

NOTHING_KNOWN = Standings()


def card(name: str = "chest", version: str = "1.0.0", views: tuple[str, ...] = ()) -> ModelCard:
    made = make_card(version=version)
    return made.model_copy(
        update={
            "identity": made.identity.model_copy(update={"name": name}),
            "intended_use": made.intended_use.model_copy(update={"views": views}),
        }
    )


def image(number: int = 1, *, calling_ae: str = "CR1", sha256: str = "", **facts: object) -> Candidate:
    values = {"modality": "DX", "body_part": "CHEST", "view": "PA"} | facts
    return Candidate(
        instance_id=number,
        sop_instance_uid=SopUid(f"1.2.{number}"),
        sha256=sha256 or f"{number:064x}",
        calling_ae=calling_ae,
        called_ae="RADNODE",
        facts=InstanceFacts(**values),  # type: ignore[arg-type]
    )


def rule(name: str = "chest", model: str = "chest", **fields: object) -> Route:
    match = RouteMatch.model_validate(fields.pop("match", {}))
    return Route.model_validate({"name": name, "model": model, "destinations": ("pacs",), "match": match, **fields})


def routed(
    images: list[Candidate], *rules: Route, cards: tuple[ModelCard, ...] = (card(),), known: Standings = NOTHING_KNOWN
) -> Routing:
    return route_study(images, Routes(route=rules), {one.reference: one for one in cards}, known)


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"modality": ["DX"]}, True),
        ({"modality": ["cr", "dx"]}, True),
        ({"modality": ["CR"]}, False),
        ({"modality": ["D?"]}, True),
        ({"modality": ["!CR"]}, True),
        ({"modality": ["!DX"]}, False),
        ({"modality": ["*", "!DX"]}, False),
        ({"body_part": [""]}, False),
        ({"laterality": [""]}, True),
        ({"laterality": ["!"]}, False),
        ({"study_description": ["*грудной*"]}, True),
        ({"study_description": ["*ГРУДНОЙ*"]}, True),
        ({"study_description": ["грудной"]}, False),
        ({"series_description": ["PA [digital]"]}, True),
        ({"calling_ae": ["CR*"]}, True),
        ({"calling_ae": ["CT*"]}, False),
        ({"called_ae": ["RADNODE"]}, True),
        ({"presentation": ["FOR PRESENTATION"]}, True),
        ({"presentation": ["FOR PROCESSING"]}, False),
        ({"modality": ["DX"], "view": ["LL"]}, False),
    ],
)
def test_patterns_match_as_they_are_written(match: dict[str, list[str]], fits: bool) -> None:
    taken = image(
        study_description=" Органы Грудной клетки",
        series_description="PA [digital]",
        presentation=PresentationIntent.FOR_PRESENTATION,
    )
    assert bool(routed([taken], rule(match=match)).plans) is fits


@given(value=st.text(max_size=20), pattern=st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_pattern_and_its_exclusion_never_both_match(value: str, pattern: str) -> None:
    taken = image(study_description=value)
    plain, excluded = (
        bool(routed([taken], rule(match={"study_description": [words]})).plans)
        for words in (pattern.lstrip("!"), "!" + pattern.lstrip("!"))
    )
    assert plain is not excluded


def test_every_rule_tells_which_field_of_which_value_it_stumbled_over() -> None:
    routing = routed([image()], rule("breast", match={"modality": ["MG"]}), rule("later", match={"view": ["LL", "RL"]}))
    assert routing.plans == ()
    assert routing.trace == (
        "route breast: no image matches (modality is 'DX', wanted 'MG')",
        "route later: no image matches (view is 'PA', wanted 'LL' or 'RL')",
    )
    assert routing.why_not == "; ".join(routing.trace)


def test_without_rules_and_without_images_the_reason_is_told() -> None:
    assert routed([image()]).why_not == "no routes are configured"
    assert routed([], rule()).trace == ("route chest: no image matches (the study has no analysable image)",)


def test_a_secondary_capture_is_left_out_unless_the_route_allows_it() -> None:
    capture = image(2, is_secondary=True)
    (plan,) = routed([image(1), capture], rule()).plans
    assert [one.instance_id for one in plan.instances] == [1]
    assert "secondary capture" in routed([capture], rule()).why_not
    (plan,) = routed([capture], rule(allow_secondary_capture=True)).plans
    assert plan.instances == (capture,)


def test_a_model_that_is_not_installed_is_named() -> None:
    routing = routed([image(), image(2)], rule(model="breast"))
    assert routing.plans == ()
    assert routing.why_not == "route chest matches 2 image(s), but model breast is not installed"


def test_of_a_model_that_never_had_a_champion_the_newest_version_serves_unless_one_is_pinned() -> None:
    cards = tuple(card(version=version) for version in ("1.9.0", "1.10.0", "0.99.0"))
    (plan,) = routed([image()], rule(), cards=cards).plans
    assert plan.model.reference == "chest@1.10.0"
    (plan,) = routed([image()], rule(model="chest@1.9.0"), cards=cards).plans
    assert plan.model.reference == "chest@1.9.0"
    assert "chest@3.0.0 is not installed" in routed([image()], rule(model="chest@3.0.0"), cards=cards).why_not


def test_of_several_rules_for_one_model_the_first_that_matches_counts() -> None:
    rules = (
        rule("none", match={"modality": ["MG"]}),
        rule("first", priority=3),
        rule("second", destinations=("web",)),
        rule("other", model="nodules"),
    )
    routing = routed([image()], *rules, cards=(card(), card("nodules")))
    assert [(plan.route.name, plan.model.model_name) for plan in routing.plans] == [
        ("first", "chest"),
        ("other", "nodules"),
    ]
    assert routing.trace[2] == "route second: an earlier route already sends the study to chest"
    assert len(routing.trace) == len(rules)


def test_a_late_lateral_film_changes_nothing_that_the_model_is_given() -> None:
    frontal = card(views=("PA", "AP"))
    (before,) = routed([image(1)], rule(), cards=(frontal,)).plans
    (later,) = routed([image(1), image(2, view="LL")], rule(), cards=(frontal,)).plans
    assert later.instances == before.instances
    assert later.sources_digest == before.sources_digest
    (more,) = routed([image(1), image(2, view="AP")], rule(), cards=(frontal,)).plans
    assert more.sources_digest != before.sources_digest


def test_unknown_views_are_given_to_the_model_and_a_study_of_unsuited_ones_too_so_that_the_reason_is_told() -> None:
    frontal = card(views=("PA", "AP"))
    (plan,) = routed([image(1), image(2, view="")], rule(), cards=(frontal,)).plans
    assert len(plan.instances) == 2
    (plan,) = routed([image(1, view="LL")], rule(), cards=(frontal,)).plans
    assert len(plan.instances) == 1


def test_the_sources_digest_is_of_the_bytes_and_not_of_their_order() -> None:
    (one,) = routed([image(1), image(2)], rule()).plans
    (other,) = routed([image(2), image(1)], rule()).plans
    (changed,) = routed([image(1), image(2, sha256="f" * 64)], rule()).plans
    assert one.sources_digest == other.sources_digest != changed.sources_digest


def test_an_urgent_study_gains_five_steps() -> None:
    (plan,) = routed([image(1), image(2, urgent=True)], rule(priority=-2)).plans
    assert plan.priority == 3


# the file ------------------------------------------------------------------------------------------------------------

GOOD = """
[[route]]
name = "chest"
model = "chest@1.0.0"
destinations = ["pacs"]
priority = 2
match = { modality = ["CR", "DX"], body_part = ["CHEST", ""] }
"""


def test_a_routes_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(GOOD, encoding="utf-8")
    (route,) = read_routes(path).route
    assert (route.name, route.model, route.match.body_part) == ("chest", "chest@1.0.0", ("CHEST", ""))


def test_every_fault_of_a_routes_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(GOOD + '[[route]]\nname = ""\nmodle = "x"\npriority = 99\nmatch = { modalty = ["CR"] }\n')
    with pytest.raises(RoutesError) as caught:
        read_routes(path)
    told = str(caught.value)
    assert str(path) in told and "6 fault(s)" in told
    for place in ("route.1.name", "route.1.model", "route.1.modle", "route.1.priority", "route.1.destinations"):
        assert place in told
    assert "route.1.match.modalty" in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (GOOD.encode() * 2, "two routes have the same name: chest"),
        (b"[[route", "not valid TOML"),
        ("name = 'грудь'".encode("cp1251"), "not valid TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_routes_file_is_refused_by_name(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "routes.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RoutesError, match=told) as caught:
        read_routes(path)
    assert str(path) in str(caught.value)
