"""How fast objects are received, durably, beside Orthanc and DCMTK storescp on the same disk in the same minutes.

Objects: 300 CT slices of 512 kB and 8 mammograms of 25 MB. Senders: DCMTK storescu (TCP_NODELAY) and pynetdicom, at 1,
4 and 8 associations. Every receiver is fresh for every row. `--quick` takes fewer objects and one number of
associations. Prints a table with instances per second, the ratio to Orthanc, and this node's memory.

    python -m benchmarks.receiving [--quick] [--folder DIR]

storescp neither syncs nor keeps an index: it is the limit of what the network and the page cache give. Orthanc syncs
each file (SyncStorageArea), but neither the folder nor its index. The first line says what the disk itself allows to
one thread: write, fsync, rename, fsync of the folder, and no commit. This node's sink here is one SQLite table in the
ledger's mode (WAL, synchronous=FULL).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from pynetdicom import AE, _config, evt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicom_node.clock import SteadyClock
from dicom_node.dimse.command import file_meta
from dicom_node.dimse.scp import PynetdicomReceiver
from dicom_node.ledger import Ledger
from dicom_node.receiver import ReceiverSettings
from dicom_node.reception import ReceptionBoard
from dicom_node.sink import LedgerSink
from dicom_node.store import Store, StoreLimits
from tests.integration.receiving_rig import EXPLICIT, encoded

CT = "1.2.840.10008.5.1.4.1.1.2"
MG = "1.2.840.10008.5.1.4.1.1.1.2"
NO_LIMITS = StoreLimits(soft_free_bytes=0, hard_free_bytes=0, reserve_bytes=0)
MIB = 1024**2


class SendingFailed(Exception):
    """A receiver did not take everything."""


@dataclass(frozen=True)
class Load:
    """Objects to send, as part-10 files."""

    name: str
    sop_class: str
    files: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        return self.files[0].stat().st_size


@dataclass
class Target:
    """A running receiver: where it listens, and the processes whose memory counts."""

    port: int
    called: str
    processes: tuple[int, ...] = ()


def make_load(folder: Path, name: str, sop_class: str, count: int, rows: int, columns: int) -> Load:
    from tests.integration.receiving_rig import a_ct

    folder.mkdir(parents=True)
    pixels = os.urandom(rows * columns * 2)
    files = []
    for number in range(count):
        dataset = a_ct(SOPClassUID=sop_class, Rows=rows, Columns=columns, PixelData=pixels)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.1", "1.2.826.0.1.1.1"
        meta = file_meta(
            sop_class_uid=sop_class,
            sop_instance_uid=dataset.SOPInstanceUID,
            transfer_syntax_uid=EXPLICIT,
            calling_ae="BENCH",
            called_ae="",
        )
        file = folder / f"{number:04}.dcm"
        file.write_bytes(meta + encoded(dataset))
        files.append(file)
    return Load(name, sop_class, tuple(files))


@contextlib.contextmanager
def radnode(folder: Path) -> Iterator[Target]:
    settings = ReceiverSettings(port=0, ae_titles=("NODE",))
    clock = SteadyClock.start()
    ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite3'}", clock=clock)
    ledger.migrate()
    ledger.close()
    receiver = PynetdicomReceiver(
        settings,
        store_root=folder / "store",
        store_limits=NO_LIMITS,
        sink_factory=partial(LedgerSink, ledger.url, clock),
        board=ReceptionBoard(),
    )
    receiver.start()
    try:
        yield Target(receiver.port, "NODE", receiver.process_ids)
    finally:
        receiver.stop(5.0)


@contextlib.contextmanager
def storescp(folder: Path) -> Iterator[Target]:
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = ["storescp", "--fork", "+xa", "-od", str(folder), str(port)]
    with running(command, port) as process:
        yield Target(port, "STORESCP", (process.pid,))


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[Target]:
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    configuration = folder / "orthanc.json"
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "HttpServerEnabled": False,
        "DicomAlwaysAllowStore": True,
        "DicomThreadsCount": 8,
        "SyncStorageArea": True,
        "TcpNoDelay": True,
    }
    configuration.write_text(json.dumps(settings))
    with running(["/usr/sbin/Orthanc", str(configuration)], port) as process:
        yield Target(port, "ORTHANC", (process.pid,))


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "TCP_NODELAY": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        wait_for(port)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("a receiver did not come up")


def send_with_dcmtk(target: Target, load: Load, associations: int) -> None:
    command = ["storescu", "-aec", target.called, "127.0.0.1", str(target.port)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    senders = [
        subprocess.Popen([*command, *map(str, load.files[number::associations])], env=environment)
        for number in range(associations)
    ]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise SendingFailed("storescu failed")


def send_with_pynetdicom(target: Target, load: Load, associations: int) -> None:
    with ThreadPoolExecutor(associations) as pool:
        parts = [load.files[number::associations] for number in range(associations)]
        list(pool.map(lambda part: send_part(target, load.sop_class, part), parts))


def send_part(target: Target, sop_class: str, files: tuple[Path, ...]) -> None:
    entity = AE(ae_title="BENCH")
    entity.add_requested_context(sop_class, EXPLICIT)
    association = entity.associate("127.0.0.1", target.port, ae_title=target.called, evt_handlers=[NO_DELAY])
    for file in files:
        status = association.send_c_store(file).get("Status")
        if status != 0:
            raise SendingFailed(f"{target.called} answered {status} to an object")
    association.release()


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


NO_DELAY = (evt.EVT_CONN_OPEN, _no_delay)
SENDERS = {"DCMTK": send_with_dcmtk, "pynetdicom": send_with_pynetdicom}
RECEIVERS = ("radnode", "Orthanc", "storescp")


class Memory:
    """Resident memory of processes: before, at its peak, and after."""

    def __init__(self, processes: tuple[int, ...]) -> None:
        self._processes = [psutil.Process(process) for process in processes]
        self._done = threading.Event()
        self.before = self.peak = self.after = self._now()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.after = self._now()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, self._now())

    def _now(self) -> float:
        return sum(process.memory_info().rss for process in self._processes) / MIB


def one_row(name: str, folder: Path, load: Load, sender: str, associations: int) -> tuple[float, Memory]:
    """Instances per second of one fresh receiver, and its memory."""
    folder.mkdir()
    try:
        if name == "radnode":
            open_target = radnode(folder)
        else:
            open_target = orthanc(folder / "o") if name == "Orthanc" else storescp(folder / "s")
        with open_target as target, Memory(target.processes) as memory:
            started = time.perf_counter()
            try:
                SENDERS[sender](target, load, associations)
            except SendingFailed as error:
                if name == "radnode":
                    raise
                print(f"{name}: {error}")  # another program's fault does not cost the rest of the table
                return float("nan"), memory
            elapsed = time.perf_counter() - started
        return len(load.files) / elapsed, memory
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk_limit(folder: Path, load: Load) -> float:
    """Objects per second that the disk takes durably from one thread."""
    store = Store(folder / "limit", NO_LIMITS)
    store.prepare()
    data = load.files[0].read_bytes()
    count = min(len(load.files), 60)
    started = time.perf_counter()
    for _ in range(count):
        incoming = store.create_incoming()
        incoming.write(data)
        store.place(incoming)
    elapsed = time.perf_counter() - started
    shutil.rmtree(folder / "limit")
    return count / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description="Receiving, beside Orthanc and DCMTK storescp")
    parser.add_argument("--quick", action="store_true", help="fewer objects, 4 associations only")
    parser.add_argument("--folder", type=Path, help="where to write; the disk that is measured")
    arguments = parser.parse_args()
    _config.STORE_SEND_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    slices, mammograms, counts = (40, 4, (4,)) if arguments.quick else (300, 8, (1, 4, 8))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        loads = (
            make_load(folder / "ct", "CT 512 kB", CT, slices, 512, 512),
            make_load(folder / "mg", "MG 25 MB", MG, mammograms, 4096, 3072),
        )
        compare(folder, loads, counts)


def compare(folder: Path, loads: tuple[Load, ...], counts: tuple[int, ...]) -> None:
    names = [name for name in RECEIVERS if name != "Orthanc" or Path("/usr/sbin/Orthanc").exists()]
    for load in loads:
        limit = disk_limit(folder, load)
        print(f"\n{len(load.files)} x {load.name}: the disk alone, one thread, durable: {limit:.1f}/s")
        print(f"{'sender':<11} {'assoc.':>6} " + " ".join(f"{name:>9}" for name in names), end="")
        print("  radnode:Orthanc  radnode:storescp   radnode MiB before/peak/after")
        for sender in SENDERS:
            for associations in counts:
                rows = {name: one_row(name, folder / "run", load, sender, associations) for name in names}
                print_row(sender, associations, {name: rate for name, (rate, _) in rows.items()}, rows["radnode"][1])


def print_row(sender: str, associations: int, rates: dict[str, float], memory: Memory) -> None:
    cells = " ".join(f"{rate:>7.1f}/s" for rate in rates.values())
    ratios = [f"{rates['radnode'] / rates[other]:.2f}" if other in rates else "-" for other in ("Orthanc", "storescp")]
    figures = f"{memory.before:.0f} / {memory.peak:.0f} / {memory.after:.0f}"
    print(f"{sender:<11} {associations:>6} {cells}  {ratios[0]:>15}  {ratios[1]:>16}   {figures}", flush=True)


if __name__ == "__main__":
    main()
