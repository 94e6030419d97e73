"""Incidents: what happens to a fleet besides ordinary life, from a rack that fails to a burst from the sky.

Enters: a fleet, a minute and a source of chance. Leaves: an Incident, and from a world's block together with incidents
the faults, each with its minute, cluster and host. Pure, numpy only.

An incident raises expectations (`rise`), adds failures of its own, books the faults of a backlog at a wrong minute, or
all three, and may come with announced changes. KINDS names those that aren't bursts; the causes that it lists are the
ones that a good judge may give.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agent.report import Change
from collectors.inventory import Cluster, Inventory, weight
from collectors.minutes import MINUTE_NS, minute_of
from collectors.scan import responses
from collectors.sky import ground_direction, unit_vectors, zeniths
from collectors.world import Block

RACK_HOSTS = 40
RACK_MIN = 5  # within so many minutes a rack's hosts fail
EARTH_RADIUS_KM = 6371.0
REGION_KM = 1500.0
TENFOLD = 9.0  # the amplitude of a rise to ten times the rate
ANNOUNCED_MIN = 10  # a roll-out is opened so long before its first host
ROLLOUT_MIN = 30
STAGES = 3
BACKLOG_CLUSTER_MIN, BACKLOG_FLEET_MIN = 180, 60


@dataclass(frozen=True, slots=True)
class Fleet:
    """Clusters, and the shares [clusters] of each one's hosts that belong to a cohort."""

    clusters: tuple[Cluster, ...]
    cohorts: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def hosts(self) -> np.ndarray:
        return np.array([cluster.hosts for cluster in self.clusters])


@dataclass(frozen=True, slots=True)
class Failures:
    """Devices that fail for one reason: how many, in which cluster and rack, from one minute to another."""

    number: int
    column: int
    rack: int
    begin_minute: int
    end_minute: int
    repeats: int = 0  # further errors of the same device, which are not novel


@dataclass(frozen=True, slots=True)
class Backlog:
    """Faults of these clusters from one minute on that are all booked at the last one."""

    columns: tuple[int, ...]
    begin_minute: int
    booked_minute: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """rise[minutes, clusters]: by which share of the expectation faults come on top, from `first_minute` on."""

    first_minute: int
    rise: np.ndarray
    failures: tuple[Failures, ...] = ()
    backlog: Backlog | None = None
    changes: tuple[Change, ...] = ()
    cohort: str | None = None  # the rise hits hosts of this cohort only
    source: np.ndarray | None = None  # where a celestial one stands in the sky: a J2000 unit vector

    @property
    def end_minute(self) -> int:
        """When the last of it has happened."""
        ends = [self.first_minute + len(self.rise), *(failures.end_minute for failures in self.failures)]
        return max(ends if self.backlog is None else [*ends, self.backlog.booked_minute + 1])


@dataclass(frozen=True, slots=True)
class Drawn:
    """Novel faults [faults]: when each is said to have happened, in which cluster, on its which host."""

    minute: np.ndarray
    column: np.ndarray
    host: np.ndarray
    repeats: np.ndarray

    def counts(self, first_minute: int, minutes: int, clusters: int) -> np.ndarray:
        """How many [minutes, clusters]; all must lie in the range."""
        counts = np.zeros((minutes, clusters), np.int64)
        np.add.at(counts, (self.minute - first_minute, self.column), 1)
        return counts


def draw(fleet: Fleet, block: Block, incidents: Sequence[Incident], random: np.random.Generator) -> Drawn:
    """The novel faults of a block of minutes."""
    hosts = fleet.hosts
    parts = [_scattered(block.expected, block.first_minute, hosts, random)]
    for incident in incidents:
        parts.append(_scattered(_excess(block, incident), block.first_minute, hosts, random))
        parts += [_of_rack(failures, block, hosts, random) for failures in incident.failures]
    minute, column, host, repeats = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    for incident in incidents:
        if incident.backlog is not None:
            late = np.isin(column, incident.backlog.columns)
            late &= (incident.backlog.begin_minute <= minute) & (minute < incident.backlog.booked_minute)
            minute = np.where(late, incident.backlog.booked_minute, minute)
    return Drawn(minute, column, host, repeats)


Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _scattered(expected: np.ndarray, first_minute: int, hosts: np.ndarray, random: np.random.Generator) -> Part:
    counts = random.poisson(expected)
    minute, column = np.nonzero(counts)
    number = counts[minute, column]
    minute, column = np.repeat(minute, number), np.repeat(column, number)
    return minute + first_minute, column, random.integers(0, hosts[column]), np.zeros(len(minute), np.int64)


