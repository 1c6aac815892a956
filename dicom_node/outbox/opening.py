"""What a courier needs of the settings: the receiver of its destination, and what writes for it.

Made by the node, one for each `[[record]]`. The context file is looked at again and again: whoever adds what was
missing need not start the node anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ehr.destinations import Record
from dicom_node.ehr.receiver import RecordReceiver
from dicom_node.ledger import Ledger
from dicom_node.settings import Settings
from dicom_node.store import Store
from models.card import ModelCard

if TYPE_CHECKING:
    from dicom_node.ehr.lookup import ContextSettings
    from dicom_node.outbox.preparing import Preparer

NEEDS_EXTRA = "documents for the record need {library}: install radnode with the extra ehr (for Kafka also kafka)"
_Seen = tuple[int, int] | None


class Opening:
    """Opens the receiver of one destination.

    Parameters
    ----------
    destination : Record
    settings, ledger, store
        The node's.
    cards : callable
        The installed models by reference.
    """

    def __init__(
        self,
        destination: Record,
        settings: Settings,
        ledger: Ledger,
        store: Store,
        cards: Callable[[], Mapping[str, ModelCard]],
    ) -> None:
        self._destination = destination
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._cards = cards
        self._seen: _Seen = None

    @property
    def is_stale(self) -> bool:
        """Whether the context file is another than when the receiver was opened."""
        return _seen(self._settings.outbox.context_file) != self._seen

    def open(self) -> tuple[RecordReceiver, Preparer]:
        """Read the context file and make both.

        Raises
        ------
        DestinationMisconfigured
            When the context file, a profile or a certificate cannot be used, or libraries of documents are not
            installed.
        """
        from dicom_node.monitoring.periods import local_zone

        self._seen = _seen(self._settings.outbox.context_file)
        with _extra_is_named():
            from dicom_node.outbox.preparing import Preparer

        receiver, context = open_configured(self._destination, self._settings)
        zone = local_zone(self._settings.monitoring.time_zone)
        preparer = Preparer(
            self._destination,
            receiver,
            context,
            self._ledger,
            self._store,
            cards=self._cards,
            zone=zone,
            image_zone=zone if self._settings.monitoring.time_zone else None,
        )
        return receiver, preparer


@contextmanager
def _extra_is_named() -> Iterator[None]:
    """The libraries of writers are needed by nodes that have a record alone: where they lack, the remedy is told."""
    try:
        yield
    except ImportError as error:
        raise DestinationMisconfigured(NEEDS_EXTRA.format(library=error.name)) from error


@_extra_is_named()
def open_configured(destination: Record, settings: Settings) -> tuple[RecordReceiver, ContextSettings]:
    """The receiver of a destination and the context that the settings name; `radnode check` asks for no more.

    Raises
    ------
    DestinationMisconfigured
        When the context file, a profile or a certificate cannot be used, or libraries of documents are not installed.
    """
    from dicom_node.ehr.lookup import ContextFileError, ContextSettings, read_context_file
    from dicom_node.ehr.profile_file import ProfileError
    from dicom_node.ehr.receivers import open_receiver

    path = settings.outbox.context_file
    try:
        context = read_context_file(path) if path else ContextSettings()
        profile = context.semd_profile() if path else None
    except (ContextFileError, ProfileError) as error:
        raise DestinationMisconfigured(str(error)) from error
    return open_receiver(destination, semd_profile=profile), context


def _seen(path: Path | None) -> _Seen:
    """Time and size of a file; None when there is none."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
