"""SEMD "Протокол инструментального исследования": an unsigned, checked draft for the physician's system.

`write_semd` writes it from a `DocumentRequest` under a `SemdProfile`; `check_semd` holds a document to what the profile
says; `missing` and `unknown` tell beforehand what stops a document and what it does without. That a draft passes the
Ministry's schema and Schematron is shown by the tests; that the federal register takes it is not claimed: it also
checks people, organisation and signature. Sending is the outbox's.
"""

from __future__ import annotations

from dicom_node.ehr.semd.check import DraftFaulty, Fault, check_semd
from dicom_node.ehr.semd.document import write_semd
from dicom_node.ehr.semd.profile import (
    ProfileError,
    SemdEdition,
    SemdProfile,
    SemdSite,
    StudyRule,
    edition_4,
    read_edition,
)
from dicom_node.ehr.semd.requirements import ContextInvalid, missing, unknown

__all__ = [
    "ContextInvalid",
    "DraftFaulty",
    "Fault",
    "ProfileError",
    "SemdEdition",
    "SemdProfile",
    "SemdSite",
    "StudyRule",
    "check_semd",
    "edition_4",
    "missing",
    "read_edition",
    "unknown",
    "write_semd",
]
