"""Names that mean harm, from firmware, agents, file systems and inventories, all the way to where people read them.

Each of HOSTILE is a cluster, a host, a rack, a memory module's label and serial number, a store and a file in it, and
what an agent of ill will says in all its words. Nothing of it may act: in no page, terminal, log, notification,
annotation, query or scrape.
"""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from agent.report import TEXT_CHARACTERS_MAX, MemoryFault, RecordFault
from checksum import leveldb_log, systemd
from checksum.printable import printable
from collectors.factors import Factor
from collectors.inventory import InventoryError, load
from collectors.revision import ClusterShare
from collectors.store import Store
from dashboards import annotations
from dashboards.rules.table import RULES
from flipwatch import main
from tests.agent.edac_tree import controller, dimms
from tests.agent.processes import Daemon, eventually
from tests.agent.smbios_table import memory_device, table, write
from tests.collectors.bursts import revision
from tests.collectors.running import RunningCollector, wait_for, write_config
from tests.collectors.scripted_agent import Agents, ScriptedAgent
from tests.conftest import require
from tests.dashboards.world import Prometheus, running_prometheus
from tests.servers.alertmanager import alerts, running_alertmanager
from tests.servers.webhook import Webhook

HOSTILE = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "promql": 'x"} or vector(1) or {a="',
    "backslash": "back\\slash\\\\",
    "newline": 'line\nflipwatch_forged{x="1"} 1\nERROR forged',
    "return": "one\r\x1b[2Ktwo\ttabbed",
    "ansi": "\x1b[31mred\x1b]0;title\x07",
    "c1": "\x9b31m\x85\x90",
    "rtl": "\u202egnp.\u2066exe",
    "go template": "{{ $value }}{{ .Alerts }}{{ end }}",
    "jinja": "{{7*7}}{% raw %}${7*7}",
    "percent": "%s%n%(message)s{0}%%",
    "separator": "a\u2028b\u2029c\xa0d",
    "markdown": "[click](http://evil.example) <http://evil.example|click> @everyone `code`",
    "mathtext": r"$\frac$",
    "long": "L" * 10_000,
}
NAMES = list(HOSTILE.values())
OF_THE_AGENT = HOSTILE["html"] + HOSTILE["promql"] + HOSTILE["go template"]  # its cluster, which Prometheus' rules name
FORGED = re.compile(r"^(flipwatch_forged|ERROR forged)", re.M)


@dataclass(frozen=True)
class Hostile:
    """Everything that runs, with every hostile name told to it."""

    root: Path
    agent: Daemon
    scrubber: Daemon
    collector: RunningCollector
    config: Path
    prometheus: Prometheus
    alertmanager: str
    webhook: Webhook


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    root = tmp_path_factory.mktemp("hostile")
    scripted = [malicious(number, name) for number, name in enumerate(NAMES)]
    with contextlib.ExitStack() as later:
        stores = make_host(root / "agent")
        agent = later.enter_context(Daemon(root / "agent", settings={"host": HOSTILE["ansi"]}, stores=stores))
        scrubber = later.enter_context(Daemon(root / "agent", "scrubd", stores=stores))
        later.enter_context(Agents(*scripted))
        webhook = later.enter_context(Webhook())
        alertmanager = later.enter_context(running_alertmanager(root, webhook))
        inventory = write_inventory(root, scripted, agent)
        config = write_config(root, inventory, alertmanager_url=alertmanager)
        remember_a_burst(root / "state" / "collector.sqlite3")
        collector = later.enter_context(RunningCollector(config))
        prometheus = later.enter_context(prometheus_with_rules(root, inventory, collector.url, alertmanager))
        controller(root / "agent" / "sys", **places()).inject("dimm0", kind="ue")
        wait_for(lambda: collector.faults() >= 2 * len(NAMES) + 1 + len(NAMES), 60)
        yield Hostile(root, agent, scrubber, collector, config, prometheus, alertmanager, webhook)


def places() -> dict[str, dict[str, str]]:
    return {"places": dimms(channels=len(NAMES), slots=1)}


