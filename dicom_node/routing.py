"""Which model looks at which images, and where results go: rules in a TOML file, no code.

`pipeline` asks for every settled study, `radnode route --explain` for a folder. Every rule that does not match says
which field of which image it stumbled over. The loop guard (nothing that an AI wrote is analysed) has already set such
instances aside when their headers were read, in `dicom_node.indexing`.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dicom_node.facts import InstanceFacts
from dicom_node.serving import Standings, Version, choose
from dicom_node.states import JobRole
from inference.findings import SopUid
from models.card import ModelCard


class RoutesError(Exception):
    """The routes file cannot be used; the message lists every fault."""


class RouteMatch(BaseModel):
    """What an image must be. Each field is a list of patterns (``*`` and ``?``), any of which may match.

    Comparison ignores case. ``""`` matches an empty attribute; a pattern that begins with ``!`` excludes. An empty list
    asks nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    view: tuple[str, ...] = ()
    laterality: tuple[str, ...] = ()
    presentation: tuple[str, ...] = ()
    study_description: tuple[str, ...] = ()
    series_description: tuple[str, ...] = ()
    station_name: tuple[str, ...] = ()
    manufacturer: tuple[str, ...] = ()
    sop_class_uid: tuple[str, ...] = ()
    calling_ae: tuple[str, ...] = ()
    called_ae: tuple[str, ...] = ()


class Route(BaseModel):
    """One rule: images that match go to the model, results to the destinations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    model: str = Field(min_length=1, description="name: its champion; or name@version to pin one")
    destinations: tuple[str, ...] = Field(min_length=1)
    match: RouteMatch = RouteMatch()
    priority: int = Field(default=0, ge=-10, le=10, description="higher goes first; urgent studies gain 5 more")
    allow_secondary_capture: bool = Field(
        default=False, description="analyse Secondary Capture and DERIVED\\SECONDARY: digitised film arrives so"
    )


class Routes(BaseModel):
    """The routes file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    route: tuple[Route, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Routes:
        names = [route.name for route in self.route]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two routes have the same name: {', '.join(twice)}")
        return self


URGENT_PRIORITY = 5
SHADOW_PRIORITY = -20  # below every route's


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One analysable instance of a study, as routing sees it."""

    instance_id: int
    sop_instance_uid: SopUid
    sha256: str
    calling_ae: str
    called_ae: str
    facts: InstanceFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One version of a model on the chosen images of a study; with a fault of the version, only to say so."""

    route: Route
    model: Version
    role: JobRole = JobRole.CHAMPION
    is_first: bool = False  # the version becomes champion with this study
    instances: tuple[Candidate, ...]
    priority: int

    @property
    def sources_digest(self) -> str:
        """sha256 over the stored bytes chosen: the same sources need no second job."""
        digests = sorted(chosen.sha256 for chosen in self.instances)
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """What routing decided (a shadow's plan follows the one it accompanies), and every rule's answer (`trace`)."""

    plans: tuple[Plan, ...]
    trace: tuple[str, ...]
    lacks: bool = False  # a version that is meant to look is not installed, or altered

    @property
    def why_not(self) -> str:
        """Why no model looks at the study, in one line."""
        return "; ".join(self.trace) if self.trace else "no routes are configured"


def read_routes(path: Path) -> Routes:
    """Read a routes file.

    Raises
    ------
    RoutesError
        Naming the file and every fault in it.
    """
    try:
        return Routes.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RoutesError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RoutesError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'routes'}: {fault['msg']}" for fault in error.errors()]
        raise RoutesError(f"{path}: {len(faults)} fault(s)\n" + "\n".join(faults)) from error


