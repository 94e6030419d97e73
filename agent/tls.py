"""TLS for the agent's server: a certificate, and which clients may come at all.

Enters: the paths of PEM files. Leaves: connections wrapped in TLS, whose handshake is the caller's to make. The files
are looked at for each connection, so that a renewed certificate is used from the next one on. While what stands there
can't be used (a certificate and a key are two files, and one is written first) the former stays in force.
"""

import logging
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from checksum.settings import SettingsError, Stamp, stamp

log = logging.getLogger(__name__)

Stamps = tuple[Stamp | None, ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """With `client_ca` only clients whose certificate it has signed are let in."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def stamps(self) -> Stamps:
        """What changes when a file does; None for one that isn't there."""
        return tuple(stamp(path) for path in (self.cert, self.key, self.client_ca) if path is not None)


def context(files: TlsFiles) -> ssl.SSLContext:
    """For servers, TLS 1.2 or newer.

    Raises:
        SettingsError: a file can't be used; one sentence that names it.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION
    for name, path in (("tls_cert_file", files.cert), ("tls_key_file", files.key)):
        _readable(name, path)
    try:
        made.load_cert_chain(files.cert, files.key, password="")  # without one it would ask on the terminal
    except (OSError, ValueError) as error:
        pair = f"tls_cert_file = '{files.cert}', tls_key_file = '{files.key}'"
        raise SettingsError(f"{pair}: no certificate with its unencrypted key in PEM: {_words(error)}") from error
    if files.client_ca is not None:
        _readable("tls_client_ca_file", files.client_ca)
        made.verify_mode = ssl.CERT_REQUIRED
        try:
            made.load_verify_locations(files.client_ca)
        except OSError as error:
            raise SettingsError(
                f"tls_client_ca_file = '{files.client_ca}': no certificate in PEM: {_words(error)}"
            ) from error
    return made


def _readable(name: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(f"{name} = '{path}': can't be read: {error.strerror}") from error


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None)  # such as KEY_VALUES_MISMATCH; some errors have none
    return reason.replace("_", " ").lower() if reason else str(error)


class Tls:
    """What connections are wrapped in; used by one thread.

    Raises:
        SettingsError: as `context`.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamps = files.stamps()
        self._context = context(files)

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """Without a handshake, which waits for the client.

        Raises:
            OSError: the client has gone; the connection is closed then.
        """
        self._follow()
        try:
            return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError:
            connection.close()
            raise

    def _follow(self) -> None:
        stamps = self._files.stamps()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._context = context(self._files)
        except SettingsError as error:
            log.error("%s; the former certificate stays in force", error)
        else:
            log.info("the certificate was read again")
