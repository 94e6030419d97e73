"""Incidents: what happens to a fleet besides ordinary life, from a rack that fails to a burst from the sky.

Enters: a fleet, a minute and a source of chance. Leaves: an Incident, and from a world's block together with incidents
the faults, each with its minute, cluster and host. Pure, numpy only.

An incident raises expectations (`rise`), adds failures of its own, books the faults of a backlog at a wrong minute, or
all three, and may come with announced changes. KINDS names those that aren't bursts; the causes that it lists are the
ones that a good judge may give.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agent.report import Change
from collectors.inventory import Cluster, Inventory, weight
from collectors.minutes import MINUTE_NS, minute_of
from collectors.scan import responses
from collectors.sky import ground_direction, rigidities_gv, unit_vectors, zeniths
from collectors.world import Block

RACK_HOSTS = 40
RACK_MIN = 5  # within so many minutes a rack's hosts fail
EARTH_RADIUS_KM = 6371.0
REGION_KM = 1500.0
REGION_CLUSTERS = 3
TENFOLD = 9.0  # the amplitude of a rise to ten times the rate
ANNOUNCED_MIN = 10  # a roll-out is opened so long before its first host
ROLLOUT_MIN = 30
REGION_MIN, FLEET_MIN = 30, 20
GROUND_LEVEL_MIN, GROUND_LEVEL_GV, GROUND_LEVEL_AMPLITUDE = 30, 2.0, 64.0
STAGES = 3
BACKLOG_CLUSTER_MIN, BACKLOG_FLEET_MIN = 180, 60


@dataclass(frozen=True, slots=True)
class Fleet:
    """Clusters, and per cohort the indices of each cluster's hosts that belong to it."""

    clusters: tuple[Cluster, ...]
    cohorts: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)

    @property
    def hosts(self) -> np.ndarray:
        return np.array([cluster.hosts for cluster in self.clusters])

    def share(self, cohort: str) -> np.ndarray:
        """The share [clusters] of each cluster's hosts that belongs to the cohort."""
        return np.array([len(members) for members in self.cohorts[cohort]]) / self.hosts


