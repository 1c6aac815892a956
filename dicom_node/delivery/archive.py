"""The seam to the archives: what is sent, what came of it, and the two kinds of destination people write down.

The coordinator knows only this module and `dicom_node.delivery.open_archive`; DIMSE is in `delivery.pacs` and
`dicom_node.dimse`, DICOMweb in `delivery.dicomweb`. When to try again is decided by the caller with
`delivery.backoff`; ledger rows are the caller's too. Nothing here does any input or output.

    ArchiveError
    ├── ArchiveUnreachable      (retryable: no connection, no answer, connection lost)
    │   └── ArchiveRejected     (retryable: it answers, but refuses this node; a person must change a setting)
    └── ArchiveMisconfigured    (permanent: this node's own settings cannot work)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inference.findings import SeriesUid, SopUid, StudyUid

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class ArchiveError(Exception):
    """An archive could not do what was asked. The message names the remedy and holds no patient data."""


class ArchiveUnreachable(ArchiveError):
    """No connection, no answer in time, or the connection was lost. Retryable."""


class ArchiveRejected(ArchiveUnreachable):
    """The archive answers but refuses this node, by AE title or credentials. Retryable: its settings may change."""


class ArchiveMisconfigured(ArchiveError):
    """A setting of the destination cannot work: a missing file, variable or certificate. Permanent until changed."""


class Sent(StrEnum):
    """What came of handing one object to an archive."""

    ACCEPTED = "accepted"  # the archive said that it has stored the object; not yet proof that it keeps it
    RETRY = "retry"  # nothing is wrong with the object: try again later
    REFUSED = "refused"  # the archive will not take this object however often it is sent


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboundObject:
    """One DICOM file on its way out.

    Attributes
    ----------
    study_uid, series_uid, sop_class_uid, sop_instance_uid : str
        As in the data set.
    transfer_syntax_uid : str
        As in the file meta information.
    path : Path
        A whole part-10 file (PS3.10 section 7), not changed while it is sent.
    """

    study_uid: StudyUid
    series_uid: SeriesUid
    sop_class_uid: str
    sop_instance_uid: SopUid
    transfer_syntax_uid: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class SendOutcome:
    """What came of one object.

    Attributes
    ----------
    reason : str
        Empty on plain success; else what happened and what to do about it, without patient data.
    retry_after_s : float or None
        How long the archive itself asked to wait.
    """

    sop_instance_uid: SopUid
    sent: Sent
    reason: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitmentResult:
    """An archive's answer to a storage commitment request (PS3.4 section J.3.3).

    Attributes
    ----------
    committed : frozenset of str
        SOP Instance UIDs for whose safekeeping the archive has taken responsibility.
    failed : mapping of str to int
        Those for which it has not, with their Failure Reason (0008,1197).
    """

    transaction_uid: str
    committed: frozenset[SopUid]
    failed: Mapping[SopUid, int]


class Archive(Protocol):
    """Somewhere results are delivered to. Calls block; one instance may be used by one thread at a time."""

    def send(self, objects: Sequence[OutboundObject]) -> tuple[SendOutcome, ...]:
        """Hand over `objects`; one outcome each, in their order. Faults of the network are RETRY, never raised."""
        ...

    def request_commitment(
        self,
        objects: Sequence[OutboundObject],
        *,
        register: Callable[[str], None],
        answered: Callable[[CommitmentResult], None],
    ) -> bool:
        """Ask the archive to take responsibility for `objects`; the answer comes later.

        Parameters
        ----------
        register
            Called with the transaction UID before anything is sent, because the answer may overtake the request's
            own response. Must have stored the UID when it returns.
        answered
            Called when the archive answers on the same association. An answer on an association of its own comes in
            through the node's acceptor.

        Returns
        -------
        bool
            True when the archive took the request; False when it does not offer commitment or the destination does
            not use it: then `confirm` is asked instead.

        Raises
        ------
        ArchiveUnreachable
            When the request could not be made now.
        """
        ...

    def confirm(self, objects: Sequence[OutboundObject]) -> frozenset[SopUid] | None:
        """Those of `objects` that the archive lists, asked by query; None when it offers no query.

        Raises
        ------
        ArchiveUnreachable
            When the archive could not be asked now.
        """
        ...

    def count_instances(self, study_uid: StudyUid) -> int | None:
        """How many instances the archive itself holds of a study; None when it does not tell."""
        ...

    def echo(self) -> None:
        """Check address, credentials and titles without sending anything; raises `ArchiveError`."""
        ...

    def close(self) -> None:
        """Drop idle connections."""
        ...


class Confirm(StrEnum):
    """How a destination proves that it keeps what it took."""

    AUTO = "auto"  # storage commitment where the archive offers it, else query
    COMMITMENT = "commitment"  # storage commitment only
    QUERY = "query"  # C-FIND or QIDO-RS only
    NONE = "none"  # neither: the archive's answer to the transfer is final


AeTitle = Annotated[
    str, Field(min_length=1, max_length=16, pattern=r"^[!-\[\]-~](?:[ -\[\]-~]*[!-\[\]-~])?$", description="AE title")
]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class _DestinationModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Under which routes, ledger and metrics know the destination."""
    profile: str = "default"
    """How results are written for it."""
    connect_timeout_s: Seconds = 10.0
    """Until a TCP connection is there; one hospital network, so short."""
    idle_timeout_s: Seconds = 30.0
    """Longest silence of the archive in the middle of a transfer."""


