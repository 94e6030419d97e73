"""One fault, many witnesses: counters say how many, events when and where, and it doesn't matter how polls cut them."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.observation import ADDRESSES_MAX, Device, Event, FirstSight, Moment, Observation, Poll, Role
from agent.reconcile import clock_step, oldest_waiting_ns, reconcile, watching
from agent.report import MemoryFault, decode, encode
from tests.agent.watcher import NOW

SECOND_NS = 10**9
SLOT, OTHER, UNKNOWN = "mc0/channel0/slot0", "mc0/channel1/slot0", "mc0/unknown"
DEVICES = tuple(Device(stream="dram", name=name) for name in (SLOT, OTHER, UNKNOWN))
QUIET_NS = NOW.time_ns - 30 * 86400 * SECOND_NS


def moment(second: float) -> Moment:
    step_ns = int(second * SECOND_NS)
    return replace(NOW, time_ns=NOW.time_ns + step_ns, boottime_ns=NOW.boottime_ns + step_ns)


def event(witness: str, second: float, device: str = SLOT, page: int | None = 1, **parts: Any) -> Event:
    time_ns = moment(second).time_ns
    role = Role.COUNTED if witness == "mc_event" else Role.SHARED
    return Event(
        **{
            "witnesses": (witness,),
            "role": role,
            "device": device,
            "stream": "dram",
            "severity": "corrected",
            "count": 1,
            "first_ns": time_ns,
            "time_ns": time_ns,
            "time_error_s": 1.0,
            "since_ns": QUIET_NS,
            "addresses": () if page is None else (page << 12,),
            "detail": {"from": witness},
            **parts,
        }
    )


def rise(count: int, device: str = SLOT, severity: str = "corrected", time_error_s: float = 5.0) -> Observation:
    return Observation(
        device=device,
        stream="dram",
        severity=severity,
        count=count,
        time_error_s=time_error_s,
        epoch="e",
        detail={"label": "A1"},
    )


@dataclass
class Host:
    """Cycles of a host with counters and events, its state as the journal keeps it."""

    state: dict[str, Any] = field(default_factory=dict)
    faults: list[MemoryFault] = field(default_factory=list)

    def cycle(
        self, second: float, rises: tuple = (), events: tuple = (), devices: tuple = DEVICES
    ) -> list[MemoryFault]:
        sights = tuple(
            FirstSight(stream="dram", device=device.name, error_class=kind, since_ns=QUIET_NS)
            for device in devices
            for kind in ("corrected", "not_corrected")
            if f"device/dram/{device.name}" not in self.state
        )
        polls = {
            "edac": Poll(cursor={}, devices=devices, observations=rises, first_sights=sights),
            "tracefs": Poll(cursor={}, events=events),
        }
        new, changes = reconcile(polls, self.state, moment(second), "h1")
        self.state |= json.loads(json.dumps(changes))
        assert all(decode(encode(fault)) == fault for fault in new)
        self.faults += new
        return list(new)

    def settle(self, second: float) -> "Host":
        for step in range(1, 8):
            self.cycle(second + step)
        assert oldest_waiting_ns(self.state) is None
        return self

    @property
    def counted(self) -> dict[tuple[str, str], int]:
        found: Counter = Counter()
        for fault in self.faults:
            found[fault.device, fault.severity] += fault.count
        return dict(found)


def test_an_event_gives_a_counted_error_time_place_and_detail() -> None:
    (fault,) = Host().cycle(5, (rise(1),), (event("mc_event", 3.5),))
    assert (fault.count, fault.witnesses, fault.novel) == (1, ("edac", "mc_event"), True)
    assert fault.time_ns == moment(3.5).time_ns and fault.time_error_s == 1.0
    assert fault.detail == {"label": "A1", "from": "mc_event", "address": "0x1000"}


def test_a_rise_without_an_event_is_at_once_a_fault() -> None:
    (fault,) = Host().cycle(5, (rise(3),))
    assert (fault.count, fault.witnesses, fault.time_error_s) == (3, ("edac",), 5.0)


def test_what_events_leave_unexplained_stays_in_the_same_line_with_the_counters_time_error() -> None:
    host = Host()
    (fault,) = host.cycle(5, (rise(5),), (event("mc_event", 3, count=2),))
    assert (fault.count, fault.witnesses) == (5, ("edac", "mc_event"))
    assert fault.time_ns == moment(5).time_ns and fault.time_error_s == 5.0


def test_a_surplus_event_waits_for_its_counter() -> None:
    host = Host()
    assert host.cycle(5, (), (event("mc_event", 4.999),)) == []
    assert oldest_waiting_ns(host.state) == moment(4.999).time_ns
    (fault,) = host.cycle(5.25, (rise(1),))
    assert fault.time_ns == moment(4.999).time_ns and fault.witnesses == ("edac", "mc_event")
    assert host.settle(6).counted == {(SLOT, "corrected"): 1}


def test_an_event_whose_counter_was_thrown_away_stands_on_its_own() -> None:
    host = Host()
    host.cycle(0)
    host.cycle(5, (), (event("mc_event", 4),))
    assert host.settle(5).counted == {(SLOT, "corrected"): 1}
    assert host.faults[0].witnesses == ("mc_event",)


def test_an_event_waits_for_a_controller_that_cannot_be_read_but_not_for_ever() -> None:
    host = Host()
    host.cycle(0)
    host.cycle(5, (), (event("mc_event", 4),), devices=())
    for second in range(6, 30):
        assert host.cycle(second, devices=()) == []
    (fault,) = host.cycle(31, (rise(1, time_error_s=31),))
    assert fault.time_ns == moment(4).time_ns and fault.witnesses == ("edac", "mc_event")
    host.cycle(40, (), (event("mc_event", 39),), devices=())
    assert [f.count for second in (60, 98, 101) for f in host.cycle(second, devices=())] == [1]


def test_partly_known_places() -> None:
    host = Host()
    (fault,) = host.cycle(5, (rise(1, UNKNOWN),), (event("mc_event", 4, "mc0/channel1/unknown"),))
    assert fault.device == "mc0/channel1/unknown" and fault.novel, "the quiet of mc0/unknown is its quiet as well"
    (again,) = host.cycle(10, (rise(1, UNKNOWN),), (event("mc_event", 9, "mc0/channel1/unknown"),))
    assert not again.novel
    (vague,) = host.cycle(15, (rise(1, OTHER),), (event("mc_event", 14, UNKNOWN),))
    assert vague.device == OTHER and vague.witnesses == ("edac", "mc_event")
    assert host.cycle(20, (rise(1, SLOT),), (event("mc_event", 19, OTHER),))[0].witnesses == ("edac",)


def test_deferred_and_fatal_are_counted_as_uncorrected_and_told_apart() -> None:
    host = Host()
    events = (event("mc_event", 3, severity="deferred"), event("mc_event", 4, severity="fatal", page=2))
    faults = host.cycle(5, (rise(3, severity="uncorrected"),), events)
    assert {(f.severity, f.count) for f in faults} == {("deferred", 1), ("fatal", 1), ("uncorrected", 1)}


@pytest.mark.parametrize("page", [1, None])
def test_a_machine_check_of_the_same_error_is_a_further_witness(page: int | None) -> None:
    host = Host()
    events = (event("mce_record", 3.999, "socket0/bank9"), event("mc_event", 4, page=page))
    (fault,) = host.cycle(5, (rise(1),), events)
    assert fault.witnesses == ("edac", "mc_event", "mce_record") and fault.device == SLOT
    assert host.settle(5).counted == {(SLOT, "corrected"): 1}


@pytest.mark.parametrize(("page", "second"), [(2, 4.0), (1, 6.1)])
def test_another_page_or_another_second_is_another_error(page: int, second: float) -> None:
    host = Host()
    host.cycle(7, (rise(1),), (event("mc_event", 4.0), event("mce_record", second, "socket0/bank9", page)))
    assert host.settle(7).counted == {(SLOT, "corrected"): 1, ("socket0/bank9", "corrected"): 1}


def test_an_uncorrected_machine_check_is_no_witness_of_a_corrected_error() -> None:
    host = Host()
    host.cycle(5, (rise(1),), (event("mc_event", 4), event("mce_record", 4, "socket0/bank9", severity="fatal")))
    assert host.settle(5).counted == {(SLOT, "corrected"): 1, ("socket0/bank9", "fatal"): 1}


def test_machine_check_and_poisoned_page_alone_are_one_fault() -> None:
    host = Host()
    host.cycle(5, (), (event("memory_failure_event", 4.9, "page/unknown", severity="uncorrected"),))
    host.cycle(5.2, (), (event("mce_record", 5.1, "socket0/bank9", severity="deferred"),))
    host.settle(5.2)
    (fault,) = host.faults
    assert (fault.device, fault.severity) == ("socket0/bank9", "deferred")
    assert fault.witnesses == ("mce_record", "memory_failure_event") and fault.novel


def test_two_records_of_one_page_are_two_errors() -> None:
    host = Host()
    host.cycle(5, (), (event("mce_record", 4.9, "socket0/bank9"),))
    host.cycle(5.2, (), (event("mce_record", 5.1, "socket0/bank9"),))
    assert host.settle(5.2).counted == {("socket0/bank9", "corrected"): 2}


def test_a_rise_whose_event_was_lost_takes_the_machine_check_for_its_witness() -> None:
    host = Host()
    (fault,) = host.cycle(5, (rise(1),), (event("mce_record", 4, "socket0/bank9"),))
    assert fault.witnesses == ("edac", "mce_record") and fault.detail["address"] == "0x1000"
    assert host.settle(5).counted == {(SLOT, "corrected"): 1}


def test_errors_of_a_cache_are_faults_at_once_and_novel_only_with_a_history() -> None:
    cache = {"stream": "sram", "role": Role.OWN, "device": "socket0/cpu3/bank1"}
    host = Host()
    (fault,) = host.cycle(5, (), (event("mce_record", 4, **cache),))
    assert (fault.stream, fault.device, fault.novel) == ("sram", "socket0/cpu3/bank1", True)
    assert host.state["device/sram/socket0/cpu3/bank1"]["errors"] == {"corrected": 1}
    young = {**cache, "device": "socket0/cpu4/bank1", "since_ns": moment(0).time_ns}
    assert [f.novel for f in host.cycle(10, (), (event("mce_record", 9, **young),))] == [False]


def test_a_device_that_only_events_name_delays_nobodys_watching() -> None:
    host = Host()
    host.cycle(0)
    before = watching(host.state, ["dram"])
    host.cycle(5, (), (event("mce_record", 3, "socket0/bank9", since_ns=moment(0).time_ns),))
    assert len(host.settle(5).faults) == 1
    assert watching(host.state, ["dram"]) == before != {}


def test_addresses_are_listed_within_bounds() -> None:
    addresses = tuple(n << 12 for n in range(1, ADDRESSES_MAX + 1))
    (fault,) = Host().cycle(5, (rise(70),), (event("mc_event", 4, count=70, addresses=addresses),))
    assert fault.detail["addresses"] == [hex(n << 12) for n in range(1, 9)]
    assert fault.detail["distinct_addresses"] == ADDRESSES_MAX


def test_what_waits_is_bounded_and_loses_nothing() -> None:
    host = Host()
    host.cycle(5, (), tuple(event("mce_record", 4.9, f"socket{n}/bank9", page=n) for n in range(1, 1001)))
    assert len(host.state["waiting"]) <= 64
    assert sum(host.settle(5).counted.values()) == 1000


def test_a_clock_that_is_set_moves_what_waits_along() -> None:
    host = Host()
    host.cycle(5, (), (event("mc_event", 4.999),))
    stepped = replace(moment(6), time_ns=moment(6).time_ns + 3600 * SECOND_NS)
    host.state |= clock_step(host.state, moment(5), stepped)
    assert oldest_waiting_ns(host.state) == moment(4.999).time_ns + 3600 * SECOND_NS


# --- any interleaving, any split of polls ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Error:
    second: float
    kind: str  # a corrected or uncorrected EDAC error, or one that only machine checks show, corrected or consumed
    lag_s: float  # from the first event to the others and to the counter
    is_lost: bool  # its events were overwritten


def happened(number: int, error: Error) -> tuple[list[Event], str | None]:
    """The events of an error, each on a page of its own, and the severity its counter shows."""
    page, late = number + 1, error.second + error.lag_s
    if error.kind == "machine check":
        return [event("mce_record", error.second, "socket0/bank9", page)], None
    if error.kind == "consumed":
        return consumption(error.second, late, page), None
    severity = "corrected" if error.kind == "corrected" else "uncorrected"
    events = [
        event("mce_record", error.second, "socket0/bank9", page, severity=severity),
        event("mc_event", late, page=page, severity=severity),
    ]
    if severity == "uncorrected":
        events += consumption(error.second, late, page)[1:]
    return ([] if error.is_lost else events), severity


def consumption(second: float, late: float, page: int) -> list[Event]:
    """What the memory's own bank, the core that came upon the error, and the kernel then say."""
    return [
        event("mce_record", second, "socket0/bank9", page, severity="uncorrected"),
        event("poison", late, "memory/unknown", page, severity="uncorrected"),
        event("memory_failure_event", late, "page/unknown", page, severity="uncorrected"),
    ]


