"""The doctor: what is blind and why, what to do about it, and the screen it prints."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent import commands, machine
from agent.acknowledge import Acknowledgement
from agent.config import AgentSettings
from agent.doctor import Facts, JournalFacts, Software, examine, render
from agent.inventory import Inventory
from agent.machine import Machine
from agent.observation import Device, Moment, Observation, Poll
from agent.smbios import Module, Table
from agent.sources import canary, lastwords, nvml, rasdaemon
from agent.sources.table import SOURCES
from agent.version import VERSION
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, eventually
from tests.agent.smbios_table import memory_device, table, write

ROOT = Path(__file__).parent.parent.parent
GIB = 1 << 30
HARDWARE = Machine(virtual=None, kernel="6.1.0", facts={"vendor": "Acme", "product": "Server"})
A1 = Module(
    locator="A1", bank="", size_bytes=16 * GIB, serial="S1", part="P1", type="DDR4", form="DIMM", has_ecc_bits=True
)
B1 = replace(A1, locator="B1", serial="S2")
SEEN = Device(stream="dram", name="mc0/channel0/slot0", label="A1", size_bytes=16 * GIB)
SOFTWARE = Software(version="1.0", crc32c="sse4.2", kernels=("sse4.2", "table"), is_crcmod_native=True)
NOW_NS = 1_800_000_000 * 10**9


def facts(**parts: Any) -> Facts:
    defaults: dict[str, Any] = {
        "now_ns": NOW_NS,
        "host": "h1",
        "machine": HARDWARE,
        "polls": {"edac": Poll(cursor={}, devices=(SEEN,))},
        "inventory": Inventory(Table((A1, replace(B1, size_bytes=0)), "multi-bit ECC")),
        "state": {},
        "journals": {"memory": JournalFacts("/j", faults=3, size_bytes=1 << 20, written_ns=NOW_NS - 4 * 10**9)},
        "software": SOFTWARE,
    }
    return Facts(**defaults | parts)


def blind(reason: str = "no-driver") -> dict[str, Poll]:
    return {"edac": Poll(cursor={}, blind=reason)}


def options(**values: str) -> dict[str, str]:
    return dict.fromkeys(machine.OPTIONS, "y") | {"RAS_CEC": "n"} | values


def screen(facts: Facts) -> str:
    return "\n".join(render(examine(facts)))


# --- the verdict -----------------------------------------------------------------------------------------------------


def test_a_healthy_host_needs_no_advice() -> None:
    report = examine(facts())
    assert (report["ecc_blind"], report["is_alarm"], report["advice"]) == (False, False, [])
    assert report["witnesses"] == [{"name": "edac", "state": "live", "said": ["dram devices: 1"]}]
    json.dumps(report)


NO_ECC = Inventory(Table((replace(A1, has_ecc_bits=False),), "none"))


@pytest.mark.parametrize(
    ("parts", "because", "cure"),
    [
        ({"machine": replace(HARDWARE, drivers=("amd64_edac",))}, "isn't loaded: amd64_edac", "modprobe -a amd64_edac"),
        ({"machine": replace(HARDWARE, options=options(EDAC="n"))}, "without CONFIG_EDAC", "run a kernel that has it"),
        ({"inventory": NO_ECC}, "has no ECC", "canary_mib"),
        (
            {"machine": replace(HARDWARE, is_firmware_first=True, options=options(EDAC_GHES="n"))},
            "firmware takes memory errors first",
            "CONFIG_EDAC_GHES (this one is built without)",
        ),
        (
            {"machine": replace(HARDWARE, is_firmware_first=True)},
            "firmware takes memory errors first",
            "load ghes_edac",
        ),
        (
            {"machine": replace(HARDWARE, drivers=("skx_edac",), loaded=("skx_edac",))},
            "skx_edac, made for this machine, found no memory controller",
            "BIOS",
        ),
        ({}, "no EDAC driver for this machine's memory controller", "newer kernel"),
        ({"polls": blind("unreadable")}, "can't be read", "let the agent read"),
    ],
)
def test_a_blind_physical_host_is_an_alarm_with_a_cause_and_a_cure(parts: dict, because: str, cure: str) -> None:
    report = examine(facts(**{"polls": blind(), **parts}))
    assert report["ecc_blind"] and report["is_alarm"]
    assert because in report["ecc_blind_because"] and cure in report["advice"][0]
    shown = screen(facts(**{"polls": blind(), **parts}))
    assert "ECC-BLIND" in shown and ("Memory (no error correction)" in shown) == ("has no ECC" in shown)


def test_a_blind_virtual_machine_is_information() -> None:
    guest = facts(polls=blind(), machine=replace(HARDWARE, virtual="KVM"), inventory=Inventory(trouble="no table"))
    report = examine(guest)
    assert report["ecc_blind"] and not report["is_alarm"]
    assert report["advice"] == ["run the agent on the machine below as well; nothing is wrong here"]
    assert "ECC-BLIND" not in screen(guest) and "virtual machine (KVM)" in screen(guest)


def test_every_witness_says_its_state() -> None:
    polls = {
        "edac": Poll(cursor={}, devices=(SEEN,), trouble=tuple(f"file{n}: not a number" for n in range(5))),
        "lastwords": Poll(cursor={}, absent="no pstore"),
        "nvml": Poll(cursor={}, devices=(replace(SEEN, stream="gpu", name="gpu0"),)),
    }
    report = examine(facts(polls=polls))
    assert {witness["name"]: witness["state"] for witness in report["witnesses"]} == {
        "edac": "in trouble",
        "lastwords": "absent",
        "nvml": "live",
    }
    text = screen(facts(polls=polls))
    assert "file2" in text and "file3" not in text and "and 2 more" in text and "no pstore" in text


# --- the memory ------------------------------------------------------------------------------------------------------


def test_the_memory_with_what_is_counted_there() -> None:
    last_ns = {"corrected": NOW_NS - 10**9, "uncorrected": NOW_NS}
    device = {
        "errors": {"corrected": 41, "uncorrected": 1},
        "slot": "A1",
        "serial": "S1",
        "part": "P1",
        "last_ns": last_ns,
    }
    life = {"errors": {"corrected": 7}, "slot": "A1", "serial": "S0", "part": "P0", "size_bytes": 8 * GIB}
    state = {
        "device/dram/mc0/channel0/slot0": device,
        "device/dram/mc1/channel0/slot0": {**device, "errors": {}, "is_gone": True},
        "device/gpu/gpu0": {**device, "condition": "remap-pending"},
        "replaced/dram/mc0/channel0/slot0": [life],
    }
    rows = examine(facts(state=state))["memory"]
    assert [(row["slot"], row["serial"], row["state"], row["errors"]) for row in rows] == [
        ("A1", "S1", "open", {"corrected": 41, "uncorrected": 1}),
        ("A1", "S1", "gone", {}),
        ("A1", "S0", "replaced", {"corrected": 7}),
    ]
    (gpu,) = examine(facts(state=state))["other_devices"]
    assert (gpu["stream"], gpu["devices"], gpu["action"]) == ("gpu", ["gpu0"], "reset")
    text = screen(facts(state=state))
    assert "16 GiB  DDR4 DIMM  P1    S1      mc0/channel0/slot0  41 corrected, 1 uncorrected  replace" in text
    assert "A1 (replaced)" in text
    assert "1. replace A1 (part P1, serial S1): an error that ECC couldn't correct at mc0/channel0/slot0" in text


def test_errors_without_a_place_drain_the_host() -> None:
    unknown = replace(SEEN, name="mc0/unknown", label="")
    known = {"errors": {"uncorrected": 1}, "last_ns": {"uncorrected": NOW_NS}}
    found = facts(polls={"edac": Poll(cursor={}, devices=(SEEN, unknown))}, state={"device/dram/mc0/unknown": known})
    report = examine(found)
    assert [(row["devices"], row["action"]) for row in report["memory"]] == [
        (["mc0/channel0/slot0"], "none"),
        (["mc0/unknown"], "drain"),
    ]
    assert report["advice"][0].startswith("drain this host: ")


def test_acknowledged_errors_are_shown_and_ask_for_nothing() -> None:
    known = {"errors": {"uncorrected": 1}, "last_ns": {"uncorrected": NOW_NS}}
    said = Acknowledgement(errors={"uncorrected": 1}, reason="part is ordered", by="ada", time_ns=NOW_NS)
    found = facts(state={f"device/dram/{SEEN.name}": known}, acknowledged={("dram", SEEN.name): said})
    report = examine(found)
    (row,) = report["memory"]
    assert (row["state"], row["action"]) == ("acknowledged", "replace") and not report["advice"]
    assert row["acknowledged"] == {SEEN.name: {"by": "ada", "reason": "part is ordered"}}
    assert "replace (acknowledged)" in screen(found)
    later = {"errors": {"uncorrected": 2}, "last_ns": {"uncorrected": NOW_NS}}
    report = examine(replace(found, state={f"device/dram/{SEEN.name}": later}))
    assert report["memory"][0]["state"] == "open" and report["advice"][0].startswith("replace A1")


def test_the_mode_of_failure_stands_beside_the_errors() -> None:
    places = [[None, {"bank": 1, "row": 5, "column": column}, NOW_NS, NOW_NS, 4] for column in (1, 2)]
    known = {"first_ns": NOW_NS, "hours": {}, "places": places}
    device = {"errors": {"corrected": 8}, "last_ns": {"corrected": NOW_NS}, "evidence": known}
    found = facts(state={f"device/dram/{SEEN.name}": device})
    (row,) = examine(found)["memory"]
    assert (row["mode"], row["mode_why"]) == ("row", "one row, 2 columns")
    assert "8 corrected (row)" in screen(found)


def test_since_when_how_lately_and_at_how_many_places_it_erred() -> None:
    first_ns = NOW_NS - 3 * 86400 * 10**9
    known = {"first_ns": first_ns, "hours": {}, "places": [["0x1000", {}, first_ns, NOW_NS, 2]]}
    device = {"errors": {"uncorrected": 2}, "last_ns": {"uncorrected": NOW_NS}, "evidence": known}
    report = examine(facts(state={f"device/dram/{SEEN.name}": device}))
    (row,) = report["memory"]
    assert (row["first_fault_ns"], row["last_fault_ns"], row["places"]) == (first_ns, NOW_NS, 1)
    assert f"at {SEEN.name} since 2027-01-12 08:00 UTC (rule uncorrected" in report["advice"][0]


def test_devices_that_are_no_memory_are_on_the_screen_with_what_a_death_left_behind() -> None:
    left = ["dmesg-ramoops-0: Kernel panic: Fatal local machine check", "BERT: fatal error of fru/DIMM_A2"]
    known = {"first_ns": NOW_NS, "hours": {}, "places": [], "left_behind": left}
    state = {
        "device/host/host": {"errors": {"fatal": 1}, "last_ns": {"fatal": NOW_NS}, "evidence": known},
        "device/sram/socket0/cpu1/bank1": {"errors": {"corrected": 3}, "last_ns": {"corrected": NOW_NS}},
        "device/gpu/gpu0": {"errors": {}, "last_ns": {}},
    }
    found = facts(state=state)
    shown = " ".join(screen(found).split())
    assert f"host: 1 fatal, last 2027-01-15 08:00 UTC (left behind: {'; '.join(left)}); watch" in shown
    assert "socket0/cpu1/bank1: 3 corrected, last 2027-01-15 08:00 UTC; watch" in shown
    assert "gpu0" not in shown and not examine(found)["advice"]
    assert "Other devices" not in screen(facts())


def test_a_device_that_only_events_tell_of_is_not_gone() -> None:
    known = {"errors": {"corrected": 1}, "last_ns": {"corrected": NOW_NS}, "by_events": True}
    rows = examine(facts(state={"device/dram/socket0/bank9": known}))["memory"]
    assert [(row["devices"], row["state"]) for row in rows][1:] == [(["socket0/bank9"], "open")]


@pytest.mark.parametrize("name", ["fru/DIMM_A1", "mc0/location0"])  # as firmware, and as rasdaemon tells of it
def test_what_a_witness_labelled_is_shown_with_the_module_of_that_name_also_after_a_boot(name: str) -> None:
    """Its witness is a log, which lists no devices: that it isn't there now says nothing."""
    known = {"errors": {"uncorrected": 1}, "last_ns": {"uncorrected": NOW_NS}, "label": "A1"}
    unknown = {**known, "label": "Board 7"}
    state = {f"device/dram/{name}": known, "device/dram/fru/Board 7": unknown}
    found = facts(state=state, polls=blind() | {"kmsg": Poll(cursor={})})
    report = examine(found)
    assert [(row["slot"], row["devices"], row["state"], row["action"]) for row in report["memory"]] == [
        ("A1", [name], "open", "replace"),
        (None, ["fru/Board 7"], "open", "replace"),
    ]
    assert "replace A1 (part P1, serial S1): " in report["advice"][1]


