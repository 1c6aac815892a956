"""Certificates for tests of TLS, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conftest import require_tool


class Authority:
    """A certificate authority of the test, and certificates signed by it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._openssl = require_tool("openssl")
        self._folder = folder
        self.key, self.certificate = folder / f"{name}.key", folder / f"{name}.pem"
        self._run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                  "-keyout", str(self.key), "-out", str(self.certificate))  # fmt: skip

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._openssl, *arguments], check=True, capture_output=True, timeout=60)

    def issue(self, name: str, *, alternative: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path]:
        """Give the files of a new certificate and its key."""
        certificate, key, request = (self._folder / f"{name}.{end}" for end in ("crt", "key", "csr"))
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n")
        self._run(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request)
        )
        self._run("x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self.key),
                  "-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", str(certificate))  # fmt: skip
        return certificate, key
