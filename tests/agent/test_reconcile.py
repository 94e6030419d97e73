"""Reconcile: observations become faults, and what is remembered of each device."""

from dataclasses import replace

from agent.novelty import DAY_NS, History
from agent.observation import Device, FirstSight, Gap, Moment, Observation, Poll
from agent.reconcile import clock_step, reconcile, watching
from tests.agent.watcher import NOW

DIMM = Device(stream="dram", name="mc0/channel0/slot0", label="A1", size_bytes=1 << 34)


def at(days: float) -> Moment:
    step_ns = int(days * DAY_NS)
    return replace(NOW, time_ns=NOW.time_ns + step_ns, boottime_ns=NOW.boottime_ns + step_ns)


def sight(error_class: str, since_days: float) -> FirstSight:
    return FirstSight(stream="dram", device=DIMM.name, error_class=error_class, since_ns=at(since_days).time_ns)


def seen(severity: str = "corrected", count: int = 1, time_error_s: float = 5.0) -> Observation:
    return Observation(
        device=DIMM.name, stream="dram", severity=severity, count=count, time_error_s=time_error_s, epoch="e"
    )


def polled(*observations: Observation, **parts: tuple) -> Poll:
    return Poll(cursor={}, devices=(DIMM,), observations=observations, **parts)


class Remembering:
    def __init__(self, since_days: float) -> None:
        self.state: dict = {}
        self.poll(at(0), polled(first_sights=(sight("corrected", since_days), sight("not_corrected", since_days))))

    def poll(self, now: Moment, *polls: Poll) -> list[tuple]:
        faults, changes = reconcile({f"source{n}": poll for n, poll in enumerate(polls)}, self.state, now, "h1")
        self.state = {**self.state, **changes}
        return [(fault.severity, fault.count, fault.novel) for fault in faults]


def test_a_zero_counter_in_an_old_epoch_makes_the_first_fault_novel() -> None:
    assert Remembering(since_days=-8).poll(at(0.1), polled(seen())) == [("corrected", 1, True)]


def test_a_young_epoch_or_a_nonzero_counter_does_not() -> None:
    for since_days in (-6.8, 0):
        assert Remembering(since_days).poll(at(0.1), polled(seen())) == [("corrected", 1, False)]


def test_corrected_and_not_corrected_are_apart() -> None:
    host = Remembering(-8)
    assert host.poll(at(0.1), polled(seen(), seen("uncorrected"))) == [
        ("corrected", 1, True),
        ("uncorrected", 1, True),
    ]
    assert host.poll(at(0.2), polled(seen("deferred"), seen())) == [("deferred", 1, False), ("corrected", 1, False)]
    assert host.poll(at(7.15), polled(seen(), seen("uncorrected"))) == [
        ("corrected", 1, False),
        ("uncorrected", 1, False),
    ]
    assert host.poll(at(14.2), polled(seen())) == [("corrected", 1, True)]


def test_a_vague_novel_fault_is_not_counted_for_metrics() -> None:
    host = Remembering(-30)
    assert host.poll(at(0.1), polled(seen(time_error_s=121))) == [("corrected", 1, True)]
    assert "novel/dram" not in host.state
    assert host.poll(at(8), polled(seen(time_error_s=120))) == [("corrected", 1, True)]
    assert host.state["novel/dram"] == 1


def test_two_witnesses_in_one_cycle_make_one_fault() -> None:
    host = Remembering(-30)
    first = replace(seen(count=3), detail={"label": "A1"})
    second = replace(seen(count=2, time_error_s=60), detail={"syndrome": "0x5a"})
    faults, changes = reconcile({"edac": polled(first), "mc_event": polled(second)}, host.state, at(0.1), "h1")
    (fault,) = faults
    assert (fault.count, fault.novel, fault.time_error_s) == (5, True, 60)
    assert fault.witnesses == ("edac", "mc_event") and fault.detail == {"label": "A1", "syndrome": "0x5a"}
    assert changes[f"device/dram/{DIMM.name}"]["errors"] == {"corrected": 5}


