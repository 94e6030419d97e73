"""Trace buffers and events: pages recorded from two kernels, events built by their formats, and nonsense."""

import json
import struct
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import ringbuffer
from agent.observation import ADDRESSES_MAX, Event, Moment, Poll, Role
from agent.reconcile import reconcile
from agent.ringbuffer import LayoutError, decode, event_format, event_id, page_layout, read_page
from agent.trace_events import READERS, Machine, edac_device, event, summary
from tests.agent.error_records import PROCESSOR, processor
from tests.agent.trace_tree import KERNELS, RECORDED, formats, page, payload

MACHINE = Machine(layers={0: ("csrow", "channel"), 1: ("channel", "slot")}, edac_poll_s=1, machine_check_poll_s=300)
LAYOUT = page_layout((RECORDED / "header_page").read_text())
TIME_NS = 1_795_000_000 * 10**9


def read(kernel: str, name: str, **values: int | str | bytes) -> Event | None:
    form = formats(kernel)[name]
    return event(name, decode(payload(form, **values), form), TIME_NS, MACHINE)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_page_of_a_real_kernel(kernel: str) -> None:
    """One corrected and one uncorrected error of ie31200_edac, then machine checks injected through QEMU."""
    forms = {form.id: (name, form) for name, form in formats(kernel).items()}
    found = read_page((RECORDED / kernel / "page").read_bytes(), LAYOUT)
    entries = [(time, *forms[event_id(data)], data) for time, data in found.entries]
    assert not found.is_lossy and len(entries) > 20
    assert [time for time, *_ in entries] == sorted(time for time, *_ in entries)
    assert 10**9 < entries[1][0] - entries[0][0] < 2 * 10**9, "the driver polls each second"
    events = [event(name, decode(data, form), time, MACHINE) for time, name, form, data in entries[:4]]
    assert [(e.witnesses, e.device, e.severity, e.addresses) for e in events if e] == [
        (("mc_event",), "mc0/csrow0/channel0", "corrected", ()),
        (("mc_event",), "mc0/csrow1/channel1", "uncorrected", ()),
        (("mce_record",), "socket0/bank9", "corrected", (0x1234000,)),
        (("mce_record",), "socket0/bank9", "deferred", (0x5456000,)),
    ]
    assert events[0] and events[0].detail == {
        "syndrome": "0x5a",
        "label": "mc#0csrow#0channel#0",
        "message": "ie31200 CE",
    }


def test_fields_move_between_kernels_and_are_found() -> None:
    old, new = (formats(kernel)["mce_record"].fields for kernel in KERNELS)
    assert old["cpu"].offset_bytes != new["cpu"].offset_bytes and "microcode" in new.keys() - old.keys()
    for kernel in KERNELS:
        found = read(kernel, "mce_record", status=1 << 63 | 0x90, cpu=3, socketid=1, bank=7)
        assert found is not None and found.device == "socket1/bank7"


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.binary(min_size=8, max_size=300)), max_size=8), st.booleans())
def test_what_is_written_on_a_page_is_read_from_it(steps: list[tuple[int, bytes]], has_loss: bool) -> None:
    time, entries = 10**12, []
    for step, content in steps:
        time += step
        entries.append((time, content + bytes(-len(content) % 4)))
    data = page(entries, lost=17 if has_loss else None)
    found = read_page(data, LAYOUT)
    assert list(found.entries) == entries and found.is_lossy == has_loss


@given(st.binary(max_size=200), st.integers(0, 1 << 32))
def test_a_page_of_nonsense_is_an_error_or_a_page(data: bytes, commit: int) -> None:
    nonsense = struct.pack("<QQ", 5, commit) + data
    try:
        for _, content in read_page(nonsense, LAYOUT).entries:
            for form in formats("6.12").values():
                decode(content, form)
    except LayoutError as error:
        assert "\n" not in str(error)


