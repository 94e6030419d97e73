"""Declared framings beside the Python that a user would else write, in GB/s of the bytes that were verified."""

import functools
import hashlib
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from checksum.finding import Intact
from checksum.framing import Framing
from tests.bench.timing import interleaved
from tests.checksum.framings import DECLARED, framing

BUFFER_BYTES = 2**22
NAMES = {"pagestore": "masked CRC-32C", "kafka": "zlib's CRC-32", "wide": "CRC-64"}


def main(small: bool) -> str:
    """Prints the tables; returns a hash of the number of records."""
    found = [_bench(length, 1 if small else 15, 2**18 if small else 2**26) for length in (100, 1024, 65_536)]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _bench(length: int, rounds: int, size: int) -> list[int]:
    files = {name: _file(name, length, size) for name in NAMES}
    short = files["kafka"][: len(DECLARED["kafka"].write(bytes(length))) * max(1, size // 16 // length)]
    contestants: dict[str, Callable[[], Any]] = {
        f"ours, {NAMES[name]}": functools.partial(_count, framing(name), data) for name, data in files.items()
    }
    records = [run() for run in contestants.values()]
    contestants["ours, CRC-32, each record with its data"] = lambda: len(list(framing("kafka").scan([short])))
    contestants["plain Python loop over zlib.crc32"] = functools.partial(_plain_loop, short)
    timings = interleaved(contestants, rounds)
    print(f"  {length} B {'best GB/s':>46s} {'median':>8s}")
    for (name, timing), bytes_done in zip(timings.items(), [*map(len, files.values()), *[len(short)] * 2], strict=True):
        print(f"    {name:44s} {bytes_done / timing.best_s / 1e9:10.3f} {bytes_done / timing.median_s / 1e9:8.3f}")
    return records


def _file(name: str, length: int, size: int) -> bytes:
    record = DECLARED[name].write(random.Random(length).randbytes(length))
    return record * max(1, size // len(record))


def _count(declared: Framing, data: bytes) -> int:
    buffers = (memoryview(data)[begin : begin + BUFFER_BYTES] for begin in range(0, len(data), BUFFER_BYTES))
    return sum(item.records for item in declared.verify(buffers) if isinstance(item, Intact))


def _plain_loop(data: bytes) -> int:
    """Collects the records of an intact file by hand-written Python."""
    records, position = [], 0
    while position < len(data):
        size, crc = struct.unpack_from(">II", data, position + 8)
        body = data[position + 16 : position + 12 + size]
        if zlib.crc32(body) != crc:
            raise AssertionError("the benchmark's file is intact")
        records.append(body[2:])
        position += 12 + size
    return len(records)
