"""One fault, many witnesses: what the sources observed becomes faults, and what is remembered of each device.

Enters: the polls of one cycle, the remembered state and the moment. Leaves: the faults of this cycle and the changes to
the state, which the journal writes together or not at all. Pure: nothing is mutated.

State keys used here (all values are JSON):
    device/<stream>/<name>   label, slot, serial, part, condition, size_bytes; errors and last_ns by severity; history
                             by class of errors; life, the serial that these belong to and the boot in which it was
                             last seen; evidence (agent/evidence.py)
    replaced/<stream>/<name> the same of the parts that sat there before, the latest last
    novel/<stream>           how many novel faults with a time error of at most 120 s there were, for /metrics
    watch/<stream>           since when the host has watched the stream without a gap
"""

from collections.abc import Iterable, Mapping
from typing import Any

from agent.novelty import History
from agent.observation import CORRECTED, NOT_CORRECTED, Device, FirstSight, Gap, Moment, Observation, Poll
from agent.report import MemoryFault

State = Mapping[str, Any]
Changes = dict[str, Any]

NOVEL_TIME_ERROR_MAX_S = 120.0  # a novel fault whose time is vaguer isn't counted in /metrics
CLOCK_STEP_MIN_NS = 60 * 10**9
LIVES_MAX = 4  # of the parts that were replaced at one place


def reconcile(
    polls: Mapping[str, Poll], state: State, now: Moment, host: str
) -> tuple[tuple[MemoryFault, ...], Changes]:
    """The faults that the polls (by source name) add, and the state's changes.

    A fault line adds one novel fault whatever its count: errors of one device and severity in one cycle are one line.
    """
    changes: Changes = {}
    view = _Overlay(state, changes)
    for poll in polls.values():
        for device in poll.devices:
            _remember_device(view, device, now)
        for sight in poll.first_sights:
            _remember_first_sight(view, sight)
        for gap in poll.gaps:
            _remember_gap(view, gap)
    faults = []
    for source, poll in polls.items():
        for observation in poll.observations:
            faults.append(_fault(view, source, observation, now, host))
    return _merge(faults), changes


def watching(state: State, streams: Iterable[str]) -> dict[str, int]:
    """For each of `streams`: since when novelty could be decided for every device; undecided streams are left out."""
    since = {}
    for stream in streams:
        devices = [value for key, value in state.items() if key.startswith(f"device/{stream}/")]
        histories = [History.from_json(value) for device in devices for value in device["history"].values()]
        if histories and f"watch/{stream}" in state:
            since[stream] = max(state[f"watch/{stream}"], *(history.decidable_ns for history in histories))
    return since


def clock_step(state: State, last: Moment, now: Moment) -> Changes:
    """If the wall clock was set since `last`, the changes that move all remembered times along with it.

    Without this a clock set forward would prove seven quiet days that never were.
    """
    step_ns = (now.time_ns - last.time_ns) - (now.boottime_ns - last.boottime_ns)
    if last.boot_id != now.boot_id or abs(step_ns) < CLOCK_STEP_MIN_NS:
        return {}
    changes: Changes = {}
    for key, value in state.items():
        if key.startswith("device/"):
            history = {name: History.from_json(h).shifted(step_ns).as_json() for name, h in value["history"].items()}
            last_ns = {severity: time_ns + step_ns for severity, time_ns in value["last_ns"].items()}
            changes[key] = {**value, "history": history, "last_ns": last_ns}
        elif key.startswith("watch/"):
            changes[key] = value + step_ns
    return changes


class _Overlay:
    """The state as it will be once the changes are written."""

    def __init__(self, state: State, changes: Changes) -> None:
        self._state = state
        self._changes = changes

    def get(self, key: str, default: Any = None) -> Any:
        return self._changes.get(key, self._state.get(key, default))

    def put(self, key: str, value: Any) -> None:
        if self.get(key) != value:
            self._changes[key] = value


def _key(stream: str, device: str) -> str:
    return f"device/{stream}/{device}"


