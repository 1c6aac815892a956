"""Context that DICOM lacks: from the installation's file, from tables and services, put together with the header's.

`read_context_file` gives the configuration and its sources, `look_up` asks them, `assemble` makes one `DocumentContext`
of configuration, answers and header, in that order. Whether header and record speak of the same person is for the
reconciliation; whether the context suffices, for the writers of documents.
"""

from __future__ import annotations

from dicom_node.ehr.lookup.configured import ContextFileError, ContextSettings, LookedUp, look_up, read_context_file
from dicom_node.ehr.lookup.known import DocumentContext, Known, KnownError, LookupKey, assemble, read_known
from dicom_node.ehr.lookup.sources import AskAgain, ContextSource, Found, NotKnown, NoUse

__all__ = [
    "AskAgain",
    "ContextFileError",
    "ContextSettings",
    "ContextSource",
    "DocumentContext",
    "Found",
    "Known",
    "KnownError",
    "LookedUp",
    "LookupKey",
    "NoUse",
    "NotKnown",
    "assemble",
    "look_up",
    "read_context_file",
    "read_known",
]
