"""A canary for machines without ECC: a block of memory with a known pattern, and nobody but this source touches it.

Enters: how much memory, where procfs is, this source's cursor and the moment. Leaves: a Poll; a flipped bit is an
uncorrected error of stream `canary`, with its offset in the block, its physical address where the kernel tells it
(root, or CAP_SYS_ADMIN), the bit and its direction. The block is what this source reads, as others read files: it lives
as long as the process and its size, and is locked into memory.

Each poll sweeps at most CHUNK_BYTES, so the rate is bounded, and past the caches, which would answer with what was
written (agent/_canary.c). A word that differs is read once more: what is gone by then was a bad read, not a bad cell,
and is said to be so. Every pass turns the pattern over, because a charged cell loses its bit more easily than an empty
one gains one, and which of them is a 1 differs from row to row.

A flip is as late as the last sweep of its chunk, which is its time error.
"""

import importlib
import mmap
from pathlib import Path
from typing import Any

from agent.observation import NOT_CORRECTED, Device, FirstSight, Gap, Moment, Observation, Poll

STREAM = "canary"
MIB, PAGE_BYTES = 1 << 20, 4096
CHUNK_BYTES = 16 * MIB  # of one poll: some 5 ms
DEFAULT_MIB = 64  # swept within 20 s, at a poll each 5 s
PATTERN = 0x5555_5555_5555_5555
WORD = (1 << 64) - 1
SHOWN_MAX = 8  # flips whose details stand on a fault
PFN_BITS = 55  # of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst)


class Block:
    """The locked memory, the pattern that each of its chunks holds, and when that was last known.

    Raises:
        OSError: it can't be had, or can't be locked.
    """

    def __init__(self, size_bytes: int, now: Moment) -> None:
        self._canary = importlib.import_module("agent._canary")
        self.memory = mmap.mmap(-1, size_bytes)
        try:
            self._canary.lock(self.memory)
        except OSError:
            self.memory.close()
            raise
        self._canary.fill(self.memory, 0, size_bytes, PATTERN)
        self._begins = range(0, size_bytes, CHUNK_BYTES)
        self._patterns = [PATTERN] * len(self._begins)
        self._known_ns = [now.boottime_ns] * len(self._begins)
        self._next = 0

    def sweep(self, now: Moment) -> tuple[int, list[dict[str, Any]], float]:
        """The next chunk: words that differ, the first of them in detail, and how many seconds ago all was well."""
        chunk = self._next
        begin, pattern = self._begins[chunk], self._patterns[chunk]
        end = min(begin + CHUNK_BYTES, len(self.memory))
        differing, found = self._canary.sweep(self.memory, begin, end, pattern)
        flips = [self._flip(offset, word, pattern) for offset, word in found[:SHOWN_MAX]]
        age_s = max(0, now.boottime_ns - self._known_ns[chunk]) / 1e9
        self._patterns[chunk] = pattern ^ WORD
        self._canary.fill(self.memory, begin, end, self._patterns[chunk])
        self._known_ns[chunk] = now.boottime_ns
        self._next = (chunk + 1) % len(self._begins)
        return differing, flips, age_s

    def _flip(self, offset: int, word: int, pattern: int) -> dict[str, Any]:
        """One word that differs, bit 0 the least significant, and whether it still does."""
        page = offset - offset % PAGE_BYTES
        _, again = self._canary.sweep(self.memory, page, page + PAGE_BYTES, pattern)
        bits = [bit for bit in range(64) if (word ^ pattern) >> bit & 1]
        return {
            "offset_bytes": offset,
            "bits": bits,
            "directions": ["0 to 1" if word >> bit & 1 else "1 to 0" for bit in bits],
            "is_lasting": (offset, word) in again,
        }

    def physical_address(self, offset: int, proc: Path) -> int | None:
        """Where the byte is in the machine's memory; None if the kernel keeps that to itself."""
        place = self._canary.address(self.memory) + offset
        try:
            with (proc / "self/pagemap").open("rb", buffering=0) as pagemap:
                pagemap.seek(place // PAGE_BYTES * 8)
                entry = int.from_bytes(pagemap.read(8), "little")
        except OSError:
            return None
        frame = entry & ((1 << PFN_BITS) - 1)
        return frame * PAGE_BYTES + place % PAGE_BYTES if frame else None


blocks: dict[int, Block] = {}  # by MiB: the one that this process has, once it has it


def look(size_mib: int | None, proc: Path, now: Moment) -> Poll:
    """As `poll`, with a small block: whether one can be had."""
    return poll(min(size_mib, 1) if size_mib else size_mib, proc, {}, now)


def poll(size_mib: int | None, proc: Path, cursor: dict[str, Any], now: Moment) -> Poll:
    """One sweep of the next chunk. Without a size there was no reason to have one."""
    if size_mib is None:
        return Poll(cursor=cursor, absent="it's off where nobody says that memory has no ECC; canary_mib turns it on")
    if not size_mib:
        return Poll(cursor=cursor, absent="it's off: canary_mib is 0")
    is_new = size_mib not in blocks
    if is_new:
        try:
            blocks[size_mib] = Block(size_mib * MIB, now)
        except ImportError:
            return Poll(
                cursor=cursor, trouble=("the canary needs its C extension: install a compiler, then flipwatch",)
            )
        except OSError as error:
            trouble = f"{size_mib} MiB of memory can't be locked: {error.strerror}; raise LimitMEMLOCK in the unit"
            return Poll(cursor=cursor, trouble=(trouble,))
    device = Device(stream=STREAM, name=STREAM, size_bytes=size_mib * MIB)
    differing, flips, age_s = blocks[size_mib].sweep(now)
    return Poll(
        cursor={"watched": True, "polled": {"time_ns": now.time_ns}},
        devices=(device,),
        observations=(_observation(blocks[size_mib], differing, flips, age_s, proc, now),) if differing else (),
        first_sights=() if "watched" in cursor else (_first_sight(now),),
        gaps=(_gap(cursor, now),) if is_new and "watched" in cursor else (),
    )


def _observation(
    block: Block, differing: int, flips: list[dict[str, Any]], age_s: float, proc: Path, now: Moment
) -> Observation:
    addresses = [block.physical_address(flip["offset_bytes"], proc) for flip in flips]
    known = [hex(address) for address in addresses if address is not None]
    return Observation(
        device=STREAM,
        stream=STREAM,
        severity="uncorrected",
        count=differing,
        time_error_s=age_s,
        epoch=now.boot_id,
        detail={"flips": flips, **({"addresses": known} if known else {})},
    )


def _first_sight(now: Moment) -> FirstSight:
    return FirstSight(stream=STREAM, device=STREAM, error_class=NOT_CORRECTED, since_ns=now.time_ns)


def _gap(cursor: dict[str, Any], now: Moment) -> Gap:
    """The process was away, and its block with it."""
    return Gap(stream=STREAM, device=STREAM, begin_ns=cursor["polled"]["time_ns"], end_ns=now.time_ns)
