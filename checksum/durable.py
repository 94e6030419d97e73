"""Files that are whole or absent, whatever dies: written beside their place, synced, then renamed into it.

Enters: a path and bytes. Leaves: the file, and its name in the directory, on disk when the call returns.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


class DurableFile:
    """A file being written; every byte handed to `write` has reached the kernel when it returns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:  # the kernel may take less than it was given
            view = view[os.write(self._fd, view) :]


def tee(chunks: Iterable[bytes], write: Callable[[bytes], None]) -> Iterator[bytes]:
    """The chunks again, each written as it passes."""
    for chunk in chunks:
        write(chunk)
        yield chunk


def fsync_directory(path: Path) -> None:
    """Makes the names in the directory `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def replace_file(path: Path, *, mode: int = 0o666) -> Iterator[DurableFile]:
    """The new content of `path`, which appears whole when the block ends without an exception, else not at all.

    Args:
        mode: permissions of the new file, before the umask.

    Raises:
        OSError: it can't be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            yield DurableFile(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)
