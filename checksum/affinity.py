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
    """The cores on which the process may run at present, ascending: those of its first thread."""
    return sorted(psutil.Process().cpu_affinity())


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Within the block the calling thread runs on that core only.

    Raises:
        CoreGone: it may not; nothing was done.
    """
    thread = psutil.Process(threading.get_native_id())
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
        except (OSError, ValueError, psutil.Error):  # none of them is left; the kernel takes those that are
            thread.cpu_affinity(list(range(psutil.cpu_count())))
