"""Files on disk: received instances and encoded results, written so that what is acknowledged survives a power cut.

Acceptor processes create and place instances, delivery writes results, the coordinator scans at start, watches the
disk and evicts. Names are random and never come from data. What a file is, and whether it may go, the ledger knows:
nothing here reads DICOM.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

_INCOMING = "incoming"
_INSTANCES = "instances"
_RESULTS = "results"
_RESERVE = "reserve"
_SUFFIX = ".dcm"
_LETTER_SUFFIX = ".letter"
_REQUEST_SUFFIX = ".request"
_SHARDS = tuple(f"{number:02x}" for number in range(256))
_MIB = 1024**2


class StoreError(Exception):
    """The file could not be made safe. Retryable: nothing of it is kept, and the sender may come again.

    The message holds the system's reason only, never a value from the data.
    """

    def __init__(self, doing: str, error: OSError) -> None:
        super().__init__(f"{doing}: {error.strerror or 'failed'} (errno {error.errno})")
        self.errno = error.errno


class DiskState(StrEnum):
    """How much room is left, and what follows from it."""

    NORMAL = "normal"  # everything is accepted
    SOFT = "soft"  # below the soft watermark: new associations are rejected as transient
    HARD = "hard"  # below the hard watermark: instances are answered A700


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreLimits:
    """Watermarks of free space on the store's file system, and the size of the reserve kept for the ledger."""

    soft_free_bytes: int = 2048 * _MIB
    hard_free_bytes: int = 512 * _MIB
    reserve_bytes: int = 64 * _MIB

    def __post_init__(self) -> None:
        if not self.soft_free_bytes >= self.hard_free_bytes >= 0 <= self.reserve_bytes:
            raise ValueError("watermarks: soft_free_bytes >= hard_free_bytes >= 0, reserve_bytes >= 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanReport:
    """What the scan at start found.

    Attributes
    ----------
    temporary_removed : int
        Objects that were half received when the node ended; they were never acknowledged.
    reindexed : tuple of str
        Relative paths of files without a row that were handed to the callback and taken.
    unreadable : tuple of str
        Files without a row that the callback could not take; left where they are.
    missing : tuple of str
        Rows without a file: an alarm, for these were acknowledged.
    """

    temporary_removed: int
    reindexed: tuple[str, ...]
    unreadable: tuple[str, ...]
    missing: tuple[str, ...]


class IncomingFile:
    """A file being written, of which nobody knows until `Store.place` has made it durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor: int | None = os.open(path, flags, 0o600)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`. Raises OSError when the disk does not take it."""
        left = memoryview(data)
        while left:
            written = os.write(self._open_descriptor(), left)
            self.size_bytes += written
            left = left[written:]

    def sync(self) -> None:
        """Make the content durable, once: a failed fsync loses data, a second one would only say otherwise."""
        descriptor = self._open_descriptor()
        try:
            os.fsync(descriptor)
        finally:
            self._close()

    def discard(self) -> None:
        """Remove the file; harmless when it is gone or was placed."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError("the file is closed")
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Store:
    """The folder of the node's files.

    ::

        incoming/<random>              half-received objects; emptied at start
        instances/<2 hex>/<random>.dcm received instances, part-10, data set as it came
        results/<2 hex>/<random>.dcm   encoded results of the outbox
        reserve                        room that is given back when the disk is full, so that the ledger can commit

    Parameters
    ----------
    root : Path
        Folder on one file system; created by `prepare`.
    limits : StoreLimits
        Watermarks.
    """

    def __init__(self, root: Path, limits: StoreLimits | None = None) -> None:
        self.root = root
        self.limits = limits or StoreLimits()

    def prepare(self) -> None:
        """Make the folders (0700) and the reserve. Raises `StoreError` if the place cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for folder in (_INCOMING, _INSTANCES, _RESULTS):
                (self.root / folder).mkdir(mode=0o700, exist_ok=True)
            for folder in (_INSTANCES, _RESULTS):
                for shard in _SHARDS:
                    (self.root / folder / shard).mkdir(mode=0o700, exist_ok=True)
                _sync_folder(self.root / folder)
            _sync_folder(self.root)
        except OSError as error:
            raise StoreError("the store's folders cannot be made", error) from error
        self.restore_reserve()

    def create_incoming(self) -> IncomingFile:
        """A new empty file in `incoming/`. Raises `StoreError`."""
        try:
            return IncomingFile(self.root / _INCOMING / secrets.token_hex(16))
        except OSError as error:
            raise StoreError("a file cannot be created", error) from error

    def place(self, incoming: IncomingFile) -> str:
        """Make `incoming` a durable instance and return its path below the root.

        In this order: fsync of the file, rename, fsync of the folder. After it the file may be recorded and
        acknowledged.

        Raises
        ------
        StoreError
            If any step fails; the file is then gone.
        """
        return self._place(incoming, _INSTANCES)

    def write_result(self, data: bytes) -> str:
        """Write an encoded result durably and return its path below the root. Raises `StoreError`."""
        return self._write(data, _SUFFIX)

    def write_letter(self, data: bytes) -> str:
        """Write a document for the record durably, beside the results; as `write_result`."""
        return self._write(data, _LETTER_SUFFIX)

    def write_request(self, data: bytes) -> str:
        """Write what a document was written from, durably, beside it; as `write_result`."""
        return self._write(data, _REQUEST_SUFFIX)

    def _write(self, data: bytes, suffix: str) -> str:
        incoming = self.create_incoming()
        try:
            incoming.write(data)
        except OSError as error:
            incoming.discard()
            raise StoreError("a result cannot be written", error) from error
        return self._place(incoming, _RESULTS, suffix)

    def path(self, relative_path: str) -> Path:
        """Where the file named `relative_path` by `place` or one of the `write_` methods is.

        Raises
        ------
        ValueError
            If the path is not one of the store's own, for instance because it leads out of it.
        """
        parts = PurePosixPath(relative_path).parts
        own = len(parts) == len(("folder", "shard", "name")) and parts[0] in (_INSTANCES, _RESULTS)
        if not own or parts[1] not in _SHARDS or not _is_own_name(parts[2]):
            raise ValueError("not a path of the store")
        return self.root.joinpath(*parts)

    def remove(self, relative_path: str) -> None:
        """Remove a file; harmless when it is gone. Raises ValueError for a path that is not the store's."""
        self.path(relative_path).unlink(missing_ok=True)

    def scan(self, known: Collection[str], reindex: Callable[[str], bool]) -> ScanReport:
        """Bring files and ledger together at start, before any acceptor runs.

        Parameters
        ----------
        known : collection of str
            Relative paths of all instances that the ledger says are on disk.
        reindex : callable
            Given the relative path of a file without row; records it and returns True, or False when it cannot be
            understood.
        """
        removed = self._empty_incoming()
        found = frozenset(self._files(_INSTANCES))
        unknown = sorted(found.difference(known))
        taken = {relative_path: reindex(relative_path) for relative_path in unknown}
        return ScanReport(
            temporary_removed=removed,
            reindexed=tuple(relative_path for relative_path, ok in taken.items() if ok),
            unreadable=tuple(relative_path for relative_path, ok in taken.items() if not ok),
            missing=tuple(sorted(frozenset(known).difference(found))),
        )

    def remove_unknown_results(self, known: Collection[str]) -> int:
        """Remove results whose row was never committed; they are encoded again. Returns how many."""
        unknown = frozenset(self._files(_RESULTS)).difference(known)
        for relative_path in unknown:
            self.remove(relative_path)
        return len(unknown)

    def free_bytes(self) -> int:
        """Room that an unprivileged process may still use. Raises OSError when the file system is gone."""
        state = os.statvfs(self.root)
        return state.f_bavail * state.f_frsize

    def disk_state(self) -> DiskState:
        """Which watermark the free space is below; a file system that does not answer counts as full."""
        try:
            free = self.free_bytes()
        except OSError:
            return DiskState.HARD
        if free < self.limits.hard_free_bytes:
            return DiskState.HARD
        return DiskState.SOFT if free < self.limits.soft_free_bytes else DiskState.NORMAL

    def free_reserve(self) -> bool:
        """Give the reserve's room back, so that the ledger can commit on a full disk; False when it was gone."""
        try:
            (self.root / _RESERVE).unlink()
        except OSError:
            return False
        return True

    def restore_reserve(self) -> bool:
        """Make the reserve again when there is room above the hard watermark for it; True when it is there."""
        reserve = self.root / _RESERVE
        if reserve.exists():
            return True
        if self.free_bytes() < self.limits.hard_free_bytes + self.limits.reserve_bytes:
            return False
        partial = self.root / f"{_RESERVE}.part"
        try:
            with partial.open("wb") as file:
                if self.limits.reserve_bytes:
                    os.posix_fallocate(file.fileno(), 0, self.limits.reserve_bytes)
            partial.rename(reserve)
        except OSError:
            partial.unlink(missing_ok=True)
            return False
        return True

    def _place(self, incoming: IncomingFile, folder: str, suffix: str = _SUFFIX) -> str:
        name = secrets.token_hex(16)
        relative_path = f"{folder}/{name[:2]}/{name}{suffix}"
        target = self.root / relative_path
        try:
            incoming.sync()
            incoming.path.rename(target)
            _sync_folder(target.parent)
        except OSError as error:
            incoming.discard()
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True)
            raise StoreError("a file cannot be made durable", error) from error
        return relative_path

    def _empty_incoming(self) -> int:
        count = 0
        for path in (self.root / _INCOMING).iterdir():
            path.unlink()
            count += 1
        return count

    def _files(self, folder: str) -> Iterator[str]:
        for shard in _SHARDS:
            for entry in os.scandir(self.root / folder / shard):
                if _is_own_name(entry.name):
                    yield f"{folder}/{shard}/{entry.name}"


def _is_own_name(name: str) -> bool:
    stem, dot, suffix = name.rpartition(".")
    known = dot + suffix in (_SUFFIX, _LETTER_SUFFIX, _REQUEST_SUFFIX)
    return known and len(stem) == len(secrets.token_hex(16)) and set(stem) <= set("0123456789abcdef")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
