"""The trace source over a tree of files: what it reads, what counts as lost, what makes it absent or troubled."""

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agent import trace_instance
from agent.journal import Journal
from agent.novelty import QUIET_NS, History
from agent.observation import Moment, Poll
from agent.sources import tracefs
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, errors_metric, eventually
from tests.agent.trace_tree import KERNELS, PAGE_BYTES, Tracing, formats, page, payload
from tests.agent.watcher import NOW

CACHE = 1 << 63 | 0x135


@dataclass
class Follower:
    """The source with the memory that the agent keeps for it."""

    tracing: Tracing
    sysfs: Path
    now: Moment = NOW
    cursor: dict[str, Any] = field(default_factory=dict)

    def poll(self, after_s: float = 5) -> Poll:
        ns = int(after_s * 1e9)
        self.now = replace(self.now, time_ns=self.now.time_ns + ns, boottime_ns=self.now.boottime_ns + ns)
        found = tracefs.poll(self.tracing.root, self.sysfs, self.cursor, self.now)
        self.cursor = found.cursor
        return found

    def emit(self, *values: dict[str, Any], cpu: int = 0, name: str = "mce_record") -> None:
        form = formats(self.tracing.kernel)[name]
        self.tracing.emit(cpu, *((self.now.boottime_ns, payload(form, **value)) for value in values))


@pytest.fixture(params=KERNELS)
def follower(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Follower]:
    tracing = Tracing(tmp_path / "tracing", request.param).create()
    controller(tmp_path / "sys").create()
    (tmp_path / "sys/devices/system/edac/mc/mc0/max_location").write_text("channel 1 slot 1 \n")
    yield Follower(tracing, tmp_path / "sys")
    tracing.close()


def test_events_of_all_processors_with_their_own_times(follower: Follower) -> None:
    first = follower.poll()
    assert not first.events and not first.trouble and first.absent is None
    follower.emit({"status": CACHE, "cpu": 1}, cpu=1)
    follower.emit({"mc_index": 0, "top_layer": 1, "middle_layer": 0, "error_count": 3}, name="mc_event")
    found = follower.poll(after_s=2)
    assert not found.trouble
    assert {(e.device, e.count) for e in found.events} == {("mc0/channel1/slot0", 3), ("socket0/cpu1/bank0", 1)}
    assert {e.time_ns for e in found.events} == {follower.now.time_ns - 2 * 10**9}
    assert {e.since_ns for e in found.events} == {first.cursor["polled"]}
    assert not follower.poll().events, "what was read is gone"


def test_the_time_error_follows_how_often_the_kernel_looks(follower: Follower) -> None:
    polled = follower.sysfs / "devices/system/machinecheck/machinecheck0/check_interval"
    follower.emit({"status": CACHE}, {"status": CACHE, "mcgcap": 1 << 10, "cpu": 1})
    assert {e.device: e.time_error_s for e in follower.poll().events} == {
        "socket0/cpu0/bank0": 300,
        "socket0/cpu1/bank0": 1,
    }
    polled.parent.mkdir(parents=True)
    polled.write_text("60\n")
    follower.emit({"status": CACHE})
    assert [e.time_error_s for e in follower.poll().events] == [60]


def test_losses_are_said_and_counted_once(follower: Follower) -> None:
    since_ns = follower.poll().cursor["watched"][0]
    follower.tracing.set_stats(0, overrun=40)
    follower.emit({"status": CACHE})
    lossy = follower.poll(after_s=3600)
    assert "40 events were lost unread" in lossy.trouble[0] and lossy.cursor["lost"] == 40
    assert lossy.cursor["watched"][0] == since_ns, "an hour without knowledge is borne"
    follower.emit({"status": CACHE})
    assert not follower.poll().trouble
    follower.tracing.set_stats(0, overrun=3)  # the buffer was made anew
    follower.emit({"status": CACHE})
    assert follower.poll(after_s=2 * 86400).cursor["lost"] == 43
    assert follower.cursor["watched"][0] == follower.now.time_ns, "two days are not"


def test_a_page_that_says_so_is_believed(follower: Follower) -> None:
    follower.poll()
    form = formats(follower.tracing.kernel)["mce_record"]
    follower.tracing.write(1, page([(follower.now.boottime_ns, payload(form, status=CACHE))], lost=3))
    found = follower.poll()
    assert len(found.events) == 1 and "some events were lost unread" in found.trouble[0]
    assert len(follower.cursor["watched"][2]) == 1, "a gap"


def test_no_event_is_of_the_future(follower: Follower) -> None:
    form = formats(follower.tracing.kernel)["mce_record"]
    follower.tracing.emit(0, ((1 << 64) - 1, payload(form, status=CACHE)))
    assert [event.time_ns for event in follower.poll().events] == [follower.now.time_ns]


