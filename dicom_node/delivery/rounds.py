"""The loop of a thread that brings things to one destination, round after round, until it is told to stop.

Used by `dicom_node.deliverer` for results and by `dicom_node.outbox.courier` for documents. What a round does, and what
one that failed has to give back, is theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

AFTER_FAULT_S = 1.0  # an unforeseen fault (the ledger is away) is not met again and again in the same second


def run_rounds(
    stop: threading.Event,
    work: Callable[[], bool],
    *,
    give_back: Callable[[], None],
    destination: str,
    poll_s: float,
) -> None:
    """Work until `stop` is set; a round that failed does not end the thread.

    Parameters
    ----------
    stop : threading.Event
    work : callable
        One round; returns whether there was anything to do.
    give_back : callable
        Called before the round after a failed one: what that one held is due again.
    destination : str
        Whom the log names.
    poll_s : float
        Wait after a round that found nothing.
    """
    failed = False
    while not stop.is_set():
        try:
            if failed:
                give_back()
            failed = False
            worked = work()
        except Exception:  # the edge of the loop: the next round goes on
            log.exception("round failed", stage="deliver", destination=destination)
            failed, worked = True, False
            stop.wait(AFTER_FAULT_S)
        if not worked:
            stop.wait(poll_s)
