"""From the agent to the scrubber: this machine's memory or a core has erred, so what was written of late is suspect.

Enters: faults, and the agent's state directory. Leaves: a file with the time of the latest such fault, whole or absent,
which the scrubber reads; files that were written since their last check are then verified before all others. Corrected
errors change no data, a GPU's memory holds no files, and a host's death says nothing of what was written before.
"""

from collections.abc import Iterable
from pathlib import Path

from agent.report import Fault, MemoryFault
from checksum import durable

NAME = "suspicion"
FILE_BYTES_MAX = 32
NOT_OF_FILES = ("gpu", "host")
ALWAYS = ("core", "canary")


def latest_ns(faults: Iterable[Fault]) -> int | None:
    """When the latest fault was reported that may have spoilt data on its way to a file; None if there is none."""
    times = [
        fault.time_ns
        for fault in faults
        if isinstance(fault, MemoryFault)
        and fault.stream not in NOT_OF_FILES
        and (fault.severity != "corrected" or fault.stream in ALWAYS)
    ]
    return max(times, default=None)


def write(state_dir: Path, time_ns: int) -> None:
    """Raises OSError if it can't be written."""
    with durable.replace_file(state_dir / NAME, mode=0o644) as file:
        file.write(str(time_ns).encode())


def read(state_dir: Path) -> int:
    """The time of the latest; 0 if there was none, or it can't be read."""
    try:
        with (state_dir / NAME).open("rb") as file:
            text = file.read(FILE_BYTES_MAX)
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
