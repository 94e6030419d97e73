"""Dashboards, folder, data source and bursts into a Grafana over its HTTP API.

Enters: an Access (where Grafana is and who we are), the dashboards' JSON, the address of a Prometheus, annotations.
Leaves: one line for each thing, said as soon as it's done, or a Trouble of one sentence. Whatever happens in between,
running it again goes on: what stands there already is left alone, what differs is changed.

All talk goes through grafana-api; a hook on its session judges each answer before the library does, so that a redirect
is never followed with our credentials, and an answer that isn't Grafana's is never taken for one.
Format: https://grafana.com/docs/grafana/latest/developers/http_api/.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from grafana_api.grafana_face import GrafanaFace

from checksum.printable import printable
from dashboards.annotations import TAG, Annotation

FOLDER = "flipwatch"  # its uid, and its title
SOURCE = "flipwatch"  # the data source's uid, and its name
MADE, UPDATED, UNCHANGED = "made", "updated", "unchanged"
ANNOTATIONS_MAX = 100_000  # more bursts than any collector raises; Grafana's own limit is 100 unless it's told another
SHOWN_MAX = 200
MISMATCHES = {
    "version-mismatch": "somebody else saved it at the same time; push again",
    "name-exists": "another one of the same name is there; rename or remove that",
    "plugin-dashboard": "it belongs to a plugin of Grafana, which alone may change it",
}


class Trouble(Exception):
    """Grafana (or the collector) didn't do what was asked; the message is one sentence."""


class Absent(Trouble):
    """Grafana says that there is no such thing."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where Grafana is, `url` with its base path, and who we are: a token, or a name and a password."""

    url: str
    auth: str | tuple[str, str]
    ca: str | None
    timeout_s: float