def test_a_device_that_is_gone_wants_nothing_done() -> None:
    known = {"errors": {"uncorrected": 1}, "last_ns": {"uncorrected": NOW_NS}, "is_gone": True}
    found = facts(state={"device/gpu/gpu0": known, "device/dram/mc7/channel0/slot0": known})
    assert not examine(found)["advice"]
    assert [row["state"] for row in examine(found)["memory"]] == ["quiet", "gone"]
    assert "gpu0: 1 uncorrected, last 2027-01-15 08:00 UTC; drain (gone)" in screen(found)


def test_without_a_journal_the_kernels_counters_are_shown() -> None:
    seen = Observation(device=SEEN.name, stream="dram", severity="corrected", count=5, time_error_s=1, epoch="e")
    (row,) = examine(facts(polls={"edac": Poll(cursor={}, devices=(SEEN,), observations=(seen,))}))["memory"]
    assert row["errors"] == {"corrected": 5}


def test_an_ambiguous_place_is_said_to_be_so() -> None:
    places = tuple(replace(SEEN, name=f"mc0/channel{n}/slot0", label="") for n in range(2))
    report = examine(facts(polls={"edac": Poll(cursor={}, devices=places)}, inventory=Inventory(Table((A1, B1)))))
    assert [(row["slot"], len(row["devices"])) for row in report["memory"]] == [
        ("A1", 0),
        ("B1", 0),
        ("A1 or B1", 1),
        ("A1 or B1", 1),
    ]
    assert "ras-mc-ctl --register-labels" in report["advice"][0]
    assert [row.get("possible_places") for row in report["memory"]] == [2, 2, None, None]


