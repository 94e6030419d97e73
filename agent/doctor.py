"""What this host can see of its own memory's errors, what it can't and why, and what to do about it.

Enters: what the machine is, what each source said at one poll with an empty cursor, the memory's inventory, the
journals and the software as they were found. Leaves: one report of JSON values, and its one screen of text. Pure.

A physical host whose memory errors nobody sees is an alarm; a virtual machine's blindness is information, because the
errors of its memory are seen, and corrected, by the machine below it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any

from agent import inventory
from agent.acknowledge import Acknowledged, of_part
from agent.actions import ACKNOWLEDGED, DRAIN, GONE, NONE, OPEN, QUIET, REPLACE, REPLACED, RESET, WATCH, decide
from agent.evidence import UNKNOWN
from agent.inventory import Inventory, Stick
from agent.machine import Machine
from agent.observation import Poll
from agent.reconcile import devices
from agent.smbios import Module

GIB, MIB = 1 << 30, 1 << 20
LIVE, ABSENT, BLIND, TROUBLE = "live", "absent", "blind", "in trouble"
WIDTH = 110  # columns of the screen
ACTIONS = (NONE, WATCH, RESET, DRAIN, REPLACE)  # the gravest last
STATES = (OPEN, ACKNOWLEDGED)  # of a part with several devices, those that win over the state of the worst
SAID_MAX = 3  # sentences of one witness that fit the screen
CHECK_INTERVAL_S = 300  # how often the kernel looks for machine checks by itself, unless told otherwise


@dataclass(frozen=True, slots=True)
class JournalFacts:
    """A journal as it was found; `trouble` says why it couldn't be read."""

    directory: str
    faults: int = 0
    size_bytes: int = 0
    damaged_bytes: int = 0
    written_ns: int | None = None  # its latest heartbeat
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    version: str
    crc32c: str  # the kernel that is used
    kernels: tuple[str, ...]
    is_crcmod_native: bool
    clashes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # package -> other distributions that bring it


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known, as of one instant."""

    now_ns: int
    host: str
    machine: Machine
    polls: Mapping[str, Poll]
    inventory: Inventory
    state: Mapping[str, Any]  # of the agent's journal
    journals: Mapping[str, JournalFacts]
    software: Software
    check_interval_s: int | None = None
    acknowledged: Acknowledged = field(default_factory=dict)


def examine(facts: Facts) -> dict[str, Any]:
    """The report."""
    blind = [name for name, poll in facts.polls.items() if poll.blind]
    cause, cure = _why_blind(facts) if blind else (None, None)
    advice = [cure] if cure else []
    return {
        "host": facts.host,
        "time_ns": facts.now_ns,
        "version": facts.software.version,
        "machine": {
            "virtual": facts.machine.virtual,
            "kernel": facts.machine.kernel,
            "options": facts.machine.options,
            "edac_drivers": {name: name in facts.machine.loaded for name in facts.machine.drivers},
            **{
                name: facts.machine.facts[name] for name in ("vendor", "product", "bios") if name in facts.machine.facts
            },
        },
        "ecc_blind": bool(blind),
        "ecc_blind_because": cause,
        "is_alarm": bool(blind) and facts.machine.virtual is None,
        "witnesses": [_witness(name, poll) for name, poll in sorted(facts.polls.items())],
        "memory": _memory(facts),
        "other_devices": list(_others(facts)),
        "memory_trouble": facts.inventory.trouble,
        "error_correction": facts.inventory.table.error_correction,
        "software": {
            "crc32c": facts.software.crc32c,
            "crc32c_kernels": list(facts.software.kernels),
            "crcmod": "C" if facts.software.is_crcmod_native else "Python",
            "package_clashes": {name: list(others) for name, others in facts.software.clashes.items()},
        },
        "journals": {name: _journal(journal, facts.now_ns) for name, journal in facts.journals.items()},
        "advice": [*advice, *_advice(facts)],
    }


# --- can it see? -----------------------------------------------------------------------------------------------------


def _why_blind(facts: Facts) -> tuple[str, str]:
    """Why nobody counts this host's memory errors, and the way out; the likeliest cause first."""
    machine = facts.machine
    missing = [name for name in machine.drivers if name not in machine.loaded]
    if any(poll.blind == "unreadable" for poll in facts.polls.values()):
        return "the kernel's counters can't be read", "let the agent read /sys/devices/system/edac; see the witnesses"
    if machine.virtual is not None:
        return (
            f"this is a virtual machine ({machine.virtual}); the machine below it sees its memory's errors",
            "run the agent on the machine below as well; nothing is wrong here",
        )
    if facts.inventory.has_no_ecc:
        return (
            "the firmware says that this memory has no ECC",
            "use ECC memory; until then the canary watches a part of it, as large as canary_mib says",
        )
    if machine.options is not None and machine.options["EDAC"] == "n":
        return "this kernel is built without CONFIG_EDAC", "run a kernel that has it; Debian's do"
    if missing:
        names = " ".join(missing)
        return (
            f"the driver for this memory controller isn't loaded: {names}",
            f"modprobe -a {names}; write the one that finds a controller into /etc/modules-load.d/edac.conf",
        )
    if machine.is_firmware_first:
        return "the firmware takes memory errors first, and the kernel doesn't count what it passes on", _firmware(
            machine
        )
    if machine.drivers:
        return (
            f"{' and '.join(machine.drivers)}, made for this machine, found no memory controller",
            "see whether the BIOS has ECC switched on, and what the kernel says: dmesg | grep -i edac",
        )
    return (
        "this kernel has no EDAC driver for this machine's memory controller",
        "try a newer kernel; its drivers are listed under /lib/modules/*/kernel/drivers/edac",
    )


