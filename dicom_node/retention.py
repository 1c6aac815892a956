"""Evicting files: only of studies whose deliveries are all terminal and whose retention is over, oldest first.

Called by the coordinator's housekeeping. Rows of the ledger stay; only files go.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from dicom_node.ledger import Ledger, instances, retention
from dicom_node.settings import StorageSettings
from dicom_node.store import Store

log = structlog.get_logger(__name__)

STUDIES_AT_A_TIME = 20


class Retention:
    """Evicts what may go.

    Parameters
    ----------
    ledger, store
        The node's.
    settings : StorageSettings
        How long files are kept.
    """

    def __init__(self, ledger: Ledger, store: Store, settings: StorageSettings) -> None:
        self._ledger = ledger
        self._store = store
        self._settings = settings

    def evict_due(self) -> int:
        """Evict up to a few studies; returns how many files went.

        Rows forget their path before the file goes: a crash between leaves a file without a row, which the next scan
        would index again, so files are removed within the transaction and a removed file is never named.
        """
        before = self._ledger.clock() - timedelta(days=self._settings.retention_days)
        with self._ledger.read() as tx:
            due = retention.evictable(tx, before, limit=STUDIES_AT_A_TIME)
        removed = 0
        for study_uid in due:
            with self._ledger.begin() as tx:
                if not retention.still_evictable(tx, study_uid, before):
                    continue  # an image came while others were evicted
                going = [
                    stored
                    for stored in instances.of_study(tx, study_uid, only_current=False)
                    if stored.path is not None
                ]
                for stored in going:
                    self._store.remove(str(stored.path))
                instances.forget_files(tx, [stored.id for stored in going])
            removed += len(going)
        if removed:
            log.info("files evicted", files=removed)
        return removed