ERRORS = st.lists(
    st.builds(
        Error,
        st.floats(0, 20).map(lambda value: round(value, 3)),
        st.sampled_from(["corrected", "uncorrected", "machine check", "consumed"]),
        st.floats(0, 0.5).map(lambda value: round(value, 3)),
        st.booleans(),
    ),
    max_size=12,
)
POLLS = st.lists(st.floats(0, 21).map(lambda value: round(value, 3)), max_size=30)


def lived(errors: list[Error], polls: list[float]) -> Host:
    """What a host makes of the errors if it is polled at these times, and until nothing waits."""
    host, last = Host(), -1.0
    happenings = [happened(number, error) for number, error in enumerate(errors)]
    for now in [*sorted(set(polls)), 22.0]:
        seen = [
            item
            for events, _ in happenings
            for item in events
            if moment(last).time_ns < item.time_ns <= moment(now).time_ns
        ]
        rises: Counter = Counter()
        for error, (_, severity) in zip(errors, happenings, strict=True):
            if severity is not None and last < error.second + error.lag_s + 0.001 <= now:
                rises[severity] += 1
        observed = tuple(rise(n, severity=severity, time_error_s=now - last) for severity, n in rises.items())
        host.cycle(now, observed, tuple(seen))
        last = now
    return host.settle(22)


@given(ERRORS, POLLS)
@settings(max_examples=300, deadline=None)
def test_any_split_of_polls_gives_the_same_faults(errors: list[Error], polls: list[float]) -> None:
    told = [replace(error, is_lost=False) for error in errors]
    expected: Counter = Counter()
    bank = {"machine check": ("socket0/bank9", "corrected"), "consumed": ("socket0/bank9", "uncorrected")}
    for error in told:
        expected[bank.get(error.kind, (SLOT, error.kind))] += 1
    assert lived(told, polls).counted == dict(expected) == lived(told, []).counted


@given(ERRORS, POLLS)
@settings(max_examples=300, deadline=None)
def test_per_controller_the_faults_are_what_the_counters_show_whatever_was_lost(
    errors: list[Error], polls: list[float]
) -> None:
    expected = Counter(error.kind for error in errors if error.kind in ("corrected", "uncorrected"))
    counted = lived(errors, polls).counted
    assert {severity: n for (device, severity), n in counted.items() if device == SLOT} == dict(expected)
    alone = sum(error.kind == "machine check" for error in errors)
    lost = sum(error.is_lost for error in errors)
    assert alone - lost <= counted.get(("socket0/bank9", "corrected"), 0) <= alone
