"""SEMD "Протокол инструментального исследования": an unsigned, checked draft for the physician's system.

`write_semd` writes it from a `DocumentRequest` under a `SemdProfile`; `check_semd` holds a document to what the profile
says; `missing` and `unknown` tell beforehand what stops a document and what it does without. That a draft passes the
Ministry's schema and Schematron is shown by the tests; that the federal register takes it is not claimed: it also
checks people, organisation and signature. Where drafts are sent is `destination`, how is `client`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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

_HOMES: Final = {
    "check": ("DraftFaulty", "Fault", "check_semd"),
    "document": ("write_semd",),
    "profile": (
        *("ProfileError", "SemdEdition", "SemdProfile", "SemdSite", "StudyRule"),
        *("edition_4", "read_edition"),
    ),
    "requirements": ("ContextInvalid", "missing", "unknown"),
}


def __getattr__(name: str) -> object:
    """Load a name when it is asked for: settings are read by every command, and only writers need XML (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
