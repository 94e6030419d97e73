"""The record formats that are known, and which of them a file holds.

Enters: a function that reads a file at an offset. Leaves: the name of a format, by content, never by file name.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from checksum import leveldb_log, tfrecord
from checksum.finding import Finding, Record, Unreadable

ReadAt = Callable[[int, int], bytes]  # (offset, length) -> the bytes there, fewer at the end of the file


class Format(Protocol):
    """What the module of a format offers."""

    def encode(self, payload: bytes, offset: int) -> bytes: ...

    def recognises(self, read_at: ReadAt, size: int) -> bool:
        """Whether a file of `size` bytes is of this format, even where its start is damaged."""

    def resume_offset(self, begin: int, is_unchanged: bool) -> int:
        """From where to scan in order to judge a file from `begin` on, where an item of an earlier scan began or ended.

        `is_unchanged` tells that the file hasn't been written since.
        """

    def read_end(self, end: int) -> int:
        """How far to read in order to judge the items up to `end`, where one of them ended."""

    def scan(
        self,
        chunks: Iterable[bytes | Unreadable],
        *,
        offset: int = 0,
        resumed: bool = False,
        with_data: bool = True,
        record_bytes_max: int = 0,
    ) -> Iterator[Record | Finding]: ...


# In the order in which they are tried.
FORMATS: dict[str, Format] = {"leveldb-log": leveldb_log, "tfrecord": tfrecord}


def recognise(read_at: ReadAt, size: int) -> str | None:
    """The name of the format of a file of `size` bytes, or None."""
    return next((name for name, format in FORMATS.items() if format.recognises(read_at, size)), None)
