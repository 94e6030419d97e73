"""The kernel's EDAC counters: `<sysfs>/devices/system/edac/mc/mc*`.

Enters: the sysfs root, this source's cursor and the moment. Leaves: a Poll. Format: Documentation/admin-guide/ras.rst
and Documentation/ABI/testing/sysfs-devices-edac of the Linux kernel.

    mc0/ce_count, ue_count                every error of the controller
    mc0/ce_noinfo_count, ue_noinfo_count  those whose place is unknown
    mc0/dimm*|rank*/dimm_{ce,ue}_count    those of one place      } two views of the same errors: the first is read,
    mc0/csrow*/ch*_ce_count, ue_count     those of one place      } the second only where the first doesn't exist

Each error is booked once. The kernel raises the total before the place, and the total is read last here, so the surplus
of the total over its places (`mc0/unknown` among them, which holds those without information) is never negative. For an
instant it holds the errors that a place is about to show, therefore it is booked, on `mc0/unknown`, only when two polls
have seen it. If a place shows later what had been booked there (its file was unreadable for a while), the place's
difference is lowered by as much.

The places of a controller are many, and all stand still while its total does, because the kernel raises the total
first. So, for at most GLANCES_S, a controller whose every error has been booked gets but a glance: its own files are
read, and only if one of them shows something new its places are. Labels, and files that vanish, are noticed within that
time.

An epoch is the lifetime of the counters. A new one begins iff the boot differs or the reset lies later than the
previous poll (2 s tolerance, because the kernel tells whole seconds). Inside an epoch a fall is a wrap of the unsigned
32-bit counter if that is the shorter way, otherwise a reset that the kernel didn't date (it fell into the tolerance, or
the driver has no seconds_since_reset).

The cursor of a controller: its epoch; "counts", what each counter showed when it was last read; "unread", when that
was, for those that couldn't be read at the previous poll; "names", the device of each place; "surplus", the part of it
that is "surplus_booked", and "arisen", the last time at which what isn't booked yet wasn't there. Times are on
CLOCK_BOOTTIME, which is comparable as long as the epoch lasts.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.observation import CORRECTED, NOT_CORRECTED, Device, FirstSight, Gap, Moment, Observation, Poll

STREAM = "dram"
MIB = 1 << 20
WRAP = 1 << 32
SECOND_NS = 10**9
EPOCH_TOLERANCE_NS = 2 * SECOND_NS
GLANCES_S = 60  # between two readings of every place
ATTEMPTS = 3
FILE_BYTES_MAX = 4096  # a sysfs attribute is at most one page
LABEL_CHARACTERS_MAX = 128

KINDS = {"ce": ("corrected", CORRECTED), "ue": ("uncorrected", NOT_CORRECTED)}
TOTAL = "total"

Counts = dict[str, int]  # "ce" | "ue" -> errors; a kind that couldn't be read, or doesn't exist there, is absent


@dataclass(frozen=True, slots=True)
class _Place:
    entry: str  # its directory, or directory and file
    device: Device
    counts: Counts


@dataclass(frozen=True, slots=True)
class _Reading:
    """All of one controller's files, as they were at this poll."""

    places: tuple[_Place, ...]
    total: Counts
    noinfo: Counts
    seconds_since_reset: int | None
    trouble: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Epoch:
    id: str
    start_boottime_ns: int
    is_new: bool
    gap_ns: tuple[int, int] | None  # wall clock: between the last poll of the old epoch and the beginning of this one
    proven_ns: int  # wall clock: a counter that is zero has been zero since then


@dataclass(frozen=True, slots=True)
class _Glance:
    """What a controller's places were when all were read, and nothing was in trouble or open."""

    devices: tuple[Device, ...]
    boottime_ns: int


Glances = dict[Path, _Glance]  # by controller; of one process, which begins with a reading of everything