def test_nothing_new_changes_nothing() -> None:
    host = Remembering(-30)
    assert reconcile({"edac": polled()}, host.state, at(1), "h1") == ((), {})


def test_a_device_whose_history_was_lost_is_never_novel_and_never_an_exception() -> None:
    faults, changes = reconcile({"edac": polled(seen())}, {}, at(0), "h1")
    assert [fault.novel for fault in faults] == [False]
    assert watching(changes, ["dram"]) == {"dram": at(7).time_ns}


def test_watching_begins_when_the_last_device_can_be_decided() -> None:
    host = Remembering(-30)
    assert watching(host.state, ["dram", "gpu"]) == {"dram": at(0).time_ns}, "not before anybody watched"
    host.poll(at(1), polled(first_sights=(sight("other", 1),)))
    assert watching(host.state, ["dram"]) == {"dram": at(8).time_ns}
    assert watching(host.state, []) == {}


def test_a_gap_interrupts_watching_and_a_long_one_the_history() -> None:
    host = Remembering(-30)

    def gap(begin: float, end: float) -> Gap:
        return Gap(stream="dram", device=DIMM.name, begin_ns=at(begin).time_ns, end_ns=at(end).time_ns)

    host.poll(at(1.5), polled(gaps=(gap(1, 1.5),)))
    assert watching(host.state, ["dram"]) == {"dram": at(1.5).time_ns}
    assert host.poll(at(1.6), polled(seen())) == [("corrected", 1, True)]
    host.poll(at(20), polled(gaps=(gap(10, 20),)))
    assert watching(host.state, ["dram"]) == {"dram": at(27).time_ns}
    assert host.poll(at(26), polled(seen("uncorrected"))) == [("uncorrected", 1, False)]


def test_a_clock_set_forward_proves_no_quiet_days() -> None:
    host = Remembering(0)
    host.poll(at(0.1), polled(seen()))
    stepped = replace(at(0.2), time_ns=at(30).time_ns)
    changes = clock_step(host.state, at(0.1), stepped)
    host.state |= changes
    assert host.poll(stepped, polled(seen())) == [("corrected", 1, False)]
    assert clock_step(host.state, stepped, replace(stepped, time_ns=stepped.time_ns + 59 * 10**9)) == {}
    other_boot = replace(at(99), boot_id="boot-2")
    assert clock_step(host.state, at(0), other_boot) == {}, "across boots nobody can tell"


def test_a_stream_that_only_events_show_is_watched_since_its_events_are_known() -> None:
    host = Remembering(-30)
    by_events = Poll(cursor={}, watched={"sram": at(1).time_ns})
    host.poll(at(1), polled(), by_events)
    assert watching(host.state, ["dram", "sram"]) == {"dram": at(0).time_ns, "sram": at(8).time_ns}
    assert "sram" not in watching(host.state, ["dram"]), "not while its witness is absent"
    host.poll(at(9), polled(), replace(by_events, watched={"sram": at(9).time_ns}))
    assert watching(host.state, ["sram"]) == {"sram": at(16).time_ns}, "after a gap it begins anew"


def test_a_clock_set_forward_proves_no_quiet_days_of_events_either() -> None:
    host = Remembering(0)
    host.poll(at(1), Poll(cursor={}, watched={"sram": at(1).time_ns}))
    host.state["tracefs/watched"] = History(at(1).time_ns).as_json()
    stepped = replace(at(1), time_ns=at(31).time_ns)
    host.state |= clock_step(host.state, at(1), stepped)
    assert watching(host.state, ["sram"]) == {"sram": at(38).time_ns}
    assert History.from_json(host.state["tracefs/watched"]) == History(at(31).time_ns)


