"""The record formats that are known, and which of them a file holds.

Enters: a function that reads a file at an offset. Leaves: the name of a format, by content, never by file name.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from checksum import leveldb_log
from checksum.finding import Finding, Record, Unreadable

SAMPLES_FIRST, SAMPLES_SPREAD = 4, 12  # blocks from the start, and spread over the rest


class Format(Protocol):
    """What the module of a format offers."""

    BLOCK_BYTES: int

    def encode(self, payload: bytes, offset: int) -> bytes: ...

    def recognises(self, block: bytes) -> bool: ...

    def scan(
        self,
        chunks: Iterable[bytes | Unreadable],
        *,
        offset: int = 0,
        resumed: bool = False,
        with_data: bool = True,
        record_bytes_max: int = 0,
    ) -> Iterator[Record | Finding]: ...


FORMATS: dict[str, Format] = {"leveldb-log": leveldb_log}


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
