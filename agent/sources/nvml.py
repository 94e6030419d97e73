"""ECC errors of NVIDIA's GPUs, from the driver's management library through nvidia-ml-py (the extra `gpu`).

Enters: where procfs is mounted, this source's cursor and the moment. Leaves: a Poll. Source: NVML API reference,
chapters "Device Queries", "Event Handling Methods" and "Field Value Queries"; the numbers are of NVIDIA's "XID errors".

Every call may be unsupported by a GPU; what it doesn't tell is left out. A device is one place of one GPU:
`gpu/<uuid>/dram`, `gpu/<uuid>/sram`; where a GPU doesn't tell SRAM as a whole, its parts (`l2`, `register-file`, ...);
where it tells no place at all, `gpu/<uuid>/unknown`. Its label is the GPU's place on the PCI bus.

Each place has two counters of the same errors: the aggregate one, which the GPU keeps through resets, and the volatile
one, which begins at zero with the driver. What both have risen by since the first sight is added up, and the larger sum
is what happened: so an error counts once though one of them lags, was cleared or isn't there. What they showed at first
sight is the GPU's earlier life and no fault.

Xids are told with the faults of the poll that saw them. Those that stand for an uncorrected error (48, 94, 95) are an
error of their own, at an unknown place, if no counter shows one at the poll before, then, or after.

A GPU remaps a failing row or retires a failing page at its next reset; a fault's detail says how many it has, whether
some wait for a reset or failed, and `healed` if none does. The condition of its DRAM says so at every poll: a reset
heals what came before it.

The library stays open between two polls, since Xids wait in it. Like any other monitor of GPUs the agent must be
stopped while one is reset or the driver is replaced.

The cursor: per GPU "epoch"; "counters", for each place and severity what both counters showed and the sums of their
rises, and how much of it is booked; "xids" that wait for their counter; "rose", whether an uncorrected counter rose at
the previous poll. "polled" is when each GPU was last read.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.observation import CORRECTED, NOT_CORRECTED, Device, FirstSight, Gap, Moment, Observation, Poll

Counters = dict[str, dict[str, list[int | None]]]  # place -> severity -> [aggregate, volatile]

STREAM = "gpu"
SEVERITIES = {"corrected": CORRECTED, "uncorrected": NOT_CORRECTED}  # in NVML's order
VOLATILE, AGGREGATE = 0, 1
TEMPERATURE_OF_GPU = 0
DRAM, SRAM = {"dram": 2}, {"sram": 7}
SRAM_PARTS = {"l1": 0, "l2": 1, "register-file": 3, "texture": 4, "shared-memory": 5, "cbu": 6}
XIDS_UNCORRECTED = (48, 94, 95)  # double-bit error; contained and uncontained uncorrected error
XIDS_MAX = 100  # per poll
RECOVERY_ACTION_FIELD = 230
RECOVERY_ACTIONS = ("none", "gpu-reset", "node-reboot", "drain-p2p", "drain-and-reset")
RETIREMENT_CAUSES = {"corrected": 0, "uncorrected": 1}


@dataclass(slots=True)
class _Gpu:
    """What one GPU says at this poll."""

    uuid: str
    label: str
    serial: str
    part: str
    size_bytes: int | None
    counters: Counters
    health: dict[str, Any]
    xids: list[int] = field(default_factory=list)


def without_driver(proc: Path, cursor: dict[str, Any], now: Moment) -> Poll | None:
    """The poll where there is no driver to ask, else None: the library may hang, and this doesn't."""
    if (proc / "driver/nvidia").exists():
        return None
    return _without_gpus("no NVIDIA driver is loaded", _known_in_this_boot(cursor, now), cursor)


