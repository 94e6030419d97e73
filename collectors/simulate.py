"""Simulated histories: a fleet with its ordinary faults, repeat offenders, and one burst if wanted.

Enters: an inventory, a span of time, a seed. Leaves: lines of a history file in the order of time, one at a time.
Pure: the caller writes them.

Novel faults come at a rate per host that varies as in real fleets: with the local time of the day, and by a factor
drawn anew every ten minutes per cluster (gamma, shape 20), so their counts vary more than a Poisson process. After a
novel fault its device goes on failing for some hours (not novel). A host's novel faults walk through its devices, so
that none returns within seven days unless the rate is far above what 32 devices can give.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from agent.report import Alive, Line, MemoryFault
from collectors.inventory import Cluster, Inventory, weight
from collectors.minutes import MINUTE_NS, minute_of
from collectors.scan import responses
from collectors.sky import ground_direction, unit_vectors

SLICE_MIN = 10
GAMMA_SHAPE = 20.0
DIURNAL_SHARE = 0.1
WARMEST_LOCAL_H = 15.0
ALIVE_EVERY_MIN = 360
DOWN_SHARE = 0.002
REPEAT_WITHIN_H = 12.0
UNCORRECTED_SHARE = 0.02
TIME_ERROR_S = 5.0
DEVICES = tuple(
    f"mc{mc}/channel{channel}/slot{slot}" for mc, channel, slot in itertools.product(range(2), range(8), range(2))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A rise by 1 + amplitude * f for some minutes. The place is one of: a sky position, a ground point, a cluster."""

    start_ns: int
    duration_min: int
    amplitude: float
    ra_dec_deg: tuple[float, float] | None = None
    ground_deg: tuple[float, float] | None = None  # latitude and longitude of the source's zenith point
    cluster: str | None = None  # without any of the three the whole fleet rises

    def rise(self, clusters: Sequence[Cluster], minute: int) -> np.ndarray:
        """The factor [clusters] by which this minute's rates rise."""
        first = minute_of(self.start_ns)
        if not first <= minute < first + self.duration_min:
            return np.ones(len(clusters))
        if self.cluster is not None:
            return 1 + self.amplitude * np.array([cluster.name == self.cluster for cluster in clusters])
        if self.ra_dec_deg is not None:
            source = ground_direction(*self.ra_dec_deg, minute * MINUTE_NS)
        elif self.ground_deg is not None:
            source = unit_vectors(*(np.array(angle) for angle in self.ground_deg))
        else:
            return np.full(len(clusters), 1 + self.amplitude)
        return 1 + self.amplitude * responses(clusters, source[None], 1)[0]


