"""False alarms: what a correlator raises in years in which nothing happens.

Enters: a seed and a number of days. Leaves: the alarms and the live time, with the rate that was asked for in it. The
fleet reboots, is upgraded, is busier at the month's end and drifts; it is fed a quarter of a day at a time, which ends
in the same bursts as minute by minute.
"""

from dataclasses import dataclass

from collectors.correlator import LEARNING_DAYS, TRUSTED_DAYS, UNTRUSTED_SHARE, Correlator
from collectors.evaluation.fleets import fleet, novel_per_host_hour
from collectors.evaluation.learned import FIRST_MINUTE, feed
from collectors.minutes import DAY_MIN, MINUTE_NS
from collectors.world import RESTLESS, World

STEP_MIN = 360  # data are scanned up to six hours late, so a longer step would leave minutes out
CONFIGURED_PER_YEAR = 12.0  # enough to be counted; the rarer ones are those that claim to be rarer
NOMINAL_PER_YEAR = (CONFIGURED_PER_YEAR, 1.0)
DAYS_PER_YEAR = 365.25


@dataclass(frozen=True, slots=True)
class QuietRun:
    """What a fleet of `hosts` hosts raised in its live time: each burst's label, and the lowest configured rate at
    which it would have been raised."""

    hosts: int
    alarms: tuple[tuple[float, str], ...]
    young_days: float  # with so little history the correlator asks for a third of the rate
    old_days: float

    def expected(self, nominal_per_year: float) -> float:
        """How many alarms are due at this rate."""
        return nominal_per_year * (self.old_days + UNTRUSTED_SHARE * self.young_days) / DAYS_PER_YEAR

    def found(self, nominal_per_year: float) -> int:
        """How many there would have been at this rate."""
        return sum(rate <= nominal_per_year for rate, _ in self.alarms)


def quiet_run(hosts: int, seed: int, days: int) -> QuietRun:
    """`days` days, those of learning included."""
    clusters = fleet(hosts).clusters
    world = World(clusters, novel_per_host_hour(hosts), RESTLESS, FIRST_MINUTE, seed)
    correlator = Correlator(clusters, false_alarms_per_year=CONFIGURED_PER_YEAR, seed=seed)
    least: dict[str, float] = {}
    labels: dict[str, str] = {}
    for _ in range(days * DAY_MIN // STEP_MIN):
        block = world.advance(STEP_MIN)
        feed(correlator.minutes, block, world.random.poisson(block.expected))
        for revision in correlator.step(world.minute * MINUTE_NS - 1):
            share = 1.0 if revision.extrapolated_from_days is None else UNTRUSTED_SHARE
            rate = revision.far_per_year / share
            least[revision.burst_id] = min(rate, least.get(revision.burst_id, rate))
            labels[revision.burst_id] = revision.label
    young = max(min(days, TRUSTED_DAYS) - LEARNING_DAYS, 0)
    old = max(days - TRUSTED_DAYS, 0)
    return QuietRun(hosts, tuple((least[burst], labels[burst]) for burst in sorted(least)), young, old)
