"""Takes in what signers and registers say of a document: its state, its number there, its detached signature.

Called by every door of `desk`. Free words of the sender are not kept: registers echo names of patients. A document
counts as signed only when its signature was verified over the bytes that went out.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from dicom_node.ehr.signature import SignatureStanding, verify_detached
from dicom_node.ledger import Ledger, documents, events
from dicom_node.ledger.documents import DocumentRow
from dicom_node.outbox.letters import body_of
from dicom_node.returned.answer import Answer, Verdict
from dicom_node.states import DocumentState, Stage
from dicom_node.store import Store

MAX_STATUS_BYTES: Final = 64 << 10
MAX_SIGNATURE_BYTES: Final = 1 << 20
REFUSAL_CODES: Final = "1.2.643.5.1.13.13.99.2.305"
_DOCUMENT_ID: Final = re.compile(r"[0-9a-f]{64}")
_PEM: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----(.*?)-----END [A-Z0-9 ]+-----", re.DOTALL)
_UNKNOWN: Final = "no document with this document id has left this node"


class StateReport(BaseModel):
    """What is said of a document.

    `number` is the register's own (emdrId); `code` is of the dictionary 1.2.643.5.1.13.13.99.2.305 for refusals. `told`
    may be there and is not kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    document_id: str | None = None
    state: Literal["signed", "registered", "refused"]
    number: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z./_-]{0,99}$")] | None = None
    code: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,49}$")] | None = None
    at: AwareDatetime | None = None
    told: object = None


def _unreadable(field: str, told: str) -> Answer:
    return Answer(verdict=Verdict.UNREADABLE, why=f"{field}: {told}", field=field)


def read_state(body: bytes, document_id: str | None = None) -> StateReport | Answer:
    """Read a state as JSON; `document_id` where something else than the body names the document.

    Returns
    -------
    StateReport or Answer
        The answer names what is wrong by field, never by value.
    """
    if len(body) > MAX_STATUS_BYTES:
        return _unreadable("body", f"a state has at most {MAX_STATUS_BYTES} bytes")
    try:
        read = StateReport.model_validate_json(body)
    except ValidationError as error:
        # The name of a field that is not ours is the sender's own word.
        names = [str(one["loc"][0]) if one["loc"] else "" for one in error.errors(include_input=False)]
        known = sorted({name if name in StateReport.model_fields else "body" for name in names})
        return _unreadable(known[0], f"{', '.join(known)}: not as a state is written; see the guide of this door")
    if document_id is not None and read.document_id not in {None, document_id}:
        return _unreadable("document_id", "is not that of the address")
    named = document_id or read.document_id
    if named is None or not is_document_id(named):
        return _unreadable("document_id", "64 hexadecimal digits are needed")
    if read.state == "registered" and read.number is None:
        return _unreadable("number", "a registered document has one")
    return read.model_copy(update={"document_id": named.lower()})


def is_document_id(text: str) -> bool:
    """Whether it can be a document's id."""
    return _DOCUMENT_ID.fullmatch(text.lower()) is not None


def take_state(ledger: Ledger, report: StateReport, now: datetime) -> Answer:
    """Enter one state; the same again changes nothing.

    A document that is only said to be signed stays as it is: its signature has to come back.
    """
    with ledger.begin() as tx:
        row = documents.by_document_id(tx, report.document_id or "")
        if row is None:
            return Answer(verdict=Verdict.REFUSED, why=_UNKNOWN, field="document_id")
        if report.state == "signed":
            why = "said to be signed; send its signature, without which it does not count as signed"
            return Answer(verdict=Verdict.IGNORED, why=why, study_uid=row.study_uid)
        state = DocumentState(report.state)
        if (row.state, row.register_number, row.register_code) == (state, report.number, report.code):
            return Answer(verdict=Verdict.TAKEN, why=f"known already: {state}", study_uid=row.study_uid)
        told = _told(state, report)
        at = min(report.at, now) if report.at else now
        number, code = report.number, report.code
        if not documents.set_returned(tx, row.document_id, state=state, at=at, number=number, code=code, told=told):
            return Answer(
                verdict=Verdict.REFUSED, why=_not_possible(row, state), field="state", study_uid=row.study_uid
            )
        _tell(tx, row, f"the record of {row.destination}: the document is {told}", now)
    return Answer(verdict=Verdict.TAKEN, why=told, study_uid=row.study_uid)


def _told(state: DocumentState, report: StateReport) -> str:
    number = f" under number {report.number}" if report.number else ""
    code = f" with code {report.code} of {REFUSAL_CODES}" if report.code else ""
    return f"{state}{number}{code}"


