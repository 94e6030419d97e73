"""CRC-32C, the checksum of LevelDB, TFRecord, Kafka and iSCSI: in C where it could be built, else in Python.

Enters: any contiguous buffer. Leaves: a 32-bit checksum, or the exponent that tells which bit flipped. The C extension
is used only if it gave the right answers for the vectors of RFC 3720 at import: a checksum that computes wrongly would
call every intact record corrupt. `implementation()` says what runs.
"""

import importlib
from collections.abc import Callable
from typing import Any

Buffer = bytes | bytearray | memoryview

_POLYNOMIAL = 0x82F63B78  # reflected: the most significant bit is the coefficient of x^0
_X_TO_THE_0 = 0x80000000
_CRC_BITS = 32
_WORD = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8  # leveldb util/crc32c.h

# RFC 3720 appendix B.4, and the check value that catalogues of CRCs give for "123456789"
VECTORS = (
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
)
# The same vectors again, long enough for every path of a kernel; the twin computed the answer, a test recomputes it.
_LONG = b"".join(vector for vector, _ in VECTORS) * 31
_LONG_CRC = 0x12EFF72A


def _step(state: int) -> int:
    """The reflected state times x, modulo the polynomial."""
    return (state >> 1) ^ (_POLYNOMIAL if state & 1 else 0)


def _byte_table() -> tuple[int, ...]:
    table = []
    for state in range(256):
        for _ in range(8):
            state = _step(state)
        table.append(state)
    return tuple(table)


_TABLE = _byte_table()


def reference(data: Buffer, crc: int = 0) -> int:
    """The checksum of `data`, byte by byte in Python: the twin that the C kernels are tested against."""
    _check_word(crc)
    state = crc ^ _WORD
    for byte in memoryview(data).cast("B"):
        state = (state >> 8) ^ _TABLE[(state ^ byte) & 0xFF]
    return state ^ _WORD


def reference_locate_exponent(syndrome: int, bits_max: int) -> int:
    """The d below `bits_max` with x^d = syndrome, by stepping through the powers of x; -1 if there is none."""
    _check_word(syndrome)
    power = _X_TO_THE_0
    for exponent in range(bits_max):
        if power == syndrome:
            return exponent
        power = _step(power)
    return -1


def _check_word(word: int) -> None:
    if not 0 <= word <= _WORD:
        raise ValueError("a 32-bit word must be 0 to 2**32 - 1")


def _computes_rightly(extension: Any) -> bool:
    """Whether the extension gives the checksums of RFC 3720, in one piece and in two, and a known exponent."""
    crc = extension.crc32c
    return (
        crc(_LONG) == _LONG_CRC
        and all(crc(vector) == crc(vector[9:], crc(vector[:9])) == expected for vector, expected in VECTORS)
        and extension.locate_exponent(_POLYNOMIAL, 64) == _CRC_BITS  # x^32 modulo the polynomial is the polynomial
    )


def _load_extension() -> Any:
    """The C extension, or None if it isn't built, can't be loaded here or computes wrongly."""
    try:
        extension = importlib.import_module("checksum._crc32c")
    except ImportError:
        return None
    return extension if _computes_rightly(extension) else None


extension = _load_extension()

crc32c: Callable[..., int]
locate_exponent: Callable[[int, int], int]
if extension is None:
    crc32c, locate_exponent = reference, reference_locate_exponent
else:
    crc32c, locate_exponent = extension.crc32c, extension.locate_exponent


def implementation() -> str:
    """What computes: "sse4.2" or "table" (both C), or "python", which is a thousand times slower."""
    return "python" if extension is None else str(extension.KERNEL)


def mask(crc: int) -> int:
    """The form in which LevelDB and TFRecord store a checksum, so that data holding checksums stays well mixed."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _WORD


def unmask(masked: int) -> int:
    """The checksum behind its stored form."""
    rotated = (masked - _MASK_DELTA) & _WORD
    return ((rotated >> 17) | (rotated << 15)) & _WORD
