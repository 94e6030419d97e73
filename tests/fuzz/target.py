"""What has to hold for any bytes, in every reader; the fuzzer looks for bytes for which it doesn't.

Every reader goes through the bytes in one piece and in several, in Python and in C. A second opinion, which shares no
code with the reader, is asked about each record that was returned.
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import crc32c

from checksum.finding import Record, merge
from checksum.formats import FORMATS, Format
from tests.checksum.faults import Item, assert_tiles, counted, findings, records
from tests.checksum.framings import bare, framing, masked, tfrecord, wide

READERS: dict[str, Format] = FORMATS | {name: framing(name) for name in ("pagestore", "wide", "bare")}
BLOCK_BYTES = 32768


def fragments_hold(data: bytes, record: Record) -> bool:
    """Whether the fragments of a record of a LevelDB or RocksDB log verify and make up its payload."""
    position, payload = record.begin, b""
    while position < record.end:
        room = BLOCK_BYTES - position % BLOCK_BYTES
        header_bytes = 11 if room >= 7 and data[position + 6 : position + 7] > b"\4" else 7
        if room < header_bytes:
            position += room
            continue
        stored, length = struct.unpack_from("<IH", data, position)
        end = position + header_bytes + length
        if stored != masked(crc32c.crc32c(data[position + 6 : end])):
            return False
        payload += data[position + header_bytes : end]
        position = end if any(data[end : record.end]) else record.end
    return payload == record.data


def written_by(write: Callable[[bytes], bytes], around_bytes: int) -> Callable[[bytes, Record], bool]:
    """Whether another writer would have written that very record, but for its padding, which nothing covers."""

    def holds(data: bytes, record: Record) -> bool:
        assert record.data is not None
        end = record.begin + around_bytes + len(record.data)
        return write(record.data)[: end - record.begin] == data[record.begin : end]

    return holds


def inflates(data: bytes, record: Record) -> bool:
    """Whether Python's own module reads the same in the member."""
    try:
        return gzip.decompress(data[record.begin : record.end]) == record.data
    except (OSError, EOFError, zlib.error):
        return False


SECOND_OPINIONS = {
    "gzip": inflates,
    "leveldb-log": fragments_hold,
    "tfrecord": written_by(tfrecord, 16),
    "bare": written_by(bare, 8),
    "wide": written_by(wide, 12),
}


def pieces(data: bytes) -> Iterator[bytes]:
    """The bytes, cut at places that depend on nothing but their number."""
    cuts = sorted({0, len(data), *(len(data) * part // 7 for part in range(7)), min(len(data), 9)})
    return (data[begin:end] for begin, end in pairwise(cuts))


def told(items: Iterable[Item]) -> list[object]:
    """Items as they are whatever the cuts."""
    items = list(items)
    return [*records(items), *merge(findings(items))]


def check(name: str, data: bytes) -> None:
    """Raises if a reader does with the bytes what none may do with any."""
    reader = READERS[name]
    items = list(reader.scan([data], record_bytes_max=2**20))
    assert_tiles(items, 0, len(data))
    assert told(reader.scan(pieces(data), record_bytes_max=2**20)) == told(items), "the cuts matter"
    assert counted(reader.verify(pieces(data))) == counted(reader.scan([data], with_data=False)), "counts differ"
    reader.recognises(lambda offset, length: data[offset : offset + length], len(data))
    holds = SECOND_OPINIONS.get(name)
    assert holds is None or all(holds(data, record) for record in records(items)), "a false record"
