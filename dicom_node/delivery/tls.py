"""The client's side of TLS to an archive, for DIMSE and HTTPS alike (PS3.15 annex B.9, BCP 195)."""

from __future__ import annotations

import ssl

from dicom_node.delivery.archive import ArchiveMisconfigured, TlsClient


def client_context(tls: TlsClient) -> ssl.SSLContext:
    """Make a context of TLS 1.2 or newer, with the archive's certificate and name always checked.

    Raises
    ------
    ArchiveMisconfigured
        When a certificate or key cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.certificate_file is not None:
            context.load_cert_chain(tls.certificate_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ArchiveMisconfigured(f"certificate files of the destination cannot be used: {error}") from error
    return context
