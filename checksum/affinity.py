"""On which core the calling thread runs.

Enters: the number of a core. Leaves: a thread that runs there for a while, and where it likes afterwards. Other threads
of the process are left alone: the kernel keeps the affinity of each, and psutil reaches one by its own id.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


class CoreGone(Exception):
    """The core was switched off, or taken from this process."""


def allowed_cores() -> list[int]:
    """The cores on which the calling thread may run, ascending."""
    return sorted(_thread().cpu_affinity())


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Within the block the calling thread runs on that core only.

    Raises:
        CoreGone: it may not; nothing was done.
    """
    thread = _thread()
    before = thread.cpu_affinity()
    try:
        thread.cpu_affinity([core])
    except (OSError, ValueError, psutil.Error) as error:
        raise CoreGone(f"core {core} can't be used") from error
    try:
        yield
    finally:
        try:
            thread.cpu_affinity(before)
        except (OSError, ValueError, psutil.Error):  # none of them is left; an empty list stands for all that are
            thread.cpu_affinity([])


def _thread() -> psutil.Process:
    return psutil.Process(threading.get_native_id())