def test_what_was_lost_before_anybody_looked_counts(follower: Follower) -> None:
    follower.tracing.set_stats(1, overrun=7)
    assert follower.poll().cursor["lost"] == 7


def test_a_reboot_and_a_new_instance_are_gaps(follower: Follower) -> None:
    follower.poll()
    for change in ("boot", "instance"):
        follower.tracing.set_stats(0, read=100)
        follower.emit({"status": CACHE})
        follower.poll()
        gaps = len(follower.cursor["watched"][2])
        if change == "boot":
            follower.now = replace(follower.now, boot_id="boot-2")
        else:
            follower.tracing.set_stats(0, read=1)
            follower.emit({"status": CACHE})
        follower.poll()
        assert len(follower.cursor["watched"][2]) == gaps + 1


def test_what_a_killed_agent_had_read_and_not_kept_is_counted_once(follower: Follower) -> None:
    follower.poll()
    follower.emit({"status": CACHE}, {"status": CACHE})
    follower.tracing.set_stats(0, read=2)
    kept = follower.poll().cursor
    follower.emit({"status": CACHE}, {"status": CACHE}, {"status": CACHE})
    follower.tracing.set_stats(0, read=5)
    follower.poll()  # and then it is killed: the journal has what it had before
    follower.emit({"status": CACHE})
    follower.tracing.set_stats(0, read=6)
    follower.cursor = {**kept, "is_first": True}
    found = follower.poll()
    assert found.cursor["lost"] == 3 and "3 events were read and not kept" in found.trouble[0]
    assert sum(event.count for event in found.events) == 1
    follower.cursor = {**found.cursor, "is_first": True}
    again = follower.poll()
    assert again.cursor["lost"] == 3 and not again.trouble


def test_an_agent_started_again_has_forgotten_nothing(follower: Follower) -> None:
    follower.poll()
    follower.emit({"status": CACHE}, {"status": CACHE})
    follower.tracing.set_stats(0, read=2)
    follower.cursor["is_first"] = True
    found = follower.poll()
    assert found.cursor["lost"] == 0 and not found.trouble and sum(event.count for event in found.events) == 2


def test_cache_errors_are_watched_where_the_kernel_traces_machine_checks(follower: Follower) -> None:
    first = follower.poll()
    assert first.watched == {"sram": follower.now.time_ns}
    assert follower.poll().watched == first.watched, "since the beginning"
    follower.tracing.set_stats(0, overrun=1)
    follower.emit({"status": CACHE})
    assert follower.poll(after_s=2 * 86400).watched["sram"] == follower.now.time_ns, "a gap of more than a day"
    shutil.rmtree(follower.tracing.instance / "events/mce")
    assert follower.poll().watched == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("events/header_page", "nonsense"),
        ("events/mce/mce_record/format", "\0nonsense"),
        ("per_cpu/cpu0/stats", None),
        ("per_cpu/cpu1/trace_pipe_raw", None),
    ],
)
def test_one_bad_file_is_trouble_that_names_it(follower: Follower, name: str, text: str | None) -> None:
    follower.emit({"status": CACHE})
    if text is None:
        (follower.tracing.instance / name).unlink()
        (follower.tracing.instance / name).mkdir()
    else:
        follower.tracing.set(name, text)
    found = follower.poll()
    assert len(found.trouble) == 1 and name in found.trouble[0] and "\n" not in found.trouble[0]


def test_a_page_of_nonsense_hides_no_other(follower: Follower) -> None:
    follower.tracing.write(0, b"\xff" * PAGE_BYTES)
    follower.emit({"status": CACHE})
    follower.emit({"status": CACHE, "cpu": 1}, cpu=1)
    found = follower.poll()
    assert len(found.events) == 2 and "cpu0/trace_pipe_raw" in found.trouble[0]
    follower.tracing.write(0, page([(5, b"\xee\xee unknown event, of whom nobody told")]))
    assert not follower.poll().trouble


def test_absence_is_no_trouble_and_says_what_to_do(tmp_path: Path) -> None:
    found = tracefs.poll(tmp_path, tmp_path, {"lost": 5}, NOW)
    assert found.absent and "flipwatch agent --prepare" in found.absent and "instances/flipwatch" in found.absent
    assert not found.trouble and found.blind is None and found.cursor == {"lost": 5}
    tracing = Tracing(tmp_path / "tracing").create()
    try:
        tracing.set("trace_clock", "[local] global boot tai\n")
        assert "its clock is [local]" in (tracefs.poll(tracing.root, tmp_path, {}, NOW).absent or "")
        tracing.set("trace_clock", "local [boot]\n")
        (tracing.instance / "events").rename(tracing.instance / "gone")
        assert tracefs.poll(tracing.root, tmp_path, {}, NOW).absent
    finally:
        tracing.close()


