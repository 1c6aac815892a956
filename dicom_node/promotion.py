"""Changes of standing: candidate to shadow to champion, back again, and out of service; each a row of the history.

Called by `radnode models` within one transaction, and by `pipeline` for a name's first champion. Reading cards and
weights is the caller's; which version serves afterwards is `serving`. There is no way to promote without a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger import events, shadows, standings, studies
from dicom_node.ledger.standings import Change, StandingRow
from dicom_node.serving import Standings, Version, read_standings
from dicom_node.states import Stage, Standing, StandingAction
from models.card import ModelCard, Use
from models.evaluation_report import ReportError, ReportFile, check_report

NODE_OPERATOR = "radnode"
_SHOWN = 12  # digits of a digest that people are shown


class StandingRefused(Exception):
    """The version may not get this standing; the message says why, and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Act:
    """Who changes something, when and why."""

    operator: str
    at: datetime
    why: str


def enter_first(tx: sa.Connection, version: Version, at: datetime) -> None:
    """Enter a name's first champion: a route names the model, and no version of it was ever champion."""
    act = Act(operator=NODE_OPERATOR, at=at, why="the newest installed version when a route first needed the model")
    _change(tx, version, Standing.CANDIDATE, Standing.CHAMPION, StandingAction.FIRST_START, act)


def shadow(tx: sa.Connection, card: ModelCard, act: Act) -> None:
    """Have a version run beside the one that serves.

    Raises
    ------
    StandingRefused
        If it is champion or shadow already, or was altered since it had a standing.
    """
    now = _standing(tx, card)
    if now in (Standing.CHAMPION, Standing.SHADOW):
        raise StandingRefused(f"{card.reference} is {now} already")
    _check_unaltered(tx, card)
    _change(tx, as_version(card), now, Standing.SHADOW, StandingAction.SHADOW, act)


def stop_shadow(tx: sa.Connection, name: str, version: str, act: Act) -> int:
    """Make a shadow a candidate again; returns how many of its waiting jobs were dropped.

    Raises
    ------
    StandingRefused
        If it is no shadow.
    """
    row = read_standings(tx).of(name, version)
    if row is None or row.standing is not Standing.SHADOW:
        raise StandingRefused(f"{name}@{version} is no shadow")
    _change(tx, _entered(row), Standing.SHADOW, Standing.CANDIDATE, StandingAction.CANDIDATE, act)
    return _drop_waiting(tx, row, act.at)


def promote(tx: sa.Connection, card: ModelCard, report: ReportFile, act: Act) -> StandingRow | None:
    """Make a version champion by its evaluation report; returns the champion that it replaces.

    Raises
    ------
    StandingRefused
        If it is champion already, a demonstration, retired or altered, or the report is none for it.
    """
    if card.identity.use is Use.DEMONSTRATION:
        raise StandingRefused(
            f"{card.reference} is a demonstration: it claims no accuracy and cannot be champion. A route that names "
            f"{card.reference} runs it"
        )
    try:
        check_report(report, card)
    except ReportError as error:
        raise StandingRefused(str(error)) from error
    now = _standing(tx, card)
    if now is Standing.CHAMPION:
        raise StandingRefused(f"{card.reference} is champion already")
    if now is Standing.RETIRED:
        raise StandingRefused(f"{card.reference} is retired: have it run as a shadow first")
    _check_unaltered(tx, card)
    standings.store_report(tx, sha256=report.sha256, text=report.text, at=act.at)
    replaced = _step_down(tx, card.identity.name, StandingAction.PROMOTE, act, f"replaced by {card.reference}")
    _change(tx, as_version(card), now, Standing.CHAMPION, StandingAction.PROMOTE, act, report.sha256)
    return replaced


@dataclass(frozen=True, kw_only=True, slots=True)
class RolledBack:
    """What a roll-back did: the champion again, the one that went, and the studies that are routed anew."""

    champion: Change
    replaced: StandingRow | None
    routed_anew: int


def rollback(tx: sa.Connection, name: str, cards: Mapping[str, ModelCard], act: Act) -> RolledBack:
    """Make the champion before champion again; studies that no worker has begun are routed anew.

    Raises
    ------
    StandingRefused
        If there was none, or it is not installed as it was.
    """
    known = read_standings(tx)
    before = predecessor(standings.history(tx, name), known)
    if before is None:
        raise StandingRefused(f"{name} has no earlier champion to go back to")
    card = cards.get(before.reference)
    if card is None or card.model_digest != before.model_digest:
        state = "is not installed any more" if card is None else "was altered since it was champion"
        raise StandingRefused(f"the champion before, {before.reference}, {state}: put its folder back and repeat")
    now = _standing(tx, card)
    replaced = _step_down(tx, name, StandingAction.ROLLBACK, act, f"rolled back to {before.reference}")
    _change(tx, as_version(card), now, Standing.CHAMPION, StandingAction.ROLLBACK, act, before.report_sha256)
    routed_anew = _route_anew(tx, replaced, act.at) if replaced else 0
    return RolledBack(champion=before, replaced=replaced, routed_anew=routed_anew)


