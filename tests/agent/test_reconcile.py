"""Reconcile: observations become faults, devices are remembered, and nothing that was handed in is changed."""

import copy
from typing import Any

from agent.novelty import DAY_NS
from agent.observation import CORRECTED, NOT_CORRECTED, Device, FirstSight, Gap, Moment, Observation, Poll
from agent.reconcile import clock_step, reconcile, watching

NOW_NS = 1_000 * DAY_NS
DIMM = Device(stream="dram", name="mc0/channel0/slot0", label="A1", size_bytes=1 << 34)
OTHER = Device(stream="dram", name="mc0/channel0/slot1")


def moment(time_ns: int = NOW_NS) -> Moment:
    return Moment(time_ns, time_ns // 2, "boot")


def sights(device: Device, since_ns: int) -> tuple[FirstSight, ...]:
    return tuple(
        FirstSight(stream=device.stream, device=device.name, error_class=error_class, since_ns=since_ns)
        for error_class in (CORRECTED, NOT_CORRECTED)
    )


def observed(
    device: Device = DIMM, severity: str = "corrected", count: int = 1, time_error_s: float = 5
) -> Observation:
    return Observation(
        device=device.name,
        stream=device.stream,
        severity=severity,
        count=count,
        time_error_s=time_error_s,
        epoch="e",
        detail={"label": device.label},
    )


def first_poll(since_ns: int, *devices: Device) -> Poll:
    return Poll(cursor={}, devices=devices, first_sights=sum((sights(d, since_ns) for d in devices), ()))


def after(polls: dict[str, Poll], state: dict[str, Any], now: Moment) -> tuple[list, dict[str, Any]]:
    """The faults and the new state; what was handed in must not change."""
    before = copy.deepcopy(state)
    faults, changes = reconcile(polls, state, now, "h1")
    assert state == before
    return list(faults), {**state, **changes}


def test_known_devices_are_remembered_with_nothing_counted() -> None:
    faults, state = after({"edac": first_poll(NOW_NS, DIMM, OTHER)}, {}, moment())
    assert faults == []
    device = state["device/dram/mc0/channel0/slot0"]
    assert (device["label"], device["size_bytes"], device["errors"]) == ("A1", 1 << 34, {})
    again, _ = reconcile({"edac": Poll(cursor={}, devices=(DIMM, OTHER))}, state, moment(), "h1")
    assert again == ()
    assert reconcile({"edac": Poll(cursor={}, devices=(DIMM, OTHER))}, state, moment(), "h1")[1] == {}


def test_a_label_that_changes_keeps_the_device_and_its_count() -> None:
    _, state = after({"edac": first_poll(NOW_NS, DIMM)}, {}, moment())
    _, state = after({"edac": Poll(cursor={}, devices=(DIMM,), observations=(observed(count=7),))}, state, moment())
    renamed = Device(stream="dram", name=DIMM.name, label="B9", size_bytes=1 << 34)
    _, state = after({"edac": Poll(cursor={}, devices=(renamed,))}, state, moment())
    device = state["device/dram/mc0/channel0/slot0"]
    assert device["label"] == "B9" and device["errors"] == {"corrected": 7}


def test_novelty_is_decided_per_device_and_class() -> None:
    _, state = after({"edac": first_poll(NOW_NS - 8 * DAY_NS, DIMM, OTHER)}, {}, moment())
    now = moment(NOW_NS + 1)
    seen = (observed(), observed(OTHER, "uncorrected"))
    faults, state = after({"edac": Poll(cursor={}, observations=seen)}, state, now)
    assert [fault.novel for fault in faults] == [True, True]
    seen = (observed(), observed(DIMM, "uncorrected"), observed(OTHER), observed(OTHER, "deferred"))
    faults, state = after({"edac": Poll(cursor={}, observations=seen)}, state, moment(NOW_NS + 2))
    assert [fault.novel for fault in faults] == [False, True, True, False]
    assert state["novel/dram"] == 4


def test_a_vague_novel_fault_is_told_but_not_counted_in_metrics() -> None:
    _, state = after({"edac": first_poll(NOW_NS - 8 * DAY_NS, DIMM)}, {}, moment())
    faults, state = after({"edac": Poll(cursor={}, observations=(observed(time_error_s=121),))}, state, moment())
    assert faults[0].novel and "novel/dram" not in state


def test_what_two_witnesses_say_of_one_device_in_one_cycle_is_one_fault() -> None:
    _, state = after({"edac": first_poll(NOW_NS - 8 * DAY_NS, DIMM)}, {}, moment())
    polls = {
        "edac": Poll(cursor={}, observations=(observed(count=2), observed(count=3, time_error_s=9))),
        "other": Poll(cursor={}, observations=(observed(count=1),)),
    }
    faults, state = after(polls, state, moment())
    assert [(f.count, f.novel, f.time_error_s, f.witnesses) for f in faults] == [(6, True, 9, ("edac", "other"))]
    assert state["device/dram/mc0/channel0/slot0"]["errors"] == {"corrected": 6}
    assert state["novel/dram"] == 1


def test_a_stream_is_watched_once_novelty_can_be_decided_for_every_device() -> None:
    old, young = NOW_NS - 30 * DAY_NS, NOW_NS - 3 * DAY_NS
    _, state = after({"edac": first_poll(old, DIMM)}, {}, moment())
    assert watching(state, ["dram", "gpu"]) == {"dram": NOW_NS}  # not before the agent was there
    _, state = after({"edac": first_poll(young, OTHER)}, state, moment())
    assert watching(state, ["dram"]) == {"dram": young + 7 * DAY_NS}
    assert watching(state, []) == {}


def test_a_gap_interrupts_the_watch() -> None:
    _, state = after({"edac": first_poll(NOW_NS - 30 * DAY_NS, DIMM)}, {}, moment())
    gap = Gap(stream="dram", device=DIMM.name, begin_ns=NOW_NS + DAY_NS, end_ns=NOW_NS + DAY_NS + 60 * 10**9)
    _, state = after({"edac": Poll(cursor={}, gaps=(gap,))}, state, moment(NOW_NS + 2 * DAY_NS))
    assert watching(state, ["dram"]) == {"dram": gap.end_ns}


def test_a_clock_set_forward_proves_no_quiet_days() -> None:
    _, state = after({"edac": first_poll(NOW_NS, DIMM)}, {}, moment())
    last = Moment(NOW_NS, 10**9, "boot")
    jumped = Moment(NOW_NS + 365 * DAY_NS, 6 * 10**9, "boot")
    state |= clock_step(state, last, jumped)
    faults, _ = after({"edac": Poll(cursor={}, observations=(observed(),))}, state, jumped)
    assert not faults[0].novel
    assert clock_step(state, last, Moment(NOW_NS + 5 * 10**9 + 10**7, 6 * 10**9, "boot")) == {}  # no step: drift
    assert clock_step(state, last, Moment(NOW_NS + DAY_NS, 10**9, "next boot")) == {}  # incomparable
