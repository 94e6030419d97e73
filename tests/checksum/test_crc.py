"""Any CRC: the check values of catalogues, and the places of flipped bits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checksum.crc import CRC_32, CRC_32C, Crc

# from the catalogue of parametrised CRC algorithms by G. Cook: width, polynomial, init, reflected, xorout, check
CATALOGUE = {
    "CRC-8/SMBUS": (Crc(0x107, 0, 0, False), 0xF4),
    "CRC-16/IBM-3740": (Crc(0x11021, 0xFFFF, 0, False), 0x29B1),
    "CRC-16/ISO-IEC-14443-3-A": (Crc(0x11021, 0xC6C6, 0, True), 0xBF05),
    "CRC-16/ARC": (Crc(0x18005, 0, 0, True), 0xBB3D),
    "CRC-24/OPENPGP": (Crc(0x1864CFB, 0xB704CE, 0, False), 0x21CF02),
    "CRC-32/BZIP2": (Crc(0x104C11DB7, 0xFFFFFFFF, 0xFFFFFFFF, False), 0xFC891918),
    "CRC-32/ISO-HDLC": (CRC_32, 0xCBF43926),
    "CRC-32/ISCSI": (CRC_32C, 0xE3069283),
    "CRC-64/XZ": (Crc(0x142F0E1EBA9EA3693, 2**64 - 1, 2**64 - 1, True), 0x995DC9BBDF1939FA),
    "CRC-64/WE": (Crc(0x142F0E1EBA9EA3693, 2**64 - 1, 2**64 - 1, False), 0x62EC59E3F1A4F00A),
}
NAMES = {"crc-8": "CRC-8/SMBUS", "crc-ccitt-false": "CRC-16/IBM-3740", "crc-24": "CRC-24/OPENPGP"}
NAMES |= {"crc-32": "CRC-32/ISO-HDLC", "crc-32c": "CRC-32/ISCSI", "crc-64-we": "CRC-64/WE", "crc-16": "CRC-16/ARC"}


@pytest.mark.parametrize("name", CATALOGUE)
def test_check_values(name: str) -> None:
    crc, check = CATALOGUE[name]
    assert crc.check == check
    assert crc.compute(memoryview(b"0123456789")[4:], crc.compute(bytearray(b"123"))) == check


@pytest.mark.parametrize("name", NAMES)
def test_names_of_crcmod(name: str) -> None:
    assert Crc.named(name) == CATALOGUE[NAMES[name]][0]


def test_an_unknown_name() -> None:
    with pytest.raises(KeyError):
        Crc.named("crc-31")


@pytest.mark.parametrize("name", CATALOGUE)
@given(st.integers(1, 5000), st.integers(0, 2**32))
def test_the_flipped_bit_is_found_or_none_is_named(name: str, length: int, seed: int) -> None:
    crc, rng = CATALOGUE[name][0], random.Random(seed)
    data = bytearray(rng.randbytes(length))
    right = crc.compute(data)
    byte, bit = rng.randrange(length), rng.randrange(8)
    data[byte] ^= 1 << bit
    found = crc.place(right ^ crc.compute(data), length)
    assert found == ((byte, bit) if crc.is_telling(crc.width + 8 * length) else None)


@pytest.mark.parametrize("name", [name for name, (crc, _) in CATALOGUE.items() if crc.keeps_parity])
def test_two_flips_are_not_taken_for_one_where_the_parity_is_kept(name: str) -> None:
    crc, rng, named = CATALOGUE[name][0], random.Random(1), 0
    for _ in range(300):
        data = bytearray(100)
        right = crc.compute(data)
        for at in rng.sample(range(800), 2):
            data[at // 8] ^= 1 << at % 8
        named += crc.place(right ^ crc.compute(data), 100) is not None
    assert named == 0


def test_a_place_that_is_not_the_only_one_is_not_named() -> None:
    short = Crc((1 << 64) | 1, 0, 0, False)  # x^64 = 1: bits 64 apart look the same
    data = bytes(7) + b"\1"
    assert short.place(short.compute(data), 8) is None
    assert short.place(0, 8) is None
