"""One HTTP request to a receiver of the record and its whole answer, bounded in size and time.

Used by `ehr.fhir.client` and `ehr.semd.client`. Redirects are never followed and proxies of the environment never used:
patient data and token go to the address that a person has written down, or nowhere. What an answer means is decided by
those who asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import httpcore
import httpx

from dicom_node.delivery.archive import TlsClient
from dicom_node.delivery.retry_after import retry_after_s
from dicom_node.delivery.tls import client_context
from dicom_node.ehr.wire import BoundedBackend, Deadline

_MAX_TOLD: Final = 60
_REDIRECT: Final = range(300, 400)


class NoAnswer(Exception):
    """The exchange ended without a whole answer; the message is the reason, without patient data.

    Attributes
    ----------
    unsent : bool
        There never was a connection: nothing has left.
    """

    def __init__(self, reason: str, *, unsent: bool = False) -> None:
        super().__init__(reason)
        self.unsent = unsent


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

    Parameters
    ----------
    connect_timeout_s : float
        Until a TCP connection is there, and again until TLS is.
    response_timeout_s : float
        From then on until the request is written and its answer read, whatever the server does.
    tls : TlsClient or None

    Raises
    ------
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    def __init__(self, *, connect_timeout_s: float, response_timeout_s: float, tls: TlsClient | None) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._deadline = Deadline(response_timeout_s)
        self._connections = httpcore.ConnectionPool(
            ssl_context=client_context(tls) if tls else httpx.create_ssl_context(trust_env=False),
            network_backend=BoundedBackend(self._deadline),
        )

    def ask(
        self, method: str, url: str, *, headers: Mapping[str, str], max_bytes: int | None, content: bytes | None = None
    ) -> HttpAnswer:
        """Make one request and read its answer.

        Parameters
        ----------
        max_bytes : int or None
            Largest body that is an answer; None leaves the body unread, where only the status is asked for.

        Raises
        ------
        NoAnswer
            When no whole answer came in time.
        """
        # Nothing compressed is asked for: it may be a bomb.
        wanted = {"Accept-Encoding": "identity", "User-Agent": "radnode", **headers}
        timeouts = {"connect": self._connect_timeout_s}
        self._deadline.begin()
        begun = False
        try:
            with self._connections.stream(
                method, _address(url), headers=list(wanted.items()), content=content, extensions={"timeout": timeouts}
            ) as response:
                begun = True
                return _answer(response, b"" if max_bytes is None else _read(response, max_bytes))
        except httpcore.ConnectTimeout:
            raise NoAnswer(_no_connection(url, "no answer within connect_timeout_s"), unsent=True) from None
        except httpcore.TimeoutException:
            raise NoAnswer(_UNFINISHED if begun else _SILENT) from None
        except httpcore.ConnectError as error:
            told = str(error)[:_MAX_TOLD] or type(error).__name__
            raise NoAnswer(_no_connection(url, told), unsent=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise NoAnswer(f"the exchange with the server broke off ({type(error).__name__})") from None
        except (httpx.InvalidURL, UnicodeError):
            raise NoAnswer(_no_connection(url, "this is no name of a host"), unsent=True) from None

    def close(self) -> None:
        """Close connections that were kept alive."""
        self._connections.close()


_SILENT: Final = "the server was silent for too long: see its log, or raise response_timeout_s"
_UNFINISHED: Final = "the server did not finish its answer within response_timeout_s"


def _address(url: str) -> httpcore.URL:
    known = httpx.URL(url)  # escapes what no address may hold, and names in other scripts
    return httpcore.URL(scheme=known.raw_scheme, host=known.raw_host, port=known.port, target=known.raw_path)


def _answer(response: httpcore.Response, body: bytes) -> HttpAnswer:
    headers = httpx.Headers(response.headers)
    location = headers.get("Location", "")
    return HttpAnswer(
        status=response.status,
        body=body,
        location=location,
        etag=headers.get("ETag", ""),
        redirect=_host_of(location) if response.status in _REDIRECT else "",
        retry_after_s=retry_after_s(headers.get("Retry-After"), datetime.now(UTC)),
    )


def _no_connection(url: str, told: str) -> str:
    where = urlsplit(url).netloc
    return f"no connection to {where}: is the server running, and are address and TLS right? ({told})"


def _read(response: httpcore.Response, max_bytes: int) -> bytes:
    body = bytearray()
    for chunk in response.iter_stream():
        body += chunk
        if len(body) > max_bytes:
            raise NoAnswer("the server's answer is larger than max_response_bytes: is url the right address?")
    return bytes(body)


def _host_of(location: str) -> str:
    with suppress(ValueError):
        return urlsplit(location).hostname or "the same host"
    return "an unreadable address"
