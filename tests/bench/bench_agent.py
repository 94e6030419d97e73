"""The agent over 32 DIMMs, beside node_exporter over the same tree and rasdaemon, where they are installed.

All are real processes, measured at the same time: memory, processor time while three clients scrape over TLS, and what
each takes when nothing happens. rasdaemon is never scraped, and where no EDAC driver is loaded it has no errors to
read: it is measured waiting for them. It needs root, a tracefs and nobody else's rasdaemon; it gets mounts of its own.
Then what a step of the agent's core self-test takes of the processor, and a storm of errors.
"""

import contextlib
import hashlib
import http.client
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent import cores
from agent.config import AgentSettings
from checksum import affinity
from tests.agent.edac_tree import Controller, controller, dimms
from tests.agent.processes import Daemon, eventually
from tests.certificates import Authority, Pair

SCRAPERS = 3  # each asks once a second and keeps its connection, as Prometheus does
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


RASDAEMON_INSTANCE = Path("/sys/kernel/debug/tracing/instances/rasdaemon")  # in the mounts that it gets
# Its database and its mounts are gone with it. `exec`: so that it is the process that was started.
RASDAEMON = """mount -t debugfs debugfs /sys/kernel/debug && ! test -e {instance} && mkdir -p /var/lib/rasdaemon &&
mount -t tmpfs tmpfs /var/lib/rasdaemon && exec {program} -f -r"""
AFTER_RASDAEMON = "mount -t debugfs debugfs /sys/kernel/debug && rmdir {instance}"


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    pid: int
    url: str | None = None  # None: it can't be scraped


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program takes, in percent of a core; the scrapes' part is None for one that isn't scraped."""

    high_water_mib: float
    resident_mib: float
    scraped_percent: float | None
    idle_percent: float
    wakes_per_s: float

    def figures(self) -> list[float | None]:
        return list(astuple(self))


def main(small: bool) -> str:
    """Prints the figures of all and their ratios; returns a hash of what the agent counted."""
    seconds = 2 if small else 60
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        authority = Authority(root / "ca")
        pair, trusting = authority.sign("agent"), ssl.create_default_context(cafile=authority.cert)
        places = {"places": dimms(channels=8, slots=2), "rows": {f"csrow{n}": 8 for n in range(2)}}
        controllers = [controller(root / "sys", index, **places).create() for index in range(2)]
        period_s = AgentSettings().core_self_test_s
        settings = {"poll_interval_s": 1 if small else 5, "heartbeat_s": 60, "core_self_test_s": period_s}
        settings |= {"tls_cert_file": str(pair.cert), "tls_key_file": str(pair.key)}
        agent = Daemon(root, settings=settings, trusting=trusting, environment=_compiled(root))
        with agent:
            pass  # its first start compiles it
        stack.enter_context(agent)
        programs = [Program("agent", agent.process.pid, agent.url)]
        programs += stack.enter_context(_exporter(root, pair, trusting))
        programs += stack.enter_context(_rasdaemon(wanted=not small))
        _print_costs(_measured(programs, controllers, trusting, seconds))
        _print_self_test(10 if small else 1000, period_s)
        _print_storm(agent, controllers, 10_000 if small else 1_000_000, seconds // 2)
        expected = sum(mc.get("ce_count") for mc in controllers)
        eventually(lambda: _counted(agent) == expected)
        return hashlib.sha256(str(_counted(agent)).encode()).hexdigest()[:16]


def _compiled(root: Path) -> dict[str, str]:
    """An environment that keeps the compiled code, as pip does: compiling it at each start takes 1 MiB of memory."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(root / "compiled")}


def _print_costs(costs: dict[str, Cost]) -> None:
    """A line for each program, then the agent's figures as multiples of the others'."""
    print(f"{'':<22}{'VmHWM MiB':>12}{'RSS MiB':>12}{'% scraped':>12}{'% idle':>12}{'wake-ups/s':>12}")
    for name, cost in costs.items():
        _print_row(name, cost.figures())
    ours = costs["agent"].figures()
    for name, cost in costs.items():
        if name != "agent":
            pairs = zip(ours, cost.figures(), strict=True)
            _print_row(f"agent / {name}", [mine / its if mine is not None and its else None for mine, its in pairs])


def _print_row(name: str, figures: list[float | None]) -> None:
    print(f"{name:<22}" + "".join(f"{'-':>12}" if figure is None else f"{figure:12.3f}" for figure in figures))


def _print_self_test(steps: int, period_s: float) -> None:
    """The processor time of a step, and the share that this is of a core on machines of several sizes."""
    allowed, rng, core = affinity.allowed_cores(), random.Random(1), -1
    begun_s = time.thread_time()
    for _ in range(steps):
        core = cores.next_core(allowed, core)
        assert not cores.check(core, allowed, rng, cores.sums_on).failures, f"core {core} computes wrongly"
    step_s = (time.thread_time() - begun_s) / steps
    shares = {count: 100 * step_s / cores.wait_s(count, period_s, step_s) for count in (len(allowed), 64, 256, 1024)}
    text = ", ".join(f"{share:.5f} % at {count} cores" for count, share in shares.items())
    print(f"self-test      {1e3 * step_s:.2f} ms a step, all cores within {period_s:.0f} s: {text}")