def poll(sysfs: Path, cursor: dict[str, Any], now: Moment, glances: Glances | None = None) -> Poll:
    """One look at every controller. A controller in trouble keeps its old cursor and hides no other.

    Without `glances`, which it keeps up to date, every place is read.
    """
    glances = {} if glances is None else glances
    root = sysfs / "devices/system/edac/mc"
    try:
        directories = sorted(entry for entry in root.iterdir() if re.fullmatch(r"mc\d+", entry.name))
    except FileNotFoundError:
        directories = []
    except OSError as error:
        return Poll(cursor=cursor, trouble=(f"{root}: {error.strerror}",), blind="unreadable")
    if not directories:
        return Poll(cursor=cursor, blind="no-driver")

    new_cursor = {**cursor, "polled": dict(cursor.get("polled", {}))}
    parts: list[Poll] = []
    for directory in directories:
        name = directory.name
        part = _poll_controller(directory, cursor.get(name), cursor.get("polled", {}).get(name), glances, now)
        parts.append(part)
        if part.cursor:
            new_cursor[name] = part.cursor
            new_cursor["polled"][name] = {"time_ns": now.time_ns, "boottime_ns": now.boottime_ns}
    return Poll(
        cursor=new_cursor,
        observations=tuple(item for part in parts for item in part.observations),
        devices=tuple(item for part in parts for item in part.devices),
        first_sights=tuple(item for part in parts for item in part.first_sights),
        gaps=tuple(item for part in parts for item in part.gaps),
        trouble=tuple(sentence for part in parts for sentence in part.trouble),
        blind="unreadable" if all(not part.devices for part in parts) else None,
    )


def _poll_controller(directory: Path, old: Any, polled: Any, glances: Glances, now: Moment) -> Poll:
    """Without a cursor if there is nothing to count."""
    glance = glances.pop(directory, None)
    if glance is not None and old is not None and _stands_still(directory, old, polled, glance, now):
        glances[directory] = glance
        return Poll(cursor=old, devices=glance.devices)
    reading = _read_controller(directory, _names(old, now))
    if not reading.total and not any(place.counts for place in reading.places):
        return Poll(cursor={}, trouble=reading.trouble or (f"{directory}: no counters",))
    part = _book(directory.name, reading, old, polled, now)
    is_open = part.trouble or part.cursor["unread"] or part.cursor["arisen"] or _is_split(reading)
    if reading.total.keys() == KINDS.keys() and not is_open:
        glances[directory] = _Glance(part.devices, now.boottime_ns)
    return part


def _stands_still(directory: Path, old: Any, polled: Any, glance: _Glance, now: Moment) -> bool:
    """The controller's own files show what they did at the previous poll, in the same epoch."""
    if now.boottime_ns - glance.boottime_ns >= GLANCES_S * SECOND_NS:
        return False
    reading = _read_itself(directory, (), [])
    is_same = reading.total == old[TOTAL] and reading.noinfo == old["counts"].get(f"{directory.name}/unknown")
    return is_same and not (reading.trouble or _epoch(directory.name, reading, old, polled, now).is_new)


# --- reading -----------------------------------------------------------------------------------------------------


def _names(old: Any, now: Moment) -> dict[str, str]:
    """Which device each place was at the previous poll; a new boot may have another driver."""
    return old["names"] if old is not None and old["boot_id"] == now.boot_id else {}


def _read_controller(directory: Path, names: Mapping[str, str]) -> _Reading:
    """All counters at one time: read again if they were reset in the middle."""
    for _ in range(ATTEMPTS):
        reading = _read_once(directory, names)
        if not _is_split(reading):
            break
    return reading  # a driver whose numbers never add up is believed as it is


def _read_once(directory: Path, names: Mapping[str, str]) -> _Reading:
    trouble: list[str] = []
    has_rows = any(entry.startswith("csrow") for entry in names)
    places = () if has_rows else tuple(_dimms(directory, names, trouble))
    if has_rows or not (places or names):  # once chosen, a view is kept: the other one shows the same errors again
        places = tuple(_csrows(directory, trouble))
    return _read_itself(directory, places, trouble)


def _read_itself(directory: Path, places: tuple[_Place, ...], trouble: list[str]) -> _Reading:
    """The controller's own files, after those of its places."""
    noinfo = _counts(directory, {"ce": "ce_noinfo_count", "ue": "ue_noinfo_count"}, trouble)
    seconds_since_reset = _number(directory / "seconds_since_reset", [])  # some drivers have none
    total = _counts(directory, {"ce": "ce_count", "ue": "ue_count"}, trouble)  # last: see the picture above
    return _Reading(places, total, noinfo, seconds_since_reset, tuple(trouble))


