"""How fast the outbox of the regional record drains, beside plain clients that send the same bytes without a ledger.

1,000 studies are analysed beforehand, and nothing of them is written yet. Then, for SEMD drafts over HTTP and for
ORU^R01 over MLLP, one courier each: `written` is the time from rows in the ledger to durable files (header, lookup,
reconciliation, key image, document, its own check), `brought` that from files to the last confirmation; both together
are the drain. The receivers run in processes of their own and keep everything in memory.

    python -m benchmarks.outbox [--documents 1000] [--folder DIR]

The peer of SEMD is httpx with one connection that puts each draft and asks for it (PUT, HEAD), as a courier does; that
of ORU the client of PyPI `hl7`, a frame and its acknowledgement at a time. Neither commits anything anywhere: `ratio`
is what the ledger, the store and the counting of attempts cost against `brought`.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
from hl7.client import MLLPClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicom_node.ledger import documents, holds
from dicom_node.ledger.documents import DocumentRow
from dicom_node.ledger.holds import Hold
from dicom_node.outbox.letters import read_letter
from dicom_node.states import DocumentState
from tests.mllp import MllpServer
from tests.outbox_rig import MoodyService, OutboxRig, moody_service
from tests.outbox_story import report

SEMD, ORU = "emr", "ris"
PORTION = 100


def serve_drafts(told: Connection) -> None:
    """A service that keeps drafts, until the other side closes."""
    with moody_service(MoodyService()) as service:
        told.send(service.port)
        told.recv()


def serve_messages(told: Connection) -> None:
    """A receiver that acknowledges messages, until the other side closes."""
    with MllpServer() as server:
        told.send(server.port)
        told.recv()


@contextlib.contextmanager
def running(serve: Callable[[Connection], None]) -> Iterator[int]:
    """A receiver in a process of its own; its port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        process.join(10)


def prepared(folder: Path, records: list[dict[str, Any]], count: int) -> OutboxRig:
    """So many studies, analysed, each with a document queued for every receiver."""
    rig = OutboxRig(folder, records, patients=count)
    begun = time.perf_counter()
    for first in range(0, count, PORTION):
        report(rig, range(first, min(first + PORTION, count)), lesions=1)
    print(f"{count} studies prepared in {time.perf_counter() - begun:.0f} s", flush=True)
    return rig


def rows_of(rig: OutboxRig, name: str) -> list[DocumentRow]:
    return [row for row in rig.every_row() if row.destination == name]


def drain(rig: OutboxRig, name: str) -> tuple[float, float]:
    """Seconds until all is written, and from then until all is confirmed."""
    courier = rig.courier(name)
    with rig.pipeline.ledger.begin() as tx:
        holds.hold(tx, Hold(destination=name, since=rig.clock(), operator="benchmark", why="write first"))
    begun = time.perf_counter()
    rig.bring(courier, rounds=sys.maxsize)
    written_s = time.perf_counter() - begun
    with rig.pipeline.ledger.begin() as tx:
        holds.release(tx, name)
    begun = time.perf_counter()
    rig.bring(courier, rounds=sys.maxsize)
    brought_s = time.perf_counter() - begun
    courier.close()
    with rig.pipeline.ledger.read() as tx:
        counted = documents.count_by_state(tx)
    arrived = [row for row in rows_of(rig, name) if row.state is DocumentState.HANDED_OVER and row.finished_at]
    assert len(arrived) == sum(count for (whose, _state), count in counted.items() if whose == name), counted
    return written_s, brought_s


def put_plainly(url: str, bodies: Sequence[bytes]) -> float:
    """Seconds of httpx for the same drafts: put, then asked for."""
    with httpx.Client(trust_env=False) as client:
        begun = time.perf_counter()
        for number, body in enumerate(bodies):
            address = f"{url}/plain-{number}"
            client.put(address, content=body, headers={"Content-Type": "application/xml"}).raise_for_status()
            client.head(address).raise_for_status()
        return time.perf_counter() - begun


def send_plainly(port: int, bodies: Sequence[bytes]) -> float:
    """Seconds of the client of PyPI `hl7` for the same messages."""
    with MLLPClient("127.0.0.1", port) as client:
        begun = time.perf_counter()
        for body in bodies:
            assert b"MSA|AA" in client.send_message(body)
        return time.perf_counter() - begun


def bodies_of(rig: OutboxRig, name: str) -> list[bytes]:
    return [read_letter(rig.pipeline.store, row).body for row in rows_of(rig, name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="on the disk that is meant")
    options = parser.parse_args()
    count = options.documents
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        http_port, mllp_port = stack.enter_context(running(serve_drafts)), stack.enter_context(running(serve_messages))
        url = f"http://127.0.0.1:{http_port}/drafts"
        records = [
            {"name": SEMD, "kind": "semd", "url": url, "accept_research": True},
            {"name": ORU, "kind": "mllp", "host": "127.0.0.1", "port": mllp_port, "accept_research": True},
        ]
        rig = prepared(folder, records, count)
        stack.callback(rig.close)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {count} documents for each receiver")
        print(
            f"{'receiver':<16}{'written s':>10}{'brought s':>10}{'drain s':>9}{'docs/s':>8}{'plain s':>9}{'ratio':>7}"
        )
        peers: dict[str, Callable[[list[bytes]], float]] = {
            SEMD: lambda bodies: put_plainly(url, bodies),
            ORU: lambda bodies: send_plainly(mllp_port, bodies),
        }
        for name, title in ((SEMD, "SEMD over HTTP"), (ORU, "ORU over MLLP")):
            written_s, brought_s = drain(rig, name)
            plain_s = peers[name](bodies_of(rig, name))
            drain_s = written_s + brought_s
            figures = f"{written_s:>10.1f}{brought_s:>10.1f}{drain_s:>9.1f}{count / drain_s:>8.1f}{plain_s:>9.2f}"
            print(f"{title:<16}{figures}{brought_s / plain_s:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
