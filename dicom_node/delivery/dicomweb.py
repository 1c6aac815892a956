"""An archive reached by DICOMweb: the `Archive` of a `DicomwebDestination`, by STOW-RS and QIDO-RS through httpx.

Made by `delivery.open_archive`. Bodies and answers are made and read in `delivery.stow`; here are connections,
credentials, limits of size and time, and what an HTTP status means. Redirects are never followed: images and
credentials go to the address that a person has written down, or nowhere.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, urlsplit

import httpx
from pydicom.uid import generate_uid

from dicom_node import stored_secret
from dicom_node.delivery import stow
from dicom_node.delivery.archive import (
    ArchiveError,
    ArchiveMisconfigured,
    ArchiveRejected,
    ArchiveUnreachable,
    CommitmentResult,
    Confirm,
    DicomwebDestination,
    OutboundObject,
    SendOutcome,
    Sent,
)
from dicom_node.delivery.retry_after import retry_after_s
from dicom_node.delivery.tls import client_context
from inference.findings import SeriesUid, SopUid, StudyUid

JSON: Final = "application/dicom+json"
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
MAX_TOLD: Final = 60  # of an error text of the TLS library
WORTH_RETRYING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
NO_QUERY: Final = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
NOT_ALLOWED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
FOR_EVERYTHING: Final = NOT_ALLOWED | {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
SUCCESS: Final = range(200, 300)
CLIENT_ERROR: Final = range(400, 500)
REMEDIES: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "check the credentials of the destination",
    HTTPStatus.FORBIDDEN: "allow this node's account to store and query there",
    HTTPStatus.NOT_FOUND: "url must be the root of the DICOMweb service, without /studies",
    HTTPStatus.METHOD_NOT_ALLOWED: "url must be the root of a DICOMweb service that allows it",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "raise the limit of request size there",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the service does not take DICOM files by STOW-RS",
    HTTPStatus.INSUFFICIENT_STORAGE: "its disk is full",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """A whole response, of bounded size."""

    status: int
    content_type: str
    body: bytes
    retry_after_s: float | None
    redirect: str

    def data_sets(self) -> list[stow.Attributes]:
        """Read the body as DICOM JSON or XML; raises ValueError when it is neither."""
        if "xml" in self.content_type and "html" not in self.content_type:
            return stow.read_xml(self.body)
        return stow.read_json(self.body)


def _secret(variable: str | None, file: Path | None, *, as_header: bool) -> str:
    try:
        return stored_secret.read_secret(variable, file, as_header=as_header)
    except stored_secret.SecretUnusable as error:
        raise ArchiveMisconfigured(str(error)) from None


def _authorization(destination: DicomwebDestination) -> dict[str, str]:
    if destination.username is not None:
        password = _secret(destination.password_env, destination.password_file, as_header=False)
        pair = base64.b64encode(f"{destination.username}:{password}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}"}
    if destination.sends_credentials:
        token = _secret(destination.token_env, destination.token_file, as_header=True)
        return {"Authorization": f"Bearer {token}"}
    return {}


def _host_of(location: str) -> str:
    with suppress(ValueError):
        return urlsplit(location).hostname or "the same host"
    return "an unreadable address"


def _explain_status(answer: _Answer) -> str:
    """Say what an HTTP status means for a person who can mend it."""
    if answer.redirect:
        return f"the archive redirects to {answer.redirect} (HTTP {answer.status}): set url to the final address"
    remedy = REMEDIES.get(answer.status, "see its log")
    return f"the archive answered HTTP {answer.status}: {remedy}"


def _may_be_one_object(answer: _Answer) -> bool:
    """Whether the status may be due to one object of many: the others must not wait or be refused with it."""
    if answer.status in FOR_EVERYTHING:
        return False
    return _is_permanent(answer) or answer.status == HTTPStatus.INTERNAL_SERVER_ERROR


def _is_permanent(answer: _Answer) -> bool:
    return answer.status in CLIENT_ERROR and answer.status not in WORTH_RETRYING


class DicomwebArchive:
    """`Archive` over DICOMweb; keeps connections alive between calls.

    Raises
    ------
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    def __init__(self, destination: DicomwebDestination) -> None:
        self._destination = destination
        self._http = httpx.Client(
            timeout=httpx.Timeout(
                destination.response_timeout_s, connect=destination.connect_timeout_s, write=destination.idle_timeout_s
            ),
            verify=client_context(destination.tls) if destination.tls else True,
            follow_redirects=False,
            trust_env=False,  # no proxy, netrc or certificate that a person did not write into the settings
        )

    def send(self, objects: Sequence[OutboundObject]) -> tuple[SendOutcome, ...]:
        """Store in requests of about `max_request_bytes`."""
        outcomes: dict[SopUid, SendOutcome] = {}
        for part in self._requests(objects, outcomes):
            outcomes.update((outcome.sop_instance_uid, outcome) for outcome in self._store(part))
        return tuple(outcomes[item.sop_instance_uid] for item in objects)

    def _requests(
        self, objects: Sequence[OutboundObject], outcomes: dict[SopUid, SendOutcome]
    ) -> Iterator[list[OutboundObject]]:
        """Cut `objects` into requests; those whose file is not there get their outcome at once."""
        part: list[OutboundObject] = []
        filled_bytes = 0
        for item in objects:
            try:
                size_bytes = item.path.stat().st_size
            except OSError as error:
                outcomes[item.sop_instance_uid] = _unreadable(item, error)
                continue
            if part and filled_bytes + size_bytes > self._destination.max_request_bytes:
                yield part
                part, filled_bytes = [], 0
            part.append(item)
            filled_bytes += size_bytes
        if part:
            yield part

    def _store(self, objects: Sequence[OutboundObject]) -> list[SendOutcome]:
        """One request; objects of which its answer says nothing go again, each alone, where that may help."""
        try:
            body = stow.multipart(objects)
            headers = {"Content-Type": body.content_type, "Content-Length": str(body.length_bytes)}
            answer = self._exchange("POST", "/studies", headers=headers, content=body)
        except OSError as error:
            return [_unreadable(item, error) for item in objects]
        except ArchiveError as error:
            return _for_all(objects, Sent.RETRY, str(error))
        told = self._told(answer, objects)
        silent = [item for item in objects if item.sop_instance_uid not in told]
        if silent and len(objects) > 1 and (told or _may_be_one_object(answer)):
            alone = [outcome for item in silent for outcome in self._store([item])]
        else:
            alone = _for_all(silent, *self._verdict(answer), answer.retry_after_s)
        told |= {outcome.sop_instance_uid: outcome for outcome in alone}
        return [told[item.sop_instance_uid] for item in objects]

    @staticmethod
    def _told(answer: _Answer, objects: Sequence[OutboundObject]) -> dict[SopUid, SendOutcome]:
        """What the archive says of single objects: archives do so with success and refusal alike."""
        if answer.status in SUCCESS or _is_permanent(answer):
            with suppress(ValueError, IndexError):
                return stow.store_outcomes(answer.data_sets()[0], objects)
        return {}

    @staticmethod
    def _verdict(answer: _Answer) -> tuple[Sent, str]:
        """What the HTTP status says of objects that the answer does not mention."""
        if answer.status not in SUCCESS:
            return (Sent.REFUSED if _is_permanent(answer) else Sent.RETRY), _explain_status(answer)
        if not answer.body.strip():
            return Sent.ACCEPTED, ""
        return (
            Sent.RETRY,
            "the answer is not one of STOW-RS, or does not mention the object: is url the root of the service?",
        )

    def request_commitment(
        self,
        objects: Sequence[OutboundObject],
        *,
        register: Callable[[str], None],
        answered: Callable[[CommitmentResult], None],
    ) -> bool:
        """Storage commitment is not used over DICOMweb: always False."""
        return False

    def confirm(self, objects: Sequence[OutboundObject]) -> frozenset[SopUid] | None:
        """Query series by series; what is missing from a list that is not empty is asked for by name."""
        if self._destination.confirm is Confirm.NONE:
            return None
        by_series: dict[tuple[StudyUid, SeriesUid], list[SopUid]] = {}
        for item in objects:
            by_series.setdefault((item.study_uid, item.series_uid), []).append(item.sop_instance_uid)
        listed: set[SopUid] = set()
        for (study_uid, series_uid), wanted in by_series.items():
            address = f"/studies/{_quoted(study_uid)}/series/{_quoted(series_uid)}/instances"
            held = self._listed(address)
            if held is None:
                return None
            listed.update(uid for uid in wanted if uid in held)
            for uid in wanted if held else ():
                if uid not in held and uid in (self._listed(f"{address}?SOPInstanceUID={_quoted(uid)}") or ()):
                    listed.add(uid)
        return frozenset(listed)

    def _listed(self, address: str) -> set[str] | None:
        found = self._query(address)
        return None if found is None else {uid for item in found if (uid := stow.first(item, stow.SOP_UID))}

    def count_instances(self, study_uid: StudyUid) -> int | None:
        """Ask for Number of Study Related Instances (0020,1208); 0 for an unknown study."""
        found = self._query(f"/studies?StudyInstanceUID={_quoted(study_uid)}&includefield=00201208")
        if found is None:
            return None
        ours = [item for item in found if stow.first(item, stow.STUDY_UID) == study_uid]
        return stow.number(ours[0], stow.NUMBER_OF_STUDY_RELATED_INSTANCES) if ours else 0

    def echo(self) -> None:
        """Query for a study that nobody has; without query, an answer of any kind that is not a refusal.

        Raises
        ------
        ArchiveError
            When the service is not there, or does not let this node in.
        """
        offered = self._query(f"/studies?StudyInstanceUID={generate_uid()}&limit=1") is not None
        if not offered and self._destination.confirm is not Confirm.NONE:
            raise ArchiveRejected('the archive offers no QIDO-RS: set confirm = "none", or enable it there')

    def close(self) -> None:
        """Close connections that were kept alive."""
        self._http.close()

    def _query(self, address: str) -> list[stow.Attributes] | None:
        """Matches of a QIDO-RS search; None where the service has none.

        Raises
        ------
        ArchiveUnreachable
            When it cannot be asked now.
        """
        answer = self._exchange("GET", address)
        if answer.status == HTTPStatus.NO_CONTENT:
            return []
        if answer.status in NO_QUERY:
            return None
        if answer.status in NOT_ALLOWED:
            raise ArchiveRejected(_explain_status(answer))
        if answer.status == HTTPStatus.NOT_FOUND and "/series/" in address:
            return []
        if answer.status != HTTPStatus.OK:
            raise ArchiveUnreachable(_explain_status(answer))
        try:
            return stow.read_json(answer.body)
        except ValueError:
            told = "the answer is not one of QIDO-RS: is url the root of the DICOMweb service?"
            raise ArchiveUnreachable(told) from None

    def _exchange(
        self,
        method: str,
        address: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        content: Iterable[bytes] | None = None,
    ) -> _Answer:
        """One request and its whole answer, bounded in size and time."""
        accept = {"Accept": JSON, "Accept-Encoding": "identity", **_authorization(self._destination)}
        request = self._http.build_request(
            method, self._destination.root + address, headers={**accept, **headers}, content=content
        )
        try:
            response = self._http.send(request, stream=True)
            try:
                body = self._read(response)
            finally:
                response.close()
        except httpx.TimeoutException:
            raise ArchiveUnreachable(
                "the archive was silent for too long: see its log, or raise idle_timeout_s"
            ) from None
        except httpx.ConnectError as error:
            where = urlsplit(self._destination.url).netloc
            told = f"no connection to {where}: is the archive running, and are address and TLS right? ({_short(error)})"
            raise ArchiveUnreachable(told) from None
        except httpx.HTTPError as error:
            raise ArchiveUnreachable(f"the exchange with the archive broke off ({type(error).__name__})") from None
        return _Answer(
            status=response.status_code,
            content_type=response.headers.get("Content-Type", "").lower(),
            body=body,
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC)),
            redirect=_host_of(response.headers.get("Location", "")) if response.is_redirect else "",
        )

    def _read(self, response: httpx.Response) -> bytes:
        """Read the body as it comes, undecoded: a compressed one may be a bomb, and none was asked for."""
        deadline_s = time.monotonic() + self._destination.response_timeout_s
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > self._destination.max_response_bytes:
                raise ArchiveUnreachable("the archive's answer is larger than max_response_bytes: this is no DICOMweb")
            if time.monotonic() > deadline_s:
                raise ArchiveUnreachable("the archive did not finish its answer within response_timeout_s")
        return bytes(body)


def _quoted(uid: str) -> str:
    return quote(uid, safe="")


def _short(error: Exception) -> str:
    return str(error)[:MAX_TOLD] or type(error).__name__


def _unreadable(item: OutboundObject, error: OSError) -> SendOutcome:
    reason = f"the file to send cannot be read ({type(error).__name__})"
    return SendOutcome(sop_instance_uid=item.sop_instance_uid, sent=Sent.RETRY, reason=reason)


def _for_all(
    objects: Sequence[OutboundObject], sent: Sent, reason: str, retry_after_s: float | None = None
) -> list[SendOutcome]:
    return [
        SendOutcome(sop_instance_uid=item.sop_instance_uid, sent=sent, reason=reason, retry_after_s=retry_after_s)
        for item in objects
    ]
