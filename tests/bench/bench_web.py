"""Crawled pages: gzip members and WARC files beside their peers, in MB/s of what was inflated or read."""

import functools
import gzip
import hashlib
import importlib
import io
import random
import subprocess
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from checksum import gzip_members, warc
from checksum.finding import Intact, Record
from checksum.formats import Format
from tests.bench.timing import interleaved

BUFFER_BYTES = 2**20
FLIPS = 200


def main(small: bool) -> str:
    """Prints the tables; returns a hash of the numbers of records and of those that flips cost."""
    rounds, size = (1, 2**18) if small else (9, 2**25)
    found = []
    for length in (4096, 65_536):
        print(f"\ngzip members, pages of {length} B")
        found.append(_bench_gzip(length, rounds, size))
    for is_compressed in (True, False):
        print(f"\nWARC, {'compressed' if is_compressed else 'plain'}, pages of 65536 B")
        found.append(_bench_warc(is_compressed, rounds, size))
    print("\nOne flipped bit anywhere")
    found.append(_bench_flips(10 if small else FLIPS))
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _pages(length: int, count: int) -> list[bytes]:
    """Text that compresses about as far as pages do, to a third."""
    rng = random.Random(length)
    letters = b"abcdefghijklmnopqrstuvwxyz"
    words = [bytes(rng.choices(letters, k=rng.randrange(2, 10))) for _ in range(3000)]
    text = b" ".join(rng.choices(words, weights=range(1, 3001), k=100_000))
    return [text[begin : begin + length] for begin in (rng.randrange(len(text) - length) for _ in range(count))]


def _bench_gzip(length: int, rounds: int, size: int) -> int:
    pages = _pages(length, size // length)
    data = b"".join(gzip.compress(page, mtime=0) for page in pages)
    contestants: dict[str, Callable[[], Any]] = {
        "ours": functools.partial(_count, gzip_members, data),
        "ours, each member with its data": lambda: sum(
            isinstance(i, Record) for i in gzip_members.scan(_buffers(data))
        ),
        "plain Python loop over zlib": functools.partial(_zlib_loop, data, length),
    }
    (records,) = {run() for run in contestants.values()}  # they all find the same
    contestants["Python's gzip module"] = functools.partial(_read_all, gzip.GzipFile, data)
    igzip = _peer("isal.igzip", "IGzipFile")
    if igzip is not None:
        contestants["isal's gzip module"] = functools.partial(_read_all, igzip, data)
    contestants["gzip -t"] = lambda: subprocess.run(["gzip", "-t"], input=data, check=True)
    _print(contestants, rounds, sum(map(len, pages)))
    return int(records)


def _bench_warc(is_compressed: bool, rounds: int, size: int) -> int:
    pages = _pages(65_536, size // 65_536)
    members = map(_record, pages)
    data = b"".join(gzip.compress(each, mtime=0) if is_compressed else each for each in members)
    contestants: dict[str, Callable[[], Any]] = {"ours": functools.partial(_count, warc, data)}
    records = _count(warc, data)
    iterator = _peer("warcio.archiveiterator", "ArchiveIterator")
    if iterator is not None:
        contestants["warcio, checking digests"] = functools.partial(_warcio, iterator, data)
    contestants["hashlib.sha1 of the pages"] = lambda: [hashlib.sha1(page, usedforsecurity=False) for page in pages]
    _print(contestants, rounds, sum(map(len, pages)))
    return records


def _record(page: bytes) -> bytes:
    digest = hashlib.sha1(page, usedforsecurity=False).hexdigest()
    header = (
        f"WARC/1.0\r\nWARC-Type: resource\r\nWARC-Block-Digest: sha1:{digest}\r\nContent-Length: {len(page)}\r\n\r\n"
    )
    return header.encode() + page + b"\r\n\r\n"


def _bench_flips(flips: int) -> list[int]:
    """How many records each flip costs, and whether what a search found is in doubt."""
    pages = _pages(4096, 300)
    lost = []
    for name, format, data in (
        ("gzip members of 4 KiB", gzip_members, b"".join(gzip.compress(page, mtime=0) for page in pages)),
        ("WARC, compressed", warc, b"".join(gzip.compress(_record(page), mtime=0) for page in pages)),
        ("WARC, plain", warc, b"".join(map(_record, pages))),
    ):
        rng = random.Random(name)
        costs, doubtful = [], 0
        for _ in range(flips):
            damaged = bytearray(data)
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            kept = [item for item in format.scan([bytes(damaged)], with_data=False) if isinstance(item, Record)]
            costs.append(len(pages) - len(kept))
            doubtful += any(item.by_search for item in kept)
        print(
            f"    {name}: {sum(costs) / flips:.2f} records lost, {max(costs)} at most, {doubtful / flips:.1%} in doubt"
        )
        lost.append(sum(costs))
    return lost


def _count(format: Format, data: bytes) -> int:
    return sum(item.records for item in format.verify(_buffers(data)) if isinstance(item, Intact))


def _buffers(data: bytes) -> Iterator[memoryview]:
    return (memoryview(data)[begin : begin + BUFFER_BYTES] for begin in range(0, len(data), BUFFER_BYTES))


def _zlib_loop(data: bytes, length: int) -> int:
    """Inflates each member in one call, as who knows how long they are may do; zlib checks the trailer."""
    begin = records = 0
    while begin < len(data):
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        piece = data[begin : begin + length]
        inflater.decompress(piece)
        if not inflater.eof:
            raise AssertionError("the benchmark's file is intact")
        begin += len(piece) - len(inflater.unused_data)
        records += 1
    return records


def _peer(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        print(f"    (not installed here: {module})")
        return None


def _read_all(opened: Callable[..., Any], data: bytes) -> None:
    with opened(fileobj=io.BytesIO(data)) as file:
        while file.read(BUFFER_BYTES):
            pass


def _warcio(iterator: Callable[..., Any], data: bytes) -> None:
    """What `warcio check` does with each record."""
    for record in iterator(io.BytesIO(data), check_digests="raise"):
        while record.raw_stream.read(BUFFER_BYTES):
            pass


def _print(contestants: dict[str, Callable[[], Any]], rounds: int, size: int) -> None:
    timings = interleaved(contestants, rounds)
    ours = timings["ours"].best_s
    print(f"    {'':36s} {'best MB/s':>10s} {'median':>8s} {'ours is x times':>16s}")
    for name, timing in timings.items():
        best, median = size / timing.best_s / 1e6, size / timing.median_s / 1e6
        print(f"    {name:36s} {best:10.0f} {median:8.0f} {timing.best_s / ours:16.2f}")
