"""`flipwatch grafana push` against a stand-in for Grafana's API, kind and unkind."""

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dashboards import annotations, push
from dashboards.commands import PASSWORD, TOKEN, grafana
from tests.collectors.bursts import CELESTIAL, revision
from tests.conftest import require
from tests.dashboards import grafana_stub
from tests.dashboards.boards import BOARDS
from tests.dashboards.grafana_stub import GrafanaStub
from tests.dashboards.world import World

LOGGED_IN = {TOKEN: grafana_stub.TOKEN}


@pytest.fixture
def stub() -> Iterator[GrafanaStub]:
    with GrafanaStub() as running:
        yield running


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    runner = CliRunner(env={TOKEN: None, PASSWORD: None, **(LOGGED_IN if env is None else env)})
    return runner.invoke(grafana, ["push", *map(str, arguments)])


def sentence(result: Result) -> str:
    """What it says of trouble: one line on stderr, status 2, no traceback."""
    assert result.exit_code == 2 and result.stderr.startswith("Error: "), result.output
    assert result.stderr.count("\n") == 1 and isinstance(result.exception, SystemExit)
    return result.stderr.removeprefix("Error: ").strip()


@contextmanager
def collector(document: Any) -> Iterator[str]:
    """Says `document` at /api/bursts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(document).encode()
            self.send_response(200 if self.path == "/api/bursts" else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def bursts(*revisions: Any) -> dict[str, Any]:
    return {"bursts": [one.document() for one in revisions]}


# -- what it pushes


def test_everything_once_and_then_nothing_more(stub: GrafanaStub) -> None:
    with collector(bursts(CELESTIAL)) as at:
        arguments = ("--url", stub.url, "--prometheus", "http://prometheus:9090", "--collector", at)
        first = run(*arguments)
        assert first.exit_code == 0, first.output
        assert first.stdout.count(": made") == 1 + 1 + len(BOARDS) + 1
        assert {uid: kept["meta"]["folderUid"] for uid, kept in stub.boards.items()} == dict.fromkeys(
            (board["uid"] for board in BOARDS.values()), "flipwatch"
        )
        for board in BOARDS.values():
            assert board.items() <= stub.boards[board["uid"]]["dashboard"].items()
        writes = stub.writes()
        second = run(*arguments)
    assert second.exit_code == 0 and second.stdout == first.stdout.replace(": made", ": unchanged")
    assert stub.writes() == writes


def test_what_differs_is_updated_and_other_settings_are_kept(stub: GrafanaStub) -> None:
    run("--url", stub.url, "--prometheus", "http://old:9090")
    stub.sources["flipwatch"]["jsonData"]["timeInterval"] = "30s"
    stub.boards["flipwatch-host"]["dashboard"]["title"] = "scribbled on"
    stub.boards["flipwatch-fleet"]["meta"]["folderUid"] = "elsewhere"
    result = run("--url", stub.url, "--prometheus", "http://new:9090")
    assert sorted(line for line in result.stdout.splitlines() if "updated" in line) == [
        "dashboard flipwatch / Fleet: updated",
        "dashboard flipwatch / Host: updated",
        "data source flipwatch: updated",
    ]
    kept = stub.sources["flipwatch"]
    assert (kept["url"], kept["jsonData"]["timeInterval"]) == ("http://new:9090", "30s")
    assert stub.boards["flipwatch-host"]["dashboard"]["title"] == "flipwatch / Host"
    assert stub.boards["flipwatch-host"]["dashboard"]["version"] == 2


def test_a_burst_from_its_start_to_its_end_then_updated_then_taken_back(stub: GrafanaStub) -> None:
    later = revision(rev=2, kind="update", label="fleet", t_end_ns=CELESTIAL.t_end_ns + 60 * 10**9)
    retracted = revision(rev=3, kind="retract", label="fleet")
    with collector(bursts(CELESTIAL)) as at:
        run("--url", stub.url, "--collector", at)
    (entry,) = stub.annotations
    assert (entry["time"], entry["timeEnd"]) == (CELESTIAL.t_start_ns // 10**6, CELESTIAL.t_end_ns // 10**6)
    assert {"flipwatch-burst", f"burst_id:{CELESTIAL.burst_id}", "cause:celestial"} == set(entry["tags"])
    assert "9 novel faults where 0.03 were expected" in entry["text"] and "fra 6, nyc 3" in entry["text"]
    for known, cause, outcome in (
        (bursts(later, CELESTIAL), "cause:fleet", "updated"),
        (bursts(later, CELESTIAL), "cause:fleet", "unchanged"),
        (bursts(CELESTIAL, later, retracted), "retracted", "updated"),
    ):
        with collector(known) as at:
            result = run("--url", stub.url, "--collector", at)
        assert f"burst {CELESTIAL.burst_id}: {outcome}" in result.stdout
        (entry,) = stub.annotations
        assert cause in entry["tags"]
    assert "taken back" in entry["text"]
    assert [method for method, path in stub.writes() if "annotations" in path] == ["POST", "PATCH", "PATCH"]


def test_however_many_bursts_are_looked_up_at_once(stub: GrafanaStub, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [revision(burst_id=f"burst-{number}") for number in range(150)]
    with collector(bursts(*many)) as at:
        for outcome in ("made", "unchanged"):
            stub.requests.clear()
            result = run("--url", stub.url, "--collector", at)
            assert result.stdout.count(f"burst-1: {outcome}") == 1
            assert [(method, path) for method, path, _ in stub.requests].count(("GET", "/api/annotations")) == 1
        assert len(stub.annotations) == len(many)
        monkeypatch.setattr(push, "ANNOTATIONS_MAX", len(many))
        assert "150 or more with the tag flipwatch-burst" in sentence(run("--url", stub.url, "--collector", at))


def test_what_chance_hardly_ever_does_has_no_figure() -> None:
    for far_per_year, words in (
        (0.004, "this 0.004 times a year."),
        (3e-308, "this less than once in a million years."),
    ):
        (burst,) = annotations.wanted(bursts(revision(far_per_year=far_per_year)))
        assert burst.text.endswith(words)


def test_bursts_of_a_real_collector(stub: GrafanaStub, world: World) -> None:
    result = run("--url", stub.url, "--collector", world.collector)
    assert result.exit_code == 0, result.output
    assert [entry["timeEnd"] > entry["time"] for entry in stub.annotations] == [True]


def test_names_from_outside_are_no_html_and_no_query() -> None:
    bad = '<img src=x onerror=alert(1)>&tags=x"'
    document = CELESTIAL.document() | {"burst_id": bad, "label": "local"}
    document["clusters"] = [{"cluster": bad, "observed": 3, "expected": 0.1}]
    (burst,) = annotations.wanted({"bursts": [document]})
    assert "<" not in burst.text and "&lt;img" in burst.text
    with GrafanaStub() as stub, collector({"bursts": [document]}) as at:
        for outcome in ("made", "unchanged"):
            result = run("--url", stub.url, "--collector", at)
            assert result.stdout.splitlines()[-1].endswith(outcome)
        assert stub.annotations[0]["tags"][1] == f"burst_id:{bad}"
    assert push.shown("a\x1b[31m\nb\u202e") == r"a\x1b[31m b\u202e" and len(push.shown("x" * 999)) == 200


# -- how it logs in, and where


def test_a_token_from_a_file_or_a_user_with_a_password(stub: GrafanaStub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{grafana_stub.TOKEN}\n")
    assert run("--url", stub.url, "--token-file", tmp_path / "token", env={}).exit_code == 0
    user, password = grafana_stub.BASIC
    (tmp_path / "password").write_text(password)
    assert run("--url", stub.url, "--user", user, "--password-file", tmp_path / "password", env={}).exit_code == 0
    assert run("--url", stub.url, "--user", user, env={PASSWORD: password}).exit_code == 0
    assert "--token-file" in sentence(run("--url", stub.url, env={}))
    assert "--password-file" in sentence(run("--url", stub.url, "--user", user, env={}))
    assert "give one" in sentence(run("--url", stub.url, "--user", user, "--token-file", tmp_path / "token"))
    assert "colon" in sentence(run("--url", stub.url, "--user", "a:b"))
    assert "can't be read" in sentence(run("--url", stub.url, "--token-file", tmp_path / "none"))
    (tmp_path / "token").write_text("two\nlines")
    assert "one line" in sentence(run("--url", stub.url, "--token-file", tmp_path / "token"))
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    assert "not a text file" in sentence(run("--url", stub.url, "--token-file", tmp_path / "token"))


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_base_path_with_and_without_a_slash_at_its_end(ending: str) -> None:
    with GrafanaStub("/some/grafana") as stub:
        assert run("--url", stub.url + ending).exit_code == 0
        assert set(stub.folders) == {"flipwatch"}
        assert "base path" in sentence(run("--url", stub.url.removesuffix("/some/grafana")))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("grafana:3000", "not an address"),
        ("ftp://grafana", "not an address"),
        ("http://", "not an address"),
        ("http://[::1", "not an address"),
        ("http://grafana:99999", "not an address"),
        ("http://admin:secret@grafana", "seen by others"),
        ("http://grafana/?orgId=1", "what follows ?"),
    ],
)
def test_addresses_that_are_none(url: str, words: str) -> None:
    said = sentence(run("--url", url))
    assert words in said and "secret" not in said
    assert words in sentence(run("--url", "http://127.0.0.1:1", "--prometheus", url))
    assert words in sentence(run("--url", "http://127.0.0.1:1", "--collector", url))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = [require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=grafana"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=30)
    return folder / "cert.pem", folder / "key.pem"


def test_tls_with_an_authority_of_ones_own(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with GrafanaStub(context=context) as stub:
        assert run("--url", stub.url, "--ca", certificate[0]).exit_code == 0
        assert "isn't trusted" in sentence(run("--url", stub.url))
    (tmp_path / "ca.pem").write_text("no certificate")
    assert "no certificate" in sentence(run("--url", "https://127.0.0.1:1", "--ca", tmp_path / "ca.pem"))


def test_without_the_library_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['grafana_api'] = None; from flipwatch import main; main(['grafana', 'push'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and "pip install 'flipwatch[grafana]'" in done.stderr and "Traceback" not in done.stderr


# -- a Grafana that doesn't want to

JSON = {"Content-Type": "application/json"}
HTML = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (401, JSON, b'{"message":"Invalid API key"}', "isn't accepted (401: Invalid API key)"),
        (403, JSON, b'{"message":"You\'ll need additional permissions"}', "role Editor"),
        (301, {"Location": "https://elsewhere/login"}, b"", "redirects to https://elsewhere/login"),
        (302, {"Location": "/login\x1b[2J"}, b"", r"redirects to /login\x1b[2J"),
        (200, HTML, b"<html>please log in</html>", "text/html where JSON belongs"),
        (404, HTML, b"<html>no such page</html>", "text/html where JSON belongs"),
        (200, JSON, b"null", "status 200"),
        (200, JSON, b"{", "where JSON belongs"),
        (500, JSON, b'{"message":"database is locked"}', "status 500: database is locked"),
        (500, JSON, b"null", "status 500: no reason given"),
        (502, HTML, b"<h1>Bad gateway</h1>", "status 502"),
    ],
)
@pytest.mark.parametrize("when", ["at once", "at the third dashboard"])
def test_an_unkind_answer_is_one_sentence_and_what_was_done_is_said(
    stub: GrafanaStub, status: int, headers: dict[str, str], body: bytes, words: str, when: str
) -> None:
    where = "/api/folders/flipwatch" if when == "at once" else "/api/dashboards/uid/flipwatch-host"
    stub.manners = lambda method, path: (status, headers, body) if path == where else None
    result = run("--url", stub.url)
    said = sentence(result)
    assert words in said and stub.url in said
    assert [path for method, path, _ in stub.requests if method == "GET"][-1] == where, "nothing is tried after it"
    if when == "at once":
        assert stub.writes() == [] and result.stdout == "" and "push again" not in said
    else:
        assert "3 of the things before it are done" in said and result.stdout.count(": made") == 3
        stub.manners = lambda method, path: None
        again = run("--url", stub.url)
        assert (again.stdout.count(": made"), again.stdout.count(": unchanged")) == (3, 3)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("version-mismatch", "somebody else saved it at the same time"),
        ("name-exists", "another one of the same name"),
        ("plugin-dashboard", "belongs to a plugin"),
        ("news", "not as expected"),
    ],
)
def test_a_refused_dashboard_says_why(stub: GrafanaStub, status: str, words: str) -> None:
    body = json.dumps({"message": "no", "status": status}).encode()
    stub.manners = lambda method, path: (412, JSON, body) if path == "/api/dashboards/db" else None
    said = sentence(run("--url", stub.url))
    assert words in said and "dashboard flipwatch / Bursts" in said and "(412: no)" in said


def test_a_dashboard_that_somebody_saves_meanwhile_is_not_overwritten(stub: GrafanaStub) -> None:
    run("--url", stub.url)
    stub.boards["flipwatch-fleet"]["dashboard"]["title"] = "mine"

    def meanwhile(method: str, path: str) -> None:
        if (method, path) == ("POST", "/api/dashboards/db"):
            stub.boards["flipwatch-fleet"]["dashboard"]["version"] += 1

    stub.manners = meanwhile
    assert "somebody else saved it" in sentence(run("--url", stub.url))
    assert stub.boards["flipwatch-fleet"]["dashboard"]["title"] == "mine"


def test_a_data_source_of_the_same_name_is_said(stub: GrafanaStub) -> None:
    stub.sources["theirs"] = {"name": "flipwatch", "uid": "theirs"}
    said = sentence(run("--url", stub.url, "--prometheus", "http://prometheus:9090"))
    assert "data source flipwatch" in said and "status 409" in said and stub.boards == {}


def test_silence_and_absence(stub: GrafanaStub) -> None:
    hung = threading.Event()
    stub.manners = lambda method, path: hung.wait(30) and None
    said = sentence(run("--url", stub.url, "--timeout", "0.2"))
    hung.set()
    assert "no answer in time" in said
    assert "can't be reached" in sentence(run("--url", "http://127.0.0.1:1"))


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"bursts": 5},
        {"bursts": [5]},
        {"bursts": [{"burst_id": "x"}]},
        {"bursts": [CELESTIAL.document() | {"t_start": "yesterday"}]},
        {"bursts": [CELESTIAL.document() | {"clusters": None}]},
        {"bursts": [CELESTIAL.document() | {"far_per_year": "often"}]},
    ],
)
def test_a_collector_that_says_nonsense_stops_it_before_anything_is_pushed(stub: GrafanaStub, document: Any) -> None:
    with collector(document) as at:
        assert at in sentence(run("--url", stub.url, "--collector", at))
    assert stub.requests == []


def test_without_a_collector_that_answers_nothing_is_pushed(stub: GrafanaStub) -> None:
    assert "can't be reached" in sentence(run("--url", stub.url, "--collector", "http://127.0.0.1:1"))
    with collector({}) as at:
        assert "status 404" in sentence(run("--url", stub.url, "--collector", f"{at}/else"))
    assert stub.requests == []
