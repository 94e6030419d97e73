"""What the correlator finds: false alarms where nothing happened, bursts whose strength and direction are known, and
racks that fail together, which no direction explains.

Enters: nothing; all seeds are fixed. Leaves: a table of each on stdout and a hash of what was found. The fleets' faults
come from the simulation of `simulate` and go minute by minute through the correlator as `replay` drives it. Repeated
faults are left out, since the correlator doesn't count them.

One learned history serves many bursts: each gets a copy of the correlator that has just learned it, and a fresh hour
with a background, a direction and a time within the hour of its own. So what such bursts share is the learned baseline
and threshold, which is why there are several histories. Each amplitude meets the same directions and histories.
"""

import copy
import hashlib
from dataclasses import dataclass

import numpy as np

from agent.report import Alive, MemoryFault
from collectors.correlator import LEARNING_DAYS, UNTRUSTED_SHARE, Correlator
from collectors.history import History, replay
from collectors.incidents import Burst
from collectors.inventory import Host, Inventory
from collectors.minutes import MINUTE_NS, minute_of
from collectors.simulate import Simulation
from collectors.sky import angles_deg, separation_deg, unit_vectors
from tests.collectors.fleets import cities, fault, twelve

DAY_MIN = 1440
FIRST = 20_000 * DAY_MIN
LEARNED = FIRST + LEARNING_DAYS * DAY_MIN + 60  # the first minute after the first calibration, and a bit
TRIAL_MIN = 75
BURST_MIN = 10
RACK_MIN = 5
CONFIGURED_PER_YEAR = 240.0  # so that some days hold enough false alarms to be counted
LEVELS_PER_YEAR = (CONFIGURED_PER_YEAR * UNTRUSTED_SHARE, CONFIGURED_PER_YEAR * UNTRUSTED_SHARE / 10)
RACKS = ((3, 8), (5, 8), (12, 3))  # how many, and how many of each rack's devices fail
FLEET_HEADING = "fleet, and novel faults per host"
CELESTIAL_HEADING = "celestial at first  at last"


