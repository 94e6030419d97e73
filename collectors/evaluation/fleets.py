"""The fleets of the evaluation: forty real cities, with as many hosts as wanted, and a tiny one.

Enters: a number of hosts. Leaves: clusters whose hosts are spread as unevenly as real ones are (1 to 100), or for
TINY_HOSTS twelve clusters of two hosts that fail so often that a demonstration shows something; racks of RACK_HOSTS
with what their hosts have in common, and the population that the correlator compares victims with. Every second rack
belongs to its continent's cohort, the others to one of five rings that lie across the continents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from collectors.incidents import RACK_HOSTS, Fleet
from collectors.inventory import Cluster, load
from collectors.population import Attributes, Population

CITIES = Path(__file__).parent / "cities40.json"
NOVEL_PER_HOST_HOUR = 2.43e-6 * 60  # 8 % of the memory modules a year, 16 of them in a host
TINY_HOSTS, TINY_CLUSTERS, TINY_NOVEL_PER_HOST_HOUR = 24, 12, 0.05
RINGS = 5
CONTINENTS = (("americas", -180.0), ("europe-africa", -30.0), ("asia-pacific", 45.0))  # each from this longitude on
ATTRIBUTES = {"vendor": 4, "kernel": 3, "bios": 5, "part": 20}  # how many values there are of each


@dataclass(frozen=True, slots=True)
class Rack:
    """A rack and what its hosts have in common."""

    name: str
    cluster: str
    hosts: int
    attributes: Attributes


def fleet(hosts: int) -> Fleet:
    """Forty cities with about `hosts` hosts in all, or the tiny fleet."""
    cities = load(CITIES).clusters
    if hosts == TINY_HOSTS:
        step = len(cities) // TINY_CLUSTERS
        return Fleet(tuple(replace(city, hosts=hosts // TINY_CLUSTERS) for city in cities[::step][:TINY_CLUSTERS]))
    share = hosts / sum(cluster.hosts for cluster in cities)
    clusters = tuple(replace(cluster, hosts=max(1, round(cluster.hosts * share))) for cluster in cities)
    members: dict[str, list[np.ndarray]] = {}
    for column, cluster in enumerate(clusters):
        rack = np.arange(cluster.hosts) // RACK_HOSTS
        for parity in range(2):
            members.setdefault(_cohort(cluster, column, parity), [np.zeros(0, np.int64)] * len(clusters))
            members[_cohort(cluster, column, parity)][column] = np.flatnonzero(rack % 2 == parity)
    return Fleet(clusters, {cohort: tuple(indices) for cohort, indices in members.items()})


def novel_per_host_hour(hosts: int) -> float:
    """The rate of novel faults in the fleet of so many hosts."""
    return TINY_NOVEL_PER_HOST_HOUR if hosts == TINY_HOSTS else NOVEL_PER_HOST_HOUR


def _cohort(cluster: Cluster, column: int, rack: int) -> str:
    if rack % 2:
        return f"ring-{column % RINGS + 1}"
    return [name for name, begin_deg in CONTINENTS if cluster.longitude_deg >= begin_deg][-1]


def racks(clusters: tuple[Cluster, ...]) -> tuple[tuple[Rack, ...], ...]:
    """Every cluster's racks; the same clusters have the same ones each time."""
    return tuple(tuple(_racks(cluster, column)) for column, cluster in enumerate(clusters))


def _racks(cluster: Cluster, column: int) -> Iterator[Rack]:
    random = np.random.default_rng((column, cluster.hosts))
    for rack in range(-(-cluster.hosts // RACK_HOSTS)):
        name = f"{cluster.name}-r{rack + 1}"
        chosen = [(attribute, f"{attribute}-{random.integers(n) + 1}") for attribute, n in ATTRIBUTES.items()]
        attributes = (("rack", name), ("cohort", _cohort(cluster, column, rack)), *chosen)
        yield Rack(name, cluster.name, min(RACK_HOSTS, cluster.hosts - rack * RACK_HOSTS), attributes)


def settle(population: Population, all_racks: tuple[tuple[Rack, ...], ...]) -> None:
    """Tells the population of every rack."""
    for rack in (rack for cluster_racks in all_racks for rack in cluster_racks):
        population.set_host(rack.name, rack.cluster, rack.attributes, hosts=rack.hosts)
