"""Firmware that reports errors itself: ACPI tables that Debian's kernels find, check and believe.

Enters: error status blocks. Leaves: the boot error region (BERT), in which one lies at every start, and a generic
hardware error source (HEST) that the kernel polls, into which one is put while the system runs. Layouts: ACPI
specification 6.5, 18.3.1 and 18.3.2.
"""

import struct
from pathlib import Path

from tests.kernel.guest import Guest

REGION_AT, REGION_BYTES = 0x28100000, 1 << 20
BERT_AT, POINTER_AT, BLOCK_AT, BLOCK_BYTES = REGION_AT, REGION_AT + 0x1000, REGION_AT + 0x2000, 1024
COMMAND_LINE = f"memmap={REGION_BYTES}${REGION_AT:#x}"  # the kernel leaves the region to the firmware
POLL_MS = 200
GENERIC_SOURCE, POLLED, SYSTEM_MEMORY = 9, 0, 0


def options(directory: Path, boot_error: bytes) -> tuple[str, ...]:
    """QEMU's options for a firmware that shows `boot_error` at every start, and polls for more."""
    bert = struct.pack("<IQ", BLOCK_BYTES, BERT_AT)
    address = struct.pack("<BBBBQ", SYSTEM_MEMORY, 64, 0, 4, POINTER_AT)
    notification = struct.pack("<BBHIIIIII", POLLED, 28, 0, POLL_MS, 0, 0, 0, 0, 0)
    source = struct.pack("<HHHBBIII", GENERIC_SOURCE, 1, 0xFFFF, 0, 1, 1, 1, BLOCK_BYTES) + address + notification
    hest = struct.pack("<I", 1) + source + struct.pack("<I", BLOCK_BYTES)
    files = {"bert": bert, "hest": hest, "region": boot_error, "pointer": struct.pack("<Q", BLOCK_AT)}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    tables = [f"sig={name.upper()},rev=1,data={directory / name}" for name in ("bert", "hest")]
    loads = {"region": BERT_AT, "pointer": POINTER_AT}
    devices = [f"loader,file={directory / name},addr={at:#x},force-raw=on" for name, at in loads.items()]
    return (*(word for table in tables for word in ("-acpitable", table)),
            *(word for device in devices for word in ("-device", device)))  # fmt: skip


def report(guest: Guest, block: bytes) -> None:
    """Reports the errors of a status block to the running kernel; its status is written last."""
    guest.write_memory(BLOCK_AT + 4, block[4:])
    guest.write_memory(BLOCK_AT, block[:4])
