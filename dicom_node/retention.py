"""Evicting files: only of studies whose deliveries are all terminal and whose retention is over, oldest first.

Called by the coordinator's housekeeping. Images and results go together; rows of the ledger stay. Of a result that
stands its smallest file is kept, so that it can be withdrawn as long as the node lives.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from dicom_node.ledger import Ledger, retention
from dicom_node.settings import StorageSettings
from dicom_node.store import Store
from inference.findings import StudyUid

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
        """Evict the files of a few studies; returns how many studies there were.

        Rows forget their files first, then the files go. What a crash between the two leaves is a file that no row
        names: the next start removes it, because the ledger says that it was evicted (`instances.is_evicted`), or
        because it is a result without a row. The other order would leave rows that name lost files, a false alarm.
        """
        before = self._ledger.clock() - timedelta(days=self._settings.retention_days)
        with self._ledger.read() as tx:
            due = retention.evictable(tx, before, limit=STUDIES_AT_A_TIME)
        evicted = [files for study_uid in due if (files := self._evict(study_uid, before))]
        if evicted:
            log.info("files evicted", studies=len(evicted), files=sum(evicted))
        return len(evicted)

    def _evict(self, study_uid: StudyUid, before: datetime) -> int:
        """Evict one study; returns how many files went."""
        with self._ledger.begin() as tx:
            if not retention.still_evictable(tx, study_uid, before):
                return 0  # an image came while others were evicted
            going = retention.forget_files(tx, study_uid)
        for relative_path in going:
            try:
                self._store.remove(relative_path)
            except OSError as error:
                log.error("an evicted file cannot be removed until the next start", errno=error.errno)
        return len(going)
