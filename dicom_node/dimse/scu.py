"""This node as a requestor: C-ECHO, C-STORE and C-FIND to an archive, one association per call.

Called by `dicom_node.delivery.pacs` and by `radnode send`. Associations come from `dimse.requestor`, storage commitment
is in `dimse.commitment`, status codes are judged by `delivery.statuses`, and when to try again by `delivery.backoff`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association

from dicom_node.delivery.archive import (
    ArchiveError,
    ArchiveRejected,
    ArchiveUnreachable,
    OutboundObject,
    PacsDestination,
    SendOutcome,
    Sent,
)
from dicom_node.delivery.statuses import judge_status
from dicom_node.dimse.requestor import MAX_CONTEXTS, ConnectionLost, NoContextAccepted, associate
from inference.findings import SeriesUid, SopUid, StudyUid

VERIFICATION: Final = UID("1.2.840.10008.1.1")
STUDY_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")
MAX_ASSOCIATIONS_PER_BATCH: Final = 4  # an archive that aborts on one object must not keep the others waiting for days
UNCOMPRESSED: Final = frozenset({ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
MAX_MATCHES: Final = 20_000  # of one series or one study UID
PENDING: Final = frozenset({0xFF00, 0xFF01})


def echo(destination: PacsDestination) -> None:
    """Send C-ECHO (PS3.4 annex A).

    Raises
    ------
    ArchiveError
        When no association comes about, or the answer is not success.
    """
    try:
        with associate(destination, [(VERIFICATION, ImplicitVRLittleEndian)]) as association:
            answer = association.send_c_echo()
    except NoContextAccepted:
        raise ArchiveRejected("the archive does not accept C-ECHO: enable verification for this node there") from None
    if answer.get("Status") != 0:
        raise ArchiveUnreachable("the archive did not answer C-ECHO with success: see its log")


def _proposals(objects: Sequence[OutboundObject]) -> list[tuple[str, str]]:
    """Give the contexts these objects need: each in its own syntax, uncompressed ones in the default syntax too."""
    wanted: dict[tuple[str, str], None] = {}
    for item in objects:
        wanted[item.sop_class_uid, item.transfer_syntax_uid] = None
        if item.transfer_syntax_uid in UNCOMPRESSED:
            wanted[item.sop_class_uid, ImplicitVRLittleEndian] = None
            if item.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
                wanted[item.sop_class_uid, ExplicitVRLittleEndian] = None
    return list(wanted)


def _batches(objects: Sequence[OutboundObject]) -> Iterator[list[OutboundObject]]:
    """Cut `objects`, in order, so that each part's contexts fit into one association."""
    part: list[OutboundObject] = []
    for item in objects:
        if part and len(_proposals([*part, item])) > MAX_CONTEXTS:
            yield part
            part = []
        part.append(item)
    if part:
        yield part


def _refused_context(item: OutboundObject) -> SendOutcome:
    name = UID(item.sop_class_uid).name
    syntax = UID(item.transfer_syntax_uid).name
    reason = (
        f"the archive does not accept {name} in {syntax}: "
        "enable that SOP class and transfer syntax there, or leave the object out of the profile"
    )
    return SendOutcome(sop_instance_uid=item.sop_instance_uid, sent=Sent.REFUSED, reason=reason)


def _retry(item: OutboundObject, reason: str) -> SendOutcome:
    return SendOutcome(sop_instance_uid=item.sop_instance_uid, sent=Sent.RETRY, reason=reason)


def _what_to_send(association: Association, item: OutboundObject) -> Path | Dataset | None:
    """Give the path when the archive takes the file's own syntax, a data set to be re-encoded, or None."""
    accepted = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == item.sop_class_uid
    }
    if item.transfer_syntax_uid in accepted:
        return item.path
    if item.transfer_syntax_uid in UNCOMPRESSED and accepted & UNCOMPRESSED:
        return pydicom.dcmread(item.path)
    return None


def _store_one(association: Association, item: OutboundObject) -> SendOutcome:
    """Send one object; raises `ConnectionLost` when the association did not survive it."""
    content = _what_to_send(association, item)
    if content is None:
        return _refused_context(item)
    answer = association.send_c_store(content)
    code = answer.get("Status")
    if code is None:
        raise ConnectionLost
    sent, reason = judge_status(int(code))
    return SendOutcome(sop_instance_uid=item.sop_instance_uid, sent=sent, reason=reason)


def _store_until_lost(association: Association, objects: Sequence[OutboundObject]) -> list[SendOutcome]:
    """Send in order; shorter than `objects` when the association was lost, the last outcome saying so."""
    outcomes: list[SendOutcome] = []
    for item in objects:
        try:
            outcomes.append(_store_one(association, item))
        except ConnectionLost:
            association.abort()
            told = "the archive ended the association, or was silent, while it took this object: see its log"
            return [*outcomes, _retry(item, told)]
        except (OSError, InvalidDicomError, AttributeError) as error:
            # The spool's file, not the archive: the others still go.
            outcomes.append(_retry(item, f"the file to send cannot be read ({type(error).__name__})"))
            if not association.is_established:
                return outcomes
    return outcomes


