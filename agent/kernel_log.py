"""The kernel log, record by record, as /dev/kmsg gives it.

Enters: the path of the device and the number of the first record that is wanted. Leaves: Records in the order of their
numbers. Format: Documentation/ABI/testing/dev-kmsg of the Linux kernel. One read gives one record,

    priority,seq,usec,flags[,...];text
     KEY=value           (any number of such lines)

with every byte that isn't printable written as \\xNN. `usec` is microseconds since the boot, suspended time left out.

Who may open it is decided by CAP_SYSLOG (Documentation/admin-guide/sysctl/kernel.rst, dmesg_restrict), who may read it
by nobody. So a service that shall do without opens nothing: it is handed the open device as its standard input.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEVICE, DEVICE_NUMBER = Path("/dev/kmsg"), os.makedev(1, 11)
RECORD_BYTES_MAX = 8192
RECORD = re.compile(rb"\d+,(\d{1,19}),(\d{1,19}),[^;\n]*;([^\n]*)")
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Record:
    seq: int
    time_us: int
    text: str


class KernelLog:
    """The device, held open so that each call reads only what is new.

    The descriptor saves time and nothing else: one that was opened anew finds its place by the numbers.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._path: Path | None = None
        self._next_seq = 0

    def records(self, path: Path, seq: int) -> Iterator[Record]:
        """The records from `seq` on that are there now; where some were overwritten the numbers jump.

        Raises:
            OSError: the device can't be opened or read.
        """
        if self._fd < 0 or (path, seq) != (self._path, self._next_seq):
            self.close()
            self._fd = _opened(path)
            self._path, self._next_seq = path, 0
        while data := self._read():
            record = parse(data)
            if record is not None:
                self._next_seq = record.seq + 1
                if record.seq >= seq:
                    yield record

    def _read(self) -> bytes:
        """One record; empty if there is none now."""
        while True:
            try:
                return os.read(self._fd, RECORD_BYTES_MAX)
            except BlockingIOError:
                return b""
            except OSError as error:
                # EPIPE: records were overwritten, the next read gives the oldest there is. EINVAL: this one is longer
                # than any the kernel makes today, and is passed over.
                if error.errno not in (errno.EPIPE, errno.EINVAL):
                    self.close()
                    raise

    def close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def _opened(path: Path) -> int:
    """A descriptor that stands at the oldest record."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if path != DEVICE or not _is_standard_input():
            raise
    fd = os.dup(0)  # all duplicates share one position, so that one KernelLog serves the whole process
    os.set_blocking(fd, False)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _is_standard_input() -> bool:
    try:
        status = os.fstat(0)
    except OSError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == DEVICE_NUMBER


def parse(data: bytes) -> Record | None:
    """The record in `data`; None if it is none."""
    found = RECORD.match(data)
    if found is None:
        return None
    text = ESCAPE.sub(lambda escape: bytes([int(escape[1], 16)]), found[3])
    return Record(int(found[1]), int(found[2]), text.decode("utf-8", "replace"))