def _wakes(pid: int) -> int:
    statuses = (task / "status" for task in Path(f"/proc/{pid}/task").iterdir())
    lines = (line for status in statuses for line in status.read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def _print_storm(agent: Daemon, controllers: list[Controller], errors: int, seconds: int) -> None:
    """So many corrected errors over all DIMMs, counted while they rise, and what they leave behind."""
    assert agent.process is not None
    pid, state = agent.process.pid, agent.root / "state"
    before = _counted(agent), _status_mib(pid, "VmHWM"), _size(state), _cpu_s(pid)
    steps = 20 * seconds
    share = errors // (32 * steps)
    for number in range(32 * steps):
        controllers[number % 2].inject(f"dimm{number // 2 % 16}", share)
        if number % 32 == 31:
            time.sleep(1 / 20)
    due = before[0] + 32 * steps * share
    ended_s = time.monotonic()
    eventually(lambda: _counted(agent) >= due)
    caught_s = time.monotonic() - ended_s
    print(
        f"storm          {due - before[0]:.0f} errors in {seconds} s: all counted {caught_s:.1f} s after the last, "
        f"VmHWM +{_status_mib(pid, 'VmHWM') - before[1]:.1f} MiB, disk +{(_size(state) - before[2]) / 1024:.0f} KiB, "
        f"{100 * (_cpu_s(pid) - before[3]) / (seconds + caught_s):.1f} % of a core"
    )


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _counted(agent: Daemon) -> float:
    return sum(value for name, value in agent.metrics().items() if name.startswith("flipwatch_memory_errors_total"))


def _measured(
    programs: list[Program], controllers: list[Controller], trusting: ssl.SSLContext, seconds: int
) -> dict[str, Cost]:
    """By name: all are scraped for so long, then left alone for so long."""
    scraped_s = {program.pid: _cpu_s(program.pid) for program in programs}
    _scrape(programs, controllers, trusting, seconds)
    scraped_s = {pid: _cpu_s(pid) - before_s for pid, before_s in scraped_s.items()}
    time.sleep(1)  # the connections' threads end
    idle = {program.pid: (_run_s(program.pid), _wakes(program.pid)) for program in programs}
    time.sleep(seconds)
    return {
        program.name: Cost(
            _status_mib(program.pid, "VmHWM"),
            _status_mib(program.pid, "VmRSS"),
            100 * scraped_s[program.pid] / seconds if program.url else None,
            100 * (_run_s(program.pid) - idle[program.pid][0]) / seconds,
            (_wakes(program.pid) - idle[program.pid][1]) / seconds,
        )
        for program in programs
    }


def _scrape(programs: list[Program], controllers: list[Controller], trusting: ssl.SSLContext, seconds: int) -> None:
    """SCRAPERS clients over connections that they keep, once a second each; an error is injected every second."""
    urls = [urlsplit(program.url).netloc for program in programs if program.url]
    started_s = time.monotonic()

    def scraper(_: int) -> None:
        with contextlib.ExitStack() as stack:
            connections = [http.client.HTTPSConnection(url, timeout=10, context=trusting) for url in urls]
            for connection in connections:
                stack.callback(connection.close)
            for number in range(seconds):
                for connection in connections:
                    connection.request("GET", "/metrics")
                    assert connection.getresponse().read()
                time.sleep(max(0.0, started_s + number + 1 - time.monotonic()))

    with ThreadPoolExecutor(SCRAPERS) as pool:
        scrapes = pool.map(scraper, range(SCRAPERS))
        for number in range(seconds):
            controllers[number % 2].inject(f"dimm{number % 16}")
            time.sleep(max(0.0, started_s + number + 1 - time.monotonic()))
        list(scrapes)


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS_PER_S  # utime and stime, proc(5)


def _run_s(pid: int) -> float:
    """As _cpu_s, but to the nanosecond, and without threads that have ended."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def _status_mib(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


@contextlib.contextmanager
def _exporter(root: Path, pair: Pair, trusting: ssl.SSLContext) -> Iterator[list[Program]]:
    """node_exporter over the same tree, with nothing but its EDAC collector, over TLS as well."""
    program = shutil.which("prometheus-node-exporter")
    if program is None:
        print("node_exporter isn't installed: nothing to compare with")
        yield []
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    web = root / "web.yml"
    web.write_text(json.dumps({"tls_server_config": {"cert_file": str(pair.cert), "key_file": str(pair.key)}}))
    command = [program, f"--path.sysfs={root / 'sys'}", f"--web.listen-address=127.0.0.1:{port}"]
    command += ["--collector.disable-defaults", "--collector.edac", f"--web.config.file={web}"]
    with _running(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)) as process:
        eventually(lambda: _accepts(port))
        yield [Program("node_exporter", process.pid, f"https://127.0.0.1:{port}")]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def _rasdaemon(*, wanted: bool) -> Iterator[list[Program]]:
    """rasdaemon as Debian's unit starts it. Only in a full run: it turns events on in the running kernel."""
    program = shutil.which("rasdaemon", path=f"{os.environ['PATH']}:/usr/sbin")
    if not wanted or program is None or os.geteuid() != 0:
        print("rasdaemon isn't measured: it takes a full run, root, and that it is installed")
        yield []
        return
    script = RASDAEMON.format(instance=RASDAEMON_INSTANCE, program=program)
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    with process.stdout, _running(process):
        said = []
        for line in process.stdout:
            said.append(line.decode())
            if "Listening to events" in said[-1]:
                break
        time.sleep(1)
        if process.poll() is None:
            yield [Program("rasdaemon", process.pid)]
        else:
            print(f"rasdaemon isn't measured: {said[-1].strip() if said else 'another one runs here'}")
            yield []
            return
    after = AFTER_RASDAEMON.format(instance=RASDAEMON_INSTANCE)
    subprocess.run(["unshare", "--mount", "sh", "-c", after], check=True)


@contextlib.contextmanager
def _running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
