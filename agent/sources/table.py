"""The table of sources: which witness is polled, under which name, and which stream it lets the host watch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.observation import Moment, Poll
from agent.sources import edac


@dataclass(frozen=True, slots=True)
class Source:
    poll: Callable[[Path, dict[str, Any], Moment], Poll]
    stream: str


SOURCES = {"edac": Source(edac.poll, "dram")}
