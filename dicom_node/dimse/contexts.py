"""What the receiver accepts: SOP classes, transfer syntaxes in order of preference, and roles.

Used by the acceptor for negotiation and by the generated conformance statement. What the node proposes when it sends
is decided by what it sends.
"""

from __future__ import annotations

from typing import Final

from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

# The acceptor takes the first of these that the sender offers (PS3.8 9.3.3.2 leaves the choice to it): uncompressed
# first, then lossless, then lossy; implicit and big endian only when nothing else is offered. No JPIP (the pixels
# would be elsewhere) and no video.
TRANSFER_SYNTAXES: Final = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K Lossless RPCL
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
)

_UNCOMPRESSED: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")


def storage_sop_classes() -> tuple[str, ...]:
    """UIDs of all storage SOP classes accepted, what cannot be analysed included."""
    return tuple(str(context.abstract_syntax) for context in AllStoragePresentationContexts)


def accepted_contexts() -> list[PresentationContext]:
    """Verification and every storage class as SCP, and storage commitment as SCU: the archive reports as SCP."""
    contexts = [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in storage_sop_classes()]
    contexts.append(build_context(Verification, list(_UNCOMPRESSED)))
    commitment = build_context(StorageCommitmentPushModel, list(_UNCOMPRESSED))
    commitment.scu_role, commitment.scp_role = False, True
    contexts.append(commitment)
    return contexts
