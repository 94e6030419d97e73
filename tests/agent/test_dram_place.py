"""Row, column and bank out of the texts of drivers, through events and counters to the mode of failure."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import dram_place, evidence
from agent.observation import Device, Observation, Poll
from agent.reconcile import reconcile
from agent.trace_events import READERS, Machine, event, summary
from tests.agent.watcher import NOW

DEVICE = "mc0/channel0/slot1"
MACHINE = Machine({0: ("channel", "slot")}, 1.0, 300.0)
SKX = (
    " err_code:0x0101:0x0090 ProcessorSocketId:0x0 MemoryControllerId:0x1 PhysicalRankId:0x2 Row:{row:#x} "
    "Column:{column:#x} Bank:{bank:#x} BankGroup:0x1 retry_rd_err_log[0001a209 00000000 00800000 0440d001 000015da] "
    "correrrcnt[0001 0000 0000 0000 0000 0000 0000 0000]"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            SKX.format(row=0x15DA, column=0x100, bank=3),
            {"rank": 2, "bank_group": 1, "bank": 3, "row": 0x15DA, "column": 0x100},
        ),
        (
            "  err_code:0x0080:0x009f  SystemAddress:0x12345040 ProcessorSocketId:0x0 MemoryControllerId:0x0 "
            "ChannelId:0x0 DimmSlotId:0x1 PhysicalRankId:0x1 Row:0xabc Column:0x3f8 Bank:0x2 BankGroup:0x3 "
            "ChipSelect:0x1 ChipId:0x1",
            {"rank": 1, "bank_group": 3, "bank": 2, "row": 0xABC, "column": 0x3F8, "chip_id": 1},
        ),
        (
            "APEI location: node:1 card:3 module:0 rank:0 bank:256 device:6 row:77 col:10 bit_pos:16 handle:0x0052 "
            "status(0x0000000000000400): Storage error in DRAM memory",
            {"rank": 0, "device": 6, "bank": 256, "row": 77, "column": 10},
        ),
        (
            "APEI location: node: 0 card: 0 module: 0 rank: 0 bank: 1282 bank_group: 5 bank_address: 2 device: 0 "
            "row: 11387 column: 1544 bit_position: 0 DIMM location: not present. DMI handle: 0x0000",
            {"rank": 0, "device": 0, "bank_group": 5, "bank": 1282, "row": 11387, "column": 1544},
        ),
        (
            " err_code:0001:0090 channel:0 DIMM:0 rank:1 row:4711 bank:5 col:128",
            {"rank": 1, "bank": 5, "row": 4711, "column": 128},
        ),
        (" area:DRAM err_code:0001:0090 socket:0 ha:0 channel_mask:1 rank:1", {}),
        ("Cannot decode normalized address", {}),
        ("rank:01 row:0077 col:08", {"rank": 1, "row": 77, "column": 8}),
        ("narrow:5 row:12ab column:", {}),
        ("", {}),
    ],
    ids=["skx", "skx by firmware", "ghes", "ghes since 5.18", "pnd2", "sb", "amd64", "padded", "nonsense", "nothing"],
)
def test_texts_of_drivers(text: str, expected: dict[str, int]) -> None:
    assert dram_place.of_text(text) == expected


WORDS = st.sampled_from([*dram_place.WORDS, "col", "Row", ": ", ":", "0x", "00", "9", "f", " ", "\u0663"])


@given(st.text(max_size=300) | st.lists(WORDS, max_size=40).map("".join))
def test_no_text_is_an_exception(text: str) -> None:
    assert set(dram_place.of_text(text)) <= set(dram_place.WORDS)


def test_places_of_errors_told_as_one_are_kept_and_witnesses_of_one_error_have_one() -> None:
    first, other = {"row": 1, "column": 2, "label": "A"}, {"row": 1, "column": 3, "address": "0x10", "message": "m"}
    both = dram_place.with_places(first, other)
    assert both == {"label": "A", "places": [{"row": 1, "column": 2}, {"address": "0x10", "row": 1, "column": 3}]}
    assert dram_place.with_places(both, first) == both
    assert dram_place.with_places({"label": "A"}, other)["row"] == 1
    many = [{"row": n, "column": 0} for n in range(20)]
    for place in many:
        both = dram_place.with_places(both, place)
    assert len(both["places"]) == dram_place.PLACES_MAX
    assert dram_place.filled(first, other) == {**first, "message": "m"}
    assert dram_place.filled({"label": "A"}, other) == {"label": "A", **other}


def cycle(state: dict[str, Any], details: list[str], at_s: int) -> dict[str, Any]:
    """One poll of the agent that finds an mc_event with each of these texts, and as many errors counted."""
    now = type(NOW)(NOW.time_ns + at_s * 10**9, NOW.boottime_ns + at_s * 10**9, NOW.boot_id)
    fields = {"top_layer": 0, "middle_layer": 1, "lower_layer": -1, "error_count": 1, "grain_bits": 5}
    events = [
        event("mc_event", {**fields, "address": 0x1000 + n, "driver_detail": text}, now.time_ns, MACHINE)
        for n, text in enumerate(details)
    ]
    observed = Observation(
        device=DEVICE, stream="dram", severity="corrected", count=len(details), time_error_s=5, epoch="e"
    )
    devices = (Device(stream="dram", name=DEVICE),)
    polls = {
        "edac": Poll(cursor={}, devices=devices, observations=(observed,)),
        "tracefs": Poll(cursor={}, events=summary(item for item in events if item is not None)),
    }
    faults, changes = reconcile(polls, state, now, "h1")
    return {**state, **evidence.remember(faults, state, changes)}


@pytest.mark.parametrize("is_storm", [False, True], ids=["one by one", "in one poll"])
@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(1, 1, 1)], "transient"),
        ([(1, 1, 1)] * 3, "single-bit"),
        ([(1, column, 1) for column in range(5)], "row"),
        ([(row, 1, 1) for row in range(5)], "column"),
        ([(n, 7 * n, 1) for n in range(5)], "bank"),
        ([(n, 7 * n, n % 2) for n in range(5)], "several-banks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_from_events_to_the_mode(places: list[tuple[int, int, int]], expected: str, is_storm: bool) -> None:
    texts = [SKX.format(row=row, column=column, bank=bank) for row, column, bank in places]
    state: dict[str, Any] = {}
    for number, piece in enumerate([texts] if is_storm else [[text] for text in texts]):
        state = cycle(state, piece, 10 * number)
    known = state[f"device/dram/{DEVICE}"]
    assert known["errors"] == {"corrected": len(places)}
    mode = evidence.mode(known["evidence"])
    assert mode.name == expected and mode.why


def test_every_event_with_row_and_column_tells_its_place() -> None:
    """Those of machine checks, of pages and of firmware's own kinds have none; that they have none is the kernel's."""
    fields: dict[str, Any] = {
        "mc_event": {"driver_detail": SKX.format(row=9, column=8, bank=7)},
        "extlog_mem_event": {"sev": 2, "data": (0xFFFF).to_bytes(8, "little") + bytes(47)},
        "cxl_dram": {"validity_flags": 0x7F, "row": 9, "column": 8, "bank": 7, "bank_group": 1},
    }
    for name in READERS:
        found = event(name, fields.get(name, {}), NOW.time_ns, MACHINE)
        assert bool(found and dram_place.of_detail(found.detail)) == (name in fields), name
