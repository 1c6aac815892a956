"""The seam of reception: what a receiver is given, what it does, and to whom it hands what it stored.

`dicom_node.node` builds a `Receiver` from `ReceiverSettings`; the one that exists is
`dicom_node.dimse.scp.PynetdicomReceiver`. The sink is the ledger in production. A receiver in another language or
process needs nothing of the node but these types, the layout of `dicom_node.store` and `dicom_node.reception`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from pydantic import ConfigDict

from dicom_node.study import NewInstance, Recorded
from inference.findings import SopUid

MAX_AE_TITLE = 16


class ReceiverError(Exception):
    """The receiver cannot start: the port is taken, a process did not come up, or its sink did not open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """An application entity that may send, and from where.

    Attributes
    ----------
    ae_title : str
        Calling AE title, without padding; compared exactly, as PS3.8 9.3.2 wants.
    addresses : tuple of str
        IP addresses it may come from; empty accepts any.
    """

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}  # read from a file: a misspelt key is a fault

    ae_title: str
    addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < len(self.ae_title.strip()) <= MAX_AE_TITLE:
            raise ValueError(f"an AE title has 1 to {MAX_AE_TITLE} characters: {self.ae_title!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverSettings:
    """How the receiver listens and what it accepts.

    Attributes
    ----------
    host, port : str, int
        Where to listen; port 0 lets the system choose (`Receiver.port` tells).
    ae_titles : tuple of str
        Called AE titles answered to; empty answers to any.
    peers : tuple of Peer
        Who may send; empty accepts anyone who reaches the port.
    processes : int
        Acceptor processes that share the port.
    max_associations : int
        Open associations of all processes together; one more is rejected as transient (local limit exceeded).
    max_pdu_bytes : int
        Largest P-DATA-TF that is negotiated and read (PS3.8 D.1).
    max_object_bytes : int
        Largest data set that is stored; a larger one is answered A700.
    association_timeout_s : float
        For a peer that connects and does not request an association, or requests half of one.
    idle_timeout_s : float
        For an association on which nothing comes; it is then aborted.
    pdu_timeout_s : float
        For one PDU, from its first byte to its last.
    start_timeout_s : float
        For all acceptor processes to come up.
    """

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}

    host: str = "127.0.0.1"
    port: int = 11112
    ae_titles: tuple[str, ...] = ("RADNODE",)
    peers: tuple[Peer, ...] = ()
    processes: int = 2
    max_associations: int = 64
    max_pdu_bytes: int = 128 * 1024
    max_object_bytes: int = 4 * 1024**3 - 2
    association_timeout_s: float = 30.0
    idle_timeout_s: float = 120.0
    pdu_timeout_s: float = 30.0
    start_timeout_s: float = 60.0


class InstanceSink(Protocol):
    """Where an acceptor reports what is safe on disk. Its methods are called from several threads at once.

    Any exception means "not promised": the sender is answered A700 and tries again later.
    """

    def record_instance(self, instance: NewInstance) -> Recorded:
        """Commit `instance` durably and say what it is; the sender is told success only after this returns."""

    def commitment_event(
        self, transaction_uid: str, committed: tuple[SopUid, ...], failed: Mapping[SopUid, int]
    ) -> None:
        """Take an archive's storage commitment report: instances kept, and Failure Reason (0008,1197) of the others.

        PS3.4 J.3.3. May come before the N-ACTION response, and more than once.
        """


class SinkFactory(Protocol):
    """Opens a sink inside an acceptor process; must be picklable (a class or `functools.partial`, no lambda)."""

    def __call__(self) -> InstanceSink:
        """Open the sink; raises if its ledger cannot be reached, and the receiver then does not start."""


class Receiver(Protocol):
    """Stores what peers send, acknowledged means safe."""

    @property
    def port(self) -> int:
        """TCP port on which it listens; raises `ReceiverError` before `start`."""

    @property
    def fault(self) -> str:
        """Why it takes no association; empty while it does."""

    @property
    def restarts(self) -> int:
        """How many of its processes died and were replaced."""

    def start(self) -> None:
        """Listen; returns when every acceptor process takes associations. Raises `ReceiverError`."""

    def stop(self, timeout_s: float) -> None:
        """Take no new association, let objects on their way arrive for `timeout_s` seconds, then end."""
