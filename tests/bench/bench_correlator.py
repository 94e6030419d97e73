"""How long the correlator takes: one step in a burst, a quiet step, and the first calibration over 14 days.

Enters: nothing. Leaves: a table on stdout and a hash of thresholds and statistics, so that a faster correlator that
finds something else is noticed.
"""

import hashlib
import time
from collections.abc import Callable

import numpy as np

from agent.report import MemoryFault
from collectors.correlator import Correlator
from collectors.inventory import Cluster
from collectors.minutes import MINUTE_NS
from collectors.sky import angles_deg, directions

DAY_MIN = 1440
FIRST = 20_000 * DAY_MIN
HOSTS = 10_000  # of each cluster; of 4000 clusters 1000, which makes four million
NOVEL_PER_HOST_HOUR = 1.5e-4
STEPS = 20


def main(small: bool) -> str:
    """Prints one line per fleet size; `small` measures a single small fleet."""
    print("clusters  hosts      calibration_s  burst_step_ms  quiet_step_ms")
    found = [_measure(number) for number in ((12,) if small else (40, 400, 4000))]
    return hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]


def _measure(number: int) -> str:
    """Prints the times of a fleet of `number` clusters; returns what was found."""
    correlator = _correlator(number, _places(number))
    end = FIRST + 14 * DAY_MIN + 60
    calibration_s = _seconds(lambda: correlator.step((end - STEPS) * MINUTE_NS))
    burst_s = [_seconds(lambda m=minute: _burst_step(correlator, m)) for minute in range(end - STEPS + 1, end)]
    quiet_s = _seconds(lambda: correlator.step((end - 1) * MINUTE_NS + 1))
    burst_ms, quiet_ms = 1e3 * float(np.median(burst_s)), 1e3 * quiet_s
    print(f"{number:8}  {number * HOSTS:9}  {calibration_s:13.2f}  {burst_ms:13.2f}  {quiet_ms:13.3f}")
    status = correlator.status
    return f"{status.threshold_nats:.2f} {status.statistic_nats:.1f}"


def _places(number: int) -> list[Cluster]:
    """Clusters spread evenly over the Earth."""
    return [
        Cluster(f"c{index:04}", *angles_deg(direction), hosts=HOSTS)
        for index, direction in enumerate(directions(number))
    ]


def _correlator(number: int, clusters: list[Cluster]) -> Correlator:
    correlator = Correlator(clusters)
    minutes = 14 * DAY_MIN + 60
    correlator.minutes.set_watching("dram", FIRST, np.full((minutes, number), HOSTS))
    counts = np.random.default_rng(1).poisson(HOSTS * NOVEL_PER_HOST_HOUR / 60, (minutes, number))
    for minute, column in np.argwhere(counts):
        for _ in range(counts[minute, column]):
            correlator.minutes.observe(_fault(FIRST + int(minute), clusters[column].name))
    return correlator


def _burst_step(correlator: Correlator, minute: int) -> None:
    for name in correlator.minutes.cluster_names[::4]:
        correlator.minutes.observe(_fault(minute, name))
    correlator.step(minute * MINUTE_NS)


def _fault(minute: int, cluster: str) -> MemoryFault:
    return MemoryFault(
        time_ns=minute * MINUTE_NS,
        time_error_s=5,
        cluster=cluster,
        host="h",
        device="mc0",
        stream="dram",
        severity="corrected",
        count=1,
        novel=True,
    )


def _seconds(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s
