"""From faults to evidence, to the mode of failure, to what to do: every rule with a case for and a case against."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import actions
from agent.actions import RULES, decide
from agent.evidence import (
    DAY_NS,
    HOUR_NS,
    PLACES_MAX,
    corrected_last_day,
    mode,
    most_on_a_page_last_day,
    remember,
    with_fault,
)
from agent.observation import Device, Poll
from agent.reconcile import reconcile
from agent.report import MemoryFault, RecordFault
from tests.agent.watcher import NOW

SLOT = "mc0/channel0/slot0"
NOW_NS = NOW.time_ns


def fault(
    *, count: int = 1, severity: str = "corrected", hours_ago: float = 0, device: str = SLOT, **detail: Any
) -> MemoryFault:
    return MemoryFault(
        time_ns=NOW_NS - int(hours_ago * HOUR_NS),
        time_error_s=5,
        host="h1",
        device=device,
        stream="dram",
        severity=severity,
        count=count,
        novel=False,
        detail=detail,
    )


def evidence_of(*faults: MemoryFault) -> dict[str, Any]:
    found: dict[str, Any] | None = None
    for entry in faults:
        found = with_fault(found, entry)
    assert found is not None
    assert json.loads(json.dumps(found)) == found, "the journal keeps it as JSON"
    return found


def remembered(*faults: MemoryFault, condition: str = "") -> dict[str, Any]:
    last_ns: dict[str, int] = {}
    errors: dict[str, int] = {}
    for entry in faults:
        last_ns[entry.severity] = entry.time_ns
        errors[entry.severity] = errors.get(entry.severity, 0) + entry.count
    known = {"evidence": evidence_of(*faults)} if faults else {}
    return {"last_ns": last_ns, "errors": errors, "condition": condition, **known}


def decided(*faults: MemoryFault, stream: str = "dram", name: str = SLOT, condition: str = "") -> tuple[str, str]:
    decision = decide(stream, name, remembered(*faults, condition=condition), NOW_NS)
    return decision.action, decision.rule


# --- evidence --------------------------------------------------------------------------------------------------------


def test_errors_of_the_last_day_to_the_hour() -> None:
    found = evidence_of(*(fault(count=2, hours_ago=hours) for hours in (30, 22, 1, 0)), fault(severity="uncorrected"))
    assert corrected_last_day(found, NOW_NS) == 6
    assert corrected_last_day(found, NOW_NS + DAY_NS + HOUR_NS) == 0
    assert found["first_ns"] == NOW_NS - 30 * HOUR_NS


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 1 << 20)), min_size=1, max_size=80))
def test_evidence_stays_small(seen: list[tuple[int, int]]) -> None:
    ordered = sorted(seen, reverse=True)
    found = evidence_of(*(fault(hours_ago=hours, address=hex(address)) for hours, address in ordered))
    assert len(found["hours"]) <= 25 and len(found["places"]) <= PLACES_MAX
    assert corrected_last_day(found, NOW_NS) == sum(
        (NOW_NS - h * HOUR_NS) // HOUR_NS > (NOW_NS - DAY_NS) // HOUR_NS for h, _ in seen
    )


def test_places_are_counted_and_the_oldest_forgotten() -> None:
    found = evidence_of(fault(address="0x1000"), *(fault(address=hex(n << 12)) for n in range(2, PLACES_MAX + 1)))
    found = with_fault(found, fault(address="0x1000", count=4))
    assert found["places"][-1][0] == "0x1000" and found["places"][-1][4] == 5
    found = with_fault(found, fault(address="0xff000"))
    assert [place[0] for place in found["places"]][-2:] == ["0x1000", "0xff000"] and len(found["places"]) == PLACES_MAX


def test_of_a_death_is_kept_what_the_last_one_left_behind() -> None:
    deaths = [fault(severity="fatal", device="host", evidence=words) for words in (["a panic", "BERT"], ["none"])]
    assert evidence_of(deaths[0])["left_behind"] == ["a panic", "BERT"]
    assert evidence_of(*deaths)["left_behind"] == ["none"]
    assert "left_behind" not in evidence_of(fault())


def test_pages_of_the_last_day() -> None:
    assert most_on_a_page_last_day(evidence_of(fault(address="0x1000"), fault(address="0x1ff8"), fault()), NOW_NS) == 2
    assert most_on_a_page_last_day(evidence_of(fault(addresses=["0x1000", "0x2000"], count=9)), NOW_NS) == 1
    assert most_on_a_page_last_day(evidence_of(fault(address="0x1000", count=3, hours_ago=25)), NOW_NS) == 0


def at(row: int, column: int, bank: int = 0) -> MemoryFault:
    return fault(rank=0, bank=bank, row=row, column=column)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([fault(count=5)], "unknown"),
        ([fault(address="0x10")], "transient"),
        ([fault(address="0x10", count=2)], "single-bit"),
        ([fault(address="0x10"), fault(address="0x20")], "unknown"),
        ([at(1, 1), at(1, 1)], "single-bit"),
        ([at(1, 1), at(1, 2)], "row"),
        ([at(1, 1), at(2, 1)], "column"),
        ([at(1, 1), at(2, 2)], "bank"),
        ([at(1, 1), at(1, 1, bank=3)], "several-banks"),
        ([at(1, 1), fault(address="0x20")], "unknown"),
    ],
)
def test_modes(faults: list[MemoryFault], expected: str) -> None:
    assert mode(evidence_of(*faults)).name == expected


def test_evidence_is_kept_with_the_device_and_leaves_with_its_part() -> None:
    def cycle(state: dict, serial: str, boot: str) -> dict:
        part = Device(stream="dram", name=SLOT, serial=serial)
        now = type(NOW)(NOW.time_ns, NOW.boottime_ns, boot)
        _, changes = reconcile({"edac": Poll(cursor={}, devices=(part,))}, state, now, "h1")
        return {**state, **changes}

    state = cycle({}, "S1", "boot-1")
    record = RecordFault(time_ns=1, time_error_s=1, host="h", device="/dev/sda", count=1, novel=False)
    state |= remember([fault(address="0x10"), record, fault(device="never seen")], state, {})
    assert state[f"device/dram/{SLOT}"]["evidence"]["places"][0][0] == "0x10"
    assert "device/dram/never seen" not in state
    state = cycle(state, "S2", "boot-2")
    assert "evidence" not in state[f"device/dram/{SLOT}"]
    assert "evidence" in state[f"replaced/dram/{SLOT}"][0]


# --- rules -----------------------------------------------------------------------------------------------------------

TEN_IN_A_DAY = [fault(count=10, hours_ago=1)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (decided(), ("none", "quiet")),
        (decided(fault(hours_ago=8 * 24)), ("none", "quiet")),
        (decided(fault(hours_ago=6 * 24)), ("watch", "corrected")),
        (decided(fault(count=9, hours_ago=1)), ("watch", "corrected")),
        (decided(*TEN_IN_A_DAY), ("watch", "rate")),
        (decided(fault(count=10, hours_ago=26)), ("watch", "corrected")),
        (decided(fault(address="0x1000"), fault(address="0x1008")), ("watch", "one-page")),
        (decided(fault(address="0x1000"), fault(address="0x2000")), ("watch", "corrected")),
        (decided(at(1, 1), at(2, 1), *TEN_IN_A_DAY), ("replace", "many-rows")),
        (decided(at(1, 1), at(1, 2), *TEN_IN_A_DAY), ("watch", "rate")),
        (decided(at(1, 1), at(2, 1)), ("watch", "corrected")),
        (decided(fault(severity="uncorrected", hours_ago=29 * 24)), ("replace", "uncorrected")),
        (decided(fault(severity="deferred")), ("replace", "uncorrected")),
        (decided(fault(severity="uncorrected", hours_ago=31 * 24)), ("none", "quiet")),
        (decided(fault(severity="uncorrected"), name="mc0/unknown"), ("drain", "uncorrected-elsewhere")),
        (decided(fault(severity="uncorrected"), name="socket0/bank9"), ("drain", "uncorrected-elsewhere")),
        (decided(fault(severity="uncorrected"), name="fru/DIMM_A2"), ("replace", "uncorrected")),
        (decided(fault(severity="fatal"), stream="host", name="host"), ("watch", "host-died")),
        (decided(fault(severity="fatal", hours_ago=31 * 24), stream="host", name="host"), ("none", "quiet")),
        (decided(fault(severity="uncorrected"), stream="canary", name="canary"), ("drain", "canary")),
        (decided(fault(severity="uncorrected", hours_ago=31 * 24), stream="canary", name="canary"), ("none", "quiet")),
        (decided(fault(severity="uncorrected"), name="page/unknown"), ("watch", "page-offlined")),
        (decided(fault(severity="fatal"), stream="sram", name="cpu0/bank1"), ("drain", "uncorrected-elsewhere")),
        (decided(fault(severity="uncorrected"), stream="core", name="cpu3"), ("drain", "core")),
        (decided(stream="gpu", condition="remap-pending"), ("reset", "remap-pending")),
        (decided(fault(severity="uncorrected"), stream="gpu", condition="remap-failed"), ("replace", "remap-failed")),
        (decided(fault(severity="uncorrected"), stream="gpu", condition="remapped"), ("none", "remapped")),
        (decided(fault(severity="uncorrected"), stream="gpu"), ("drain", "uncorrected-elsewhere")),
    ],
)
def test_rules(found: tuple[str, str], expected: tuple[str, str]) -> None:
    assert found == expected


def test_every_rule_has_a_name_of_its_own_and_a_source() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.source and rule.why for rule in RULES)


def test_states() -> None:
    def state(*faults: MemoryFault, condition: str = "") -> str:
        return decide("dram", SLOT, remembered(*faults, condition=condition), NOW_NS).state

    assert state() == actions.QUIET
    assert state(fault(hours_ago=6 * 24)) == actions.OPEN
    assert state(fault(hours_ago=8 * 24)) == actions.QUIET
    assert state(fault(), condition=actions.REMAPPED) == actions.HEALED
    assert decide("dram", SLOT, {**remembered(fault()), "is_gone": True}, NOW_NS).state == actions.GONE


def test_an_acknowledgement_holds_for_as_many_errors_as_there_were() -> None:
    def state(known: dict[str, int], *faults: MemoryFault) -> str:
        return decide("dram", SLOT, remembered(*faults), NOW_NS, known).state

    first = fault(count=3)
    assert state({"corrected": 3}, first) == actions.ACKNOWLEDGED
    assert state({"corrected": 3}, first, fault()) == actions.OPEN, "one more"
    assert state({"corrected": 3}, first, fault(severity="uncorrected")) == actions.OPEN, "another kind"
    assert state({"corrected": 3}, fault(count=3, hours_ago=31 * 24)) == actions.QUIET
    old = fault(severity="uncorrected", hours_ago=8 * 24)
    assert state({"uncorrected": 1}, old) == actions.ACKNOWLEDGED, "as long as it would have to be replaced"
    assert state({"corrected": 3}, old) == actions.QUIET
    assert state({}, first) == actions.OPEN
    both = remembered(first, fault(severity="uncorrected"))
    assert actions.open_severities(both, NOW_NS, {"corrected": 3}) == {"uncorrected"}
