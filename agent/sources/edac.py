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

An epoch is the lifetime of the counters. A new one begins iff the boot differs or the reset lies later than the
previous poll (2 s tolerance, because the kernel tells whole seconds). Inside an epoch a fall is a wrap of the unsigned
32-bit counter if that is the shorter way, otherwise a reset that the kernel didn't date (it fell into the tolerance, or
the driver has no seconds_since_reset).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.observation import CORRECTED, NOT_CORRECTED, Device, FirstSight, Gap, Moment, Observation, Poll

STREAM = "dram"
MIB = 1 << 20
WRAP = 1 << 32
EPOCH_TOLERANCE_NS = 2 * 10**9
FILE_BYTES_MAX = 4096  # a sysfs attribute is at most one page
LABEL_CHARACTERS_MAX = 128

KINDS = {"ce": ("corrected", CORRECTED), "ue": ("uncorrected", NOT_CORRECTED)}

Counts = dict[str, int]  # "ce" | "ue" -> errors; a kind that couldn't be read, or doesn't exist there, is absent


@dataclass(frozen=True, slots=True)
class _Place:
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
    start_ns: int  # wall clock
    is_new: bool
    last_polled_ns: int | None  # wall clock; None at first sight


def poll(sysfs: Path, cursor: dict[str, Any], now: Moment) -> Poll:
    """One look at every controller. A controller in trouble keeps its old cursor and hides no other."""
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
        reading = _read_controller(directory)
        if not reading.total and not reading.places:
            parts.append(Poll(cursor={}, trouble=reading.trouble or (f"{directory}: no counters",)))
            continue
        part = _book(directory.name, reading, cursor, now)
        parts.append(part)
        new_cursor[directory.name] = part.cursor
        new_cursor["polled"][directory.name] = {"time_ns": now.time_ns, "boottime_ns": now.boottime_ns}
    trouble = tuple(sentence for part in parts for sentence in part.trouble)
    return Poll(
        cursor=new_cursor,
        observations=tuple(item for part in parts for item in part.observations),
        devices=tuple(item for part in parts for item in part.devices),
        first_sights=tuple(item for part in parts for item in part.first_sights),
        gaps=tuple(item for part in parts for item in part.gaps),
        trouble=trouble,
        blind="unreadable" if all(not part.devices for part in parts) else None,
    )


# --- reading -----------------------------------------------------------------------------------------------------


def _read_controller(directory: Path) -> _Reading:
    trouble: list[str] = []
    places = tuple(_dimms(directory, trouble)) or tuple(_csrows(directory, trouble))
    noinfo = _counts(directory, {"ce": "ce_noinfo_count", "ue": "ue_noinfo_count"}, trouble)
    seconds_since_reset = _number(directory / "seconds_since_reset", [])  # some drivers have none
    total = _counts(directory, {"ce": "ce_count", "ue": "ue_count"}, trouble)  # last: see the picture above
    return _Reading(places, total, noinfo, seconds_since_reset, tuple(trouble))


def _dimms(directory: Path, trouble: list[str]) -> Iterator[_Place]:
    for entry in _children(directory, r"(dimm|rank)\d+", trouble):
        if not (entry / "dimm_ce_count").exists():
            continue
        words = _text(entry / "dimm_location").split()  # "channel 0 slot 1"; gaps in the indexes are normal
        layers = [f"{layer}{index}" for layer, index in zip(words[::2], words[1::2], strict=False)]
        size_mib = _number(entry / "size", [])
        yield _Place(
            Device(
                stream=STREAM,
                name="/".join([directory.name, *(layers or [entry.name])]),
                label=_text(entry / "dimm_label"),
                size_bytes=size_mib * MIB if size_mib is not None else None,
            ),
            _counts(entry, {"ce": "dimm_ce_count", "ue": "dimm_ue_count"}, trouble),
        )