class Nvml:
    """The library as this process has opened it; what happens between two polls waits in its set of events."""

    def __init__(self) -> None:
        self._events: Any = None
        self._listening: set[str] = set()

    def poll(self, cursor: dict[str, Any], now: Moment) -> Poll:
        """One look at every GPU. A GPU in trouble keeps its old cursor and hides no other."""
        known = _known_in_this_boot(cursor, now)
        try:
            import pynvml  # not at the top: it is large, and of use only where there is a driver
        except ImportError:
            return _without_gpus("nvidia-ml-py isn't installed; pip install 'flipwatch[gpu]'", known, cursor)
        try:
            gpus, trouble = self._read(pynvml)
        except pynvml.NVMLError_LibraryNotFound:
            return _without_gpus("the NVIDIA driver's library isn't installed", known, cursor)
        except pynvml.NVMLError as error:
            self._close(pynvml)
            return Poll(cursor=cursor, trouble=(f"the NVIDIA driver doesn't answer: {error}",))
        except AttributeError as error:  # a function or constant that came later
            self._close(pynvml)
            return Poll(cursor=cursor, trouble=(f"nvidia-ml-py is too old ({error}); upgrade it",))
        is_census = not trouble
        trouble += [f"GPU {uuid} has gone" for uuid in sorted(known - {gpu.uuid for gpu in gpus}) if not trouble]
        if not (gpus or trouble):
            return _without_gpus("there is no GPU", known, cursor)
        absent = None if any(gpu.counters for gpu in gpus) or trouble else "no GPU here counts ECC errors"
        polled = cursor.get("polled", {})
        parts = [_book(gpu, cursor.get(gpu.uuid), polled.get(gpu.uuid), now) for gpu in gpus]
        return Poll(
            cursor={
                **{gpu.uuid: part.cursor for gpu, part in zip(gpus, parts, strict=True)},
                "polled": {**polled, **{gpu.uuid: [now.time_ns, now.boottime_ns, now.boot_id] for gpu in gpus}},
            },
            observations=tuple(item for part in parts for item in part.observations),
            devices=tuple(item for part in parts for item in part.devices),
            first_sights=tuple(item for part in parts for item in part.first_sights),
            gaps=tuple(item for part in parts for item in part.gaps),
            trouble=tuple(trouble),
            absent=absent,
            is_census=is_census,
        )

    def _read(self, pynvml: Any) -> tuple[list[_Gpu], list[str]]:
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError_Uninitialized:
            pynvml.nvmlInit()
            self._events, self._listening = _optional(pynvml, pynvml.nvmlEventSetCreate), set()
            count = pynvml.nvmlDeviceGetCount()
        gpus, trouble = [], []
        for index in range(count):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                gpu = _read_gpu(pynvml, handle)
                self._listen(pynvml, handle, gpu.uuid)
                gpus.append(gpu)
            except (pynvml.NVMLError, UnicodeDecodeError) as error:  # a serial number may be any bytes
                trouble.append(f"GPU number {index}: {error}")
        for uuid, xid in self._new_xids(pynvml):
            for gpu in gpus:
                if gpu.uuid == uuid:
                    gpu.xids.append(xid)
        return gpus, trouble

    def _listen(self, pynvml: Any, handle: Any, uuid: str) -> None:
        types = _optional(pynvml, pynvml.nvmlDeviceGetSupportedEventTypes, handle) or 0
        if self._events is None or uuid in self._listening or not types & pynvml.nvmlEventTypeXidCriticalError:
            return
        _optional(pynvml, pynvml.nvmlDeviceRegisterEvents, handle, pynvml.nvmlEventTypeXidCriticalError, self._events)
        self._listening.add(uuid)

    def _new_xids(self, pynvml: Any) -> Iterator[tuple[str, int]]:
        for _ in range(XIDS_MAX if self._listening else 0):
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, 0)
                yield str(pynvml.nvmlDeviceGetUUID(event.device)), int(event.eventData)
            except pynvml.NVMLError:  # NVML_ERROR_TIMEOUT: there are no more; what else ails it, the counters say
                return

    def _close(self, pynvml: Any) -> None:
        """So that the next poll opens it anew: the driver may have been reloaded."""
        self._events, self._listening = None, set()
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            pass  # it was not open


def _known_in_this_boot(cursor: dict[str, Any], now: Moment) -> set[str]:
    return {uuid for uuid, (_, _, boot_id) in cursor.get("polled", {}).items() if boot_id == now.boot_id}


def _without_gpus(why: str, known: set[str], cursor: dict[str, Any]) -> Poll:
    """A host without GPUs is no trouble; one that has lost them since it was booted is."""
    if known:
        return Poll(cursor=cursor, trouble=(f"{why}, but there was GPU {', '.join(sorted(known))}",))
    return Poll(cursor=cursor, absent=why)