def _firmware(machine: Machine) -> str:
    without = machine.options is not None and machine.options["EDAC_GHES"] == "n"
    kernel = "run a kernel with CONFIG_EDAC_GHES (this one is built without)" if without else "load ghes_edac"
    return (
        f"in the BIOS, give memory errors to the operating system ('Platform First Error Handling': off), or {kernel}"
    )


def _witness(name: str, poll: Poll) -> dict[str, Any]:
    streams: dict[str, int] = {}
    for device in poll.devices:
        streams[device.stream] = streams.get(device.stream, 0) + 1
    if poll.blind:
        state, said = BLIND, (poll.blind, *poll.trouble)
    elif poll.trouble:
        state, said = TROUBLE, poll.trouble
    elif poll.absent:
        state, said = ABSENT, (poll.absent,)
    else:
        state, said = LIVE, tuple(f"{stream} devices: {count}" for stream, count in sorted(streams.items()))
    return {"name": name, "state": state, "said": list(said)}


# --- the memory ------------------------------------------------------------------------------------------------------


def _memory(facts: Facts) -> list[dict[str, Any]]:
    """Every populated slot with what is counted there, then places that may be several, then what else is known."""
    sticks = _sticks(facts)
    owned = {stick.module: stick for stick in sticks if stick.module is not None}
    vague = [stick for stick in sticks if stick.module is None]
    named = _named(facts, {device.name for stick in sticks for device in stick.devices})
    rows = [_module_row(facts, module, owned.get(module), named, vague) for module in facts.inventory.populated]
    rows += [_place_row(facts, stick) for stick in vague]
    return [*rows, *_elsewhere(facts, {name for row in rows for name in row["devices"]})]


def _sticks(facts: Facts) -> tuple[Stick, ...]:
    every = [device for poll in facts.polls.values() for device in poll.devices]
    listed = {device.name: device for device in every if device.stream == inventory.STREAM}
    return inventory.sticks(tuple(listed.values()), facts.inventory.populated)


def _place_row(facts: Facts, stick: Stick) -> dict[str, Any]:
    """A place that may be several modules, or none that is known."""
    names = [device.name for device in stick.devices]
    return {
        "devices": names,
        "errors": _errors(facts, names),
        **_action(facts, names),
        "slot": inventory.slot_text(stick.modules, facts.inventory.populated) or None,
        "size_bytes": sum(device.size_bytes or 0 for device in stick.devices) or None,
        "evidence": stick.evidence,
    }