class Grafana:
    """One Grafana."""

    def __init__(self, access: Access) -> None:
        """Raises Trouble if the URL can't be one of a Grafana."""
        parts = parse_url(access.url)
        path = parts.path.strip("/")
        assert parts.hostname is not None
        self._face = GrafanaFace(
            access.auth,
            host=f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname,
            port=parts.port,
            url_path_prefix=f"{path}/" if path else "",  # grafana-api joins without a slash of its own
            protocol=parts.scheme,
            verify=access.ca or True,
            timeout=access.timeout_s,
        )
        self._face.api.s.hooks["response"].append(_judge)

    def close(self) -> None:
        self._face.api.s.close()

    def folder(self) -> str:
        try:
            self._face.folder.get_folder(FOLDER)
        except Absent:
            self._face.folder.create_folder(FOLDER, uid=FOLDER)
            return MADE
        return UNCHANGED

    def data_source(self, prometheus_url: str) -> str:
        """A Prometheus data source of ours, whose other settings people may change."""
        try:
            known = self._face.api.GET(f"/datasources/uid/{SOURCE}")
        except Absent:
            made = {"name": SOURCE, "uid": SOURCE, "type": "prometheus", "access": "proxy", "url": prometheus_url}
            self._face.datasource.create_datasource({**made, "jsonData": {"httpMethod": "POST"}})
            return MADE
        if known.get("url") == prometheus_url:
            return UNCHANGED
        self._face.api.PUT(f"/datasources/uid/{SOURCE}", json={**known, "url": prometheus_url})
        return UPDATED

    def dashboard(self, board: Mapping[str, Any]) -> str:
        """Ours replaces what is there, unless that changes between our look and our write."""
        try:
            known = self._face.dashboard.get_dashboard(board["uid"])
        except Absent:
            self._save({**board, "id": None})
            return MADE
        there, place = known.get("dashboard", {}), known.get("meta", {})
        ours = {"id": there.get("id"), "version": there.get("version")}
        if {**board, **ours} == there and place.get("folderUid") == FOLDER:
            return UNCHANGED
        self._save({**board, **ours})
        return UPDATED

    def _save(self, board: Mapping[str, Any]) -> None:
        message = "flipwatch grafana push"
        document = {"dashboard": board, "folderUid": FOLDER, "message": message, "overwrite": False}
        self._face.dashboard.update_dashboard(document)

    def annotations(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What stands there of bursts, by each tag."""
        found = self._face.annotations.get_annotation(tags=[TAG], limit=ANNOTATIONS_MAX)
        if len(found) >= ANNOTATIONS_MAX:
            raise Trouble(f"it has {ANNOTATIONS_MAX} or more with the tag {TAG}; remove old ones")
        tagged = defaultdict(list)
        for entry in found:
            for tag in entry["tags"]:
                tagged[tag].append(entry)
        return tagged

    def annotation(self, burst: Annotation, known: Sequence[Mapping[str, Any]]) -> str:
        """Makes it, or changes what is `known`, that is said of the same burst."""
        said = {"time_from": burst.time_ms, "time_to": burst.end_ms, "tags": list(burst.tags), "text": burst.text}
        if not known:
            self._face.annotations.add_annotation(**said)
            return MADE
        outdated = [entry for entry in known if not burst.is_said_by(entry)]
        for entry in outdated:
            self._face.annotations.partial_update_annotation(entry["id"], **said)
        return UPDATED if outdated else UNCHANGED


def push(
    access: Access, boards: Sequence[Mapping[str, Any]], prometheus_url: str | None, bursts: Sequence[Annotation]
) -> Iterator[str]:
    """Says what became of each thing, once it is done.

    Raises:
        Trouble: it went wrong; what was said before is done, and nothing after it.
    """
    grafana = Grafana(access)
    try:
        with _about(f"{access.url}: folder {FOLDER}"):
            outcome = grafana.folder()
        yield f"folder {FOLDER}: {outcome}"
        if prometheus_url is not None:
            with _about(f"{access.url}: data source {SOURCE}"):
                outcome = grafana.data_source(prometheus_url)
            yield f"data source {SOURCE}: {outcome}"
        for board in boards:
            with _about(f"{access.url}: dashboard {board['title']}"):
                outcome = grafana.dashboard(board)
            yield f"dashboard {board['title']}: {outcome}"
        if bursts:
            with _about(f"{access.url}: annotations"):
                tagged = grafana.annotations()
        for burst in bursts:
            with _about(f"{access.url}: burst {burst.burst_id}"):
                outcome = grafana.annotation(burst, tagged.get(burst.id_tag, ()))
            yield f"burst {shown(burst.burst_id)}: {outcome}"
    finally:
        grafana.close()


def fetch_bursts(collector_url: str, ca: str | None, timeout_s: float) -> Any:
    """The document of a collector's /api/bursts.

    Raises:
        Trouble: it can't be had.
    """
    parse_url(collector_url)
    url = f"{collector_url.rstrip('/')}/api/bursts"
    with _about(url), requests.Session() as session:
        session.hooks["response"].append(_judge)
        return session.get(url, timeout=timeout_s, verify=ca or True).json()


def parse_url(url: str) -> Any:
    """The parts of an HTTP address.

    Raises:
        Trouble: it isn't one, or holds what it shouldn't.
    """
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good:
        raise Trouble(f"{shown(url)}: not an address; write http://HOST:PORT/PATH or https://HOST/PATH")
    if parts.username or parts.password:
        raise Trouble(f"{parts.hostname}: a password in an address is seen by others; use a file or the environment")
    if parts.query or parts.fragment:
        raise Trouble(f"{shown(url)}: write the address without what follows ? or #")
    return parts


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes one sentence that begins with `what`."""
    try:
        yield
    except Trouble as error:
        raise Trouble(f"{shown(what)}: {error}") from error
    except requests.exceptions.SSLError as error:
        raise Trouble(f"{shown(what)}: its certificate isn't trusted; name its authority with --ca") from error
    except requests.Timeout as error:
        raise Trouble(f"{shown(what)}: no answer in time; see --timeout") from error
    except requests.ConnectionError as error:
        raise Trouble(f"{shown(what)}: can't be reached") from error
    except (requests.RequestException, KeyError, TypeError, AttributeError, OSError) as error:
        raise Trouble(f"{shown(what)}: not understood: {shown(str(error))}") from error


def _judge(response: requests.Response, *_: Any, **__: Any) -> None:
    """Lets pass what is an answer of Grafana's API and says yes."""
    status, _body = response.status_code, response.content  # read, so that its connection is free again
    if 300 <= status < 400:
        where = shown(response.headers.get("Location", "nowhere"))
        raise Trouble(f"it redirects to {where}; is the address right, with its scheme and base path?")
    try:
        document = response.json()
    except ValueError:
        kind = shown(response.headers.get("Content-Type", "something unnamed"))
        raise Trouble(f"status {status} with {kind} where JSON belongs; is the base path right?") from None
    if status < 300 and isinstance(document, dict | list):
        return
    said = document if isinstance(document, dict) else {}
    raise (Absent if status == 404 else Trouble)(_refusal(status, said))


def _refusal(status: int, said: Mapping[str, Any]) -> str:
    message = shown(str(said.get("message", "no reason given")))
    if status == 401:
        return f"the token or the password isn't accepted (401: {message})"
    if status == 403:
        return f"not allowed; give the token or user the role Editor, for a data source Admin (403: {message})"
    if status == 412:
        return f"{MISMATCHES.get(str(said.get('status')), 'it is not as expected')} (412: {message})"
    return f"status {status}: {message}"


def shown(text: str) -> str:
    """Foreign words on one line of a terminal, bounded."""
    clean = printable(" ".join(text.split()))
    return clean if len(clean) <= SHOWN_MAX else f"{clean[: SHOWN_MAX - 3]}..."
