"""Who may open an association: AE titles, addresses, the limit, and room on the disk.

Asked by `dimse.association` before anything is negotiated. The number of open associations is shared by all acceptor
processes through one small array in shared memory, in which each process writes only its own place.
"""

from __future__ import annotations

import threading
from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import Final

from dicom_node.dimse.incoming import Sender
from dicom_node.receiver import ReceiverSettings
from dicom_node.store import DiskState, Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source and diagnostic of PS3.8 table 9-21, and why in words for the log."""

    result: int
    source: int
    diagnostic: int
    reason: str


_UNKNOWN_CALLED: Final = Rejection(result=1, source=1, diagnostic=7, reason="called AE title not recognised")
_UNKNOWN_CALLING: Final = Rejection(result=1, source=1, diagnostic=3, reason="calling AE title not recognised")
_WRONG_ADDRESS: Final = Rejection(result=1, source=1, diagnostic=3, reason="calling AE title from another address")
_DISK: Final = Rejection(result=2, source=3, diagnostic=1, reason="disk below its soft watermark")
_LIMIT: Final = Rejection(result=2, source=3, diagnostic=2, reason="maximum number of associations reached")


class Load:
    """How many associations each acceptor process has open.

    Parameters
    ----------
    counts : mutable sequence of int
        Shared memory, one place per process.
    index : int
        This process's place.
    """

    def __init__(self, counts: MutableSequence[int], index: int) -> None:
        self._counts = counts
        self._index = index
        self._lock = threading.Lock()

    def enter(self, limit: int) -> bool:
        """Count one more association unless `limit` is reached. Two processes may pass it by one each at once."""
        with self._lock:
            if sum(self._counts) >= limit:
                return False
            self._counts[self._index] += 1
            return True

    def leave(self) -> None:
        """One association less."""
        with self._lock:
            self._counts[self._index] -= 1

    def is_busier_than_another(self) -> bool:
        """Whether another process has fewer associations open."""
        return self._counts[self._index] > min(self._counts)


class Admission:
    """The rules of one receiver."""

    def __init__(self, settings: ReceiverSettings, store: Store, load: Load) -> None:
        self._called = frozenset(title.strip() for title in settings.ae_titles)
        self._peers = {peer.ae_title.strip(): frozenset(peer.addresses) for peer in settings.peers}
        self._limit = settings.max_associations
        self._store = store
        self.load = load

    def admit(self, sender: Sender) -> Rejection | None:
        """None when the association may go on; it is then counted, and `leave` must follow its end."""
        rejection = self._of_titles(sender)
        if rejection is None and self._store.disk_state() is not DiskState.NORMAL:
            rejection = _DISK
        if rejection is None and not self.load.enter(self._limit):
            rejection = _LIMIT
        return rejection

    def leave(self) -> None:
        """An admitted association ended."""
        self.load.leave()

    def _of_titles(self, sender: Sender) -> Rejection | None:
        if self._called and sender.called_ae not in self._called:
            return _UNKNOWN_CALLED
        if not self._peers:
            return None
        if sender.calling_ae not in self._peers:
            return _UNKNOWN_CALLING
        addresses = self._peers[sender.calling_ae]
        return _WRONG_ADDRESS if addresses and sender.peer_address not in addresses else None
