"""What the kernel's trace events say of errors: fields become an Event.

Enters: the name of a trace event, its fields, its time on the wall clock, and what is known of the machine. Leaves: an
Event, or None if it isn't about an error. Pure. A field that this kernel doesn't have is taken as unknown. Sources:
include/ras/ras_event.h, include/trace/events/mce.h, drivers/cxl/core/trace.h and mm/memory-failure.c of the Linux
kernel; UEFI specification, appendix N (memory error section, ARM processor error, severities); Compute Express Link
specification, "Event Records".

    mc_event                         COUNTED by the EDAC counters of its controller
    mce_record of a memory           SHARED: the same error may be an mc_event, or a page that was poisoned
    extlog_mem_event, memory_failure SHARED
    a processor's non_standard_event SHARED with the kernel log
    mce_record of a cache or core    OWN, as are arm_event, all other non_standard_event, cxl_dram, cxl_general_media
"""

import struct
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent import dram_place
from agent.error_record import PROCESSOR, SEVERITIES, section_of
from agent.hardware_error import SEVERITY_OF
from agent.machine_check import CAN_COUNT, POISONED, VENDORS, decode, device_name
from agent.observation import ADDRESSES_MAX, PAGE, Event, Role
from agent.ringbuffer import Value

TEXT_CHARACTERS_MAX = 256
GROUPS_MAX = 32  # of one poll; beyond it addresses no longer make a group of their own
PROMPT_ERROR_S = 1.0  # of what is reported by an interrupt
ERROR_CODES = 0xFFFFFFFF  # of MCi_STATUS; none of them is set where a bank only took part in a machine check
PAGE_SHIFT = 12

EDAC_SEVERITIES = ("corrected", "uncorrected", "deferred", "fatal")  # enum hw_event_mc_err_type; then: information
CPER_SEVERITIES = tuple(SEVERITY_OF[name] for name in SEVERITIES if name in SEVERITY_OF)  # then: information
GHES_SEVERITIES = ("info", "corrected", "recoverable", "fatal")  # include/acpi/ghes.h, for what isn't about memory
CXL_UNCORRECTED, CXL_THRESHOLD, CXL_FATAL_LOG = 1 << 0, 1 << 1, 3
CXL_VALID = {"bank_group": 3, "bank": 4, "row": 5, "column": 6}  # bits of a DRAM event's validity flags
# Cache and translation buffer, then bus and micro-architecture: bits since UEFI 2.9A, which says what older firmware
# had meant. 0 and 1 are no such bits, and come from firmware that numbers them.
ARM_CACHE_BITS, ARM_CACHE_NUMBERS = 0b110, (0, 1)
MEMORY_FAILURE_RESULTS = ("ignored", "failed", "delayed", "recovered")

Fields = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the events don't say themselves."""

    layers: Mapping[int, tuple[str, ...]]  # by memory controller: the names of the layers of a location
    edac_poll_s: float  # how often EDAC drivers look that have no interrupt
    machine_check_poll_s: float  # the same for the kernel's machine checks


def event(name: str, fields: Fields, time_ns: int, machine: Machine) -> Event | None:
    """What trace event `name` reports; None if it is no error."""
    found = READERS[name](fields, machine)
    if found is None:
        return None
    detail = {key: _bounded(value) for key, value in found.detail.items() if value not in (None, "")}
    return replace(found, first_ns=time_ns, time_ns=time_ns, witnesses=found.witnesses or (name,), detail=detail)


