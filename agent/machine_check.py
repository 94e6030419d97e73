"""What a machine-check bank says: MCi_STATUS, with MCi_ADDR and MCi_MISC, decoded.

Enters: the registers of one bank as a trace event or a log line shows them. Leaves: a MachineCheck. Sources: Intel SDM
volume 3B, 15.3.2 (the registers) and 15.9 (the error codes); AMD64 APM volume 2, chapter 9; for the banks of AMD's
memory controllers the Processor Programming References. Where both makers define an error code they agree.

    63   62   61 60 59    58    57   52:38 (Intel)            46   45   44       43      20:16 (AMD)    15:0
    VAL OVER UC EN MISCV ADDRV PCC  corrected error count    CECC UECC Deferred Poison  extended code  error code
"""

from dataclasses import dataclass

INTEL, AMD, HYGON, ZHAOXIN = "GenuineIntel", "AuthenticAMD", "HygonGenuine", "  Shanghai  "
VENDORS = {0: INTEL, 2: AMD, 9: HYGON, 10: ZHAOXIN}  # as the kernel numbers them (cpuvendor, "PROCESSOR 2:60fb1")

OVER = 1 << 62
UC = 1 << 61
MISCV = 1 << 59
ADDRV = 1 << 58
PCC = 1 << 57
SIGNALLED, ACTION_REQUIRED = 1 << 56, 1 << 55  # Intel, where the processor can recover
DEFERRED = 1 << 44  # AMD: found in memory or on its way, not yet consumed
POISON = 1 << 43  # AMD: what had been found before was consumed
CONSUMED = UC | SIGNALLED | ACTION_REQUIRED  # Intel, with one of these codes: a load, an instruction fetch
CONSUMED_CODES = (0x0134, 0x0150)  # SDM 3B, 15.9.3.2

CAN_COUNT, CAN_RECOVER = 1 << 10, 1 << 24  # MCG_CAP: CMCI_P, SER_P
COUNT_SHIFT = 38
COUNT_MASK = (1 << 14) - 1
COUNT_OVERFLOW = 1 << 52  # sticky: the counter before it ran over
MISC_LSB_MASK = 0x3F  # the lowest bit of the address that is known
MISC_MODE_SHIFT, MISC_MODE_MASK, MISC_MODE_PHYSICAL = 6, 7, 2
NORTHBRIDGE_BANK, NORTHBRIDGE_DRAM_ECC = 4, 8  # AMD before scalable MCA: bank and extended code
BANK_FIRMWARE = 255  # no bank: an error that firmware reported, which the kernel passes on as a machine check
UMC_TYPES, UMC_DRAM_ECC = ((0x96, 0), (0x96, 1)), 0  # scalable MCA: IPID[43:32] and [63:48]; extended code
IPID_OF_UMC = 0x96 << 32  # of a memory controller whose IPID isn't known otherwise

# error code & mask == value; bit 12 only says that corrected errors are filtered
KINDS = (
    (0xEF80, 0x0080, "memory"),  # 000F 0000 1MMM CCCC
    (0xEF80, 0x0280, "memory"),  # 000F 0010 1MMM CCCC, memory that serves as a cache of other memory
    (0xEF00, 0x0100, "cache"),  # 000F 0001 RRRR TTLL
    (0xEFFC, 0x000C, "cache"),  # 000F 0000 0000 11LL
    (0xEFF0, 0x0010, "tlb"),  # 000F 0000 0001 TTLL
    (0xE800, 0x0800, "bus"),  # 000F 1PPT RRRR IILL
    (0xEC00, 0x0400, "internal"),  # 0000 01xx xxxx xxxx
    (0xEFF8, 0x0000, "internal"),  # simple codes: unclassified, microcode ROM, external, FRC, parity, SMM
)
# Everything else is the core's. Poison is an error of memory that a core came upon: its cache is sound.
POISONED = "poison"
STREAM_OF = {"memory": "dram", POISONED: "dram", "cache": "sram", "tlb": "sram"}


@dataclass(frozen=True, slots=True)
class MachineCheck:
    """One bank's error. `count` is how many errors it stands for, a floor where `is_floor`."""

    severity: str  # "corrected", "deferred", "uncorrected"; "fatal": the processor's context is corrupt
    stream: str  # "dram", "sram" or "core"
    kind: str  # "memory", "poison", "cache", "tlb", "bus", "internal" or "unknown"
    count: int
    is_floor: bool
    is_address_valid: bool  # there is one, and it is one of physical memory
    address: int | None  # without the bits that the processor doesn't know
    error_code: int  # MCi_STATUS[15:0]