def retire(tx: sa.Connection, name: str, version: str, digest: str, act: Act) -> int:
    """Withdraw a version from everything; returns how many waiting studies are routed anew or lose their shadow.

    Parameters
    ----------
    digest : str
        Of the installed card, for a version that never had a standing.

    Raises
    ------
    StandingRefused
        If it is retired already.
    """
    row = read_standings(tx).of(name, version)
    now = row.standing if row else Standing.CANDIDATE
    if now is Standing.RETIRED:
        raise StandingRefused(f"{name}@{version} is retired already")
    gone = row or StandingRow(model_name=name, model_version=version, standing=now, model_digest=digest, since=act.at)
    _change(tx, _entered(gone), now, Standing.RETIRED, StandingAction.RETIRE, act)
    return _drop_waiting(tx, gone, act.at) + _route_anew(tx, gone, act.at)


def predecessor(history: Sequence[Change], known: Standings) -> Change | None:
    """The change by which the champion before the present one became champion; retired versions are passed over.

    A roll-back takes back what it undoes: two in a row go two champions back, not to and fro.
    """
    stack: list[Change] = []
    for made in history:
        if made.to_standing is not Standing.CHAMPION:
            continue
        if made.action is StandingAction.ROLLBACK:
            while stack and stack[-1].model_version != made.model_version:
                stack.pop()
        else:
            stack.append(made)
    if not stack:
        return None
    present = known.champion(stack[-1].model_name)
    for made in reversed(stack):
        row = known.of(made.model_name, made.model_version)
        is_present = present is not None and present.model_version == made.model_version
        if not is_present and row is not None and row.standing is not Standing.RETIRED:
            return made
    return None


def _step_down(tx: sa.Connection, name: str, action: StandingAction, act: Act, why: str) -> StandingRow | None:
    rows = standings.of_name(tx, name, for_update=True)
    present = next((row for row in rows if row.standing is Standing.CHAMPION), None)
    if present is not None:
        because = Act(operator=act.operator, at=act.at, why=f"{why}: {act.why}" if act.why else why)
        _change(tx, _entered(present), Standing.CHAMPION, Standing.CANDIDATE, action, because)
    return present


def _standing(tx: sa.Connection, card: ModelCard) -> Standing:
    row = read_standings(tx).of(card.identity.name, card.identity.version)
    return row.standing if row else Standing.CANDIDATE


def _check_unaltered(tx: sa.Connection, card: ModelCard) -> None:
    """Under one version there is one model: what had a standing once is not changed afterwards."""
    for made in standings.history(tx, card.identity.name):
        if made.model_version == card.identity.version and made.model_digest != card.model_digest:
            raise StandingRefused(
                f"{card.reference} was {made.to_standing} on {made.at:%Y-%m-%d} with model digest "
                f"{made.model_digest[:_SHOWN]}, its card now has {card.model_digest[:_SHOWN]}: a changed threshold, "
                "preprocessing or weights is a new version; install it under one"
            )


def _drop_waiting(tx: sa.Connection, row: StandingRow, at: datetime) -> int:
    waiting = shadows.waiting_of(tx, row.model_name, row.model_version)
    for job in waiting:
        shadows.shed(tx, job.id, at=at)
        what = f"{job.reference} (shadow): dropped from the queue, it is no shadow any more"
        events.add(tx, job.study_uid, at=at, stage=Stage.INFER, what=what, revision=job.revision)
    return len(waiting)


def _route_anew(tx: sa.Connection, row: StandingRow, at: datetime) -> int:
    """Studies that wait for a version that is withdrawn are assembled and routed again, by who serves now."""
    anew = 0
    for study_uid in shadows.studies_waiting_for(tx, row.model_name, row.model_version):
        # Ended here, not when the study is routed: until then a worker could still begin it, and two would speak.
        if not shadows.withdraw_waiting(tx, study_uid, row.model_name, row.model_version, at):
            continue
        studies.reopen(tx, study_uid, at)
        what = f"routed anew: {row.reference} was withdrawn before a worker had begun"
        events.add(tx, study_uid, at=at, stage=Stage.ROUTE, what=what)
        anew += 1
    return anew


def as_version(card: ModelCard) -> Version:
    """An installed card as the version that it is."""
    identity = card.identity
    return Version(model_name=identity.name, model_version=identity.version, model_digest=card.model_digest, card=card)


def _entered(row: StandingRow) -> Version:
    return Version(model_name=row.model_name, model_version=row.model_version, model_digest=row.model_digest)


def _change(
    tx: sa.Connection,
    version: Version,
    before: Standing,
    after: Standing,
    action: StandingAction,
    act: Act,
    report_sha256: str | None = None,
) -> None:
    made = Change(
        at=act.at,
        operator=act.operator,
        action=action,
        model_name=version.model_name,
        model_version=version.model_version,
        from_standing=before,
        to_standing=after,
        model_digest=version.model_digest,
        report_sha256=report_sha256,
        why=act.why,
    )
    standings.change(tx, made)
