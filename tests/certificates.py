"""Certificates for tests, made by the openssl program: an authority, and what it signs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import require

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*arguments: object) -> None:
    subprocess.run([require("openssl"), *map(str, arguments)], check=True, capture_output=True)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority with files of its own in `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory, self.cert, self._key = directory, directory / "ca.crt", directory / "ca.key"
        openssl("req", "-x509", *NEW_KEY, "-keyout", self._key, "-out", self.cert, "-days", 2, "-subj", "/CN=test")

    def sign(self, name: str, days: int = 1) -> Pair:
        """A certificate for 127.0.0.1; with 0 days it has expired once it is there."""
        pair = Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        request, extensions = self.directory / f"{name}.csr", self.directory / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        openssl("req", *NEW_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        signer = ["-CA", self.cert, "-CAkey", self._key, "-extfile", extensions]
        openssl("x509", "-req", "-in", request, *signer, "-days", days, "-out", pair.cert)
        return pair
