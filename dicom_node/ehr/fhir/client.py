"""`FhirClient`: brings a transaction to a FHIR server, says what became of it, and reads what the server holds.

Made by `ehr.receivers.fhir`, one for each destination. Bodies are `bundle`'s, the meaning of answers is `outcomes`' and
`standing`'s; connection and limits are `ehr.exchange`'s. Here are addresses and the token.
"""

from __future__ import annotations

from typing import Final

from dicom_node.ehr.answer import Answer, Discretion, Retry
from dicom_node.ehr.destination import DestinationMisconfigured, read_secret
from dicom_node.ehr.exchange import HttpAnswer, HttpExchange, NoAnswer
from dicom_node.ehr.fhir.destination import FhirDestination
from dicom_node.ehr.fhir.outcomes import judge
from dicom_node.ehr.fhir.profile import TokenHeader, read_profile

FHIR_JSON: Final = "application/fhir+json"
_LARGEST_CAPABILITIES_BYTES: Final = 32 << 20


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
        self._exchange = HttpExchange(
            connect_timeout_s=destination.connect_timeout_s,
            response_timeout_s=destination.response_timeout_s,
            tls=destination.tls,
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
            answer = self._exchange.ask(
                "POST",
                self._url,
                headers={"Content-Type": FHIR_JSON, **self._headers()},
                max_bytes=self._destination.max_response_bytes,
                content=bundle,
            )
        except NoAnswer as error:
            return Retry(reason=str(error), unsent=error.unsent)
        except DestinationMisconfigured as error:
            return Retry(reason=str(error), unsent=True)
        return judge(answer, discretion)

    def read(self, address: str) -> HttpAnswer:
        """Read or search: `address` is relative to the base of the service.

        Raises
        ------
        NoAnswer
            When no whole answer came.
        DestinationMisconfigured
            When there is no token where the settings say.
        """
        # A search that the server remembers from before the transaction would say that nothing is there.
        headers = {"Cache-Control": "no-cache", **self._headers()}
        return self._exchange.ask(
            "GET", f"{self._url}/{address}", headers=headers, max_bytes=self._destination.max_response_bytes
        )

    def capabilities(self) -> HttpAnswer:
        """Ask for the CapabilityStatement (R4 http, section 3.1.0.15), which is large; raises as `read`."""
        return self._exchange.ask(
            "GET", f"{self._url}/metadata", headers=self._headers(), max_bytes=_LARGEST_CAPABILITIES_BYTES
        )

    def close(self) -> None:
        """Close connections that were kept alive."""
        self._exchange.close()

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": FHIR_JSON}
        if self._destination.sends_token:
            token = read_secret(self._destination.token_env, self._destination.token_file)
            headers[self._header.name] = f"{self._header.scheme} {token}".strip()
        return headers
