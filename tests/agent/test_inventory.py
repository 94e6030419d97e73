"""The firmware's table of memory modules, and which of them an EDAC place is."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import inventory, smbios
from agent.inventory import sticks
from agent.observation import Device, Poll
from agent.smbios import Module
from tests.agent.processes import Daemon
from tests.agent.smbios_table import END, memory_array, memory_device, structure, table, write

GIB = 1 << 30


def module(locator: str, bank: str = "", size_gib: int = 16, serial: str = "") -> Module:
    return Module(locator=locator, bank=bank, size_bytes=size_gib * GIB, serial=serial or f"serial of {bank}{locator}")


def device(name: str, label: str = "", size_gib: int | None = 16) -> Device:
    size_bytes = None if size_gib is None else size_gib * GIB
    return Device(stream="dram", name=name, label=label, size_bytes=size_bytes)


def joined(devices: list[Device], modules: list[Module]) -> dict[str, tuple[list[str], str]]:
    """First device of each stick -> its possible locators, and the evidence."""
    return {
        stick.devices[0].name: ([entry.locator for entry in stick.modules], stick.evidence)
        for stick in sticks(tuple(devices), tuple(modules))
    }


# --- the table -------------------------------------------------------------------------------------------------------


def test_a_module_whole() -> None:
    data = table(
        memory_device(
            "DIMM_B1", "NODE 0", size_mib=65536, serial=" 0A1B2C3D ", part="M393A4K40", manufacturer="Samsung"
        )
    )
    (found,) = smbios.parse(data).modules
    assert found == Module(
        locator="DIMM_B1",
        bank="NODE 0",
        size_bytes=64 * GIB,
        manufacturer="Samsung",
        serial="0A1B2C3D",
        part="M393A4K40",
        type="DDR4",
        form="DIMM",
        speed_mts=3200,
        ranks=2,
        has_ecc_bits=True,
    )
    assert smbios.parse(data).error_correction == "multi-bit ECC" and not smbios.parse(data).is_damaged


@pytest.mark.parametrize(
    ("size_mib", "expected"),
    [(0, 0), (512, GIB // 2), (32767, 32767 << 20), (0xFFFF, 0xFFFF << 20), (0x8010, 0x8010 << 20)],
)
def test_sizes_small_and_extended(size_mib: int, expected: int) -> None:
    (found,) = smbios.parse(table(memory_device(size_mib=size_mib))).modules
    assert found.size_bytes == expected


def test_what_the_firmware_does_not_know_is_not_a_serial() -> None:
    for word in ("Unknown", "00000000", "000000000000", "FFFF", "To Be Filled By O.E.M.", "NO DIMM", "Not Specified"):
        (found,) = smbios.parse(table(memory_device(serial=word))).modules
        assert found.serial == ""
    (found,) = smbios.parse(table(memory_device(speed=0xFFFF, widths=(0xFFFF, 64)))).modules
    assert (found.speed_mts, found.has_ecc_bits) == (5600, None)


def test_an_old_structure_ends_early() -> None:
    old = memory_device(serial="S1")
    body, text = old[4:0x15], old[old[1] :]
    (found,) = smbios.parse(table(structure(17, body)[:-2] + text)).modules
    assert found.locator == "DIMM_A1" and (found.serial, found.speed_mts, found.ranks) == ("", None, None)


@pytest.mark.parametrize("kind", [16, 17])
def test_a_structure_too_short_for_its_kind_is_damage_and_no_module(kind: int) -> None:
    found = smbios.parse(
        table(memory_device("DIMM_A1"), structure(kind, b"\x10\x10" + bytes(8)), memory_device("DIMM_B1"))
    )
    assert [module.locator for module in found.modules] == ["DIMM_A1"] and found.is_damaged


def test_only_system_memory_tells_the_error_correction() -> None:
    cache = memory_array(correction=3, use=7, handle=0x2000)
    assert smbios.parse(cache + memory_array(correction=5) + END).error_correction == "single-bit ECC"
    assert smbios.parse(memory_array(3) + memory_array(5) + END).error_correction is None


def test_a_flash_chip_is_no_memory_module() -> None:
    flash = memory_array(correction=3, use=5, handle=0x2000) + memory_device("SYSTEM ROM", size_mib=8, array=0x2000)
    found = smbios.parse(table(memory_device("DIMM_A1"), flash))
    assert [module.locator for module in found.modules] == ["DIMM_A1"]
    assert found.error_correction == "multi-bit ECC"


def test_every_cut_keeps_what_stands_before_it() -> None:
    whole = table(memory_device("A", serial="S1"), memory_device("B", serial="S2"))
    expected = smbios.parse(whole).modules
    for cut in range(len(whole)):
        found = smbios.parse(whole[:cut])
        assert found.modules == expected[: len(found.modules)]
        assert found.is_damaged or whole[:cut].endswith(b"\0\0"), "a table may end without a mark, behind a structure"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 300), st.binary(max_size=8))
def test_no_bytes_raise(head: bytes, position: int, noise: bytes) -> None:
    whole = table(memory_device("A", serial="S1"))
    smbios.parse(head)
    smbios.parse(whole[:position] + noise + whole[position + len(noise) :])


# --- the join --------------------------------------------------------------------------------------------------------


def test_labels_name_their_modules_whatever_the_order() -> None:
    devices = [device(f"mc0/channel{n}/slot0", f"CPU0-DIMM_{letter}1") for n, letter in enumerate("ABCD")]
    modules = [module(f"DIMM_{letter}1", "CPU0") for letter in "DCBA"]
    expected = {f"mc0/channel{n}/slot0": ([f"DIMM_{letter}1"], "label") for n, letter in enumerate("ABCD")}
    assert joined(devices, modules) == expected


def test_a_module_named_by_a_label_is_no_candidate_elsewhere() -> None:
    devices = [device("mc0/channel0/slot0", "A1"), device("mc0/channel1/slot0")]
    assert joined(devices, [module("A1"), module("B1")]) == {
        "mc0/channel0/slot0": (["A1"], "label"),
        "mc0/channel1/slot0": (["B1"], "size"),
    }


def test_a_drivers_own_label_is_not_a_locator() -> None:
    names = {f"mc0/channel{n}/slot0": f"CPU_SrcID#0_MC#0_Chan#{n}_DIMM#0" for n in range(3)}
    modules = [module(f"DIMM_{letter}1") for letter in "ABC"]
    found = joined([device(*item) for item in names.items()], modules)
    assert set(map(tuple, (candidates for candidates, _ in found.values()))) == {("DIMM_A1", "DIMM_B1", "DIMM_C1")}


def test_places_in_words_with_two_channels() -> None:
    devices = [device(f"mc{mc}/channel{channel}/slot0") for mc in range(2) for channel in range(2)]
    modules = [module(f"Controller{mc}-Channel{letter}-DIMM0") for letter in "BA" for mc in (1, 0)]
    assert joined(devices, modules) == {
        f"mc{mc}/channel{channel}/slot0": ([f"Controller{mc}-Channel{'AB'[channel]}-DIMM0"], "place and size")
        for mc in range(2)
        for channel in range(2)
    }


def test_with_more_channels_letters_are_not_believed() -> None:
    devices = [device(f"mc0/csrow0/channel{channel}") for channel in range(8)]
    modules = [module("DIMM 0", f"P0 CHANNEL {letter}") for letter in "ABCDEFGH"]
    assert all(len(candidates) == 8 for candidates, _ in joined(devices, modules).values())


def test_ranks_of_one_module_are_one_stick() -> None:
    ranks = [device(f"mc0/csrow{row}/channel{channel}", size_gib=8) for row in range(4) for channel in range(2)]
    modules = [module(f"DIMM {slot}", f"CHANNEL {letter}") for letter in "AB" for slot in range(2)]
    found = sticks(tuple(ranks), tuple(modules))
    assert [[rank.name for rank in stick.devices] for stick in found][:2] == [
        ["mc0/csrow0/channel0", "mc0/csrow1/channel0"],
        ["mc0/csrow0/channel1", "mc0/csrow1/channel1"],
    ]
    assert {stick.devices[0].name: (stick.module.bank, stick.module.locator) for stick in found} == {
        "mc0/csrow0/channel0": ("CHANNEL A", "DIMM 0"),
        "mc0/csrow0/channel1": ("CHANNEL B", "DIMM 0"),
        "mc0/csrow2/channel0": ("CHANNEL A", "DIMM 1"),
        "mc0/csrow2/channel1": ("CHANNEL B", "DIMM 1"),
    }


def test_a_size_of_its_own_tells_which() -> None:
    devices = [device("mc0/channel0/slot0", size_gib=32), *(device(f"mc0/channel{n}/slot0") for n in (1, 2))]
    found = joined(devices, [module("A1"), module("B1"), module("C1", size_gib=32)])
    assert found["mc0/channel0/slot0"] == (["C1"], "size")
    assert found["mc0/channel1/slot0"] == (["A1", "B1"], "size")


def test_one_module_for_two_places_is_neithers() -> None:
    found = joined([device("mc0/channel0/slot0"), device("mc0/channel1/slot0")], [module("A1")])
    assert {tuple(candidates) for candidates, _ in found.values()} == {()}
    assert joined([device("mc0/channel0/slot0")], [module("A1")]) == {"mc0/channel0/slot0": (["A1"], "size")}


def test_unknown_places_and_what_is_no_place_of_edac_belong_to_no_module() -> None:
    names = ("mc0/unknown", "mc0/csrow0/unknown", "mc0/channel1/unknown", "socket0/bank9", "node0/card1/module0")
    assert joined([device(name) for name in names], [module("A")]) == {}


def poll_of(*devices: Device) -> Poll:
    return Poll(cursor={}, devices=devices)


def test_devices_are_told_their_parts(tmp_path: Path) -> None:
    entries = [memory_device(f"DIMM_{letter}1", serial=f"S{letter}", part="P") for letter in "AB"]
    write(tmp_path, table(*entries, memory_device("DIMM_C1", size_mib=0)))
    found = inventory.read(tmp_path)
    assert found.trouble is None and len(found.populated) == 2
    gpu = Device(stream="gpu", name="gpu0", serial="its own")
    exact = inventory.with_parts(poll_of(device("mc0/channel0/slot0", "DIMM_B1"), gpu), found).devices
    assert [(entry.slot, entry.serial, entry.part) for entry in exact] == [("DIMM_B1", "SB", "P"), ("", "its own", "")]
    vague = inventory.with_parts(poll_of(*(device(f"mc0/channel{n}/slot0") for n in range(2))), found).devices
    assert [(entry.slot, entry.serial) for entry in vague] == [("DIMM_A1 or DIMM_B1", "")] * 2


def test_what_firmware_names_in_the_words_of_its_table_is_that_module() -> None:
    entries = (module("DIMM_A1", "NODE 1", serial="SA"), module("DIMM_B1", "NODE 1", serial="SB"))
    found = inventory.Inventory(smbios.Table(entries))
    named = {"fru/CPU1_A": "NODE 1 DIMM_A1", "fru/DIMM_B1": "DIMM_B1", "fru/DIMM_C1": "DIMM_C1", "memory/unknown": ""}
    devices = inventory.with_parts(poll_of(*(device(*item) for item in named.items())), found).devices
    assert [(entry.slot, entry.serial) for entry in devices] == [
        ("DIMM_A1", "SA"),
        ("DIMM_B1", "SB"),
        ("", ""),
        ("", ""),
    ]
    both = inventory.Inventory(smbios.Table((*entries, module("DIMM_B1", "NODE 2"))))
    (vague,) = inventory.with_parts(poll_of(device("fru/DIMM_B1", "DIMM_B1")), both).devices
    assert (vague.slot, vague.serial) == ("NODE 1 DIMM_B1 or NODE 2 DIMM_B1", "")


def test_the_collector_is_told_the_kinds_of_modules(tmp_path: Path) -> None:
    """Else nobody could say whether a part fails more often than its like."""
    entries = [memory_device(f"DIMM_{n}1", serial=f"S{n}", part=f"P{n % 2}") for n in range(3)]
    write(tmp_path / "sys", table(*entries, memory_device("DIMM_31", size_mib=0, part="empty")))
    with Daemon(tmp_path) as agent:
        assert agent.faults()[0].facts["parts"] == ["P0", "P1"]


def test_many_alike_are_counted_not_listed() -> None:
    modules = tuple(module(f"A{n}") for n in range(12))
    assert inventory.slot_text(modules, modules) == "one of 12"
    twins = (module("DIMM 0", "P0 CHANNEL A"), module("DIMM 0", "P0 CHANNEL B"))
    assert inventory.slot_text(twins[:1], twins) == "P0 CHANNEL A DIMM 0"


def test_no_table_or_half_of_one_is_said(tmp_path: Path) -> None:
    found = inventory.read(tmp_path)
    assert found.populated == () and "offers no SMBIOS table" in found.trouble
    write(tmp_path, table(memory_device("A"))[:-10])
    assert "damaged" in inventory.read(tmp_path).trouble
    plain = poll_of(device("mc0/channel0/slot0"))
    assert inventory.with_parts(plain, inventory.Inventory()) is plain


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its rights away")
def test_a_table_for_root_only_is_said(tmp_path: Path) -> None:
    write(tmp_path, table(memory_device("A")))
    (tmp_path / "firmware/dmi/tables/DMI").chmod(0o400)
    os.seteuid(65534)
    try:
        found = inventory.read(tmp_path)
    finally:
        os.seteuid(0)
    assert "Permission denied" in found.trouble and "root" in found.trouble
