"""An EDAC source with the memory the agent would keep for it: polls, cursor and a clock that tests turn by hand."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.observation import Moment, Poll
from agent.sources import edac

DAY_S = 86400
NOW = Moment(time_ns=1_795_000_000 * 10**9, boottime_ns=40 * DAY_S * 10**9, boot_id="boot-1")


@dataclass
class Watcher:
    sysfs: Path
    now: Moment = NOW
    cursor: dict[str, Any] = field(default_factory=dict)
    glances: edac.Glances = field(default_factory=dict)
    counted: Counter = field(default_factory=Counter)  # (device, severity) -> errors

    def pass_time(self, seconds: float) -> None:
        ns = int(seconds * 1e9)
        self.now = replace(self.now, time_ns=self.now.time_ns + ns, boottime_ns=self.now.boottime_ns + ns)

    def poll(self, after_s: float = 5) -> Poll:
        self.pass_time(after_s)
        poll = edac.poll(self.sysfs, self.cursor, self.now, self.glances)
        self.cursor = poll.cursor
        for item in poll.observations:
            self.counted[item.device, item.severity] += item.count
        return poll

    def settle(self) -> Poll:
        """Two more polls: what no place shows is booked by then."""
        self.poll()
        return self.poll()

    def total(self, severity: str = "corrected", controller: str = "") -> int:
        return sum(n for (device, s), n in self.counted.items() if s == severity and device.startswith(controller))
