"""Any CRC, by its parameters: computed in the fastest way there is, and which bit flipped.

Enters: the parameters, as catalogues of CRCs give them, or a name that crcmod knows. Leaves: a checksum of any
contiguous buffer, or the place of the flipped bit that explains a mismatch.
"""

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import crcmod.predefined

from checksum.crc32c import CRC32C, ZLIB_CRC32, crc32c, locate_exponent

WIDTHS = (8, 16, 24, 32, 64)  # in bits, that crcmod computes
_CHECK_OF = b"123456789"  # whose checksum catalogues give, as "check"
_CASES = 64  # garbage may look like a flipped bit in one of so many
_BABY_STEPS = 4096


def reversed_bits(word: int, width: int) -> int:
    """The word of `width` bits with its first bit last."""
    return int(f"{word:0{width}b}"[::-1], 2)


@dataclass(frozen=True)
class Crc:
    """The model of R. Williams, "A painless guide to CRC error detection algorithms" (1993).

    `polynomial` has its highest bit, so that it also tells the width; `initial` is what the register holds at first.
    """

    polynomial: int
    initial: int
    xor_out: int
    reflected: bool

    @classmethod
    def named(cls, name: str) -> "Crc":
        """The CRC that `crcmod.predefined` has under that name.

        Raises:
            KeyError: there is none.
        """
        known = crcmod.predefined.PredefinedCrc(name)
        width = known.poly.bit_length() - 1
        register = known.initCrc ^ known.xorOut  # crcmod's initCrc is the checksum of nothing
        initial = reversed_bits(register, width) if known.reverse else register
        return cls(known.poly, initial, known.xorOut, known.reverse)

    @property
    def width(self) -> int:
        """In bits."""
        return self.polynomial.bit_length() - 1

    @property
    def reflected_polynomial(self) -> int:
        """Without its highest bit, that of x^0 first: how programs hold it that shift to the right."""
        return reversed_bits(self.polynomial & ~(1 << self.width), self.width)

    @property
    def register(self) -> int:
        """What the shift register holds before the first byte."""
        return reversed_bits(self.initial, self.width) if self.reflected else self.initial

    @property
    def check(self) -> int:
        """The checksum of the nine bytes "123456789"."""
        return self.compute(_CHECK_OF)

    @cached_property
    def compute(self) -> Callable[..., int]:
        """The function (buffer) or (buffer, checksum of what came before it) -> checksum."""
        if self == CRC_32C:
            return crc32c
        if self == CRC_32:
            return zlib.crc32
        function: Callable[..., int] = crcmod.mkCrcFun(
            self.polynomial, initCrc=self.register ^ self.xor_out, rev=self.reflected, xorOut=self.xor_out
        )
        return function

    @property
    def is_slow(self) -> bool:
        """Whether it is computed by crcmod without a compiler's help."""
        return self not in (CRC_32C, CRC_32) and not sys.modules["crcmod.crcmod"]._usingExtension

    @property
    def keeps_parity(self) -> bool:
        """Whether x + 1 divides the polynomial: then no even number of flips looks like an odd one."""
        return self.polynomial.bit_count() % 2 == 0

    def is_telling(self, bits: int) -> bool:
        """Whether garbage looks like a flip of one among so many bits rarely enough to name the bit."""
        return bits * _CASES <= 1 << self.width

    def place(self, syndrome: int, length: int) -> tuple[int, int] | None:
        """Byte and bit among `length` bytes whose flip changes their checksum by `syndrome`.

        None if there is none or there are several, or if the stretch is too long to tell.
        """
        bits = self.width + 8 * length
        if not syndrome or not self.is_telling(bits):
            return None
        if self.reflected and self.reflected_polynomial in (CRC32C, ZLIB_CRC32):
            exponent = locate_exponent(syndrome, bits, self.reflected_polynomial)
        else:
            exponent = self._powers.exponent(reversed_bits(syndrome, self.width) if self.reflected else syndrome, bits)
        if exponent < self.width:
            return None
        byte_from_end, bit = divmod(exponent - self.width, 8)
        return length - 1 - byte_from_end, 7 - bit if self.reflected else bit

    @cached_property
    def _powers(self) -> "_Powers":
        return _Powers(self.polynomial)


class _Powers:
    """The powers of x modulo a polynomial, for discrete logarithms by baby steps and giant steps (D. Shanks, 1971)."""

    def __init__(self, polynomial: int) -> None:
        self._width = polynomial.bit_length() - 1
        self._exponents: dict[int, int] = {}
        power = 1
        while power not in self._exponents and len(self._exponents) < _BABY_STEPS:
            self._exponents[power] = len(self._exponents)
            power = self._times_x(power, polynomial)
        back = 1
        for _ in self._exponents:
            back = (back ^ polynomial if back & 1 else back) >> 1  # the polynomial's lowest bit is set
        self._back = [self._byte_table(back, 8 * byte, polynomial) for byte in range(self._width // 8)]

    def _times_x(self, word: int, polynomial: int) -> int:
        word <<= 1
        return word ^ polynomial if word >> self._width else word

    def _byte_table(self, factor: int, shift: int, polynomial: int) -> list[int]:
        """Each value of a byte, `shift` bits from the lowest, times `factor`."""
        for _ in range(shift):
            factor = self._times_x(factor, polynomial)
        table = [0]
        for _ in range(8):
            table += [word ^ factor for word in table]
            factor = self._times_x(factor, polynomial)
        return table

    def exponent(self, power: int, bits_max: int) -> int:
        """The d below `bits_max` with x^d = `power`; -1 if there is none, or more than one."""
        found = []
        for base in range(0, bits_max, len(self._exponents)):
            baby = self._exponents.get(power, bits_max)
            if base + baby < bits_max:
                found.append(base + baby)
            product = 0
            for table in self._back:
                product ^= table[power & 0xFF]
                power >>= 8
            power = product
        return found[0] if len(found) == 1 else -1


CRC_32C = Crc(0x11EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, True)
CRC_32 = Crc(0x104C11DB7, 0xFFFFFFFF, 0xFFFFFFFF, True)