def _excess(block: Block, incident: Incident) -> np.ndarray:
    """What the incident adds to the block's expectation [minutes, clusters]."""
    excess = np.zeros_like(block.expected)
    begin = max(incident.first_minute, block.first_minute)
    end = min(incident.first_minute + len(incident.rise), block.first_minute + len(excess))
    if begin < end:
        inside = slice(begin - block.first_minute, end - block.first_minute)
        rise = incident.rise[begin - incident.first_minute : end - incident.first_minute]
        excess[inside] = block.expected[inside] * rise
    return excess


def _of_rack(failures: Failures, block: Block, hosts: np.ndarray, random: np.random.Generator) -> Part:
    """The rack's faults that fall into the block; whichever blocks are drawn, each falls into one of them."""
    begin, end = block.first_minute, block.first_minute + len(block.expected)
    span = failures.end_minute - failures.begin_minute
    when = failures.begin_minute + np.arange(failures.number) * span // failures.number
    minute = when[(begin <= when) & (when < end)]
    first = failures.rack * RACK_HOSTS
    host = random.integers(first, min(first + RACK_HOSTS, int(hosts[failures.column])), len(minute))
    column = np.full(len(minute), failures.column)
    return minute, column, host, np.full(len(minute), failures.repeats)


# --- bursts


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A rise by 1 + amplitude * f for some minutes. The place is one of: a sky position, a ground point, a cluster."""

    start_ns: int
    duration_min: int
    amplitude: float
    ra_dec_deg: tuple[float, float] | None = None
    ground_deg: tuple[float, float] | None = None  # latitude and longitude of the source's zenith point
    cluster: str | None = None  # without any of the three the whole fleet rises
    exponent: int = 1  # of the response max(0, cos)

    def incident(self, clusters: Sequence[Cluster]) -> Incident:
        """What it does to these clusters."""
        first = minute_of(self.start_ns)
        rise = np.stack([self._rise(clusters, first + minute) for minute in range(self.duration_min)])
        source = None if self.ra_dec_deg is None else unit_vectors(*map(np.array, reversed(self.ra_dec_deg)))
        return Incident(first_minute=first, rise=rise, source=source)

    def _rise(self, clusters: Sequence[Cluster], minute: int) -> np.ndarray:
        if self.cluster is not None:
            return self.amplitude * np.array([cluster.name == self.cluster for cluster in clusters])
        if self.ra_dec_deg is not None:
            source = ground_direction(*self.ra_dec_deg, minute * MINUTE_NS)
        elif self.ground_deg is not None:
            source = unit_vectors(*(np.array(angle) for angle in self.ground_deg))
        else:
            return np.full(len(clusters), self.amplitude)
        return self.amplitude * responses(clusters, source[None], self.exponent)[0]


# --- kinds

Make = Callable[[Fleet, int, np.random.Generator], Incident]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of incident: how to make one at a minute, and what may rightly be called its cause."""

    make: Make
    causes: frozenset[str]


def _quiet(fleet: Fleet) -> np.ndarray:
    return np.zeros((0, len(fleet.clusters)))


