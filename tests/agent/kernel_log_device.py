"""A stand-in for /dev/kmsg: a FIFO whose packets, like the kernel's records, are read one at a time."""

import fcntl
import os
import select
from pathlib import Path

RECORDS_MAX = 256  # a packet takes a page


class KernelLogDevice:
    """Unlike the kernel it gives each record once: a test that lets a reader start anew says `replay`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[bytes] = []
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)
        fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, RECORDS_MAX * 4096)

    def say(self, *lines: str, time_s: float = 1.0) -> None:
        for line in lines:
            record = f"6,{len(self.records)},{int(time_s * 1e6)},-;{line}\n".encode()
            self.records.append(record)
            os.write(self._fd, record)

    def replay(self, first: int = 0) -> None:
        """Offers the records again, as to a reader that opens the device; those before `first` are overwritten."""
        while select.select([self._fd], [], [], 0)[0]:
            os.read(self._fd, 8192)
        for record in self.records[first:]:
            os.write(self._fd, record)

    def close(self) -> None:
        os.close(self._fd)