def _module_row(
    facts: Facts, module: Module, stick: Stick | None, named: Mapping[str, Module], vague: list[Stick]
) -> dict[str, Any]:
    names = [device.name for device in stick.devices] if stick else []
    names += [name for name, labelled in named.items() if labelled == module]
    possible = [device.name for other in vague if module in other.modules for device in other.devices]
    return {
        "devices": names,
        "errors": _errors(facts, names),
        **_action(facts, names),
        "possible_places": len(possible),  # of those whose module can't be told
        "may_have_erred": any(_errors(facts, possible).values()),
        "slot": inventory.slot_text((module,), facts.inventory.populated),
        "size_bytes": module.size_bytes,
        "type": f"{module.type} {module.form}".strip(),
        "speed_mts": module.speed_mts,
        "ranks": module.ranks,
        "manufacturer": module.manufacturer,
        "part": module.part,
        "serial": module.serial,
        "evidence": stick.evidence if stick else None,
    }


def _named(facts: Facts, listed: set[str]) -> dict[str, Module]:
    """Devices that no witness lists, known by their errors alone, and the one module that the label of each names."""
    found = {}
    for stream, name, device in devices(facts.state):
        if stream == inventory.STREAM and name not in listed and not device.get("is_gone"):
            modules = inventory.labelled([device.get("label", "")], facts.inventory.populated)
            if len(modules) == 1:
                found[name] = modules[0]
    return found


def _errors(facts: Facts, names: list[str]) -> dict[str, int]:
    """By severity: what the agent has counted in the part's life; without a journal, what the kernel shows now."""
    errors: dict[str, int] = {}
    counted = [facts.state.get(f"device/{inventory.STREAM}/{name}", {}).get("errors", {}) for name in names]
    if not facts.state:
        counted = [{o.severity: o.count} for p in facts.polls.values() for o in p.observations if o.device in names]
    for part in counted:
        for severity, count in part.items():
            errors[severity] = errors.get(severity, 0) + count
    return errors


def _action(facts: Facts, names: list[str], stream: str = inventory.STREAM) -> dict[str, Any]:
    """What to do about a part, by the device of it that is worst off."""
    devices = {name: facts.state[key] for name in names if (key := f"device/{stream}/{name}") in facts.state}
    said = {name: of_part(facts.acknowledged, stream, name, device) for name, device in devices.items()}
    known = {name: item for name, item in said.items() if item is not None}
    decisions = [
        decide(stream, name, device, facts.now_ns, known[name].errors if name in known else None)
        for name, device in devices.items()
    ]
    if not decisions:
        return {"state": QUIET, "action": NONE}
    worst = max(decisions, key=lambda decision: ACTIONS.index(decision.action))
    erred = [device for device in devices.values() if device["last_ns"]]
    kept = [device["evidence"] for device in erred if device.get("evidence")]
    return {
        "state": next((state for state in STATES if any(d.state == state for d in decisions)), worst.state),
        "acknowledged": {name: {"by": item.by, "reason": item.reason} for name, item in known.items()},
        "action": worst.action,
        "rule": worst.rule,
        "why": worst.why,
        "source": worst.source,
        "mode": worst.mode.name,
        "mode_why": worst.mode.why,
        "corrected_last_day": sum(decision.corrected_last_day for decision in decisions),
        "first_fault_ns": min((known["first_ns"] for known in kept), default=None),
        "last_fault_ns": max((time_ns for device in erred for time_ns in device["last_ns"].values()), default=None),
        "places": sum(len(known["places"]) for known in kept),
        "left_behind": [sentence for known in kept for sentence in known.get("left_behind", ())],
    }


def _elsewhere(facts: Facts, shown: set[str]) -> Iterator[dict[str, Any]]:
    """Errors without a place, devices that their witness lists no more, and parts that were replaced."""
    for stream, name, device in devices(facts.state):
        if stream != inventory.STREAM or name in shown:
            continue
        if device.get("is_gone"):
            yield _left_row(name, device, GONE)
        elif device["errors"]:
            yield _left_row(name, device, OPEN) | _action(facts, [name])
    replaced = f"{REPLACED}/{inventory.STREAM}/"
    for key in sorted(key for key in facts.state if key.startswith(replaced)):
        yield from (_left_row(key.removeprefix(replaced), life, REPLACED) for life in facts.state[key])


def _others(facts: Facts) -> Iterator[dict[str, Any]]:
    """Processors, GPUs, caches and canaries that have erred."""
    for stream, name, device in devices(facts.state):
        if stream != inventory.STREAM and device["errors"]:
            yield {"stream": stream, **_left_row(name, device, OPEN), **_action(facts, [name], stream)}


