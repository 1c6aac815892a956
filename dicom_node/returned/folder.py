"""The watched folder: each file that has come to rest is taken in and put away, never twice and never half-written.

Looked at by `desk`. What was taken lies in `taken`, what cannot be in `refused` with a text beside it that says why. A
file that is put away only after it was entered may be entered again after a crash: entering twice changes nothing.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import structlog

from dicom_node.ehr.inbound import MAX_BYTES
from dicom_node.returned.answer import Answer, Verdict
from dicom_node.returned.settings import ReturnedSettings
from dicom_node.returned.statuses import MAX_SIGNATURE_BYTES

log = structlog.get_logger(__name__)

TAKEN: Final = "taken"
REFUSED: Final = "refused"
MAX_TABLE_BYTES: Final = 64 << 20
_BEING_WRITTEN: Final = frozenset({".part", ".partial", ".filepart", ".tmp", ".crdownload"})
_LIMITS: Final = {
    ".hl7": MAX_BYTES,
    ".json": MAX_BYTES,
    ".csv": MAX_TABLE_BYTES,
    ".sig": MAX_SIGNATURE_BYTES,
    ".p7s": MAX_SIGNATURE_BYTES,
}
_LATER_S: Final = 60.0  # until a file is tried again that could not be entered for no fault of its own
_MAX_LOOK: Final = 1000  # files of one look; the others wait for the next


class Taker(Protocol):
    """Who takes in what lies in the folder."""

    def take_hl7(self, message: bytes) -> Answer:
        """An ORU^R01."""

    def take_json(self, body: bytes) -> Answer:
        """A FHIR resource or a state."""

    def take_signature(self, document_id: str, signature: bytes) -> Answer:
        """A detached signature."""

    def take_table(self, path: Path) -> Answer:
        """A table of readings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """A file as it was at one look; `since_s` on the steady clock."""

    size: int
    mtime_ns: int
    inode: int
    since_s: float

    def is_same(self, other: _Seen) -> bool:
        return (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)


class WatchedFolder:
    """The folder of `settings`, and what was seen in it.

    Parameters
    ----------
    settings : ReturnedSettings
        With a folder.
    taker : Taker
    """

    def __init__(self, settings: ReturnedSettings, taker: Taker) -> None:
        self._folder = settings.folder or Path()
        self._settle_s = settings.settle_s
        self._taker = taker
        self._seen: dict[str, _Seen] = {}

    def look(self, stop: threading.Event | None = None) -> str:
        """Take in what has come to rest; gives what is wrong with the folder itself, or nothing."""
        try:
            for name in (TAKEN, REFUSED):
                (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o750)
            ready = [path for path, _seen in sorted(self._rested(), key=lambda one: (one[1].mtime_ns, one[0].name))]
            for path in ready[:_MAX_LOOK]:
                if stop is not None and stop.is_set():
                    break
                self._take(path)
        except OSError as error:
            # The folder's name is a setting; a file's may be a patient's.
            log.error("the folder of reports cannot be used", alarm=True, error=error.strerror)
            return f"returned.folder cannot be used: {error.strerror or type(error).__name__}"
        return ""

    def _rested(self) -> Iterator[tuple[Path, _Seen]]:
        """Files that have not changed for long enough, with how they are."""
        now = {path.name: (path, seen) for path, seen in self._there()}
        for name, (path, seen) in now.items():
            before = self._seen.get(name)
            if before is None or not before.is_same(seen):
                self._seen[name] = seen
                if self._settle_s > 0:
                    continue
            if time.monotonic() - self._seen[name].since_s >= self._settle_s:
                yield path, seen
        for name in self._seen.keys() - now.keys():
            del self._seen[name]

    def _there(self) -> Iterator[tuple[Path, _Seen]]:
        with os.scandir(self._folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith(".") or path.suffix.lower() in _BEING_WRITTEN:
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # renamed meanwhile: it has another name at the next look
                if stat.S_ISREG(found.st_mode):
                    yield (
                        path,
                        _Seen(
                            size=found.st_size,
                            mtime_ns=found.st_mtime_ns,
                            inode=found.st_ino,
                            since_s=time.monotonic(),
                        ),
                    )

    def _take(self, path: Path) -> None:
        try:
            answer = self._answer(path)
        except FileNotFoundError:
            return  # taken away by whoever put it there
        except PermissionError:
            answer = Answer(verdict=Verdict.REFUSED, why="this node has no right to read the file")
        except OSError:
            raise
        except Exception:  # the edge of the loop: this file waits, the next is taken
            log.exception("a file that came back could not be handled", alarm=True)
            answer = Answer(verdict=Verdict.LATER, why="")
        if answer.verdict is Verdict.LATER:
            self._seen[path.name] = replace(self._seen[path.name], since_s=time.monotonic() + _LATER_S)
            return
        self._put_away(path, answer)

    def _answer(self, path: Path) -> Answer:
        ending = path.suffix.lower()
        limit = _LIMITS.get(ending)
        if limit is None:
            why = f"the name ends in none of {', '.join(_LIMITS)}"
            return Answer(verdict=Verdict.UNREADABLE, why=why)
        if path.stat().st_size > limit:
            return Answer(verdict=Verdict.UNREADABLE, why=f"larger than {limit} bytes")
        if ending == ".csv":
            return self._taker.take_table(path)
        body = path.read_bytes()
        takers: dict[str, Callable[[bytes], Answer]] = {
            ".hl7": lambda content: self._taker.take_hl7(unframed(content)),
            ".json": lambda content: self._taker.take_json(content.removeprefix(b"\xef\xbb\xbf")),
        }
        if ending in takers:
            return takers[ending](body)
        return self._taker.take_signature(path.stem, body)

    def _put_away(self, path: Path, answer: Answer) -> None:
        """The reason first: a file in `refused` always has one."""
        home = self._folder / (TAKEN if answer.is_good else REFUSED)
        target = _free(home, path)
        if not answer.is_good:
            with target.with_name(f"{target.name}.txt").open("w", encoding="utf-8") as reason:
                reason.write(f"{answer.why}\n")
        path.rename(target)
        self._seen.pop(path.name, None)


def _free(home: Path, path: Path) -> Path:
    """A name in `home` that no earlier file has; endings stay, so that it can be put back to be taken again."""
    target, number = home / path.name, 1
    while target.exists():
        target = home / f"{path.stem}.{number}{path.suffix}"
        number += 1
    return target


def unframed(content: bytes) -> bytes:
    """An HL7 v2 message without the frame and line ends that files have and connections have not."""
    plain = content.removeprefix(b"\xef\xbb\xbf").strip(b"\x0b\x1c\r\n")
    return plain.replace(b"\r\n", b"\r").replace(b"\n", b"\r")