def test_padding_and_absolute_times() -> None:
    stamp = struct.pack("<II", ringbuffer.TIME_STAMP | 5 << 5, 2)
    discarded = struct.pack("<II", ringbuffer.PADDING | 3 << 5, 8) + bytes(4)
    entry = struct.pack("<I", 2 | 7 << 5) + b"8 bytes."
    rest = struct.pack("<I", ringbuffer.PADDING) + b"whatever"
    data = stamp + discarded + entry + rest
    (only,) = read_page(struct.pack("<QQ", 1, len(data)) + data, LAYOUT).entries
    assert only == ((2 << 27) + 5 + 3 + 7, b"8 bytes.")


@pytest.mark.parametrize("text", ["", "field: u64 timestamp;	offset:0;	size:8;	signed:0;", "\0" * 100])
def test_layouts_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(LayoutError):
        page_layout(text)
    with pytest.raises(LayoutError):
        event_format(text)
    with pytest.raises(LayoutError):
        read_page(b"short", LAYOUT)


# --- events --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "device"),
    [
        ((2, 1, -1), "mc0/csrow2/channel1"),
        ((2, -1, -1), "mc0/csrow2/unknown"),
        ((-1, 1, -1), "mc0/unknown"),
        ((-1, -1, -1), "mc0/unknown"),
    ],
)
def test_places_are_named_as_the_counters_name_them(layers: tuple[int, int, int], device: str) -> None:
    fields = dict(zip(("top_layer", "middle_layer", "lower_layer"), layers, strict=True))
    assert edac_device({"mc_index": 0, **fields}, MACHINE.layers) == device
    assert edac_device({"mc_index": 9, **fields}, MACHINE.layers) == "mc9/unknown"


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_edac_event(kernel: str) -> None:
    found = read(
        kernel,
        "mc_event",
        error_type=2,
        error_count=7,
        mc_index=1,
        top_layer=1,
        middle_layer=0,
        lower_layer=-1,
        address=0x12345678,
        grain_bits=5,
        syndrome=0x5A,
        msg="memory read error on nothing (mc:9",
        label="CPU_SrcID#0_Chan#1_DIMM#0",
        driver_detail="row:0x12 " * 100,
    )
    assert found is not None and found.role is Role.COUNTED
    assert (found.device, found.severity, found.count, found.addresses) == (
        "mc1/channel1/slot0",
        "deferred",
        7,
        (0x12345678,),
    )
    assert found.detail["grain_bytes"] == 32 and len(found.detail["driver_detail"]) == 256
    assert found.time_ns == found.first_ns == TIME_NS
    assert read(kernel, "mc_event", error_type=4) is None, "information is no error"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_poisoned_page_and_firmware_records(kernel: str) -> None:
    poisoned = read(kernel, "memory_failure_event", pfn=0x5456, type=16, result=3)
    assert poisoned is not None and poisoned.role is Role.SHARED
    assert poisoned.addresses == (0x5456000,) and poisoned.detail == {"page_recovery": "recovered"}
    data = struct.pack("<Q8H3Q3HB", 1 << 3 | 1 << 5 | 1 << 8, 1, 9, 2, 9, 9, 77, 9, 9, 0, 0, 0, 9, 0, 0, 0)
    memory = read(kernel, "extlog_mem_event", sev=2, pa=0xABCDE000, fru_text="DIMM 3", data=data)
    assert memory is not None and (memory.device, memory.severity) == ("node1/module2", "corrected")
    assert memory.detail == {"fru_text": "DIMM 3", "node": 1, "module": 2, "row": 77, "address": "0xabcde000"}
    nowhere = read(kernel, "extlog_mem_event", sev=0, pa=0xABCDE000)
    assert nowhere is not None and (nowhere.device, nowhere.severity) == ("memory/unknown", "uncorrected")
    assert read(kernel, "extlog_mem_event", sev=3) is None
    section = uuid.UUID("6d5244f2-2712-11ec-bea7-cb3fdb95c786")
    vendor = read(
        kernel, "non_standard_event", sec_type=section.bytes_le, sev=1, len=3, buf=b"\1\2\3", fru_text="board"
    )
    assert vendor is not None and vendor.device == f"firmware/{section}" and vendor.detail["data"] == "010203"
    assert vendor.severity == "corrected", "not the severities of memory errors"
    assert read(kernel, "non_standard_event", sev=0) is None, "information is no error"
    core = {"sec_type": uuid.UUID(PROCESSOR).bytes_le, "buf": processor()}
    shared = read(kernel, "non_standard_event", sev=1, **core)
    assert shared is not None and (shared.device, shared.stream) == ("cpu/0x0000000000000010", "sram")
    assert (shared.role, shared.severity) == (Role.SHARED, "corrected"), "the kernel log tells of it too"
    cut_off = read(kernel, "non_standard_event", sev=2, **{**core, "buf": b""})
    assert cut_off is not None and (cut_off.device, cut_off.stream) == ("cpu/unknown", "core")
    assert read(kernel, "non_standard_event", sev=0, **core) is None