def _not_possible(row: DocumentRow, state: DocumentState) -> str:
    return f"the document is {row.state} and cannot become {state}: it never left, or something later is known of it"


def _tell(tx: sa.Connection, row: DocumentRow, what: str, now: datetime) -> None:
    events.add(tx, row.study_uid, at=now, stage=Stage.RETURN, what=what, detail=f"document {row.document_id}")


# signatures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    standing: SignatureStanding
    signer: str | None


_REMEDY: Final = {
    SignatureStanding.BROKEN: "it is not over the bytes that were handed over, or it is damaged",
    SignatureStanding.UNTRUSTED: "no certificate of trusted_file vouches for the signer's, or its time is over",
    SignatureStanding.NOT_GOST: "it is sound, but not by a key of GOST R 34.10-2012",
    SignatureStanding.UNREADABLE: "it is no detached CAdES-BES signature in DER, PEM or base64",
}


def take_signature(
    ledger: Ledger, store: Store, document_id: str, signature: bytes, *, trusted: Path | None, now: datetime
) -> Answer:
    """Verify a detached signature over a document that was handed over; a valid one makes it SIGNED.

    Parameters
    ----------
    signature : bytes
        CAdES-BES in DER, PEM or base64.
    trusted : Path or None
        PEM file of the authorities; None refuses every signature.
    """
    if not is_document_id(document_id):
        return _unreadable("document_id", "64 hexadecimal digits are needed")
    with ledger.read() as tx:
        row = documents.by_document_id(tx, document_id.lower())
    if row is None or (row.handed_over_at is None and row.state not in documents.LEFT and row.attempts == 0):
        return Answer(verdict=Verdict.REFUSED, why=_UNKNOWN, field="document_id")
    body = body_of(store, row)
    if body is None:
        why = "the document is not kept any more, so no signature over it can be verified"
        return Answer(verdict=Verdict.REFUSED, why=why, study_uid=row.study_uid)
    checked = _checked(body, signature, trusted)
    if isinstance(checked, Answer):
        return checked
    if checked.standing is SignatureStanding.VALID:
        return _signed(ledger, row, checked, now)
    return _not_signed(ledger, row, checked.standing, now)


def _checked(body: bytes, signature: bytes, trusted: Path | None) -> _Checked | Answer:
    if trusted is None:
        return Answer(verdict=Verdict.REFUSED, why="signatures are not taken here: returned.trusted_file is not set")
    try:
        verdict = verify_detached(body, _der(signature), trusted=trusted)
    except FileNotFoundError:
        return Answer(
            verdict=Verdict.LATER, why="returned.trusted_file is not there: signatures cannot be verified now"
        )
    if verdict.standing is SignatureStanding.NOT_CHECKED:
        why = "signatures cannot be verified now: is openssl with its GOST engine installed, and trusted_file readable?"
        return Answer(verdict=Verdict.LATER, why=why)
    return _Checked(standing=verdict.standing, signer=verdict.signer)


def _der(signature: bytes) -> bytes:
    """A signature without its armour; what has none stays as it is."""
    armoured = _PEM.search(signature[:MAX_SIGNATURE_BYTES])
    inner = armoured[1] if armoured else signature
    if not armoured and signature[:1] == b"\x30":
        return signature
    try:
        return base64.b64decode(b"".join(inner.split()), validate=True)
    except (binascii.Error, ValueError):
        return signature


def _signed(ledger: Ledger, row: DocumentRow, checked: _Checked, now: datetime) -> Answer:
    told = f"signed; the certificate's SHA-256 is {checked.signer}"
    with ledger.begin() as tx:
        known = documents.by_document_id(tx, row.document_id) or row
        if known.state is DocumentState.SIGNED:
            return Answer(verdict=Verdict.TAKEN, why="known already: signed", study_uid=row.study_uid)
        done = documents.set_returned(tx, row.document_id, state=DocumentState.SIGNED, at=now, told=told)
        stays = "" if done else f"; the document stays {known.state}"
        _tell(tx, row, f"the signer of {row.destination}: the document is {told}{stays}", now)
    return Answer(verdict=Verdict.TAKEN, why=told + stays, study_uid=row.study_uid)


def _not_signed(ledger: Ledger, row: DocumentRow, standing: SignatureStanding, now: datetime) -> Answer:
    why = f"the signature is {standing.replace('_', ' ')}: {_REMEDY[standing]}"
    with ledger.begin() as tx:
        _tell(tx, row, f"a signature that came back was refused: {why}", now)
    return Answer(verdict=Verdict.REFUSED, why=why, study_uid=row.study_uid)
