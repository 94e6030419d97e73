"""What a pull costs the collector: a real collector and many agents that have nothing new to tell, as most have.

Enters: nothing. Leaves: a table on stdout: processor time of the whole collector (network, parsing, store, correlator)
per pull, and how many agents one core so serves at one pull in 15 s. The agents are listening sockets of one other
process that answers with a header whose time moves on; connections stay open, as they do to real agents.
"""

import asyncio
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

from agent.report import AgentHeader, JournalSpan, encode
from collectors.store import Store
from tests.collectors.running import CITIES, RunningCollector, wait_for, write_config

SINCE_NS = time.time_ns() - 3600 * 10**9  # the baseline is learned in another benchmark
INTERVAL_S = 1.0
USUAL_INTERVAL_S = 15
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main(small: bool) -> str:
    """Prints the figures; returns a hash of which hosts were heard and that nothing was lost or doubled."""
    agents, seconds = (20, 1) if small else (1000, 30)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(agents, theirs))
    process.start()
    try:
        with tempfile.TemporaryDirectory() as directory:
            return _measure(Path(directory), ours, seconds)
    finally:
        ours.send("stop")
        process.join()


def _measure(directory: Path, agents: Connection, seconds: float) -> str:
    ports = agents.recv()
    config = write_config(directory, _inventory(directory, ports), pull_interval_s=INTERVAL_S, pull_timeout_s=10.0)
    with RunningCollector(config) as collector:
        pid = collector.pid
        wait_for(lambda: collector.json("/api/status")["agents_in_trouble"] == 0, 60)
        pulls, cpu_s, begun_s = _pulls(agents), _cpu_s(pid), time.monotonic()
        time.sleep(seconds)
        pulls, cpu_s, passed_s = _pulls(agents) - pulls, _cpu_s(pid) - cpu_s, time.monotonic() - begun_s
        faults = collector.faults()
        collector.stop()
    per_pull_us = 1e6 * cpu_s / pulls
    print("agents  pulls/s  CPU us/pull  agents a core serves at one pull in 15 s")
    print(f"{len(ports):6}  {pulls / passed_s:7.0f}  {per_pull_us:11.0f}  {1e6 / per_pull_us * USUAL_INTERVAL_S:10.0f}")
    with closing(Store(directory / "state" / "collector.sqlite3")) as store:
        heard = sorted(store.cursors())
    print(f"{len(heard)} hosts heard, {faults} faults stored")
    return hashlib.sha256(json.dumps([heard, faults]).encode()).hexdigest()[:16]


def _inventory(directory: Path, ports: list[int]) -> Path:
    groups = []
    for index, port in enumerate(ports):
        cluster, latitude, longitude = CITIES[index % len(CITIES)]
        labels = {"cluster": cluster, "latitude": str(latitude), "longitude": str(longitude)}
        labels |= {"host": f"h{index}", "rack": f"{cluster}-r{index // 240}", "cohort": "stable"}
        groups.append({"targets": [f"127.0.0.1:{port}"], "labels": labels})
    path = directory / "inventory.json"
    path.write_text(json.dumps(groups))
    return path


def _pulls(agents: Connection) -> int:
    agents.send("count")
    return int(agents.recv())


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


# -- the other process


def _serve(number: int, pipe: Connection) -> None:
    asyncio.run(_serve_until_stopped(number, pipe))


async def _serve_until_stopped(number: int, pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda n=n: _Agent(n), "127.0.0.1", 0) for n in range(number)]
    pipe.send([server.sockets[0].getsockname()[1] for server in servers])
    while await loop.run_in_executor(None, pipe.recv) == "count":
        pipe.send(_Agent.pulls)


class _Agent(asyncio.Protocol):
    """Answers every request, whatever it says, with a header of its own and no fault."""

    pulls = 0

    def __init__(self, number: int) -> None:
        self._number = number

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        _Agent.pulls += data.count(b"\r\n\r\n")
        body = (encode(_header(self._number, time.time_ns())) + "\n").encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


def _header(number: int, now_ns: int) -> AgentHeader:
    """What a healthy host with two journals says."""
    journals = tuple(
        JournalSpan(journal=f"{number:08x}-{kind}", first_seq=1, last_seq=0) for kind in ("memory", "scrub")
    )
    return AgentHeader(
        time_ns=now_ns,
        complete_until_ns=now_ns,
        boot_id="5f0c7b1e-4a55-4f5e-9d6c-0d3f0a1b2c3d",
        host=f"h{number}",
        cursor="eyJtZW1vcnkiOiAxfQ==",
        journals=journals,
        watching={"dram": SINCE_NS, "sram": SINCE_NS},
        facts={"kernel": "6.9.0", "bios": "2.1", "microcode": "0xb6", "cpu": "a processor", "parts": ["M393A4K40DB3"]},
    )
