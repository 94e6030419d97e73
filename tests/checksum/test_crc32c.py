"""CRC-32C against the vectors of RFC 3720, its Python twin, and crcmod."""

import functools
import random
import subprocess
import sys
import zlib
from collections.abc import Callable

import crcmod.predefined
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checksum import _crc32c, crc32c

KERNELS = [functools.partial(crc32c.compute, name) for name in (*crc32c.kernels(), "python")]
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
WORDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("data", "expected"), crc32c.VECTORS)
def test_vectors_of_rfc_3720(kernel: Callable[..., int], data: bytes, expected: int) -> None:
    assert kernel(data) == expected


@pytest.mark.parametrize("kernel", KERNELS[:-1])
def test_kernels_agree_with_twin_and_crcmod(kernel: Callable[..., int]) -> None:
    rng = random.Random(3720)
    independent = crcmod.predefined.mkCrcFun("crc-32c")
    pool = rng.randbytes(6000)
    lengths = [*range(64), *range(250, 262), *range(316, 325), *range(376, 393), *range(507, 520), *range(760, 780)]
    for length in [*lengths, *(rng.randrange(5000) for _ in range(60))]:
        begin, crc = rng.randrange(64), rng.getrandbits(32)
        data = memoryview(pool)[begin : begin + length]
        assert kernel(data, crc) == crc32c.reference(data, crc)
        assert kernel(data) == independent(bytes(data))


def test_kernels_agree_with_each_other_at_any_length_and_alignment() -> None:
    rng = random.Random(512)
    pool = memoryview(rng.randbytes(100_000))
    for _ in range(3000):
        begin, crc = rng.randrange(200), rng.getrandbits(32)
        data = pool[begin : begin + rng.choice((rng.randrange(700), rng.randrange(5000), rng.randrange(90_000)))]
        assert len({crc32c.compute(name, data, crc) for name in crc32c.kernels()}) == 1
    data = pool[:66_000]
    assert {crc32c.compute(name, data) for name in crc32c.kernels()} == {crc32c.reference(data)}


def test_a_kernel_can_be_chosen() -> None:
    before = crc32c.implementation()
    try:
        for name in crc32c.kernels():
            crc32c.use(name)
            assert crc32c.implementation() == name
            assert crc32c.crc32c(b"123456789") == 0xE3069283
        with pytest.raises(ValueError, match="no CRC-32C kernel 'abacus' here; there are"):
            crc32c.use("abacus")
    finally:
        crc32c.use(before)
    with pytest.raises(ValueError, match="no CRC-32C kernel 'abacus'"):
        _crc32c.use("abacus")
    with pytest.raises(ValueError, match="no CRC-32C kernel 'abacus'"):
        _crc32c.use_here("abacus")
    with pytest.raises(TypeError):
        _crc32c.use_here(3)
    for wrong in ((), ("abacus", b"")):
        with pytest.raises((TypeError, ValueError)):
            _crc32c.crc32c_with(*wrong)


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


@pytest.mark.parametrize("polynomial", [crc32c.CRC32C, crc32c.ZLIB_CRC32])
def test_every_exponent_is_found(polynomial: int) -> None:
    power = 1 << 31
    for exponent in range(150_000):  # past four giant steps
        if exponent < 2000 or exponent % 97 == 0 or exponent % 2**15 in (0, 1, 2**15 - 1):
            assert crc32c.locate_exponent(power, exponent + 1, polynomial) == exponent
            assert crc32c.locate_exponent(power, exponent, polynomial) == -1
        power = (power >> 1) ^ (polynomial if power & 1 else 0)


@pytest.mark.parametrize(("polynomial", "order"), [(crc32c.CRC32C, 2**31 - 1), (crc32c.ZLIB_CRC32, 2**32 - 1)])
def test_exponents_end_where_the_powers_of_x_repeat(polynomial: int, order: int) -> None:
    last = (1 << 31 ^ polynomial) << 1 & 0xFFFFFFFF | 1  # 1/x, which is x^(order - 1)
    assert crc32c.locate_exponent(last, order, polynomial) == order - 1
    assert crc32c.locate_exponent(last, order - 1, polynomial) == -1
    assert crc32c.locate_exponent(0, 2**62, polynomial) == -1


