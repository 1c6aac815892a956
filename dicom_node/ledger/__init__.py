"""The ledger: the database in which every study, job, result and delivery is a row and every decision an event.

`Ledger` opens it (SQLite embedded, PostgreSQL when machines share the work) and gives transactions. The questions and
changes are functions in `instances`, `studies`, `jobs`, `results`, `deliveries` and `events`, each taking the
connection of a transaction first, so that a stage's changes are committed together or not at all.
"""

from dicom_node.ledger.database import Ledger

__all__ = ["Ledger"]