def test_an_uncorrected_error_that_is_consumed_is_one_error_of_memory() -> None:
    """The memory's bank, the core that came upon it, and the page that was taken out of use."""
    words = {"mcgcap": 1 << 24 | 1 << 10, "misc": 0x86, "addr": 0x5456000, "cpu": 3, "socketid": 1}
    records = (
        read("6.12", "mce_record", status=0xBC00000001010090, bank=13, **words),
        read("6.12", "mce_record", status=0xBD80000000100134, bank=1, **words),
        read("6.12", "memory_failure_event", pfn=0x5456, type=16, result=3),
    )
    for seen, device, witnesses in (
        (records, "socket1/bank13", ("mce_record", "poison", "memory_failure_event")),
        (records[1:], "memory/unknown", ("poison", "memory_failure_event")),
    ):
        state: dict[str, Any] = {}
        found = []
        for second, events in enumerate((seen, (), ())):
            now = Moment(TIME_NS + second * 10**9, second * 10**9, "boot-1")
            faults, changes = reconcile({"tracefs": Poll(cursor={}, events=events)}, state, now, "host")
            state |= changes
            found += faults
        (fault,) = found
        assert (fault.device, fault.stream, fault.count) == (device, "dram", 1)
        assert fault.witnesses == witnesses and fault.detail["consumed_by"] == "cpu3"


def test_processor_errors_of_arm() -> None:
    old = read("6.1", "arm_event", mpidr=0x80000100, midr=0x410FD4F0)
    assert old is not None and (old.device, old.stream, old.severity) == ("cpu-80000100", "core", "corrected")
    assert old.detail["severity_known"] is False
    cache = read("6.12", "arm_event", mpidr=1, sev=2, pei_buf=bytes(32), pei_len=32)
    assert cache is not None and (cache.stream, cache.severity) == ("sram", "uncorrected")
    kinds = {0: "sram", 1: "sram", 3: "core", 2: "sram", 4: "sram", 6: "sram", 8: "core", 16: "core", 10: "sram"}
    for kind, stream in kinds.items():
        errors = bytes(4) + bytes([kind]) + bytes(27)
        found = read("6.12", "arm_event", mpidr=1, sev=1, pei_buf=errors, pei_len=32)
        assert found is not None and found.stream == stream, "numbers up to UEFI 2.9, bits since"
    fatal = read("6.12", "arm_event", mpidr=1, sev=3)
    assert fatal is not None and fatal.severity == "fatal"
    assert read("6.12", "arm_event", mpidr=1, sev=0) is None, "information is no error"
    assert read("6.12", "arm_event", mpidr=1, sev=9) is None


