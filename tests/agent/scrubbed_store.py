"""A store of logs, its scrubber in this process, and what its journal says.

Enters: settings and the bytes of files. Leaves: the faults and metrics of each pass.
"""

import os
import time
from pathlib import Path

from agent import config
from agent.journal import JournalReader
from agent.metrics import AgentCollector, View
from agent.report import RecordFault
from agent.scrubd import Scrubber, StoreScrub
from checksum import leveldb_log

REST_S = 1000.0  # older than the settling time


def log_of(count: int, size: int = 900) -> tuple[bytes, list[int]]:
    """A log of `count` records, and the offset of a byte in the middle of each."""
    data, middles = bytearray(), []
    for number in range(count):
        record = leveldb_log.encode(number.to_bytes(4, "little") * (size // 4), len(data))
        middles.append(len(data) + len(record) // 2)
        data += record
    return bytes(data), middles


def store_settings(path: Path) -> dict:
    return {
        "path": str(path),
        "rate_mib_s": 1000,
        "period_days": 1e-5,
        "settle_s": 0,
        "pressure_max_percent": 100,
    }


class Store:
    """A store, its scrubber in this process, and what its journal says."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.path = root / "store"
        self.path.mkdir()
        lines = [f"path = '{self.path}'", "rate_mib_s = 1e6", "pressure_max_percent = 100", "period_days = 1e-5"]
        lines += [f"{key} = {value}" for key, value in settings.items()]
        toml = root / "agent.toml"
        toml.write_text(f"[agent]\nhost = 'h1'\nstate_dir = '{root}/state'\n[[store]]\n" + "\n".join(lines) + "\n")
        self.config = config.load(toml)
        self.scrubber = Scrubber(self.config)

    def write(self, name: str, data: bytes, rests_s: float = REST_S) -> Path:
        path = self.path / name
        path.write_bytes(data)
        self.rest(path, rests_s)
        return path

    def rest(self, path: Path, rests_s: float = REST_S) -> None:
        os.utime(path, (time.time() - rests_s,) * 2)

    def flip(self, path: Path, offset: int, bit: int = 3) -> None:
        status = path.stat()
        with path.open("rb+") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1 << bit]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # damage leaves no mark

    def scrub(self) -> list[RecordFault]:
        """One pass; the faults it adds."""
        before = len(self.faults())
        StoreScrub(self.scrubber, self.config.stores[0])._pass()
        return self.faults()[before:]

    def faults(self) -> list[RecordFault]:
        reader = JournalReader(self.config.scrub_journal_dir)
        reader.refresh()
        return reader.faults({}, 100_000)

    def reopen(self) -> None:
        self.scrubber._journal.close()
        self.scrubber = Scrubber(self.config)

    def state(self, key: str) -> dict:
        return self.scrubber.state[key]

    @property
    def progress(self) -> dict:
        return self.state(f"store/{self.path}")

    def corrupt(self) -> dict[str, float]:
        """flipwatch_records_corrupt by verdict, without the zeros."""
        return self._metric("flipwatch_records_corrupt", "verdict")

    def found(self) -> dict[str, float]:
        """flipwatch_records_corrupt_found_total by layer, without the zeros."""
        return self._metric("flipwatch_records_corrupt_found", "layer")

    def _metric(self, name: str, label: str) -> dict[str, float]:
        view = View(time.time_ns(), {}, self.scrubber.state, {}, 0, 0, 0, True, False)
        families = {family.name: family for family in AgentCollector(lambda: view).collect()}
        return {sample.labels[label]: sample.value for sample in families[name].samples if sample.value}