def _one_device(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    column = int(random.integers(len(fleet.clusters)))
    failures = Failures(1, column, _rack(fleet, column, random), minute, minute + 1, repeats=10_000)
    return Incident(first_minute=minute, rise=_quiet(fleet), failures=(failures,))


def _racks(racks: int, failures_each: int) -> Make:
    """Racks of different clusters whose hosts fail within the same minutes."""

    def make(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
        columns = random.choice(len(fleet.clusters), racks, replace=False)
        failures = tuple(
            Failures(failures_each, int(column), _rack(fleet, int(column), random), minute, minute + RACK_MIN)
            for column in columns
        )
        return Incident(first_minute=minute, rise=_quiet(fleet), failures=failures)

    return make


def _region(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    up = zeniths(fleet.clusters)
    cosines = up @ up[random.integers(len(up))]
    inside = cosines > math.cos(REGION_KM / EARTH_RADIUS_KM)
    return Incident(first_minute=minute, rise=np.tile(TENFOLD * inside, (30, 1)))


def _everywhere(times: float) -> Make:
    def make(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
        return Incident(first_minute=minute, rise=np.full((20, len(fleet.clusters)), times - 1))

    return make


def _cluster_backlog(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    column = int(random.integers(len(fleet.clusters)))
    backlog = Backlog((column,), minute - BACKLOG_CLUSTER_MIN, minute)
    return Incident(first_minute=minute, rise=_quiet(fleet), backlog=backlog)


def _fleet_backlog(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    backlog = Backlog(tuple(range(len(fleet.clusters))), minute - BACKLOG_FLEET_MIN, minute)
    return Incident(first_minute=minute, rise=_quiet(fleet), backlog=backlog)


def _cohort(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """An announced roll-out to one cohort, all its hosts at once."""
    cohort = str(random.choice(sorted(fleet.cohorts)))
    rise = np.tile(TENFOLD * fleet.cohorts[cohort], (ROLLOUT_MIN, 1))
    changes = _announced(f"rollout-{minute}", cohort, minute, minute + ROLLOUT_MIN)
    return Incident(first_minute=minute, rise=rise, changes=changes, cohort=cohort)


def _unannounced(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """A fifth to three fifths of the clusters, by chance; nobody said so."""
    hit = random.random(len(fleet.clusters)) < random.uniform(0.2, 0.6)
    return Incident(first_minute=minute, rise=np.tile(TENFOLD * hit, (ROLLOUT_MIN, 1)))


def _staged(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """An announced roll-out that goes from one cohort to the next."""
    cohorts = [str(cohort) for cohort in random.permutation(sorted(fleet.cohorts))[:STAGES]]
    stages = [TENFOLD * fleet.cohorts[cohort] for cohort in cohorts]
    changes: tuple[Change, ...] = ()
    for number, cohort in enumerate(cohorts):
        begin = minute + number * ROLLOUT_MIN
        changes += _announced(f"rollout-{minute}-{number + 1}", cohort, begin, begin + ROLLOUT_MIN)
    return Incident(first_minute=minute, rise=np.repeat(stages, ROLLOUT_MIN, axis=0), changes=changes)


def _staged_bands(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """A roll-out that walks round the Earth by bands of longitude; nobody said so."""
    east_deg = (np.array([c.longitude_deg for c in fleet.clusters]) - random.uniform(0, 360)) % 360
    band = (east_deg * STAGES / 360).astype(int)
    stages = [TENFOLD * (band == number) for number in range(STAGES)]
    return Incident(first_minute=minute, rise=np.repeat(stages, ROLLOUT_MIN, axis=0))


def _announced(change_id: str, cohort: str, begin_minute: int, end_minute: int) -> tuple[Change, ...]:
    opened, closed = (begin_minute - ANNOUNCED_MIN) * MINUTE_NS, end_minute * MINUTE_NS
    return (
        Change(time_ns=opened, id=change_id, action="open", cohort=cohort),
        Change(time_ns=closed, id=change_id, action="close", cohort=cohort),
    )


def _rack(fleet: Fleet, column: int, random: np.random.Generator) -> int:
    return int(random.integers(-(-fleet.clusters[column].hosts // RACK_HOSTS)))


LOCAL = frozenset({"part", "local"})
SCATTERED = frozenset({"part", "incoherent"})
ROLLOUT = frozenset({"rollout"})
KINDS = {
    "one device, 10,000 errors": Kind(_one_device, frozenset()),
    "rack, 50 devices": Kind(_racks(1, 50), LOCAL),
    "rack, 200 devices": Kind(_racks(1, 200), LOCAL),
    "2 racks, 30 devices each": Kind(_racks(2, 30), SCATTERED),
    "3 racks, 20 devices each": Kind(_racks(3, 20), SCATTERED),
    "region x10": Kind(_region, frozenset({"region", "local"})),
    "fleet x5": Kind(_everywhere(5), frozenset({"fleet"})),
    "fleet x30": Kind(_everywhere(30), frozenset({"fleet"})),
    "cluster's backlog at once": Kind(_cluster_backlog, frozenset({"local"})),
    "fleet's backlog at once": Kind(_fleet_backlog, frozenset({"fleet"})),
    "announced cohort x10": Kind(_cohort, ROLLOUT),
    "some clusters x10": Kind(_unannounced, frozenset({"incoherent"})),
    "staged, announced": Kind(_staged, ROLLOUT),
    "staged by longitude": Kind(_staged_bands, ROLLOUT | {"region", "incoherent"}),
}


def fleet_of(inventory: Inventory) -> Fleet:
    """The fleet of an inventory; its cohorts are the values of the label `cohort`."""
    column = {name: index for index, name in enumerate(inventory.cluster_names)}
    hosts = {cohort: np.zeros(len(column)) for cohort in sorted({h.labels.get("cohort", "") for h in inventory.hosts})}
    for host in inventory.hosts:
        hosts[host.labels.get("cohort", "")][column[host.cluster]] += weight(host)
    fleet = Fleet(inventory.clusters)
    return Fleet(fleet.clusters, {cohort: number / fleet.hosts for cohort, number in hosts.items() if cohort})