def test_a_part_that_its_witness_lists_no_more_is_gone_until_it_is_back() -> None:
    def state(*devices: Device, is_census: bool = True) -> dict[str, bool]:
        polls = {
            "edac": Poll(cursor={}, devices=devices, is_census=is_census),
            "kmsg": Poll(cursor={}, devices=(replace(DIMM, name="fru/A1"),) if not host.state else ()),
        }
        host.state |= reconcile(polls, host.state, NOW, "h1")[1]
        return {key: value.get("is_gone", False) for key, value in host.state.items() if key.startswith("device/")}

    host = Remembering(0)
    host.state.clear()
    other = replace(DIMM, name="mc0/channel1/slot0")
    first, second, named = (f"device/dram/{name}" for name in (DIMM.name, other.name, "fru/A1"))
    assert state(DIMM, other) == {first: False, second: False, named: False}
    assert state(DIMM, is_census=False) == {first: False, second: False, named: False}, "it may be hidden by trouble"
    assert state(DIMM) == {first: False, second: True, named: False}, "the log lists nothing"
    assert state(DIMM, other) == {first: False, second: False, named: False}


class Slot(Remembering):
    """A host whose only slot holds a part with a serial."""

    def boot(self, days: float, boot: str, serial: str, *observations: Observation) -> tuple:
        now = replace(at(days), boot_id=boot)
        part = replace(DIMM, slot="A1", serial=serial, part="M393")
        faults, changes = reconcile(
            {"edac": Poll(cursor={}, devices=(part,), observations=observations)}, self.state, now, "h1"
        )
        self.state |= changes
        return faults

    @property
    def device(self) -> dict:
        return self.state[f"device/dram/{DIMM.name}"]


def test_the_part_stands_on_the_fault() -> None:
    (fault,) = Slot(-30).boot(0.1, "boot-1", "S1", replace(seen(), detail={"label": "A1"}))
    assert fault.detail == {"slot": "A1", "serial": "S1", "part": "M393", "label": "A1"}


def test_a_new_serial_after_a_boot_is_a_new_life() -> None:
    slot = Slot(-30)
    slot.boot(0.1, "boot-1", "S1", seen(count=5))
    slot.boot(1, "boot-2", "S2")
    assert slot.device["errors"] == {} and slot.device["serial"] == "S2"
    (old,) = slot.state[f"replaced/dram/{DIMM.name}"]
    assert (old["serial"], old["errors"], old["until_ns"]) == ("S1", {"corrected": 5}, at(1).time_ns)
    assert not slot.boot(1.1, "boot-2", "S2", seen())[0].novel, "nothing is known of it before it came"
    assert slot.boot(9, "boot-2", "S2", seen())[0].novel


def test_the_same_serial_is_the_same_life_even_if_it_could_not_be_read_for_a_boot() -> None:
    slot = Slot(-30)
    for days, boot, serial in ((0.1, "boot-1", "S1"), (1, "boot-2", ""), (2, "boot-3", "S1")):
        slot.boot(days, boot, serial, seen())
    assert slot.device["errors"] == {"corrected": 3} and f"replaced/dram/{DIMM.name}" not in slot.state
    slot.boot(3, "boot-4", "")
    slot.boot(4, "boot-5", "S2")
    assert slot.state[f"replaced/dram/{DIMM.name}"][0]["life"] == ["S1", "boot-3"]


def test_a_label_set_right_within_a_boot_replaces_nothing() -> None:
    slot = Slot(-30)
    slot.boot(0.1, "boot-1", "S1", seen())
    slot.boot(0.2, "boot-1", "S2", seen())
    assert slot.device["errors"] == {"corrected": 2} and slot.device["serial"] == "S2"


def test_only_the_latest_lives_are_kept() -> None:
    slot = Slot(-30)
    for number in range(8):
        slot.boot(number, f"boot-{number}", f"S{number}")
    assert [life["serial"] for life in slot.state[f"replaced/dram/{DIMM.name}"]] == ["S3", "S4", "S5", "S6"]
