"""Which part physically: the memory modules that the firmware lists, joined to the places that EDAC counts errors of.

Enters: the firmware's table (SMBIOS), and devices as the sources name them. Leaves: the same devices with slot, serial
and part number where exactly one module can be meant. `read` does io once at the start, because the table never changes
while the machine is up; all else is pure.

EDAC knows controller, channel and slot, or chip select and channel; the firmware knows what is printed on the board.
What ties them together, in this order:

    label     the label of the place, which the driver, `ras-mc-ctl --register-labels` or a udev rule sets, is the
              module's locator
    place     both say controller, channel and slot in words ("Controller0-ChannelA-DIMM0"). Believed only where a
              controller has at most two channels: with more, boards letter the channels in orders of their own
    size      a module of this size

Each narrows the modules that can be meant. A name for the wrong module gets a healthy one thrown out, so a module that
is left for two places is neither's, and whatever remains ambiguous is said to be so.

Firmware that takes errors first names the module itself, in the words of its table: `fru/DIMM_A2`.

Drivers that count by chip select show the ranks of one module apart: two chip selects on one channel are one module
(Documentation/admin-guide/ras.rst of the Linux kernel; amd64_edac, ie31200_edac).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from agent import smbios
from agent.observation import Device, Poll
from agent.smbios import Module, Table

STREAM = "dram"
TABLE_BYTES_MAX = 1 << 20  # the largest seen are some 30 KiB
NAMED_MAX = 4  # more modules than these aren't listed one by one
CHANNELS_MAX = 2  # per controller, see "place" above
CHIP_SELECTS = 2  # of one module
NAMES_MAX = 1024  # whose place is remembered, because all are asked for at every poll

Place = tuple[tuple[str, int], ...]  # layer and number


@dataclass(frozen=True, slots=True)
class Inventory:
    table: Table = Table()
    trouble: str | None = None  # why there's no table, or not all of it

    @property
    def populated(self) -> tuple[Module, ...]:
        return tuple(module for module in self.table.modules if module.size_bytes != 0)

    @property
    def lack(self) -> str | None:
        """What isn't known of the modules, and why, in one sentence."""
        if self.trouble is None:
            return None
        return f"{'not all' if self.populated else 'no'} slots and serial numbers are known: {self.trouble}"

    @property
    def has_no_ecc(self) -> bool:
        """The firmware says so; where it says nothing that isn't known."""
        return self.table.error_correction == "none" and not any(module.has_ecc_bits for module in self.populated)

    @property
    def part_numbers(self) -> list[str]:
        """Each kind of module once: whether a part fails more often than others takes all hosts that have it."""
        return sorted({module.part for module in self.populated if module.part})


@dataclass(frozen=True, slots=True)
class Stick:
    """The devices of one module, and the modules it may be; `evidence` says by what."""

    devices: tuple[Device, ...]
    modules: tuple[Module, ...]
    evidence: str

    @property
    def module(self) -> Module | None:
        return self.modules[0] if len(self.modules) == 1 else None


def read(sysfs: Path) -> Inventory:
    """The firmware's table, which only root or CAP_DAC_READ_SEARCH may read."""
    file = sysfs / "firmware/dmi/tables/DMI"
    try:
        with file.open("rb") as stream:
            table = smbios.parse(stream.read(TABLE_BYTES_MAX))
    except FileNotFoundError:
        return Inventory(trouble=f"{file}: this machine's firmware offers no SMBIOS table")
    except OSError as error:
        return Inventory(trouble=f"{file}: {error.strerror}; it needs root or CAP_DAC_READ_SEARCH")
    damage = f"{file}: damaged, read up to there; a newer BIOS may mend it"
    return Inventory(table, damage if table.is_damaged else None)


def with_parts(poll: Poll, inventory: Inventory) -> Poll:
    """The poll, its memory devices with slot, serial and part number."""
    memory = tuple(device for device in poll.devices if device.stream == STREAM)
    if not memory or not inventory.populated:
        return poll
    known = {device.name: stick.modules for stick in sticks(memory, inventory.populated) for device in stick.devices}
    return replace(poll, devices=tuple(_with_part(device, known, inventory) for device in poll.devices))


def _with_part(device: Device, known: Mapping[str, tuple[Module, ...]], inventory: Inventory) -> Device:
    if device.stream != STREAM:
        return device
    modules = known[device.name] if device.name in known else labelled([device.label], inventory.populated)
    if not modules:
        return device
    slot = slot_text(modules, inventory.populated)
    if len(modules) > 1:
        return replace(device, slot=slot)
    return replace(device, slot=slot, serial=modules[0].serial, part=modules[0].part)


