"""Minutes: how many novel faults and how many watching hosts each cluster had, minute by minute.

Enters: faults, one by one, and blocks of watching hosts. Leaves: dense arrays for a range of minutes. A minute is
`time_ns // 60e9`. A cluster with no watching host in a minute is masked there: it has no exposure and its counts are
ignored; nothing is ever filled with zeros. Faults are kept sparse, so that a senseless time costs no memory.
Pure: no clock, no input or output. Not safe for two threads at once.
"""

from collections.abc import Sequence

import numpy as np

from agent.report import Fault
from collectors.inventory import Cluster

WINDOWS_MIN = (3, 5, 10, 15, 30, 60)
SCANNED_STREAMS = ("dram", "sram", "gpu", "core", "host")  # a record's or canary's fault says nothing about its minute
TIME_ERROR_MAX_S = WINDOWS_MIN[-1] * 60
MINUTE_NS = 60_000_000_000
DAY_NS = 1440 * MINUTE_NS
FORGET_MIN = 1440


def minute_of(time_ns: int) -> int:
    return time_ns // MINUTE_NS


class Minutes:
    """Novel counts and watching hosts per (stream, minute, cluster).

    Each count is kept with the smallest window that is as long as its time error, since it may only be used in
    windows at least that long.
    """

    def __init__(self, clusters: Sequence[Cluster]) -> None:
        self.cluster_names = tuple(cluster.name for cluster in clusters)
        self._column = {name: column for column, name in enumerate(self.cluster_names)}
        self._faults: dict[str, dict[int, list[tuple[int, int]]]] = {}  # stream -> minute -> (window index, column)
        self._watching: dict[str, _Watching] = {}
        self._faults_from = 0
        self._changed_from: int | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """The scanned streams that some cluster has watched."""
        return tuple(stream for stream in SCANNED_STREAMS if stream in self._watching)

    @property
    def first_minute(self) -> int | None:
        """The first minute in which any cluster watched any stream."""
        firsts = [watching.first_watched for watching in self._watching.values()]
        return min((first for first in firsts if first is not None), default=None)

    def observe(self, fault: Fault) -> bool:
        """Counts one fault; true if the scan will use it (novel, dated well enough, a scanned stream and cluster)."""
        if not fault.novel or fault.stream not in SCANNED_STREAMS or fault.time_error_s > TIME_ERROR_MAX_S:
            return False
        column = self._column.get(fault.cluster or "")
        if column is None:
            return False
        window = next(i for i, window_min in enumerate(WINDOWS_MIN) if fault.time_error_s <= window_min * 60)
        minute = minute_of(fault.time_ns)
        self._faults.setdefault(fault.stream, {}).setdefault(minute, []).append((window, column))
        self._note_change(minute)
        return True

    def set_watching(self, stream: str, first_minute: int, hosts: np.ndarray) -> None:
        """Overwrites the watching hosts of `stream` from `first_minute` on; hosts[minutes, clusters]."""
        assert hosts.ndim == 2 and hosts.shape[1] == len(self.cluster_names), hosts.shape
        if stream not in SCANNED_STREAMS or not len(hosts):
            return
        if stream not in self._watching:
            if not hosts.any():
                return
            self._watching[stream] = _Watching(len(self.cluster_names))
        changed = self._watching[stream].overwrite(first_minute, hosts)
        if changed is not None:
            self._note_change(changed)

    def counts(self, stream: str, first_minute: int, end_minute: int) -> np.ndarray:
        """Novel counts [windows, minutes, clusters] of the range; entry w holds what window WINDOWS_MIN[w] may use."""
        counts = np.zeros((len(WINDOWS_MIN), end_minute - first_minute, len(self.cluster_names)), np.float32)
        faults = self._faults.get(stream, {})
        for minute in range(first_minute, end_minute):
            for window, column in faults.get(minute, ()):
                counts[window, minute - first_minute, column] += 1
        return counts.cumsum(axis=0, dtype=np.float32) * (self.watching(stream, first_minute, end_minute) > 0)

    def watching(self, stream: str, first_minute: int, end_minute: int) -> np.ndarray:
        """Watching hosts [minutes, clusters] of the range; 0 where nobody watched or nothing is known."""
        if stream not in self._watching:
            return np.zeros((end_minute - first_minute, len(self.cluster_names)), np.int64)
        return self._watching[stream].read(first_minute, end_minute)

    def take_changed(self) -> int | None:
        """The first minute that got other data since the last call; None if none did."""
        changed, self._changed_from = self._changed_from, None
        return changed

    def forget_before(self, minute: int) -> None:
        """Drops everything older. Cheap to call often: most calls only mask what a later one takes away."""
        for watching in self._watching.values():
            watching.forget_before(minute)
        if minute < self._faults_from + FORGET_MIN:
            return
        self._faults_from = minute
        for faults in self._faults.values():
            for old in [other for other in faults if other < minute]:
                del faults[old]

    def _note_change(self, minute: int) -> None:
        self._changed_from = minute if self._changed_from is None else min(minute, self._changed_from)


class _Watching:
    """One stream's dense array [minutes, clusters], growing at both ends."""

    def __init__(self, clusters: int) -> None:
        self.first_watched: int | None = None  # the first minute that ever had a host
        self._first = 0
        self._hosts = np.zeros((0, clusters), np.int64)

    def overwrite(self, first_minute: int, hosts: np.ndarray) -> int | None:
        """The first minute whose value became another, or None."""
        end_minute = first_minute + len(hosts)
        different = (self.read(first_minute, end_minute) != hosts).any(axis=1)
        if not different.any():
            return None
        self._reserve(first_minute, end_minute)
        self._hosts[first_minute - self._first : end_minute - self._first] = hosts
        watched = hosts.any(axis=1)
        if watched.any():
            first = first_minute + int(np.flatnonzero(watched)[0])
            self.first_watched = first if self.first_watched is None else min(first, self.first_watched)
        return first_minute + int(np.flatnonzero(different)[0])

    def read(self, first_minute: int, end_minute: int) -> np.ndarray:
        out = np.zeros((end_minute - first_minute, self._hosts.shape[1]), np.int64)
        low, high = max(first_minute, self._first), min(end_minute, self._first + len(self._hosts))
        if low < high:
            out[low - first_minute : high - first_minute] = self._hosts[low - self._first : high - self._first]
        return out

    def forget_before(self, minute: int) -> None:
        drop = min(max(minute - self._first, 0), len(self._hosts))
        self._hosts[:drop] = 0
        if drop >= FORGET_MIN:
            self._hosts, self._first = self._hosts[drop:].copy(), self._first + drop
        if self.first_watched is not None:
            self.first_watched = max(self.first_watched, minute)

    def _reserve(self, first_minute: int, end_minute: int) -> None:
        if not len(self._hosts):
            self._first = first_minute
        first = min(first_minute, self._first)
        end = max(end_minute, self._first + len(self._hosts))
        if end - first > len(self._hosts):
            spare = (end - first) // 2  # grows by half, so that a minute more each minute isn't quadratic
            grown = np.zeros((end - first + spare, self._hosts.shape[1]), np.int64)
            grown[self._first - first : self._first - first + len(self._hosts)] = self._hosts
            self._hosts, self._first = grown, first
