"""A draft goes out, the physician's system signs it with a GOST key, and the signature that comes back is verified."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicom_node.ehr.semd import write_semd
from dicom_node.ehr.signature import SignatureStanding, verify_detached
from tests.conftest import missing, require_tool
from tests.semd_cases import PROFILE, make_document

GOST = ("gost2012_256", "-pkeyopt", "paramset:A")
RSA = ("RSA", "-pkeyopt", "rsa_keygen_bits:2048")


@dataclass(frozen=True)
class PhysiciansSystem:
    """What signs: a certification authority and one certificate, in a folder of its own."""

    openssl: str
    folder: Path
    digest: str

    def run(self, *arguments: str) -> None:
        subprocess.run([self.openssl, *arguments], cwd=self.folder, check=True, capture_output=True, timeout=60)

    def enrol(self, *key: str) -> None:
        """Make the authority and a certificate for one physician."""
        for name in ("authority", "physician"):
            self.run("genpkey", "-engine", "gost", "-algorithm", *key, "-out", f"{name}.key")
        issue = ("req", "-engine", "gost", "-new", f"-{self.digest}")
        self.run(*issue, "-x509", "-key", "authority.key", "-subj", "/CN=Test CA", "-days", "30", "-out", "trusted.pem")
        self.run(*issue, "-key", "physician.key", "-subj", "/CN=Physician", "-out", "physician.csr")
        authority = ("-CA", "trusted.pem", "-CAkey", "authority.key", "-CAcreateserial", f"-{self.digest}")
        issued = ("-in", "physician.csr", "-days", "30", "-out", "physician.pem")
        self.run("x509", "-engine", "gost", "-req", *authority, *issued)

    def sign(self, document: bytes, *how: str) -> bytes:
        """A detached CAdES-BES signature in DER."""
        (self.folder / "document.xml").write_bytes(document)
        who = ("-signer", "physician.pem", "-inkey", "physician.key", "-md", self.digest)
        files = ("-in", "document.xml", "-outform", "DER", "-out", "document.sig")
        self.run("cms", "-sign", "-engine", "gost", "-binary", *(how or ("-cades",)), *who, *files)
        return (self.folder / "document.sig").read_bytes()

    @property
    def trusted(self) -> Path:
        return self.folder / "trusted.pem"


def enrolled(folder: Path, digest: str, *key: str) -> PhysiciansSystem:
    openssl = require_tool("openssl")
    found = subprocess.run([openssl, "engine", "-t", "gost"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        missing("openssl has no GOST engine (libengine-gost-openssl)")
    system = PhysiciansSystem(openssl, folder, digest)
    system.enrol(*key)
    return system


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> PhysiciansSystem:
    return enrolled(tmp_path_factory.mktemp("physician"), "md_gost12_256", *GOST)


@pytest.fixture(scope="module")
def draft() -> bytes:
    return write_semd(make_document(), PROFILE)


def test_the_signature_of_the_draft_that_went_out_is_valid(system: PhysiciansSystem, draft: bytes) -> None:
    verdict = verify_detached(draft, system.sign(draft), trusted=system.trusted)

    assert verdict.standing is SignatureStanding.VALID
    assert verdict.signer is not None and len(verdict.signer) == 64


@pytest.mark.parametrize("place", [0.1, 0.5, 0.999])
def test_one_changed_character_breaks_it(system: PhysiciansSystem, draft: bytes, place: float) -> None:
    signature = system.sign(draft)
    at = int(len(draft) * place)
    changed = draft[:at] + bytes([draft[at] ^ 1]) + draft[at + 1 :]

    assert verify_detached(changed, signature, trusted=system.trusted).standing is SignatureStanding.BROKEN


def test_a_changed_signature_is_never_valid(system: PhysiciansSystem, draft: bytes) -> None:
    signature = system.sign(draft)
    for at in (5, len(signature) // 2, len(signature) - 5):
        changed = signature[:at] + bytes([signature[at] ^ 0x55]) + signature[at + 1 :]
        standing = verify_detached(draft, changed, trusted=system.trusted).standing
        assert standing in (SignatureStanding.BROKEN, SignatureStanding.UNREADABLE, SignatureStanding.UNTRUSTED)


def test_a_stranger_s_signature_is_not_trusted(system: PhysiciansSystem, draft: bytes, tmp_path: Path) -> None:
    stranger = enrolled(tmp_path, "md_gost12_256", *GOST)

    verdict = verify_detached(draft, stranger.sign(draft), trusted=system.trusted)

    assert verdict.standing is SignatureStanding.UNTRUSTED


def test_a_signature_that_is_no_cades_is_not_valid(system: PhysiciansSystem, draft: bytes) -> None:
    plain = system.sign(draft, "-nosmimecap")

    assert verify_detached(draft, plain, trusted=system.trusted).standing is not SignatureStanding.VALID


def test_a_sound_signature_of_another_algorithm_is_named_so(tmp_path: Path, draft: bytes) -> None:
    other = enrolled(tmp_path, "sha256", *RSA)

    verdict = verify_detached(draft, other.sign(draft), trusted=other.trusted)

    assert verdict.standing is SignatureStanding.NOT_GOST


@pytest.mark.parametrize("signature", [b"", b"not a signature", b"0" * 2_000_000])
def test_what_is_no_signature_is_unreadable(system: PhysiciansSystem, draft: bytes, signature: bytes) -> None:
    assert verify_detached(draft, signature, trusted=system.trusted).standing is SignatureStanding.UNREADABLE


def test_without_the_program_or_a_readable_list_nothing_is_claimed(
    system: PhysiciansSystem, tmp_path: Path, draft: bytes
) -> None:
    (tmp_path / "garbled.pem").write_text("no certificate")
    garbled = verify_detached(draft, system.sign(draft), trusted=tmp_path / "garbled.pem")
    alone = verify_detached(draft, b"x", trusted=system.trusted, openssl="openssl-that-is-not-there")

    assert garbled.standing is alone.standing is SignatureStanding.NOT_CHECKED


def test_a_list_of_trusted_certificates_that_is_not_there_is_an_error(tmp_path: Path, draft: bytes) -> None:
    with pytest.raises(FileNotFoundError):
        verify_detached(draft, b"x", trusted=tmp_path / "none.pem")