def decode(
    status: int,
    *,
    addr: int = 0,
    misc: int = 0,
    vendor: str = "",
    bank: int | None = None,
    ipid: int = 0,
    mcgcap: int | None = None,
) -> MachineCheck:
    """What `status` says.

    `vendor` is as /proc/cpuinfo has it; without it no bit that one maker defined is read. `ipid` is AMD's MCA_IPID,
    `mcgcap` the register that tells which bits a processor has: logs leave it out, and then all are believed.
    """
    is_amd = vendor in (AMD, HYGON)
    is_umc = is_amd and (ipid >> 32 & 0xFFF, ipid >> 48 & 0xFFFF) in UMC_TYPES
    kind = POISONED if _is_consumed(status, vendor) else _kind(status, is_amd, is_umc, bank)
    is_address_valid = bool(status & ADDRV and addr) and not is_umc and _is_physical(status, misc, vendor)
    return MachineCheck(
        severity=_severity(status, vendor, mcgcap),
        stream=STREAM_OF.get(kind, "core"),
        kind=kind,
        count=_count(status, vendor, mcgcap),
        is_floor=bool(status & OVER) or (vendor == INTEL and not status & UC and bool(status & COUNT_OVERFLOW)),
        is_address_valid=is_address_valid,
        address=_known_bits(status, addr, misc, vendor) if is_address_valid else None,
        error_code=status & 0xFFFF,
    )


def device_name(check: MachineCheck, socket: int | None, cpu: int, bank: int) -> str:
    """What erred: memory is the socket's, everything else a processor's. `socket` is None where nobody tells it.

    Poison may come from the memory of any socket.
    """
    if check.kind == POISONED:
        return "memory/unknown"
    if socket is None:
        return f"cpu{cpu}/bank{bank}"
    return f"socket{socket}/{'' if check.stream == 'dram' else f'cpu{cpu}/'}bank{bank}"


def _is_consumed(status: int, vendor: str) -> bool:
    """The memory's own bank, or the cache's through which it was written, may have told of it before or at once."""
    if vendor in (AMD, HYGON):
        return status & (UC | POISON) == UC | POISON
    is_signalled = vendor == INTEL and status & (CONSUMED | PCC) == CONSUMED
    return is_signalled and status & 0xEFFF in CONSUMED_CODES


def _kind(status: int, is_amd: bool, is_umc: bool, bank: int | None) -> str:
    extended_code = status >> 16 & 0x1F
    if is_umc:  # its other errors are of the controller and its links, not of the DRAM
        return "memory" if extended_code == UMC_DRAM_ECC else "bus"
    if is_amd and bank == NORTHBRIDGE_BANK and extended_code == NORTHBRIDGE_DRAM_ECC:
        return "memory"
    code = status & 0xFFFF
    return next((kind for mask, value, kind in KINDS if code and code & mask == value), "unknown")


def _severity(status: int, vendor: str, mcgcap: int | None) -> str:
    if not status & UC:
        return "deferred" if vendor in (AMD, HYGON) and status & DEFERRED else "corrected"
    if status & PCC:
        return "fatal"
    can_recover = vendor == INTEL and mcgcap is not None and mcgcap & CAN_RECOVER
    return "deferred" if can_recover and not status & (SIGNALLED | ACTION_REQUIRED) else "uncorrected"


def _count(status: int, vendor: str, mcgcap: int | None) -> int:
    """Intel's banks count corrected errors until they are cleared; the kernel clears a bank when it logs it."""
    if vendor != INTEL or status & UC or not (mcgcap is None or mcgcap & CAN_COUNT):
        return 1
    return max(1, status >> COUNT_SHIFT & COUNT_MASK)


def _is_physical(status: int, misc: int, vendor: str) -> bool:
    """Intel says in MISC how its address is meant; the address of AMD's memory controllers counts within a channel."""
    if vendor == INTEL and status & MISCV:
        return misc >> MISC_MODE_SHIFT & MISC_MODE_MASK == MISC_MODE_PHYSICAL
    return True


def _known_bits(status: int, addr: int, misc: int, vendor: str) -> int:
    lowest = misc & MISC_LSB_MASK if vendor == INTEL and status & MISCV else 0
    return addr >> lowest << lowest