def test_a_module_that_may_be_the_one_that_erred_is_not_said_to_be_well() -> None:
    places = tuple(replace(SEEN, name=f"mc0/channel{n}/slot0", label="") for n in range(2))
    modules = Inventory(Table((A1, B1)))
    state = {"device/dram/mc0/channel1/slot0": {"errors": {"corrected": 3}, "last_ns": {"corrected": NOW_NS}}}
    quiet = facts(polls={"edac": Poll(cursor={}, devices=places)}, inventory=modules)
    cells = [line.split()[-3:] for line in screen(quiet).splitlines() if " DDR4 " in line]
    assert cells == [["?", "none", "none"]] * 2
    cells = [line.split()[-3:] for line in screen(replace(quiet, state=state)).splitlines() if " DDR4 " in line]
    assert cells == [["?", "?", "none"]] * 2
    assert [row["may_have_erred"] for row in examine(replace(quiet, state=state))["memory"][:2]] == [True, True]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"machine": replace(HARDWARE, has_collector=True)}, "ras=cec_disable"),
        ({"check_interval_s": 300}, "every 300 s"),
        ({"software": replace(SOFTWARE, kernels=("python",), crc32c="python")}, "checksums run in pure Python"),
        ({"software": replace(SOFTWARE, is_crcmod_native=False)}, "crcmod has no C extension"),
        ({"software": replace(SOFTWARE, clashes={"agent": ("other",)})}, "agent also comes with other"),
        ({"journals": {"memory": JournalFacts("/j", damaged_bytes=9)}}, "/j: 9 bytes fail their checksum"),
        (
            {"inventory": Inventory(trouble="Permission denied")},
            "no slots and serial numbers are known: Permission denied",
        ),
        ({"inventory": Inventory(Table((A1,)), "damaged")}, "not all slots and serial numbers are known: damaged"),
    ],
)
def test_what_could_be_better_is_said_with_the_way_out(parts: dict, sentence: str) -> None:
    (advice,) = examine(facts(**parts))["advice"]
    assert sentence in advice


