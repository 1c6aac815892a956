"""Acknowledged means safe: the order of the system calls, a full disk, killed acceptors, and the scan at start."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.dimse.recovery import reindexer
from dicom_node.store import Store, StoreLimits
from dicom_node.study import NewInstance, Recorded, RecordedKind
from tests.conftest import missing, require_tool
from tests.integration.receiving_rig import Peer, Rig, SqliteSink, a_ct, associated, encoded, eventually, receiving

MIB = 1024**2
DATA_SET_OFFSET = 132 + 12


def digest_of_data_set(path: Path) -> str:
    data = path.read_bytes()
    start = DATA_SET_OFFSET + int.from_bytes(data[140:144], "little")
    return hashlib.sha256(data[start:]).hexdigest()


def everything_recorded_is_whole(rig: Rig) -> bool:
    return all(digest_of_data_set(rig.store.path(row["path"])) == row["sha256"] for row in rig.table.rows())


def test_the_order_of_system_calls_is_fsync_rename_fsync_commit_answer(tmp_path: Path) -> None:
    strace = require_tool("strace")
    trace = tmp_path / "trace"
    with receiving(tmp_path) as rig:
        (process_id,) = rig.receiver.process_ids
        calls = "fsync,fdatasync,rename,renameat,renameat2,sendto,unlink"
        with (
            Peer(rig.port).associate() as peer,
            subprocess.Popen(
                [strace, "-f", "-y", "-s", "200", "-e", f"trace={calls}", "-p", str(process_id), "-o", str(trace)],
                stderr=subprocess.PIPE,
            ) as tracer,
        ):
            if not eventually(lambda: trace.exists() and tracer.poll() is None and _is_traced(process_id), 10):
                tracer.kill()
                missing("strace may not attach to a process here")
            slices = [a_ct() for _ in range(5)]
            assert [peer.store(slice_) for slice_ in slices] == [0x0000] * 5
            tracer.send_signal(signal.SIGINT)
        paths = [row["path"] for row in rig.table.rows()]
    every = [event for line in trace.read_text().splitlines() if (event := _event(line))]
    # A commit may sync the log more than once.
    events = [event for event, before in zip(every, [None, *every], strict=False) if event != before]
    assert len(paths) == 5
    for number, path in enumerate(paths):
        shard = path.rsplit("/", 1)[0]
        here = events[number * 5 : number * 5 + 5]
        assert [kind for kind, _ in here] == ["fsync file", "rename", "fsync folder", "commit", "answer"], here
        assert here[1][1].endswith(path) and here[2][1].endswith(shard)


def _is_traced(process_id: int) -> bool:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


def _event(line: str) -> tuple[str, str] | None:
    if found := re.search(r"fsync\(\d+<(.*?/incoming/\w+)>", line):
        return "fsync file", found[1]
    if found := re.search(r'rename\w*\(.*"(.*?/instances/\w+/\w+\.dcm)"', line):
        return "rename", found[1]
    if found := re.search(r"fsync\(\d+<(.*?/instances/\w+)>", line):
        return "fsync folder", found[1]
    if found := re.search(r"(?:fsync|fdatasync)\(\d+<(.*?-wal)>", line):
        return "commit", found[1]
    if "sendto(" in line and r'"\4\0' in line:
        return "answer", ""
    return None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        missing("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        missing("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("ledger_on_it", [False, True])
def test_on_a_full_disk_an_object_is_whole_or_a700_and_room_ends_it(
    small_disk: Path, tmp_path: Path, ledger_on_it: bool
) -> None:
    limits = StoreLimits(soft_free_bytes=0, hard_free_bytes=0, reserve_bytes=2 * MIB)
    folder = small_disk if ledger_on_it else tmp_path
    with receiving(folder, limits=limits, store_root=small_disk / "store") as rig:
        assert (rig.store.root / "reserve").stat().st_size == 2 * MIB
        with Peer(rig.port).associate() as peer:
            answers = [peer.store(a_ct(PixelData=bytes(MIB))) for _ in range(30)]
            assert set(answers) == {0x0000, 0xA700}
            assert answers.count(0x0000) >= 15
            assert not (rig.store.root / "reserve").exists()
            assert len(rig.table.rows()) == answers.count(0x0000)
            assert everything_recorded_is_whole(rig)
            assert rig.incoming() == []
            for row in rig.table.rows()[:8]:
                rig.store.remove(row["path"])
            assert eventually(lambda: peer.store(a_ct(PixelData=bytes(MIB))) == 0x0000, 10.0)
        assert rig.store.restore_reserve()


def test_below_the_watermarks_associations_are_put_off_and_instances_answered_a700(
    small_disk: Path, tmp_path: Path
) -> None:
    limits = StoreLimits(soft_free_bytes=16 * MIB, hard_free_bytes=8 * MIB, reserve_bytes=MIB)
    with receiving(tmp_path, limits=limits, store_root=small_disk / "store") as rig:
        with Peer(rig.port).associate() as peer:
            answers = [peer.store(a_ct(PixelData=bytes(MIB))) for _ in range(20)]
        assert answers == sorted(answers) and set(answers) == {0x0000, 0xA700}
        assert rig.store.free_bytes() >= 7 * MIB, "the hard watermark keeps room for the ledger and the results"
        with associated(rig.port) as association:
            answer = association.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)


def test_what_was_acknowledged_is_there_after_every_kill_and_the_scan_takes_up_the_rest(tmp_path: Path) -> None:
    acknowledged: dict[str, str] = {}
    dice = random.Random(5)
    with receiving(tmp_path, processes=2) as rig:
        for _ in range(4):
            enough = threading.Event()

            def send(stop: threading.Event = enough) -> None:
                with contextlib.suppress(OSError, AssertionError), Peer(rig.port).associate() as peer:
                    while not stop.is_set():
                        slice_ = a_ct(PixelData=random.randbytes(20_000))
                        if peer.store(slice_) == 0x0000:
                            acknowledged[str(slice_.SOPInstanceUID)] = hashlib.sha256(encoded(slice_)).hexdigest()

            senders = [threading.Thread(target=send) for _ in range(3)]
            for sender in senders:
                sender.start()
            time.sleep(dice.uniform(0.1, 0.4))
            for process_id in rig.receiver.process_ids:
                os.kill(process_id, signal.SIGKILL)
            enough.set()
            for sender in senders:
                sender.join()
            assert eventually(lambda: _answers(rig), 60)
        recorded = {row["sop"]: row["sha256"] for row in rig.table.rows()}
        assert len(acknowledged) > 20
        assert acknowledged.items() <= recorded.items()
        assert everything_recorded_is_whole(rig)
    _scan_leaves_files_and_rows_equal(rig)


def _answers(rig: Rig) -> bool:
    with contextlib.suppress(OSError, AssertionError), Peer(rig.port).associate() as peer:
        return peer.store(a_ct()) == 0x0000
    return False


def _scan_leaves_files_and_rows_equal(rig: Rig) -> None:
    known = [row["path"] for row in rig.table.rows()]
    report = rig.store.scan(known, reindexer(rig.store, SqliteSink(rig.table.path).record_instance))
    assert report.missing == () and report.unreadable == ()
    assert rig.incoming() == []
    assert len(rig.table.rows()) == len(known) + len(report.reindexed) == len(rig.files())
    assert everything_recorded_is_whole(rig)


def test_the_scan_takes_up_a_file_without_a_row_as_it_was_received(tmp_path: Path) -> None:
    slice_ = a_ct()
    with receiving(tmp_path) as rig:
        with Peer(rig.port).associate() as peer:
            assert peer.store(slice_) == 0x0000
        (row,) = rig.table.rows()
    taken: list[NewInstance] = []

    def record(instance: NewInstance) -> Recorded:
        taken.append(instance)
        return Recorded(kind=RecordedKind.NEW)

    store = Store(rig.store.root)
    report = store.scan([], reindexer(store, record))
    (instance,) = taken
    assert report.reindexed == (row["path"],)
    assert instance.sha256 == row["sha256"] and instance.size_bytes == row["size"]
    assert instance.study_uid == row["study"] and instance.sop_instance_uid == row["sop"]
    assert (instance.calling_ae, instance.called_ae) == (row["calling"], row["called"])
    assert instance.transfer_syntax_uid == row["syntax"]
    again = store.scan([], reindexer(store, SqliteSink(rig.table.path).record_instance))
    assert again.reindexed == (row["path"],) and rig.files() == [], "a duplicate is removed as on reception"
