"""`flipwatch demo`: the whole road on one machine, driven through the command line as a user would.

Enters: nothing but the programs of this installation. Leaves: a fleet of real agents, scrubbers and a collector on
loopback, real errors in their trees and real flipped bits in their stores, and a verdict: did flipwatch say exactly
what happened? Only the hardware is pretended (deploy/demo_world.py) and the fifteen days before (flipwatch simulate).
"""

import http.server
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click

from deploy import demo_world as world

HISTORY_DAYS = 15
NOVEL_PER_HOST_HOUR = 0.05
STORM_ERRORS = 4711  # corrected errors of one tired DIMM far from the burst: one novel fault, however many
UNCORRECTED_ERRORS = 2
FLIPPED_STORES = 5
DIRECTION_ERROR_MAX_DEG = 30.0
AGENT_MIB_MAX = 36.0
START_S, LIVE_S, BURST_S, SCRUB_S = 60.0, 40.0, 40.0, 40.0
POLL_S = 0.25
SHARES_PER_LINE = 4
STOP_S = 10.0

AGENT_TOML = """\
[agent]
listen = "127.0.0.1:0"
host = "{name}"
state_dir = "{directory}/state"
sysfs = "{sysfs}"
poll_interval_s = 1

[[store]]
path = "{store}"
include = ["*.log"]
period_days = 0.00005   # a pass every 4.3 s
"""
COLLECTOR_TOML = """\
[collector]
listen = "127.0.0.1:{port}"
state_dir = "{directory}"
inventory = "{inventory}"
pull_interval_s = 1
alertmanager_url = "{alertmanager_url}"
"""
ALERTMANAGER_YAML = """\
route: {{receiver: demo, group_by: [burst_id], group_wait: 3s, group_interval: 3s, repeat_interval: 1h,
  routes: [{{matchers: ['alertname="BurstMember"'], receiver: nobody}}]}}
receivers: [{{name: demo, webhook_configs: [{{url: "{url}", send_resolved: true}}]}}, {{name: nobody}}]
"""


class Missing(Exception):
    """Something that should have happened did not."""


