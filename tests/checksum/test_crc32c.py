"""CRC-32C against the vectors of RFC 3720, its Python twin, and crcmod."""

import random
import subprocess
import sys
from collections.abc import Callable

import crcmod.predefined
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checksum import _crc32c, crc32c

KERNELS = [_crc32c.crc32c, _crc32c.crc32c_table, crc32c.reference]
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
WORDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("data", "expected"), crc32c.VECTORS)
def test_vectors_of_rfc_3720(kernel: Callable[..., int], data: bytes, expected: int) -> None:
    assert kernel(data) == expected


@pytest.mark.parametrize("kernel", KERNELS[:2])
def test_kernels_agree_with_twin_and_crcmod(kernel: Callable[..., int]) -> None:
    rng = random.Random(3720)
    independent = crcmod.predefined.mkCrcFun("crc-32c")
    pool = rng.randbytes(6000)
    lengths = [*range(64), *range(376, 393), *range(760, 780), *(rng.randrange(5000) for _ in range(60))]
    for length in lengths:
        begin, crc = rng.randrange(64), rng.getrandbits(32)
        data = memoryview(pool)[begin : begin + length]
        assert kernel(data, crc) == crc32c.reference(data, crc)
        assert kernel(data) == independent(bytes(data))


@UNHURRIED
@given(st.binary(max_size=2000), st.integers(0, 2000), WORDS)
def test_a_checksum_goes_on_from_any_cut(data: bytes, at: int, crc: int) -> None:
    for kernel in KERNELS:
        assert kernel(data[at:], kernel(data[:at], crc)) == kernel(data, crc)


def test_every_buffer_gives_the_same() -> None:
    data = bytes(range(256)) * 40  # long enough that the interpreter's lock is released
    for buffer in (data, bytearray(data), memoryview(data)):
        for kernel in KERNELS:
            assert kernel(buffer) == crc32c.reference(data)
    with pytest.raises(BufferError):
        _crc32c.crc32c(memoryview(data)[::2])


@pytest.mark.parametrize("kernel", KERNELS)
def test_senseless_arguments_are_refused(kernel: Callable[..., int]) -> None:
    for crc in (-1, 2**32, 2**64):
        with pytest.raises(ValueError, match="32-bit word"):
            kernel(b"", crc)
    with pytest.raises(TypeError):
        kernel("text")
    with pytest.raises(TypeError):
        kernel()


@UNHURRIED
@given(WORDS)
def test_mask_and_unmask(crc: int) -> None:
    assert crc32c.unmask(crc32c.mask(crc)) == crc
    assert crc32c.mask(crc) != crc


def test_mask_by_its_definition() -> None:
    # leveldb util/crc32c.h: rotate right by 15 bits, then add 0xa282ead8; test_leveldb_log.py reads LevelDB's own files
    assert crc32c.mask(0) == 0xA282EAD8
    assert crc32c.mask(1 << 15) == 0xA282EAD9
    assert crc32c.mask(1) == 0xA282EAD8 + (1 << 17)


@UNHURRIED
@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_flipped_bit_is_the_exponent_of_its_syndrome(data: bytes, draw: st.DataObject) -> None:
    byte, bit = draw.draw(st.integers(0, len(data) - 1)), draw.draw(st.integers(0, 7))
    damaged = bytearray(data)
    damaged[byte] ^= 1 << bit
    syndrome = crc32c.crc32c(data) ^ crc32c.crc32c(damaged)
    exponent = 32 + 8 * (len(data) - 1 - byte) + 7 - bit
    for locate in (crc32c.locate_exponent, crc32c.reference_locate_exponent):
        assert locate(syndrome, 32 + 8 * len(data)) == exponent
        assert locate(syndrome, exponent + 1) == exponent
        assert locate(syndrome, exponent) == -1


def test_no_exponent() -> None:
    for locate in (crc32c.locate_exponent, crc32c.reference_locate_exponent):
        assert locate(0, 10_000) == -1  # no power of x is zero
        assert locate(1, 0) == -1
        assert locate(1 << 31, 1) == 0
        with pytest.raises(ValueError, match="32-bit word"):
            locate(2**32, 10)


def test_the_extension_is_what_runs_here() -> None:
    assert crc32c.implementation() in ("sse4.2", "table")
    assert crc32c.crc32c is _crc32c.crc32c


def _import_with(setup: str) -> str:
    show = "print(crc32c.implementation(), crc32c.crc32c(b'123456789'))"
    program = f"import sys, types\n{setup}\nfrom checksum import crc32c\n{show}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_an_extension_that_computes_wrongly_is_not_used() -> None:
    wrong = (
        "from checksum import _crc32c as real\n"
        "liar = types.SimpleNamespace(KERNEL='liar', locate_exponent=real.locate_exponent,"
        " crc32c=lambda data, crc=0: real.crc32c(data, crc) ^ (len(data) > 4000))\n"
        "sys.modules['checksum._crc32c'] = liar"
    )
    assert _import_with(wrong) == f"python {0xE3069283}"
    wrong_place = wrong.replace("locate_exponent=real.locate_exponent", "locate_exponent=lambda s, n: -1")
    wrong_place = wrong_place.replace("^ (len(data) > 4000)", "")
    assert _import_with(wrong_place) == f"python {0xE3069283}"


def test_without_the_extension_the_twin_runs() -> None:
    assert _import_with("sys.modules['checksum._crc32c'] = None") == f"python {0xE3069283}"