def _remember_device(view: _Overlay, device: Device, now: Moment) -> None:
    known = view.get(_key(device.stream, device.name), {"errors": {}, "last_ns": {}, "history": {}})
    if _is_replaced(known, device, now):
        lives = view.get(f"replaced/{device.stream}/{device.name}", [])
        view.put(f"replaced/{device.stream}/{device.name}", [*lives, {**known, "until_ns": now.time_ns}][-LIVES_MAX:])
        history = {name: History(since_ns=now.time_ns).as_json() for name in known["history"]}
        known = {"errors": {}, "last_ns": {}, "history": history}
    attributes: dict[str, Any] = {
        name: getattr(device, name) for name in ("label", "slot", "serial", "part", "condition")
    }
    if device.serial:
        attributes["life"] = [device.serial, now.boot_id]
    view.put(_key(device.stream, device.name), {**known, **attributes, "size_bytes": device.size_bytes})
    if view.get(f"watch/{device.stream}") is None:
        view.put(f"watch/{device.stream}", now.time_ns)


def _is_replaced(known: Mapping[str, Any], device: Device, now: Moment) -> bool:
    """Another part sits there: it came while the machine was off. Within one boot it's the label that was set right."""
    serial, boot_id = known.get("life", ["", ""])
    return bool(serial and device.serial) and serial != device.serial and boot_id != now.boot_id


def _remember_first_sight(view: _Overlay, sight: FirstSight) -> None:
    key = _key(sight.stream, sight.device)
    known = view.get(key)
    history = History(since_ns=sight.since_ns)
    if sight.error_class in known["history"]:  # it had vanished: what is known begins anew, its last fault stays
        old = History.from_json(known["history"][sight.error_class])
        history = History(max(sight.since_ns, old.since_ns), old.last_fault_ns)
    view.put(key, {**known, "history": {**known["history"], sight.error_class: history.as_json()}})


def _remember_gap(view: _Overlay, gap: Gap) -> None:
    key = _key(gap.stream, gap.device)
    known = view.get(key)
    history = {
        name: History.from_json(value).with_gap(gap.begin_ns, gap.end_ns).as_json()
        for name, value in known["history"].items()
    }
    view.put(key, {**known, "history": history})
    view.put(f"watch/{gap.stream}", max(gap.end_ns, view.get(f"watch/{gap.stream}", 0)))


def _fault(view: _Overlay, source: str, observation: Observation, now: Moment, host: str) -> MemoryFault:
    key = _key(observation.stream, observation.device)
    known = view.get(key)
    severity = observation.severity
    error_class = CORRECTED if severity == "corrected" else NOT_CORRECTED
    history = History(since_ns=now.time_ns)  # no proof of quiet: nobody saw the counter's beginning, or it was lost
    if error_class in known["history"]:
        history = History.from_json(known["history"][error_class])
    novel = history.is_novel(now.time_ns)
    view.put(
        key,
        {
            **known,
            "errors": {**known["errors"], severity: known["errors"].get(severity, 0) + observation.count},
            "last_ns": {**known["last_ns"], severity: now.time_ns},
            "history": {**known["history"], error_class: history.with_fault(now.time_ns).as_json()},
        },
    )
    if novel and observation.time_error_s <= NOVEL_TIME_ERROR_MAX_S:
        view.put(f"novel/{observation.stream}", view.get(f"novel/{observation.stream}", 0) + 1)
    return MemoryFault(
        time_ns=now.time_ns,
        time_error_s=observation.time_error_s,
        host=host,
        device=observation.device,
        stream=observation.stream,
        severity=severity,
        count=observation.count,
        novel=novel,
        witnesses=(source,),
        epoch=observation.epoch,
        detail={**_identity(known), **observation.detail},
    )


def _identity(known: Mapping[str, Any]) -> dict[str, str]:
    return {name: known[name] for name in ("slot", "serial", "part") if known.get(name)}


def _merge(faults: list[MemoryFault]) -> tuple[MemoryFault, ...]:
    """Faults of one device and severity become one, as novel as the first and as vague as the vaguest."""
    merged: dict[tuple[str, str, str], MemoryFault] = {}
    for fault in faults:
        key = (fault.stream, fault.device, fault.severity)
        first = merged.get(key)
        if first is None:
            merged[key] = fault
            continue
        merged[key] = MemoryFault(
            time_ns=first.time_ns,
            time_error_s=max(first.time_error_s, fault.time_error_s),
            host=first.host,
            device=first.device,
            stream=first.stream,
            severity=first.severity,
            count=first.count + fault.count,
            novel=first.novel,
            witnesses=tuple(dict.fromkeys((*first.witnesses, *fault.witnesses))),
            epoch=first.epoch,
            detail={**first.detail, **fault.detail},
        )
    return tuple(merged.values())