def _is_split(reading: _Reading) -> bool:
    """Places that show more than their total were read before a reset, and the total after it."""
    counts = {place.entry: place.counts for place in reading.places}
    return any(value < 0 for value in _surplus(reading.total, {**counts, "noinfo": reading.noinfo}).values())


def _dimms(directory: Path, names: Mapping[str, str], trouble: list[str]) -> Iterator[_Place]:
    for entry in _children(directory, r"(dimm|rank)\d+", trouble):
        if entry.name not in names and not (entry / "dimm_ce_count").is_file():
            continue
        name = _device_name(entry, names.get(entry.name), trouble)
        if name is None:  # under another name its errors would be counted a second time
            continue
        size_mib = _number(entry / "size", [])
        device = Device(
            stream=STREAM,
            name=name,
            label=_text(entry / "dimm_label") or "",
            size_bytes=size_mib * MIB if size_mib is not None else None,
        )
        yield _Place(entry.name, device, _counts(entry, {"ce": "dimm_ce_count", "ue": "dimm_ue_count"}, trouble))


def _device_name(entry: Path, known: str | None, trouble: list[str]) -> str | None:
    """Its name by location ("channel 0 slot 1 " is channel0/slot1), else the known one; None if that can't be told."""
    file = entry / "dimm_location"
    words = (_text(file) or "").split()
    if len(words) >= 2:
        layers = [f"{layer}{index}" for layer, index in zip(words[::2], words[1::2], strict=False)]
        return "/".join([entry.parent.name, *layers])
    if known is None and file.exists():
        trouble.append(f"{file}: can't be read")
        return None
    return known or f"{entry.parent.name}/{entry.name}"


def _csrows(directory: Path, trouble: list[str]) -> Iterator[_Place]:
    """The legacy view: corrected errors per channel of a row; uncorrected ones only per row."""
    for row in _children(directory, r"csrow\d+", trouble):
        for file in _children(row, r"ch\d+_ce_count", trouble):
            channel = file.name.removesuffix("_ce_count")
            device = Device(
                stream=STREAM,
                name=f"{directory.name}/{row.name}/channel{channel.removeprefix('ch')}",
                label=_text(row / f"{channel}_dimm_label") or "",
            )
            yield _Place(f"{row.name}/{channel}", device, _counts(row, {"ce": file.name}, trouble))
        device = Device(stream=STREAM, name=f"{directory.name}/{row.name}/unknown")
        yield _Place(row.name, device, _counts(row, {"ue": "ue_count"}, trouble))


def _children(directory: Path, pattern: str, trouble: list[str]) -> list[Path]:
    try:
        names = [entry.name for entry in directory.iterdir() if re.fullmatch(pattern, entry.name)]
    except OSError as error:
        trouble.append(f"{directory}: {error.strerror}")
        return []
    return [directory / name for name in sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])]


def _counts(directory: Path, files: dict[str, str], trouble: list[str]) -> Counts:
    values = {kind: _number(directory / name, trouble) for kind, name in files.items()}
    return {kind: value for kind, value in values.items() if value is not None}


def _number(file: Path, trouble: list[str]) -> int | None:
    """An unsigned 32-bit number, as the kernel prints it."""
    try:
        content = _content(file).strip()
    except OSError as error:
        trouble.append(f"{file}: {error.strerror}")
        return None
    if not re.fullmatch(rb"\d{1,10}", content) or int(content) >= WRAP:
        trouble.append(f"{file}: not a number: {content[:40]!r}")
        return None
    return int(content)


