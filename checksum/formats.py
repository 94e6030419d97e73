"""The record formats that are known, and which of them a file holds.

Enters: a function that reads a file at an offset. Leaves: a format, told by the content, never by the file's name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Protocol

from checksum import gzip_members, leveldb_log, tfrecord, warc
from checksum.crc32c import Buffer
from checksum.finding import Finding, Intact, Record, Unreadable

ReadAt = Callable[[int, int], bytes]  # (offset, length) -> the bytes there, fewer at the end of the file


class Format(Protocol):
    """How the records of a file are read, by the format of the file or by its seal."""

    @property
    def NAME(self) -> str: ...

    @property
    def encode(self) -> Callable[[bytes, int], bytes] | None:
        """(payload, offset) -> the bytes that append a record; None where intact records are copied as they stand."""

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

    def verify(
        self, chunks: Iterable[Buffer | Unreadable], *, offset: int = 0, resumed: bool = False, begin: int = 0
    ) -> Iterator[Intact | Finding]:
        """What `scan` says, with intact records counted instead of returned, in the fastest way there is.

        Records and findings that end at or before `begin` are passed over.
        """


class ToldByContent(Format, Protocol):
    """What the module of a format offers."""

    def recognises(self, read_at: ReadAt, size: int) -> bool:
        """Whether a file of `size` bytes is of this format, even where its start is damaged."""


_FORMATS: tuple[ToldByContent, ...] = (
    leveldb_log,
    tfrecord,
    warc,
    gzip_members,
)  # in the order in which they are tried
FORMATS: dict[str, ToldByContent] = {format.NAME: format for format in _FORMATS}


def recognise(read_at: ReadAt, size: int, formats: Mapping[str, ToldByContent] = FORMATS) -> ToldByContent | None:
    """The format of a file of `size` bytes, the first that fits, or None."""
    read_at = lru_cache(maxsize=4)(read_at)  # several look at the same start of the file
    return next((format for format in formats.values() if format.recognises(read_at, size)), None)
