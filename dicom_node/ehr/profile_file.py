"""Profiles of receivers as TOML files: those that come with the product by name, any other by its path.

Used by `ehr.fhir.profile`, `ehr.hl7v2.profile` and `ehr.semd.profile`.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

Profile = TypeVar("Profile")


class ProfileError(Exception):
    """A profile cannot be read or breaks a rule; the message names the file and every fault. Permanent."""


def read_profile_file(name: str, adapter: TypeAdapter[Profile], *, package: str, shipped: tuple[str, ...]) -> Profile:
    """Read the profile `name` of `package`, or the file at that path.

    Raises
    ------
    ProfileError
        When it cannot be read or breaks a rule.
    """
    try:
        return adapter.validate_python(tomllib.loads(_text(name, package, shipped)))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{name}: not valid TOML: {error}") from error
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'profile'}: {fault['msg']}" for fault in error.errors()]
        raise ProfileError(f"{name}: {len(faults)} fault(s)\n" + "\n".join(faults)) from error


def _text(name: str, package: str, shipped: tuple[str, ...]) -> str:
    if name in shipped:
        return resources.files(package).joinpath("profiles", f"{name}.toml").read_text(encoding="utf-8")
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = f"{name}: cannot be read ({type(error).__name__}): name {' or '.join(shipped)}, or a file in UTF-8"
        raise ProfileError(told) from error
