"""The agent's HTTP face: /metrics, /v1/faults and /healthz.

Enters: requests, and a Desk that answers them. Leaves: text. One thread per connection, at most CONNECTIONS_MAX of
them: when one more comes, the oldest is cut, so that clients that hang or dawdle can't keep the others out. A TLS
handshake, which waits for the client, is made in the connection's thread, never where connections are accepted. That
one sleeps until somebody comes.
"""

import contextlib
import logging
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from agent.tls import Tls

CONNECTIONS_MAX = 16
TIMEOUT_S = 10.0  # for a handshake, and for each packet of a request
IDLE_S = 120.0  # between two requests: longer than a scrape interval, as a handshake costs more than a scrape
NEVER_S = 1e6  # the longest wait that poll(2) is sure to take
LIMIT_DEFAULT, LIMIT_MAX = 1000, 5000

Answer = tuple[int, str, bytes]  # status, content type, body

log = logging.getLogger(__name__)


class Desk(Protocol):
    """What the server asks for; every method may be called from any thread."""

    def metrics(self) -> bytes: ...

    def faults(self, cursor: str | None, limit: int) -> bytes:
        """Raises ValueError if the cursor is malformed."""

    def health(self) -> str | None:
        """None if all is well, else one sentence."""


class Server(ThreadingMixIn, TCPServer):
    """Listens at once; `run` answers until `stop`."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], desk: Desk, tls: "Tls | None" = None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.desk = desk
        self.tls = tls
        self._guard = threading.Lock()
        self._open: dict[socket.socket, None] = {}  # oldest first
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        name, port = self.server_address[:2]
        host = f"[{name!s}]" if ":" in str(name) else str(name)
        return f"{'https' if self.tls else 'http'}://{host}:{port}"

    def run(self) -> None:
        self.serve_forever(poll_interval=NEVER_S)

    def stop(self) -> None:
        """Returns once `run` has returned."""
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes it
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        return (self.tls.wrap(connection) if self.tls else connection), address

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        with self._guard:
            if len(self._open) >= CONNECTIONS_MAX:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):  # it went away by itself
                    socket.socket.shutdown(oldest, socket.SHUT_RDWR)  # an SSLSocket's own would go on unencrypted
            self._open[request] = None
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:  # type: ignore[override]
        log.debug("a client at %s went away in the middle of an answer", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = TIMEOUT_S
    wbufsize = -1  # one packet for head and body, or the second would wait for the acknowledgement of the first
    protocol_version = "HTTP/1.1"
    server_version = "flipwatch"
    sys_version = ""

    def setup(self) -> None:
        if self.server.tls:
            self.request.settimeout(TIMEOUT_S)
            self.request.do_handshake()
        super().setup()

    def parse_request(self) -> bool:
        self.connection.settimeout(TIMEOUT_S)
        return super().parse_request()

    def do_GET(self) -> None:
        try:
            status, content_type, body = self._answer()
        except Exception:  # the client shall hear of it, and the others be answered
            log.exception("%s can't be answered; it's a defect of flipwatch, please report it", self.path)
            status, content_type, body = _text(500, "a defect of flipwatch; the agent's log says more")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.connection.settimeout(IDLE_S)

    def _answer(self) -> Answer:
        try:
            url = urlsplit(self.path)
        except ValueError:  # such as //[
            return _text(400, f"not an address: {self.path!r}")
        if url.path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, self.server.desk.metrics()
        if url.path == "/v1/faults":
            return self._faults(url.query)
        if url.path == "/healthz":
            trouble = self.server.desk.health()
            return _text(503, trouble) if trouble else _text(200, "ok")
        if url.path == "/":
            return _text(200, "flipwatch agent: /metrics /v1/faults /healthz")
        return _text(404, f"nothing is at {url.path}; there are /metrics, /v1/faults and /healthz")

    def _faults(self, query: str) -> Answer:
        arguments = parse_qs(query, keep_blank_values=True)
        limit = arguments.get("limit", [str(LIMIT_DEFAULT)])[-1]
        if not re.fullmatch(r"[1-9][0-9]{0,8}", limit):
            return _text(400, f"limit must be a whole number from 1, not {limit!r}")
        try:
            body = self.server.desk.faults(arguments.get("after", [None])[-1], min(int(limit), LIMIT_MAX))
        except ValueError:
            return _text(400, "after must be a cursor from an earlier answer; without it the oldest fault comes first")
        except OSError as error:
            return _text(503, f"the journal can't be read: {error}")
        return 200, "application/x-ndjson", body

    def log_message(self, format: str, *args: object) -> None:
        log.debug("%s " + format, self.address_string(), *args)


def _text(status: int, sentence: str) -> Answer:
    return status, "text/plain; charset=utf-8", (sentence + "\n").encode("utf-8", "replace")
