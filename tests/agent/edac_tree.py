"""Sysfs trees as EDAC drivers make them: one to be polled, injected into and reset, and those of a real kernel."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "fixtures/edac"  # see its README


def unpack(fixture: Path, directory: Path) -> None:
    """Writes the files of a fixture below `directory`, which stands for the kernel's `edac/mc`."""
    for line in fixture.read_text().splitlines():
        name, _, content = line.partition("\t")
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")


@dataclass
class Controller:
    """One mc*. `places` are dimm/rank directories by name; `rows` are csrow*: channels."""

    directory: Path
    places: dict[str, str] = field(default_factory=dict)  # directory name -> dimm_location
    rows: dict[str, int] = field(default_factory=dict)  # csrow name -> number of channels

    def set(self, name: str, value: object) -> None:
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")

    def get(self, name: str) -> int:
        return int((self.directory / name).read_text())

    def create(self, seconds_since_reset: int | None = 30 * 86400) -> "Controller":
        for name in ("ce_count", "ue_count", "ce_noinfo_count", "ue_noinfo_count"):
            self.set(name, 0)
        if seconds_since_reset is not None:
            self.set("seconds_since_reset", seconds_since_reset)
        for name, location in self.places.items():
            self.set(f"{name}/dimm_ce_count", 0)
            self.set(f"{name}/dimm_ue_count", 0)
            self.set(f"{name}/dimm_label", f"label of {name}")
            self.set(f"{name}/dimm_location", location + " ")
            self.set(f"{name}/size", 16384)
        for row, channels in self.rows.items():
            self.set(f"{row}/ce_count", 0)
            self.set(f"{row}/ue_count", 0)
            for channel in range(channels):
                self.set(f"{row}/ch{channel}_ce_count", 0)
                self.set(f"{row}/ch{channel}_dimm_label", f"{row} {channel}")
        return self

    def add(self, name: str, count: int) -> None:
        self.set(name, (self.get(name) + count) % 2**32)

    def inject(self, place: str, count: int = 1, kind: str = "ce") -> None:
        """As edac_raw_mc_handle_error counts: the total first, then the place, in both views."""
        self.add(f"{kind}_count", count)
        self.add(f"{place}/dimm_{kind}_count", count)

    def inject_row(self, row: str, channel: int, count: int = 1, kind: str = "ce") -> None:
        self.add(f"{kind}_count", count)
        self.add(f"{row}/{kind}_count", count)
        if kind == "ce":
            self.add(f"{row}/ch{channel}_ce_count", count)

    def inject_noinfo(self, count: int = 1, kind: str = "ce") -> None:
        self.add(f"{kind}_count", count)
        self.add(f"{kind}_noinfo_count", count)

    def reset(self, seconds_since_reset: int = 0) -> None:
        """As reset_counters or a reload of the driver leave it."""
        self.create(seconds_since_reset)

    def remove(self) -> None:
        shutil.rmtree(self.directory)


def dimms(channels: int = 2, slots: int = 2) -> dict[str, str]:
    numbers = ((channel, slot) for channel in range(channels) for slot in range(slots))
    return {f"dimm{n}": f"channel {channel} slot {slot}" for n, (channel, slot) in enumerate(numbers)}


def controller(sysfs: Path, index: int = 0, **parts: dict) -> Controller:
    directory = sysfs / "devices/system/edac/mc" / f"mc{index}"
    return Controller(directory, **(parts or {"places": dimms()}))


def total(controllers: Iterator[Controller], kind: str = "ce") -> int:
    return sum(entry.get(f"{kind}_count") for entry in controllers)
