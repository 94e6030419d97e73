"""The scrubber as a neighbour: what it costs others on the same disk, beside sha256sum and cat over the same files.

A store of cold files and a hot one; a foreground that reads 4 KiB at random, in turn past the cache from a file on the
same disk, and from the hot one. Each neighbour is a real process; they take turns, round by round, with nobody at all.
"""

import hashlib
import mmap
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agent.journal import JournalReader
from agent.scrub import PAGE_BYTES
from checksum.leveldb_log import encode
from tests.agent.processes import Daemon, eventually
from tests.agent.residency import resident_pages

MIB = 2**20
RECORD_BYTES = 65_536
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# name -> MiB/s and the share of waiting beyond which it backs off: 20 MiB/s are 36 TB in 21 days, 265 are 480 TB
SCRUBBERS = {
    "scrubber, 20 MiB/s": (20, 100),
    "scrubber, 265 MiB/s": (265, 100),
    "scrubber, 265 MiB/s, backing off": (265, 10),
}


@dataclass(frozen=True)
class Disk:
    """The files: `cold` and `hot` are the store, `busy` is what the foreground reads past the cache."""

    store: Path
    cold: list[Path]
    hot: Path
    busy: Path
    records: int  # in the store


@dataclass
class Figures:
    """What was seen while one neighbour was there, over all rounds."""

    disk_us: list[float] = field(default_factory=list)
    cache_us: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    read_bytes: int = 0
    hot_kept: list[float] = field(default_factory=list)
    brought_in_mib: list[float] = field(default_factory=list)  # cold pages that are in the cache afterwards


Start = Callable[[], subprocess.Popen[Any] | None]


def main(small: bool) -> str:
    """Prints a line per neighbour; returns a hash of how many records a whole pass of the scrubber verified."""
    rounds, seconds = (1, 0.2) if small else (5, 5.0)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as directory:
        root = Path(directory)
        disk = _write(root, MIB if small else 256 * MIB, files=4 if small else 16)
        neighbours: dict[str, Start] = {"nobody": lambda: None}
        neighbours |= {name: partial(_scrubber, root / name, disk, *how) for name, how in SCRUBBERS.items()}
        neighbours |= {f"{name}, idle class": partial(_command, name, disk) for name in ("sha256sum", "cat")}
        figures = {name: Figures() for name in neighbours}
        for _ in range(rounds):
            for name, start in neighbours.items():
                _measure(start, disk, seconds, figures[name])
        _print(figures)
        records = _whole_pass(root / "whole", disk)
    print(f"\n  a whole pass verified {records} of {disk.records} records")
    return hashlib.sha256(str(records).encode()).hexdigest()[:16]


def _write(root: Path, file_bytes: int, files: int) -> Disk:
    store, log, records = root / "store", bytearray(), 0
    while len(log) < file_bytes:
        log += encode(random.Random(records % 16).randbytes(RECORD_BYTES), len(log))
        records += 1
    store.mkdir()
    paths = [store / f"{number:02d}" for number in range(files)]
    busy = root / "busy"
    for path in (*paths, busy):
        path.write_bytes(log)
        os.utime(path, (1e9, 1e9))  # nobody is writing it
    os.sync()
    return Disk(store, paths[1:], paths[0], busy, files * records)