@dataclass(slots=True)
class Simulation:
    """One fleet's history. Rates: novel faults per host and hour, repeated faults per novel one."""

    inventory: Inventory
    begin_minute: int
    end_minute: int
    seed: int = 0
    novel_per_host_hour: float = 1.5e-4
    repeats_per_novel: float = 2.0
    burst: Burst | None = None
    _random: np.random.Generator = field(init=False)
    _novel_of_host: Counter[str] = field(init=False, default_factory=Counter)
    _names: list["_Names"] = field(init=False)
    _repeats: list[tuple[int, int, MemoryFault]] = field(init=False, default_factory=list)  # a heap by time
    _repeat_number: Iterator[int] = field(init=False, default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._names = [_Names(self.inventory, cluster) for cluster in self.inventory.clusters]

    def lines(self) -> Iterator[Line]:
        """Every line, in the order of time."""
        for begin in range(self.begin_minute, self.end_minute, SLICE_MIN):
            end = min(begin + SLICE_MIN, self.end_minute)
            if (begin - self.begin_minute) % ALIVE_EVERY_MIN == 0:
                yield from self._alive(begin * MINUTE_NS)
            for fault in self._novel(begin, end):
                yield from self._repeats_until(fault.time_ns)
                yield fault
                self._plan_repeats(fault)
        # the history covers its last minute, whether or not a fault fell into it
        yield from self._alive(self.end_minute * MINUTE_NS - 1)

    def _alive(self, time_ns: int) -> Iterator[Line]:
        yield from self._repeats_until(time_ns)
        for cluster in self.inventory.clusters:
            up = cluster.hosts - int(self._random.binomial(cluster.hosts, DOWN_SHARE))
            yield Alive(time_ns=time_ns, cluster=cluster.name, hosts_up=up, hosts=cluster.hosts)

    def _novel(self, begin: int, end: int) -> list[MemoryFault]:
        clusters = self.inventory.clusters
        unrest = self._random.gamma(GAMMA_SHAPE, 1 / GAMMA_SHAPE, len(clusters))
        hosts = np.array([cluster.hosts for cluster in clusters])
        longitude_deg = np.array([cluster.longitude_deg for cluster in clusters])
        faults = []
        for minute in range(begin, end):
            expected = hosts * self.novel_per_host_hour / 60 * unrest * _diurnal(longitude_deg, minute)
            if self.burst is not None:
                expected = expected * self.burst.rise(clusters, minute)
            counts = self._random.poisson(expected)
            for column in np.flatnonzero(counts):
                faults += [self._fault(int(column), minute) for _ in range(counts[column])]
        return sorted(faults, key=lambda fault: fault.time_ns)

    def _fault(self, column: int, minute: int) -> MemoryFault:
        cluster = self.inventory.clusters[column]
        host = self._names[column].name(int(self._random.integers(cluster.hosts)))
        device = DEVICES[self._novel_of_host[host] % len(DEVICES)]
        self._novel_of_host[host] += 1
        return MemoryFault(
            time_ns=minute * MINUTE_NS + int(self._random.integers(MINUTE_NS)),
            time_error_s=TIME_ERROR_S,
            cluster=cluster.name,
            host=host,
            device=device,
            stream="dram",
            severity="uncorrected" if self._random.random() < UNCORRECTED_SHARE else "corrected",
            count=1,
            novel=True,
            witnesses=("edac",),
        )

    def _plan_repeats(self, fault: MemoryFault) -> None:
        for _ in range(self._random.geometric(1 / (1 + self.repeats_per_novel)) - 1):
            time_ns = fault.time_ns + int(self._random.random() * REPEAT_WITHIN_H * 60 * MINUTE_NS)
            if time_ns < self.end_minute * MINUTE_NS:
                count = int(self._random.geometric(0.2))
                repeat = MemoryFault(
                    time_ns=time_ns,
                    time_error_s=fault.time_error_s,
                    cluster=fault.cluster,
                    host=fault.host,
                    device=fault.device,
                    stream=fault.stream,
                    severity="corrected",
                    count=count,
                    novel=False,
                    witnesses=fault.witnesses,
                )
                heapq.heappush(self._repeats, (time_ns, next(self._repeat_number), repeat))

    def _repeats_until(self, time_ns: int) -> Iterator[MemoryFault]:
        while self._repeats and self._repeats[0][0] <= time_ns:
            yield heapq.heappop(self._repeats)[2]


class _Names:
    """The host names of a cluster: the inventory's own, or made up where targets stand for many hosts."""

    def __init__(self, inventory: Inventory, cluster: Cluster) -> None:
        members = [host for host in inventory.hosts if host.cluster == cluster.name]
        self._cluster = cluster.name
        self._names = [host.name for host in members] if all(weight(host) == 1 for host in members) else None

    def name(self, index: int) -> str:
        return f"{self._cluster}-h{index + 1}" if self._names is None else self._names[index]


def _diurnal(longitude_deg: np.ndarray, minute: int) -> np.ndarray:
    """The factor [clusters] of the local time of the day; its mean over a day is 1."""
    local_h = minute / 60 + longitude_deg / 15
    return 1 + DIURNAL_SHARE * np.cos(2 * np.pi * (local_h - WARMEST_LOCAL_H) / 24)