def _left_row(name: str, life: Mapping[str, Any], state: str) -> dict[str, Any]:
    known = {attribute: life.get(attribute) for attribute in ("slot", "size_bytes", "part", "serial")}
    return {"devices": [name], "errors": life["errors"], "state": state, "action": NONE, **known}


# --- the rest --------------------------------------------------------------------------------------------------------


def _journal(journal: JournalFacts, now_ns: int) -> dict[str, Any]:
    age_s = None if journal.written_ns is None else max(0, now_ns - journal.written_ns) / 1e9
    return {
        "directory": journal.directory,
        "faults": journal.faults,
        "bytes": journal.size_bytes,
        "damaged_bytes": journal.damaged_bytes,
        "written_s_ago": age_s,
        "trouble": journal.trouble,
    }


def _advice(facts: Facts) -> Iterator[str]:
    """What isn't as good as it could be, each with the way out."""
    machine, software = facts.machine, facts.software
    for row in (*_memory(facts), *_others(facts)):
        if row["action"] in (RESET, DRAIN, REPLACE) and row["state"] not in (ACKNOWLEDGED, GONE):
            yield _act(row)
    if facts.inventory.lack is not None and machine.virtual is None:
        yield facts.inventory.lack
    elif any(stick.module is None for stick in _sticks(facts)):
        yield (
            "some places can't be told apart: give them the labels of the board "
            "(ras-mc-ctl --register-labels, or write to dimm_label in sysfs)"
        )
    if machine.has_collector and machine.virtual is None:
        yield (
            "this kernel's collector of corrected errors (CONFIG_RAS_CEC) keeps them from the drivers that learn of "
            "them by machine checks, and so from the counters; boot with ras=cec_disable to count them all"
        )
    if facts.check_interval_s is not None and facts.check_interval_s >= CHECK_INTERVAL_S and machine.virtual is None:
        yield (
            f"machine checks that raise no interrupt are looked for every {facts.check_interval_s} s; "
            "write 10 to /sys/devices/system/machinecheck/machinecheck0/check_interval to date them better"
        )
    if "table" not in software.kernels:
        yield "checksums run in pure Python, hundreds of times slower: install a C compiler and install flipwatch again"
    if not software.is_crcmod_native:
        yield "crcmod has no C extension here and is 16 times slower or more: install a C compiler, then crcmod again"
    for name, others in software.clashes.items():
        yield f"the Python package {name} also comes with {', '.join(others)}: install flipwatch in a venv of its own"
    for journal in facts.journals.values():
        if journal.damaged_bytes:
            yield f"{journal.directory}: {journal.damaged_bytes} bytes fail their checksum; look at the disk below it"


def _act(row: dict[str, Any]) -> str:
    part = ", ".join(f"{name} {row[name]}" for name in ("part", "serial") if row.get(name))
    place = row["slot"] or " ".join(row["devices"])
    since = f" since {_minute(row['first_fault_ns'])}" if row["first_fault_ns"] else ""
    what = "drain this host" if row["action"] == DRAIN else f"{row['action']} {place}{f' ({part})' if part else ''}"
    return f"{what}: {row['why']} at {' '.join(row['devices'])}{since} (rule {row['rule']}; {row['source']})"


# --- one screen ------------------------------------------------------------------------------------------------------

_COLUMNS = ("slot", "size", "type", "part", "serial", "counted as", "errors", "action")


def render(report: dict[str, Any]) -> Iterator[str]:
    """The report for people, line by line."""
    machine = report["machine"]
    names = " ".join(machine[key] for key in ("vendor", "product") if key in machine)
    kind = f"virtual machine ({machine['virtual']})" if machine["virtual"] else f"physical machine {names}".strip()
    yield f"{report['host']}: {kind}, kernel {machine['kernel']}"
    yield from wrap(_verdict(report), WIDTH)
    yield from ("", "Witnesses")
    for witness in report["witnesses"]:
        yield from wrap(f"  {witness['name']:<10} {witness['state']:<10} {_said(witness)}", WIDTH, **_hanging(24))
    correction = report["error_correction"]
    words = "no error correction" if correction == "none" else correction
    yield from ("", f"Memory ({words})" if words else "Memory")
    yield from _memory_lines(report)
    if report["other_devices"]:
        yield from ("", "Other devices that erred")
    for row in report["other_devices"]:
        yield from wrap(f"  {_other(row)}", WIDTH, **_hanging(4))
    yield from ("", "Software")
    yield from _software_lines(report)
    if report["advice"]:
        yield from ("", "What to do")
    for number, sentence in enumerate(report["advice"], 1):
        yield from wrap(f"  {number}. {sentence}", WIDTH, **_hanging(5))


