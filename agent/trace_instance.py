"""The agent's own instance of the kernel's trace buffers: made, set up and handed to the agent's group.

Enters: where tracefs is mounted. Leaves: `instances/flipwatch`, ready to be read. Making it takes root, reading it the
group, so that a pre-start step of the service can do the one and the daemon needs to be no more than the other. Other
instances and the kernel's global buffer are left alone. Format: Documentation/trace/ftrace.rst of the Linux kernel.

An instance that is there already, of an agent that was killed, is kept with all it holds: writing trace_clock or a
buffer's size would drop that, so they are written only if they differ.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from agent.kernel_files import first_line

NAME = "flipwatch"
CLOCK = "boot"  # CLOCK_BOOTTIME: the clock that durations are measured with, never set
EVENTS = (
    "ras/mc_event",
    "ras/memory_failure_event",
    "memory_failure/memory_failure_event",  # where some kernels have it
    "ras/extlog_mem_event",
    "ras/arm_event",
    "ras/non_standard_event",
    "mce/mce_record",
    "cxl/cxl_dram",
    "cxl/cxl_general_media",
)
ROUNDING_KIB = 16  # the kernel's buffer consists of whole pages
LAYOUTS = ("header_page", "header_event")
SETTINGS = ("trace_clock", "buffer_percent")


def path(tracefs: Path) -> Path:
    return tracefs / "instances" / NAME


def prepare(tracefs: Path, group: int, buffer_kib: int) -> None:
    """Makes the instance and sets it up; `group` may read it. Doing it again changes nothing.

    Raises:
        OSError: tracefs isn't mounted there, or the caller may not.
    """
    instance = path(tracefs)
    if not instance.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "tracefs isn't mounted here", str(tracefs))
    instance.mkdir(exist_ok=True)
    if f"[{CLOCK}]" not in (instance / "trace_clock").read_text():
        (instance / "trace_clock").write_text(CLOCK)
    if abs(_number(instance / "buffer_size_kb") - buffer_kib) > ROUNDING_KIB:
        (instance / "buffer_size_kb").write_text(str(buffer_kib))
    with contextlib.suppress(FileNotFoundError):  # older kernels wake a reader at once anyway
        (instance / "buffer_percent").write_text("0")  # else a reader sleeps until half of the buffer is full
    for event in present_events(instance):
        (instance / "events" / event / "enable").write_text("1")
    for entry in _readable(tracefs, instance):
        _grant(entry, group)


def present_events(instance: Path) -> tuple[str, ...]:
    """Those of EVENTS that this kernel has."""
    return tuple(event for event in EVENTS if (instance / "events" / event).is_dir())


def is_traced(tracefs: Path, event: str) -> bool:
    """Whether the agent's instance gets this event, one of EVENTS."""
    return first_line(path(tracefs) / "events" / event / "enable").startswith("1")


def open_wakers(tracefs: Path) -> list[int]:
    """Descriptors that become readable when an event comes; the caller closes them. None where it isn't prepared.

    Raises:
        OSError: they can't be opened.
    """
    found: list[int] = []
    try:
        for cpu in cpus(path(tracefs)):
            found.append(os.open(cpu / "trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        for fd in found:
            os.close(fd)
        raise
    return found


def cpus(instance: Path) -> list[Path]:
    """The directory of each processor's buffer."""
    return sorted((instance / "per_cpu").glob("cpu[0-9]*"))


def _number(file: Path) -> int:
    """What a file of the kernel begins with: "7 (expanded: 1408)" is 7; "X", where the processors differ, is 0."""
    number = re.match(r"\d{1,18}", file.read_text())
    return int(number[0]) if number else 0


def _readable(tracefs: Path, instance: Path) -> Iterator[Path]:
    """What the daemon reads and the directories on the way to it."""
    yield from (tracefs, tracefs / "instances", instance, instance / "per_cpu", instance / "events")
    for cpu in cpus(instance):
        yield from (cpu, cpu / "trace_pipe_raw", cpu / "stats")
    for event in present_events(instance):
        directory = instance / "events" / event
        yield from (directory.parent, directory, directory / "format", directory / "enable")
    yield from (instance / "events" / name for name in LAYOUTS)
    yield from (instance / name for name in SETTINGS if (instance / name).exists())


def _grant(entry: Path, group: int) -> None:
    """The group may read a file or list a directory; directories above the instance may be passed through by all."""
    is_directory = entry.is_dir()
    if NAME not in entry.parts:
        entry.chmod(entry.stat().st_mode & 0o7777 | 0o001)
        return
    os.chown(entry, -1, group)
    entry.chmod(entry.stat().st_mode & 0o7777 | (0o050 if is_directory else 0o040))