@dataclass(frozen=True)
class Fleet:
    inventory: Inventory
    novel_per_host_hour: float

    @property
    def name(self) -> str:
        clusters = self.inventory.clusters
        hosts = sum(cluster.hosts for cluster in clusters)
        return f"{len(clusters)} clusters, {hosts} hosts, {self.novel_per_host_hour:g} an hour"

    def history(self, begin: int, end: int, seed: int, burst: Burst | None = None) -> History:
        """What this fleet tells from one minute to another."""
        rate = self.novel_per_host_hour
        lines = list(Simulation(self.inventory, begin, end, seed, rate, repeats_per_novel=0, burst=burst).lines())
        return History(
            faults=[line for line in lines if isinstance(line, MemoryFault)],
            alive=[line for line in lines if isinstance(line, Alive)],
            last_time_ns=lines[-1].time_ns,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one burst: its faults and, if it was found, its labels and the error of its direction."""

    faults: int
    first_label: str = ""
    last_label: str = ""
    error_deg: float | None = None  # None if there was no direction to find, or nothing was found

    @property
    def found(self) -> bool:
        return bool(self.last_label)


def main(small: bool) -> str:
    """Prints the tables; returns a hash of every alarm's rate and every burst's outcome."""
    found = [_nulls(small), _powers(small), _confounders(small)]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _nulls(small: bool) -> list[list[str]]:
    print("nothing happens: false alarms found / due, at two rates that the correlator claims")
    levels = "".join(f"{f'{level:g} a year':>14s}" for level in LEVELS_PER_YEAR)
    print(f"  {FLEET_HEADING:44s} {'runs':>5s} {'live days':>10s}{levels}")
    if small:
        return [_null(_small(0.1), runs=1, live_days=1)]
    quiet, busy = (_null(_small(rate), runs=20, live_days=40) for rate in (0.02, 0.1))
    return [quiet, busy, _null(_large(), runs=6, live_days=6)]


def _powers(small: bool) -> list[list[tuple[int, int, str]]]:
    print(f"\na burst of {BURST_MIN} min with the response max(0, cos), from anywhere in the sky")
    print(f"  {FLEET_HEADING:44s} {'amplitude':>9s} {'faults':>7s} {'bursts':>7s}", end="")
    print(f"{'found':>7s} {'error_deg':>10s} {CELESTIAL_HEADING}")
    if small:
        return [_power(_small(0.05), (1000.0,), histories=1, bursts=3)]
    few_hosts = _power(_small(0.05), (100.0, 300.0, 1000.0), histories=20, bursts=10)
    return [few_hosts, _power(_large(), (8.0, 16.0, 32.0), histories=10, bursts=20)]


def _confounders(small: bool) -> list[tuple[int, int]]:
    print(f"\nracks of different cities that fail within the same {RACK_MIN} min: no direction, whatever is said")
    print(f"  {FLEET_HEADING:44s} {'racks':>9s} {'faults':>7s} {'tries':>7s}{'found':>7s} {CELESTIAL_HEADING}")
    return _racks(_small(0.05), histories=1, tries=3) if small else _racks(_large(), histories=5, tries=20)


def _small(novel_per_host_hour: float) -> Fleet:
    clusters = twelve()
    names = [(f"{cluster.name}-h{number}", cluster.name) for cluster in clusters for number in range(cluster.hosts)]
    hosts = tuple(Host(f"{name}:9861", name, cluster) for name, cluster in names)
    return Fleet(Inventory(clusters, hosts), novel_per_host_hour)


def _large() -> Fleet:
    return Fleet(cities(), 1.5e-4)


# --- false alarms


def _null(fleet: Fleet, runs: int, live_days: int) -> list[str]:
    """Prints a line and returns the lowest false-alarm rate that each alarm claimed."""
    lowest: list[float] = []
    for seed in range(runs):
        correlator = Correlator(fleet.inventory.clusters, false_alarms_per_year=CONFIGURED_PER_YEAR)
        claimed: dict[str, float] = {}
        for revision in replay(fleet.history(FIRST, FIRST + (LEARNING_DAYS + live_days) * DAY_MIN, seed), correlator):
            far = claimed.get(revision.burst_id, np.inf)
            claimed[revision.burst_id] = min(far, revision.far_per_year)
        lowest += claimed.values()
    cells = []
    for level in LEVELS_PER_YEAR:
        alarms, due = sum(far <= level for far in lowest), level * runs * live_days / 365.25
        cells.append(f"{f'{alarms} / {due:.1f}':>14s}")
    print(f"  {fleet.name:44s} {runs:5d} {runs * live_days:10d}{''.join(cells)}", flush=True)
    return [f"{far:.1f}" for far in sorted(lowest)]


# --- bursts


def _learned(fleet: Fleet, seed: int) -> Correlator:
    """A correlator that has just become able to raise bursts."""
    correlator = Correlator(fleet.inventory.clusters)
    for _ in replay(fleet.history(FIRST, LEARNED, seed), correlator):
        pass  # a false alarm of the first hour, if any, is no burst of ours
    return correlator


def _power(fleet: Fleet, amplitudes: tuple[float, ...], histories: int, bursts: int) -> list[tuple[int, int, str]]:
    """Prints a line for each amplitude and returns what was found of each."""
    outcomes: dict[float, list[Outcome]] = {amplitude: [] for amplitude in amplitudes}
    for number in range(histories):
        learned = _learned(fleet, number)
        for amplitude in amplitudes:
            seeds = range(1000 * (number + 1), 1000 * (number + 1) + bursts)
            outcomes[amplitude] += [_burst_outcome(fleet, learned, amplitude, seed) for seed in seeds]
    results = []
    for amplitude in amplitudes:
        errors_deg = [outcome.error_deg for outcome in outcomes[amplitude] if outcome.error_deg is not None]
        error_deg = f"{np.median(errors_deg):.1f}" if errors_deg else "-"
        found, celestial = _print(fleet, f"{amplitude:g}", outcomes[amplitude], f" {error_deg:>10s}")
        results.append((found, celestial, error_deg))
    return results


def _burst_outcome(fleet: Fleet, learned: Correlator, amplitude: float, seed: int) -> Outcome:
    """One burst, put into the hour that follows what was learned."""
    random = np.random.default_rng(seed)
    source = random.normal(size=3)  # once its length is taken away, as likely in one direction as in another
    source /= np.linalg.norm(source)
    dec_deg, ra_deg = angles_deg(source)
    start = LEARNED + int(random.integers(5, 15))
    burst = Burst(start_ns=start * MINUTE_NS, duration_min=BURST_MIN, amplitude=amplitude, ra_dec_deg=(ra_deg, dec_deg))
    history = fleet.history(LEARNED, LEARNED + TRIAL_MIN, seed, burst)
    return _outcome(learned, history, start, start + BURST_MIN, source)


def _racks(fleet: Fleet, histories: int, tries: int) -> list[tuple[int, int]]:
    """Prints a line for each number of racks and returns how many were found, and called celestial in the end."""
    learned = [_learned(fleet, number) for number in range(histories)]
    results = []
    for racks, devices in RACKS:
        seeds = [(number, 1000 * (number + 1) + attempt) for number in range(histories) for attempt in range(tries)]
        outcomes = [_rack_outcome(fleet, learned[number], racks, devices, seed) for number, seed in seeds]
        results.append(_print(fleet, f"{racks} x {devices}", outcomes))
    return results


def _rack_outcome(fleet: Fleet, learned: Correlator, racks: int, devices: int, seed: int) -> Outcome:
    random = np.random.default_rng(seed)
    start = LEARNED + int(random.integers(5, 15))
    history = fleet.history(LEARNED, LEARNED + TRIAL_MIN, seed)
    names = [cluster.name for cluster in fleet.inventory.clusters]
    for name in random.choice(names, racks, replace=False):
        history.faults += [fault(start + int(minute), str(name)) for minute in random.integers(0, RACK_MIN, devices)]
    history.faults.sort(key=lambda one: one.time_ns)
    return _outcome(learned, history, start, start + RACK_MIN)


def _outcome(learned: Correlator, history: History, begin: int, end: int, source: np.ndarray | None = None) -> Outcome:
    """What a copy of the correlator says of the time between two minutes, and how far that is from the source."""
    faults = sum(begin <= minute_of(one.time_ns) < end for one in history.faults)
    revisions = replay(history, copy.deepcopy(learned))
    told = [r for r in revisions if minute_of(r.t_start_ns) < end and begin < minute_of(r.t_end_ns)]
    if not told or told[-1].kind == "retract":
        return Outcome(faults)
    direction = unit_vectors(np.array(told[-1].dec_deg), np.array(told[-1].ra_deg))
    error_deg = None if source is None else separation_deg(direction, source)
    return Outcome(faults, told[0].label, told[-1].label, error_deg)


def _print(fleet: Fleet, strength: str, outcomes: list[Outcome], error_deg: str = "") -> tuple[int, int]:
    """Prints a line; returns how many were found, and how many of these were called celestial in the end."""
    found = [outcome for outcome in outcomes if outcome.found]
    first, last = ([getattr(one, when) == "celestial" for one in found] for when in ("first_label", "last_label"))
    faults = np.mean([outcome.faults for outcome in outcomes])
    print(f"  {fleet.name:44s} {strength:>9s} {faults:7.1f} {len(outcomes):7d}", end="")
    print(f"{len(found) / len(outcomes):7.2f}{error_deg} {_share(first):>18s} {_share(last):>8s}", flush=True)
    return len(found), sum(last)


def _share(flags: list[bool]) -> str:
    return f"{sum(flags) / len(flags):.2f}" if flags else "-"
