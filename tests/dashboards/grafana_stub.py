"""A stand-in for Grafana's HTTP API on 127.0.0.1 that keeps what it's given and records every request.

It answers as https://grafana.com/docs/grafana/latest/developers/http_api/ documents: dashboard.md, folder.md,
data_source.md and annotations.md. A test sets `manners` to have one request answered otherwise.
"""

import base64
import json
import re
import ssl
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "glsa_secret"
BASIC = ("editor", "pass")
Answer = tuple[int, Any]  # status and JSON document


class GrafanaStub:
    """A context manager. `manners(method, path)` may return (status, headers, body) to be sent instead."""

    def __init__(self, base_path: str = "", context: ssl.SSLContext | None = None) -> None:
        self.folders: dict[str, Any] = {}
        self.sources: dict[str, Any] = {}
        self.boards: dict[str, Any] = {}
        self.annotations: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.manners: Callable[[str, str], tuple[int, dict[str, str], bytes] | None] = lambda method, path: None
        self._base_path = base_path
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.handle_error = lambda *_: None  # a client that gave up is what some tests want
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self._server.server_port}{base_path}"

    def __enter__(self) -> "GrafanaStub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def writes(self) -> list[tuple[str, str]]:
        """Every request that could have changed something."""
        return [(method, path) for method, path, _ in self.requests if method != "GET"]

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Answer:
        """What Grafana answers."""
        routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", r"/api/folders/([\w-]+)", lambda uid: found(self.folders.get(uid), "folder not found")),
            ("POST", r"/api/folders", lambda: self._create_folder(body)),
            (
                "GET",
                r"/api/datasources/uid/([\w-]+)",
                lambda uid: found(self.sources.get(uid), "Data source not found"),
            ),
            ("POST", r"/api/datasources", lambda: self._create_source(body)),
            ("PUT", r"/api/datasources/uid/([\w-]+)", lambda uid: self._update_source(uid, body)),
            ("GET", r"/api/dashboards/uid/([\w-]+)", lambda uid: found(self.boards.get(uid), "Dashboard not found")),
            ("POST", r"/api/dashboards/db", lambda: self._save(body)),
            ("GET", r"/api/annotations", lambda: (200, self._tagged(**query))),
            ("POST", r"/api/annotations", lambda: self._annotate(body)),
            ("PATCH", r"/api/annotations/(\d+)", lambda number: self._patch(int(number), body)),
        ]
        for wanted, pattern, respond in routes:
            match = re.fullmatch(pattern, path)
            if match and method == wanted:
                return respond(*match.groups())
        return 404, {"message": "Not found"}

    def _create_folder(self, body: Any) -> Answer:
        if body["uid"] in self.folders:
            return 409, {"message": "a folder with that uid already exists"}
        self.folders[body["uid"]] = {"id": len(self.folders) + 1, "version": 1, **body}
        return 200, self.folders[body["uid"]]

    def _create_source(self, body: Any) -> Answer:
        if any(body["name"] == source["name"] for source in self.sources.values()):
            return 409, {"message": "data source with the same name already exists"}
        self.sources[body["uid"]] = {"id": 7, "orgId": 1, "readOnly": False, "version": 1, **body}
        return 200, {"datasource": self.sources[body["uid"]], "id": 7, "message": "Datasource added"}

    def _update_source(self, uid: str, body: Any) -> Answer:
        self.sources[uid] = {**body, "version": body["version"] + 1}
        return 200, {"datasource": self.sources[uid], "message": "Datasource updated"}

    def _save(self, body: Any) -> Answer:
        board = body["dashboard"]
        known = self.boards.get(board["uid"])
        if known and not body["overwrite"] and board.get("version") != known["dashboard"]["version"]:
            message = "The dashboard has been changed by someone else"
            return 412, {"message": message, "status": "version-mismatch"}
        version = known["dashboard"]["version"] + 1 if known else 1
        saved = {**board, "id": board["id"] or len(self.boards) + 1, "version": version}
        self.boards[board["uid"]] = {"dashboard": saved, "meta": {"folderUid": body["folderUid"]}}
        return 200, {"id": saved["id"], "uid": saved["uid"], "status": "success", "version": version}

    def _tagged(self, tags: list[str], limit: Sequence[str] = ("100",)) -> list[dict[str, Any]]:
        return [entry for entry in self.annotations if set(tags) <= set(entry["tags"])][: int(limit[0])]

    def _annotate(self, body: Any) -> Answer:
        number = len(self.annotations) + 1
        kept = {key: body[key] for key in ("time", "timeEnd", "tags", "text")}
        self.annotations.append({"id": number, "dashboardId": 0, "panelId": 0, **kept})
        return 200, {"message": "Annotation added", "id": number}

    def _patch(self, number: int, body: Any) -> Answer:
        (entry,) = [entry for entry in self.annotations if entry["id"] == number]
        entry.update(body)
        return 200, {"message": "Annotation patched"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                parts = urlsplit(self.path)
                path = parts.path.removeprefix(stub._base_path)
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
                stub.requests.append((self.command, path, body))
                instead = stub.manners(self.command, path)
                if instead:
                    self.reply(*instead)
                    return
                if not parts.path.startswith(f"{stub._base_path}/api/"):
                    self.reply(404, {"Content-Type": "text/html"}, b"<html>not here</html>")
                    return
                status, document = 401, {"message": "Invalid API key"}
                if self.headers.get("Authorization") in (f"Bearer {TOKEN}", f"Basic {basic()}"):
                    status, document = stub.answer(self.command, path, parse_qs(parts.query), body)
                self.reply(status, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(document).encode())

            do_GET = do_POST = do_PUT = do_PATCH = handle_one

            def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def found(thing: Any, message: str) -> Answer:
    return (404, {"message": message}) if thing is None else (200, thing)


def basic() -> str:
    return base64.b64encode(":".join(BASIC).encode()).decode()
