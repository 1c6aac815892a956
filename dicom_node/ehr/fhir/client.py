"""`FhirClient`: brings a transaction to a FHIR server and says what became of it.

Made by the outbox, one for each destination. Bodies are `bundle`'s, the meaning of answers is `outcomes`'; here are the
connection, the token and limits of size and time. Redirects are never followed: patient data and token go to the
address that a person has written down, or nowhere.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import httpx

from dicom_node.delivery.retry_after import retry_after_s
from dicom_node.delivery.tls import client_context
from dicom_node.ehr.answer import Answer, Discretion, Retry
from dicom_node.ehr.destination import DestinationMisconfigured, read_secret
from dicom_node.ehr.fhir.destination import FhirDestination
from dicom_node.ehr.fhir.outcomes import HttpAnswer, judge
from dicom_node.ehr.fhir.profile import TokenHeader, read_profile

FHIR_JSON: Final = "application/fhir+json"
_MAX_TOLD: Final = 60


class _NoAnswer(Exception):
    """The exchange ended without a whole answer; the message is the reason."""


class FhirClient:
    """A FHIR R4 server. Calls block; one instance may be used by one thread at a time.

    Raises
    ------
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    ProfileError
        When the profile named in the settings cannot be read.
    """

    def __init__(self, destination: FhirDestination) -> None:
        self._destination = destination
        profile = read_profile(destination.document)
        self._header: TokenHeader = profile.token_header
        self._url = "/".join(part.strip("/") for part in (destination.url, profile.path) if part)
        self._http = httpx.Client(
            timeout=httpx.Timeout(destination.response_timeout_s, connect=destination.connect_timeout_s),
            verify=client_context(destination.tls) if destination.tls else True,
            follow_redirects=False,
            trust_env=False,  # no proxy, netrc or certificate that a person did not write into the settings
        )

    def send(self, bundle: bytes, discretion: Discretion) -> Answer:
        """Post one transaction; faults of the network are `Retry`, never raised.

        Parameters
        ----------
        bundle : bytes
            As `write_bundle` gave it.
        discretion : Discretion
            Of the same request (`answer.discretion_of`).
        """
        try:
            return judge(self._exchange(bundle), discretion)
        except (_NoAnswer, DestinationMisconfigured) as error:
            return Retry(reason=str(error))

    def close(self) -> None:
        """Close connections that were kept alive."""
        self._http.close()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": FHIR_JSON, "Accept": FHIR_JSON, "Accept-Encoding": "identity"}
        if self._destination.sends_token:
            token = read_secret(self._destination.token_env, self._destination.token_file)
            headers[self._header.name] = f"{self._header.scheme} {token}".strip()
        return headers

    def _exchange(self, body: bytes) -> HttpAnswer:
        """One request and its whole answer, bounded in size and time."""
        request = self._http.build_request("POST", self._url, headers=self._headers(), content=body)
        deadline_s = time.monotonic() + self._destination.response_timeout_s
        try:
            response = self._http.send(request, stream=True)
            try:
                content = self._read(response, deadline_s)
            finally:
                response.close()
        except httpx.TimeoutException:
            raise _NoAnswer("the server was silent for too long: see its log, or raise response_timeout_s") from None
        except httpx.ConnectError as error:
            raise _NoAnswer(self._no_connection(error)) from None
        except httpx.HTTPError as error:
            raise _NoAnswer(f"the exchange with the server broke off ({type(error).__name__})") from None
        return HttpAnswer(
            status=response.status_code,
            body=content,
            location=response.headers.get("Location", ""),
            redirect=_host_of(response.headers.get("Location", "")) if response.is_redirect else "",
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC)),
        )

    def _no_connection(self, error: httpx.ConnectError) -> str:
        where, told = urlsplit(self._url).netloc, str(error)[:_MAX_TOLD] or type(error).__name__
        return f"no connection to {where}: is the server running, and are address and TLS right? ({told})"

    def _read(self, response: httpx.Response, deadline_s: float) -> bytes:
        """Read the body as it comes, undecoded: a compressed one may be a bomb, and none was asked for."""
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > self._destination.max_response_bytes:
                raise _NoAnswer("the server's answer is larger than max_response_bytes: this is no FHIR")
            if time.monotonic() > deadline_s:
                raise _NoAnswer("the server did not finish its answer within response_timeout_s")
        return bytes(body)


def _host_of(location: str) -> str:
    with suppress(ValueError):
        return urlsplit(location).hostname or "the same host"
    return "an unreadable address"