def _content(file: Path) -> bytes:
    """By three system calls, where a file object takes seven: this is most of what an idle agent does."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, FILE_BYTES_MAX)
    finally:
        os.close(fd)


def _text(file: Path) -> str | None:
    try:
        content = _content(file)
    except OSError:
        return None
    text = content.decode("utf-8", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text)[:LABEL_CHARACTERS_MAX]


# --- booking -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Booking:
    """`errors` of one device that were not there at `since_boottime_ns`."""

    device: Device
    kind: str
    errors: int
    since_boottime_ns: int


_NOTHING_BOOKED: dict[str, Any] = {
    "counts": {},
    TOTAL: {},
    "unread": {},
    "surplus": {},
    "surplus_booked": {},
    "arisen": {},
}


def _book(name: str, reading: _Reading, old: Any, polled: Any, now: Moment) -> Poll:
    """One controller's reading against its cursor."""
    epoch = _epoch(name, reading, old, polled, now)
    before = _NOTHING_BOOKED if epoch.is_new else old
    unknown = _Place("unknown", Device(stream=STREAM, name=f"{name}/unknown"), reading.noinfo)
    places = (*reading.places, unknown)
    ledger = _Ledger(before, epoch, polled, {place.device.name: place.counts for place in places}, reading.total)
    bookings = [*ledger.of_places(places), *ledger.of_surplus(unknown.device)]
    return Poll(
        cursor={
            "epoch": epoch.id,
            "start_boottime_ns": epoch.start_boottime_ns,
            "boot_id": now.boot_id,
            "names": {**_names(old, now), **{place.entry: place.device.name for place in reading.places}},
            **ledger.as_json(),
        },
        observations=tuple(_observation(booking, epoch, now) for booking in bookings if booking.errors),
        devices=tuple(place.device for place in places),
        first_sights=tuple(_first_sights(places, old["counts"] if old else {}, ledger.surplus, epoch, now)),
        gaps=tuple(_gaps(places, epoch)),
        trouble=reading.trouble,
    )


class _Ledger:
    """What each counter showed, how much of it is new, and since when. `read` are the places' counts by device."""

    def __init__(
        self, before: dict[str, Any], epoch: _Epoch, polled: Any, read: dict[str, Counts], total: Counts
    ) -> None:
        self._before = before
        self._start_ns = epoch.start_boottime_ns - SECOND_NS  # the kernel cuts the fraction of a second off
        self._polled_ns = self._start_ns if epoch.is_new else int(polled["boottime_ns"])
        self._total = {**before[TOTAL], **total}
        self._counts = {
            device: {**before["counts"].get(device, {}), **read.get(device, {})}
            for device in {**before["counts"], **read}
        }
        self._unread = dict(self._times_of_unread({**before["counts"], TOTAL: before[TOTAL]}, {**read, TOTAL: total}))
        # what can't be read now counts as when it last could
        self.surplus = {kind: max(0, value) for kind, value in _surplus(self._total, self._counts).items()}
        self._booked: Counts = dict(before["surplus_booked"])
        self._arisen: dict[str, int] = dict(before["arisen"])

    def of_places(self, places: tuple[_Place, ...]) -> Iterator[_Booking]:
        for place in places:
            seen = self._before["counts"].get(place.device.name, {})
            for kind, value in place.counts.items():
                rise = _rise(seen.get(kind, 0), value)
                booked = self._booked.get(kind, 0)
                late = min(rise, max(0, booked - self.surplus.get(kind, booked)))
                self._booked[kind] = booked - late
                since_ns = self._last_read_ns(place.device.name, kind) if kind in seen else self._start_ns
                yield _Booking(place.device, kind, rise - late, since_ns)

    def of_surplus(self, unknown: Device) -> Iterator[_Booking]:
        for kind, value in self.surplus.items():
            booked = self._booked.get(kind, 0)
            errors = max(0, min(value, self._before["surplus"].get(kind, 0)) - booked)
            yield _Booking(unknown, kind, errors, self._arisen.pop(kind, self._start_ns))
            self._booked[kind] = booked + errors
            if value > booked + errors:
                self._arisen[kind] = self._last_read_ns(TOTAL, kind)

    def as_json(self) -> dict[str, Any]:
        return {
            "counts": self._counts,
            TOTAL: self._total,
            "unread": self._unread,
            "surplus": self.surplus,
            "surplus_booked": self._booked,
            "arisen": self._arisen,
        }

    def _last_read_ns(self, device: str, kind: str) -> int:
        return int(self._before["unread"].get(f"{device} {kind}", self._polled_ns))

    def _times_of_unread(self, before: dict[str, Counts], read: dict[str, Counts]) -> Iterator[tuple[str, int]]:
        for device, counts in before.items():
            for kind in counts.keys() - read.get(device, {}).keys():
                yield f"{device} {kind}", self._last_read_ns(device, kind)