def test_a_flip_of_zlibs_checksum_is_found() -> None:
    data = bytearray(random.Random(7).randbytes(70_000))
    intact = zlib.crc32(data)
    for byte, bit in ((0, 0), (69_999, 7), (12_345, 3)):
        data[byte] ^= 1 << bit
        syndrome = zlib.crc32(data) ^ intact
        data[byte] ^= 1 << bit
        expected = 32 + 8 * (len(data) - 1 - byte) + 7 - bit
        assert crc32c.locate_exponent(syndrome, 32 + 8 * len(data), crc32c.ZLIB_CRC32) == expected


def test_two_flips_are_never_taken_for_one() -> None:
    """The polynomial has the factor x + 1, so that every power of x has an odd number of terms modulo it."""
    rng = random.Random(8)
    data = bytearray(rng.randbytes(100_000))
    intact = crc32c.crc32c(data)
    for _ in range(2000):
        places = {(rng.randrange(len(data)), rng.randrange(8)) for _ in range(2)}
        for byte, bit in places:
            data[byte] ^= 1 << bit
        syndrome = crc32c.crc32c(data) ^ intact
        for byte, bit in places:
            data[byte] ^= 1 << bit
        assert len(places) == 1 or crc32c.locate_exponent(syndrome, 2**31 - 1) == -1


def test_no_exponent() -> None:
    for locate in (crc32c.locate_exponent, crc32c.reference_locate_exponent):
        assert locate(0, 10_000) == -1  # no power of x is zero
        assert locate(1, 0) == -1
        assert locate(1 << 31, 1) == 0
        with pytest.raises(ValueError, match="32-bit word"):
            locate(2**32, 10)
    with pytest.raises(ValueError, match="located for CRC-32C and zlib"):
        crc32c.locate_exponent(1, 10, 0x80000001)


def test_the_constants_of_the_self_test() -> None:
    assert crc32c.reference(crc32c._LONG) == crc32c._LONG_CRC
    assert crc32c.reference_locate_exponent(crc32c._FAR_POWER, crc32c._FAR_EXPONENT + 1) == crc32c._FAR_EXPONENT


def test_the_extension_is_what_runs_here() -> None:
    assert crc32c.implementation() == crc32c.kernels()[0] == _crc32c.KERNELS[0]
    assert crc32c.kernels() == _crc32c.KERNELS
    assert crc32c.crc32c is _crc32c.crc32c


def _import_with(setup: str) -> str:
    show = "print(crc32c.implementation(), crc32c.crc32c(b'123456789'))"
    program = f"import sys, types\n{setup}\nfrom checksum import crc32c\n{show}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


LIAR = """
from checksum import _crc32c as real
liar = types.SimpleNamespace(**{name: getattr(real, name) for name in dir(real)})
sys.modules['checksum._crc32c'] = liar
"""


def test_a_kernel_that_computes_wrongly_is_not_used() -> None:
    lie = "liar.crc32c_with = lambda name, data, crc=0: real.crc32c_with(name, data, crc) ^ (len(data) > 4000"
    first = _crc32c.KERNELS[0]
    others = [name for name in _crc32c.KERNELS if name != first] or ["python"]
    assert _import_with(f"{LIAR}{lie} and name == '{first}')") == f"{others[0]} {0xE3069283}"
    assert _import_with(f"{LIAR}{lie})") == f"python {0xE3069283}"


def test_a_search_that_finds_wrongly_is_not_used() -> None:
    lie = f"{LIAR}liar.locate_exponent = lambda syndrome, bits, polynomial=0: 32"
    show = "print(crc32c.locate_exponent(0x80000000 >> 5, 10), crc32c.locate_exponent(1, 10))"
    program = f"import sys, types\n{lie}\nfrom checksum import crc32c\n{show}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5", "-1"], "the twin searches"


def test_without_the_extension_the_twin_runs() -> None:
    assert _import_with("sys.modules['checksum._crc32c'] = None") == f"python {0xE3069283}"
