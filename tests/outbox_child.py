"""A node's couriers in a process of their own, for drills that kill it: the node's own start, then couriers alone.

Started by `multiprocessing`'s fork server, so that fifty starts do not load the libraries fifty times.
"""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection

from dicom_node.log import set_up_logging
from dicom_node.node import Node
from dicom_node.settings import Settings


def run_couriers(settings_json: str, parent: Connection) -> None:
    """Recover as a node does when it starts, say so to `parent`, and bring documents until killed."""
    set_up_logging("critical", "json")  # what couriers log of a bad receiver is a wall of text
    node = Node(Settings.model_validate_json(settings_json))
    node.store.prepare()
    node.ledger.migrate()
    node.recover()
    never = threading.Event()
    threads = [threading.Thread(target=courier.run, args=(never,), daemon=True) for courier in node.couriers]
    for thread in threads:
        thread.start()
    parent.send("recovered")
    never.wait()
