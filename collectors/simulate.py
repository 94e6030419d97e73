"""Simulated histories: a fleet with its ordinary faults, repeat offenders, and incidents if wanted.

Enters: an inventory, a span of time, a seed, incidents. Leaves: lines of a history file in the order of time, one at a
time. Pure: the caller writes them.

Novel faults come as the world and the incidents have them (see there). After a novel fault its device goes on failing
for some hours (not novel). A host's novel faults walk through its devices, so that none returns within seven days
unless the rate is far above what 32 devices can give.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from agent.report import Alive, Line, MemoryFault
from collectors.incidents import Drawn, Incident, draw, fleet_of
from collectors.inventory import Cluster, Inventory, weight
from collectors.minutes import MINUTE_NS
from collectors.world import CALM, SLICE_MIN, Block, Unrest, World

ALIVE_EVERY_MIN = 360
REPEAT_WITHIN_H = 12.0
REPEAT_COUNT_MEAN = 5
UNCORRECTED_SHARE = 0.02
TIME_ERROR_S = 5.0
DEVICES = tuple(
    f"mc{mc}/channel{channel}/slot{slot}" for mc, channel, slot in itertools.product(range(2), range(8), range(2))
)


@dataclass(slots=True)
class Simulation:
    """One fleet's history. Rates: novel faults per host and hour, repeated faults per novel one."""

    inventory: Inventory
    begin_minute: int
    end_minute: int
    seed: int = 0
    novel_per_host_hour: float = 1.5e-4
    repeats_per_novel: float = 2.0
    unrest: Unrest = CALM
    incidents: tuple[Incident, ...] = ()
    _random: np.random.Generator = field(init=False)
    _novel_of_host: Counter[str] = field(init=False, default_factory=Counter)
    _names: list["_Names"] = field(init=False)
    _watching: dict[str, int] = field(init=False, default_factory=dict)  # as the last alive lines said
    _later: list[tuple[int, int, Line]] = field(init=False, default_factory=list)  # a heap by time
    _number: Iterator[int] = field(init=False, default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._names = [_Names(self.inventory, cluster) for cluster in self.inventory.clusters]

    def lines(self) -> Iterator[Line]:
        """Every line, in the order of time."""
        clusters, fleet = self.inventory.clusters, fleet_of(self.inventory)
        world = World(clusters, self.novel_per_host_hour, self.unrest, self.begin_minute, self.seed)
        for change in (change for incident in self.incidents for change in incident.changes):
            self._tell(change)
        for begin in range(self.begin_minute, self.end_minute, SLICE_MIN):
            block = world.advance(min(SLICE_MIN, self.end_minute - begin))
            self._tell_watching(block, all_of_them=(begin - self.begin_minute) % ALIVE_EVERY_MIN == 0)
            self._tell_faults(draw(fleet, block, self.incidents, self._random))
            yield from self._lines_before((begin + SLICE_MIN) * MINUTE_NS)
        # the history covers its last minute, whether or not a fault fell into it
        self._tell_watching(block, all_of_them=True, time_ns=self.end_minute * MINUTE_NS - 1)
        yield from self._lines_before(self.end_minute * MINUTE_NS)

    def _tell(self, line: Line) -> None:
        heapq.heappush(self._later, (line.time_ns, next(self._number), line))

    def _lines_before(self, time_ns: int) -> Iterator[Line]:
        while self._later and self._later[0][0] < min(time_ns, self.end_minute * MINUTE_NS):
            yield heapq.heappop(self._later)[2]

    def _tell_watching(self, block: Block, all_of_them: bool, time_ns: int | None = None) -> None:
        """An alive line of each cluster whose watching hosts became more or fewer, or of every one."""
        for cluster, up in zip(self.inventory.clusters, block.watching[-1].tolist(), strict=True):
            if all_of_them or self._watching[cluster.name] != up:
                self._watching[cluster.name] = up
                at_ns = block.first_minute * MINUTE_NS if time_ns is None else time_ns
                self._tell(Alive(time_ns=at_ns, cluster=cluster.name, hosts_up=up, hosts=cluster.hosts))

    def _tell_faults(self, drawn: Drawn) -> None:
        for minute, column, host, repeats in zip(
            *(array.tolist() for array in (drawn.minute, drawn.column, drawn.host, drawn.repeats)), strict=True
        ):
            fault = self._fault(column, self._names[column].name(host), minute)
            self._tell(fault)
            for _ in range(self._random.geometric(1 / (1 + self.repeats_per_novel)) - 1):
                delay_ns = int(self._random.random() * REPEAT_WITHIN_H * 60 * MINUTE_NS)
                self._tell(_again(fault, delay_ns, int(self._random.geometric(1 / REPEAT_COUNT_MEAN))))
            if repeats:
                self._tell(_again(fault, MINUTE_NS, repeats))

    def _fault(self, column: int, host: str, minute: int) -> MemoryFault:
        device = DEVICES[self._novel_of_host[host] % len(DEVICES)]
        self._novel_of_host[host] += 1
        return MemoryFault(
            time_ns=minute * MINUTE_NS + int(self._random.integers(MINUTE_NS)),
            time_error_s=TIME_ERROR_S,
            cluster=self.inventory.clusters[column].name,
            host=host,
            device=device,
            stream="dram",
            severity="uncorrected" if self._random.random() < UNCORRECTED_SHARE else "corrected",
            count=1,
            novel=True,
            witnesses=("edac",),
        )


def _again(fault: MemoryFault, delay_ns: int, count: int) -> MemoryFault:
    """The same device fails again, so many times."""
    return replace(fault, time_ns=fault.time_ns + delay_ns, severity="corrected", count=count, novel=False)


class _Names:
    """The host names of a cluster: the inventory's own, or made up where targets stand for many hosts."""

    def __init__(self, inventory: Inventory, cluster: Cluster) -> None:
        members = [host for host in inventory.hosts if host.cluster == cluster.name]
        self._cluster = cluster.name
        self._names = [host.name for host in members] if all(weight(host) == 1 for host in members) else None

    def name(self, index: int) -> str:
        return f"{self._cluster}-h{index + 1}" if self._names is None else self._names[index]
