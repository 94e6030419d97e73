"""CRC-32C, locating and the LevelDB log reader beside their peers, in GB/s of the bytes that were verified."""

import contextlib
import functools
import hashlib
import importlib
import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from checksum import crc32c, leveldb_log, tfrecord
from checksum.files import CHUNK_BYTES, read_views
from checksum.finding import Intact
from checksum.leveldb_log import BLOCK_BYTES, HEADER_BYTES, encode, scan, verify
from checksum.verify import verify_file
from tests.bench import leveldb_reader, rocksdb_reader
from tests.bench.timing import Timing, interleaved

BUFFER_BYTES = 2**22
ARRAY_RECORD = "array_record, its own format, with the data"
TENSORFLOW = "TensorFlow's reader, in batches"
ROCKSDB = "RocksDB's reader, portable CRC"
OTHERS = ("LevelDB's reader, portable CRC", "LevelDB's reader, hardware CRC", ROCKSDB)


def main(small: bool) -> str:
    """Prints the tables; returns a hash of the checksums and of the number of records."""
    print(f"CRC-32C, kernels here: {', '.join(crc32c.kernels())}")
    found = [_bench_crc(length, 1 if small else 9, small) for length in (64, 1024, 4096, 65_536, 2**20)]
    print("\nLocating a flipped bit, after the one-off table")
    for length in (4096, 2**20) if small else (4096, 2**20, 2**26):
        _bench_locate(length, 1 if small else 9)
    print("\nLevelDB log, records of")
    others = {f"LevelDB's reader, {name} CRC": read for name, read in leveldb_reader.readers().items()}
    rocksdb = rocksdb_reader.reader()
    others |= {ROCKSDB: rocksdb} if rocksdb is not None else {}
    for length in (100, 1024, 4096, 65_536):
        found.append(_bench_scan(length, 1 if small else 31, 2**18 if small else 2**26, others))
    print("\nTFRecord, records of")
    for length in (100, 1024, 4096, 65_536):
        found.append(_bench_tfrecord(length, 1 if small else 31, 2**18 if small else 2**26))
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _bench_crc(length: int, rounds: int, small: bool) -> int:
    data = random.Random(length).randbytes(length)
    calls = max(1, (2**16 if small else 2**24) // length)
    peers: dict[str, Callable[[bytes], int]] = {
        "crc32c (wheel)": _peer("crc32c", "crc32c"),
        "google-crc32c": _peer("google_crc32c", "value"),
        "fastcrc": _peer("fastcrc.crc32", "iscsi"),
        "awscrt": _peer("awscrt.checksums", "crc32c"),
        "crcmod": _crcmod(),
    }
    present = {name: function for name, function in peers.items() if function is not _absent}
    ours = {crc32c.compute(kernel, data) for kernel in crc32c.kernels()}
    (checksum,) = ours | {function(data) for function in present.values()}  # they all agree
    peers["isal (other polynomial)"] = _peer("isal.isal_zlib", "crc32")
    others = {"zlib.crc32 (other polynomial)": zlib.crc32, "isal (other polynomial)": peers["isal (other polynomial)"]}
    present |= {name: function for name, function in others.items() if function is not _absent}
    contestants: dict[str, Callable[[], Any]] = {
        f"ours, {kernel}": functools.partial(_with, kernel, functools.partial(_call, crc32c.crc32c, data, calls))
        for kernel in crc32c.kernels()
    }
    contestants |= {name: functools.partial(_call, function, data, calls) for name, function in present.items()}
    _print(f"{length} B", interleaved(contestants, rounds), dict.fromkeys(contestants, length * calls))
    _print_absent(peers)
    return checksum


def _bench_locate(length: int, rounds: int) -> None:
    """Flips in a record of `length` bytes: the syndrome of each is that of its distance from the end."""
    rng = random.Random(length)
    message = bytearray(length)
    intact, syndromes = crc32c.crc32c(message), []
    for _ in range(20):
        byte, bit = rng.randrange(length), rng.randrange(8)
        message[byte] = 1 << bit
        syndromes.append((crc32c.crc32c(message) ^ intact, 32 + 8 * (length - 1 - byte) + 7 - bit))
        message[byte] = 0
    bits = 32 + 8 * length

    def locate_all() -> None:
        for syndrome, exponent in syndromes:
            if crc32c.locate_exponent(syndrome, bits) != exponent:
                raise AssertionError("the bit that was flipped is the bit that is found")

    timing = interleaved({"ours": locate_all}, rounds)["ours"]
    best_us, median_us = 1e6 * timing.best_s / len(syndromes), 1e6 * timing.median_s / len(syndromes)
    print(f"    in {length} B: {best_us:.2f} us at best, {median_us:.2f} in the median")


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


def _bench_scan(length: int, rounds: int, size: int, others: dict[str, Callable[[bytes], int]]) -> int:
    rng = random.Random(length)
    log, short_bytes = bytearray(), 0
    while len(log) < size:
        log += encode(rng.randbytes(length), len(log))
        short_bytes = short_bytes or (len(log) if len(log) >= size // 16 else 0)
    data, short = bytes(log), bytes(log[:short_bytes])
    in_c: dict[str, Callable[[], int]] = {
        f"ours, {kernel}": functools.partial(_with, kernel, functools.partial(_count, data))
        for kernel in crc32c.kernels()
    }
    in_c |= {name: functools.partial(read, data) for name, read in others.items()}
    in_c["ours, two threads"] = functools.partial(_count_in_two_threads, data)
    in_python: dict[str, Callable[[], int]] = {"ours, each record with its data": lambda: len(list(scan([short])))}
    loops = {
        "crc32c (wheel)": _peer("crc32c", "crc32c"),
        "google-crc32c": _peer("google_crc32c", "value"),
        "crcmod": _crcmod(),
    }
    in_python |= {
        f"plain Python loop over {name}": functools.partial(_plain_loop, short, crc)
        for name, crc in loops.items()
        if crc is not _absent
    }
    (records,) = {run() for run in in_c.values()}  # they all find the same
    (_,) = {run() for run in in_python.values()}
    contestants: dict[str, Callable[[], Any]] = {**in_c, **in_python}
    numpy_sum = _numpy_sum(data)
    if numpy_sum is not None:
        contestants["reading RAM (numpy sum)"] = numpy_sum
    with _in_a_file(data) as fd:
        contestants["ours, a file in the page cache"] = lambda: verify_file(fd, Path("log"), leveldb_log, 0, _no_wait)
        contestants["only reading it (pread)"] = lambda: _read(fd, len(data))
        timings = interleaved(contestants, rounds)
    sizes = {name: len(short) if name in in_python else len(data) for name in contestants}
    _print(f"{length} B", timings, sizes)
    absent = dict.fromkeys((name for name in OTHERS if name not in others), _absent)
    _print_absent({**loops, "numpy": numpy_sum or _absent, **absent})
    return records


def _bench_tfrecord(length: int, rounds: int, size: int) -> int:
    record = tfrecord.encode(random.Random(length).randbytes(length), 0)
    data, short = record * (size // len(record)), record * max(1, size // 16 // len(record))
    contestants: dict[str, Callable[[], Any]] = {
        f"ours, {kernel}": functools.partial(_with, kernel, functools.partial(_count_tfrecords, data))
        for kernel in crc32c.kernels()
    }
    (records,) = {run() for run in contestants.values()}  # they all find the same
    contestants["ours, each record with its data"] = lambda: len(list(tfrecord.scan([short])))
    wheel = _peer("crc32c", "crc32c")
    if wheel is not _absent:
        contestants["plain Python loop over crc32c (wheel)"] = lambda: _plain_tfrecord_loop(short, wheel)
    numpy_sum = _numpy_sum(data)
    if numpy_sum is not None:
        contestants["reading RAM (numpy sum)"] = numpy_sum
    sizes = {name: len(data if name.startswith(("ours, ", "reading")) else short) for name in contestants}
    sizes["ours, each record with its data"] = len(short)
    payloads = [record[tfrecord.HEADER_BYTES : -tfrecord.FOOTER_BYTES]] * (len(short) // len(record))
    with tempfile.TemporaryDirectory() as directory:
        array_record, tensorflow = _array_record(payloads, Path(directory)), _tensorflow(data, Path(directory))
        for name, read, file in ((ARRAY_RECORD, array_record, short), (TENSORFLOW, tensorflow, data)):
            if read is not _absent:
                contestants[name], sizes[name] = functools.partial(read, b""), len(file)
        _print(f"{length} B", interleaved(contestants, rounds), sizes)
    _print_absent({"crc32c (wheel)": wheel, "numpy": numpy_sum or _absent})
    _print_absent({ARRAY_RECORD: array_record, TENSORFLOW: tensorflow})
    return int(records)


def _array_record(payloads: list[bytes], directory: Path) -> Callable[[bytes], int]:
    """Reads the same payloads, each with its data, in that library's own format, from the page cache."""
    try:
        library = importlib.import_module("array_record.python.array_record_module")
    except ImportError:
        return _absent
    path = str(directory / "array_record")
    writer = library.ArrayRecordWriter(path, "group_size:64,uncompressed")
    for payload in payloads:
        writer.write(payload)
    writer.close()

    def read(_: bytes) -> int:
        reader = library.ArrayRecordReader(path)
        records = len(reader.read_all())
        reader.close()
        if records != len(payloads):
            raise AssertionError("it reads what it wrote")
        return records

    return read


def _tensorflow(data: bytes, directory: Path) -> Callable[[bytes], int]:
    """Counts the records of the same file in TensorFlow's C++, a batch at a time, from the page cache."""
    try:
        tensorflow: Any = importlib.import_module("tensorflow")
    except ImportError:
        return _absent
    path = directory / "tfrecords"
    path.write_bytes(data)

    def read(_: bytes) -> int:
        batches = tensorflow.data.TFRecordDataset(str(path)).batch(256)
        return int(batches.reduce(0, lambda count, batch: count + tensorflow.shape(batch)[0]))

    return read


def _count_tfrecords(data: bytes) -> int:
    return sum(item.records for item in tfrecord.verify(_buffers(data)) if isinstance(item, Intact))


def _plain_tfrecord_loop(data: bytes, crc: Callable[[bytes], int]) -> int:
    """Collects the records of an intact file as most Python readers do that mind the checksums."""
    records, position = [], 0
    while position < len(data):
        length, masked = struct.unpack_from("<QI", data, position)
        payload = data[position + 12 : position + 12 + length]
        (masked_payload,) = struct.unpack_from("<I", data, position + 12 + length)
        for expected, part in ((masked, data[position : position + 8]), (masked_payload, payload)):
            computed = crc(part)
            if expected != ((computed >> 15 | computed << 17) + 0xA282EAD8) & 0xFFFFFFFF:
                raise AssertionError("the benchmark's file is intact")
        records.append(payload)
        position += 16 + length
    return len(records)


def _with(kernel: str, run: Callable[[], Any]) -> Any:
    before = crc32c.implementation()
    crc32c.use(kernel)
    try:
        return run()
    finally:
        crc32c.use(before)


def _count(data: bytes | memoryview) -> int:
    return sum(item.records for item in verify(_buffers(data)) if isinstance(item, Intact))


def _buffers(data: bytes | memoryview) -> Iterator[memoryview]:
    return (memoryview(data)[begin : begin + BUFFER_BYTES] for begin in range(0, len(data), BUFFER_BYTES))


def _count_in_two_threads(data: bytes) -> int:
    """Each takes a half; a record over the cut is counted once, by the second, as its rest."""
    half = len(data) // 2 // BLOCK_BYTES * BLOCK_BYTES
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_count, memoryview(data)[:half])
        rest = _buffers(memoryview(data)[half:])
        items = pool.submit(lambda: list(verify(rest, offset=half, resumed=True)))
        return first.result() + sum(item.records for item in items.result() if isinstance(item, Intact))


@contextlib.contextmanager
def _in_a_file(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def _read(fd: int, size: int) -> None:
    for _ in read_views(fd, 0, size, bytearray(CHUNK_BYTES)):
        pass


def _no_wait(length: int) -> None:
    """A pace for reading as fast as it goes."""


def _plain_loop(data: bytes, crc: Callable[[bytes], int]) -> int:
    """Collects the records of an intact log as most Python readers do: a loop, a slice and a call per fragment."""
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
    return len(records)


def _numpy_sum(data: bytes) -> Callable[[], Any] | None:
    try:
        numpy = importlib.import_module("numpy")
    except ImportError:
        return None
    words = numpy.frombuffer(data, dtype=numpy.uint64, count=len(data) // 8)
    return lambda: words.sum()


def _print(title: str, timings: dict[str, Timing], sizes: dict[str, int]) -> None:
    first = next(iter(timings))
    ours = sizes[first] / timings[first].best_s
    print(f"  {title:42s} {'best GB/s':>10s} {'median':>8s} {'ours is x times':>16s}")
    for name, timing in timings.items():
        best, median = sizes[name] / timing.best_s, sizes[name] / timing.median_s
        print(f"    {name:40s} {best / 1e9:10.3f} {median / 1e9:8.3f} {ours / best:16.2f}")


def _print_absent(peers: dict[str, Callable[..., Any]]) -> None:
    absent = [name for name, function in peers.items() if function is _absent]
    if absent:
        print(f"    (not installed here: {', '.join(absent)})")