def _hanging(columns: int) -> dict[str, Any]:
    return {"subsequent_indent": " " * columns, "drop_whitespace": True, "break_long_words": False}


def _verdict(report: dict[str, Any]) -> str:
    if not report["ecc_blind"]:
        return "Memory errors are seen."
    return f"{'ECC-BLIND' if report['is_alarm'] else 'Memory errors are not seen'}: {report['ecc_blind_because']}."


def _said(witness: dict[str, Any]) -> str:
    more = len(witness["said"]) - SAID_MAX
    return "; ".join([*witness["said"][:SAID_MAX], *([f"and {more} more"] if more > 0 else [])])


def _memory_lines(report: dict[str, Any]) -> Iterator[str]:
    if report["memory_trouble"]:
        yield f"  {report['memory_trouble']}"
    if not report["memory"]:
        return
    rows = [_COLUMNS, *_folded(report["memory"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for cells in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _folded(rows: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A line for each, but one for all places that look alike because nothing is known of them and nothing happened."""
    alike: dict[Any, list[tuple[str, ...]]] = {}
    for number, row in enumerate(rows):
        cells = _cells(row)
        *before, _, errors, action = cells
        is_plain = "part" not in row and (errors, action) == (NONE, NONE)
        alike.setdefault(tuple(before) if is_plain else number, []).append(cells)
    for first, *others in alike.values():
        *before, name, errors, action = first
        yield *before, f"{name} and {len(others)} more" if others else name, errors, action


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    size = row["size_bytes"]
    errors = ", ".join(f"{count} {severity}" for severity, count in row["errors"].items() if count)
    mode = f" ({row['mode']})" if row.get("mode", UNKNOWN) != UNKNOWN else ""
    state = f" ({row['state']})" if row["state"] in (REPLACED, GONE) else ""
    is_moot = row["state"] in (ACKNOWLEDGED, GONE) and row["action"] != NONE  # what the action says needn't be done
    return (
        f"{row['slot'] or '?'}{state}",
        "?" if size is None else f"{size // GIB} GiB" if size % GIB == 0 else f"{size // MIB} MiB",
        row.get("type") or "?",
        row.get("part") or "?",
        row.get("serial") or "?",
        " ".join(row["devices"]) or ("?" if row.get("possible_places") else "nothing"),
        f"{errors}{mode}" if errors else "?" if row.get("may_have_erred") else NONE,
        f"{row['action']} ({row['state']})" if is_moot else row["action"],
    )


def _other(row: dict[str, Any]) -> str:
    *_, name, errors, action = _cells(row)
    last = f", last {_minute(row['last_fault_ns'])}" if row.get("last_fault_ns") else ""
    left_behind = f" (left behind: {'; '.join(row['left_behind'])})" if row.get("left_behind") else ""
    return f"{name}: {errors}{last}{left_behind}; {action}"


def _minute(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _software_lines(report: dict[str, Any]) -> Iterator[str]:
    software = report["software"]
    kernels = ", ".join(software["crc32c_kernels"])
    yield f"  flipwatch {report['version']}, crcmod in {software['crcmod']}"
    yield f"  checksums by {software['crc32c']} (here: {kernels})"
    for name, journal in report["journals"].items():
        yield f"  {name} journal: {_journal_text(journal)}"


def _journal_text(journal: dict[str, Any]) -> str:
    if journal["trouble"]:
        return f"{journal['directory']}: {journal['trouble']}"
    age_s = journal["written_s_ago"]
    age = "" if age_s is None else f", written {age_s:.0f} s ago"
    return f"{journal['faults']} faults, {journal['bytes'] / MIB:.1f} MiB{age}"
