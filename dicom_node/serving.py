"""Which version of a model looks at a study: the ledger decides, a route may pin one, and what is altered must not run.

Asked by routing for every study (in the transaction that queues its jobs), and by workers, health, `radnode check` and
`radnode models`. Pure: standings and cards come in, an answer with its reason goes out. What changes a standing is
`promotion`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from dicom_node.ledger import standings
from dicom_node.ledger.jobs import Job
from dicom_node.ledger.standings import LoadedModel, StandingRow
from dicom_node.states import Standing
from models.card import ModelCard, Use
from models.registry import InstalledModel

_SHOWN = 12  # digits of a digest that people are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Standings:
    """What the ledger knows of all models, read at one moment.

    Attributes
    ----------
    rows : tuple of StandingRow
        A version without a row is a candidate.
    championed : frozenset of str
        Names of which a version was ever champion: nothing is entered by itself for these.
    """

    rows: tuple[StandingRow, ...] = ()
    championed: frozenset[str] = frozenset()

    def of(self, name: str, version: str) -> StandingRow | None:
        """The row of one version."""
        return next((row for row in self.rows if (row.model_name, row.model_version) == (name, version)), None)

    def champion(self, name: str) -> StandingRow | None:
        """The champion of a name."""
        return next((row for row in self.rows if row.model_name == name and row.standing is Standing.CHAMPION), None)

    def shadows(self, name: str) -> tuple[StandingRow, ...]:
        """The shadows of a name."""
        return tuple(row for row in self.rows if row.model_name == name and row.standing is Standing.SHADOW)


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One version as it is to run: its card, or why it must not."""

    model_name: str
    model_version: str
    model_digest: str
    card: ModelCard | None = None
    fault: str = ""

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.model_name}@{self.model_version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Who looks at the studies of a route.

    Attributes
    ----------
    serving : Version or None
        Whose result is written; None when there is none, and `why_not` says why.
    is_first : bool
        `serving` is not in the ledger yet: it is to be entered as the name's first champion.
    shadows : tuple of Version
        Who looks beside it, without a word to anybody.
    """

    serving: Version | None = None
    why_not: str = ""
    is_first: bool = False
    shadows: tuple[Version, ...] = field(default=())

    @property
    def lacks(self) -> bool:
        """Whether a version that is meant to look is not there as it is meant to be."""
        return self.serving is None or any(one.fault for one in (self.serving, *self.shadows))


def read_standings(tx: sa.Connection) -> Standings:
    """What the ledger knows now."""
    return Standings(rows=standings.every(tx), championed=standings.championed(tx))


def choose(wanted: str, known: Standings, cards: Mapping[str, ModelCard]) -> Choice:
    """Who looks at the studies of a route that names `wanted`.

    Parameters
    ----------
    wanted : str
        ``name`` (the champion) or ``name@version`` (this one, whatever its standing, unless it is retired).
    known : Standings
    cards : mapping of str to ModelCard
        What is installed and accepted, by reference.
    """
    name, _, version = wanted.partition("@")
    choice = _pinned(name, version, known, cards) if version else _champion(name, known, cards)
    if choice.serving is None:
        return choice
    beside = [row for row in known.shadows(name) if row.model_version != choice.serving.model_version]
    return Choice(
        serving=choice.serving,
        is_first=choice.is_first,
        shadows=tuple(_as_entered(row, cards) for row in beside),
    )


def wanted_versions(models: Sequence[str], known: Standings, cards: Mapping[str, ModelCard]) -> tuple[Version, ...]:
    """Every version that routes naming these models need in memory: champions first, then pinned ones, then shadows."""
    choices = [choose(wanted, known, cards) for wanted in sorted(models, key=lambda one: "@" in one)]
    found: dict[str, Version] = {}
    for one in [choice.serving for choice in choices if choice.serving]:
        found.setdefault(one.reference, one)
    for one in [shadow for choice in choices for shadow in choice.shadows]:
        found.setdefault(one.reference, one)
    return tuple(found.values())


def first_champion(name: str, known: Standings, cards: Mapping[str, ModelCard]) -> ModelCard | None:
    """The newest installed version that may become champion by itself: no demonstration, shadow or retired one."""
    fitting = [
        card
        for card in cards.values()
        if card.identity.name == name
        and card.identity.use is not Use.DEMONSTRATION
        and known.of(name, card.identity.version) is None
    ]
    return max(fitting, key=lambda card: tuple(map(int, card.identity.version.split("."))), default=None)


def serving_faults(
    models: Sequence[str], known: Standings, cards: Mapping[str, ModelCard], loaded: Sequence[LoadedModel] = ()
) -> tuple[str, ...]:
    """Why versions that routes need do not serve: what the ledger and the cards say, and what workers say."""
    faults: list[str] = []
    for wanted in sorted(set(models)):
        choice = choose(wanted, known, cards)
        if choice.serving is None:
            continue  # nothing is meant to serve: the account of each study says so
        told = {one.fault for one in loaded if one.reference == choice.serving.reference and one.fault}
        faults += [choice.serving.fault] if choice.serving.fault else sorted(told)
    return tuple(dict.fromkeys(faults))


def is_replaced(tx: sa.Connection, job: Job) -> bool:
    """Whether a job's model has a champion and it is another version, or another state of it, than the job's."""
    champion = read_standings(tx).champion(job.model_name)
    return champion is not None and champion.model_digest != job.model_digest


def altered(row: StandingRow, card: ModelCard) -> str:
    """Why a card is not the one that got its standing; empty when it is."""
    if card.model_digest == row.model_digest:
        return ""
    return (
        f"{row.reference} is not what became {row.standing}: its installed card has model digest "
        f"{card.model_digest[:_SHOWN]}, the ledger knows {row.model_digest[:_SHOWN]}. A changed threshold, "
        "preprocessing or weights is a new version: restore the card, or install the change under a new version"
    )


def accepted_cards(models: Iterable[InstalledModel], *, accept_research: bool) -> dict[str, ModelCard]:
    """Cards that the node may run, by reference; without `accept_research` those of registered models alone."""
    cards = (model.card for model in models)
    return {card.reference: card for card in cards if accept_research or card.identity.use is Use.REGISTERED}


def _pinned(name: str, version: str, known: Standings, cards: Mapping[str, ModelCard]) -> Choice:
    row, card = known.of(name, version), cards.get(f"{name}@{version}")
    if row is not None and row.standing is Standing.RETIRED:
        return Choice(why_not=f"model {row.reference} is retired")
    if card is None:
        return Choice(why_not=f"model {name}@{version} is not installed")
    if row is not None and row.standing is not Standing.CANDIDATE:
        return Choice(serving=_as_entered(row, cards))
    return Choice(serving=_of(card))


def _champion(name: str, known: Standings, cards: Mapping[str, ModelCard]) -> Choice:
    row = known.champion(name)
    if row is not None:
        return Choice(serving=_as_entered(row, cards))
    if name in known.championed:
        return Choice(why_not=f"model {name} has no champion: `radnode models promote` or `rollback` gives it one")
    card = first_champion(name, known, cards)
    if card is not None:
        return Choice(serving=_of(card), is_first=True)
    others = sorted(reference for reference in cards if reference.partition("@")[0] == name)
    if others:
        return Choice(
            why_not=f"model {name} has no champion, and {', '.join(others)} does not become one by itself: pin it in "
            "the route, or promote it"
        )
    return Choice(why_not=f"model {name} is not installed")


def _as_entered(row: StandingRow, cards: Mapping[str, ModelCard]) -> Version:
    card = cards.get(row.reference)
    fault = f"{row.reference} is {row.standing} and is not installed" if card is None else altered(row, card)
    return Version(
        model_name=row.model_name,
        model_version=row.model_version,
        model_digest=row.model_digest,
        card=card if not fault else None,
        fault=fault,
    )


def _of(card: ModelCard) -> Version:
    return Version(
        model_name=card.identity.name,
        model_version=card.identity.version,
        model_digest=card.model_digest,
        card=card,
    )
