"""CRC-32C, the checksum of LevelDB, TFRecord, Kafka and iSCSI: in C where it could be built, else in Python.

Enters: any contiguous buffer. Leaves: a 32-bit checksum, or the exponent that tells which bit flipped. A C kernel is
used only if it gave the right answers for the vectors of RFC 3720 at import: a checksum that computes wrongly would
call every intact record corrupt. `kernels()` lists those that did, `use` chooses one, `implementation()` says which
runs, `computing_by` lets one thread compare another.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

Buffer = bytes | bytearray | memoryview

CRC32C, ZLIB_CRC32 = 0x82F63B78, 0xEDB88320  # polynomials; reflected: the most significant bit is that of x^0
_X_TO_THE_0 = 0x80000000
_CRC_BITS = 32
_WORD = 0xFFFFFFFF
_PYTHON = "python"  # the name of the twin among the kernels
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
# An exponent beyond the first giant step of the search in C, and that power of x; a test recomputes it.
_FAR_EXPONENT = 1_000_003
_FAR_POWER = 0x2EB30512


def _step(state: int, polynomial: int = CRC32C) -> int:
    """The reflected state times x, modulo the polynomial."""
    return (state >> 1) ^ (polynomial if state & 1 else 0)


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


def reference_locate_exponent(syndrome: int, bits_max: int, polynomial: int = CRC32C) -> int:
    """The d below `bits_max` with x^d = syndrome, by stepping through the powers of x; -1 if there is none."""
    _check_word(syndrome)
    power = _X_TO_THE_0
    for exponent in range(bits_max):
        if power == syndrome:
            return exponent
        power = _step(power, polynomial)
    return -1


def reference_zeros_end(data: Buffer, position: int) -> int:
    """Where the zeros end that begin at `position`; there, if none do."""
    rest = bytes(memoryview(data)[position:])
    return position + len(rest) - len(rest.lstrip(b"\0"))


def _check_word(word: int) -> None:
    if not 0 <= word <= _WORD:
        raise ValueError("a 32-bit word must be 0 to 2**32 - 1")


def _computes_rightly(crc: Callable[..., int]) -> bool:
    """Whether it gives the checksums of RFC 3720, in one piece and in two."""
    return crc(_LONG) == _LONG_CRC and all(
        crc(vector) == crc(vector[9:], crc(vector[:9])) == expected for vector, expected in VECTORS
    )


def _load_extension() -> tuple[Any, tuple[str, ...]]:
    """The C extension and those of its kernels that compute rightly, the fastest in use; else None and the twin."""
    try:
        extension = importlib.import_module("checksum._crc32c")
    except ImportError:
        return None, (_PYTHON,)
    right = tuple(name for name in extension.KERNELS if _computes_rightly(partial(extension.crc32c_with, name)))
    if not right:
        return None, (_PYTHON,)
    extension.use(right[0])
    return extension, right


extension, _kernels = _load_extension()

crc32c: Callable[..., int]
zeros_end: Callable[[Buffer, int], int]
if extension is None:
    crc32c, zeros_end = reference, reference_zeros_end
else:
    crc32c, zeros_end = extension.crc32c, extension.zeros_end


def locate_exponent(syndrome: int, bits_max: int, polynomial: int = CRC32C) -> int:
    """The d below `bits_max` with x^d = syndrome; -1 if there is none."""
    return _locator()(syndrome, bits_max, polynomial)


@lru_cache(maxsize=1)
def _locator() -> Callable[[int, int, int], int]:
    """The search in C, if it finds what it must. It is tried when first needed: its table takes half a mebibyte."""
    if extension is None or extension.locate_exponent(_FAR_POWER, _FAR_EXPONENT + 1) != _FAR_EXPONENT:
        return reference_locate_exponent
    search: Callable[[int, int, int], int] = extension.locate_exponent
    return search


def kernels() -> tuple[str, ...]:
    """What can compute here, the fastest first: of "avx512", "sse4.2", "armv8", "table" (C), or only "python"."""
    return _kernels


def implementation() -> str:
    """Which of `kernels()` computes in this thread; "python" is a thousand times slower than the slowest other."""
    return _PYTHON if extension is None else str(extension.implementation())


def use(kernel: str) -> None:
    """Lets the whole process compute by one of `kernels()`.

    Raises:
        ValueError: the processor hasn't got it, or it computes wrongly here.
    """
    _check_kernel(kernel)
    if extension is not None:
        extension.use(kernel)


def _check_kernel(kernel: str) -> None:
    if kernel not in _kernels:
        raise ValueError(f"no CRC-32C kernel '{kernel}' here; there are {', '.join(_kernels)}")


@contextmanager
def computing_by(kernel: str) -> Iterator[None]:
    """Within the block the calling thread, and no other, computes by one of `kernels()`.

    Raises:
        ValueError: the processor hasn't got it, or it computes wrongly here.
    """
    _check_kernel(kernel)
    if extension is None:  # there is only the twin
        yield
        return
    extension.use_here(kernel)
    try:
        yield
    finally:
        extension.use_here(None)


def computes_rightly(kernel: str) -> bool:
    """Whether one of `kernels()` still gives the checksums of RFC 3720, on the core that runs this."""
    return _computes_rightly(partial(compute, kernel))


def compute(kernel: str, data: Buffer, crc: int = 0) -> int:
    """The checksum by one of `kernels()` or by "python", whichever is in use: for comparing them."""
    if kernel == _PYTHON:
        return reference(data, crc)
    computed: int = extension.crc32c_with(kernel, data, crc)
    return computed


def mask(crc: int) -> int:
    """The form in which LevelDB and TFRecord store a checksum, so that data holding checksums stays well mixed."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _WORD


def unmask(masked: int) -> int:
    """The checksum behind its stored form."""
    rotated = (masked - _MASK_DELTA) & _WORD
    return ((rotated >> 17) | (rotated << 15)) & _WORD
