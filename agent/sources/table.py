"""The table of sources: which witness is polled, under which name, and which streams it lets the host watch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.config import AgentSettings
from agent.observation import Moment, Poll
from agent.sources import edac, nvml, rasdaemon


@dataclass(frozen=True, slots=True)
class Source:
    """A witness; `streams` are those whose every error it sees, so that the host counts as watching them.

    One that `may_hang` is polled in a thread of its own, and left alone while it hangs.
    """

    poll: Callable[[AgentSettings, dict[str, Any], Moment], Poll]
    streams: tuple[str, ...] = ()
    may_hang: bool = False


_NVML = nvml.Nvml()  # the library is opened once for the whole process

SOURCES = {
    "edac": Source(lambda settings, cursor, now: edac.poll(settings.sysfs, cursor, now), ("dram",)),
    "rasdaemon": Source(
        lambda settings, cursor, now: rasdaemon.poll(
            settings.rasdaemon_db, settings.sysfs, settings.tracefs, cursor, now
        )
    ),
    "nvml": Source(lambda settings, cursor, now: _NVML.poll(settings.proc, cursor, now), ("gpu",), may_hang=True),
}
