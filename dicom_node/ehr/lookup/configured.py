"""The file in which an installation writes the context that no header has, and where more of it is looked up.

Read when the node starts. The file holds people of the staff with their numbers: it belongs to the node's user alone.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dicom_node.ehr.lookup.known import Known, KnownError, LookupKey, merged, read_known
from dicom_node.ehr.lookup.sources import (
    Answer,
    AskAgain,
    ContextSource,
    Found,
    NoUse,
    ServiceSettings,
    ServiceSource,
    TableSettings,
    TableSource,
)
from dicom_node.ehr.semd.profile import ProfileError, SemdProfile, SemdSite, edition_4, read_edition

LookupSettings = Annotated[TableSettings | ServiceSettings, Field(discriminator="kind")]


class ContextFileError(Exception):
    """The file of the context cannot be used; the message names the file and every fault, no values."""


class ContextSettings(BaseModel):
    """The file: what always holds, where the rest is looked up, and the site's part of the SEMD."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    always: dict[str, object] = Field(
        default_factory=dict, description="performer, author, legal_authenticator, encounter: fields of the context"
    )
    lookup: tuple[LookupSettings, ...] = Field(default=(), description="asked in this order, later ones override")
    semd: SemdSite = SemdSite()
    semd_edition: Path | None = Field(
        default=None, description="file of another edition; the shipped one is the fourth"
    )

    @field_validator("always", mode="after")
    @classmethod
    def _is_context(cls, value: dict[str, object]) -> dict[str, object]:
        return dict(read_known(value))

    def semd_profile(self) -> SemdProfile:
        """Edition and site in one.

        Raises
        ------
        ProfileError
            If the edition's file cannot be used, or the site names codes that the edition does not know.
        """
        edition = edition_4() if self.semd_edition is None else read_edition(str(self.semd_edition))
        try:
            return SemdProfile(edition=edition, site=self.semd)
        except ValidationError as error:
            raise ProfileError("; ".join(fault["msg"] for fault in error.errors())) from error

    def sources(self) -> tuple[ContextSource, ...]:
        """The sources, in their order."""
        return tuple(TableSource(one) if isinstance(one, TableSettings) else ServiceSource(one) for one in self.lookup)


@dataclass(frozen=True, kw_only=True, slots=True)
class LookedUp:
    """What all sources together know, and why some said nothing.

    Attributes
    ----------
    layers : tuple of Known
        To be given to `assemble` between the configuration and the header.
    named_layers : tuple of (str, Known)
        The same for the reconciliation: with the name of the source that said it, no two of them equal, and with the
        number by which a table's row was found.
    ask_again : tuple of str
        Reasons that time may heal: the document should wait.
    no_use : tuple of str
        Reasons that a person has to heal.
    """

    layers: tuple[Known, ...]
    ask_again: tuple[str, ...]
    no_use: tuple[str, ...]
    named_layers: tuple[tuple[str, Known], ...] = ()


def look_up(sources: Sequence[ContextSource], key: LookupKey) -> LookedUp:
    """Ask every source."""
    answers = [source.find(key) for source in sources]
    return LookedUp(
        layers=tuple(answer.known for answer in answers if isinstance(answer, Found)),
        ask_again=tuple(answer.reason for answer in answers if isinstance(answer, AskAgain)),
        no_use=tuple(answer.reason for answer in answers if isinstance(answer, NoUse)),
        named_layers=tuple(_named(sources, answers, key)),
    )


def _named(sources: Sequence[ContextSource], answers: Sequence[Answer], key: LookupKey) -> Iterator[tuple[str, Known]]:
    names = Counter(source.name for source in sources)
    for at, (source, answer) in enumerate(zip(sources, answers, strict=True), 1):
        if isinstance(answer, Found):
            name = source.name if names[source.name] == 1 else f"{source.name} (lookup {at})"
            yield name, merged(source.found_by(key), answer.known)


def read_context_file(path: Path) -> ContextSettings:
    """Read and check the file; a relative path in it is relative to the file.

    Raises
    ------
    ContextFileError
        If it cannot be read or breaks a rule.
    """
    try:
        settings = ContextSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ContextFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ContextFileError(f"{path}: not TOML in UTF-8 ({type(error).__name__})") from None
    except ValidationError as error:
        raise ContextFileError(f"{path}: " + "; ".join(_faults(error))) from None
    return settings.model_copy(update=_beside(settings, path.parent))


def _faults(error: ValidationError) -> list[str]:
    said = []
    for fault in error.errors(include_input=False, include_url=False):
        cause = fault.get("ctx", {}).get("error")
        where = ".".join(map(str, fault["loc"])) or "file"
        said += (
            [f"{where}.{one}" for one in cause.faults]
            if isinstance(cause, KnownError)
            else [f"{where}: {fault['msg']}"]
        )
    return said


def _beside(settings: ContextSettings, folder: Path) -> dict[str, object]:
    tables = tuple(
        one.model_copy(update={"file": folder / one.file}) if isinstance(one, TableSettings) else one
        for one in settings.lookup
    )
    edition = settings.semd_edition
    return {"lookup": tables, "semd_edition": None if edition is None else folder / edition}
