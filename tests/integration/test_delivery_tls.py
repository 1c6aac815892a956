"""TLS to archives: their certificate is always checked, ours is shown where it is asked for."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import ArchiveUnreachable, DicomwebDestination, PacsDestination, Sent, TlsClient
from tests.archives import ScriptedServer, StoreScp, outbound_set
from tests.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "hospital")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def pacs(server: StoreScp, tls: TlsClient | None) -> PacsDestination:
    return PacsDestination(
        name="tls", host="127.0.0.1", port=server.dimse_port, called_ae=server.ae_title, tls=tls, response_timeout_s=5
    )


def test_mutual_tls_to_a_dimse_archive(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("archive")
    own_certificate, own_key = authority.issue("node")
    options = ("+xa", "+tls", str(key), str(certificate), "+cf", str(authority.certificate))
    objects = outbound_set(tmp_path, 2)
    with StoreScp(tmp_path / "scp", options=options) as server:
        right = TlsClient(ca_file=authority.certificate, certificate_file=own_certificate, key_file=own_key)
        assert [outcome.sent for outcome in open_archive(pacs(server, right)).send(objects)] == [Sent.ACCEPTED] * 2
        unknown_archive = right.model_copy(update={"ca_file": stranger.certificate})
        unknown_node = TlsClient(ca_file=authority.certificate)
        for wrong in (unknown_archive, unknown_node, None):
            outcomes = open_archive(pacs(server, wrong)).send(objects)
            assert [outcome.sent for outcome in outcomes] == [Sent.RETRY] * 2
            assert "TLS" in outcomes[0].reason
        assert len(server.files()) == 2


def test_a_certificate_for_another_host_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("elsewhere", alternative="DNS:elsewhere.example")
    options = ("+xa", "+tls", str(key), str(certificate), "-ic")
    with StoreScp(tmp_path / "scp", options=options) as server:
        (outcome,) = open_archive(pacs(server, TlsClient(ca_file=authority.certificate))).send(
            outbound_set(tmp_path, 1)
        )
    assert outcome.sent is Sent.RETRY


def test_https_checks_the_certificate(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("web")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def script(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    def destination(tls: TlsClient | None) -> DicomwebDestination:
        return DicomwebDestination(name="web", kind="dicomweb", url=f"https://localhost:{server.port}/", tls=tls)

    with ScriptedServer(script) as server:
        trusting = open_archive(destination(TlsClient(ca_file=authority.certificate)))
        trusting.echo()
        trusting.close()
        for tls in (TlsClient(ca_file=stranger.certificate), None):
            wary = open_archive(destination(tls))
            with pytest.raises(ArchiveUnreachable, match="TLS"):
                wary.echo()
            wary.close()
