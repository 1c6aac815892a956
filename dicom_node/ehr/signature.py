"""Verifying the detached signature of a document that came back signed: GOST R 34.10-2012, CAdES-BES.

Asks the command `openssl` with its GOST engine where both are installed. That is not a certified provider (СКЗИ): its
word tells an operator that the document that was handed over is the one that was signed; it has no legal force, and
revocation of certificates is not asked about. radnode itself signs nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

TIMEOUT_S: Final = 30.0
_LARGEST_SIGNATURE_BYTES: Final = 1024 * 1024
_KEY: Final = "GOST R 34.10-2012"
_FINGERPRINT: Final = re.compile(r"sha256 Fingerprint=([0-9A-F:]+)", re.IGNORECASE)


class SignatureStanding(StrEnum):
    """What is known of a signature."""

    VALID = "valid"  # made over exactly this document, by a certificate that the trusted ones vouch for
    BROKEN = "broken"  # not of this document, or damaged
    UNTRUSTED = "untrusted"  # the certificate is not vouched for, or its time is over
    NOT_GOST = "not_gost"  # sound, but not by a key of GOST R 34.10-2012
    UNREADABLE = "unreadable"  # no CAdES-BES signature in DER
    NOT_CHECKED = "not_checked"  # no openssl with the GOST engine here, or it did not answer in time


@dataclass(frozen=True, kw_only=True, slots=True)
class SignatureVerdict:
    """The standing of one signature; `signer` is the SHA-256 of the signer's certificate where it was read."""

    standing: SignatureStanding
    signer: str | None = None


def verify_detached(document: bytes, signature: bytes, *, trusted: Path, openssl: str = "openssl") -> SignatureVerdict:
    """Verify a detached CAdES-BES signature over `document`.

    Parameters
    ----------
    document : bytes
        As it was handed over, to the byte.
    signature : bytes
        CMS SignedData in DER without content.
    trusted : Path
        PEM file of the certificates that are trusted.
    openssl : str
        Program to ask.

    Returns
    -------
    SignatureVerdict
        `NOT_CHECKED` rather than an error where the program or its engine is missing.

    Raises
    ------
    FileNotFoundError
        If `trusted` is not there: a setting to be corrected, no word about the signature.
    """
    trusted.stat()
    program = shutil.which(openssl)
    if program is None or not _has_engine(program):
        return SignatureVerdict(standing=SignatureStanding.NOT_CHECKED)
    if not 0 < len(signature) <= _LARGEST_SIGNATURE_BYTES:
        return SignatureVerdict(standing=SignatureStanding.UNREADABLE)
    with TemporaryDirectory(prefix="radnode-signature-") as name:
        folder = Path(name)
        (folder / "document").write_bytes(document)
        (folder / "signature").write_bytes(signature)
        standing = _verified(program, folder, trusted)
        if standing is not SignatureStanding.VALID:
            return SignatureVerdict(standing=standing)
        return _of_signer(program, folder / "signer.pem")


def _verified(program: str, folder: Path, trusted: Path) -> SignatureStanding:
    files = {"-in": folder / "signature", "-content": folder / "document", "-CAfile": trusted}
    options = [str(part) for pair in files.items() for part in pair]
    outputs = ["-out", str(folder / "content"), "-signer", str(folder / "signer.pem")]
    how = ["-verify", "-engine", "gost", "-cades", "-binary", "-inform", "DER", "-purpose", "any", "-no-CApath"]
    ended = _asked([program, "cms", *how, *options, *outputs])
    if ended is None:
        return SignatureStanding.NOT_CHECKED
    if ended.returncode == 0:
        return SignatureStanding.VALID
    return _reason(ended.stderr)


def _reason(said: str) -> SignatureStanding:
    if "Error loading" in said:
        return SignatureStanding.NOT_CHECKED
    if "certificate verify error" in said:
        return SignatureStanding.UNTRUSTED
    if "asn1" in said.lower() or "Error reading" in said or "no signing cert" in said.lower():
        return SignatureStanding.UNREADABLE
    return SignatureStanding.BROKEN


def _of_signer(program: str, certificate: Path) -> SignatureVerdict:
    ended = _asked([program, "x509", "-in", str(certificate), "-noout", "-text", "-fingerprint", "-sha256"])
    if ended is None or ended.returncode != 0:
        return SignatureVerdict(standing=SignatureStanding.NOT_CHECKED)
    found = _FINGERPRINT.search(ended.stdout)
    signer = found[1].replace(":", "").lower() if found else None
    gost = f"Public Key Algorithm: {_KEY}" in ended.stdout
    return SignatureVerdict(standing=SignatureStanding.VALID if gost else SignatureStanding.NOT_GOST, signer=signer)


def _has_engine(program: str) -> bool:
    ended = _asked([program, "engine", "-t", "gost"])
    return ended is not None and ended.returncode == 0 and "[ available ]" in ended.stdout


def _asked(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """The program's answer; None where it gave none in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
