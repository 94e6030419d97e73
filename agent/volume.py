"""What the layers below a file system say of their own errors: the context of a corrupt record.

Enters: where sysfs is mounted and the device of a volume, as `device_of` names it. Leaves: counts of btrfs, md and
NVMe, read when a record is found corrupt; what isn't there, or may not be asked, is left out. They are no faults:
nobody knows when they happened. Formats: btrfs_dev_stats_show in fs/btrfs/sysfs.c and Documentation/admin-guide/md.rst
of the Linux kernel; for NVMe the log page "SMART / Health Information" (NVM Express Base Specification 2.0, 5.16.1.3)
and linux/nvme_ioctl.h.
"""

import ctypes
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.kernel_files import text
from agent.mounts import mount_of, numbers

LAYERS_MAX = 64  # a file system over mirrors over partitions has half a dozen
NVME_IOCTL_ADMIN_CMD = 0xC0484E41
NVME_GET_LOG_PAGE, NVME_SMART_LOG, NVME_ALL_NAMESPACES = 2, 2, 0xFFFFFFFF
NVME_SMART_BYTES, NVME_PATIENCE_MS = 512, 1000
MEDIA_ERRORS, ERROR_LOG_ENTRIES, PERCENT_USED = slice(160, 176), slice(176, 192), 5  # in the log page, little endian


def device_of(proc: Path, number: int) -> str:
    """The device that holds a file (its st_dev), by the mount table; its numbers where the table doesn't name it."""
    mount = mount_of(proc / "self/mountinfo", number)
    return (mount and mount.source) or numbers(number)


def errors(sysfs: Path, device: str, dev: Path = Path("/dev")) -> dict[str, Any]:
    """{"btrfs": {"corruption_errs": 3, ..}, "md": {"md0": {"mismatch_cnt": 128}}, "nvme": {"nvme0n1": {..}}}.

    Of btrfs the sum over the devices of the file system, of md sectors that its last check found to differ.
    """
    names = list(_layers(sysfs, Path(os.path.realpath(device)).name))
    found = {
        "btrfs": _btrfs(sysfs, names),
        "md": {name: {"mismatch_cnt": count} for name in names if (count := _mismatches(sysfs, name)) is not None},
        "nvme": {name: log for name in names if name.startswith("nvme") and (log := _smart_log(dev / name))},
    }
    return {layer: counts for layer, counts in found.items() if counts}


def _layers(sysfs: Path, name: str) -> Iterator[str]:
    """The block device, and those that it is made of: the disk of a partition, the members of a mirror."""
    waiting, seen = [name], set[str]()
    while waiting and len(seen) < LAYERS_MAX:
        name = waiting.pop(0)
        directory = sysfs / "class/block" / name
        if name in seen or not directory.is_dir():
            continue
        seen.add(name)
        yield name
        if (directory / "partition").exists():
            waiting.append(directory.resolve().parent.name)
        waiting += sorted(entry.name for entry in directory.glob("slaves/*"))


def _btrfs(sysfs: Path, names: list[str]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for filesystem in (sysfs / "fs/btrfs").glob("*-*-*-*-*"):
        if not names or not (filesystem / "devices" / names[0]).exists():
            continue
        for file in sorted(filesystem.glob("devinfo/*/error_stats")):
            for kind, count in re.findall(r"^(\w{1,32}_errs) (\d{1,18})$", text(file), re.M):
                sums[kind] = sums.get(kind, 0) + int(count)
    return sums


def _mismatches(sysfs: Path, name: str) -> int | None:
    count = text(sysfs / "class/block" / name / "md/mismatch_cnt").strip()
    return int(count) if re.fullmatch(r"\d{1,18}", count) else None


class _AdminCommand(ctypes.Structure):
    """struct nvme_passthru_cmd."""

    _fields_ = [
        ("opcode", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("reserved", ctypes.c_uint16),
        ("nsid", ctypes.c_uint32),
        ("cdw2", ctypes.c_uint32),
        ("cdw3", ctypes.c_uint32),
        ("metadata", ctypes.c_uint64),
        ("addr", ctypes.c_uint64),
        ("metadata_len", ctypes.c_uint32),
        ("data_len", ctypes.c_uint32),
        ("cdw10", ctypes.c_uint32),
        ("cdw11", ctypes.c_uint32),
        ("cdw12", ctypes.c_uint32),
        ("cdw13", ctypes.c_uint32),
        ("cdw14", ctypes.c_uint32),
        ("cdw15", ctypes.c_uint32),
        ("timeout_ms", ctypes.c_uint32),
        ("result", ctypes.c_uint32),
    ]


def _smart_log(device: Path) -> dict[str, int]:
    """What the drive says of its own medium; nothing unless this process may ask (CAP_SYS_ADMIN)."""
    page = (ctypes.c_uint8 * NVME_SMART_BYTES)()
    command = _AdminCommand(
        opcode=NVME_GET_LOG_PAGE,
        nsid=NVME_ALL_NAMESPACES,
        addr=ctypes.addressof(page),
        data_len=NVME_SMART_BYTES,
        cdw10=(NVME_SMART_BYTES // 4 - 1) << 16 | NVME_SMART_LOG,
        timeout_ms=NVME_PATIENCE_MS,
    )
    try:
        fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = fcntl.ioctl(fd, NVME_IOCTL_ADMIN_CMD, command)
        finally:
            os.close(fd)
    except OSError:
        return {}
    if status:
        return {}
    return {
        "media_errors": int.from_bytes(bytes(page)[MEDIA_ERRORS], "little"),
        "error_log_entries": int.from_bytes(bytes(page)[ERROR_LOG_ENTRIES], "little"),
        "percent_used": page[PERCENT_USED],
    }
