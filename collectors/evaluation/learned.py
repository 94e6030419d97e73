"""A fleet whose correlator has learned what is ordinary, and copies of it that a trial may spoil.

Enters: a fleet, a seed, days of history. Leaves: the correlator, the world at the same minute, what the peers need.
A copy is a forked process: it costs milliseconds however much was learned, and whatever the trial does is forgotten.
"""

import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from collectors.baseline import Baseline
from collectors.causes import Causes
from collectors.correlator import Correlator
from collectors.evaluation.fleets import novel_per_host_hour, racks, settle
from collectors.incidents import Fleet
from collectors.minutes import DAY_MIN, HOUR_MIN, MINUTE_NS, WINDOWS_MIN, Events, Minutes
from collectors.peers import Peers, window_sums
from collectors.world import RESTLESS, Block, World

FIRST_MINUTE = 20_089 * DAY_MIN  # 2025-01-01
SETTLED_MIN = 60  # after midnight, when the day's calibration is due
QUIET_FROM_DAY, QUIET_EVERY_DAYS = 3, 3  # earlier the peers' expectation is too rough; Kulldorff's scan is slow
STREAM = "dram"

T = TypeVar("T")


def feed(minutes: Minutes, block: Block, counts: np.ndarray) -> None:
    """Tells what a block of minutes brought; every fault was reported promptly."""
    minutes.set_watching(STREAM, block.first_minute, block.watching)
    minute, column = np.nonzero(counts)
    minutes.add_counts(STREAM, minute + block.first_minute, column, counts[minute, column])


class Expectation:
    """What the peers expect: the same baseline as the correlator's, learned beside it."""

    def __init__(self, clusters: int, first_minute: int) -> None:
        self._baseline = Baseline(clusters, first_minute // HOUR_MIN)

    def learn(self, block: Block, counts: np.ndarray) -> None:
        """Whole hours; a prompt fault counts in every window."""
        for begin in range(0, len(counts), HOUR_MIN):
            minute, column = np.nonzero(counts[begin : begin + HOUR_MIN])
            number = counts[begin + minute, column]
            minute, column = np.repeat(minute, number), np.repeat(column, number)
            events = Events(block.first_minute + begin + minute, np.zeros_like(minute), column)
            self._baseline.fold(events, block.watching[begin : begin + HOUR_MIN])

    def means(self, window: int, block: Block) -> np.ndarray:
        """Expected counts of the windows that end with each minute of the block that has a longest one behind it."""
        minutes = np.arange(block.first_minute, block.first_minute + len(block.watching))
        hours = np.unique(minutes // HOUR_MIN, return_inverse=True)
        rates = np.stack([self._baseline.in_force(int(hour)).rate[window] for hour in hours[0]])
        return window_sums(block.watching * rates[hours[1]], WINDOWS_MIN[window])


class Learned:
    """A fleet that has lived quietly for `days` days and an hour."""

    def __init__(self, fleet: Fleet, seed: int, days: int, with_peers: bool) -> None:
        self.fleet = fleet
        self.racks = racks(fleet.clusters)
        rate = novel_per_host_hour(int(fleet.hosts.sum()))
        self.world = World(fleet.clusters, rate, RESTLESS, FIRST_MINUTE, seed)
        self.correlator = Correlator(fleet.clusters)
        self.causes = Causes(fleet.clusters)
        settle(self.correlator.population, self.racks)
        self.peers = Peers(fleet.clusters) if with_peers else None
        self.expectation = Expectation(len(fleet.clusters), FIRST_MINUTE)
        self.quiet: list[np.ndarray] = []  # the peers' hourly maxima [peers, hours]
        for day in range(days):
            self._live(DAY_MIN, judge_peers=day >= QUIET_FROM_DAY and day % QUIET_EVERY_DAYS == 0)
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
        feed(self.correlator.minutes, block, counts)
        if self.peers is None:
            return
        self.expectation.learn(block, counts)  # first, since it is asked for hours up to the newest
        if judge_peers:
            self.quiet.append(_hourly(self.peer_statistics(block, counts)))


def in_a_copy(work: Callable[[], T]) -> T:
    """What `work` returns in a forked copy of this process, which must have no other thread."""
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of other threads; numpy's, which only wait for work, are the only ones
        warnings.simplefilter("ignore", DeprecationWarning)
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
