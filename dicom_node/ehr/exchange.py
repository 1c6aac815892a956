"""One HTTP request to a receiver of the record and its whole answer, bounded in size and time.

Used by `ehr.fhir.client` and `ehr.semd.client`. Redirects are never followed: patient data and token go to the address
that a person has written down, or nowhere. What an answer means is decided by those who asked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import httpx

from dicom_node.delivery.archive import TlsClient
from dicom_node.delivery.retry_after import retry_after_s
from dicom_node.delivery.tls import client_context

_MAX_TOLD: Final = 60


class NoAnswer(Exception):
    """The exchange ended without a whole answer; the message is the reason, without patient data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpAnswer:
    """A whole response, of bounded size.

    Attributes
    ----------
    status : int
    body : bytes
    location : str
        Content of the header of that name.
    etag : str
        Content of the header of that name.
    redirect : str
        Host to which a redirect leads; empty when it is none.
    retry_after_s : float or None
    """

    status: int
    body: bytes
    location: str = ""
    etag: str = ""
    redirect: str = ""
    retry_after_s: float | None = None


class HttpExchange:
    """A client of one receiver. Calls block; one instance may be used by one thread at a time.

    Raises
    ------
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    def __init__(self, *, connect_timeout_s: float, response_timeout_s: float, tls: TlsClient | None) -> None:
        self._response_timeout_s = response_timeout_s
        self._http = httpx.Client(
            timeout=httpx.Timeout(response_timeout_s, connect=connect_timeout_s),
            verify=client_context(tls) if tls else True,
            follow_redirects=False,
            trust_env=False,  # no proxy, netrc or certificate that a person did not write into the settings
        )

    def ask(
        self, method: str, url: str, *, headers: Mapping[str, str], max_bytes: int, content: bytes | None = None
    ) -> HttpAnswer:
        """Make one request and read its answer.

        Raises
        ------
        NoAnswer
            When no whole answer of at most `max_bytes` came in time.
        """
        wanted = {"Accept-Encoding": "identity", **headers}
        request = self._http.build_request(method, url, headers=wanted, content=content)
        deadline_s = time.monotonic() + self._response_timeout_s
        try:
            response = self._http.send(request, stream=True)
            try:
                body = _read(response, deadline_s, max_bytes)
            finally:
                response.close()
        except httpx.TimeoutException:
            raise NoAnswer("the server was silent for too long: see its log, or raise response_timeout_s") from None
        except httpx.ConnectError as error:
            raise NoAnswer(_no_connection(url, error)) from None
        except httpx.HTTPError as error:
            raise NoAnswer(f"the exchange with the server broke off ({type(error).__name__})") from None
        return _answer(response, body)

    def close(self) -> None:
        """Close connections that were kept alive."""
        self._http.close()


def _answer(response: httpx.Response, body: bytes) -> HttpAnswer:
    location = response.headers.get("Location", "")
    return HttpAnswer(
        status=response.status_code,
        body=body,
        location=location,
        etag=response.headers.get("ETag", ""),
        redirect=_host_of(location) if response.is_redirect else "",
        retry_after_s=retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC)),
    )


def _no_connection(url: str, error: httpx.ConnectError) -> str:
    where, told = urlsplit(url).netloc, str(error)[:_MAX_TOLD] or type(error).__name__
    return f"no connection to {where}: is the server running, and are address and TLS right? ({told})"


def _read(response: httpx.Response, deadline_s: float, max_bytes: int) -> bytes:
    """Read the body as it comes, undecoded: a compressed one may be a bomb, and none was asked for."""
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise NoAnswer("the server's answer is larger than max_response_bytes: is url the right address?")
        if time.monotonic() > deadline_s:
            raise NoAnswer("the server did not finish its answer within response_timeout_s")
    return bytes(body)


def _host_of(location: str) -> str:
    with suppress(ValueError):
        return urlsplit(location).hostname or "the same host"
    return "an unreadable address"
