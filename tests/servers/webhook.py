"""A webhook receiver on 127.0.0.1 that remembers what Alertmanager sent."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """A context manager; `received` holds every alert of every notification, in order.

    `notifications` holds (path, document) of each.
    """

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.notifications: list[tuple[str, dict[str, Any]]] = []
        received, notifications = self.received, self.notifications

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.extend(document["alerts"])
                notifications.append((self.path, document))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> "Webhook":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def states(self, **labels: str) -> list[str]:
        """firing or resolved, per notification of an alert with these labels."""
        return [a["status"] for a in self.received if labels.items() <= a["labels"].items()]