@dataclass
class Demo:
    """What runs, what was done to it, and what is missing."""

    directory: Path
    rng: random.Random
    started_s: float = field(default_factory=time.monotonic)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    agents: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)  # host -> http://...
    hosts: list[world.Host] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)  # host -> injected errors
    flips: list[world.Flip] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self.started_s:5.1f} s  {text}")

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.processes.append(process)
        return process

    def flipwatch(self, *arguments: object) -> None:
        """Runs one command of flipwatch to its end."""
        line = command(*arguments)
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"`flipwatch {arguments[0]}` failed: {done.stderr.strip() or done.stdout.strip()}")

    def wait_for(self, what: str, seconds: float, look: Callable[[], Any]) -> Any:
        """What `look` returns once it is true."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            found = look()
            if found:
                return found
            for process in self.processes:
                if process.poll() is not None:
                    raise Missing(f"{' '.join(map(str, process.args))} ended with {process.returncode}")  # type: ignore[arg-type]
            time.sleep(POLL_S)
        raise Missing(f"{what}: not within {seconds:.0f} s")

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        deadline_s = time.monotonic() + STOP_S
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "flipwatch", *map(str, arguments)]


@click.command()
@click.option("--once", is_flag=True, help="End after the verdict: exit 0 only if all of it truly happened.")
@click.option("--seed", type=int, default=None, help="Choose the burst's direction and all else again.")
@click.option("--keep", is_flag=True, help="Leave the demonstration's files (logs, journals, store) behind.")
def demo(once: bool, seed: int | None, keep: bool) -> None:
    """Show all of flipwatch on this machine: a fleet, a burst from the sky, flipped bits, the alert."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # so that what was started is stopped
    directory = Path(tempfile.mkdtemp(prefix="flipwatch-demo-"))
    show = Demo(directory, random.Random(seed))
    show.say(f"seed {seed}; files in {directory}" + ("" if keep else " (removed at the end)"))
    try:
        with _alert_receiver() as receiver:
            page = _perform(show, receiver)
            if not once and page:
                click.echo(f"\nThe page: {page}   (Ctrl-C ends the demonstration)")
                _wait_for_interrupt()
    finally:
        show.stop()
        if keep:
            click.echo(f"files left in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    if show.missing:
        for sentence in show.missing:
            click.echo(f"missing: {sentence}", err=True)
        sys.exit(1)


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        click.echo()


def _perform(show: Demo, receiver: "Receiver") -> str:
    """The whole play; returns the page's address, or "" if it never came to that."""
    page = ""
    try:
        _start_agents(show)
        page = _start_centre(show, receiver)
        source = _burst_and_friends(show)
        _flip_bits(show)
        _check_burst(show, page, receiver, source)
        _check_errors(show, page)
        _check_records(show, page)
        _check_memory(show)
    except Missing as error:
        show.missing.append(str(error))
    if page:
        show.say(f"the page: {page}")
    if not show.missing:
        show.say("everything that was done was seen, and nothing else")
    return page


# --- acts --------------------------------------------------------------------------------------------------------


def _start_agents(show: Demo) -> None:
    now_s = time.time()
    for cluster in world.CLUSTERS:
        for number in range(1, world.HOSTS_PER_CLUSTER + 1):
            name = f"{cluster}-h{number}"
            host = world.build_host(name, cluster, show.directory / name, now_s, show.rng)
            show.hosts.append(host)
            toml = AGENT_TOML.format(name=name, directory=host.directory, sysfs=host.sysfs, store=host.store)
            (host.directory / "agent.toml").write_text(toml)
    dimms = world.DIMMS_PER_HOST * len(show.hosts)
    show.say(f"{len(world.CLUSTERS)} clusters with {len(show.hosts)} hosts, {dimms} DIMMs: starting their agents")
    for host in show.hosts:
        log = host.directory / "agent.log"
        show.agents[host.name] = show.start(*command("agent", "--config", host.directory / "agent.toml"), log=log)
    for host in show.hosts:
        log = host.directory / "agent.log"
        show.addresses[host.name] = show.wait_for(f"agent of {host.name}", START_S, partial(_listening, log))
    _write_inventory(show)
    show.say("all agents listen; the scrubbers start")
    for host in show.hosts:
        arguments = command("scrubd", "--config", host.directory / "agent.toml")
        show.start(*arguments, log=host.directory / "scrubd.log")


def _start_centre(show: Demo, receiver: "Receiver") -> str:
    inventory, history = show.directory / "inventory.json", show.directory / "history.ndjson"
    show.say(
        f"{HISTORY_DAYS} days of simulated history for these hosts, at a raised rate: {NOVEL_PER_HOST_HOUR} novel "
        f"faults per host and hour, some three hundred times that of real machines"
    )
    fleet = ("--fleet", inventory, "--out", history, "--days", HISTORY_DAYS)
    rate = ("--novel-per-host-hour", NOVEL_PER_HOST_HOUR)
    show.flipwatch("simulate", *fleet, *rate, "--seed", show.rng.randrange(10**6))
    alertmanager_url = _start_alertmanager(show, receiver)
    directory, toml = show.directory / "collector", show.directory / "collector.toml"
    port = _free_port()
    toml.write_text(
        COLLECTOR_TOML.format(directory=directory, inventory=inventory, alertmanager_url=alertmanager_url, port=port)
    )
    show.flipwatch("import", history, "--config", toml)
    show.say("history imported; the collector starts")
    show.start(*command("collector", "--config", toml), log=show.directory / "collector.log")
    page = f"http://127.0.0.1:{port}"

    def all_watched() -> bool:
        status = _get_json(f"{page}/api/status")
        watching = sum(cluster["watching"].get("dram", 0) for cluster in status.get("clusters", []))
        return status.get("state") == "live" and watching == len(show.hosts)

    show.wait_for("a live correlator that watches every host", LIVE_S, all_watched)
    status = _get_json(f"{page}/api/status")
    show.say(
        f"the correlator is live: all {len(show.hosts)} hosts watched, "
        f"a burst must reach {status['threshold_nats']:.1f} nats"
    )
    return page


def _start_alertmanager(show: Demo, receiver: "Receiver") -> str:
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        show.say("no prometheus-alertmanager here: alerts go straight to the demonstration's own receiver")
        return receiver.url
    config = show.directory / "alertmanager.yml"
    config.write_text(ALERTMANAGER_YAML.format(url=f"{receiver.url}/webhook"))
    url = f"http://127.0.0.1:{_free_port()}"
    show.start(
        program,
        f"--config.file={config}",
        f"--storage.path={show.directory / 'alertmanager'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
        log=show.directory / "alertmanager.log",
    )
    show.wait_for("Alertmanager", START_S, lambda: _get(f"{url}/-/ready"))
    show.say(f"a real Alertmanager at {url} delivers to the demonstration's webhook")
    return url


def _burst_and_friends(show: Demo) -> world.Source:
    """Errors on the clusters that face one direction, and beside them what must not be mistaken for it."""
    source = world.burst_source(show.rng)
    faults = world.burst_faults(source)
    for cluster, count in faults.items():
        hosts = [host for host in show.hosts if host.cluster == cluster]
        places = [(host, dimm) for host in hosts for dimm in range(world.DIMMS_PER_HOST)]
        for host, dimm in show.rng.sample(places, count):
            _inject(show, host, dimm, 1)
    spared = [host for host in show.hosts if host.cluster not in faults]
    tired, broken = show.rng.sample(spared, 2)
    _inject(show, tired, 3, STORM_ERRORS)
    _inject(show, broken, 5, UNCORRECTED_ERRORS, "ue")
    members = ", ".join(f"{cluster} {count}" for cluster, count in sorted(faults.items()))
    show.say(f"a burst from above {_place(source.latitude_deg, source.longitude_deg)}: DIMMs hit: {members}")
    show.say(f"and elsewhere: {STORM_ERRORS} errors on one DIMM of {tired.name}, an uncorrected pair on {broken.name}")
    return source


def _inject(show: Demo, host: world.Host, dimm: int, count: int, kind: str = "ce") -> None:
    world.count_error(host, dimm, count, kind)
    show.errors[host.name] = show.errors.get(host.name, 0) + count


def _flip_bits(show: Demo) -> None:
    for host in show.rng.sample(show.hosts, FLIPPED_STORES):
        path = show.rng.choice(sorted(host.store.iterdir()))
        show.flips.append(world.flip_bit(path, show.rng))
    show.say(f"one bit flipped in each of {FLIPPED_STORES} stored files")


# --- checks ------------------------------------------------------------------------------------------------------


def _check_burst(show: Demo, page: str, receiver: "Receiver", source: world.Source) -> None:
    injected = sum(world.burst_faults(source).values())

    def latest() -> dict[str, Any]:
        bursts = _get_json(f"{page}/api/bursts").get("bursts", [])
        return bursts[-1] if bursts else {}

    def whole() -> Any:
        """The burst, once all of it has come in."""
        burst = latest()
        observed = sum(cluster["observed"] for cluster in burst.get("clusters", []))
        return burst.get("label") == "celestial" and observed >= injected and burst

    try:
        burst = show.wait_for("a burst labelled celestial", BURST_S, whole)
    except Missing:
        seen = latest()
        what = (
            f"the last word was {seen['kind']} {seen['label']}: {seen['clusters']}" if seen else "no burst was raised"
        )
        raise Missing(f"a burst labelled celestial, with all of its {injected} faults; {what}") from None
    far, days = burst["far_per_year"], burst["extrapolated_from_days"]
    show.say(
        f"burst {burst['burst_id']}: {burst['label']} (posterior {burst['posterior']['celestial']:.3f}), "
        + ("less than one false alarm in a million years" if far < 1e-6 else f"{far:.2g} false alarms a year")
        + (f", extrapolated from {days} days" if days else "")
    )
    misses_deg = _misses_deg(burst, source)
    show.say(
        f"  direction: right ascension {burst['ra_deg']:.1f}, declination {burst['dec_deg']:.1f} degrees, "
        f"above {_place(burst['ground_latitude_deg'], burst['ground_longitude_deg'])}; "
        f"{misses_deg:.1f} degrees from the truth"
    )
    if misses_deg > DIRECTION_ERROR_MAX_DEG:
        show.missing.append(f"the direction within {DIRECTION_ERROR_MAX_DEG:.0f} degrees: it is {misses_deg:.0f} off")
    shares = [f"{c['cluster']} {c['observed']} ({c['expected']:.3f})" for c in burst["clusters"]]
    for begin in range(0, len(shares), SHARES_PER_LINE):
        head = "  observed (expected):" if begin == 0 else "  " + " " * 20
        show.say(f"{head} {', '.join(shares[begin : begin + SHARES_PER_LINE])}")
    alert = show.wait_for("the alert over HTTP", BURST_S, lambda: receiver.alert(burst["burst_id"], "celestial"))
    show.say(f"alert delivered by {receiver.sender}: {alert['labels']}")
    show.say(f"  {alert['annotations'].get('summary', '')}")


def _check_errors(show: Demo, page: str) -> None:
    """Every injected error is counted exactly, at the agents and at the centre."""
    wanted = sum(show.errors.values())

    def counted() -> bool:
        return bool(_get_json(f"{page}/api/status").get("faults", {}).get("dram", {}).get("errors", 0) >= wanted)

    show.wait_for(f"{wanted} errors at the collector", BURST_S, counted)
    at_centre = _get_json(f"{page}/api/status")["faults"]["dram"]["errors"]
    at_agents = {host: _agent_errors(address) for host, address in show.addresses.items()}
    wrong = {host: count for host, count in at_agents.items() if count != show.errors.get(host, 0)}
    for host, count in sorted(wrong.items()):
        show.missing.append(f"{host} counted {count} errors, {show.errors.get(host, 0)} were injected")
    if at_centre != wanted:
        show.missing.append(f"the collector counted {at_centre} errors, {wanted} were injected")
    if not wrong and at_centre == wanted:
        show.say(f"memory errors: {wanted} injected, {wanted} counted by the agents, {wanted} at the collector")


def _check_records(show: Demo, page: str) -> None:
    """Every corrupt record is reported with the bit that flipped, and no other; the centre hears of them all."""
    wanted = {(str(f.path), f.offset_bytes, f.bit, f.stored) for f in show.flips}
    paths = {str(flip.path) for flip in show.flips}

    def reported() -> set[tuple[str, int, int, int]]:
        return {key for fault in _record_faults(show) if (key := _flip_key(fault))}

    try:
        show.wait_for("the corrupt records", SCRUB_S, lambda: wanted <= reported())
    except Missing:
        for path, offset, bit, _ in sorted(wanted - reported()):
            show.missing.append(f"the flip of bit {bit} at byte {offset} of {path} was not reported")
    for fault in _record_faults(show):
        detail = fault["detail"]
        where = f"{detail['path']}: bytes {detail['begin']} to {detail['end']}"
        key = _flip_key(fault)
        if key and key in wanted:
            show.say(f"corrupt record skipped: {where.removeprefix(str(show.directory) + '/')}")
            show.say(f"  bit {key[2]} of byte {key[1]} flipped from {1 - key[3]} to {key[3]}")
        elif key or detail["path"] not in paths:
            show.missing.append(f"{where} was reported {detail['verdict']}, but nobody touched it")
    count = len(_record_faults(show))
    show.wait_for(
        f"{count} record faults at the collector",
        BURST_S,
        lambda: _get_json(f"{page}/api/status")["faults"].get("record", {}).get("faults") == count,
    )


def _check_memory(show: Demo) -> None:
    mib = {name: _resident_mib(process.pid) for name, process in show.agents.items()}
    name = max(mib, key=lambda host: mib[host])
    show.say(f"resident memory of the largest agent ({name}): {mib[name]:.1f} MiB at its highest")
    if mib[name] >= AGENT_MIB_MAX:
        show.missing.append(f"an agent below {AGENT_MIB_MAX:.0f} MiB: {name} needed {mib[name]:.1f}")


def _misses_deg(burst: dict[str, Any], source: world.Source) -> float:
    cosine = source.cosine(burst["ground_latitude_deg"], burst["ground_longitude_deg"])
    return world.math.degrees(world.math.acos(max(-1.0, min(1.0, cosine))))


def _place(latitude_deg: float, longitude_deg: float) -> str:
    north, east = "NS"[latitude_deg < 0], "EW"[longitude_deg < 0]
    return f"{abs(latitude_deg):.1f}°{north} {abs(longitude_deg):.1f}°{east}"


def _agent_errors(address: str) -> int:
    page = _get(f"{address}/metrics") or ""
    return sum(int(float(value)) for value in re.findall(r"^flipwatch_memory_errors_total\{.*\} (\S+)$", page, re.M))


def _record_faults(show: Demo) -> list[dict[str, Any]]:
    faults = []
    for address in show.addresses.values():
        lines = map(json.loads, (_get(f"{address}/v1/faults?limit=5000") or "").splitlines())
        faults += [line for line in lines if line["kind"] == "record"]
    return faults


def _flip_key(fault: dict[str, Any]) -> tuple[str, int, int, int] | None:
    flip = fault["detail"].get("flip")
    return (fault["detail"]["path"], flip["offset_bytes"], flip["bit"], flip["stored"]) if flip else None


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match[1]) / 1024 if match else 0.0


