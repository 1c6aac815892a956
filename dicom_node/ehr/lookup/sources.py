"""Where context is looked up: a table as CSV, a service over HTTP. Each gives a typed answer and raises nothing.

Built from the settings in `ehr.lookup.configured`; whoever prepares documents asks them in their order. A service may
answer late or not at all: the answer says whether asking again can help.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol, TypeAlias

import httpx
from pydantic import BaseModel, ConfigDict, Field, HttpUrl

from dicom_node.delivery.archive import TlsClient
from dicom_node.delivery.tls import client_context
from dicom_node.ehr.destination import DestinationMisconfigured, read_secret
from dicom_node.ehr.lookup.known import Known, KnownError, LookupKey, from_columns, read_known

_OK: Final = 200
_NOTHING: Final = (204, 404)
_LATER: Final = (408, 425, 429)
_SERVER: Final = 500
_LARGEST_ANSWER_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The source knows the patient or study."""

    known: Known


@dataclass(frozen=True, kw_only=True, slots=True)
class NotKnown:
    """The source was asked and knows nothing of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AskAgain:
    """No answer now; asking later can help."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NoUse:
    """The source's answer cannot be used until a person corrects something: the reason names what, never a value."""

    reason: str


Answer: TypeAlias = Found | NotKnown | AskAgain | NoUse


class ContextSource(Protocol):
    """Something that knows more of a patient or a study than its DICOM header."""

    @property
    def name(self) -> str:
        """What people call it, in reasons."""

    def found_by(self, key: LookupKey) -> Known:
        """What an answer under `key` says by being found at all."""

    def find(self, key: LookupKey) -> Answer:
        """What is known under `key`."""

    def close(self) -> None:
        """Let go of what asking left open."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TableSettings(_Settings):
    """A CSV file in UTF-8, one row for each patient or study; its columns are fields of the context."""

    kind: Literal["csv"]
    file: Path
    key: Literal["patient_id", "accession_number", "study_uid"] = Field(
        default="patient_id",
        description="the column by which rows are found, and what of the study is looked for in it",
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","


class ServiceSettings(_Settings):
    """A service that answers GET with JSON of the context's fields, or 404."""

    kind: Literal["http"]
    url: HttpUrl
    token_env: str | None = None
    token_file: Path | None = None
    timeout_s: float = Field(default=10.0, gt=0, le=300)
    tls: TlsClient | None = None


class TableSource:
    """A table, read again for each question: it is small, and whoever keeps it replaces it while the node runs."""

    def __init__(self, settings: TableSettings) -> None:
        self._settings = settings

    def close(self) -> None:
        """Nothing: a file is closed when it was read."""

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"table {self._settings.file.name}"

    def found_by(self, key: LookupKey) -> Known:
        """The number in the column by which rows are found."""
        if self._settings.key == "patient_id":
            return {"patient": {"identifier": {"value": key.patient_id}}}
        if self._settings.key == "accession_number":
            return {"order": {"accession_number": key.accession_number}}
        return {}

    def find(self, key: LookupKey) -> Answer:
        """The row of `key`; two rows for one key are of no use, for nobody knows which is right."""
        wanted = getattr(key, self._settings.key)
        if not wanted:
            return NotKnown()
        try:
            rows = self._rows(wanted)
            if not rows:
                return NotKnown()
            if len(rows) > 1:
                return NoUse(reason=f"the table {self._settings.file.name} has {len(rows)} rows for one key")
            return Found(known=read_known(from_columns(rows[0])))
        except OSError as error:
            return AskAgain(reason=f"the table {self._settings.file.name} cannot be read: {error.strerror}")
        except (UnicodeDecodeError, csv.Error) as error:
            return NoUse(reason=f"the table {self._settings.file.name} is no CSV in UTF-8 ({type(error).__name__})")
        except KnownError as error:
            return NoUse(reason=f"the table {self._settings.file.name}: {error}")

    def _rows(self, wanted: str) -> list[Mapping[str, str]]:
        with self._settings.file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(
                lines, delimiter=self._settings.delimiter, restkey="(more)", restval="", strict=True
            )
            names = reader.fieldnames or ()
            if self._settings.key not in names:
                raise KnownError((f"there is no column {self._settings.key}",))
            found = [row for row in reader if row[self._settings.key].strip() == wanted]
        if any("(more)" in row for row in found):
            raise KnownError(("a row has more cells than there are columns",))
        return [{name: text for name, text in row.items() if name != self._settings.key} for row in found]


class ServiceSource:
    """A service over HTTP; redirects are not followed, proxies of the environment not used."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._http = httpx.Client(
            timeout=settings.timeout_s,
            verify=client_context(settings.tls) if settings.tls else True,
            follow_redirects=False,
            trust_env=False,
        )

    @property
    def name(self) -> str:
        """The host that was asked."""
        return f"service {self._settings.url.host}"

    def found_by(self, key: LookupKey) -> Known:
        """Nothing: which of the numbers it went by is the service's affair."""
        return {}

    def close(self) -> None:
        """Close connections that were kept alive."""
        self._http.close()

    def find(self, key: LookupKey) -> Answer:
        """What the service answers to ``?patient_id=...&accession_number=...&study_uid=...``."""
        try:
            status, body = self._asked(key)
        except httpx.TimeoutException:
            return AskAgain(reason="the lookup service was silent for too long")
        except httpx.HTTPError as error:
            return AskAgain(reason=f"the lookup service was not reached ({type(error).__name__})")
        except DestinationMisconfigured as error:
            return NoUse(reason=str(error))
        if status == _OK:
            return _from_json(body)
        if status in _NOTHING:
            return NotKnown()
        if status in _LATER or status >= _SERVER:
            return AskAgain(reason=f"the lookup service answered with status {status}")
        return NoUse(reason=f"the lookup service answered with status {status}: see its address and token")

    def _asked(self, key: LookupKey) -> tuple[int, bytes]:
        asked = {"patient_id": key.patient_id, "accession_number": key.accession_number, "study_uid": key.study_uid}
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._settings.token_env or self._settings.token_file:
            headers["Authorization"] = f"Bearer {read_secret(self._settings.token_env, self._settings.token_file)}"
        deadline_s = time.monotonic() + self._settings.timeout_s
        parameters = {name: value for name, value in asked.items() if value}
        with self._http.stream("GET", str(self._settings.url), params=parameters, headers=headers) as response:
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > _LARGEST_ANSWER_BYTES:
                    raise DestinationMisconfigured("the lookup service's answer is far too large for a context")
                if time.monotonic() > deadline_s:
                    raise httpx.ReadTimeout("the answer did not end in time")
            return response.status_code, bytes(body)


def _from_json(body: bytes) -> Answer:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return NoUse(reason="the lookup service's answer is not JSON")
    if not isinstance(said, dict):
        return NoUse(reason="the lookup service's answer is no object")
    try:
        return Found(known=read_known(said))
    except (KnownError, RecursionError) as error:
        reason = str(error) if isinstance(error, KnownError) else "nested too deep"
        return NoUse(reason=f"the lookup service's answer: {reason}")