# --- reading -----------------------------------------------------------------------------------------------------


def _optional(pynvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """None where this GPU, this driver or this user has no such thing."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        unsupported = (
            pynvml.NVML_ERROR_NOT_SUPPORTED,
            pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            pynvml.NVML_ERROR_INVALID_ARGUMENT,
            pynvml.NVML_ERROR_NO_PERMISSION,
            pynvml.NVML_ERROR_NO_DATA,
            pynvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
        )
        if error.value not in unsupported:
            raise
        return None


def _read_gpu(pynvml: Any, handle: Any) -> _Gpu:
    def ask(function: str, *arguments: Any) -> Any:
        return _optional(pynvml, getattr(pynvml, f"nvmlDeviceGet{function}"), handle, *arguments)

    pci, memory = ask("PciInfo"), ask("MemoryInfo")
    return _Gpu(
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        label=str(pci.busId) if pci else "",
        serial=str(ask("Serial") or ""),
        part=str(ask("BoardPartNumber") or ask("Name") or ""),
        size_bytes=int(memory.total) if memory else None,
        counters=_read_counters(ask),
        health=dict(_read_health(ask)),
    )


def _read_counters(ask: Callable[..., Any]) -> Counters:
    def counters(function: str, *location: int) -> dict[str, list[int | None]]:
        values = {
            severity: [ask(function, number, kind, *location) for kind in (AGGREGATE, VOLATILE)]
            for number, severity in enumerate(SEVERITIES)
        }
        return {severity: both for severity, both in values.items() if both != [None, None]}

    places = {place: counters("MemoryErrorCounter", number) for place, number in (DRAM | SRAM).items()}
    if not places["sram"]:
        places |= {place: counters("MemoryErrorCounter", number) for place, number in SRAM_PARTS.items()}
    if not any(places.values()):
        places = {"unknown": counters("TotalEccErrors")}
    return {place: values for place, values in places.items() if values}


def _read_health(ask: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    celsius = ask("Temperature", TEMPERATURE_OF_GPU)
    if celsius is not None:
        yield "temperature_celsius", celsius
    rows = ask("RemappedRows")
    if rows is not None:
        corrected, uncorrected, pending, failure = rows
        yield "remapped_rows", {"corrected": corrected, "uncorrected": uncorrected}
    else:
        pages = {name: ask("RetiredPages", cause) for name, cause in RETIREMENT_CAUSES.items()}
        pending, failure = ask("RetiredPagesPendingStatus"), 0
        if pending is None or None in pages.values():
            return
        yield "retired_pages", {name: len(addresses) for name, addresses in pages.items()}
    yield "waits_for_reset", bool(pending)
    yield "repair_failed", bool(failure)
    yield "healed", not pending and not failure
    values = ask("FieldValues", [RECOVERY_ACTION_FIELD])
    if values is not None and values[0].nvmlReturn == 0 and values[0].value.uiVal < len(RECOVERY_ACTIONS):
        yield "recovery_action", RECOVERY_ACTIONS[values[0].value.uiVal]


# --- booking -----------------------------------------------------------------------------------------------------


_NOTHING_KNOWN: dict[str, Any] = {"epoch": "", "counters": {}, "xids": [], "rose": False}


def _book(gpu: _Gpu, old: Any, polled: Any, now: Moment) -> Poll:
    """One GPU's reading against its cursor."""
    before = old or _NOTHING_KNOWN
    since_ns = _elapsed_ns(polled, now) if old and polled else 0
    counters, errors, has_fallen = _count(gpu.counters, before["counters"])
    epoch = f"{gpu.uuid}/{now.time_ns // 10**9}" if old is None or has_fallen else before["epoch"]
    rose = any(severity == "uncorrected" for _, severity in +errors)
    if not rose:
        errors["unknown", "uncorrected"] += len(before["xids"])
    waiting = [xid for xid in gpu.xids if xid in XIDS_UNCORRECTED and not (rose or before["rose"])]
    devices = {place: _device(gpu, place) for place in [*gpu.counters, *(place for place, _ in +errors)]}
    return Poll(
        cursor={"epoch": epoch, "counters": counters, "xids": waiting, "rose": rose},
        observations=tuple(_observations(gpu, +errors, before["xids"], epoch, since_ns)),
        devices=tuple(devices.values()),
        first_sights=tuple(_first_sights(gpu, before["counters"], now)),
        gaps=tuple(
            Gap(stream=STREAM, device=devices[place].name, begin_ns=now.time_ns - since_ns, end_ns=now.time_ns)
            for place in gpu.counters
            if has_fallen and since_ns
        ),
    )


def _count(read: Counters, before: dict[str, Any]) -> tuple[dict[str, Any], Counter[tuple[str, str]], bool]:
    """The counters' new entries, the errors that are new, and whether a counter that others rely on has fallen."""
    entries: dict[str, Any] = {place: dict(values) for place, values in before.items()}
    errors: Counter[tuple[str, str]] = Counter()
    has_fallen = False
    for place, values in read.items():
        for severity, both in values.items():
            entry = before.get(place, {}).get(severity)
            has_fallen = has_fallen or _has_fallen(entry, both)
            entry, errors[place, severity] = _rise(entry, both)
            entries.setdefault(place, {})[severity] = entry
    return entries, errors, has_fallen


def _observations(
    gpu: _Gpu, errors: Counter[tuple[str, str]], waited: list[int], epoch: str, since_ns: int
) -> Iterator[Observation]:
    xids = [*waited, *gpu.xids]
    detail = {**gpu.health, **({"xids": xids} if xids else {}), "label": gpu.label}
    for (place, severity), count in errors.items():
        yield Observation(
            device=_device(gpu, place).name,
            stream=STREAM,
            severity=severity,
            count=count,
            time_error_s=since_ns / 1e9,
            epoch=epoch,
            detail=detail,
        )


def _first_sights(gpu: _Gpu, before: dict[str, Any], now: Moment) -> Iterator[FirstSight]:
    """Since when a counter has shown what it shows, only its next change will tell."""
    for place, values in gpu.counters.items():
        for severity in values.keys() - before.get(place, {}).keys():
            yield FirstSight(
                stream=STREAM,
                device=_device(gpu, place).name,
                error_class=SEVERITIES[severity],
                since_ns=now.time_ns,
            )


def _elapsed_ns(polled: list[Any], now: Moment) -> int:
    time_ns, boottime_ns, boot_id = polled
    return max(0, now.boottime_ns - boottime_ns if boot_id == now.boot_id else now.time_ns - time_ns)


def _device(gpu: _Gpu, place: str) -> Device:
    return Device(
        stream=STREAM,
        name=f"gpu/{gpu.uuid}/{place}",
        label=gpu.label,
        serial=gpu.serial,
        part=gpu.part,
        condition=_condition(gpu.health) if place == "dram" else "",
        size_bytes=gpu.size_bytes if place == "dram" else None,
    )


def _condition(health: dict[str, Any]) -> str:
    """Failing rows are remapped, and on older GPUs failing pages retired, at the next reset."""
    if health.get("repair_failed"):
        return "remap-failed"
    if health.get("waits_for_reset"):
        return "remap-pending"
    repaired = {**health.get("remapped_rows", {}), **health.get("retired_pages", {})}
    return "remapped" if any(repaired.values()) else ""


def _has_fallen(entry: Any, both: list[int | None]) -> bool:
    """The counter that outlives resets was cleared, or there is only the other one and the driver was reloaded."""
    kind = 0 if both[0] is not None else 1
    return entry is not None and entry["shown"][kind] is not None and (both[kind] or 0) < entry["shown"][kind]


def _rise(entry: Any, both: list[int | None]) -> tuple[dict[str, Any], int]:
    """The counters' new entry, and the errors that are new."""
    if entry is None:
        return {"shown": both, "sums": [0, 0], "booked": 0}, 0
    shown, sums = list(entry["shown"]), list(entry["sums"])
    for kind, value in enumerate(both):
        if value is None:
            continue
        if shown[kind] is not None:
            sums[kind] += value - shown[kind] if value >= shown[kind] else value
        else:  # it answers for the first time: what the other one has said is in it
            sums[kind] = max(sums)
        shown[kind] = value
    errors = max(sums) - entry["booked"]
    return {"shown": shown, "sums": sums, "booked": entry["booked"] + errors}, errors
