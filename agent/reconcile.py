"""One fault, many witnesses: what the sources observed becomes faults, and what is remembered of each device.

Enters: the polls of one cycle, the remembered state and the moment. Leaves: the faults of this cycle and the changes to
the state, which the journal writes together or not at all. Pure: nothing is mutated.

State keys used here (all values are JSON):
    device/<stream>/<name>   label, slot, serial, part, condition, size_bytes; errors and last_ns by severity; history
                             by class of errors; life, the serial that these belong to and the boot in which it was
                             last seen; evidence (agent/evidence.py); source, who lists it, and is_gone, if no more
    replaced/<stream>/<name> the same of the parts that sat there before, the latest last
    novel/<stream>           how many novel faults with a time error of at most 120 s there were, for /metrics
    watch/<stream>           since when the host has watched the stream without a gap
    watched/<stream>         since when every error of the stream is known by events, whichever device has it
    counted                  the controllers that ever had counters: first parts of device names
    waiting                  events whose errors aren't all accounted (see attribution)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from agent import dram_place
from agent.attribution import ADDRESSES_MAX, SECOND_NS, Account, Controllers, Waiting, attribute
from agent.novelty import History
from agent.observation import Device, FirstSight, Gap, Moment, Poll, error_class
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
    for source, poll in polls.items():
        for device in poll.devices:
            _remember_device(view, device, now)
        if poll.is_census:
            _remember_census(view, state, source, poll)
        for stream, since_ns in poll.watched.items():
            view.put(f"watched/{stream}", since_ns)
        for sight in poll.first_sights:
            _remember_first_sight(view, sight)
        for gap in poll.gaps:
            _remember_gap(view, gap)
    accounts = _attributed(view, polls, now)
    return tuple(_fault(view, account, host) for account in _merged(accounts)), changes


def _attributed(view: "_Overlay", polls: Mapping[str, Poll], now: Moment) -> list[Account]:
    read = {device.name.partition("/")[0] for poll in polls.values() for device in poll.devices}
    ever = sorted({*view.get("counted", ()), *read})
    view.put("counted", ever)
    accounts, waiting = attribute(
        [(source, item) for source, poll in polls.items() for item in poll.observations],
        [item for poll in polls.values() for item in poll.events],
        [Waiting.from_json(value) for value in view.get("waiting", ())],
        Controllers(ever, read),
        now,
        is_unfinished=any(poll.is_unfinished for poll in polls.values()),
    )
    view.put("waiting", [item.as_json() for item in waiting])
    return accounts


def devices(state: State) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every device that is remembered, in order: its stream, its name, and what is known of it."""
    for key in sorted(key for key in state if key.startswith("device/")):
        _, stream, name = key.split("/", 2)
        yield stream, name, state[key]


def oldest_waiting_ns(state: State) -> int | None:
    """When the first error was reported that isn't a fault yet, because its counter or another witness may follow."""
    times = [item["event"]["first_ns"] for item in state.get("waiting", ()) if item["left"]]
    return min(times, default=None)


def watching(state: State, streams: Iterable[str]) -> dict[str, int]:
    """For each of `streams`: since when novelty could be decided for every device; undecided streams are left out."""
    since = {}
    for stream in streams:
        devices = [value for key, value in state.items() if _is_counted(key, value, stream)]
        histories = [History.from_json(value) for device in devices for value in device["history"].values()]
        if f"watched/{stream}" in state:
            histories.append(History(state[f"watched/{stream}"]))
        if histories:
            since[stream] = max(state.get(f"watch/{stream}", 0), *(history.decidable_ns for history in histories))
    return since


def _is_counted(key: str, value: Any, stream: str) -> bool:
    """A device that only events tell of says nothing about when the counters of the others began."""
    return key.startswith(f"device/{stream}/") and not value.get("by_events")


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
        elif key.startswith(("watch/", "watched/")):
            changes[key] = value + step_ns
        elif key.endswith("/watched"):  # what a source keeps for it
            changes[key] = History.from_json(value).shifted(step_ns).as_json()
        elif key == "waiting":
            changes[key] = [{**item, "event": _shifted(item["event"], step_ns)} for item in value]
    return changes


def _shifted(event: Mapping[str, Any], step_ns: int) -> dict[str, Any]:
    return {**event, **{name: event[name] + step_ns for name in ("first_ns", "time_ns", "since_ns")}}


