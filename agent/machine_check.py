"""What a machine-check record says: which kind of part failed, how badly, how often.

Enters: the registers of one machine-check bank as the kernel records them. Leaves: a MachineCheck. Pure. Sources:
Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3B, "Interpreting Machine-Check Error Codes"
(compound error codes, MCi_STATUS, corrected error count); AMD64 Architecture Programmer's Manual, volume 2, "Machine
Check Architecture" (deferred and poison bits, MCA_IPID of scalable banks).
"""

from dataclasses import dataclass

UNCORRECTED, MISC_VALID, ADDRESS_VALID, CONTEXT_CORRUPT = 1 << 61, 1 << 59, 1 << 58, 1 << 57
SIGNALLED, ACTION_REQUIRED = 1 << 56, 1 << 55  # Intel, where the processor can recover
DEFERRED, POISON = 1 << 44, 1 << 43  # AMD
COUNT_SHIFT, COUNT_MASK = 38, 0x7FFF  # Intel: how many corrected errors the record stands for
CAN_INTERRUPT, CAN_RECOVER = 1 << 10, 1 << 24  # MCG_CAP: CMCI_P, SER_P
FILTERED = 1 << 12  # in a compound code: further reports of this place are suppressed
VENDORS_AMD = (2, 9)  # AMD and Hygon in the kernel's numbering
BANK_FIRMWARE = 255  # the kernel's own: a record that firmware reported, not a bank
UNIFIED_MEMORY_CONTROLLERS = ((0x96, 0), (0x96, 1))  # (hardware id, type) in MCA_IPID
PAGE_SHIFT = 12

# (mask, value, stream, what it is), the first match counts. Letters as in the manual: T, L, R, M, C, P, I vary.
CODES = (
    (0xFFFF, 0x0000, "core", "no code"),
    (0xFFFF, 0x0001, "core", "unclassified"),
    (0xFFFF, 0x0002, "sram", "microcode memory parity"),
    (0xFFFF, 0x0003, "core", "external error"),
    (0xFFFF, 0x0004, "core", "redundancy check"),
    (0xFFFF, 0x0005, "sram", "internal parity"),
    (0xFFFF, 0x0400, "core", "internal timer"),
    (0xFFFF, 0x0E0B, "core", "input or output"),
    (0xFFFC, 0x000C, "sram", "cache hierarchy"),  # 0000 0000 0000 11LL
    (0xFFF0, 0x0010, "sram", "translation buffer"),  # 0000 0000 0001 TTLL
    (0xFF80, 0x0080, "dram", "memory controller"),  # 0000 0000 1MMM CCCC
    (0xFF00, 0x0100, "sram", "cache"),  # 0000 0001 RRRR TTLL
    (0xFF80, 0x0280, "dram", "memory used as cache"),  # 0000 0010 1MMM CCCC
    (0xFC00, 0x0400, "core", "internal unclassified"),  # 0000 01xx xxxx xxxx
    (0xF800, 0x0800, "core", "bus or interconnect"),  # 0000 1PPT RRRR IILL
)


@dataclass(frozen=True, slots=True)
class MachineCheck:
    stream: str
    severity: str
    what: str
    count: int
    address: int | None  # physical, cut to what the processor knows of it
    is_interrupt: bool  # corrected errors are reported at once, not at the kernel's next look


def decode(
    *, status: int, addr: int, misc: int, ipid: int, mcgcap: int, bank: int, cpuvendor: int
) -> MachineCheck | None:
    """The record's meaning; None where MCi_STATUS holds no error code at all, as banks that only took part do."""
    if not status & 0xFFFFFFFF:
        return None
    stream, what = _kind(status, ipid, bank)
    severity = _severity(status, mcgcap, cpuvendor)
    can_count = mcgcap & CAN_INTERRUPT and cpuvendor not in VENDORS_AMD and severity == "corrected"
    return MachineCheck(
        stream=stream,
        severity=severity,
        what=what,
        count=max(1, status >> COUNT_SHIFT & COUNT_MASK) if can_count else 1,
        address=_address(status, addr, misc),
        is_interrupt=bool(mcgcap & CAN_INTERRUPT),
    )


def _kind(status: int, ipid: int, bank: int) -> tuple[str, str]:
    if (ipid >> 32 & 0xFFF, ipid >> 48 & 0xFFFF) in UNIFIED_MEMORY_CONTROLLERS:
        return "dram", "memory controller"
    if bank == BANK_FIRMWARE:
        return "dram", "reported by firmware"
    code = status & 0xFFFF & ~FILTERED
    for mask, value, stream, what in CODES:
        if code & mask == value:
            return stream, what
    return "core", f"code {code:#06x}"


def _severity(status: int, mcgcap: int, cpuvendor: int) -> str:
    if status & CONTEXT_CORRUPT:
        return "fatal"
    is_amd = cpuvendor in VENDORS_AMD
    if not status & UNCORRECTED:
        return "deferred" if is_amd and status & DEFERRED else "corrected"
    needs_nothing = mcgcap & CAN_RECOVER and not status & (SIGNALLED | ACTION_REQUIRED)
    return "deferred" if needs_nothing and not is_amd else "uncorrected"


def _address(status: int, addr: int, misc: int) -> int | None:
    if not status & ADDRESS_VALID:
        return None
    unknown_bits = misc & 0x3F if status & MISC_VALID else 0
    return addr >> unknown_bits << unknown_bits