# --- plumbing ----------------------------------------------------------------------------------------------------


def _write_inventory(show: Demo) -> None:
    entries = []
    for host in show.hosts:
        place, latitude, longitude, altitude_m = world.CLUSTERS[host.cluster]
        labels = {
            "host": host.name,
            "cluster": host.cluster,
            "place": place,
            "latitude": str(latitude),
            "longitude": str(longitude),
            "altitude_m": str(altitude_m),
        }
        entries.append({"targets": [show.addresses[host.name].removeprefix("http://")], "labels": labels})
    (show.directory / "inventory.json").write_text(json.dumps(entries, indent=1))


def _listening(log: Path) -> str:
    match = re.search(r"listening on (http://\S+)", log.read_text())
    return match[1] if match else ""


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _get(url: str) -> str:
    """The answer, or "" while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.HTTPError):
        return ""


def _get_json(url: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_get(url) or "{}")
    return document


class Receiver:
    """Takes alerts over HTTP: from Alertmanager's webhook, or where there's none, from the collector itself."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sender = "nobody"
        self._alerts: list[dict[str, Any]] = []

    def take(self, path: str, document: Any) -> None:
        """A webhook's notification is an object with "alerts"; the collector posts a bare list."""
        self.sender = "Alertmanager's webhook" if path == "/webhook" else "the collector (no Alertmanager here)"
        self._alerts += document["alerts"] if isinstance(document, dict) else document

    def alert(self, burst_id: str, cause: str) -> dict[str, Any] | None:
        wanted = {"alertname": "CorrelatedBurst", "burst_id": burst_id, "cause": cause}
        found = [alert for alert in self._alerts if wanted.items() <= alert["labels"].items()]
        return found[-1] if found else None


@contextmanager
def _alert_receiver() -> Iterator[Receiver]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            receiver.take(self.path, json.loads(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args  # what arrives is told by the demonstration itself

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
