"""Fleets and feeding, shared by the tests of the correlator and its parts."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from agent.report import Alive, Line, MemoryFault
from collectors.correlator import Correlator
from collectors.inventory import Cluster, Inventory, load
from collectors.minutes import MINUTE_NS, Minutes, minute_of
from collectors.revision import Revision
from collectors.sky import separation_deg, unit_vectors

CITIES = Path(__file__).parents[2] / "collectors" / "evaluation" / "cities40.json"


def cities() -> Inventory:
    return load(CITIES)


def twelve(hosts: int = 2) -> tuple[Cluster, ...]:
    """Twelve clusters on real coordinates with few hosts each."""
    return tuple(
        Cluster(c.name, c.latitude_deg, c.longitude_deg, c.altitude_m, hosts=hosts) for c in cities().clusters[::3][:12]
    )


def fault(minute: int, cluster: str, **other: object) -> MemoryFault:
    values = {"time_ns": minute * MINUTE_NS, "time_error_s": 5.0, "cluster": cluster, "host": f"{cluster}-h1"}
    values |= {"device": "mc0/channel0/slot0", "stream": "dram", "severity": "corrected", "count": 1, "novel": True}
    return MemoryFault(**(values | other))  # type: ignore[arg-type]


def watch(minutes: Minutes, clusters: Sequence[Cluster], first_minute: int, number: int, stream: str = "dram") -> None:
    hosts = np.array([cluster.hosts for cluster in clusters])
    minutes.set_watching(stream, first_minute, np.tile(hosts, (number, 1)))


def background(
    clusters: Sequence[Cluster], rate_per_host_hour: float, first_minute: int, number: int, seed: int
) -> list[MemoryFault]:
    """Plain Poisson faults in the order of time."""
    random = np.random.default_rng(seed)
    expected = np.array([cluster.hosts for cluster in clusters]) * rate_per_host_hour / 60
    counts = random.poisson(expected, (number, len(clusters)))
    return [
        fault(first_minute + int(minute), clusters[column].name)
        for minute, column in np.argwhere(counts)
        for _ in range(counts[minute, column])
    ]


def feed(correlator: Correlator, lines: Iterable[Line], clusters: Sequence[Cluster]) -> None:
    """Faults and alive lines in the order of time, all at once."""
    column = {cluster.name: index for index, cluster in enumerate(clusters)}
    spans: list[tuple[int, np.ndarray]] = []
    last_minute = 0
    for line in lines:
        last_minute = minute_of(line.time_ns)
        if isinstance(line, Alive):
            hosts = spans[-1][1].copy() if spans else np.zeros(len(clusters), np.int64)
            hosts[column[line.cluster]] = line.hosts_up
            spans.append((last_minute, hosts))
        elif isinstance(line, MemoryFault):
            correlator.minutes.observe(line)
    for (begin, hosts), (end, _) in zip(spans, [*spans[1:], (last_minute + 1, spans[-1][1])], strict=True):
        correlator.minutes.set_watching("dram", begin, np.tile(hosts, (end - begin, 1)))


def steps(correlator: Correlator, first_minute: int, end_minute: int, every_min: int = 1) -> list[Revision]:
    """Steps at the end of minutes, the last one included."""
    revisions: list[Revision] = []
    for minute in [*range(first_minute, end_minute - 1, every_min), end_minute - 1]:
        revisions += correlator.step((minute + 1) * MINUTE_NS - 1)
    return revisions


def off_deg(revision: Revision, latitude_deg: float, longitude_deg: float) -> float:
    """How far the revision's ground point lies from the truth."""
    told = unit_vectors(np.array(revision.ground_latitude_deg), np.array(revision.ground_longitude_deg))
    return separation_deg(told, unit_vectors(np.array(latitude_deg), np.array(longitude_deg)))
