"""How long the correlator takes: to learn 14 days, another two days, a step in an ordinary minute, one in a burst.

Enters: nothing. Leaves: a table on stdout and a hash of thresholds and statistics, so that a faster correlator that
finds something else is noticed. "two days" is what a step takes that completes a block: fold and slide 48 hours.
"""

import hashlib
import time
from collections.abc import Callable

import numpy as np

from collectors.correlator import BLOCK_H, Correlator
from collectors.inventory import Cluster
from collectors.minutes import HOUR_MIN, MINUTE_NS
from collectors.sky import angles_deg, directions

DAY_MIN = 1440
FIRST = 20_000 * DAY_MIN
NOVEL_PER_HOST_HOUR = 1.5e-4
FLEETS = ((40, 10_000), (400, 10_000), (4000, 1000))  # clusters, hosts of each
DAYS = 18
STEPS = 20


def main(small: bool) -> str:
    """Prints one line per fleet size; `small` measures a single small fleet."""
    print("clusters  hosts      learn_s  two_days_s  step_ms  burst_step_ms  quiet_step_ms")
    found = [_measure(number, hosts) for number, hosts in (((12, 10_000),) if small else FLEETS)]
    return hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]


def _measure(number: int, hosts: int) -> str:
    """Prints the times of a fleet of `number` clusters; returns what was found."""
    correlator = _correlator(number, hosts)
    learnt = FIRST + 15 * DAY_MIN
    learn_s = _seconds(lambda: correlator.step(learnt * MINUTE_NS))
    block = (learnt // HOUR_MIN // BLOCK_H + 1) * BLOCK_H * HOUR_MIN + 7 * HOUR_MIN
    two_days_s = _seconds(lambda: correlator.step(block * MINUTE_NS))
    step_s = [_seconds(lambda m=minute: correlator.step(m * MINUTE_NS)) for minute in range(block + 1, block + STEPS)]
    begin = block + STEPS
    burst_s = [_seconds(lambda m=minute: _burst_step(correlator, m)) for minute in range(begin, begin + STEPS)]
    quiet_s = _seconds(lambda: correlator.step((begin + STEPS - 1) * MINUTE_NS + 1))
    step_ms, burst_ms = (1e3 * float(np.median(times)) for times in (step_s, burst_s))
    print(
        f"{number:8}  {number * hosts:9}  {learn_s:7.2f}  {two_days_s:10.2f}  {step_ms:7.2f}  {burst_ms:13.2f}  "
        f"{1e3 * quiet_s:13.3f}",
        flush=True,
    )
    status = correlator.status
    return f"{status.threshold_nats:.2f} {status.statistic_nats:.1f}"


def _correlator(number: int, hosts: int) -> Correlator:
    """Fed with Poisson faults; the clusters stand evenly over the Earth."""
    places = (angles_deg(direction) for direction in directions(number))
    correlator = Correlator([Cluster(f"c{index:04}", *place, hosts=hosts) for index, place in enumerate(places)])
    minutes = DAYS * DAY_MIN
    correlator.minutes.set_watching("dram", FIRST, np.full((minutes, number), hosts))
    random = np.random.default_rng(1)
    faults = random.poisson(hosts * NOVEL_PER_HOST_HOUR / 60 * number * minutes)
    at, columns = random.integers(0, minutes, faults), random.integers(0, number, faults)
    correlator.minutes.add_counts("dram", FIRST + at, columns, np.ones(faults, int))
    return correlator


def _burst_step(correlator: Correlator, minute: int) -> None:
    """A fault in every fourth cluster."""
    columns = np.arange(0, len(correlator.minutes.cluster_names), 4)
    correlator.minutes.add_counts("dram", np.full(len(columns), minute), columns, np.ones(len(columns), int))
    correlator.step(minute * MINUTE_NS)


def _seconds(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s