class TlsClient(BaseModel):
    """TLS to an archive (PS3.15 section B.9, BCP 195): at least TLS 1.2, its certificate is always checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    ca_file: Path | None = None
    """Certificates to trust; the system's when absent."""
    certificate_file: Path | None = None
    """Own certificate chain, for an archive that asks for one."""
    key_file: Path | None = None
    """Private key of the own certificate, when it is not in the same file."""


class PacsDestination(_DestinationModel):
    """An archive reached by DIMSE: C-STORE, confirmed by storage commitment or C-FIND."""

    kind: Literal["pacs"] = "pacs"
    host: Annotated[str, Field(min_length=1, max_length=255)]
    port: Annotated[int, Field(ge=1, le=65535)]
    called_ae: AeTitle
    """The archive's title."""
    calling_ae: AeTitle = "RADNODE"
    """Ours; storage commitment is answered to the address that the archive keeps for this title."""
    confirm: Confirm = Confirm.AUTO
    response_timeout_s: Seconds = 60.0
    """Until the archive answers a request; some index before they answer."""
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 128 * 1024
    """Largest PDU accepted from the archive."""
    commitment_wait_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    """How long the association stays open for an answer on it; 0 for archives that always call back."""
    commitment_patience_s: Annotated[float, Field(gt=0)] = 60.0
    """After how long without an answer `auto` asks by query instead."""
    tls: TlsClient | None = None


class DicomwebDestination(_DestinationModel):
    """An archive reached by DICOMweb: STOW-RS, confirmed by QIDO-RS (PS3.18 sections 10.5 and 10.6)."""

    kind: Literal["dicomweb"]
    url: str
    """Root of the service, without `/studies`."""
    confirm: Literal[Confirm.AUTO, Confirm.QUERY, Confirm.NONE] = Confirm.AUTO
    username: str | None = None
    password_env: str | None = None
    """Environment variable that holds the password: secrets are never written into settings."""
    password_file: Path | None = None
    """File that holds the password; read again for every request, so it may be rotated."""
    token_env: str | None = None
    """Environment variable that holds a bearer token."""
    token_file: Path | None = None
    """File that holds a bearer token; read again for every request."""
    tls: TlsClient | None = None
    response_timeout_s: Seconds = 120.0
    """Until the archive begins to answer, some index first; and again until it has finished its answer."""
    max_request_bytes: Annotated[int, Field(ge=1 << 20)] = 64 << 20
    """Objects are put into requests of about this size; a larger object travels alone."""
    max_response_bytes: Annotated[int, Field(ge=1 << 16)] = 8 << 20
    """More than this is not an answer."""
    clear_text_credentials: bool = False
    """Allow credentials over plain HTTP to another machine."""

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("url needs http:// or https:// and a host")
        if parts.username or parts.password:
            raise ValueError("url must not hold credentials: use username with password_env or password_file")
        if parts.query or parts.fragment:
            raise ValueError("url is the root of the service, without ? and #")
        plain = parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS
        if self.sends_credentials and plain and not self.clear_text_credentials:
            raise ValueError("credentials over plain http: use https, or set clear_text_credentials = true")
        return self

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        passwords = [value for value in (self.password_env, self.password_file) if value is not None]
        tokens = [value for value in (self.token_env, self.token_file) if value is not None]
        if len(passwords) + len(tokens) > 1:
            raise ValueError("give one of password_env, password_file, token_env and token_file")
        if bool(passwords) != (self.username is not None):
            raise ValueError("username and its password_env or password_file belong together")
        return self

    @property
    def sends_credentials(self) -> bool:
        """Whether requests carry a password or a token."""
        return self.username is not None or self.token_env is not None or self.token_file is not None

    @property
    def root(self) -> str:
        """`url` without a slash at its end."""
        return self.url.rstrip("/")


Destination = Annotated[PacsDestination | DicomwebDestination, Field(discriminator="kind")]