def _csrows(directory: Path, trouble: list[str]) -> Iterator[_Place]:
    """The legacy view: corrected errors per channel of a row; uncorrected ones only per row."""
    for row in _children(directory, r"csrow\d+", trouble):
        for file in _children(row, r"ch\d+_ce_count", trouble):
            channel = file.name.removeprefix("ch").removesuffix("_ce_count")
            device = Device(
                stream=STREAM,
                name=f"{directory.name}/{row.name}/channel{channel}",
                label=_text(row / f"ch{channel}_dimm_label"),
            )
            yield _Place(device, _counts(row, {"ce": file.name}, trouble))
        device = Device(stream=STREAM, name=f"{directory.name}/{row.name}/unknown")
        yield _Place(device, _counts(row, {"ue": "ue_count"}, trouble))


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
    try:
        with file.open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX).strip()
    except OSError as error:
        trouble.append(f"{file}: {error.strerror}")
        return None
    if not re.fullmatch(rb"\d{1,19}", content):
        trouble.append(f"{file}: not a number: {content[:40]!r}")
        return None
    return int(content)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX)
    except OSError:
        return ""
    text = content.decode("utf-8", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text)[:LABEL_CHARACTERS_MAX]


# --- booking -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Booking:
    """What one counter showed and how much of it is new."""

    device: Device
    kind: str
    value: int
    errors: int
    dated: bool  # the counter was seen earlier in this epoch, so the errors are younger than the previous poll
    first: bool  # the counter was never seen before, in any epoch


def _book(name: str, reading: _Reading, cursor: dict[str, Any], now: Moment) -> Poll:
    """One controller's reading against its cursor."""
    old = cursor.get(name)
    polled = cursor.get("polled", {}).get(name)
    epoch = _epoch(name, reading, old, polled, now)
    ever = old["counts"] if old else {}
    before = {"counts": {}, "surplus": {}, "surplus_booked": {}} if epoch.is_new else old
    assert before is not None  # a first sight is always a new epoch

    counts = {device: dict(kinds) for device, kinds in before["counts"].items()}
    booked = dict(before["surplus_booked"])
    unknown = _unknown(name, reading, counts)
    places = (*reading.places, unknown)
    surplus = _surplus(reading.total, places, counts)
    bookings = []
    for place in places:
        seen = counts.setdefault(place.device.name, {})
        for kind, value in place.counts.items():
            rise = _rise(seen.get(kind, 0), value)
            late = min(rise, max(0, booked.get(kind, 0) - surplus.get(kind, booked.get(kind, 0))))
            booked[kind] = booked.get(kind, 0) - late
            first = kind not in ever.get(place.device.name, {})
            bookings.append(_Booking(place.device, kind, value, rise - late, kind in seen, first))
            seen[kind] = value
    for kind, value in surplus.items():
        errors = max(0, min(value, before["surplus"].get(kind, 0)) - booked.get(kind, 0))
        booked[kind] = booked.get(kind, 0) + errors
        bookings.append(_Booking(unknown.device, kind, value, errors, dated=False, first=False))

    return Poll(
        cursor={
            "epoch": epoch.id,
            "start_ns": epoch.start_ns,
            "boot_id": now.boot_id,
            "total": reading.total,
            "counts": counts,
            "surplus": surplus,
            "surplus_booked": booked,
        },
        observations=tuple(_observation(booking, epoch, now) for booking in bookings if booking.errors),
        devices=tuple(place.device for place in places),
        first_sights=tuple(_first_sight(booking, epoch, now) for booking in bookings if booking.first),
        gaps=tuple(_gaps(bookings, epoch)),
        trouble=reading.trouble,
    )


