"""What one flipped bit costs: records lost and flips located, over random flips anywhere in a LevelDB log."""

import hashlib
import random

from checksum.crc32c import crc32c, locate_exponent, mask, unmask
from checksum.finding import Finding, Record
from checksum.leveldb_log import encode, scan


def main(small: bool) -> str:
    """Prints a line per record size; returns a hash of the counts."""
    flips, size = (10, 2**17) if small else (300, 2**23)
    print(f"{flips} flips each, anywhere in a log of {size / 2**20:g} MiB, and {flips} times two flips in one record\n")
    print(f"  {'records of':>10s} {'lost per flip':>14s} {'at most':>8s} {'located':>8s} {'lost per two flips':>19s}")
    rows: list[object] = [_row(length, flips, size) for length in (100, 1024, 4096, 65_536)]
    print("\nTwo flips, one in the payload and one in the masked checksum, taken for one:\n")
    for length in (4096,) if small else (4096, 32_768, 2**20):
        rows.append(_masked(length, 50 if small else 60_000))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _row(length: int, flips: int, size: int) -> tuple[int, list[int], int, int]:
    rng = random.Random(length)
    log = bytearray()
    begins = []
    while len(log) < size:
        begins.append(len(log))
        log += encode(rng.randbytes(length), len(log))
    lost, located, lost_to_two = [], 0, 0
    for _ in range(flips):
        at, bit = rng.randrange(len(log)), rng.randrange(8)
        missing, found = _read_with(log, [(at, bit)], len(begins))
        lost.append(missing)
        located += found == [(at, bit)]
        begin = rng.choice(begins)
        lost_to_two += _read_with(log, [(begin + 7 + i, rng.randrange(8)) for i in (0, length // 2)], len(begins))[0]
    mean, mean_of_two = sum(lost) / flips, lost_to_two / flips
    print(f"  {length:>8d} B {mean:14.3f} {max(lost):8d} {located / flips:8.1%} {mean_of_two:19.3f}")
    return length, lost, located, lost_to_two


def _read_with(log: bytearray, places: list[tuple[int, int]], written: int) -> tuple[int, list[tuple[int, int]]]:
    """How many records are lost with these bits flipped, and which flips the reader names."""
    for at, bit in places:
        log[at] ^= 1 << bit
    items = list(scan([bytes(log)], with_data=False))
    for at, bit in places:
        log[at] ^= 1 << bit
    found = [(item.flip.offset_bytes, item.flip.bit) for item in items if isinstance(item, Finding) and item.flip]
    return written - sum(isinstance(item, Record) for item in items), found


def _masked(length: int, payload_bits: int) -> tuple[int, int]:
    """How often a wrong bit is named: so many bits of a payload, each with each of the 32 bits of its checksum.

    Unmasking turns a flip of the stored form into several, so that their number may be odd.
    """
    rng = random.Random(length)
    payload = bytearray(rng.randbytes(length))
    right = crc32c(payload)
    stored = mask(right)
    named = 0
    for place in rng.choices(range(8 * length), k=payload_bits):
        payload[place // 8] ^= 1 << place % 8
        computed = crc32c(payload)
        payload[place // 8] ^= 1 << place % 8
        for bit in range(32):
            seen = stored ^ 1 << bit
            is_in_stored = (mask(computed) ^ seen).bit_count() == 1
            named += is_in_stored or locate_exponent(unmask(seen) ^ computed, 32 + 8 * length) >= 32
    pairs = 32 * payload_bits
    print(f"  {length:>8d} B {named / pairs:10.2e}   ({named} of {pairs})")
    return length, named
