"""The pretend hardware of the demonstration: sysfs trees, record stores, cosmic rays and tired disks.

Enters: a directory and a random generator. Leaves: files as EDAC drivers and LevelDB would make them, errors counted as
the kernel counts them, and flipped bits that leave the file's time of modification alone, as rot does. What was done is
returned, so that the demonstration can compare it with what flipwatch says.
"""

import math
import os
import random
from dataclasses import dataclass
from pathlib import Path

from checksum import leveldb_log

# name -> (town, latitude and longitude in degrees, altitude in metres)
CLUSTERS = {
    "ams": ("Amsterdam", 52.37, 4.90, 0),
    "bom": ("Mumbai", 19.08, 72.88, 14),
    "cbf": ("Council Bluffs", 41.26, -95.86, 332),
    "dls": ("The Dalles", 45.59, -121.18, 33),
    "gru": ("São Paulo", -23.55, -46.63, 760),
    "hel": ("Helsinki", 60.17, 24.94, 26),
    "jnb": ("Johannesburg", -26.20, 28.05, 1753),
    "nrt": ("Tokyo", 35.68, 139.69, 40),
    "scl": ("Santiago", -33.45, -70.67, 570),
    "sin": ("Singapore", 1.35, 103.82, 15),
    "syd": ("Sydney", -33.87, 151.21, 58),
    "tlv": ("Tel Aviv", 32.09, 34.78, 5),
}
HOSTS_PER_CLUSTER = 2
CONTROLLERS, CHANNELS, SLOTS = 2, 4, 2
DIMMS_PER_HOST = CONTROLLERS * CHANNELS * SLOTS
DIMM_MIB = 16384
RESET_DAYS_AGO = 30  # the counters' epoch: long enough for seven proven quiet days
STORE_FILES, RECORDS_PER_FILE = 2, 400
SETTLED_DAYS_AGO = 2  # the stores' files were last written then

BURST_FAULTS_AT_ZENITH = 24
MEMBER_FAULTS_MIN = 3


@dataclass(frozen=True)
class Host:
    name: str
    cluster: str
    directory: Path

    @property
    def sysfs(self) -> Path:
        return self.directory / "sys"

    @property
    def store(self) -> Path:
        return self.directory / "records"


@dataclass(frozen=True)
class Flip:
    """One bit turned over on disk; `stored` is the wrong value that stands there now."""

    path: Path
    offset_bytes: int
    bit: int
    stored: int


@dataclass(frozen=True)
class Source:
    """A direction in the sky, told by the point on the ground that it stands above."""

    latitude_deg: float
    longitude_deg: float

    def cosine(self, latitude_deg: float, longitude_deg: float) -> float:
        """Of the angle between this direction and the zenith of a place."""
        here, there = math.radians(latitude_deg), math.radians(self.latitude_deg)
        around = math.radians(longitude_deg - self.longitude_deg)
        return math.sin(here) * math.sin(there) + math.cos(here) * math.cos(there) * math.cos(around)


def build_host(name: str, cluster: str, directory: Path, now_s: float, rng: random.Random) -> Host:
    host = Host(name, cluster, directory)
    for controller in range(CONTROLLERS):
        tree = _controller(host, controller)
        for file in ("ce_count", "ue_count", "ce_noinfo_count", "ue_noinfo_count"):
            _write(tree / file, 0)
        _write(tree / "seconds_since_reset", RESET_DAYS_AGO * 86400)
        for dimm in range(CHANNELS * SLOTS):
            channel, slot = divmod(dimm, SLOTS)
            _write(tree / f"dimm{dimm}/dimm_ce_count", 0)
            _write(tree / f"dimm{dimm}/dimm_ue_count", 0)
            _write(tree / f"dimm{dimm}/dimm_label", f"CPU{controller}_DIMM_{'ABCD'[channel]}{slot + 1}")
            _write(tree / f"dimm{dimm}/dimm_location", f"channel {channel} slot {slot} ")
            _write(tree / f"dimm{dimm}/size", DIMM_MIB)
    host.store.mkdir(parents=True)
    for number in range(STORE_FILES):
        _write_records(host.store / f"{number:06d}.log", rng, now_s)
    return host


def burst_source(rng: random.Random) -> Source:
    """A direction that enough of the clusters face, and enough don't."""
    while True:
        source = Source(math.degrees(math.asin(rng.uniform(-0.8, 0.8))), rng.uniform(-180, 180))
        facing = [count for count in burst_faults(source).values() if count >= MEMBER_FAULTS_MIN]
        if 5 <= len(facing) <= len(CLUSTERS) - 4:
            return source


def burst_faults(source: Source) -> dict[str, int]:
    """Cluster -> how many of its DIMMs are hit: as many as the flux through a horizontal board there."""
    expected = {
        name: BURST_FAULTS_AT_ZENITH * source.cosine(latitude, longitude)
        for name, (_, latitude, longitude, _) in CLUSTERS.items()
    }
    return {name: round(value) for name, value in expected.items() if round(value) > 0}


def count_error(host: Host, dimm: int, count: int, kind: str = "ce") -> None:
    """`count` errors on DIMM number `dimm` of the host, in the kernel's order: first the total, then the place."""
    controller, number = divmod(dimm, CHANNELS * SLOTS)
    tree = _controller(host, controller)
    for file in (tree / f"{kind}_count", tree / f"dimm{number}/dimm_{kind}_count"):
        _write(file, int(file.read_text()) + count)


def flip_bit(path: Path, rng: random.Random) -> Flip:
    """Turns one random bit of the file over and leaves its time of modification as it was."""
    status = path.stat()
    offset, bit = rng.randrange(status.st_size), rng.randrange(8)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0] ^ 1 << bit
        file.seek(offset)
        file.write(bytes([byte]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return Flip(path, offset, bit, byte >> bit & 1)


def _controller(host: Host, index: int) -> Path:
    return host.sysfs / f"devices/system/edac/mc/mc{index}"


def _write(file: Path, value: object) -> None:
    """Renamed into place, because a reader of a real sysfs never sees half a number either."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}")
    draft.write_text(f"{value}\n")
    draft.rename(file)


def _write_records(path: Path, rng: random.Random, now_s: float) -> None:
    """A log of crawled pages, of sizes as pages have them."""
    log = bytearray()
    for number in range(RECORDS_PER_FILE):
        body = rng.randbytes(int(rng.lognormvariate(6.5, 0.8)))
        log += leveldb_log.encode(b"http://site%d.example/\n\n" % number + body, len(log))
    path.write_bytes(log)
    settled_s = now_s - SETTLED_DAYS_AGO * 86400
    os.utime(path, (settled_s, settled_s))
