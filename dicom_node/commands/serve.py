"""`radnode serve` runs a node; `radnode worker` runs only workers on a machine that shares ledger and files."""

from __future__ import annotations

import signal
import threading

import click

from dicom_node.commands.context import fail, load_settings
from dicom_node.log import set_up_logging


@click.command()
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Run the node until SIGTERM or Ctrl-C."""
    settings = load_settings(ctx)
    set_up_logging(settings.log.level, settings.log.format)
    from dicom_node.ledger.database import LedgerError
    from dicom_node.node import Node, NodeError
    from dicom_node.receiver import ReceiverError
    from dicom_node.routing import RoutesError
    from dicom_node.store import StoreError
    from dicom_node.web.server import WebError

    expected = (NodeError, LedgerError, ReceiverError, RoutesError, StoreError, WebError)
    try:
        node = Node(settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: node.stop())
        node.startup()
    except expected as error:
        fail(str(error))
    node.serve()
    node.shutdown()


@click.command()
@click.pass_context
def worker(ctx: click.Context) -> None:
    """Run workers until SIGTERM or Ctrl-C; the node that receives may be another machine."""
    settings = load_settings(ctx)
    set_up_logging(settings.log.level, settings.log.format)
    import socket

    from dicom_node.clock import SteadyClock
    from dicom_node.ledger import Ledger
    from dicom_node.workers import WorkerPool

    clock = SteadyClock.start()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    pool = WorkerPool(settings, Ledger(settings.ledger_url, clock=clock), clock, f"worker-host-{socket.gethostname()}")
    pool.run(stop)
    pool.stop(settings.worker.job_timeout_s)