class _Overlay:
    """The state as it will be once the changes are written."""

    def __init__(self, state: State, changes: Changes) -> None:
        self._state = state
        self._changes = changes

    def get(self, key: str, default: Any = None) -> Any:
        return self._changes[key] if key in self._changes else self._state.get(key, default)

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
        "label": device.label,
        "slot": device.slot,
        "serial": device.serial,
        "part": device.part,
        "condition": device.condition,
        "size_bytes": device.size_bytes,
    }
    if device.serial:
        attributes["life"] = [device.serial, now.boot_id]
    view.put(_key(device.stream, device.name), {**known, **attributes})
    if view.get(f"watch/{device.stream}") is None:
        view.put(f"watch/{device.stream}", now.time_ns)


def _remember_census(view: _Overlay, state: State, source: str, poll: Poll) -> None:
    """Which devices this source lists, and which it listed once."""
    present = {_key(device.stream, device.name) for device in poll.devices}
    for key in present:
        view.put(key, {**view.get(key), "source": source, "is_gone": False})
    for key, value in state.items():
        if key.startswith("device/") and key not in present and value.get("source") == source:
            view.put(key, {**view.get(key), "is_gone": True})


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


def _fault(view: _Overlay, account: Account, host: str) -> MemoryFault:
    key = _key(account.stream, account.device)
    known = view.get(key) or _by_events(account)
    severity, kind = account.severity, error_class(account.severity)
    history = _history(view, account, known)
    novel = history.is_novel(account.time_ns)
    last_ns = max(account.time_ns, known["last_ns"].get(severity, 0))
    view.put(
        key,
        {
            **known,
            "errors": {**known["errors"], severity: known["errors"].get(severity, 0) + account.count},
            "last_ns": {**known["last_ns"], severity: last_ns},
            "history": {**known["history"], kind: history.with_fault(account.time_ns).as_json()},
        },
    )
    if novel and account.time_error_s <= NOVEL_TIME_ERROR_MAX_S:
        view.put(f"novel/{account.stream}", view.get(f"novel/{account.stream}", 0) + 1)
    return MemoryFault(
        time_ns=account.time_ns,
        time_error_s=account.time_error_s,
        host=host,
        device=account.device,
        stream=account.stream,
        severity=severity,
        count=account.count,
        novel=novel,
        witnesses=account.witnesses,
        epoch=account.epoch,
        detail={**_identity(known), **account.as_detail()},
    )


def _identity(known: Mapping[str, Any]) -> dict[str, str]:
    return {name: known[name] for name in ("slot", "serial", "part") if known.get(name)}


def _by_events(account: Account) -> dict[str, Any]:
    """A device that no counter names: it is known from its first error on."""
    attributes = {name: account.detail.get(name, "") for name in ("label", "slot", "serial", "part", "condition")}
    return {"errors": {}, "last_ns": {}, "history": {}, **attributes, "size_bytes": None, "by_events": True}


def _history(view: _Overlay, account: Account, known: Mapping[str, Any]) -> History:
    """What proves the device's quiet: its counter, or that its witness saw everything; and its own last fault."""
    kind = error_class(account.severity)
    own = History.from_json(known["history"][kind]) if kind in known["history"] else None
    if account.counter is None:
        proof = History(account.since_ns if account.since_ns is not None else account.time_ns)
    else:
        histories = (view.get(_key(account.stream, account.counter)) or known)["history"]
        # without a history nobody saw the counter's beginning, or it was lost
        proof = History.from_json(histories[kind]) if kind in histories else History(account.time_ns)
    return replace(proof, last_fault_ns=own.last_fault_ns if own is not None else None)


def _merged(accounts: Iterable[Account]) -> Iterable[Account]:
    """Accounts of one device and severity become one, as vague as all of them together."""
    merged: dict[tuple[str, str, str], Account] = {}
    for account in accounts:
        key = (account.stream, account.device, account.severity)
        merged[key] = _both(merged[key], account) if key in merged else account
    return merged.values()


def _both(first: Account, other: Account) -> Account:
    begin_ns = min(item.time_ns - int(item.time_error_s * SECOND_NS) for item in (first, other))
    time_ns = max(first.time_ns, other.time_ns)
    return replace(
        first,
        count=first.count + other.count,
        time_ns=time_ns,
        time_error_s=(time_ns - begin_ns) / SECOND_NS,
        witnesses=tuple(dict.fromkeys((*first.witnesses, *other.witnesses))),
        counter=first.counter or other.counter,
        addresses=tuple(dict.fromkeys((*first.addresses, *other.addresses)))[:ADDRESSES_MAX],
        detail=dram_place.with_places(dram_place.filled(first.detail, other.detail), other.detail),
    )
