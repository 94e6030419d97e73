"""CRC-32C and the LevelDB log reader against their peers, in GB/s of the bytes that were verified."""

import functools
import hashlib
import importlib
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from checksum import crc32c
from checksum.finding import Record
from checksum.leveldb_log import BLOCK_BYTES, HEADER_BYTES, encode, scan
from tests.bench.timing import Timing, interleaved

CHUNK_BYTES = 2**20


def main(small: bool) -> str:
    """Prints both tables; returns a hash of the checksums and of the number of records."""
    rounds = 1 if small else 7
    print(f"CRC-32C, implementation here: {crc32c.implementation()}")
    found = [_bench_crc(length, rounds, small) for length in (64, 1024, 4096, 65_536, 2**20)]
    print("\nLevelDB log, records of")
    found += [_bench_scan(length, rounds, 2**18 if small else 2**26) for length in (100, 1024, 4096, 65_536)]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _bench_crc(length: int, rounds: int, small: bool) -> int:
    data = random.Random(length).randbytes(length)
    calls = max(1, (2**16 if small else 2**24) // length)
    peers: dict[str, Callable[[bytes], int]] = {
        "ours": crc32c.crc32c,
        "ours, table": functools.partial(crc32c.compute, "table"),
        "crc32c (wheel)": _peer("crc32c", "crc32c"),
        "google-crc32c": _peer("google_crc32c", "value"),
        "fastcrc": _peer("fastcrc.crc32", "iscsi"),
        "crcmod": _crcmod(),
    }
    present = {name: function for name, function in peers.items() if function is not _absent}
    (checksum,) = {function(data) for function in present.values()}  # they all agree
    present["zlib.crc32 (other polynomial)"] = zlib.crc32
    contestants = {name: functools.partial(_call, function, data, calls) for name, function in present.items()}
    _print(f"{length} B", interleaved(contestants, rounds), length * calls)
    _print_absent(peers)
    return checksum


def _call(function: Callable[[bytes], int], data: bytes, calls: int) -> None:
    for _ in range(calls):
        function(data)


def _absent(data: bytes) -> int:
    raise AssertionError("a peer that isn't installed is never called")


def _peer(module: str, function: str) -> Callable[[bytes], int]:
    try:
        found: Callable[[bytes], int] = getattr(importlib.import_module(module), function)
    except ImportError:
        return _absent
    return found


def _crcmod() -> Callable[[bytes], int]:
    make = _peer("crcmod.predefined", "mkCrcFun")
    return make if make is _absent else make("crc-32c")  # type: ignore[arg-type, return-value]


def _bench_scan(length: int, rounds: int, size: int) -> int:
    rng = random.Random(length)
    log = bytearray()
    while len(log) < size:
        log += encode(rng.randbytes(length), len(log))
    data = bytes(log)
    chunks = [data[begin : begin + CHUNK_BYTES] for begin in range(0, len(data), CHUNK_BYTES)]
    contestants: dict[str, Callable[[], Any]] = {
        "ours": lambda: _count(chunks, with_data=True),
        "ours, without data": lambda: _count(chunks, with_data=False),
    }
    wheel = _peer("crc32c", "crc32c")
    if wheel is not _absent:
        contestants["plain Python loop over the crc32c wheel"] = lambda: len(_plain_loop(data, wheel))
    (records,) = {run() for run in contestants.values()}  # they all find the same
    numpy_sum = _numpy_sum(data)
    if numpy_sum is not None:
        contestants["reading RAM (numpy sum)"] = numpy_sum
    _print(f"{length} B", interleaved(contestants, rounds), len(data))
    _print_absent({"crc32c (wheel)": wheel, "numpy": numpy_sum or _absent})
    return int(records)


def _count(chunks: list[bytes], with_data: bool) -> int:
    return sum(isinstance(item, Record) for item in scan(chunks, with_data=with_data))


def _plain_loop(data: bytes, crc: Callable[[bytes], int]) -> list[bytes]:
    """The records of an intact log, the way most Python readers do it: a loop, a slice and a call per fragment."""
    header = struct.Struct("<IHB")
    records, pieces, position = [], [], 0
    while position + HEADER_BYTES <= len(data):
        room = BLOCK_BYTES - position % BLOCK_BYTES
        if room < HEADER_BYTES:
            position += room
            continue
        masked, length, kind = header.unpack_from(data, position)
        end = position + HEADER_BYTES + length
        computed = crc(data[position + 6 : end])
        if masked != ((computed >> 15 | computed << 17) + 0xA282EAD8) & 0xFFFFFFFF:
            raise AssertionError("the benchmark's log is intact")
        pieces.append(data[position + HEADER_BYTES : end])
        if kind in (1, 4):
            records.append(b"".join(pieces))
            pieces = []
        position = end
    return records


def _numpy_sum(data: bytes) -> Callable[[], Any] | None:
    try:
        numpy = importlib.import_module("numpy")
    except ImportError:
        return None
    words = numpy.frombuffer(data, dtype=numpy.uint64, count=len(data) // 8)
    return lambda: words.sum()


def _print(title: str, timings: dict[str, Timing], size: int) -> None:
    first = next(iter(timings.values()))
    print(f"  {title:42s} {'best GB/s':>10s} {'median':>8s} {'best, to ours':>14s}")
    for name, timing in timings.items():
        best, median = size / timing.best_s / 1e9, size / timing.median_s / 1e9
        print(f"    {name:40s} {best:10.3f} {median:8.3f} {first.best_s / timing.best_s:14.2f}")


def _print_absent(peers: dict[str, Callable[..., Any]]) -> None:
    absent = [name for name, function in peers.items() if function is _absent]
    if absent:
        print(f"    (not installed here: {', '.join(absent)})")
