"""What is kept of a device's faults so that a person, or a rule, can say how it fails: when, where, how often.

Enters: the faults of one cycle and what is remembered of their devices. Leaves: the devices' evidence, and from it the
mode of failure. Pure. Kept with the device's life: another serial in the same slot begins without any.

The modes are those of field studies (V. Sridharan and D. Liberty, "A study of DRAM failures in the field", SC 2012):
a single bit, a row, a column or a bank that fails again and again; a transient fault that shows once. They need the row
and column, which few witnesses tell; where only a physical address is known, repetition in one place is all that can be
said.

A clock that is set moves the windows of this file with it: they are a day long and heal within one.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent import dram_place
from agent.report import MemoryFault

HOUR_NS, DAY_NS = 3600 * 10**9, 86400 * 10**9
HOURS_KEPT = 25  # those of a day, wherever in its first hour it is asked
PLACES_MAX = 16  # of one device, those seen last
PAGE_SHIFT = 12
BANK_WORDS = ("rank", "chip_id", "device", "bank_group", "bank")

TRANSIENT, SINGLE_BIT, ROW, COLUMN = "transient", "single-bit", "row", "column"
BANK, SEVERAL_BANKS = "bank", "several-banks"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Mode:
    """How a device fails, and the evidence in words."""

    name: str
    why: str


def remember(faults: Iterable[Any], state: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes`, with the evidence of the memory faults among `faults` added to their devices."""
    found = dict(changes)
    for fault in faults:
        key = f"device/{fault.stream}/{fault.device}"
        device = found.get(key, state.get(key))
        if isinstance(fault, MemoryFault) and device is not None:
            found[key] = {**device, "evidence": with_fault(device.get("evidence"), fault)}
    return found


def with_fault(evidence: Mapping[str, Any] | None, fault: MemoryFault) -> dict[str, Any]:
    """The evidence, one fault richer.

    {"first_ns": .., "hours": {hour since 1970: corrected errors},
     "places": [[address, chip, first_ns, last_ns, errors], ..],
     "left_behind": what the last death of the host left, in words; only the host has it}
    """
    known = evidence or {"first_ns": fault.time_ns, "hours": {}, "places": []}
    hours: dict[str, int] = dict(known["hours"])
    if fault.severity == "corrected":
        hour = str(fault.time_ns // HOUR_NS)
        hours[hour] = hours.get(hour, 0) + fault.count
    newest = max((int(hour) for hour in hours), default=0)
    left_behind = fault.detail.get("evidence")
    return {
        "first_ns": min(known["first_ns"], fault.time_ns),
        "hours": {hour: count for hour, count in hours.items() if newest - int(hour) < HOURS_KEPT},
        "places": _with_places(known["places"], fault),
        **({"left_behind": left_behind} if left_behind else {}),
    }


def _with_places(places: list[Any], fault: MemoryFault) -> list[Any]:
    """The places seen last, the latest at the end. The errors of a fault with several places can't be told apart."""
    seen = list(_seen(fault.detail))
    known = {_key(place[0], place[1]): place for place in places}
    for address, chip in seen:
        before = known.pop(_key(address, chip), [address, chip, fault.time_ns, 0, 0])
        count = fault.count if len(seen) == 1 else 1
        known[_key(address, chip)] = [address, chip, before[2], fault.time_ns, before[4] + count]
    return list(known.values())[-PLACES_MAX:]


def _seen(detail: Mapping[str, Any]) -> Iterator[tuple[str | None, dict[str, int]]]:
    """Address and place in the chip; where no place is known, the addresses alone."""
    places = dram_place.of_detail(detail)
    for place in places:
        yield place.get("address"), {word: int(place[word]) for word in dram_place.WORDS if word in place}
    if not places:
        single = detail.get("address")
        for address in detail.get("addresses") or ([single] if single else []):
            yield address, {}


def _key(address: Any, chip: Mapping[str, Any]) -> tuple[Any, ...]:
    return (address, *sorted(chip.items()))


def corrected_last_day(evidence: Mapping[str, Any], now_ns: int) -> int:
    """Corrected errors of the last day, to the hour."""
    first_hour = (now_ns - DAY_NS) // HOUR_NS
    return sum(count for hour, count in evidence["hours"].items() if int(hour) > first_hour)


def most_on_a_page_last_day(evidence: Mapping[str, Any], now_ns: int) -> int:
    """The errors on the worst 4 KiB page, of the addresses seen in the last day."""
    pages: dict[int, int] = {}
    for address, _, _, last_ns, count in evidence["places"]:
        if address is not None and now_ns - last_ns < DAY_NS:
            page = int(address, 16) >> PAGE_SHIFT
            pages[page] = pages.get(page, 0) + count
    return max(pages.values(), default=0)


def mode(evidence: Mapping[str, Any]) -> Mode:
    """How the device fails, as far as the kept places tell."""
    places = evidence["places"]
    chips = [chip for _, chip, *_ in places if chip]
    errors = sum(place[4] for place in places)
    if not places:
        return Mode(UNKNOWN, "no witness told where")
    if errors == 1:
        return Mode(TRANSIENT, "one error, not repeated")
    if len(places) == 1:
        return Mode(SINGLE_BIT, f"{errors} errors at one place")
    if len(chips) < len(places):
        return Mode(UNKNOWN, f"{len(places)} addresses, and no witness told row and column")
    return _mode_of_chips(chips, errors)


def _mode_of_chips(chips: list[dict[str, int]], errors: int) -> Mode:
    banks = {tuple(chip.get(word) for word in BANK_WORDS) for chip in chips}
    rows = {chip.get("row") for chip in chips}
    columns = {chip.get("column") for chip in chips}
    counted = f"{len(rows)} rows and {len(columns)} columns"
    if len(banks) > 1:
        return Mode(SEVERAL_BANKS, f"{counted} in {len(banks)} banks")
    if None in rows | columns:
        return Mode(UNKNOWN, f"{len(chips)} places in one bank, and no witness told both row and column")
    if len(rows) > 1 and len(columns) > 1:
        return Mode(BANK, f"{counted} of one bank")
    if len(rows) > 1:
        return Mode(COLUMN, f"{len(rows)} rows, one column")
    if len(columns) > 1:
        return Mode(ROW, f"one row, {len(columns)} columns")
    return Mode(SINGLE_BIT, f"{errors} errors at one row and column")