def _epoch(name: str, reading: _Reading, old: Any, polled: Any, now: Moment) -> _Epoch:
    seconds = reading.seconds_since_reset
    start_ns = 0 if seconds is None else now.boottime_ns - seconds * SECOND_NS  # on CLOCK_BOOTTIME
    proven_ns = now.time_ns if seconds is None else _wall(start_ns, now)
    gap_ns = None
    if old is not None and polled is not None:
        is_same_boot = old["boot_id"] == now.boot_id
        last_ns = _wall(polled["boottime_ns"], now) if is_same_boot else polled["time_ns"]
        gap_ns = (last_ns, _wall(start_ns, now))
        if is_same_boot and (seconds is None or start_ns <= polled["boottime_ns"] + EPOCH_TOLERANCE_NS):
            if not _has_fallen(reading, name, old):
                return _Epoch(old["epoch"], old["start_boottime_ns"], False, None, proven_ns)
            start_ns = polled["boottime_ns"]  # a reset without a date: some time since then
            gap_ns = (last_ns, now.time_ns)
    return _Epoch(f"{now.boot_id}/{name}/{start_ns // SECOND_NS}", start_ns, True, gap_ns, proven_ns)


def _wall(boottime_ns: int, now: Moment) -> int:
    """That time on the wall clock as it is set now: it may have been stepped since."""
    return now.time_ns - (now.boottime_ns - boottime_ns)


def _has_fallen(reading: _Reading, name: str, old: Any) -> bool:
    read = {place.device.name: place.counts for place in reading.places}
    read |= {f"{name}/unknown": reading.noinfo, TOTAL: reading.total}
    before = {**old["counts"], TOTAL: old[TOTAL]}
    return any(
        _was_reset(before.get(device, {}).get(kind, 0), value)
        for device, counts in read.items()
        for kind, value in counts.items()
    )


def _surplus(total: Counts, counts: Mapping[str, Counts]) -> Counts:
    """Errors of the controller that no place shows.

    Every counter wraps for itself, so the difference is taken modulo 2**32, where it is small, be it negative: at most
    2**31 errors of an epoch may remain without a place, not even an unknown one.
    """
    surplus = {}
    for kind, errors in total.items():
        difference = (errors - sum(entry.get(kind, 0) for entry in counts.values())) % WRAP
        surplus[kind] = difference if difference < WRAP // 2 else difference - WRAP
    return surplus


def _rise(before: int, after: int) -> int:
    return after if _was_reset(before, after) else (after - before) % WRAP


def _was_reset(before: int, after: int) -> bool:
    """A fall is a wrap if that is the shorter way: no machine counts 2**31 errors between two polls."""
    return after < before and (after - before) % WRAP >= WRAP // 2


def _observation(booking: _Booking, epoch: _Epoch, now: Moment) -> Observation:
    return Observation(
        device=booking.device.name,
        stream=STREAM,
        severity=KINDS[booking.kind][0],
        count=booking.errors,
        time_error_s=max(0, now.boottime_ns - booking.since_boottime_ns) / 1e9,
        epoch=epoch.id,
        detail={"label": booking.device.label} if booking.device.label else {},
    )


def _first_sights(
    places: tuple[_Place, ...], ever: dict[str, Counts], surplus: Counts, epoch: _Epoch, now: Moment
) -> Iterator[FirstSight]:
    """A counter at zero proves quiet since its epoch began; any other value says nothing about when."""
    for place in places:
        for kind, value in place.counts.items():
            if kind in ever.get(place.device.name, {}):
                continue
            is_zero = not value and not (place.entry == "unknown" and surplus.get(kind, 0))
            yield FirstSight(
                stream=STREAM,
                device=place.device.name,
                error_class=KINDS[kind][1],
                since_ns=epoch.proven_ns if is_zero else now.time_ns,
            )


def _gaps(places: tuple[_Place, ...], epoch: _Epoch) -> Iterator[Gap]:
    if epoch.gap_ns is None or epoch.gap_ns[1] <= epoch.gap_ns[0]:
        return
    for place in places:
        yield Gap(stream=STREAM, device=place.device.name, begin_ns=epoch.gap_ns[0], end_ns=epoch.gap_ns[1])
