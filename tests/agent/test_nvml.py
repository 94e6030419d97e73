"""The NVML source through the real nvidia-ml-py, over a library that answers as a GPU's would.

No machine with a GPU takes part: fake_nvml.c stands in for NVIDIA's libnvidia-ml.so.1, call by documented call; all
that is above it, the real module's error classes, constants and structures among it, is what runs beside a GPU.
"""

import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.observation import Moment, Observation, Poll
from agent.sources import nvml
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, eventually

SECOND_NS = 10**9
NOW_NS = 1_795_455_000 * SECOND_NS
CORRECTED, UNCORRECTED = 0, 1
VOLATILE, AGGREGATE = 0, 1
L2, DRAM, SRAM = 1, 2, 7


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, source], check=True)
    return built


@dataclass
class Gpus:
    """What the library says, in the file that it reads."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)

    def set(self, **values: Any) -> None:
        """Keys as in fake_nvml.c, with __ for a dot; None takes the line away."""
        self.values |= {key.replace("__", ".").lstrip("_"): value for key, value in values.items()}
        lines = [f"{key} {value}\n" for key, value in self.values.items() if value is not None]
        scratch = self.path.with_suffix(".new")
        scratch.write_text("".join(lines))
        scratch.rename(self.path)

    def count(self, severity: int, kind: int, location: int, value: int | None, gpu: int = 0) -> None:
        self.set(**{f"{gpu}.errors.{severity}.{kind}.{location}": value})

    def add(self, number: int, uuid: str, locations: tuple[int, ...] = (DRAM, SRAM)) -> None:
        at = f"{number}."
        self.set(gpus=number + 1, **{at + "uuid": uuid, at + "pci": f"00000000:3{number}:00.0", at + "serial": "1320"})
        self.set(**{at + "name": "NVIDIA H100 80GB HBM3", at + "memory": 80 << 30, at + "events": 8, at + "action": 0})
        for location in locations:
            for severity in (CORRECTED, UNCORRECTED):
                for kind in (VOLATILE, AGGREGATE):
                    self.count(severity, kind, location, 0, number)

    def xid(self, gpu: int, number: int) -> None:
        with Path(f"{self.path}.events").open("a") as file:
            file.write(f"{gpu} {number}\n")


@dataclass
class Follower:
    proc: Path
    source: nvml.Nvml = field(default_factory=nvml.Nvml)
    time_ns: int = NOW_NS
    boot_id: str = "boot-1"
    cursor: dict[str, Any] = field(default_factory=dict)

    def poll(self) -> Poll:
        self.time_ns += 5 * SECOND_NS
        now = Moment(self.time_ns, self.time_ns, self.boot_id)
        poll = nvml.without_driver(self.proc, self.cursor, now) or self.source.poll(self.cursor, now)
        self.cursor = json.loads(json.dumps({**self.cursor, **poll.cursor}))
        return poll

    def counts(self) -> dict[tuple[str, str], int]:
        poll = self.poll()
        assert {item.device for item in poll.observations} <= {device.name for device in poll.devices}
        return {(item.device.removeprefix("gpu/"), item.severity): item.count for item in poll.observations}


@pytest.fixture
def gpus(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    """One GPU, with pynvml in this process over the library."""
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "gpus"))
    loaded = ctypes.CDLL(str(library))
    loaded.nvmlErrorString.restype = ctypes.c_char_p
    monkeypatch.setattr(pynvml, "nvmlLib", loaded)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    gpus = Gpus(tmp_path / "gpus")
    gpus.add(0, "GPU-a")
    yield gpus
    loaded.nvmlShutdown()


@pytest.fixture
def follower(tmp_path: Path, gpus: Gpus) -> Follower:
    follower = Follower(tmp_path / "proc")
    poll = follower.poll()
    assert not poll.observations and not poll.trouble and poll.absent is None
    return follower


def only(poll: Poll) -> Observation:
    (observation,) = poll.observations
    return observation


def test_without_a_driver_a_library_or_a_gpu_it_is_absent(tmp_path: Path, gpus: Gpus) -> None:
    assert "no NVIDIA driver" in (Follower(tmp_path / "nothing").poll().absent or "")
    gpus.set(init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    assert "library isn't installed" in (Follower(tmp_path / "proc").poll().absent or "")
    gpus.set(init=None, gpus=0)
    assert Follower(tmp_path / "proc").poll().absent == "there is no GPU"
    gpus.path.write_text("gpus 1\n0.uuid GPU-plain\n")
    assert Follower(tmp_path / "proc").poll().absent == "no GPU here counts ECC errors"


def test_what_a_gpu_is(tmp_path: Path, gpus: Gpus) -> None:
    poll = Follower(tmp_path / "proc").poll()
    dram, sram = poll.devices
    assert (dram.name, dram.label, dram.serial) == ("gpu/GPU-a/dram", "00000000:30:00.0", "1320")
    assert (dram.part, dram.size_bytes, sram.size_bytes) == ("NVIDIA H100 80GB HBM3", 80 << 30, None)
    assert {(sight.device, sight.error_class) for sight in poll.first_sights} == {
        (f"gpu/GPU-a/{place}", error_class)
        for place in ("dram", "sram")
        for error_class in ("corrected", "not_corrected")
    }


def test_each_error_once_though_two_counters_show_it(gpus: Gpus, follower: Follower) -> None:
    for kind in (VOLATILE, AGGREGATE):
        gpus.count(CORRECTED, kind, DRAM, 3)
    assert follower.counts() == {("GPU-a/dram", "corrected"): 3}
    gpus.count(UNCORRECTED, VOLATILE, SRAM, 1)
    assert follower.counts() == {("GPU-a/sram", "uncorrected"): 1}
    gpus.count(UNCORRECTED, AGGREGATE, SRAM, 1)
    assert follower.counts() == {}, "the counter that lagged has caught up"


@given(
    history=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=30
    ),  # of each poll: new errors, how many of all the aggregate counter doesn't show yet, was the driver reloaded
    earlier=st.integers(0, 1000),
)
def test_errors_are_counted_once_whatever_one_counter_does(history: list[tuple[int, int, bool]], earlier: int) -> None:
    entry, _ = nvml._rise(None, [earlier, 0])
    total, volatile, booked, aggregate = 0, 0, 0, earlier
    for errors, lag, is_reloaded in [*history, (0, 0, False)]:
        volatile = errors if is_reloaded else volatile + errors
        total += errors
        aggregate = max(aggregate, earlier + total - lag)
        entry, new = nvml._rise(entry, [aggregate, volatile])
        booked += new
        assert new >= 0 and booked <= total
    assert booked == total


def test_errors_of_its_earlier_life_are_no_faults(tmp_path: Path, gpus: Gpus) -> None:
    gpus.count(CORRECTED, AGGREGATE, DRAM, 1000)
    follower = Follower(tmp_path / "proc")
    assert follower.counts() == {}
    gpus.count(CORRECTED, AGGREGATE, DRAM, 1001)
    observation = only(follower.poll())
    assert (observation.count, observation.time_error_s) == (1, 5)


def test_counters_through_resets(gpus: Gpus, follower: Follower) -> None:
    for kind in (VOLATILE, AGGREGATE):
        gpus.count(CORRECTED, kind, DRAM, 5)
    epoch = only(follower.poll()).epoch
    gpus.count(CORRECTED, VOLATILE, DRAM, 0)
    assert follower.counts() == {}, "the driver was loaded again"
    for kind, value in ((VOLATILE, 2), (AGGREGATE, 7)):
        gpus.count(CORRECTED, kind, DRAM, value)
    observation = only(follower.poll())
    assert (observation.count, observation.epoch) == (2, epoch)
    gpus.count(CORRECTED, AGGREGATE, DRAM, 1)
    gpus.count(CORRECTED, VOLATILE, DRAM, 3)
    poll = follower.poll()
    assert only(poll).count == 1 and only(poll).epoch != epoch, "the aggregate counter was cleared"
    assert {gap.device for gap in poll.gaps} == {"gpu/GPU-a/dram", "gpu/GPU-a/sram"}


def test_a_gpu_without_aggregate_counters(tmp_path: Path, gpus: Gpus) -> None:
    for location in (DRAM, SRAM):
        for severity in (CORRECTED, UNCORRECTED):
            gpus.count(severity, AGGREGATE, location, None)
    follower = Follower(tmp_path / "proc")
    follower.poll()
    gpus.count(CORRECTED, VOLATILE, DRAM, 4)
    assert follower.counts() == {("GPU-a/dram", "corrected"): 4}
    gpus.count(CORRECTED, VOLATILE, DRAM, 1)
    poll = follower.poll()
    assert only(poll).count == 1 and poll.gaps


def test_places_by_what_a_gpu_supports(tmp_path: Path, gpus: Gpus) -> None:
    gpus.add(1, "GPU-b", (DRAM, L2))
    gpus.add(2, "GPU-c", ())
    gpus.set(**{"2.total.0.1": 0, "2.total.1.1": 0})
    follower = Follower(tmp_path / "proc")
    follower.poll()
    gpus.count(CORRECTED, AGGREGATE, L2, 1, gpu=0)  # a part of SRAM, which this GPU tells as a whole
    gpus.count(CORRECTED, AGGREGATE, L2, 2, gpu=1)
    gpus.set(**{"2.total.1.1": 3})
    assert follower.counts() == {("GPU-b/l2", "corrected"): 2, ("GPU-c/unknown", "uncorrected"): 3}


def test_remapped_rows_retired_pages_and_what_to_do(gpus: Gpus, follower: Follower) -> None:
    gpus.set(**{"0.rows": "0 1 1 0", "0.action": 1, "0.celsius": 91})
    gpus.count(UNCORRECTED, AGGREGATE, DRAM, 1)
    poll = follower.poll()
    assert [device.condition for device in poll.devices] == ["remap-pending", ""]
    detail = only(poll).detail
    assert detail["remapped_rows"] == {"corrected": 0, "uncorrected": 1} and detail["temperature_celsius"] == 91
    assert (detail["waits_for_reset"], detail["healed"], detail["recovery_action"]) == (True, False, "gpu-reset")
    gpus.set(**{"0.rows": "0 1 0 1"})
    assert follower.poll().devices[0].condition == "remap-failed"
    gpus.set(**{"0.rows": "0 1 0 0", "0.action": 0})
    assert follower.poll().devices[0].condition == "remapped", "the GPU was reset"
    gpus.count(CORRECTED, AGGREGATE, DRAM, 1)
    detail = only(follower.poll()).detail
    assert (detail["waits_for_reset"], detail["healed"], detail["recovery_action"]) == (False, True, "none")
    gpus.set(**{"0.rows": None, "0.pages.0": 4, "0.pages.1": 2, "0.pages.pending": 0})
    gpus.count(CORRECTED, AGGREGATE, DRAM, 2)
    assert only(follower.poll()).detail["retired_pages"] == {"corrected": 4, "uncorrected": 2}
    gpus.set(**{"0.pages.pending": None, "0.action": None, "0.celsius": None})
    gpus.count(CORRECTED, AGGREGATE, DRAM, 3)
    assert only(follower.poll()).detail == {"label": "00000000:30:00.0"}


def test_a_binding_that_is_too_old_is_trouble_in_one_sentence(
    gpus: Gpus, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pynvml

    with monkeypatch.context() as old:
        old.delattr(pynvml, "nvmlDeviceGetRemappedRows")
        (sentence,) = follower.poll().trouble
    assert "nvidia-ml-py is too old" in sentence and "nvmlDeviceGetRemappedRows" in sentence
    assert not follower.poll().trouble


@pytest.mark.parametrize("order", ["together", "xid first", "counter first"])
def test_an_xid_and_its_counter_are_one_error(gpus: Gpus, follower: Follower, order: str) -> None:
    if order != "counter first":
        gpus.xid(0, 94)
    if order != "xid first":
        gpus.count(UNCORRECTED, AGGREGATE, DRAM, 1)
    found = [*follower.poll().observations]
    if order == "counter first":
        gpus.xid(0, 94)
    if order == "xid first":
        gpus.count(UNCORRECTED, AGGREGATE, DRAM, 1)
    found += [*follower.poll().observations, *follower.poll().observations]
    assert [(item.device, item.count) for item in found] == [("gpu/GPU-a/dram", 1)]
    assert found[0].detail.get("xids") == (None if order == "counter first" else [94])


def test_an_xid_that_no_counter_shows_is_an_error(gpus: Gpus, follower: Follower) -> None:
    gpus.xid(0, 48)
    gpus.xid(0, 13)  # a program's fault
    assert follower.counts() == {}, "its counter may come"
    poll = follower.poll()
    assert (only(poll).device, only(poll).severity, only(poll).detail["xids"]) == (
        "gpu/GPU-a/unknown",
        "uncorrected",
        [48],
    )
    assert follower.counts() == {}


def test_a_gpu_in_trouble_hides_no_other(gpus: Gpus, follower: Follower) -> None:
    gpus.add(1, "GPU-b")
    follower.poll()
    gpus.set(**{"0.error": pynvml.NVML_ERROR_GPU_IS_LOST})
    gpus.count(CORRECTED, AGGREGATE, DRAM, 9, gpu=0)
    gpus.count(CORRECTED, AGGREGATE, DRAM, 1, gpu=1)
    poll = follower.poll()
    assert poll.trouble == ("GPU number 0: GPU is lost",) and only(poll).device == "gpu/GPU-b/dram"
    gpus.set(**{"0.error": None})
    poll = follower.poll()
    assert (only(poll).count, only(poll).time_error_s) == (9, 10), "since it was last read"
    gpus.set(gpus=1)
    assert follower.poll().trouble == ("GPU GPU-b has gone",)
    follower.boot_id = "boot-2"
    assert not follower.poll().trouble, "it was taken out while the machine was off"


def test_a_gpu_whose_serial_is_no_text_hides_no_other(gpus: Gpus, follower: Follower) -> None:
    gpus.add(1, "GPU-b")
    follower.poll()
    gpus.count(CORRECTED, AGGREGATE, DRAM, 1, gpu=1)
    gpus.path.write_bytes(gpus.path.read_bytes().replace(b"0.serial 1320", b"0.serial \xff\xfe"))
    poll = follower.poll()
    assert only(poll).device == "gpu/GPU-b/dram"
    (sentence,) = poll.trouble
    assert sentence.startswith("GPU number 0: ") and "decode" in sentence


def test_a_driver_that_goes_and_comes_back(gpus: Gpus, follower: Follower) -> None:
    pynvml.nvmlShutdown()
    gpus.set(init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    assert "doesn't answer: Driver Not Loaded" in follower.poll().trouble[0]
    gpus.set(init=None)
    gpus.count(CORRECTED, AGGREGATE, DRAM, 1)
    gpus.xid(0, 63)
    assert only(follower.poll()).detail["xids"] == [63]
    (follower.proc / "driver/nvidia").rmdir()
    assert follower.poll().trouble == ("no NVIDIA driver is loaded, but there was GPU GPU-a",)


def test_a_library_that_hangs_holds_nobody_up(tmp_path: Path, library: Path) -> None:
    """In the whole agent: EDAC goes on, and so does NVML when it answers again."""
    gpus = Gpus(tmp_path / "gpus")
    gpus.add(0, "GPU-a")
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    for name in ("sys", "cpuinfo"):
        (tmp_path / "proc" / name).symlink_to(Path("/proc") / name)
    mc = controller(tmp_path / "sys").create()
    environment = {"LD_LIBRARY_PATH": f"{library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    environment |= {"FAKE_NVML": str(gpus.path)}
    is_up = 'flipwatch_source_up{source="nvml"}'
    with Daemon(tmp_path, settings={"proc": str(tmp_path / "proc")}, environment=environment) as agent:
        assert agent.metrics()[is_up] == 1
        assert (
            agent.metrics()['flipwatch_memory_errors_total{device="gpu/GPU-a/dram",severity="corrected",stream="gpu"}']
            == 0
        )
        gpus.set(hang=1)
        eventually(lambda: agent.metrics()[is_up] == 0)
        for number in range(1, 4):
            mc.inject("dimm0")
            eventually(lambda: len(agent.faults()[1]) == number)  # noqa: B023
        gpus.count(CORRECTED, AGGREGATE, DRAM, 1)
        gpus.set(hang=None)
        fault = eventually(lambda: [fault for fault in agent.faults()[1] if fault.stream == "gpu"])[0]
        assert (fault.device, fault.witnesses, fault.detail["label"]) == (
            "gpu/GPU-a/dram",
            ("nvml",),
            "00000000:30:00.0",
        )
        eventually(lambda: agent.metrics()[is_up] == 1)
        gpus.set(hang=1)
        eventually(lambda: agent.metrics()[is_up] == 0)
        assert agent.stop() == 0, "a thread that hangs doesn't keep the process"
        assert sum("source nvml: it hangs" in line for line in agent.log) == 2, "one line per change"
