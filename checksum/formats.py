"""The record formats that are known, and which of them a file holds.

Enters: a function that reads a file at an offset. Leaves: the name of a format, by content, never by file name.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from checksum import leveldb_log, tfrecord
from checksum.crc32c import Buffer
from checksum.finding import Finding, Intact, Record, Tally, Unreadable

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
        chunks: Iterable[Buffer | Unreadable],
        *,
        offset: int = 0,
        resumed: bool = False,
        with_data: bool = True,
        record_bytes_max: int = 0,
    ) -> Iterator[Record | Finding]: ...


# In the order in which they are tried.
FORMATS: dict[str, Format] = {"leveldb-log": leveldb_log, "tfrecord": tfrecord}
# Those that can count their intact records without making them.
_IN_C = {"leveldb-log": leveldb_log.verify, "tfrecord": tfrecord.verify}
TOLD_BYTES = 2**20


def verify(
    name: str, chunks: Iterable[Buffer | Unreadable], *, offset: int = 0, resumed: bool = False, begin: int = 0
) -> Iterator[Intact | Finding]:
    """What the scan of a format says, with intact records counted instead of returned, in the fastest way there is.

    Args:
        chunks, offset, resumed: as for the format's `scan`.
        begin: records and findings that end at or before this offset in the file are passed over.
    """
    if name in _IN_C:
        yield from _IN_C[name](chunks, offset=offset, resumed=resumed, begin=begin)
        return
    tally, told_end = Tally(max(offset, begin)), offset
    for item in FORMATS[name].scan(chunks, offset=offset, resumed=resumed, with_data=False):
        yield from tally.add(item)
        if item.end >= told_end + TOLD_BYTES:
            told_end = item.end
            yield from tally.told()
    yield from tally.told()


def recognise(read_at: ReadAt, size: int) -> str | None:
    """The name of the format of a file of `size` bytes, or None."""
    return next((name for name, format in FORMATS.items() if format.recognises(read_at, size)), None)
