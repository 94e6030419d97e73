"""Feeds any bytes to an instrumented build of the C extension; run by test_sanitizers.py in a process of its own.

usage: python fuzz_extension.py EXTENSION SECONDS
"""

import contextlib
import ctypes
import importlib.util
import random
import sys
import time
from array import array
from typing import Any

from checksum import tfrecord
from checksum.leveldb_log import encode
from tests.checksum.faults import PristineLog, garble, random_flip
from tests.checksum.framings import DECLARED, framing


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("checksum._crc32c", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exactly(data: bytes) -> Any:
    """The data in memory of just its size, so that the byte behind it is known to be out of bounds."""
    return (ctypes.c_char * len(data)).from_buffer_copy(data)


def feed(extension: Any, log: bytes, rng: random.Random) -> None:
    data = log
    for _ in range(rng.randrange(3)):
        data = rng.choice((garble, lambda data, rng: random_flip(data, rng)[0]))(data, rng) or log
    begin = rng.randrange(len(data) + 1)
    data = data[begin : begin + rng.choice((0, 1, 7, 100, 300, 5000, 40_000))]
    buffer, position = exactly(data), rng.randrange(len(data) + 1)
    extension.use(rng.choice(extension.KERNELS))
    extension.use_here(rng.choice((None, *extension.KERNELS)))
    assert extension.implementation() in extension.KERNELS
    for kernel in extension.KERNELS:
        extension.crc32c_with(kernel, buffer, rng.getrandbits(32))
    extension.leveldb_run(buffer, position, rng.getrandbits(40), rng.random() < 0.5, rng.random() < 0.5)
    for block_bytes in (1, 8, 128, 32_768, 2**62):
        state = rng.choice((-1, 0, 2**50)), rng.random() < 0.5, rng.choice((-1, 9))
        extension.leveldb_walk(buffer, block_bytes, position, rng.getrandbits(40), 100, *state)
    extension.tfrecord_walk(buffer, position, rng.choice((-5, 100, 2**50)))
    feed_framing(extension, buffer, position, rng)
    extension.zeros_end(buffer, position)
    polynomial = rng.choice((0x82F63B78, 0xEDB88320))
    extension.locate_exponent(rng.getrandbits(32), rng.choice((-5, 0, 1, 2**20, 2**62)), polynomial)


def feed_framing(extension: Any, buffer: Any, position: int, rng: random.Random) -> None:
    """Plans that a declaration gives, and such as none gives but the extension takes all the same."""
    numbers = array("Q", framing(rng.choice(list(DECLARED)))._plan_numbers())
    for _ in range(rng.randrange(4)):
        numbers[rng.randrange(len(numbers))] = rng.choice((0, 1, 3, 8, 33, 2**20, 2**63, 2**64 - 1, rng.getrandbits(8)))
    with contextlib.suppress(ValueError):
        plan = extension.framing_plan(numbers)
        extension.framing_walk(plan, buffer, position, rng.choice((-5, 100, 2**50)))
        extension.framing_run(plan, buffer, position, rng.getrandbits(40), rng.choice((-1, 0, 30, 2**50)), 5)


def main(path: str, duration_s: float) -> None:
    extension = load(path)
    rng = random.Random(0)
    log = PristineLog.of(rng.randbytes(rng.choice((0, 5, 60, 400, 3000, 50_000))) for _ in range(40))
    numbered = b""
    while len(numbered) < 100_000:
        numbered += encode(rng.randbytes(rng.choice((0, 5, 60, 400, 3000))), len(numbered), log_number=9)
    records = b"".join(tfrecord.encode(rng.randbytes(rng.choice((0, 5, 60, 400))), 0) for _ in range(200))
    framed = [
        declared.file(rng.randbytes(rng.choice((1, 5, 60, 200))) for _ in range(100)) for declared in DECLARED.values()
    ]
    logs = (log.data, numbered, records, *(file.data for file in framed))
    until_s, rounds = time.monotonic() + duration_s, 0
    while time.monotonic() < until_s or rounds < 50:
        feed(extension, rng.choice(logs), rng)
        rounds += 1
    print(f"{rounds} rounds, {extension.KERNELS}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
