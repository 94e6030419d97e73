"""Which file system holds a file, by the mount table.

Enters: the path of a mount table, and the number of a device as stat(2) gives it. Leaves: a Mount. Format: mountinfo
in Documentation/filesystems/proc.rst of the Linux kernel; spaces in a path are escaped, so that " - " stands once:

    36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    kind: str  # of file system
    source: str  # the device, or whatever else is mounted


def mount_of(table: Path, device: int) -> Mount | None:
    """The first mount of the device; None where the table doesn't name it, or can't be read."""
    try:
        lines = table.read_text(errors="replace").split("\n")
    except OSError:
        return None
    for line in lines:
        place, _, what = line.partition(" - ")
        words = what.split(" ")
        if place.split(" ")[2:3] == [numbers(device)] and len(words) > 1:
            return Mount(words[0], words[1])
    return None


def numbers(device: int) -> str:
    """As the table writes them: 98:0."""
    return f"{os.major(device)}:{os.minor(device)}"
