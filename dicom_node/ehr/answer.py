"""What a receiver of the regional record said to one document, and what of its words may be kept.

Given by the senders in `ehr.fhir` and `ehr.hl7v2`, read by the outbox. Receivers echo what they were sent, so their
words pass `Discretion` before they become a reason: reasons reach the ledger, the console and the log.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final, TypeAlias

from dicom_node.ehr.context import DocumentRequest, Employee, Patient, PersonName

MAX_TOLD: Final = 200  # characters of a receiver's words that a reason may carry
_MIN_WORD: Final = 2
_MIN_FLEETING: Final = 5
_DIGITS: Final = re.compile(r"\d(?:[\d.:/-]*\d)+")
_WORDS: Final = re.compile(r"\w+")
_HIDDEN: Final = "[...]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """The receiver has the document.

    Attributes
    ----------
    receiver_ids : tuple of str
        How the receiver itself calls what it stored, in the order of its answer; may be empty.
    """

    receiver_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Nothing is wrong with the document: send it again, the same bytes.

    Attributes
    ----------
    reason : str
        What happened and what to do about it, without patient data.
    after_s : float or None
        How long the receiver asked to wait; None when it did not say.
    unsent : bool
        Nothing of the document has left this machine: there was no connection, or no token for it.
    """

    reason: str
    after_s: float | None = None
    unsent: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The receiver will not take this document however often it is sent. `reason` as in `Retry`."""

    reason: str


Answer: TypeAlias = Accepted | Retry | Refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Discretion:
    """Takes patient data out of a receiver's words.

    Words that begin like one of `secrets` (so that cases of a Russian name are caught), and every number of two digits
    or more, become ``[...]``. What remains is cut to `MAX_TOLD` characters on one line.

    Attributes
    ----------
    secrets : frozenset of str
        Case-folded words of the document that name a person.
    """

    secrets: frozenset[str] = frozenset()

    def told(self, text: str) -> str:
        """Give the words that may be kept; empty for empty text."""
        # Compatibility forms first: a name may come back decomposed, a number in other digits.
        folded = unicodedata.normalize("NFKC", text[: MAX_TOLD * 8])
        plain = "".join(" " if unicodedata.category(one) in {"Cc", "Cf", "Cs"} else one for one in folded)
        hidden = _DIGITS.sub(_HIDDEN, plain)
        kept = _WORDS.sub(lambda found: _HIDDEN if self._is_secret(found[0]) else found[0], hidden)
        return " ".join(kept.split())[:MAX_TOLD]

    def _is_secret(self, word: str) -> bool:
        parts = _plain(word).split("_")
        return any(part.startswith(secret) for part in parts for secret in self.secrets)


def discretion_of(request: DocumentRequest) -> Discretion:
    """Make the `Discretion` that keeps the persons of `request` out of reasons."""
    order = request.order
    texts = _patient_texts(request.patient) + _employee_texts(request.author)
    texts += _employee_texts(request.legal_authenticator)
    texts += [order.accession_number, order.diagnosis_text, order.diagnosis_code]
    texts += [known.value for known in (order.placer, order.filler) if known]
    words = {_plain(word) for text in texts if text for word in _WORDS.findall(unicodedata.normalize("NFKC", text))}
    return Discretion(secrets=frozenset(_stem(word) for word in words if len(word) >= _MIN_WORD))


def _plain(word: str) -> str:
    return word.casefold().replace("ё", "е")


def _stem(word: str) -> str:
    """A Russian name without what its cases change; rather too short, which hides more, than too long."""
    shortened = word.rstrip("аеиоуыэюяйь")
    if shortened == word and len(word) >= _MIN_FLEETING:
        shortened = word[:-2]  # a vowel that comes and goes: Павел, Павла
    return shortened if len(shortened) >= _MIN_WORD else word[:_MIN_WORD]


def _name_texts(name: PersonName | None) -> list[str | None]:
    return [name.family, name.given, name.patronymic] if name else []


def _employee_texts(employee: Employee | None) -> list[str | None]:
    return [employee.identifier.value, employee.snils, *_name_texts(employee.name)] if employee else []


def _patient_texts(patient: Patient) -> list[str | None]:
    texts = [patient.identifier.value, patient.snils, patient.telephone, *_name_texts(patient.name)]
    if patient.address:
        texts.append(patient.address.text)
    if patient.document:
        texts += [patient.document.series, patient.document.number]
    if patient.policy:
        texts += [patient.policy.series, patient.policy.number]
    return texts
