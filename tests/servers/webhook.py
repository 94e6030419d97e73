"""A webhook receiver on 127.0.0.1 that remembers what Alertmanager sent."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """A context manager; `received` holds every alert of every notification, in order.

    `notifications` holds (path, document) of each.
    """

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.notifications: list[tuple[str, dict[str, Any]]] = []
        self._arrivals: list[tuple[float, dict[str, Any]]] = []
        received, notifications, arrivals = self.received, self.notifications, self._arrivals

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                arrivals.extend((time.monotonic(), alert) for alert in document["alerts"])
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

    def arrived_s(self, name: str) -> dict[str, float]:
        """When each cluster's first alert of this name came, by the monotonic clock."""
        found: dict[str, float] = {}
        for at_s, alert in self._arrivals:
            if alert["labels"]["alertname"] == name:
                found.setdefault(alert["labels"]["cluster"], at_s)
        return found