def test_preparing_sets_up_what_is_there_and_nothing_twice(tmp_path: Path) -> None:
    tracing = Tracing(tmp_path).create()
    tracing.set("trace_clock", "[local] global boot\n")
    tracing.set("buffer_percent", "50\n")
    for name in ("trace_clock", "events/header_page", "events/mce/mce_record/format"):
        (tracing.instance / name).chmod(0o600)
    trace_instance.prepare(tmp_path, os.getgid(), 300)
    texts = {
        name: (tracing.instance / name).read_text() for name in ("trace_clock", "buffer_percent", "buffer_size_kb")
    }
    assert texts == {"trace_clock": "boot", "buffer_percent": "0", "buffer_size_kb": "300"}
    assert (tracing.instance / "events/mce/mce_record/enable").read_text() == "1"
    assert stat.S_IMODE((tracing.instance / "events/mce/mce_record/format").stat().st_mode) == 0o640
    tracing.set("trace_clock", "local [boot]\n")
    tracing.set("buffer_size_kb", "310\n")
    trace_instance.prepare(tmp_path, os.getgid(), 300)
    assert "local" in (tracing.instance / "trace_clock").read_text(), "writing it would drop what is buffered"
    assert (tracing.instance / "buffer_size_kb").read_text() == "310\n", "the kernel rounds to whole pages"
    tracing.close()


def test_buffers_that_differ_between_processors_are_made_alike(tmp_path: Path) -> None:
    tracing = Tracing(tmp_path).create()
    tracing.set("buffer_size_kb", "X\n")
    trace_instance.prepare(tmp_path, os.getgid(), 300)
    assert (tracing.instance / "buffer_size_kb").read_text() == "300"
    tracing.close()


def test_what_cannot_be_prepared_is_one_sentence(tmp_path: Path) -> None:
    config = Daemon(tmp_path, settings={"tracefs": str(tmp_path / "nothing")}).write_config()
    command = [sys.executable, "-m", "flipwatch", "agent", "--prepare", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert str(tmp_path / "nothing") in done.stderr and "tracefs isn't mounted here" in done.stderr


def test_events_wake_the_agent(tmp_path: Path) -> None:
    tracing = Tracing(tmp_path / "tracing").create()
    mc = controller(tmp_path / "sys").create()
    (mc.directory / "max_location").write_text("channel 1 slot 1 \n")
    form = formats("6.12")["mc_event"]
    one = payload(form, error_count=1, top_layer=1, lower_layer=-1, address=0x9000)
    try:
        with Daemon(tmp_path, settings={"poll_interval_s": 3600, "heartbeat_s": 3600}) as agent:
            assert agent.metrics()['flipwatch_source_up{source="tracefs"}'] == 1
            for number in range(1, 4):
                mc.inject("dimm2", 30)
                tracing.emit(number % 2, *[(NOW.boottime_ns, one)] * 30)
                eventually(lambda n=number: sum(fault.count for fault in agent.faults()[1]) == 30 * n)
            for fault in agent.faults()[1]:
                assert fault.witnesses == ("edac", "mc_event") and fault.device == "mc0/channel1/slot0"
                assert fault.detail["address"] == "0x9000"
            assert agent.metrics()[errors_metric("mc0/channel1/slot0")] == 90
            assert agent.stop() == 0 and not any("Traceback" in line for line in agent.log)
    finally:
        tracing.close()


@pytest.mark.parametrize("is_guest", [False, True])
def test_a_week_of_events_makes_cache_errors_watched_but_not_those_of_a_guest(tmp_path: Path, is_guest: bool) -> None:
    for name in ("sys", "proc/sys/kernel/random"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("boot-1\n")
    (tmp_path / "proc/cpuinfo").write_text(f"flags : fpu {'hypervisor' if is_guest else 'sse'}\n")
    tracing = Tracing(tmp_path / "tracing").create()
    since_ns = time.time_ns() - 8 * 86400 * 10**9
    cursor = {"boot_id": "boot-1", "stats": {}, "lost": 0, "watched": History(since_ns).as_json(), "polled": since_ns}
    journal = Journal(tmp_path / "state/memory", 1 << 20, "0123456789abcdef")
    journal.append([], {f"tracefs/{key}": value for key, value in cursor.items()})
    journal.close()
    with Daemon(tmp_path, settings={"proc": str(tmp_path / "proc")}) as agent:
        watching = agent.faults()[0].watching
    tracing.close()
    assert watching.get("sram") == (None if is_guest else since_ns + QUIET_NS)
