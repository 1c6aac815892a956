"""The store: names that never come from data, files that are durable or gone, and a scan that puts things right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.store import DiskState, Store, StoreError, StoreLimits

NO_LIMITS = StoreLimits(soft_free_bytes=0, hard_free_bytes=0, reserve_bytes=0)
HUGE = 1 << 60


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store", NO_LIMITS)
    store.prepare()
    return store


def placed(store: Store, data: bytes = b"content") -> str:
    incoming = store.create_incoming()
    incoming.write(data)
    return store.place(incoming)


def test_a_placed_file_has_its_bytes_a_random_name_and_is_for_the_node_only(store: Store) -> None:
    relative_path = placed(store, b"abc" * 1000)
    path = store.path(relative_path)
    assert path.read_bytes() == b"abc" * 1000
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert relative_path.startswith("instances/") and path.suffix == ".dcm"
    assert path.parent.name == path.stem[:2] and len(path.stem) == 32
    assert list((store.root / "incoming").iterdir()) == []


def test_names_do_not_repeat(store: Store) -> None:
    assert len({placed(store) for _ in range(50)}) == 50


def test_a_discarded_file_is_gone_and_discarding_again_is_harmless(store: Store) -> None:
    incoming = store.create_incoming()
    incoming.write(b"half")
    incoming.discard()
    incoming.discard()
    assert list((store.root / "incoming").iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        incoming.write(b"more")


def test_a_file_that_cannot_be_placed_leaves_nothing_behind(store: Store) -> None:
    incoming = store.create_incoming()
    incoming.write(b"x")
    incoming.path.unlink()
    with pytest.raises(StoreError, match="cannot be made durable"):
        store.place(incoming)
    assert list((store.root / "instances").rglob("*.dcm")) == []


def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="folders cannot be made"):
        Store(tmp_path / "file" / "store").prepare()


@pytest.mark.parametrize(
    "path",
    [
        "../outside.dcm",
        "/etc/passwd",
        "instances/../../x",
        "instances/00/../../../etc/passwd",
        "instances/zz/" + "0" * 32 + ".dcm",
        "instances/00/1.2.840.113619.dcm",
        "incoming/00/" + "0" * 32 + ".dcm",
        "instances/00/" + "0" * 32,
        "reserve",
        "",
    ],
)
def test_only_the_stores_own_paths_are_followed(store: Store, path: str) -> None:
    with pytest.raises(ValueError, match="not a path of the store"):
        store.path(path)
    with pytest.raises(ValueError, match="not a path of the store"):
        store.remove(path)


@given(path=st.text(max_size=60))
def test_no_text_leads_out_of_the_store(path: str) -> None:
    store = Store(Path("/store"))
    try:
        found = store.path(path)
    except ValueError:
        return
    assert Path(os.path.normpath(found)).is_relative_to("/store/")


def test_removing_twice_is_harmless(store: Store) -> None:
    relative_path = placed(store)
    store.remove(relative_path)
    store.remove(relative_path)
    assert not store.path(relative_path).exists()


def test_the_scan_puts_files_and_rows_together(store: Store) -> None:
    known, unknown, strange = placed(store), placed(store), placed(store, b"not DICOM")
    lost = placed(store)
    store.remove(lost)
    store.create_incoming().write(b"half received")
    (store.root / "instances" / "00" / "README").write_text("put there by a person")
    asked: list[str] = []

    def reindex(relative_path: str) -> bool:
        asked.append(relative_path)
        return relative_path != strange

    report = store.scan([known, lost], reindex)
    assert report.temporary_removed == 1
    assert sorted(asked) == sorted([unknown, strange])
    assert report.reindexed == (unknown,)
    assert report.unreadable == (strange,)
    assert report.missing == (lost,)
    assert store.path(strange).exists(), "nothing that may have been acknowledged is thrown away"
    assert store.scan([known, unknown], reindex).temporary_removed == 0


def test_preparing_again_keeps_what_is_there(store: Store) -> None:
    relative_path = placed(store)
    Store(store.root, NO_LIMITS).prepare()
    assert store.path(relative_path).read_bytes() == b"content"


def test_a_result_is_kept_as_it_was_and_unknown_results_are_removed(store: Store) -> None:
    kept, orphan = store.write_result(b"result"), store.write_result(b"never committed")
    assert store.path(kept).read_bytes() == b"result"
    assert kept.startswith("results/")
    assert store.remove_unknown_results([kept]) == 1
    assert store.path(kept).exists() and not store.path(orphan).exists()


@pytest.mark.parametrize(
    ("soft", "hard", "state"),
    [(0, 0, DiskState.NORMAL), (HUGE, 0, DiskState.SOFT), (HUGE, HUGE, DiskState.HARD)],
)
def test_free_space_is_judged_by_the_watermarks(tmp_path: Path, soft: int, hard: int, state: DiskState) -> None:
    store = Store(tmp_path, StoreLimits(soft_free_bytes=soft, hard_free_bytes=hard, reserve_bytes=0))
    assert store.disk_state() is state


def test_a_file_system_that_is_gone_counts_as_full(tmp_path: Path) -> None:
    assert Store(tmp_path / "gone", NO_LIMITS).disk_state() is DiskState.HARD


def test_watermarks_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="watermarks"):
        StoreLimits(soft_free_bytes=1, hard_free_bytes=2)


def test_the_reserve_is_real_room_given_back_once_and_made_again(tmp_path: Path) -> None:
    size = 4 * 1024**2
    store = Store(tmp_path, StoreLimits(soft_free_bytes=0, hard_free_bytes=0, reserve_bytes=size))
    store.prepare()
    reserve = tmp_path / "reserve"
    assert reserve.stat().st_blocks * 512 >= size
    assert store.free_reserve() and not reserve.exists()
    assert not store.free_reserve()
    assert store.restore_reserve() and reserve.exists()


def test_no_reserve_is_made_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path, StoreLimits(soft_free_bytes=HUGE, hard_free_bytes=HUGE, reserve_bytes=1))
    assert not store.restore_reserve()
    assert not (tmp_path / "reserve").exists()