def _scrubber(root: Path, disk: Disk, rate_mib_s: float, pressure_max_percent: float) -> subprocess.Popen[Any]:
    """A scrubber that has just begun a pass."""
    for old in root.glob("state/**/*"):
        if old.is_file():
            old.unlink()
    store = {"path": str(disk.store), "rate_mib_s": rate_mib_s, "pressure_max_percent": pressure_max_percent}
    config = Daemon(root, "scrubd", stores=[store]).write_config()
    command = [sys.executable, "-m", "flipwatch", "scrubd", "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    eventually(lambda: (root / "state/scrub").is_dir() and _progress(root, disk))
    return process


def _progress(root: Path, disk: Disk) -> dict[str, Any]:
    journal = JournalReader(root / "state/scrub")
    journal.refresh()
    return dict(journal.state.get(f"store/{disk.store}", {}))


def _command(name: str, disk: Disk) -> subprocess.Popen[Any]:
    """What people do instead, as politely as they can."""
    command = ["nice", "-n", "10", "ionice", "-c", "3", name, *map(str, disk.cold), str(disk.hot)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _measure(start: Start, disk: Disk, seconds: float, figures: Figures) -> None:
    """One turn of a neighbour: until the time is over, or it has read everything."""
    _evict([*disk.cold, disk.busy])
    disk.hot.read_bytes()
    hot_before, cold_before = resident_pages(disk.hot), sum(map(resident_pages, disk.cold))
    process = start()
    before = _used(process)
    _foreground(disk, time.monotonic() + seconds, process, figures)
    after = _used(process)
    if process is not None:
        process.kill()
        process.wait()
    figures.cpu_s += after[0] - before[0]
    figures.read_bytes += after[1] - before[1]
    figures.hot_kept.append(resident_pages(disk.hot) / hot_before)
    cold = sum(map(resident_pages, disk.cold)) - cold_before
    figures.brought_in_mib.append(cold * PAGE_BYTES / MIB)


def _evict(paths: list[Path]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def _foreground(disk: Disk, end_s: float, process: subprocess.Popen[Any] | None, figures: Figures) -> None:
    """Reads 4 KiB at random, in turn past the cache and from it."""
    rng = random.Random(1)
    direct, cached = os.open(disk.busy, os.O_RDONLY | os.O_DIRECT), os.open(disk.hot, os.O_RDONLY)
    pages = disk.hot.stat().st_size // PAGE_BYTES
    with mmap.mmap(-1, PAGE_BYTES) as page:
        while time.monotonic() < end_s and not _has_ended(process):
            for fd, times_us in ((direct, figures.disk_us), (cached, figures.cache_us)):
                offset = rng.randrange(pages) * PAGE_BYTES
                begun_s = time.perf_counter()
                os.preadv(fd, [page], offset)
                times_us.append(1e6 * (time.perf_counter() - begun_s))
    os.close(direct)
    os.close(cached)


def _has_ended(process: subprocess.Popen[Any] | None) -> bool:
    """Whether it has, while what it used can still be read."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return process is not None and os.waitid(os.P_PID, process.pid, flags) is not None


def _used(process: subprocess.Popen[Any] | None) -> tuple[float, int]:
    """Seconds on a processor, and bytes read by system calls: proc(5)."""
    if process is None:
        return 0.0, 0
    proc = Path(f"/proc/{process.pid}")
    words = (proc / "stat").read_text().rpartition(")")[2].split()
    rchar = (proc / "io").read_text().split()[1]
    return (int(words[11]) + int(words[12])) / TICKS_PER_S, int(rchar)


def _print(figures: dict[str, Figures]) -> None:
    titles = ("p50 us", "p99 us", "p99 x", "cached p99", "x", "hot kept", "MiB cached", "MiB read", "CPU s/TB")
    print(f"  {'a 4 KiB read beside':34s}" + "".join(f"{title:>11s}" for title in titles))
    alone = figures["nobody"]
    for name, seen in figures.items():
        disk_p99, cache_p99 = _p99(seen.disk_us), _p99(seen.cache_us)
        cells = [f"{statistics.median(seen.disk_us):.0f}", f"{disk_p99:.0f}", f"{disk_p99 / _p99(alone.disk_us):.2f}"]
        cells += [
            f"{cache_p99:.1f}",
            f"{cache_p99 / _p99(alone.cache_us):.2f}",
            f"{statistics.mean(seen.hot_kept):.2%}",
        ]
        cells += [f"{sum(seen.brought_in_mib):.0f}", f"{seen.read_bytes / MIB:.0f}"]
        cells += [f"{seen.cpu_s / seen.read_bytes * 1e12:.0f}" if seen.read_bytes else "-"]
        print(f"  {name:34s}" + "".join(f"{cell:>11s}" for cell in cells))


def _p99(times_us: list[float]) -> float:
    return sorted(times_us)[len(times_us) * 99 // 100]


def _whole_pass(root: Path, disk: Disk) -> int:
    process = _scrubber(root, disk, 1e6, 100)
    try:
        progress = eventually(lambda: (now := _progress(root, disk))["finished_ns"] and now)
        return int(progress["verified"]["leveldb-log"])
    finally:
        process.kill()
        process.wait()
