"""A fleet whose correlator has learned what is ordinary, and copies of it that a trial may spoil.

Enters: a fleet, a seed, days of history. Leaves: the correlator, the world at the same minute, what the peers need.
A copy is a forked process: it costs milliseconds however much was learned, and whatever the trial does is forgotten.
"""

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from agent.report import MemoryFault
from collectors.baseline import HOUR_MIN, Baseline
from collectors.correlator import Correlator
from collectors.evaluation.fleets import NOVEL_PER_HOST_HOUR, racks, settle
from collectors.incidents import Fleet
from collectors.minutes import MINUTE_NS, WINDOWS_MIN, Minutes
from collectors.peers import Peers, window_sums
from collectors.world import DAY_MIN, RESTLESS, Block, World

FIRST_MINUTE = 20_088 * DAY_MIN  # 2025-01-01
SETTLED_MIN = 60  # after midnight, when the day's calibration is due
QUIET_FROM_DAY = 3  # before that the peers' expectation is too rough
STREAM = "dram"

T = TypeVar("T")


def feed(minutes: Minutes, minute: np.ndarray, column: np.ndarray, time_error_s: float = 5.0) -> None:
    """Counts one novel fault for each pair of minute and column."""
    names = minutes.cluster_names
    for when, where in zip(minute.tolist(), column.tolist(), strict=True):
        minutes.observe(
            MemoryFault(
                time_ns=when * MINUTE_NS,
                time_error_s=time_error_s,
                cluster=names[where],
                host="",
                device="",
                stream=STREAM,
                severity="corrected",
                count=1,
                novel=True,
            )
        )


def feed_counts(minutes: Minutes, block: Block, counts: np.ndarray) -> None:
    """Counts what a block of quiet minutes brought."""
    minutes.set_watching(STREAM, block.first_minute, block.watching)
    minute, column = np.nonzero(counts)
    number = counts[minute, column]
    feed(minutes, np.repeat(minute, number) + block.first_minute, np.repeat(column, number))


class Expectation:
    """What the peers expect: the same baseline as the correlator's, learned beside it."""

    def __init__(self, clusters: int, first_minute: int) -> None:
        self._baseline = Baseline(clusters)
        self._first_hour = first_minute // HOUR_MIN

    def learn(self, block: Block, counts: np.ndarray) -> None:
        """Whole hours; a prompt fault counts in every window."""
        for hour in range(len(counts) // HOUR_MIN):
            at = slice(hour * HOUR_MIN, (hour + 1) * HOUR_MIN)
            self._baseline.fold(np.repeat(counts[None, at], len(WINDOWS_MIN), axis=0), block.watching[at])

    def means(self, window: int, block: Block) -> np.ndarray:
        """Expected counts of the windows that end with each minute of the block that has a longest one behind it."""
        minutes = np.arange(block.first_minute, block.first_minute + len(block.watching))
        levels = [self._baseline.in_force(int(minute) // HOUR_MIN - self._first_hour) for minute in minutes[::HOUR_MIN]]
        rate = np.repeat([level.rate[window] for level in levels], HOUR_MIN, axis=0)[: len(minutes)]
        return window_sums(block.watching * rate, WINDOWS_MIN[window])


class Learned:
    """A fleet that has lived quietly for `days` days and an hour."""

    def __init__(self, fleet: Fleet, seed: int, days: int, with_peers: bool) -> None:
        self.fleet = fleet
        self.racks = racks(fleet.clusters)
        self.world = World(fleet.clusters, NOVEL_PER_HOST_HOUR, RESTLESS, FIRST_MINUTE, seed)
        self.correlator = Correlator(fleet.clusters)
        settle(self.correlator.population, self.racks)
        self.peers = Peers(fleet.clusters) if with_peers else None
        self.expectation = Expectation(len(fleet.clusters), FIRST_MINUTE)
        self.quiet: list[np.ndarray] = []  # the peers' hourly maxima [peers, hours]
        for day in range(days):
            self._live(DAY_MIN, judge_peers=day >= QUIET_FROM_DAY)
        self._live(SETTLED_MIN, judge_peers=False)
        self.correlator.step(self.world.minute * MINUTE_NS - 1)

    def live_on(self, minutes: int) -> None:
        """Some more whole hours without any incident."""
        self._live(minutes, judge_peers=False)
        self.correlator.step(self.world.minute * MINUTE_NS - 1)

    def peer_statistics(self, block: Block, counts: np.ndarray) -> np.ndarray:
        """The peers' statistics [peers, minutes], the largest over all windows, from the longest window's end on."""
        assert self.peers is not None
        of_windows = [
            self.peers.statistics(
                window_min, window_sums(counts, window_min), np.maximum(self.expectation.means(window, block), 1e-9)
            )
            for window, window_min in enumerate(WINDOWS_MIN)
        ]
        best: np.ndarray = np.max(of_windows, axis=0)
        return best

    def _live(self, minutes: int, judge_peers: bool) -> None:
        block = self.world.advance(minutes)
        counts = self.world.random.poisson(block.expected)
        feed_counts(self.correlator.minutes, block, counts)
        if self.peers is None:
            return
        self.expectation.learn(block, counts)  # first, since it is asked for hours up to the newest
        if judge_peers:
            self.quiet.append(_hourly(self.peer_statistics(block, counts)))


def in_a_copy(work: Callable[[], T]) -> T:
    """What `work` returns in a forked copy of this process, which must have no other thread."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        _work_and_exit(work, sender)
    os.close(sender)
    with os.fdopen(receiver, "rb") as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError("a trial failed; what went wrong stands above")
    result: T = pickle.loads(told)
    return result


def _work_and_exit(work: Callable[[], object], sender: int) -> None:
    """Never returns: the copy must not go on as if it were the original."""
    status = 1
    try:
        with os.fdopen(sender, "wb") as answer:
            pickle.dump(work(), answer)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _hourly(statistics: np.ndarray) -> np.ndarray:
    """Maxima [peers, hours] of statistics [peers, minutes]; what is left of an hour is dropped."""
    hours = statistics.shape[1] // HOUR_MIN
    return statistics[:, : hours * HOUR_MIN].reshape(len(statistics), hours, HOUR_MIN).max(axis=2)
