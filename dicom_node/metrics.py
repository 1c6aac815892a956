"""Prometheus metrics, read from the ledger when they are asked for, so that they are true after every restart.

Served by `dicom_node.web`. Labels are states, models and destinations; never a UID, a patient or a sender's words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dicom_node.ledger import Ledger, deliveries, documents, holds, instances, jobs, standings, studies
from dicom_node.ledger.deliveries import DeliveryRow
from dicom_node.reception import ReceptionBoard
from dicom_node.store import Store

_BUCKETS_S = (0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 86400)


class NodeMetrics(Collector):
    """Everything an operator watches.

    Parameters
    ----------
    ledger, store, board
        The node's.
    restarts : callable
        How many processes of each kind died and were replaced since the node started.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        board: ReceptionBoard,
        *,
        restarts: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._restarts = restarts
        self._ledger = ledger
        self._store = store
        self._board = board
        self.registry = CollectorRegistry()
        self._confirmed = Histogram(
            "radnode_last_image_to_confirmed_seconds",
            "From the last image of a study to its result confirmed",
            ["destination"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(self)

    def on_confirmed(self, row: DeliveryRow, at: datetime) -> None:
        """A delivery was confirmed at `at`."""
        with self._ledger.read() as tx:
            study = studies.get(tx, row.study_uid)
        if study:
            elapsed_s = max(0.0, (at - study.last_received_at).total_seconds())
            self._confirmed.labels(destination=row.destination).observe(elapsed_s)

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before it is collected."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the ledger."""
        with self._ledger.read() as tx:
            counted = (
                ("radnode_instances", "Stored instances by state", "state", instances.count_by_state(tx)),
                (
                    "radnode_studies",
                    "Studies by outcome, or by state until they have one",
                    "outcome",
                    studies.count_by_outcome(tx),
                ),
            )
            worked = jobs.count_by_state(tx)
            standing = standings.every(tx)
            delivered = deliveries.count_by_state(tx)
            oldest = deliveries.oldest_open(tx)
            told, oldest_document = documents.count_by_state(tx), documents.oldest_waiting(tx)
            held = holds.every(tx)
        for name, help_text, label, counts in counted:
            family = GaugeMetricFamily(name, help_text, labels=[label])
            for value, count in counts.items():
                family.add_metric([str(value)], count)
            yield family
        family = GaugeMetricFamily("radnode_jobs", "Jobs by role and state", labels=["role", "state"])
        for (role, state), count in worked.items():
            family.add_metric([role, state], count)
        yield family
        family = GaugeMetricFamily("radnode_model", "1 for each version's standing", labels=["model", "standing"])
        for row in standing:
            family.add_metric([row.reference, row.standing], 1)
        yield family
        family = GaugeMetricFamily("radnode_deliveries", "Deliveries by state", labels=["destination", "state"])
        for (destination, how_far), count in delivered.items():
            family.add_metric([destination, how_far], count)
        yield family
        yield self._ages("radnode_oldest_open_delivery_age_seconds", "Age of the oldest undelivered result", oldest)
        family = GaugeMetricFamily("radnode_documents", "Documents by state", labels=["destination", "state"])
        for (destination, became), count in told.items():
            family.add_metric([destination, became], count)
        yield family
        help_text = "Age of the oldest document that was not handed over"
        yield self._ages("radnode_oldest_waiting_document_age_seconds", help_text, oldest_document)
        family = GaugeMetricFamily("radnode_destination_held", "1 where a person holds back", labels=["destination"])
        for destination in held:
            family.add_metric([destination], 1)
        yield family
        yield from self._reception()

    def _ages(self, name: str, help_text: str, oldest: dict[str, datetime]) -> Metric:
        family = GaugeMetricFamily(name, help_text, labels=["destination"])
        now = self._ledger.clock()
        for destination, since in oldest.items():
            family.add_metric([destination], max(0.0, (now - since).total_seconds()))
        return family

    def _reception(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "radnode_open_associations", "Open DICOM associations", value=len(self._board.snapshot())
        )
        counts = self._board.counts()
        yield _counter("radnode_associations", "DICOM associations accepted since start", (), {(): counts.associations})
        yield _counter(
            "radnode_associations_rejected", "DICOM associations rejected since start", (), {(): counts.rejected}
        )
        answered: dict[tuple[str, ...], int] = {
            ("stored",): counts.stored,
            ("duplicate",): counts.duplicates,
            ("refused",): counts.refused,
        }
        yield _counter("radnode_received_instances", "C-STORE requests answered since start", ("answer",), answered)
        restarts: dict[tuple[str, ...], int] = {(process,): count for process, count in self._restarts().items()}
        yield _counter("radnode_process_restarts", "Processes that died and were replaced", ("process",), restarts)
        yield GaugeMetricFamily(
            "radnode_disk_free_bytes", "Free bytes where files are kept", value=self._store.free_bytes()
        )


def _counter(name: str, help_text: str, labels: Sequence[str], counts: Mapping[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=list(labels))
    for values, count in counts.items():
        family.add_metric(list(values), count)
    return family
