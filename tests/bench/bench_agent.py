"""The agent over 32 DIMMs, beside node_exporter over the same tree where it is installed: memory and processor time.

Both are real processes, scraped three times a second by one client for the same time. Then what a step of the core
self-test takes of the processor.
"""

import hashlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from agent import cores
from agent.config import AgentSettings
from checksum import affinity
from tests.agent.edac_tree import Controller, controller, dimms
from tests.agent.processes import Daemon, eventually

SCRAPES_PER_S = 3
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main(small: bool) -> str:
    """Prints both and their ratios; returns a hash of what the agent counted."""
    seconds = 2 if small else 60
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        places = {"places": dimms(channels=8, slots=2), "rows": {f"csrow{n}": 8 for n in range(2)}}
        controllers = [controller(root / "sys", index, **places).create() for index in range(2)]
        period_s = AgentSettings().core_self_test_s
        settings = {"poll_interval_s": 1 if small else 5, "heartbeat_s": 60, "core_self_test_s": period_s}
        with Daemon(root, settings=settings) as agent:
            exporter = _start_exporter(root)
            try:
                urls = {agent.process.pid: f"{agent.url}/metrics"}
                urls |= {exporter[0].pid: exporter[1]} if exporter else {}
                figures = _measure(urls, controllers, seconds)
            finally:
                if exporter:
                    exporter[0].kill()
                    exporter[0].wait()
            ours = figures[agent.process.pid]
            print(f"{'agent':<14} VmHWM {ours[0]:5.1f} MiB   {ours[1]:6.3f} % of a core at {SCRAPES_PER_S} scrapes/s")
            if exporter:
                theirs = figures[exporter[0].pid]
                print(f"{'node_exporter':<14} VmHWM {theirs[0]:5.1f} MiB   {theirs[1]:6.3f} %")
                print(
                    f"ratio          VmHWM {ours[0] / theirs[0]:5.2f}       CPU {ours[1] / max(theirs[1], 1e-9):6.2f}"
                )
            else:
                print("node_exporter isn't installed: nothing to compare with")
            _print_self_test(10 if small else 1000, period_s)
            _print_idle(agent.process.pid, seconds)
            _print_storm(agent, controllers, 10_000 if small else 1_000_000, seconds // 2)
            expected = sum(mc.get("ce_count") for mc in controllers)
            eventually(lambda: _counted(agent) == expected)
            return hashlib.sha256(str(_counted(agent)).encode()).hexdigest()[:16]


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


def _print_idle(pid: int, seconds: int) -> None:
    """What it takes when nobody asks and nothing happens; a wake-up is a thread that waited and goes on."""
    cpu_s, wakes = _cpu_s(pid), _wakes(pid)
    time.sleep(seconds)
    share, rate = 100 * (_cpu_s(pid) - cpu_s) / seconds, (_wakes(pid) - wakes) / seconds
    print(f"idle           {share:.3f} % of a core, {rate:.1f} wake-ups a second")


def _wakes(pid: int) -> int:
    statuses = (task / "status" for task in Path(f"/proc/{pid}/task").iterdir())
    lines = (line for status in statuses for line in status.read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def _print_storm(agent: Daemon, controllers: list[Controller], errors: int, seconds: int) -> None:
    """So many corrected errors over all DIMMs, counted while they rise, and what they leave behind."""
    assert agent.process is not None
    pid, state = agent.process.pid, agent.root / "state"
    before = _counted(agent), _high_water_mib(pid), _size(state), _cpu_s(pid)
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
        f"VmHWM +{_high_water_mib(pid) - before[1]:.1f} MiB, disk +{(_size(state) - before[2]) / 1024:.0f} KiB, "
        f"{100 * (_cpu_s(pid) - before[3]) / (seconds + caught_s):.1f} % of a core"
    )


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _counted(agent: Daemon) -> float:
    return sum(value for name, value in agent.metrics().items() if name.startswith("flipwatch_memory_errors_total"))


def _measure(urls: dict[int, str], controllers: list[Controller], seconds: int) -> dict[int, tuple[float, float]]:
    """Process id -> (VmHWM in MiB, percent of a core) while it is scraped; an error is injected every second."""
    before = {pid: _cpu_s(pid) for pid in urls}
    started_s = time.monotonic()
    for number in range(seconds * SCRAPES_PER_S):
        if number % SCRAPES_PER_S == 0:
            controllers[number % 2].inject(f"dimm{number % 16}")
        for url in urls.values():
            with urllib.request.urlopen(url, timeout=10) as answer:
                answer.read()
        time.sleep(max(0.0, started_s + (number + 1) / SCRAPES_PER_S - time.monotonic()))
    elapsed_s = time.monotonic() - started_s
    return {pid: (_high_water_mib(pid), 100 * (_cpu_s(pid) - before[pid]) / elapsed_s) for pid in urls}


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS_PER_S  # utime and stime, proc(5)


def _high_water_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _start_exporter(root: Path) -> tuple[subprocess.Popen, str] | None:
    program = shutil.which("prometheus-node-exporter")
    if program is None:
        return None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, f"--path.sysfs={root / 'sys'}", f"--web.listen-address=127.0.0.1:{port}"]
    command += ["--collector.disable-defaults", "--collector.edac"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/metrics"
    eventually(lambda: _answers(url))
    return process, url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.read())
    except (urllib.error.URLError, ConnectionError):  # not up yet
        return False