def make_host(root: Path) -> list[dict[str, Any]]:
    """Modules with such labels and serials, and stores with such names, of files with such names, each with damage."""
    tree = controller(root / "sys", **places()).create()
    for number, name in enumerate(NAMES):
        tree.set(f"dimm{number}/dimm_label", name)
    modules = [memory_device(name, serial=f"S{name}", part=f"P{name}", manufacturer=f"M{name}") for name in NAMES]
    write(root / "sys", table(*modules))
    data = bytearray(b"".join(leveldb_log.encode(bytes([n]) * 900, n * 907) for n in range(20)))
    data[9000] ^= 8
    stores = []
    for name in NAMES:
        store = root / "stores" / file_name(name)
        store.mkdir(parents=True)
        file = os.fsencode(store / file_name(name)) + b"\xff\xfe.log"
        Path(os.fsdecode(file)).write_bytes(data)
        os.utime(file, (time.time() - 86400,) * 2)
        stores.append({"path": str(store), "rate_mib_s": 1000.0, "period_days": 1e-5, "pressure_max_percent": 100.0})
    return stores


def file_name(name: str) -> str:
    return name.replace("/", "_")[:60]


def malicious(number: int, name: str) -> ScriptedAgent:
    """An agent that says it wherever it may say anything."""
    agent = ScriptedAgent(name)
    name = name[:TEXT_CHARACTERS_MAX]  # what is longer is refused, the answer with it
    journal = name[:1000]  # longer ones don't fit into a cursor
    agent.facts = {"kernel": name, "bios": name}
    detail = {"label": name, "serial": name, name: name}
    place = {"path": name, "format": name, "begin": name, "end": [name], "verdict": name, "layer": name}
    flip = {"offset_bytes": name, "bit": name, "stored": name}
    shared = {"time_ns": time.time_ns(), "time_error_s": 1.0, "host": name, "device": name, "count": 1, "novel": True}
    agent.journals = {
        journal: [
            MemoryFault(stream="dram", severity="corrected", witnesses=(name,), epoch=name, detail=detail, **shared),
            RecordFault(detail=place | {"flip": flip}, **shared),
        ]
    }
    return agent


def write_inventory(root: Path, scripted: list[ScriptedAgent], agent: Daemon) -> Path:
    groups = [
        {"targets": [one.target], "labels": {"cluster": one.host, "host": one.host, "rack": one.host, **place(number)}}
        for number, one in enumerate(scripted)
    ]
    real = {"targets": [agent.url.removeprefix("http://")], "labels": {"cluster": OF_THE_AGENT, **place(99)}}
    path = root / "inventory.json"
    path.write_text(json.dumps([*groups, real]))
    return path


def place(number: int) -> dict[str, str]:
    return {"latitude": str(number % 90), "longitude": str(number)}


def remember_a_burst(path: Path) -> None:
    """One that goes on when the collector starts, in all these clusters."""
    now_ns = time.time_ns()
    shares = tuple(ClusterShare(name, 9, 0.01) for name in NAMES)
    factors = tuple(Factor(name, name, 14, 20, 40, 4000, 1e-9, 1e-7) for name in NAMES)
    burst = revision(
        t_start_ns=now_ns - 600 * 10**9, t_end_ns=now_ns, clusters=shares, factors=factors, change_ids=tuple(NAMES)
    )
    with contextlib.closing(Store(path)) as store:
        store.record_step([burst], {}, {})


@contextlib.contextmanager
def prometheus_with_rules(root: Path, inventory: Path, collector: str, alertmanager: str) -> Iterator[Prometheus]:
    """It finds the agents in the same inventory as the collector."""
    rules = root / "flipwatch.rules.yml"
    rules.write_text(RULES.read_text().replace("interval: 1m", "interval: 1s"))
    own = {"targets": [collector.removeprefix("http://")]}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}]},
        "scrape_configs": [
            {"job_name": "flipwatch", "file_sd_configs": [{"files": [str(inventory)]}]},
            {"job_name": "flipwatch-collector", "static_configs": [own]},
        ],
    }
    with running_prometheus(root, config) as prometheus:
        yield prometheus