def test_the_screen_is_one_screen() -> None:
    many = {f"mc0/channel{n}/slot0": replace(A1, locator=f"A{n}", serial=f"S{n}") for n in range(32)}
    for is_labelled in (True, False):
        devices = tuple(replace(SEEN, name=n, label=m.locator if is_labelled else "") for n, m in many.items())
        full = facts(polls={"edac": Poll(cursor={}, devices=devices)}, inventory=Inventory(Table(tuple(many.values()))))
        lines = screen(full).splitlines()
        assert len(lines) <= 50 and max(map(len, lines)) <= 120
    assert sum(" one of 32 " in line and "mc0/channel0/slot0 and 31 more" in line for line in lines) == 1


def test_the_screen_in_the_readme_is_what_the_doctor_prints(tmp_path: Path) -> None:
    now_ns = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * 10**9
    now = Moment(now_ns, 0, "boot-1")
    error_ns = int(datetime(2026, 11, 23, 21, 4, tzinfo=UTC).timestamp()) * 10**9
    slots = [f"{letter}1" for letter in "ABCD"]
    modules = [
        replace(A1, locator=slot, size_bytes=32 * GIB, part="M393A4K40DB3-CWE", serial=f"F0A1B2{number}C")
        for number, slot in enumerate(slots)
    ]
    places = [replace(SEEN, name=f"mc0/channel{n}/slot0", label=slot) for n, slot in enumerate(slots)]
    rasdaemon_db = AgentSettings().rasdaemon_db
    ras = rasdaemon.poll(tmp_path / rasdaemon_db.name, tmp_path, tmp_path, {}, now)
    quiet = Poll(cursor={})
    cores = tuple(Device(stream="core", name=f"cpu{n}") for n in range(64))
    evidence = {"first_ns": error_ns, "hours": {}, "places": []}
    shown = facts(
        now_ns=now_ns,
        host="fra1-h0012",
        machine=Machine(
            virtual=None, kernel="6.1.0-56-amd64", facts={"vendor": "Dell Inc.", "product": "PowerEdge R650"}
        ),
        polls={
            "canary": canary.poll(None, tmp_path, {}, now),
            "edac": replace(quiet, devices=(*places, replace(SEEN, name="mc0/unknown", label=""))),
            "kmsg": quiet,
            "lastwords": replace(quiet, devices=(lastwords.HOST,)),
            "nvml": nvml.without_driver(tmp_path, {}, now),
            "rasdaemon": replace(ras, absent=str(ras.absent).replace(str(tmp_path), str(rasdaemon_db.parent))),
            "self-test": replace(quiet, devices=cores),
            "tracefs": quiet,
        },
        inventory=Inventory(Table(tuple(modules), "multi-bit ECC")),
        state={
            f"device/dram/{places[1].name}": {"errors": {"corrected": 12}, "last_ns": {"corrected": error_ns}},
            f"device/dram/{places[2].name}": {
                "errors": {"uncorrected": 1},
                "last_ns": {"uncorrected": error_ns},
                "evidence": evidence,
            },
        },
        journals={
            "memory": JournalFacts("/m", faults=2, size_bytes=1 << 17, written_ns=now_ns - 3 * 10**9),
            "scrub": JournalFacts("/s", size_bytes=200 << 10),
        },
        software=replace(SOFTWARE, version=VERSION, crc32c="avx512", kernels=("avx512", "sse4.2", "table")),
    )
    assert f"```\n{screen(shown)}\n```\n" in (ROOT / "README.md").read_text()


