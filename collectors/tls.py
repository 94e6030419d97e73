"""TLS of the collector: whom it believes and how it proves itself when it pulls, and what it listens with.

Enters: the settings. Leaves: contexts of which every connection is made, and which follow their files: a renewed
certificate is used from the next connection on. While what stands there can't be used the former stays in force.
"""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from checksum.settings import SettingsError, Stamp, stamp
from collectors.config import CollectorConfig

_log = logging.getLogger("flipwatch.tls")


class Followed:
    """A context made by `make` of these files.

    Raises:
        SettingsError: they can't be used.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext], files: tuple[Path | None, ...]) -> None:
        self._make = make
        self._files = [path for path in files if path is not None]
        self._stamps = self._look()
        self.context = make()

    def _look(self) -> list[Stamp | None]:
        return [stamp(path) for path in self._files]

    def follow(self) -> None:
        """Makes `context` anew if a file has changed."""
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self.context = self._make()
        except SettingsError as error:
            _log.error("%s; the former certificate stays in force", error)
        else:
            _log.info("certificates were read again")


def of_agents(config: CollectorConfig) -> Followed:
    """For pulling agents by https.

    Raises:
        SettingsError: a file can't be used.
    """

    def make() -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=config.agent_ca_file)
        except OSError as error:
            raise _unusable("agent_ca_file", config.agent_ca_file, error) from error
        if config.agent_cert_file is not None:
            _load_pair(context, "agent_cert_file", config.agent_cert_file, config.agent_key_file)
        return context

    return Followed(make, (config.agent_ca_file, config.agent_cert_file, config.agent_key_file))


def of_listener(config: CollectorConfig) -> Followed | None:
    """For the collector's own page; None if it is plain HTTP.

    Raises:
        SettingsError: a file can't be used.
    """
    cert, key = config.tls_cert_file, config.tls_key_file
    if cert is None:
        return None

    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # the server keeps the one it was given

    def make() -> ssl.SSLContext:
        for context in (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), listening):  # first it's only tried
            _load_pair(context, "tls_cert_file", cert, key)
        return listening

    return Followed(make, (cert, key))


def _load_pair(context: ssl.SSLContext, name: str, cert: Path, key: Path | None) -> None:
    for named, path in ((name, cert), (name.replace("cert", "key"), key)):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:  # OpenSSL wouldn't say which of the two it was
            raise SettingsError(f"{named} = '{path}': can't be read: {error.strerror}") from error
    try:
        context.load_cert_chain(cert, key, password="")  # without one it would ask on the terminal
    except (OSError, ValueError) as error:
        raise _unusable(name, cert, error) from error


def _unusable(name: str, path: Path | None, error: Exception) -> SettingsError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return SettingsError(f"{name} = '{path}': no certificate in PEM, or not with its key: {reason}")
