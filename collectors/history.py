"""A history file: NDJSON lines of faults, alive lines and changes, in any order.

Enters: the path of the file and the inventory's cluster names. Leaves: a History sorted by time, with every line that
couldn't be used counted and named. Damage never stops the reading.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agent.report import Alive, Change, Fault


@dataclass(slots=True)
class History:
    """Faults, alive lines and changes, each sorted by time; `troubles` holds the first sentences about bad lines."""

    faults: list[Fault] = field(default_factory=list)
    alive: list[Alive] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    bad_lines: int = 0
    troubles: list[str] = field(default_factory=list)
    last_time_ns: int | None = None


def read(path: Path, cluster_names: tuple[str, ...]) -> History:
    """The history at `path`.

    Raises:
        OSError: it can't be read.
    """
    raise NotImplementedError


def watching(history: History, stream: str, cluster_names: tuple[str, ...]) -> tuple[int, np.ndarray]:
    """First minute and watching hosts [minutes, clusters] of one stream, as the alive lines say, to the file's end."""
    raise NotImplementedError