def assert_lines_are_harmless(text: str) -> None:
    """Nothing in it that a terminal obeys, and no line of another's making."""
    odd = [line for line in text.split("\n") if not line.isprintable()]
    assert not odd, odd[0]
    assert not FORGED.search(text)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert_lines_are_harmless(result.output)
    return result


# -- the page


class Parsed(HTMLParser):
    """Elements, attributes and text of a page, as a browser would make them of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.links.update(value or "" for name, value in attrs if name in ("href", "src"))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_holds_names_as_text_and_nothing_else(hostile: Hostile) -> None:
    page = hostile.collector.get("/")
    parsed = Parsed(page)
    assert not parsed.elements & {"script", "img", "iframe", "object", "form", "base"}
    assert not {name for name in parsed.attributes if name.startswith("on") or name in ("x", "src", "style")}
    assert all(re.fullmatch(r"data:,|#\S*|runbooks/\w*|metrics|api/\w+", link) for link in parsed.links)
    text = "".join(parsed.words).replace("\xa0", " ")  # the template's own
    assert_lines_are_harmless(text)
    for name in NAMES:
        assert printable(name)[:999] in text, name


def test_the_api_is_ascii_json_that_says_the_names_as_they_are(hostile: Hostile) -> None:
    for path in ("/api/status", "/api/bursts", "/api/changes"):
        body = hostile.collector.get(path)
        assert body.isascii() and body.isprintable()
    status = hostile.collector.json("/api/status")
    assert {cluster["cluster"] for cluster in status["clusters"]} == {*NAMES, OF_THE_AGENT}
    assert {share["cluster"] for share in hostile.collector.json("/api/bursts")["bursts"][0]["clusters"]} == set(NAMES)


# -- Prometheus


def test_the_exposition_keeps_each_name_within_its_label(hostile: Hostile) -> None:
    for text in (hostile.collector.get("/metrics"), hostile.agent.get("/metrics")[1]):
        checked = subprocess.run(
            [require("promtool"), "check", "metrics"], input=text.encode(), capture_output=True, timeout=60
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert not FORGED.search(text)
    families = {family.name: family for family in text_string_to_metric_families(hostile.collector.get("/metrics"))}
    assert {sample.labels["cluster"] for sample in families["flipwatch_agents"].samples} == {*NAMES, OF_THE_AGENT}


def test_a_real_prometheus_scrapes_it_and_finds_each_name_by_an_escaped_query(hostile: Hostile) -> None:
    ask = hostile.prometheus.query
    eventually(lambda: len(ask('flipwatch_agents{state="ok"}')) == len(NAMES) + 1)
    assert not ask("flipwatch_forged")
    for name in NAMES:
        (series,) = ask(f"flipwatch_agents{{state='ok',cluster={json.dumps(name)}}}")
        assert series["metric"]["cluster"] == name
    stores = {series["metric"]["store"] for series in eventually(lambda: ask("flipwatch_scrub_pass_ratio"))}
    assert stores == {str(hostile.root / "agent" / "stores" / file_name(name)) for name in NAMES}


def test_a_rule_tells_the_name_and_does_not_execute_it(hostile: Hostile) -> None:
    eventually(lambda: hostile.webhook.states(alertname="UncorrectedMemoryError"), 60)
    (told,) = [a for a in hostile.webhook.received if a["labels"]["alertname"] == "UncorrectedMemoryError"][:1]
    assert told["labels"]["cluster"] == OF_THE_AGENT
    assert OF_THE_AGENT in told["annotations"]["description"]


def test_a_rule_tells_every_name_of_a_store_as_it_is(hostile: Hostile) -> None:
    """Nothing in it is a template or a matcher to Prometheus or Alertmanager, and each stays within its label."""

    def told() -> dict[str, dict[str, Any]]:
        return {
            a["labels"]["store"]: a for a in hostile.webhook.received if a["labels"]["alertname"] == "RecordCorrupt"
        }

    stores = {str(hostile.root / "agent" / "stores" / file_name(name)) for name in NAMES}
    eventually(lambda: set(told()) == stores, 60)
    for store, alert in told().items():
        assert set(alert["labels"]) == {"alertname", "severity", "cluster", "instance", "store", "format"}
        assert (
            f"files under {store} on {alert['labels']['instance']} ({OF_THE_AGENT})"
            in alert["annotations"]["description"]
        )


# -- Alertmanager, logs and Grafana


def test_a_notification_is_plain_words(hostile: Hostile) -> None:
    wait_for(lambda: hostile.webhook.states(alertname="CorrelatedBurst"))
    (told,) = [a for a in hostile.webhook.received if a["labels"]["alertname"] == "CorrelatedBurst"][:1]
    for text in told["annotations"].values():
        assert text.isprintable() and not set(text) & set("<>[]`@") and len(text) < 20_000
    for name in ("go template", "jinja", "percent", "mathtext", "backslash"):
        assert HOSTILE[name] in told["annotations"]["clusters"]
    assert f"{'L' * 99}…" in told["annotations"]["clusters"] and "L" * 100 not in told["annotations"]["clusters"]
    members = [a for a in alerts(hostile.alertmanager) if a["labels"]["alertname"] == "BurstMember"]
    assert {member["labels"]["cluster"] for member in members} == set(NAMES)  # as they are, or they'd mute nothing
    assert all(member["annotations"]["summary"].isprintable() for member in members)


def test_log_lines_are_lines(hostile: Hostile) -> None:
    damaged = r"\x1b[31mred\x1b]0;title\x07\udcff\udcfe.log: bytes"
    eventually(lambda: any(damaged in line for line in hostile.scrubber.log))
    stamped = re.compile(r"\d{4}-\d\d-\d\d \S+ [A-Z]+ [\w.]+: |  ")
    for line in hostile.collector.log:
        assert stamped.match(line), line
    for line in (*hostile.agent.log, *hostile.scrubber.log):
        assert re.match(r"(INFO|WARNING|ERROR) |  ", line), line
    for line in (*hostile.collector.log, *hostile.agent.log, *hostile.scrubber.log):
        assert_lines_are_harmless(line.rstrip("\n"))


def test_a_status_for_systemd_is_one_assignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for name in (*NAMES, "x\nWATCHDOG=trigger", "half a pair \udcff"):
            systemd.notify("READY=1", f"STATUS={name}")
            assert manager.recv(1 << 16).decode() == f"READY=1\nSTATUS={printable(name)}"


def test_annotations_for_grafana_are_escaped(hostile: Hostile) -> None:
    for annotation in annotations.wanted(hostile.collector.json("/api/bursts")):
        assert_lines_are_harmless(annotation.text)
        assert not Parsed(annotation.text).elements


# -- terminals


def test_the_catalogue_on_a_terminal(hostile: Hostile) -> None:
    listed = run("bursts", "list", "--config", hostile.config)
    assert listed.exit_code == 0 and f"{len(NAMES)}/{len(NAMES)} clusters" in listed.stdout
    shown = run("bursts", "show", revision().burst_id, "--config", hostile.config)
    assert shown.exit_code == 0
    assert all(printable(name) in shown.stdout for name in NAMES)
    missing = run("bursts", "show", HOSTILE["ansi"], "--config", hostile.config)
    assert missing.exit_code == 2 and printable(HOSTILE["ansi"]) in missing.stderr


def test_a_picture_is_drawn(hostile: Hostile, tmp_path: Path) -> None:
    for name in ("a.svg", "a.png"):
        drawn = run("bursts", "plot", revision().burst_id, "--config", hostile.config, "--out", tmp_path / name)
        assert drawn.exit_code == 0, drawn.output
    png = (tmp_path / "a.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])  # of the IHDR chunk
    assert png.startswith(b"\x89PNG\r\n") and max(width, height) < 5000, "no name makes it larger"
    assert not [word for word in NAMES if word[:50].encode() in png]
    svg = (tmp_path / "a.svg").read_text()
    assert_lines_are_harmless(svg)
    assert not Parsed(svg).elements & {"script", "img", "foreignobject"}


def test_the_doctor_and_acknowledgements(hostile: Hostile) -> None:
    toml = hostile.root / "agent" / "agent.toml"
    examined = run("doctor", "--config", toml)
    assert examined.exit_code in (0, 1)
    assert all(printable(HOSTILE[name])[:30] in examined.stdout for name in ("html", "ansi", "rtl", "jinja"))
    known = run("ack", "mc0/channel0/slot0", "--reason", HOSTILE["newline"], "--config", toml)
    assert known.exit_code == 0
    assert run("doctor", "--config", toml).exit_code in (0, 1)
    eventually(lambda: 'state="acknowledged"' in hostile.agent.get("/metrics")[1])
    for name in NAMES:
        assert run("ack", name, "--reason", "x", "--config", toml).exit_code == 1


def test_verify_and_its_kin_on_such_files(hostile: Hostile, tmp_path: Path) -> None:
    stores = hostile.root / "agent" / "stores"
    files = sorted(path for path in stores.rglob("*") if path.is_file())
    assert len(files) == len(NAMES)
    checked = run("verify", stores)
    assert checked.exit_code == 1 and checked.stdout.count("flipped") == len(NAMES)
    for number, file in enumerate(files):
        out = tmp_path / f"{number}{file.name[:20]}"
        codes = [
            run("locate", file).exit_code,
            run("salvage", file, out, "--max-lost", "100%").exit_code,
            run("seal", file).exit_code,
        ]
        codes += [run("locate", f"{file}-gone").exit_code, run("verify", "--format", file.name, file).exit_code]
        assert codes == [1, 0, 0, 2, 2]
        file.with_name(f"{file.name}.seal").unlink(missing_ok=True)


def test_replay_and_import_name_what_they_could_not_use(hostile: Hostile, tmp_path: Path) -> None:
    moment = {"time_ns": time.time_ns(), "hosts_up": 1, "hosts": 1, "kind": "alive"}
    lines = [json.dumps(moment | {"cluster": name}) for name in NAMES]
    lines += [json.dumps({"kind": name}) for name in NAMES]
    lines += [json.dumps(moment | {"cluster": "not in the inventory" + name}) for name in NAMES]
    history = tmp_path / f"{file_name(HOSTILE['ansi'])}.ndjson"
    history.write_text("\n".join(lines) + "\n")
    played = run("replay", history, "--inventory", hostile.root / "inventory.json")
    assert played.exit_code == 0 and f"{2 * len(NAMES) + 1} lines couldn't be used" in played.stderr
    assert run("import", history, "--config", hostile.config).exit_code == 0


@pytest.mark.parametrize("name", HOSTILE)
def test_a_change_of_such_a_name(hostile: Hostile, name: str) -> None:
    text = HOSTILE[name]
    opened = run("change", "open", text, "--cohort", text, "--collector", hostile.collector.url)
    if len(text) > TEXT_CHARACTERS_MAX:
        assert opened.exit_code == 2 and "must be a string of 1 to 4096 characters" in opened.stderr
        return
    assert opened.exit_code == 0, opened.output
    known = hostile.collector.json("/api/changes")["changes"]
    assert text in {change["id"] for change in known}
    assert printable(text) in "".join(Parsed(hostile.collector.get("/")).words)


# -- what can be no name at all


@pytest.mark.parametrize("text", ["half a pair \ud800", "nul \0 nul"])
def test_what_no_label_can_hold_is_refused_in_a_sentence(hostile: Hostile, tmp_path: Path, text: str) -> None:
    for labels in ({"cluster": text}, {"cluster": "c", "host": text}, {"cluster": "c", text: "x"}):
        path = tmp_path / "inventory.json"
        path.write_text(json.dumps([{"targets": ["h:1"], "labels": {**place(1), **labels}}]))
        with pytest.raises(InventoryError, match="valid Unicode") as refused:
            load(path)
        assert_lines_are_harmless(printable(str(refused.value)))
    body = json.dumps({"id": text, "action": "open", "cohort": "c"}).encode()
    request = urllib.request.Request(f"{hostile.collector.url}/api/changes", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(request, timeout=20)
    with answer.value as error:
        assert error.code == 400 and error.read().isascii()