def test_memory_behind_cxl() -> None:
    known = {"memdev": "mem3", "serial": 0xABC, "dpa": 0x1000, "channel": 2, "rank": 1, "log": 1}
    valid = 1 << 0 | 1 << 1 | 1 << 5  # channel, rank and row; the column isn't known
    dram = read("6.12", "cxl_dram", **known, validity_flags=valid, row=5, column=6, hpa=0x7000, region_name="region0")
    assert dram is not None and (dram.device, dram.severity, dram.role) == (
        "mem3/channel2/rank1",
        "corrected",
        Role.OWN,
    )
    assert dram.addresses == (0x7000,) and dram.detail["serial"] == "0xabc"
    assert dram.detail["row"] == 5 and "column" not in dram.detail
    counted = {"log": 0, "descriptor": 2, "cvme_count": 9}
    newer = event("cxl_dram", {**known, **counted}, TIME_NS, MACHINE)
    assert newer is not None and (newer.severity, newer.count) == ("corrected", 9), "as since Linux 6.14"
    single = event("cxl_dram", {**known, **counted, "descriptor": 0}, TIME_NS, MACHINE)
    assert single is not None and single.count == 1
    media = read("6.12", "cxl_general_media", **{**known, "log": 3}, descriptor=1, hpa=(1 << 64) - 1)
    assert media is not None and (media.device, media.severity, media.addresses) == ("mem3/unknown", "fatal", ())


PIECES = ("field:", "[4]", "[", "offset:", "size:", "signed:1;", "__data_loc char[] ", ";", "-1", "8", "9" * 5000, "\n")


@given(
    st.sampled_from(KERNELS),
    st.sampled_from(sorted(READERS)),
    st.lists(
        st.tuples(st.integers(0, 3000), st.integers(0, 30), st.sampled_from(PIECES) | st.text(max_size=3)), max_size=6
    ),
    st.binary(max_size=400),
)
@settings(max_examples=400)
def test_no_layout_is_an_exception(kernel: str, name: str, changes: list[tuple[int, int, str]], content: bytes) -> None:
    """A kernel may have other fields, and other types of those that are known."""
    text = next((RECORDED / kernel).glob(f"*.{name}.format"), RECORDED / "6.12/mce.mce_record.format").read_text()
    for at, length, piece in changes:
        text = text[:at] + piece + text[at + length :]
    try:
        fields = decode(content, event_format(text))
    except LayoutError as error:
        assert "\n" not in str(error)
        return
    found = event(name, fields, TIME_NS, MACHINE)
    assert found is None or json.dumps(found.detail)


@pytest.mark.parametrize("value", [-1, 255, 1 << 40, "text", b"bytes"])
def test_a_field_of_another_type_or_size_does_no_harm(value: int | str | bytes) -> None:
    for name in READERS:
        for form in (formats(kernel).get(name) for kernel in KERNELS):
            for field in form.fields if form is not None else ():
                found = event(name, {"error_type": 0, "address": 4096, "status": 1, field: value}, TIME_NS, MACHINE)
                assert found is None or json.dumps(found.detail)


@given(st.sampled_from(KERNELS), st.sampled_from(sorted(READERS)), st.binary(max_size=400))
def test_no_payload_is_an_exception(kernel: str, name: str, content: bytes) -> None:
    form = formats(kernel).get(name)
    if form is not None:
        found = event(name, decode(content, form), TIME_NS, MACHINE)
        assert found is None or (found.count >= 1 and len(repr(found.detail)) < 4000)


def test_a_storm_is_added_up() -> None:
    one = read("6.12", "mce_record", status=1 << 63 | 1 << 58 | 0x90, addr=0x1000)
    assert one is not None
    storm = (replace(one, addresses=(n << 12,), first_ns=TIME_NS + n, time_ns=TIME_NS + n) for n in range(1, 10_001))
    groups = summary(storm)
    assert len(groups) < 40 and sum(group.count for group in groups) == 10_000
    assert max(len(group.addresses) for group in groups) == ADDRESSES_MAX
    assert (min(g.first_ns for g in groups), max(g.time_ns for g in groups)) == (TIME_NS + 1, TIME_NS + 10_000)
