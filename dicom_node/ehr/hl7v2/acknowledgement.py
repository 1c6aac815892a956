"""What an acknowledgement means for the message it answers (HL7 v2.5.1 sections 2.9 and 2.15, MSA and ERR).

Called by `client` with whole MLLP blocks; any bytes give a verdict or None.
"""

from __future__ import annotations

from typing import Final

from dicom_node.ehr.answer import Accepted, Answer, Discretion, Refused, Retry
from dicom_node.ehr.hl7v2.encoding import Hl7Error, Segment, named, read_segments

# HL7 table 0357
_APPLICATION_RECORD_LOCKED: Final = "206"
_APPLICATION_INTERNAL_ERROR: Final = "207"
_TRANSIENT: Final = frozenset({_APPLICATION_RECORD_LOCKED, _APPLICATION_INTERNAL_ERROR})
# unsupported message type, event code, processing id, version id: no attempt will change them
_UNSUPPORTED: Final = frozenset({"200", "201", "202", "203"})
_MAX_ERRORS: Final = 3


def judge(block: bytes, control_id: str, discretion: Discretion, *, commit_is_final: bool = False) -> Answer | None:
    """Decide what an acknowledgement says of the message `control_id`; None when it does not speak of it.

    Parameters
    ----------
    block : bytes
        Content of one MLLP block.
    control_id : str
        MSH-10 of the message that was sent; an answer for another message is None, as is one that cannot be read.
    discretion : Discretion
        Of the same document.
    commit_is_final : bool
        Whether an accept acknowledgement (CA) is all that the receiver ever says.
    """
    try:
        segments = read_segments(block.decode("utf-8", errors="replace"))
    except Hl7Error:
        return None
    answer = next(named(segments, "MSA"), None)
    if answer is None or answer.value(2) != control_id:
        return None
    errors = tuple(named(segments, "ERR"))
    code = answer.value(1)
    match code:
        case "AA":
            return Accepted(receiver_ids=(segments[0].value(10),) if segments[0].value(10) else ())
        case "CA":
            return Accepted() if commit_is_final else None
        case "AE" | "CE":
            return _application_error(code, answer, errors, discretion)
        case "AR" | "CR":
            return _application_reject(code, answer, errors, discretion)
    return Retry(reason="the acknowledgement has a code in MSA-1 that HL7 table 0008 does not know")


def _codes(errors: tuple[Segment, ...]) -> list[str]:
    return [code for one in errors if (code := one.value(3))]


def _application_error(
    code: str, answer: Segment, errors: tuple[Segment, ...], discretion: Discretion
) -> Retry | Refused:
    """The content is at fault, unless every error says that it is the receiver's own state."""
    reason = _reason(code, answer, errors, discretion)
    known = _codes(errors)
    return Retry(reason=reason) if known and set(known) <= _TRANSIENT else Refused(reason=reason)


def _application_reject(
    code: str, answer: Segment, errors: tuple[Segment, ...], discretion: Discretion
) -> Retry | Refused:
    """The receiver would not even look at it: for good only where the kind of message is the reason."""
    reason = _reason(code, answer, errors, discretion)
    return Refused(reason=reason) if set(_codes(errors)) & _UNSUPPORTED else Retry(reason=reason)


def _reason(code: str, answer: Segment, errors: tuple[Segment, ...], discretion: Discretion) -> str:
    told = [_error_text(one, discretion) for one in errors[:_MAX_ERRORS]]
    # MSA-3 is what older receivers have instead of ERR.
    words = "; ".join(part for part in (*told, discretion.told(answer.value(3))) if part)
    return f"the receiver answered {code}" + (f": {words}" if words else " without a reason: see its log")


def _error_text(error: Segment, discretion: Discretion) -> str:
    number = error.value(3)
    place = "-".join(part for part in (error.value(2, index) for index in (1, 2, 3)) if _is_place(part))
    # ERR-3.2 is the code's own text, ERR-8 a message for users, ERR-7 one for programmers.
    words = [discretion.told(said) for said in (error.value(3, 2), error.value(8), error.value(7))]
    shown = f"error {number}" if number.isascii() and number.isdigit() and len(number) <= len("207") else ""
    return " ".join(part for part in (shown, place, *words) if part)


def _is_place(part: str) -> bool:
    """A segment's name or a position within it, and nothing that somebody could hide a value in."""
    return part.isascii() and part.isalnum() and len(part) <= len("ZZZ")
