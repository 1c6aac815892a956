"""What a document was written from, kept beside it: a withdrawal and the next version speak of exactly that.

Written with the letter by `outbox.courier`, read by `outbox.preparing`. Without it a withdrawal would have to look up
patient, order and staff anew, and might go to somebody else. The picture is left out; the file is small and stays when
the letter is evicted.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import cache

from pydantic import TypeAdapter

from dicom_node.ehr.context import DocumentRequest
from dicom_node.ledger.documents import DocumentRow
from dicom_node.store import Store

_LARGEST_BYTES = 32 << 20


@cache
def _adapter() -> TypeAdapter[DocumentRequest]:
    return TypeAdapter(DocumentRequest)


def pack(request: DocumentRequest) -> bytes:
    """The request without its picture."""
    return zlib.compress(_adapter().dump_json(replace(request, key_image=None)))


def unpack(data: bytes) -> DocumentRequest:
    """Read what `pack` gave. Raises ValueError when it is something else."""
    try:
        text = zlib.decompressobj().decompress(data, _LARGEST_BYTES)
    except zlib.error as error:
        raise ValueError("not a packed request") from error
    return _adapter().validate_json(text)


def sent_request(store: Store, row: DocumentRow) -> DocumentRequest | None:
    """What a document was written from; None where that is not kept, or cannot be read."""
    if row.request_path is None:
        return None
    try:
        return unpack(store.path(row.request_path).read_bytes())
    except (OSError, ValueError):
        return None