def _store_batch(destination: PacsDestination, objects: Sequence[OutboundObject]) -> list[SendOutcome]:
    outcomes: list[SendOutcome] = []
    for _ in range(MAX_ASSOCIATIONS_PER_BATCH):
        remaining = objects[len(outcomes) :]
        if not remaining:
            break
        try:
            with associate(destination, _proposals(remaining)) as association:
                outcomes += _store_until_lost(association, remaining)
        except NoContextAccepted:
            outcomes += [_refused_context(item) for item in remaining]
        except ArchiveError as error:
            return outcomes + [_retry(item, str(error)) for item in remaining]
    lost = "not tried: the archive kept ending the association on the objects before it"
    return outcomes + [_retry(item, lost) for item in objects[len(outcomes) :]]


def store(destination: PacsDestination, objects: Sequence[OutboundObject]) -> tuple[SendOutcome, ...]:
    """Send objects with C-STORE (PS3.4 annex B), read from their files piece by piece.

    The bytes of the data set travel as they are in the file. Only when the archive accepts an uncompressed object in
    another uncompressed syntax alone is it re-encoded, that one in memory.

    Returns
    -------
    tuple of SendOutcome
        One for each object, in order. Faults of the network are outcomes, not exceptions.
    """
    return tuple(outcome for part in _batches(objects) for outcome in _store_batch(destination, part))


def _find(association: Association, query: Dataset, limit_s: float) -> list[Dataset]:
    """All matches of a C-FIND; raises `ArchiveUnreachable` when the archive does not finish it within bounds."""
    matches: list[Dataset] = []
    deadline_s = time.monotonic() + limit_s
    for status, identifier in association.send_c_find(query, STUDY_ROOT_FIND):
        code = status.get("Status")
        if code is None:
            raise ArchiveUnreachable("the archive ended the association, or was silent, during a query: see its log")
        if code not in PENDING:
            if code != 0:
                raise ArchiveUnreachable(f"the archive failed a query (status {code:04X}): see its log")
            break
        if identifier is not None:
            matches.append(identifier)
        if len(matches) > MAX_MATCHES or time.monotonic() > deadline_s:
            raise ArchiveUnreachable("the archive does not end its answer to a query: does it heed the UIDs asked for?")
    return matches


def _instance_query(item: OutboundObject, *, single: bool) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = item.study_uid
    query.SeriesInstanceUID = item.series_uid
    query.SOPInstanceUID = item.sop_instance_uid if single else ""
    return query


def _found(association: Association, item: OutboundObject, limit_s: float, *, single: bool) -> set[str]:
    matches = _find(association, _instance_query(item, single=single), limit_s)
    return {str(match.get("SOPInstanceUID", "")) for match in matches}


def find_instances(destination: PacsDestination, objects: Sequence[OutboundObject]) -> frozenset[SopUid] | None:
    """Tell which of `objects` the archive lists, by C-FIND at IMAGE level (PS3.4 annex C).

    Asked series by series with an open SOP Instance UID, which every archive understands; what is missing from a list
    that is not empty is asked for by name, because archives cap the length of their answers.

    Returns
    -------
    frozenset of str or None
        None when the archive offers no Study Root query to this node.

    Raises
    ------
    ArchiveUnreachable
        When the archive cannot be asked now.
    """
    by_series: dict[tuple[StudyUid, SeriesUid], list[OutboundObject]] = {}
    for item in objects:
        by_series.setdefault((item.study_uid, item.series_uid), []).append(item)
    listed: set[str] = set()
    limit_s = destination.response_timeout_s
    try:
        with associate(destination, _find_contexts()) as association:
            for wanted in by_series.values():
                held = _found(association, wanted[0], limit_s, single=False)
                missing = [item for item in wanted if held and item.sop_instance_uid not in held]
                listed |= held.union(*(_found(association, item, limit_s, single=True) for item in missing))
    except NoContextAccepted:
        return None
    except ConnectionLost:
        raise ArchiveUnreachable("the connection to the archive was lost during a query") from None
    return frozenset(item.sop_instance_uid for item in objects if item.sop_instance_uid in listed)


def count_study_instances(destination: PacsDestination, study_uid: StudyUid) -> int | None:
    """Ask for Number of Study Related Instances (0020,1208); 0 for an unknown study, None when it is not told.

    Raises
    ------
    ArchiveUnreachable
        When the archive cannot be asked now.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_uid
    query.NumberOfStudyRelatedInstances = None
    try:
        with associate(destination, _find_contexts()) as association:
            matches = _find(association, query, destination.response_timeout_s)
    except NoContextAccepted:
        return None
    except ConnectionLost:
        raise ArchiveUnreachable("the connection to the archive was lost during a query") from None
    answers = [match for match in islice(matches, 2) if match.get("StudyInstanceUID") == study_uid]
    if not answers:
        return 0
    told = answers[0].get("NumberOfStudyRelatedInstances")
    return None if told is None else int(told)


def _find_contexts() -> list[tuple[str, str]]:
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    return [(STUDY_ROOT_FIND, syntax) for syntax in syntaxes]
