"""The watched folder: each file that has come to rest is taken in and put away, never twice and never half-written.

Looked at by `desk`. A file is moved to `.taking` before it is read, so that neither is lost if its sender puts another
in its place. What was taken lies in `taken`, what cannot be in `refused` with a text beside it that says why. A
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

TAKING: Final = ".taking"
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
        self._taking = self._folder / TAKING
        self._seen: dict[Path, _Seen] = {}

    def look(self, stop: threading.Event | None = None) -> str:
        """Take in what has come to rest; gives what is wrong with the folder itself, or nothing."""
        try:
            for name in (TAKING, TAKEN, REFUSED):
                (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o750)
            for path, seen in sorted(self._rested(), key=self._turn)[:_MAX_LOOK]:
                if stop is not None and stop.is_set():
                    break
                mine = self._claimed(path, seen)
                if mine is not None:
                    self._take(mine)
        except OSError as error:
            # The folder's name is a setting; a file's may be a patient's.
            log.error("the folder of reports cannot be used", alarm=True, error=error.strerror)
            return f"returned.folder cannot be used: {error.strerror or type(error).__name__}"
        return ""

    def _turn(self, found: tuple[Path, _Seen]) -> tuple[bool, int, str]:
        """What is in hand goes first: it is older than what came under its name since."""
        path, seen = found
        return (path.parent != self._taking, seen.mtime_ns, path.name)

    def _rested(self) -> Iterator[tuple[Path, _Seen]]:
        """Files that have not changed for long enough, with how they are."""
        now = dict(self._there())
        for path, seen in now.items():
            before = self._seen.get(path)
            if before is None or not before.is_same(seen):
                self._seen[path] = seen
                if self._settle_s > 0:
                    continue
            if time.monotonic() - self._seen[path].since_s >= self._settle_s:
                yield path, seen
        for path in self._seen.keys() - now.keys():
            del self._seen[path]

    def _there(self) -> Iterator[tuple[Path, _Seen]]:
        """What a run that was killed had in hand is there as well, whatever its name."""
        for folder in (self._taking, self._folder):
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    if folder == self._folder and _is_to_be_left(path):
                        continue
                    seen = _look_at(path)  # None: renamed meanwhile, it has another name at the next look
                    if seen is not None:
                        yield path, seen

    def _claimed(self, path: Path, seen: _Seen) -> Path | None:
        """Where the file is in hand now; None if it has to wait, or is not the one that was seen at rest."""
        if path.parent == self._taking:
            return path
        mine = self._taking / path.name
        if os.path.lexists(mine):
            return None  # the one before it of this name is not done
        try:
            path.rename(mine)
        except FileNotFoundError:
            return None  # taken away by whoever put it there
        self._seen.pop(path, None)
        found = _look_at(mine)
        if found is None:  # a link or a folder took its place
            mine.rename(_free(self._folder, mine))
            return None
        self._seen[mine] = found
        return mine if found.is_same(seen) else None

    def _take(self, path: Path) -> None:
        try:
            answer = self._answer(path)
        except FileNotFoundError:
            return  # taken away by a person
        except PermissionError:
            answer = Answer(verdict=Verdict.REFUSED, why="this node has no right to read the file")
        except OSError:
            raise
        except Exception:  # the edge of the loop: this file waits, the next is taken
            log.exception("a file that came back could not be handled", alarm=True)
            answer = Answer(verdict=Verdict.LATER, why="")
        if answer.verdict is Verdict.LATER:
            self._seen[path] = replace(self._seen[path], since_s=time.monotonic() + _LATER_S)
            return
        now = _look_at(path)
        if now is not None and now.is_same(self._seen[path]):  # else it was still being written: it is read again
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
        self._seen.pop(path, None)


def _is_to_be_left(path: Path) -> bool:
    return path.name.startswith(".") or path.suffix.lower() in _BEING_WRITTEN


def _look_at(path: Path) -> _Seen | None:
    """The file as it is now; None if there is none, or something else than a file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _Seen(size=found.st_size, mtime_ns=found.st_mtime_ns, inode=found.st_ino, since_s=time.monotonic())


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
