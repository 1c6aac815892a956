"""The files of a MONAI bundle, from a folder or a zip, without unpacking anything.

Called by `training.importing.monai`. Only the few files that are asked for are read, each within a limit; links and
paths that lead out of the bundle are refused, and a zip that holds any is refused as a whole.
"""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Protocol

MOST_WEIGHTS_BYTES = 4 << 30
_MOST_TEXT_BYTES = 16 << 20

_MAX_MEMBERS = 10_000
METADATA = "configs/metadata.json"


class ImportRefused(Exception):
    """The bundle is not imported; the message says what stands in the way, where, and what can be done."""


class Bundle(Protocol):
    """Files of a bundle by their path below its root."""

    def read(self, path: str, *, most_bytes: int = _MOST_TEXT_BYTES) -> bytes | None:
        """Content of a file, None when there is none.

        Raises
        ------
        ImportRefused
            If it is a link, leads out of the bundle, or is too large.
        """


def open_bundle(path: Path) -> Bundle:
    """The bundle in a folder or a zip.

    Raises
    ------
    ImportRefused
        If there is none, or the zip is hostile.
    """
    if path.is_dir():
        bundle: Bundle = _Folder(path)
    elif path.is_file() and zipfile.is_zipfile(path):
        bundle = _Zip(path)
    else:
        raise ImportRefused(f"{path}: neither a folder nor a zip")
    if bundle.read(METADATA) is None:
        raise ImportRefused(f"{path}: no {METADATA}, so it is no MONAI bundle")
    return bundle


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str, *, most_bytes: int = _MOST_TEXT_BYTES) -> bytes | None:
        """See `Bundle.read`."""
        place = self._root
        for part in PurePosixPath(path).parts:
            place = place / part
            if place.is_symlink():
                raise ImportRefused(f"{path}: {part} is a link, which may lead anywhere: put the file itself there")
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ImportRefused(f"{path}: cannot be opened: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > most_bytes:
                raise ImportRefused(f"{path}: no regular file of at most {most_bytes} bytes")
            return opened.read()


class _Zip:
    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except zipfile.BadZipFile as error:
            raise ImportRefused(f"{path}: a broken zip: {error}") from error
        if len(members) > _MAX_MEMBERS:
            raise ImportRefused(f"{path}: {len(members)} files, more than {_MAX_MEMBERS}")
        for member in members:
            _check_member(member)
        self._path = path
        self._members = {member.filename: member for member in members if not member.is_dir()}
        # Zips of bundles hold either the bundle's files or one folder that holds them.
        tops = {PurePosixPath(name).parts[0] for name in self._members}
        self._prefix = f"{tops.pop()}/" if len(tops) == 1 and METADATA not in self._members else ""

    def read(self, path: str, *, most_bytes: int = _MOST_TEXT_BYTES) -> bytes | None:
        """See `Bundle.read`."""
        member = self._members.get(self._prefix + path)
        if member is None:
            return None
        if member.file_size > most_bytes:
            raise ImportRefused(f"{path}: larger than {most_bytes} bytes")
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(member) as opened:
                data = opened.read(member.file_size + 1)
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
            raise ImportRefused(f"{path}: cannot be read from the zip: {error}") from error
        if len(data) != member.file_size:
            raise ImportRefused(f"{path}: its size is not the one that the zip declares")
        return data


def _check_member(member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or (name.parts and ":" in name.parts[0]):
        raise ImportRefused(f"the zip holds {member.filename!r}, a path that leads out of it")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ImportRefused(f"the zip holds the link {member.filename!r}, which may lead anywhere")