@dataclass(frozen=True, slots=True)
class Rise:
    """shares[minutes, clusters]: by which share of the expectation faults come on top, from `first_minute` on."""

    first_minute: int
    shares: np.ndarray
    cohort: str | None = None  # it hits hosts of this cohort only

    @property
    def end_minute(self) -> int:
        return self.first_minute + len(self.shares)


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

    @property
    def end_minute(self) -> int:
        return self.booked_minute + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """All that happens for one reason."""

    rises: tuple[Rise, ...] = ()
    failures: tuple[Failures, ...] = ()
    backlogs: tuple[Backlog, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def end_minute(self) -> int:
        """When the last of it has happened."""
        ends = [rise.end_minute for rise in self.rises] + [failures.end_minute for failures in self.failures]
        return max(ends + [backlog.end_minute for backlog in self.backlogs])


@dataclass(frozen=True, slots=True)
class Drawn:
    """Novel faults [faults]: when each is said to have happened, in which cluster, on its which host, and how many
    errors follow from the same device. The first `ordinary` of them would have come without any incident."""

    minute: np.ndarray
    column: np.ndarray
    host: np.ndarray
    repeats: np.ndarray
    ordinary: int


def draw(fleet: Fleet, block: Block, incidents: Sequence[Incident], random: np.random.Generator) -> Drawn:
    """The novel faults of a block of minutes."""
    hosts = fleet.hosts
    parts = [_scattered(block.expected, block.first_minute, hosts, random)]
    for incident in incidents:
        parts += [_of_rise(fleet, rise, block, random) for rise in incident.rises]
        parts += [_of_rack(failures, block, hosts, random) for failures in incident.failures]
    minute, column, host, repeats = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    for backlog in (backlog for incident in incidents for backlog in incident.backlogs):
        late = np.isin(column, backlog.columns) & (backlog.begin_minute <= minute) & (minute < backlog.booked_minute)
        minute = np.where(late, backlog.booked_minute, minute)
    return Drawn(minute, column, host, repeats, ordinary=len(parts[0][0]))


Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _scattered(expected: np.ndarray, first_minute: int, hosts: np.ndarray, random: np.random.Generator) -> Part:
    counts = random.poisson(expected)
    minute, column = np.nonzero(counts)
    number = counts[minute, column]
    minute, column = np.repeat(minute, number), np.repeat(column, number)
    return minute + first_minute, column, random.integers(0, hosts[column]), np.zeros(len(minute), np.int64)


def _of_rise(fleet: Fleet, rise: Rise, block: Block, random: np.random.Generator) -> Part:
    """What the rise adds to the block."""
    begin = max(rise.first_minute, block.first_minute)
    end = max(begin, min(rise.end_minute, block.first_minute + len(block.expected)))
    shares = rise.shares[begin - rise.first_minute : end - rise.first_minute]
    expected = block.expected[begin - block.first_minute : end - block.first_minute] * shares
    part = _scattered(expected, begin, fleet.hosts, random)
    if rise.cohort is None:
        return part
    minute, column, host, repeats = part
    members = fleet.cohorts[rise.cohort]
    chosen = [random.choice(members[index]) for index in column]
    return minute, column, np.array(chosen, dtype=host.dtype), repeats


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
        shares = np.stack([self._shares(clusters, first + minute) for minute in range(self.duration_min)])
        return Incident(rises=(Rise(first, shares),))

    def _shares(self, clusters: Sequence[Cluster], minute: int) -> np.ndarray:
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


def _one_device(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    column = int(random.integers(len(fleet.clusters)))
    failures = Failures(1, column, _rack(fleet, column, random), minute, minute + 1, repeats=10_000)
    return Incident(failures=(failures,))


def _racks(racks: int, failures_each: int) -> Make:
    """Racks of different clusters whose hosts fail within the same minutes."""

    def make(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
        columns = random.choice(len(fleet.clusters), min(racks, len(fleet.clusters)), replace=False)
        failures = tuple(
            Failures(failures_each, int(column), _rack(fleet, int(column), random), minute, minute + RACK_MIN)
            for column in columns
        )
        return Incident(failures=failures)

    return make


def _region(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """A cluster that has neighbours, if any has, and all within reach of it."""
    up = zeniths(fleet.clusters)
    near = up @ up.T > math.cos(REGION_KM / EARTH_RADIUS_KM)
    centres = np.flatnonzero(near.sum(axis=1) >= min(REGION_CLUSTERS, near.sum(axis=1).max()))
    inside = near[random.choice(centres)]
    return Incident(rises=(Rise(minute, np.tile(TENFOLD * inside, (REGION_MIN, 1))),))


def _everywhere(times: float) -> Make:
    def make(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
        return Incident(rises=(Rise(minute, np.full((FLEET_MIN, len(fleet.clusters)), times - 1.0)),))

    return make


def _low_cutoff(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """What a ground-level enhancement does: the lower a place's cutoff rigidity, the more comes down."""
    shares = GROUND_LEVEL_AMPLITUDE * np.exp(-rigidities_gv(fleet.clusters) / GROUND_LEVEL_GV)
    return Incident(rises=(Rise(minute, np.tile(shares, (GROUND_LEVEL_MIN, 1))),))


def _cluster_backlog(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    column = int(random.integers(len(fleet.clusters)))
    backlog = Backlog((column,), minute - BACKLOG_CLUSTER_MIN, minute)
    return Incident(backlogs=(backlog,))


def _fleet_backlog(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    backlog = Backlog(tuple(range(len(fleet.clusters))), minute - BACKLOG_FLEET_MIN, minute)
    return Incident(backlogs=(backlog,))


def _cohort(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """An announced roll-out to one cohort, all its hosts at once."""
    return _announced(fleet, str(random.choice(sorted(fleet.cohorts))), minute)


def _unannounced(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """A fifth to three fifths of the clusters, by chance; nobody said so."""
    hit = random.random(len(fleet.clusters)) < random.uniform(0.2, 0.6)
    return Incident(rises=(Rise(minute, np.tile(TENFOLD * hit, (ROLLOUT_MIN, 1))),))


def _staged(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """An announced roll-out that goes from one cohort to the next."""
    cohorts = random.permutation(sorted(fleet.cohorts))[:STAGES]
    stages = [_announced(fleet, str(cohort), minute + n * ROLLOUT_MIN) for n, cohort in enumerate(cohorts)]
    return Incident(
        rises=tuple(rise for stage in stages for rise in stage.rises),
        changes=tuple(change for stage in stages for change in stage.changes),
    )


def _staged_bands(fleet: Fleet, minute: int, random: np.random.Generator) -> Incident:
    """A roll-out that walks round the Earth by bands of longitude; nobody said so."""
    east_deg = (np.array([c.longitude_deg for c in fleet.clusters]) - random.uniform(0, 360)) % 360
    band = (east_deg * STAGES / 360).astype(int)
    waves = [np.tile(TENFOLD * (band == number), (ROLLOUT_MIN, 1)) for number in range(STAGES)]
    return Incident(rises=(Rise(minute, np.concatenate(waves)),))


def _announced(fleet: Fleet, cohort: str, minute: int) -> Incident:
    """One stage: a change is open from a little before until the last host is done."""
    change_id = f"{cohort}-{minute}"
    opened_ns, closed_ns = (minute - ANNOUNCED_MIN) * MINUTE_NS, (minute + ROLLOUT_MIN) * MINUTE_NS
    return Incident(
        rises=(Rise(minute, np.tile(TENFOLD * fleet.share(cohort), (ROLLOUT_MIN, 1)), cohort),),
        changes=(
            Change(time_ns=opened_ns, id=change_id, action="open", cohort=cohort),
            Change(time_ns=closed_ns, id=change_id, action="close", cohort=cohort),
        ),
    )


def _rack(fleet: Fleet, column: int, random: np.random.Generator) -> int:
    return int(random.integers(-(-fleet.clusters[column].hosts // RACK_HOSTS)))


LOCAL = frozenset({"part", "local"})
SCATTERED = frozenset({"part", "incoherent"})
ROLLOUT = frozenset({"rollout"})
KINDS = {
    "device": Kind(_one_device, frozenset()),
    "rack-50": Kind(_racks(1, 50), LOCAL),
    "rack-200": Kind(_racks(1, 200), LOCAL),
    "racks-2": Kind(_racks(2, 30), SCATTERED),
    "racks-3": Kind(_racks(3, 20), SCATTERED),
    "region": Kind(_region, frozenset({"region"})),
    "fleet-5": Kind(_everywhere(5), frozenset({"fleet"})),
    "fleet-30": Kind(_everywhere(30), frozenset({"fleet"})),
    "cluster-backlog": Kind(_cluster_backlog, frozenset({"local"})),
    "fleet-backlog": Kind(_fleet_backlog, frozenset({"fleet"})),
    "cohort": Kind(_cohort, ROLLOUT),
    "unannounced": Kind(_unannounced, frozenset({"incoherent"})),
    "staged": Kind(_staged, ROLLOUT),
    "staged-bands": Kind(_staged_bands, ROLLOUT | {"region", "incoherent"}),
    "low-cutoff": Kind(_low_cutoff, frozenset({"low-cutoff"})),
}
NEED_COHORTS = ("cohort", "staged")


def fleet_of(inventory: Inventory) -> Fleet:
    """The fleet of an inventory; its cohorts are the values of the label `cohort`."""
    cohorts: dict[str, dict[str, list[np.ndarray]]] = {}
    first: Counter[str] = Counter()  # of each cluster's next target
    for host in inventory.hosts:
        indices = np.arange(first[host.cluster], first[host.cluster] + weight(host))
        first[host.cluster] += weight(host)
        if "cohort" in host.labels:
            cohorts.setdefault(host.labels["cohort"], {}).setdefault(host.cluster, []).append(indices)
    none = np.zeros(0, np.int64)
    return Fleet(
        inventory.clusters,
        {
            cohort: tuple(np.concatenate(members.get(name, [none])) for name in inventory.cluster_names)
            for cohort, members in cohorts.items()
        },
    )