def _epoch(name: str, reading: _Reading, old: Any, polled: Any, now: Moment) -> _Epoch:
    seconds = reading.seconds_since_reset
    age_ns = now.boottime_ns if seconds is None else seconds * 10**9
    start_ns = now.time_ns - age_ns
    if old is None or polled is None:
        is_new, last_polled_ns = True, None
    elif old["boot_id"] != now.boot_id:
        is_new, last_polled_ns = True, polled["time_ns"]
    elif seconds is not None and now.boottime_ns - age_ns > polled["boottime_ns"] + EPOCH_TOLERANCE_NS:
        is_new, last_polled_ns = True, _on_todays_clock(polled, now)
    else:  # a reset without a date: all that is known is that it came after the previous poll
        is_new = any(_was_reset(old["total"].get(kind, 0), total) for kind, total in reading.total.items())
        last_polled_ns = start_ns = _on_todays_clock(polled, now)
    if not is_new:
        return _Epoch(old["epoch"], old["start_ns"], False, last_polled_ns)
    return _Epoch(f"{now.boot_id}/{name}/{start_ns // 10**9}", start_ns, True, last_polled_ns)


def _on_todays_clock(polled: Any, now: Moment) -> int:
    """When that poll was, in wall-clock time as the clock is set now: it may have been stepped since."""
    return now.time_ns - (now.boottime_ns - int(polled["boottime_ns"]))


def _unknown(name: str, reading: _Reading, seen: dict[str, Counts]) -> _Place:
    """The place of the errors that the kernel couldn't place; a driver without the file has none."""
    device = Device(stream=STREAM, name=f"{name}/unknown")
    last = seen.get(device.name, {})
    return _Place(device, {kind: reading.noinfo.get(kind, last.get(kind, 0)) for kind in reading.total})


def _surplus(total: Counts, places: tuple[_Place, ...], seen: dict[str, Counts]) -> Counts:
    """Errors of the controller that no place shows; a place that can't be read now counts as when it last could.

    Every counter wraps for itself, so the difference is taken modulo 2**32, where it is small.
    """
    surplus = {}
    for kind, errors in total.items():
        placed = sum(place.counts.get(kind, seen.get(place.device.name, {}).get(kind, 0)) for place in places)
        difference = (errors - placed) % WRAP
        surplus[kind] = difference if difference < WRAP // 2 else 0
    return surplus


def _rise(before: int, after: int) -> int:
    if _was_reset(before, after):
        return after
    return after - before if after >= before else (after - before) % WRAP


def _was_reset(before: int, after: int) -> bool:
    """A fall is a wrap if that is the shorter way: no machine counts 2**31 errors between two polls."""
    return after < before and (before >= WRAP or (after - before) % WRAP >= WRAP // 2)


def _observation(booking: _Booking, epoch: _Epoch, now: Moment) -> Observation:
    since_ns = epoch.start_ns
    if booking.dated or (epoch.is_new and not booking.first):
        since_ns = max(since_ns, epoch.last_polled_ns or 0)
    return Observation(
        device=booking.device.name,
        stream=STREAM,
        severity=KINDS[booking.kind][0],
        count=booking.errors,
        time_error_s=max(0, now.time_ns - since_ns) / 1e9,
        epoch=epoch.id,
        detail={"label": booking.device.label} if booking.device.label else {},
    )


def _first_sight(booking: _Booking, epoch: _Epoch, now: Moment) -> FirstSight:
    """A counter at zero proves quiet since its epoch began; any other value says nothing about when."""
    return FirstSight(
        stream=STREAM,
        device=booking.device.name,
        error_class=KINDS[booking.kind][1],
        since_ns=now.time_ns if booking.value else epoch.start_ns,
    )


def _gaps(bookings: list[_Booking], epoch: _Epoch) -> Iterator[Gap]:
    if not epoch.is_new or epoch.last_polled_ns is None or epoch.start_ns <= epoch.last_polled_ns:
        return
    for device in dict.fromkeys(booking.device.name for booking in bookings):
        yield Gap(stream=STREAM, device=device, begin_ns=epoch.last_polled_ns, end_ns=epoch.start_ns)
