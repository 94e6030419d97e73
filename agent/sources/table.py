"""The table of sources: which witness is polled, under which name, and which streams it lets the host watch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent import trace_instance
from agent.config import AgentSettings
from agent.observation import Moment, Poll
from agent.sources import edac, tracefs


def _no_wakers(_settings: AgentSettings) -> list[int]:
    return []


@dataclass(frozen=True, slots=True)
class Source:
    """A witness; `streams` are those whose every error it sees, so that the host counts as watching them.

    `wakers` opens descriptors that become readable when there is something to poll for.
    """

    poll: Callable[[AgentSettings, dict[str, Any], Moment], Poll]
    streams: tuple[str, ...]
    wakers: Callable[[AgentSettings], list[int]] = _no_wakers


# Counters come before events: the kernel reports an error before it counts it, so that of what a counter shows the
# event is there to be read.
SOURCES = {
    "edac": Source(lambda settings, cursor, now: edac.poll(settings.sysfs, cursor, now), ("dram",)),
    "tracefs": Source(
        lambda settings, cursor, now: tracefs.poll(settings.tracefs, settings.sysfs, cursor, now),
        (),
        lambda settings: trace_instance.open_wakers(settings.tracefs),
    ),
}