# --- the machine -----------------------------------------------------------------------------------------------------


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    for name in ("sys", "proc/sys/kernel/random", "boot", "modules/6.1.0"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("boot-1\n")
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags\t\t: fpu sse\n")
    return tmp_path


def look(roots: Path, **facts: str) -> Machine:
    return machine.look(roots / "sys", roots / "proc", roots / "boot", roots / "modules/6.1.0", facts)


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_hardware_and_guests(roots: Path) -> None:
    assert look(roots, vendor="Dell Inc.", product="PowerEdge").virtual is None
    assert look(roots, vendor="QEMU", product="Standard PC").virtual == "QEMU Standard PC"
    assert look(roots, vendor="Amazon EC2", product="m7g.large").virtual == "Amazon EC2 m7g.large"
    assert look(roots, vendor="Amazon EC2", product="m7g.metal-48xl").virtual is None
    put(roots / "proc/cpuinfo", "flags : fpu hypervisor sse\n")
    assert look(roots).virtual == "an unnamed hypervisor"
    put(roots / "sys/hypervisor/type", "xen\n")
    assert look(roots).virtual == "xen"
    put(roots / "proc/xen/capabilities", "control_d\n")
    assert look(roots).virtual is None


def test_the_kernels_options_from_either_place(roots: Path) -> None:
    assert look(roots).options is None
    (roots / "proc/config.gz").write_bytes(
        gzip.compress(b"CONFIG_EDAC=y\n# CONFIG_EDAC_GHES is not set\nCONFIG_RAS_CEC=y\n")
    )
    assert look(roots).options == {"EDAC": "y", "EDAC_GHES": "n", "RAS_CEC": "y"}
    put(roots / "boot/config-6.1.0", "CONFIG_EDAC=m\nCONFIG_EDAC_DEBUG=y\n")
    assert look(roots).options == {"EDAC": "m", "EDAC_GHES": "n", "RAS_CEC": "n"}
    (roots / "boot/config-6.1.0").unlink()
    (roots / "proc/config.gz").write_bytes(b"half a")
    assert look(roots).options is None


def test_the_kernels_collector_of_corrected_errors_until_it_is_disabled(roots: Path) -> None:
    put(roots / "boot/config-6.1.0", "CONFIG_EDAC=y\n")
    assert not look(roots).has_collector
    put(roots / "boot/config-6.1.0", "CONFIG_EDAC=y\nCONFIG_RAS_CEC=y\n")
    put(roots / "proc/cmdline", "root=/dev/sda1 ro quiet\n")
    assert look(roots).has_collector
    put(roots / "proc/cmdline", "root=/dev/sda1 ro ras=cec_disable quiet\n")
    assert not look(roots).has_collector
    advice = examine(facts(machine=replace(HARDWARE, has_collector=True, virtual="KVM")))["advice"]
    assert not advice, "the memory of a guest is another machine's to count"


def test_drivers_that_fit_are_found_as_udev_would(roots: Path) -> None:
    put(
        roots / "modules/6.1.0/modules.alias",
        "# a comment\n"
        "alias pci:v00008086d00000158sv*sd*bc*sc*i* ie31200_edac\n"
        "alias cpu:type:x86,ven0002fam0019mod*:feature:* amd64_edac\n"
        "alias pci:v00008086d00001234sv*sd*bc*sc*i* e1000e\n",
    )
    put(roots / "sys/bus/pci/devices/0000:00:00.0/modalias", "pci:v00008086d00000158sv00001AF4sd00001100bc06sc00i00\n")
    put(roots / "sys/devices/system/cpu/modalias", "cpu:type:x86,ven0002fam0017mod0031:feature:,0000\n")
    assert look(roots).drivers == ("ie31200_edac",) and look(roots).loaded == ()
    (roots / "sys/module/ie31200_edac").mkdir(parents=True)
    assert look(roots).loaded == ("ie31200_edac",)
    put(roots / "sys/firmware/acpi/tables/HEST", "")
    assert look(roots).is_firmware_first and not look(roots).options


def test_a_driver_built_into_the_kernel_is_loaded(roots: Path) -> None:
    put(
        roots / "modules/6.1.0/modules.builtin.modinfo",
        "amd64_edac.license=GPL\0amd64_edac.alias=cpu:type:x86,ven0002fam0019mod*:feature:*\0libahci.alias=cpu:*\0",
    )
    put(roots / "sys/devices/system/cpu/modalias", "cpu:type:x86,ven0002fam0019mod0001:feature:,0000\n")
    assert look(roots).drivers == look(roots).loaded == ("amd64_edac",)


def test_the_check_interval(roots: Path) -> None:
    assert machine.check_interval_s(roots / "sys") is None
    put(roots / "sys/devices/system/machinecheck/machinecheck0/check_interval", "300\n")
    assert machine.check_interval_s(roots / "sys") == 300


# --- the command -----------------------------------------------------------------------------------------------------


def doctor(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flipwatch", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def host(roots: Path) -> Iterator[Daemon]:
    """A physical host over a tree, its agent not started."""
    yield Daemon(roots, settings={"proc": str(roots / "proc")})


def test_a_blind_host_fails_and_a_seeing_one_does_not(host: Daemon) -> None:
    config = str(host.write_config())
    shown = doctor("--config", config)
    assert shown.returncode == 1 and "ECC-BLIND" in shown.stdout and not shown.stderr
    controller(host.root / "sys").create()
    write(host.root / "sys", table(memory_device("label of dimm0", serial="S1", part="P1")))
    shown = doctor("--config", config)
    assert shown.returncode == 0 and "Memory errors are seen" in shown.stdout and not shown.stderr
    (row,) = [row for row in json.loads(doctor("--json", "--config", config).stdout)["memory"] if row.get("serial")]
    assert row["devices"] == ["mc0/channel0/slot0"] and row["slot"] == "label of dimm0"


def test_it_reads_the_journal_beside_the_running_agent(host: Daemon) -> None:
    mc = controller(host.root / "sys").create()
    with host as agent:
        mc.inject("dimm0", 3)
        eventually(lambda: len(agent.faults()[1]) == 1)
        report = json.loads(doctor("--json", "--config", str(host.root / "agent.toml")).stdout)
        assert report["journals"]["memory"]["faults"] == 1
        assert report["journals"]["memory"]["written_s_ago"] is not None
        assert sum(row["errors"].get("corrected", 0) for row in report["memory"]) == 3
        assert agent.faults()[1], "the agent goes on"


def test_a_large_canary_is_only_looked_at(host: Daemon) -> None:
    """A terabyte can't be locked here; the doctor says whether a little can."""
    host.settings["canary_mib"] = 1 << 20
    controller(host.root / "sys").create()
    report = json.loads(doctor("--json", "--config", str(host.write_config())).stdout)
    (canary,) = [witness for witness in report["witnesses"] if witness["name"] == "canary"]
    assert canary == {"name": "canary", "state": "live", "said": ["canary devices: 1"]}


def test_a_witness_with_a_defect_hides_no_other(
    host: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def defective(_settings: AgentSettings, _cursor: dict, _now: Moment) -> Poll:
        raise KeyError("what nobody foresaw")

    monkeypatch.setitem(SOURCES, "rasdaemon", replace(SOURCES["rasdaemon"], poll=defective))
    controller(host.root / "sys").create()
    with pytest.raises(SystemExit):
        commands.doctor.main(["--json", "--config", str(host.write_config())])
    witnesses = {witness["name"]: witness for witness in json.loads(capsys.readouterr().out)["witnesses"]}
    assert witnesses["edac"]["state"] == "live" and witnesses["rasdaemon"]["state"] == "in trouble"
    (said,) = witnesses["rasdaemon"]["said"]
    assert "please report it: test_doctor.py, line" in said and "KeyError" in said


def test_trouble_is_one_sentence(host: Daemon) -> None:
    assert doctor("--config", "/nowhere/agent.toml").returncode == 2
    (host.root / "proc/sys/kernel/random/boot_id").unlink()
    shown = doctor("--config", str(host.write_config()))
    assert shown.returncode == 2 and "boot_id" in shown.stderr and "Traceback" not in shown.stderr


def test_without_a_configuration_it_looks_at_this_host() -> None:
    shown = doctor("--json")
    assert shown.returncode in (0, 1) and not shown.stderr
    assert json.loads(shown.stdout)["machine"]["kernel"] == os.uname().release