def slot_text(modules: tuple[Module, ...], populated: tuple[Module, ...]) -> str:
    """What is printed beside the slot; "A1 or A2" if it can't be told, "one of 12" if even that would be long."""
    if len(modules) > NAMED_MAX:
        return f"one of {len(modules)}"
    locators = [module.locator for module in populated]
    return " or ".join(
        module.locator if locators.count(module.locator) == 1 else f"{module.bank} {module.locator}".strip()
        for module in modules
    )


@lru_cache(maxsize=1)  # asked at every poll, changed by a driver's reload at most
def sticks(devices: tuple[Device, ...], modules: tuple[Module, ...]) -> tuple[Stick, ...]:
    """The devices, ranks of one module together, and what module each is; unknown places belong to none."""
    places: dict[Place, list[Device]] = {}
    for device in devices:
        place = place_of(device.name)
        if place:
            places.setdefault(place, []).append(device)
    named = {place: labelled([device.label for device in ranks], modules) for place, ranks in places.items()}
    taken = [found[0] for found in named.values() if len(found) == 1]
    free = tuple(module for module in modules if module not in taken)
    has_few_channels = max((dict(place).get("channel", 0) for place in places), default=0) < CHANNELS_MAX
    found = [
        Stick(tuple(ranks), named[place], "label")
        if named[place]
        else Stick(tuple(ranks), *_narrowed(dict(place), ranks, free, has_few_channels))
        for place, ranks in places.items()
    ]
    return tuple(_unless_claimed_twice(stick, found) for stick in found)


def _unless_claimed_twice(stick: Stick, found: list[Stick]) -> Stick:
    rivals = [other for other in found if stick.module is not None and other.module == stick.module]
    if len(rivals) < 2:
        return stick
    return Stick(stick.devices, (), f"{len(rivals)} places go by {stick.evidence} with one module")


@lru_cache(maxsize=NAMES_MAX)
def place_of(name: str) -> Place:
    """mc0/channel1/slot0 as (("channel", 1), ("mc", 0), ("slot", 0)); two chip selects are one slot.

    Empty for what is no place of EDAC's.
    """
    parts = [re.fullmatch(r"([a-z]+)(\d+)", part) for part in name.split("/")]
    layers = {part[1]: int(part[2]) for part in parts if part}
    if len(layers) < len(parts) or len(layers) < 2 or "mc" not in layers:
        return ()
    if "csrow" in layers:
        layers["slot"] = layers.pop("csrow") // CHIP_SELECTS
    return tuple(sorted(layers.items()))


def labelled(labels: Iterable[str], modules: tuple[Module, ...]) -> tuple[Module, ...]:
    """The modules that one of the labels names."""
    plain = {_plain(label) for label in labels} - {""}
    return tuple(module for module in modules if plain & _names(module)) if plain else ()


def _narrowed(
    place: dict[str, int], ranks: list[Device], modules: tuple[Module, ...], has_few_channels: bool
) -> tuple[tuple[Module, ...], str]:
    """The modules that an unlabelled place may be, and by what they were told from the others."""
    evidence = []
    placed = tuple(module for module in modules if _agrees(_coordinates(module), place))
    if placed and has_few_channels:
        modules, evidence = placed, ["place"]
    sizes = [device.size_bytes for device in ranks]
    sized = tuple(module for module in modules if module.size_bytes == sum(size or 0 for size in sizes))
    if sized and None not in sizes:
        modules, evidence = sized, [*evidence, "size"]
    return modules, " and ".join(evidence) or "presence"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def _names(module: Module) -> set[str]:
    return {_plain(module.locator), _plain(module.bank + module.locator), _plain(module.locator + module.bank)} - {""}


# The words for a layer in the names that boards give to slots and banks.
_WORDS = {
    "mc": r"(?:controller|imc|mc)[ _#-]*(\d+)",
    "channel": r"(?:channel|chan|ch)[ _#-]*([a-h]|\d+)(?![a-z])",
    "slot": r"(?:dimm|slot)[ _#-]*(\d+)",
}


def _coordinates(module: Module) -> dict[str, int]:
    """Where its names say in words that it sits: "Controller1-ChannelB-DIMM0" is mc 1, channel 1, slot 0."""
    text = f"{module.bank} {module.locator}".casefold()
    found = {layer: re.search(pattern, text) for layer, pattern in _WORDS.items()}
    values = {layer: match[1] for layer, match in found.items() if match}
    return {layer: int(value) if value.isdigit() else ord(value) - ord("a") for layer, value in values.items()}


def _agrees(coordinates: dict[str, int], place: dict[str, int]) -> bool:
    """Both know the channel, and nothing that both know differs."""
    return "channel" in coordinates and all(
        coordinates[layer] == place[layer] for layer in coordinates.keys() & place.keys()
    )
