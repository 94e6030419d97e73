"""`flipwatch demo`: the whole road on one machine, driven through the command line as a user would.

Enters: nothing but the programs of this installation. Leaves: a fleet of real agents, scrubbers and a collector on
loopback, real errors in their trees and real flipped bits in their stores, and a verdict: did flipwatch say exactly
what happened? Only the hardware is pretended (deploy/demo_world.py) and the fifteen days before (flipwatch simulate).
"""

import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import click

from deploy import demo_world as world
from deploy.demo_checks import check_burst, check_errors, check_memory, check_records
from deploy.demo_stage import Missing, Receiver, Stage, alert_receiver, command, free_port, get, get_json, place

HISTORY_DAYS = 15
NOVEL_PER_HOST_HOUR = 0.05
STORM_ERRORS = 4711  # corrected errors of one tired DIMM: one novel fault, however many
UNCORRECTED_ERRORS = 2
FLIPPED_STORES = 5
START_S, LIVE_S = 60.0, 40.0

AGENT_TOML = """\
[agent]
listen = "127.0.0.1:0"
host = "{name}"
state_dir = "{directory}/state"
sysfs = "{sysfs}"
tracefs = "{directory}/tracing"
kmsg = "{directory}/kmsg"
pstore = "{directory}/pstore"
pstore_archive = "{directory}/pstore"
poll_interval_s = 1

[[store]]
path = "{store}"
include = ["*.log"]
period_days = 0.00005   # a pass every 4.3 s
settle_s = 5
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


@click.command()
@click.option("--once", is_flag=True, help="End after the verdict: exit 0 only if all of it truly happened.")
@click.option("--seed", type=int, default=None, help="Choose the burst's direction and all else again.")
@click.option("--keep", is_flag=True, help="Leave the demonstration's files (logs, journals, store) behind.")
def demo(once: bool, seed: int | None, keep: bool) -> None:
    """Show all of flipwatch on this machine: a fleet, a burst from the sky, flipped bits, the alert."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # so that what was started is stopped
    directory = Path(tempfile.mkdtemp(prefix="flipwatch-demo-"))
    stage = Stage(directory, random.Random(seed))
    stage.say(f"seed {seed}; files in {directory}" + ("" if keep else " (removed at the end)"))
    try:
        with alert_receiver() as receiver:
            page = _perform(stage, receiver)
            if not once and page:
                click.echo(f"\nThe page: {page}   (Ctrl-C ends the demonstration)")
                _wait_for_interrupt()
    finally:
        stage.stop()
        if keep:
            click.echo(f"files left in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    if stage.missing:
        for sentence in stage.missing:
            click.echo(f"missing: {sentence}", err=True)
        sys.exit(1)


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        click.echo()


def _perform(stage: Stage, receiver: Receiver) -> str:
    """The whole play; returns the page's address, or "" if it never came to that."""
    page = ""
    try:
        _start_agents(stage)
        page = _start_centre(stage, receiver)
        source = _burst_and_friends(stage)
        _flip_bits(stage)
    except Missing as error:
        stage.missing.append(str(error))
        return page
    checks = [
        lambda: check_burst(stage, page, receiver, source),
        lambda: check_errors(stage, page),
        lambda: check_records(stage, page),
        lambda: check_memory(stage),
    ]
    for check in checks:
        try:
            check()
        except Missing as error:
            stage.missing.append(str(error))
    stage.say(f"the page: {page}")
    if not stage.missing:
        stage.say("everything that was done was seen, and nothing else")
    return page


def _start_agents(stage: Stage) -> None:
    now_s = time.time()
    for cluster in world.CLUSTERS:
        for number in range(1, world.HOSTS_PER_CLUSTER + 1):
            name = f"{cluster}-h{number}"
            host = world.build_host(name, cluster, stage.directory / name, now_s, stage.rng)
            stage.hosts.append(host)
            toml = AGENT_TOML.format(name=name, directory=host.directory, sysfs=host.sysfs, store=host.store)
            (host.directory / "agent.toml").write_text(toml)
    dimms = world.DIMMS_PER_HOST * len(stage.hosts)
    stage.say(f"{len(world.CLUSTERS)} clusters with {len(stage.hosts)} hosts, {dimms} DIMMs: starting their agents")
    for host in stage.hosts:
        log = host.directory / "agent.log"
        stage.agents[host.name] = stage.start(*command("agent", "--config", host.directory / "agent.toml"), log=log)
    for host in stage.hosts:
        log = host.directory / "agent.log"
        stage.addresses[host.name] = stage.wait_for(f"agent of {host.name}", START_S, partial(_listening, log))
    _write_inventory(stage)
    stage.say("all agents listen; the scrubbers start")
    for host in stage.hosts:
        arguments = command("scrubd", "--config", host.directory / "agent.toml")
        stage.start(*arguments, log=host.directory / "scrubd.log")


def _start_centre(stage: Stage, receiver: Receiver) -> str:
    inventory, history = stage.directory / "inventory.json", stage.directory / "history.ndjson"
    stage.say(
        f"{HISTORY_DAYS} days of simulated history for these hosts, at a raised rate: {NOVEL_PER_HOST_HOUR} novel "
        f"faults per host and hour, some three hundred times that of real machines"
    )
    fleet = ("--fleet", inventory, "--out", history, "--days", HISTORY_DAYS)
    rate = ("--novel-per-host-hour", NOVEL_PER_HOST_HOUR)
    stage.flipwatch("simulate", *fleet, *rate, "--seed", stage.rng.randrange(10**6))
    alertmanager_url = _start_alertmanager(stage, receiver)
    directory, toml = stage.directory / "collector", stage.directory / "collector.toml"
    port = free_port()
    toml.write_text(
        COLLECTOR_TOML.format(directory=directory, inventory=inventory, alertmanager_url=alertmanager_url, port=port)
    )
    stage.flipwatch("import", history, "--config", toml)
    stage.say("history imported; the collector starts")
    stage.start(*command("collector", "--config", toml), log=stage.directory / "collector.log")
    page = f"http://127.0.0.1:{port}"

    def all_watched() -> bool:
        status = get_json(f"{page}/api/status")
        watching = sum(cluster["watching"].get("dram", 0) for cluster in status.get("clusters", []))
        return status.get("state") == "live" and watching == len(stage.hosts)

    stage.wait_for("a live correlator that watches every host", LIVE_S, all_watched)
    status = get_json(f"{page}/api/status")
    stage.say(
        f"the correlator is live: all {len(stage.hosts)} hosts watched, "
        f"a burst must reach {status['threshold_nats']:.1f} nats"
    )
    return page


def _start_alertmanager(stage: Stage, receiver: Receiver) -> str:
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        stage.say("no prometheus-alertmanager here: alerts go straight to the demonstration's own receiver")
        return receiver.url
    config = stage.directory / "alertmanager.yml"
    config.write_text(ALERTMANAGER_YAML.format(url=f"{receiver.url}/webhook"))
    url = f"http://127.0.0.1:{free_port()}"
    stage.start(
        program,
        f"--config.file={config}",
        f"--storage.path={stage.directory / 'alertmanager'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
        log=stage.directory / "alertmanager.log",
    )
    stage.wait_for("Alertmanager", START_S, lambda: get(f"{url}/-/ready"))
    stage.say(f"a real Alertmanager at {url} delivers to the demonstration's webhook")
    return url


def _burst_and_friends(stage: Stage) -> world.Source:
    """Errors on the clusters that face one direction; a storm on one of these DIMMs and something worse on another."""
    source = world.burst_source(stage.rng)
    faults = world.burst_faults(source)
    hit: list[tuple[world.Host, int]] = []
    for cluster, count in faults.items():
        hosts = [host for host in stage.hosts if host.cluster == cluster]
        places = [(host, dimm) for host in hosts for dimm in range(world.DIMMS_PER_HOST)]
        hit += stage.rng.sample(places, count)
    for host, dimm in hit:
        _inject(stage, host, dimm, 1)
    (tired, tired_dimm), (broken, broken_dimm) = stage.rng.sample(hit, 2)
    _inject(stage, tired, tired_dimm, STORM_ERRORS)
    _inject(stage, broken, broken_dimm, UNCORRECTED_ERRORS, "ue")
    members = ", ".join(f"{cluster} {count}" for cluster, count in sorted(faults.items()))
    stage.say(f"a burst from above {place(source.latitude_deg, source.longitude_deg)}: DIMMs hit: {members}")
    stage.say(
        f"one of them, at {tired.name}, goes on to {STORM_ERRORS} more, which is still one novel fault; "
        f"one at {broken.name} has {UNCORRECTED_ERRORS} uncorrected"
    )
    return source


def _inject(stage: Stage, host: world.Host, dimm: int, count: int, kind: str = "ce") -> None:
    world.count_error(host, dimm, count, kind)
    stage.errors[host.name] = stage.errors.get(host.name, 0) + count


def _flip_bits(stage: Stage) -> None:
    for host in stage.rng.sample(stage.hosts, FLIPPED_STORES):
        path = stage.rng.choice(sorted(host.store.iterdir()))
        stage.flips.append(world.flip_bit(path, stage.rng))
    stage.say(f"one bit flipped in each of {FLIPPED_STORES} stored files")


def _write_inventory(stage: Stage) -> None:
    entries = []
    for host in stage.hosts:
        town, latitude, longitude, altitude_m = world.CLUSTERS[host.cluster]
        labels = {
            "host": host.name,
            "cluster": host.cluster,
            "town": town,
            "latitude": str(latitude),
            "longitude": str(longitude),
            "altitude_m": str(altitude_m),
        }
        entries.append({"targets": [stage.addresses[host.name].removeprefix("http://")], "labels": labels})
    (stage.directory / "inventory.json").write_text(json.dumps(entries, indent=1))


def _listening(log: Path) -> str:
    match = re.search(r"listening on (http://\S+)", log.read_text())
    return match[1] if match else ""
