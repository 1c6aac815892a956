"""The file of a document: the bytes that are sent, and which words of it no reason may repeat.

Written by `outbox.preparing`, read for every attempt by `outbox.courier`, and by `dicom_node.returned`, which verifies
signatures over the bytes that were handed over. It lies among the results, readable by the node's user alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from dicom_node.ehr.answer import Discretion
from dicom_node.ledger.documents import DocumentRow
from dicom_node.store import Store

_END = b"\n"


class LetterLost(Exception):
    """The file of a document is gone or is not what was written; the message says which of the two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A written document.

    Attributes
    ----------
    body : bytes
        What is sent, equal for every attempt.
    discretion : Discretion
        Keeps persons named in it out of reasons and logs.
    """

    body: bytes
    discretion: Discretion

    @property
    def sha256(self) -> str:
        """Of the body, in hexadecimal."""
        return hashlib.sha256(self.body).hexdigest()

    def to_bytes(self) -> bytes:
        """One line of JSON, then the body."""
        head = {"secrets": sorted(self.discretion.secrets)}
        return json.dumps(head, ensure_ascii=True).encode() + _END + self.body

    @staticmethod
    def from_bytes(data: bytes) -> Letter:
        """Read what `to_bytes` gave."""
        head, _end, body = data.partition(_END)
        return Letter(body=body, discretion=Discretion(secrets=frozenset(json.loads(head)["secrets"])))


def read_letter(store: Store, row: DocumentRow) -> Letter:
    """The letter of a document.

    Raises
    ------
    LetterLost
        When its file is gone, or another than was written.
    OSError
        When the disk does not give it now.
    """
    if row.path is None:
        raise LetterLost("the document's file was evicted after its retention")
    try:
        letter = Letter.from_bytes(store.path(row.path).read_bytes())
    except FileNotFoundError:
        raise LetterLost(f"the document's file is missing in the data folder: {row.path}") from None
    except (ValueError, KeyError, TypeError):
        raise LetterLost(f"the document's file is damaged: {row.path}") from None
    if letter.sha256 != row.sha256:
        raise LetterLost(f"the document's file is not what was written: {row.path}")
    return letter


def body_of(store: Store, row: DocumentRow) -> bytes | None:
    """What was sent, for whoever verifies a signature over it; None when it is not kept any more."""
    try:
        return read_letter(store, row).body
    except (LetterLost, OSError):
        return None
