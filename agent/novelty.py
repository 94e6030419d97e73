"""Novelty: is this a device's first fault after seven quiet days, and can that be known at all?

Enters: a device's History for one class of errors (corrected, or not corrected), and what happened. Leaves: the new
History. Pure: times are arguments. The agent decides novelty, because it has the history; the centre would have to keep
the state of millions of DIMMs.

A history begins when every error from then on is known: at the start of the counter's epoch if the counter was zero
when first seen, else at that first sight. Unwatched gaps are borne while they stay below a day in seven; a larger one
begins the history anew.
"""

from dataclasses import dataclass, replace
from typing import Any

DAY_NS = 86400 * 10**9
QUIET_NS = 7 * DAY_NS
GAPS_MAX_NS = DAY_NS


@dataclass(frozen=True, slots=True)
class History:
    since_ns: int
    last_fault_ns: int | None = None
    gaps: tuple[tuple[int, int], ...] = ()  # (begin_ns, end_ns), oldest first

    def with_gap(self, begin_ns: int, end_ns: int) -> "History":
        kept = tuple(gap for gap in self.gaps if gap[1] > end_ns - QUIET_NS)
        gaps = (*kept, (max(begin_ns, self.since_ns), end_ns))
        if sum(end - max(begin, end_ns - QUIET_NS) for begin, end in gaps) >= GAPS_MAX_NS:
            return History(since_ns=end_ns)
        return replace(self, gaps=gaps)

    def with_fault(self, time_ns: int) -> "History":
        return replace(self, last_fault_ns=max(time_ns, self.last_fault_ns or 0))

    def shifted(self, step_ns: int) -> "History":
        """The same history on a clock that was set `step_ns` forward."""
        return History(
            self.since_ns + step_ns,
            None if self.last_fault_ns is None else self.last_fault_ns + step_ns,
            tuple((begin + step_ns, end + step_ns) for begin, end in self.gaps),
        )

    @property
    def decidable_ns(self) -> int:
        """From this time on it can be said whether a fault is novel."""
        return self.since_ns + QUIET_NS

    def is_novel(self, time_ns: int) -> bool:
        """Would a fault at `time_ns` be the first after seven proven quiet days?"""
        if time_ns < self.decidable_ns:
            return False
        return self.last_fault_ns is None or time_ns - self.last_fault_ns >= QUIET_NS

    def as_json(self) -> list[Any]:
        return [self.since_ns, self.last_fault_ns, [list(gap) for gap in self.gaps]]

    @classmethod
    def from_json(cls, value: list[Any]) -> "History":
        since_ns, last_fault_ns, gaps = value
        return cls(since_ns, last_fault_ns, tuple((begin, end) for begin, end in gaps))
