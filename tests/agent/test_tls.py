"""The agent over TLS: certificates of a real authority, real handshakes, and clients that never finish one."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.serve import CONNECTIONS_MAX, Server
from agent.tls import Tls, TlsFiles
from checksum.settings import SettingsError
from tests.agent.processes import eventually
from tests.certificates import Authority, Pair, openssl


class Desk:
    def metrics(self) -> bytes:
        return b"some 1\n"

    def faults(self, cursor: str | None, limit: int) -> bytes:
        raise OSError("nothing here")

    def health(self) -> str | None:
        return None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign("agent")


@contextmanager
def serving(files: TlsFiles) -> Iterator[int]:
    """A server in this process; its port."""
    server = Server(("127.0.0.1", 0), Desk(), Tls(files))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.stop()
        thread.join()


def trusting(authority: Authority, client: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    if client is not None:
        context.load_cert_chain(client.cert, client.key)
    return context


@contextmanager
def connected(port: int, context: ssl.SSLContext) -> Iterator[http.client.HTTPSConnection]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    try:
        yield connection
    finally:
        connection.close()


def get(port: int, context: ssl.SSLContext) -> bytes:
    with connected(port, context) as connection:
        return scrape(connection)


def scrape(connection: http.client.HTTPSConnection) -> bytes:
    connection.request("GET", "/metrics")
    return connection.getresponse().read()


def serial_number(port: int, context: ssl.SSLContext) -> str:
    with connected(port, context) as connection:
        connection.connect()
        return connection.sock.getpeercert()["serialNumber"]


def test_it_answers_over_tls_only(authority: Authority, pair: Pair) -> None:
    with serving(TlsFiles(pair.cert, pair.key)) as port:
        assert get(port, trusting(authority)) == b"some 1\n"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
            plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"some" not in plain.makefile("rb").read()
        old = trusting(authority)
        with pytest.warns(DeprecationWarning):
            old.maximum_version = old.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(port, old)


def test_clients_that_never_finish_a_handshake_keep_nobody_out(authority: Authority, pair: Pair) -> None:
    context = trusting(authority)
    with serving(TlsFiles(pair.cert, pair.key)) as port, ExitStack() as stack:
        for number in range(3 * CONNECTIONS_MAX):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            if number % 2:
                idle.sendall(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a ClientHello, and never the rest
        for _ in range(3):
            assert get(port, context) == b"some 1\n"
        connections = [thread for thread in threading.enumerate() if "process_request" in thread.name]
        assert len(connections) <= CONNECTIONS_MAX + 1  # one may be on its way out


def test_a_scraper_keeps_its_connection(authority: Authority, pair: Pair) -> None:
    with serving(TlsFiles(pair.cert, pair.key)) as port, connected(port, trusting(authority)) as connection:
        scrape(connection)
        first = connection.sock
        assert first is not None
        for _ in range(3):
            assert scrape(connection) == b"some 1\n"
        assert connection.sock is first


def test_a_client_without_the_right_certificate_is_refused(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    with serving(TlsFiles(pair.cert, pair.key, client_ca=authority.cert)) as port:
        assert get(port, trusting(authority, authority.sign("prometheus"))) == b"some 1\n"
        for client in (None, stranger.sign("prometheus"), authority.sign("late", days=0)):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                get(port, trusting(authority, client))
        with pytest.raises(ssl.SSLCertVerificationError):
            get(port, trusting(stranger))


def test_an_expired_certificate_is_the_clients_to_refuse(authority: Authority) -> None:
    late = authority.sign("late-agent", days=0)
    with (
        serving(TlsFiles(late.cert, late.key)) as port,
        pytest.raises(ssl.SSLCertVerificationError, match="expired"),
    ):
        eventually(lambda: get(port, trusting(authority)) and time.sleep(0.5))


def test_a_renewed_certificate_is_used_from_the_next_connection_on(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context, old, new = trusting(authority), authority.sign("old"), authority.sign("new")
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    write(files, old.cert.read_bytes(), old.key.read_bytes())
    with serving(files) as port:
        first = serial_number(port, context)
        replace(files.cert, new.cert.read_bytes())  # the key is still to come
        assert serial_number(port, context) == first
        assert "key values mismatch" in caplog.text and "the former certificate stays in force" in caplog.text
        files.key.unlink()
        assert serial_number(port, context) == first
        replace(files.key, new.key.read_bytes())
        renewed = serial_number(port, context)
        assert renewed != first and serial_number(port, context) == renewed
        assert caplog.text.count("stays in force") == 2, "one line for each change"


def write(files: TlsFiles, cert: bytes, key: bytes) -> None:
    files.cert.write_bytes(cert)
    files.key.write_bytes(key)


def replace(path: Path, content: bytes) -> None:
    """As tools that renew certificates do: a new file under the old name."""
    scratch = path.with_suffix(".new")
    scratch.write_bytes(content)
    scratch.replace(path)


def test_what_is_wrong_with_the_files_is_one_sentence(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    other, encrypted, nonsense = authority.sign("other"), tmp_path / "encrypted.key", tmp_path / "nonsense"
    openssl("pkcs8", "-topk8", "-in", pair.key, "-out", encrypted, "-passout", "pass:secret")
    nonsense.write_text("nonsense")
    for files, words in (
        (TlsFiles(tmp_path / "none", pair.key), "tls_cert_file = '.*none': can't be read: No such file"),
        (TlsFiles(pair.cert, tmp_path), "tls_key_file = .*: can't be read: Is a directory"),
        (TlsFiles(pair.cert, other.key), "key values mismatch"),
        (TlsFiles(pair.cert, encrypted), "unencrypted key"),
        (TlsFiles(nonsense, pair.key), "tls_cert_file = '.*nonsense'"),
        (TlsFiles(pair.cert, pair.key, nonsense), "tls_client_ca_file = '.*nonsense'"),
    ):
        with pytest.raises(SettingsError, match=words) as caught:
            Tls(files)
        assert "\n" not in str(caught.value)