def route_study(
    candidates: Sequence[Candidate], routes: Routes, cards: Mapping[str, ModelCard], known: Standings
) -> Routing:
    """Match every rule against every image; of several rules for one model the first that matches counts.

    Parameters
    ----------
    candidates : sequence of Candidate
        The study's analysable images.
    routes : Routes
        The rules.
    cards : mapping of str to ModelCard
        The installed models by reference.
    known : Standings
        Which of them are champions and shadows.
    """
    plans: list[Plan] = []
    trace: list[str] = []
    lacks = False
    for route in routes.route:
        chosen, stumbled = _match(candidates, route)
        if not chosen:
            trace.append(f"route {route.name}: no image matches ({stumbled})")
            continue
        choice = choose(route.model, known, cards)
        lacks = lacks or choice.lacks
        if choice.serving is None:
            trace.append(f"route {route.name} matches {len(chosen)} image(s), but {choice.why_not}")
            continue
        if any(plan.model.model_name == choice.serving.model_name for plan in plans):
            trace.append(f"route {route.name}: an earlier route already sends the study to {choice.serving.model_name}")
            continue
        plan = _plan(route, choice.serving, chosen, is_first=choice.is_first)
        shadows = [_shadow(route, shadow, chosen) for shadow in choice.shadows if shadow.card]
        plans += [plan, *shadows]
        trace.append(_told(plan, len(candidates)))
        trace += [_told_of_shadow(route, shadow) for shadow in choice.shadows]
    return Routing(plans=tuple(plans), trace=tuple(trace), lacks=lacks)


def _plan(route: Route, model: Version, chosen: Sequence[Candidate], *, is_first: bool) -> Plan:
    meant = _within_intended_use(chosen, model.card) if model.card else tuple(chosen)
    priority = route.priority + (URGENT_PRIORITY if any(image.facts.urgent for image in meant) else 0)
    return Plan(route=route, model=model, is_first=is_first, instances=meant, priority=priority)


def _shadow(route: Route, model: Version, chosen: Sequence[Candidate]) -> Plan:
    assert model.card is not None, "a shadow with a fault is left out"
    meant = _within_intended_use(chosen, model.card)
    return Plan(route=route, model=model, role=JobRole.SHADOW, instances=meant, priority=SHADOW_PRIORITY)


def _told_of_shadow(route: Route, shadow: Version) -> str:
    told = f"route {route.name}: {shadow.reference} looks on as a shadow"
    return told.replace("looks on as a shadow", f"is left out: {shadow.fault}") if shadow.fault else told


def _told(plan: Plan, of: int) -> str:
    told = f"route {plan.route.name}: {len(plan.instances)} of {of} image(s) go to {plan.model.reference}"
    return f"{told}, which must not run: {plan.model.fault}" if plan.model.fault else told


def _match(candidates: Sequence[Candidate], route: Route) -> tuple[tuple[Candidate, ...], str]:
    chosen: list[Candidate] = []
    stumbled = "the study has no analysable image"
    for candidate in candidates:
        why_not = _why_not(candidate, route)
        if why_not is None:
            chosen.append(candidate)
        else:
            stumbled = why_not
    return tuple(chosen), stumbled


def _why_not(candidate: Candidate, route: Route) -> str | None:
    facts = candidate.facts
    if facts.is_secondary and not route.allow_secondary_capture:
        return "secondary capture, and the route does not allow it"
    for field, patterns in route.match.model_dump().items():
        value = str(getattr(candidate if field in ("calling_ae", "called_ae") else facts, field))
        if not _fits(value, patterns):
            wanted = " or ".join(repr(pattern) for pattern in patterns)
            return f"{field} is {value!r}, wanted {wanted}"
    return None


def _fits(value: str, patterns: Sequence[str]) -> bool:
    folded = value.strip().casefold()
    # Only * and ? are patterns here; descriptions do hold brackets.
    literal = [pattern.casefold().replace("[", "[[]") for pattern in patterns]
    wanted = [pattern for pattern in literal if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in literal if pattern.startswith("!")]
    if any(fnmatchcase(folded, pattern) for pattern in unwanted):
        return False
    return not wanted or any(fnmatchcase(folded, pattern) for pattern in wanted)


def _within_intended_use(chosen: Sequence[Candidate], card: ModelCard) -> tuple[Candidate, ...]:
    """Leave out views that the card certainly does not cover, so that a late lateral film changes no input.

    If nothing is left all are kept: the engine then refuses each with its reason, and the reason becomes a result.
    """
    views = card.intended_use.views
    meant = tuple(image for image in chosen if not views or not image.facts.view or image.facts.view in views)
    return meant or tuple(chosen)
