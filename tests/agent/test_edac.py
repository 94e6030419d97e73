"""The EDAC source over trees as drivers make them: every error once, whatever becomes of the files."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sources import edac
from tests.agent.edac_tree import Controller, controller, dimms
from tests.agent.watcher import DAY_S, NOW, Watcher


@pytest.fixture
def watcher(tmp_path: Path) -> Watcher:
    return Watcher(tmp_path)


def test_dimms_are_devices_by_location(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    first = watcher.poll()
    assert [device.name for device in first.devices] == [
        "mc0/channel0/slot0",
        "mc0/channel0/slot1",
        "mc0/channel1/slot0",
        "mc0/channel1/slot1",
        "mc0/unknown",
    ]
    assert first.devices[0].label == "label of dimm0" and first.devices[0].size_bytes == 16 << 30
    assert not first.observations and first.blind is None
    mc.inject("dimm2", 3)
    mc.inject("dimm1", kind="ue")
    found = {(o.device, o.severity): o for o in watcher.poll().observations}
    assert {place: o.count for place, o in found.items()} == {
        ("mc0/channel1/slot0", "corrected"): 3,
        ("mc0/channel0/slot1", "uncorrected"): 1,
    }
    assert {o.time_error_s for o in found.values()} == {5.0}
    assert not watcher.poll().observations


def test_ranks_with_gaps_in_their_numbers(watcher: Watcher) -> None:
    places = {f"rank{n}": f"csrow {n // 2} channel {n % 2}" for n in (0, 1, 4, 11)}
    mc = controller(watcher.sysfs, 3, places=places).create()
    watcher.poll()
    mc.inject("rank11", 7)
    watcher.poll()
    assert watcher.counted == {("mc3/csrow5/channel1", "corrected"): 7}


def test_rows_of_the_legacy_view_tell_uncorrected_errors_only_per_row(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs, rows={"csrow0": 2, "csrow2": 2}).create()
    watcher.poll()
    mc.inject_row("csrow2", 1, 4)
    mc.inject_row("csrow0", 0, 2, kind="ue")
    watcher.poll()
    assert watcher.counted == {("mc0/csrow2/channel1", "corrected"): 4, ("mc0/csrow0/unknown", "uncorrected"): 2}


def test_both_views_at_once_count_once(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs, places=dimms(), rows={"csrow0": 2}).create()
    watcher.poll()
    mc.inject("dimm0", 5)
    mc.add("csrow0/ce_count", 5)
    mc.add("csrow0/ch0_ce_count", 5)
    watcher.settle()
    assert watcher.counted == {("mc0/channel0/slot0", "corrected"): 5}


def test_errors_without_information_belong_to_an_unknown_place(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    watcher.poll()
    mc.inject_noinfo(2)
    watcher.poll()
    assert watcher.counted == {("mc0/unknown", "corrected"): 2}


def test_a_surplus_counts_once_two_polls_have_seen_it(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    watcher.poll()
    mc.add("ce_count", 3)
    assert not watcher.poll().observations
    (observation,) = watcher.poll().observations
    assert (observation.device, observation.count) == ("mc0/unknown", 3)
    assert observation.time_error_s == 10.0, "it arose between the last poll without it and the next"
    assert not watcher.settle().observations


def test_a_surplus_that_a_place_shows_at_the_next_poll_is_the_places(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    watcher.poll()
    mc.add("ce_count", 3)
    watcher.poll()
    mc.add("dimm3/dimm_ce_count", 3)
    watcher.settle()
    assert watcher.counted == {("mc0/channel1/slot1", "corrected"): 3}


UNREADABLE = [b"", b"twelve\n", b"9" * 30, b"4294967296\n", b"-1\n", b"\xff\xfe", None]


@pytest.mark.parametrize("content", UNREADABLE)
@pytest.mark.parametrize("polls", [1, 3])
def test_a_place_that_cannot_be_read_for_a_while_counts_once(
    watcher: Watcher, content: bytes | None, polls: int
) -> None:
    mc = controller(watcher.sysfs).create()
    watcher.poll()
    mc.inject("dimm1", 2)
    watcher.poll()
    file = mc.directory / "dimm1/dimm_ce_count"
    file.unlink()
    file.mkdir() if content is None else file.write_bytes(content)
    mc.add("ce_count", 4)
    for _ in range(polls):
        assert "dimm1/dimm_ce_count" in watcher.poll().trouble[0]
    file.rmdir() if content is None else file.unlink()
    file.write_text("6\n")
    returned = watcher.poll()
    assert not returned.trouble
    assert all(o.time_error_s >= 5 * (polls + 1) for o in returned.observations)
    watcher.settle()
    assert watcher.total() == 6


@pytest.mark.parametrize("name", ["ce_count", "ce_noinfo_count", "dimm1/dimm_location", "dimm1/dimm_ce_count", "dimm1"])
def test_any_file_that_vanishes_and_returns_counts_nothing_twice(watcher: Watcher, name: str) -> None:
    mc = controller(watcher.sysfs).create()
    watcher.poll()
    mc.inject("dimm1", 2)
    mc.inject_noinfo(1)
    watcher.poll()
    hidden = mc.directory / "hidden"
    (mc.directory / name).rename(hidden)
    watcher.settle()
    hidden.rename(mc.directory / name)
    mc.inject("dimm1", 3)
    watcher.settle()
    watcher.settle()
    assert watcher.total() == 6


def test_a_location_that_is_unreadable_at_first_sight_makes_no_second_device(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    mc.inject("dimm0", 5)
    (mc.directory / "dimm0/dimm_location").unlink()
    (mc.directory / "dimm0/dimm_location").mkdir()
    watcher.settle()
    (mc.directory / "dimm0/dimm_location").rmdir()
    mc.set("dimm0/dimm_location", "channel 0 slot 0 ")
    watcher.settle()
    assert watcher.total() == 5


def test_one_bad_controller_hides_no_other(watcher: Watcher) -> None:
    good = controller(watcher.sysfs, 1).create()
    bad = controller(watcher.sysfs, 0)
    bad.set("ce_count", "broken")
    good.inject("dimm0")
    poll = watcher.poll()
    assert any("mc0" in sentence for sentence in poll.trouble)
    assert watcher.counted == {("mc1/channel0/slot0", "corrected"): 1}
    assert poll.blind is None


def test_blindness_has_a_reason(watcher: Watcher) -> None:
    assert watcher.poll().blind == "no-driver"
    root = watcher.sysfs / "devices/system/edac/mc"
    root.parent.mkdir(parents=True)
    root.write_text("not a directory")
    assert watcher.poll().blind == "unreadable"
    root.unlink()
    (root / "mc0").mkdir(parents=True)
    assert watcher.poll().blind == "unreadable"


def test_a_label_that_changes_keeps_the_device(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    mc.inject("dimm0", 4)
    watcher.poll()
    mc.set("dimm0/dimm_label", "CPU0\x07_DIMM_A1")
    poll = watcher.poll(after_s=edac.GLANCES_S)
    assert poll.devices[0].label == "CPU0?_DIMM_A1" and not poll.observations and not poll.first_sights


def test_a_counter_wraps(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    for name in ("ce_count", "dimm0/dimm_ce_count"):
        mc.set(name, 2**32 - 3)
    watcher.poll()
    mc.inject("dimm0", 5)
    assert mc.get("ce_count") == 2
    watcher.settle()
    assert watcher.total() == 2**32 + 2


def test_two_places_that_return_together_leave_nothing_booked(watcher: Watcher) -> None:
    """Else errors that come later, and that no place shows, would be taken for known."""
    mc = controller(watcher.sysfs).create()
    watcher.poll()
    for place in ("dimm0", "dimm1"):
        mc.add("ce_count", 2)
        mc.set(f"{place}/dimm_ce_count", "?")
    watcher.settle()
    assert watcher.counted == {("mc0/unknown", "corrected"): 4}
    for place in ("dimm0", "dimm1"):
        mc.set(f"{place}/dimm_ce_count", 2)
    watcher.settle()
    assert watcher.total() == 4
    mc.add("ce_count", 3)
    watcher.settle()
    assert watcher.total() == 7


def test_while_nothing_happens_places_are_left_alone(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    number = edac._number
    monkeypatch.setattr(edac, "_number", lambda file, trouble: read.append(file) or number(file, trouble))
    mc = controller(watcher.sysfs).create()
    first = watcher.poll()
    every = len(read)
    for _ in range(edac.GLANCES_S // 5 - 1):
        read.clear()
        assert watcher.poll().devices == first.devices
        assert {file.parent for file in read} == {mc.directory} and len(read) < every / 2
    read.clear()
    watcher.poll()
    assert len(read) == every, "all of them, once in a while"
    mc.inject("dimm2")
    mc.inject_noinfo()
    assert [o.time_error_s for o in watcher.poll().observations] == [5.0, 5.0]
    mc.add("ce_count", 1)
    for _ in range(2):
        read.clear()
        watcher.poll()
        assert len(read) >= every, "an error whose place may show yet is looked for"
    assert watcher.total() == 3


def test_a_place_that_counts_without_its_total_is_found_within_a_minute(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    watcher.poll()
    mc.add("dimm1/dimm_ce_count", 2)
    for _ in range(edac.GLANCES_S // 5):
        watcher.poll()
    assert watcher.counted == {("mc0/channel0/slot1", "corrected"): 2}


# --- epochs --------------------------------------------------------------------------------------------------------


def epochs(watcher: Watcher) -> str:
    return watcher.cursor["mc0"]["epoch"]


def test_a_static_age_is_not_a_new_epoch_at_each_poll(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create(seconds_since_reset=10 * DAY_S)
    mc.inject("dimm0", 3)
    for _ in range(20):
        watcher.poll(after_s=60)
    assert watcher.total() == 3


def test_a_reload_of_the_driver_begins_an_epoch(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    mc.inject("dimm0", 2)
    watcher.poll()
    before = epochs(watcher)
    mc.reset(seconds_since_reset=100)
    mc.inject("dimm0", 7)  # more than before: nothing falls
    poll = watcher.poll(after_s=600)
    assert watcher.total() == 9 and epochs(watcher) != before
    assert poll.observations[0].time_error_s == 101
    assert {gap.end_ns - gap.begin_ns for gap in poll.gaps} == {500 * 10**9}
    assert {gap.device for gap in poll.gaps} == {device.name for device in poll.devices}


@pytest.mark.parametrize("seconds_since_reset", [1, None])
def test_a_reset_without_a_date_shows_by_the_fall(watcher: Watcher, seconds_since_reset: int | None) -> None:
    mc = controller(watcher.sysfs).create(None if seconds_since_reset is None else DAY_S)
    mc.inject("dimm0", 20)
    watcher.poll()
    before = epochs(watcher)
    mc.reset(seconds_since_reset=seconds_since_reset)
    mc.inject("dimm0", 4)
    poll = watcher.poll(after_s=2)
    assert watcher.total() == 24 and epochs(watcher) != before
    assert all(gap.end_ns == watcher.now.time_ns for gap in poll.gaps) and poll.gaps
    if seconds_since_reset is not None:
        mc.set("seconds_since_reset", 11)  # it grows older with us
    watcher.settle()
    assert watcher.total() == 24


def test_a_reset_while_the_total_cannot_be_read(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create(None)
    mc.inject("dimm0", 20)
    mc.add("ce_count", 3)
    watcher.poll()
    watcher.settle()
    assert watcher.total() == 23
    mc.reset(None)
    mc.inject("dimm0", 4)
    mc.set("ce_count", "?")
    watcher.poll()
    mc.set("ce_count", 4)
    mc.inject("dimm0", 1)
    mc.add("ce_count", 2)
    watcher.settle()
    watcher.settle()
    assert watcher.total() == 23 + 4 + 1 + 2


def test_a_reboot_begins_an_epoch_and_a_gap(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    mc.inject("dimm0", 2)
    watcher.poll()
    last_ns = watcher.now.time_ns
    mc.reset(seconds_since_reset=30)
    mc.inject("dimm0", 5)
    watcher.pass_time(3600)
    watcher.now = replace(watcher.now, boottime_ns=40 * 10**9, boot_id="boot-2")
    poll = watcher.poll(after_s=0)
    assert watcher.total() == 7
    assert {(gap.begin_ns, gap.end_ns) for gap in poll.gaps} == {(last_ns, watcher.now.time_ns - 30 * 10**9)}


def test_a_step_of_the_wall_clock_is_no_reset(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create()
    mc.inject("dimm0", 2)
    watcher.poll()
    for step_s in (-400 * DAY_S, 900 * DAY_S):
        watcher.now = replace(watcher.now, time_ns=watcher.now.time_ns + step_s * 10**9)
        mc.inject("dimm0")
        (observation,) = watcher.poll().observations
        assert observation.time_error_s == 5.0
    assert watcher.total() == 4


def test_a_zero_proves_quiet_since_the_epoch_began(watcher: Watcher) -> None:
    mc = controller(watcher.sysfs).create(seconds_since_reset=9 * DAY_S)
    mc.inject("dimm0")
    sights = {(s.device, s.error_class): s.since_ns for s in watcher.poll(after_s=0).first_sights}
    assert sights["mc0/channel0/slot0", "corrected"] == NOW.time_ns
    assert sights["mc0/channel0/slot0", "not_corrected"] == NOW.time_ns - 9 * DAY_S * 10**9
    assert sights["mc0/unknown", "corrected"] == NOW.time_ns - 9 * DAY_S * 10**9


def test_without_an_age_a_zero_proves_nothing(watcher: Watcher) -> None:
    controller(watcher.sysfs).create(seconds_since_reset=None)
    assert {sight.since_ns for sight in watcher.poll(after_s=0).first_sights} == {NOW.time_ns}


@pytest.mark.parametrize("is_glancing", [True, False])
def test_counters_reset_in_the_middle_of_a_poll(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch, is_glancing: bool
) -> None:
    """At each read in turn: what was read before the reset mustn't be taken for errors after it."""
    reads = 0
    number = edac._number
    mc = controller(watcher.sysfs).create(seconds_since_reset=1)

    def resetting(file: Path, trouble: list[str]) -> int | None:
        nonlocal reads
        reads -= 1
        if reads == 0:
            mc.reset(seconds_since_reset=0)
            mc.inject("dimm1", 2)
        return number(file, trouble)

    monkeypatch.setattr(edac, "_number", resetting)
    for at in range(1, 20):
        mc.reset(seconds_since_reset=1)
        for place in mc.places:
            mc.inject(place, 100)
        mc.inject_noinfo(100)
        fresh = Watcher(watcher.sysfs)
        reads = -1
        fresh.poll()
        reads = at
        while reads > 0:
            fresh.glances = fresh.glances if is_glancing else {}
            fresh.poll(after_s=1)
        fresh.poll(after_s=1)
        assert fresh.counted["mc0/unknown", "corrected"] == 100
        assert fresh.total() == 502, f"reset at read {at}"