def summary(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events of one poll, added up per witness, device, severity and page, so that a storm needs little memory."""
    groups: dict[tuple[Any, ...], Event] = {}
    for found in events:
        key: tuple[Any, ...] = (found.witnesses, found.device, found.severity)
        page = found.addresses[0] >> PAGE_SHIFT if found.addresses else None
        if found.role is Role.SHARED and (len(groups) < GROUPS_MAX or (*key, page) in groups):
            key = (*key, page)
        groups[key] = joined(groups[key], found) if key in groups else found
    return tuple(groups.values())


def joined(first: Event, other: Event) -> Event:
    """Both as one: errors of one device and severity, with the detail of the first and the places of both."""
    return replace(
        first,
        detail=dram_place.with_places(first.detail, other.detail),
        count=first.count + other.count,
        first_ns=min(first.first_ns, other.first_ns),
        time_ns=max(first.time_ns, other.time_ns),
        time_error_s=max(first.time_error_s, other.time_error_s),
        since_ns=max(first.since_ns, other.since_ns),
        addresses=tuple(dict.fromkeys((*first.addresses, *other.addresses)))[:ADDRESSES_MAX],
    )


def _event(role: Role, stream: str, device: str, severity: str, /, **parts: Any) -> Event:
    """An Event with what all have in common; witness and times are added by who knows them."""
    address = parts.pop("address", None)
    if address and dram_place.of_detail(parts):
        parts["address"] = hex(address)
    return Event(
        witnesses=(),
        role=role,
        stream=stream,
        device=device,
        severity=severity,
        count=parts.pop("count", 1),
        first_ns=0,
        time_ns=0,
        time_error_s=parts.pop("time_error_s", PROMPT_ERROR_S),
        since_ns=0,
        addresses=(address,) if address else (),  # 0 is what drivers say that don't know
        detail=parts,
    )


def _mc_event(fields: Fields, machine: Machine) -> Event | None:
    kind, grain_bits = _int(fields, "error_type"), _int(fields, "grain_bits")
    if not 0 <= kind < len(EDAC_SEVERITIES):
        return None
    address, syndrome = _unsigned(fields, "address"), _unsigned(fields, "syndrome")
    driver_detail = _text(fields, "driver_detail")
    return _event(
        Role.COUNTED,
        "dram",
        edac_device(fields, machine.layers),
        EDAC_SEVERITIES[kind],
        count=max(1, _int(fields, "error_count")),
        address=address,
        time_error_s=max(PROMPT_ERROR_S, machine.edac_poll_s),
        syndrome=hex(syndrome) if syndrome else None,
        grain_bytes=1 << grain_bits if address and 0 <= grain_bits < 64 else None,
        label=_text(fields, "label"),
        message=_text(fields, "msg"),
        driver_detail=driver_detail,
        **dram_place.of_text(driver_detail),
    )


def edac_device(fields: Fields, layers: Mapping[int, tuple[str, ...]]) -> str:
    """The device's name as the EDAC counters have it; what isn't known of the place ends in `unknown`."""
    index = _int(fields, "mc_index")
    name = f"mc{index}"
    for layer, key in zip(layers.get(index, ()), ("top_layer", "middle_layer", "lower_layer"), strict=False):
        number = _int(fields, key, -1)
        if number < 0:
            return f"{name}/unknown"
        name += f"/{layer}{number}"
    return name if "/" in name else f"{name}/unknown"


def _mce_record(fields: Fields, machine: Machine) -> Event | None:
    status, mcgcap = _int(fields, "status"), _int(fields, "mcgcap")
    if not status & ERROR_CODES:
        return None
    check = decode(
        status,
        addr=_int(fields, "addr"),
        misc=_int(fields, "misc"),
        vendor=VENDORS.get(_int(fields, "cpuvendor"), ""),
        bank=_int(fields, "bank"),
        ipid=_int(fields, "ipid"),
        mcgcap=mcgcap,
    )
    misc, synd = _int(fields, "misc"), _int(fields, "synd")
    is_interrupt = bool(mcgcap & CAN_COUNT)  # corrected errors are reported at once, not at the kernel's next look
    found = _event(
        Role.SHARED if check.stream == "dram" else Role.OWN,
        check.stream,
        device_name(check, _int(fields, "socketid"), _int(fields, "cpu"), _int(fields, "bank")),
        check.severity,
        count=check.count,
        address=check.address,
        time_error_s=PROMPT_ERROR_S if is_interrupt else max(PROMPT_ERROR_S, machine.machine_check_poll_s),
        kind=check.kind,
        status=hex(status),
        misc=hex(misc) if misc else None,
        syndrome=hex(synd) if synd else None,
        consumed_by=f"cpu{_int(fields, 'cpu')}" if check.kind == POISONED else None,
    )
    # the same error, of which the record of the memory's own bank is one witness, and this another
    return replace(found, witnesses=(POISONED,)) if check.kind == POISONED else found


def _memory_failure_event(fields: Fields, _machine: Machine) -> Event:
    result = _int(fields, "result")
    known = 0 <= result < len(MEMORY_FAILURE_RESULTS)
    return _event(
        Role.SHARED,
        "dram",
        PAGE,
        "uncorrected",
        address=_int(fields, "pfn") << PAGE_SHIFT,
        page_recovery=MEMORY_FAILURE_RESULTS[result] if known else f"result {result}",
    )


# struct cper_mem_err_compact: validation bits, then these; which bit says that a field holds
_CPER_MEMORY = struct.Struct("<Q8H3Q3HB")
_CPER_PLACES = {"node": (1, 3), "card": (2, 4), "module": (3, 5), "bank": (4, 6), "device": (5, 7), "row": (6, 8)}
_CPER_PLACES |= {"column": (7, 9), "bit_position": (8, 10), "rank": (12, 15)}


def _extlog_mem_event(fields: Fields, _machine: Machine) -> Event | None:
    severity = _int(fields, "sev")
    if not 0 <= severity < len(CPER_SEVERITIES):
        return None
    place = _cper_place(fields.get("data", b""))
    parts = [f"{key}{place[key]}" for key in ("node", "card", "module") if key in place]
    return _event(
        Role.SHARED,
        "dram",
        "/".join(parts or ["memory", "unknown"]),
        CPER_SEVERITIES[severity],
        address=_int(fields, "pa"),
        fru_text=_text(fields, "fru_text"),
        **place,
    )


def _cper_place(data: Value) -> dict[str, int]:
    if not isinstance(data, bytes) or len(data) < _CPER_MEMORY.size:
        return {}
    values = _CPER_MEMORY.unpack_from(data)
    return {name: values[at] for name, (at, bit) in _CPER_PLACES.items() if values[0] >> bit & 1}


def _arm_event(fields: Fields, _machine: Machine) -> Event | None:
    severity = SEVERITY_OF.get(_ghes_severity(fields, "corrected"))  # before 6.12 the kernel didn't tell
    if severity is None:
        return None
    errors = fields.get("pei_buf", b"")
    kind = errors[4] if isinstance(errors, bytes) and len(errors) > 4 else 0xFF  # of the first error information
    is_cache = kind in ARM_CACHE_NUMBERS or (not kind & 1 and kind & ARM_CACHE_BITS)
    return _event(
        Role.OWN,
        "sram" if is_cache else "core",
        f"cpu-{_int(fields, 'mpidr'):x}",
        severity,
        midr=hex(_int(fields, "midr")),
        severity_known=None if "sev" in fields else False,
    )


def _non_standard_event(fields: Fields, _machine: Machine) -> Event | None:
    severity = _ghes_severity(fields, "info")
    if severity not in SEVERITY_OF:
        return None
    section, content, fru_text = fields.get("sec_type"), fields.get("buf"), _text(fields, "fru_text")
    kind = uuid.UUID(bytes_le=section) if isinstance(section, bytes) and len(section) == 16 else "unknown"
    data = content if isinstance(content, bytes) else b""
    if kind == PROCESSOR:  # the kernel log has it too
        (found,) = section_of(PROCESSOR, severity, data, fru_text)
        return _event(Role.SHARED, found.stream, found.device, found.severity, **found.detail)
    return _event(
        Role.OWN,
        "core",
        f"firmware/{kind}",
        SEVERITY_OF[severity],
        fru_text=fru_text,
        data=data[: TEXT_CHARACTERS_MAX // 2].hex(),
    )


def _ghes_severity(fields: Fields, default: str) -> str:
    """As a CPER has it; `default` where the kernel doesn't tell."""
    severity = _int(fields, "sev", -1)
    if severity < 0:
        return default
    return GHES_SEVERITIES[severity] if severity < len(GHES_SEVERITIES) else "info"


def _cxl_media(fields: Fields, _machine: Machine) -> Event:
    """cxl_dram and cxl_general_media: both say channel and rank, if their two lowest validity bits are set."""
    valid = _int(fields, "validity_flags")
    places = [f"{key}{_int(fields, key)}" for bit, key in enumerate(("channel", "rank")) if valid >> bit & 1]
    descriptor = _int(fields, "descriptor")
    # errors that were counted until there were enough to report; not told before Linux 6.14
    errors = max(_int(fields, "cvme_count"), _int(fields, "cme_count")) if descriptor & CXL_THRESHOLD else 1
    severity = "fatal" if _int(fields, "log") == CXL_FATAL_LOG else "uncorrected"
    numbers = {key: _int(fields, key) for key, bit in CXL_VALID.items() if key in fields and valid >> bit & 1}
    return _event(
        Role.OWN,
        "dram",
        "/".join([_text(fields, "memdev") or "cxl", *(places or ["unknown"])]),
        severity if descriptor & CXL_UNCORRECTED else "corrected",
        count=max(1, errors),
        address=_int(fields, "hpa") if _int(fields, "hpa") < (1 << 64) - 1 else None,
        device_address=hex(_int(fields, "dpa")),
        serial=hex(_int(fields, "serial")),
        region=_text(fields, "region_name"),
        **numbers,
    )


READERS: dict[str, Callable[[Fields, Machine], Event | None]] = {
    "mc_event": _mc_event,
    "mce_record": _mce_record,
    "memory_failure_event": _memory_failure_event,
    "extlog_mem_event": _extlog_mem_event,
    "arm_event": _arm_event,
    "non_standard_event": _non_standard_event,
    "cxl_dram": _cxl_media,
    "cxl_general_media": _cxl_media,
}


def _int(fields: Fields, key: str, default: int = 0) -> int:
    value = fields.get(key, default)
    return value if isinstance(value, int) else default


def _unsigned(fields: Fields, key: str) -> int:
    return _int(fields, key) & (1 << 64) - 1


def _text(fields: Fields, key: str) -> str:
    """Empty where the field isn't there, or is no text in this kernel's layout."""
    value = fields.get(key, "")
    return value if isinstance(value, str) else ""


def _bounded(value: Any) -> Any:
    return value[:TEXT_CHARACTERS_MAX] if isinstance(value, str) else value
