"""The table of sources: which witness is polled, under which name, and which streams it lets the host watch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.config import AgentSettings
from agent.observation import Moment, Poll
from agent.sources import canary, edac


@dataclass(frozen=True, slots=True)
class Source:
    """A witness; `streams` are those whose every error it sees, so that the host counts as watching them.

    `look` is what the doctor asks instead, where a poll would take something away from the agent, or cost much.
    """

    poll: Callable[[AgentSettings, dict[str, Any], Moment], Poll]
    streams: tuple[str, ...]
    look: Callable[[AgentSettings, Moment], Poll] | None = None


SOURCES = {
    "edac": Source(lambda settings, cursor, now: edac.poll(settings.sysfs, cursor, now), ("dram",)),
    "canary": Source(
        lambda settings, cursor, now: canary.poll(settings.canary_mib, settings.proc, cursor, now),
        ("canary",),
        lambda settings, now: canary.poll(min(settings.canary_mib, 1), settings.proc, {}, now),
    ),
}
