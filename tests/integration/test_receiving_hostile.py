"""Peers that are silent, slow, lie or go away: the slot comes back, the memory stays, the others are served."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.receiving_rig import CT, Peer, Rig, a_ct, encoded, eventually, receiving

MIB = 1024**2


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with receiving(
        tmp_path_factory.mktemp("hostile"),
        association_timeout_s=1.0,
        idle_timeout_s=1.5,
        pdu_timeout_s=1.0,
        max_object_bytes=MIB,
        max_associations=8,
    ) as running:
        yield running


def others_are_served(rig: Rig) -> bool:
    with Peer(rig.port).associate() as peer:
        return peer.store(a_ct()) == 0x0000


def all_slots_are_back(rig: Rig) -> bool:
    return eventually(lambda: rig.board.snapshot() == ()) and eventually(lambda: threads_of(rig) <= IDLE_THREADS)


IDLE_THREADS = 3


def threads_of(rig: Rig) -> int:
    (process_id,) = rig.receiver.process_ids
    return psutil.Process(process_id).num_threads()


def memory_of(rig: Rig) -> int:
    (process_id,) = rig.receiver.process_ids
    return int(psutil.Process(process_id).memory_info().rss)


def test_a_silent_connection_is_closed(rig: Rig) -> None:
    with Peer(rig.port) as silent:
        assert others_are_served(rig)
        assert silent.is_closed()
    assert all_slots_are_back(rig)


def test_half_an_association_request_gives_its_slot_back(rig: Rig) -> None:
    with Peer(rig.port) as half:
        half.socket.sendall(half.request()[:-20])
        assert others_are_served(rig)
        assert half.is_closed()
    assert all_slots_are_back(rig)


def test_a_request_that_drips_is_cut_off_at_its_deadline(rig: Rig) -> None:
    with Peer(rig.port) as dripping:
        sent = 0
        with contextlib.suppress(ConnectionError):
            for byte in dripping.request():
                dripping.socket.sendall(bytes([byte]))
                sent += 1
                time.sleep(0.05)
        assert sent < len(dripping.request())
    assert all_slots_are_back(rig)


def test_an_association_on_which_nothing_comes_is_aborted(rig: Rig) -> None:
    with Peer(rig.port).associate() as idle:
        assert others_are_served(rig)
        assert idle.is_closed()
    assert all_slots_are_back(rig)


def test_an_object_that_stops_in_the_middle_is_dropped(rig: Rig) -> None:
    with Peer(rig.port).associate() as stalled:
        stalled.send(3, stalled.command(a_ct()))
        stalled.send(0, encoded(a_ct())[:100])
        assert eventually(lambda: len(rig.incoming()) == 1)
        assert others_are_served(rig)
        assert stalled.is_closed()
    assert eventually(lambda: rig.incoming() == [])
    assert all_slots_are_back(rig)


def test_more_silent_connections_than_slots_do_not_keep_others_out(rig: Rig) -> None:
    silent = [Peer(rig.port) for _ in range(30)]
    assert others_are_served(rig)
    for peer in silent:
        peer.socket.close()
    assert all_slots_are_back(rig)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 2 * 1024**3, 300 * 1024])
def test_a_pdu_that_claims_to_be_huge_is_refused_before_it_is_read(rig: Rig, length: int) -> None:
    for associate in (False, True):
        with Peer(rig.port) as liar:
            kind = 1
            if associate:
                liar.associate()
                kind = 4
            before = memory_of(rig)
            liar.socket.sendall(struct.pack(">BxL", kind, length) + bytes(1000))
            assert liar.is_closed()
            assert memory_of(rig) < before + 16 * MIB
    assert others_are_served(rig)


def test_an_object_over_the_limit_is_a700_and_an_endless_one_is_aborted(rig: Rig) -> None:
    piece = bytes(64 * 1024)
    with Peer(rig.port).associate() as large:
        large.send(3, large.command())
        for _ in range(20):
            large.send(0, piece)
        large.send(2, b"")
        assert large.status() == 0xA700
        assert large.store(a_ct()) == 0x0000
    with Peer(rig.port).associate() as endless:
        endless.send(3, endless.command())
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                endless.send(0, piece)
        assert endless.is_closed()
    assert rig.incoming() == []
    assert all_slots_are_back(rig)


def test_requests_sent_without_waiting_are_answered_one_by_one_in_bounded_memory(rig: Rig) -> None:
    slices = [a_ct(PixelData=bytes(60_000)) for _ in range(60)]
    before = memory_of(rig)
    with Peer(rig.port).associate() as hasty:
        for number, slice_ in enumerate(slices):
            hasty.send(3, hasty.command(slice_, message_id=number))
            hasty.send(2, encoded(slice_))
        assert [hasty.status() for _ in slices] == [0x0000] * len(slices)
    assert memory_of(rig) < before + 16 * MIB


def test_aborts_in_the_middle_of_an_object_leave_no_file(rig: Rig) -> None:
    files = len(rig.files())
    data = encoded(a_ct(PixelData=bytes(20_000)))
    for number in range(1000):
        with Peer(rig.port).associate() as peer:
            peer.send(3, peer.command())
            peer.send(0, data[: 50 + number * 20])
            if number % 2:
                peer.socket.sendall(struct.pack(">BxLxxBB", 7, 4, 0, 0))
    assert eventually(lambda: rig.incoming() == [])
    assert len(rig.files()) == files
    assert all_slots_are_back(rig)


MISUSES = {
    "a data set without a command": [(2, 1, b"abc")],
    "a command in a data set": [(3, 1, "command"), (0, 1, b"abc"), (3, 1, "command")],
    "a context that was not accepted": [(3, 99, "command")],
    "a context that changes": [(3, 1, "command"), (2, 3, b"abc")],
    "a command that is no command": [(3, 1, b"\xff" * 40)],
    "a command cut short": [(3, 1, b"\x00\x00\x00\x00\x04\x00\x00\x00\x01")],
    "a command that does not end": [(1, 1, bytes(12_000)), (1, 1, bytes(12_000))],
    "an unknown command": [(3, 1, "unknown")],
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_misuse_of_the_protocol_is_aborted(rig: Rig, misuse: str) -> None:
    with Peer(rig.port).associate() as peer:
        words = {"command": peer.command(), "unknown": peer.command(field=b"\x77\x07")}
        for control, context_id, data in MISUSES[misuse]:
            with contextlib.suppress(ConnectionError):
                peer.send(control, words[data] if isinstance(data, str) else data, context_id)
        assert peer.is_closed()
    assert others_are_served(rig)
    assert rig.incoming() == []


def test_a_pdv_whose_length_does_not_fit_is_aborted(rig: Rig) -> None:
    for length in (0, 1, 2**31, 1000):
        with Peer(rig.port).associate() as peer:
            peer.socket.sendall(struct.pack(">BxLLBB", 4, 6, length, 1, 3))
            assert peer.is_closed()
    assert others_are_served(rig)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 200),
    noise=st.binary(min_size=1, max_size=40),
    associated=st.booleans(),
)
def test_bytes_changed_anywhere_never_stop_the_receiver(rig: Rig, at: int, noise: bytes, associated: bool) -> None:
    with Peer(rig.port) as peer:
        peer.socket.settimeout(5)
        if associated:
            peer.associate()
            pdv = struct.pack(">LBB", len(peer.command()) + 2, 1, 3) + peer.command()
            good = struct.pack(">BxL", 4, len(pdv)) + pdv
        else:
            good = peer.request()
        at %= len(good)
        with contextlib.suppress(OSError):
            peer.socket.sendall(good[:at] + noise + good[at + len(noise) :])
            peer.socket.shutdown(socket.SHUT_WR)
            peer.is_closed()
    (process_id,) = rig.receiver.process_ids
    os.kill(process_id, 0)
    assert rig.receiver.restarts == 0


def test_after_all_this_the_receiver_still_serves(rig: Rig) -> None:
    assert others_are_served(rig)
    assert all_slots_are_back(rig)
    assert rig.receiver.restarts == 0
    with Peer(rig.port).associate(CT) as peer:
        assert [peer.store(a_ct()) for _ in range(5)] == [0x0000] * 5
