"""The record formats that are known, and which of them a file holds.

Enters: a function that reads a file at an offset. Leaves: the name of a format, by content, never by file name.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from checksum import leveldb_log
from checksum.crc32c import Buffer
from checksum.finding import Finding, Intact, Record, Tally, Unreadable

SAMPLES_FIRST, SAMPLES_SPREAD = 4, 12  # blocks from the start, and spread over the rest


class Format(Protocol):
    """What the module of a format offers."""

    BLOCK_BYTES: int

    def encode(self, payload: bytes, offset: int) -> bytes: ...

    def recognises(self, block: bytes) -> bool: ...

    def scan(
        self,
        chunks: Iterable[Buffer | Unreadable],
        *,
        offset: int = 0,
        resumed: bool = False,
        with_data: bool = True,
        record_bytes_max: int = 0,
    ) -> Iterator[Record | Finding]: ...


FORMATS: dict[str, Format] = {"leveldb-log": leveldb_log}
_IN_C = {"leveldb-log": leveldb_log.verify}  # the formats that can count their intact records without making them
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


def recognise(read_at: Callable[[int, int], bytes], size: int) -> str | None:
    """The name of the format of a file of `size` bytes, or None.

    Looks at several blocks, so that damage at the start of a file doesn't hide the rest of it from the scrubber.
    """
    for name, format in FORMATS.items():
        for number in _sample(-(-size // format.BLOCK_BYTES)):
            if format.recognises(read_at(number * format.BLOCK_BYTES, format.BLOCK_BYTES)):
                return name
    return None


def _sample(count: int) -> list[int]:
    """Which of `count` blocks to look at."""
    spread = {SAMPLES_FIRST + (count - SAMPLES_FIRST) * i // SAMPLES_SPREAD for i in range(SAMPLES_SPREAD)}
    return sorted(number for number in {*range(SAMPLES_FIRST), *spread} if number < count)