# --- poll in k steps = poll once -------------------------------------------------------------------------------------

PLACES = [*dimms(), "noinfo", "surplus"]
STEP = st.one_of(
    st.tuples(st.sampled_from(PLACES), st.integers(1, 2**31 - 1), st.sampled_from(["ce", "ue"])),
    st.just("poll"),
    st.sampled_from(["reset", "reboot", "hide", "restore"]),
)


def inject(mc: Controller, place: str, count: int, kind: str) -> None:
    if place == "dimm1" and kind == "ce" and (mc.directory / "hidden").exists():
        mc.add("ce_count", count)
        mc.add("hidden", count)
    elif place == "surplus":
        mc.add(f"{kind}_count", count)
    elif place == "noinfo":
        mc.inject_noinfo(count, kind)
    else:
        mc.inject(place, count, kind)


@given(st.lists(STEP, max_size=25))
@settings(max_examples=60, deadline=None)
def test_every_error_is_booked_once_however_the_polls_fall(tmp_path_factory, steps) -> None:
    watcher = Watcher(tmp_path_factory.mktemp("sysfs"))
    mc = controller(watcher.sysfs, places=dimms()).create(seconds_since_reset=DAY_S)
    hidden, shown = mc.directory / "hidden", mc.directory / "dimm1/dimm_ce_count"
    expected = {"ce": 0, "ue": 0}
    since_poll = {"ce": 0, "ue": 0}
    watcher.poll()
    for step in steps:
        if isinstance(step, tuple):
            place, count, kind = step
            if place == "surplus" or hidden.exists():
                count = count % 2**26 + 1  # what no place shows must stay below 2**31 in an epoch
            if since_poll[kind] + count < 2**31:  # no machine counts more between two looks at a counter
                inject(mc, place, count, kind)
                since_poll[kind] += count
                expected[kind] += count
        elif step == "hide" and not hidden.exists():
            shown.rename(hidden)
        elif step == "restore" and hidden.exists():
            hidden.rename(shown)
        elif step == "poll":
            watcher.poll(after_s=20)
            since_poll = dict.fromkeys(since_poll, 0) if not hidden.exists() else since_poll
        elif step in ("reset", "reboot"):  # all is seen before it, and it is known to be one
            if hidden.exists():
                hidden.rename(shown)
            watcher.settle()
            watcher.pass_time(20)
            if step == "reboot":
                watcher.now = replace(watcher.now, boot_id=watcher.now.boot_id + "'", boottime_ns=DAY_S * 10**9)
            mc.reset(seconds_since_reset=10)
            watcher.poll(after_s=0)
            mc.set("seconds_since_reset", DAY_S)
            since_poll = dict.fromkeys(since_poll, 0)
    if hidden.exists():
        hidden.rename(shown)
    watcher.settle()
    assert (watcher.total("corrected"), watcher.total("uncorrected")) == (expected["ce"], expected["ue"])
