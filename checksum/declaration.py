"""A framing as its user wrote it down: a TOML file becomes a `Framing`, or one sentence that names file, key and value.

Enters: the path of a file such as deploy/examples/framing.toml. Leaves: a reader of the declared format.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from checksum import settings
from checksum.crc import WIDTHS, Crc
from checksum.formats import FORMATS
from checksum.framing import PAYLOAD, RECORD_BYTES_MAX, Declaration, Field, Framing, Mask
from checksum.settings import SettingsError, setting

_MASKS = {"none": Mask(), "leveldb": Mask(15, 0xA282EAD8)}  # leveldb util/crc32c.h
_FIELD_BYTES_MAX = 4096
_TAKEN_NAMES = (*FORMATS, "auto", "seal")


@dataclass(frozen=True, slots=True)
class FieldSettings:
    name: str = setting("what the field is called in the other keys")
    bytes: int = setting("its size", minimum=1, maximum=_FIELD_BYTES_MAX)
    value: str | None = setting("what it always holds, in hexadecimal, as it stands in the file", default=None)


@dataclass(frozen=True, slots=True)
class CrcSettings:
    polynomial: int = setting("with its highest bit, so that it also tells the width", minimum=0x101)
    initial: int = setting("what the register holds at first, as in catalogues of CRCs", default=0, minimum=0)
    xor_out: int = setting("what is added to the register at last", default=0, minimum=0)
    reflected: bool = setting("whether the lowest bit of each byte goes first", default=False)


@dataclass(frozen=True, slots=True)
class MaskSettings:
    rotate_right: int = setting("bits by which the sum is rotated before it is stored", default=0, minimum=0)
    add: int = setting("what is then added to it", default=0, minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FramingSettings:
    name: str = setting("what the format is called in reports; none of the known formats")
    header: tuple[FieldSettings, ...] = setting("the fields before the payload")
    trailer: tuple[FieldSettings, ...] = setting("the fields behind it", default=())
    byte_order: str = setting("of the length and the sum", choices=("little", "big"))
    length: str = setting("the field of the header that tells the length")
    length_counts: tuple[str, ...] = setting("of which parts together; payload is one", default=(PAYLOAD,))
    length_add: int = setting("to be added to what is stored", default=0)
    length_max_bytes: int = setting(
        "no payload is longer", default=RECORD_BYTES_MAX, minimum=1, maximum=RECORD_BYTES_MAX
    )
    sum: str = setting("the field that holds the checksum")
    covers: tuple[str, ...] = setting("what is summed, in this order; payload is one of the parts", default=(PAYLOAD,))
    crc: str | CrcSettings = setting("the name of a CRC, as crcmod has it, or its parameters")
    check: int | None = setting("the checksum of 123456789, to see that the parameters are right", default=None)
    mask: str | MaskSettings = setting("how the sum is changed before it is stored", default="none", choices=(*_MASKS,))
    align_bytes: int = setting("records are padded to a multiple of it", default=1, minimum=1, maximum=_FIELD_BYTES_MAX)


def load(path: Path) -> Framing:
    """The framing that the file at `path` declares.

    Raises:
        SettingsError: one sentence that names file, key and value.
    """
    document = settings.read(path)
    settings.only_tables(document, ("framing",), path)
    where = f"{path}: [framing]"
    return _framing(settings.table(document.get("framing", {}), FramingSettings, where), where)


def _framing(given: FramingSettings, where: str) -> Framing:
    if not given.name or not given.name.isprintable() or given.name in _TAKEN_NAMES:
        taken = ", ".join(_TAKEN_NAMES)
        raise SettingsError(f"{where} name = {given.name!r}: must be a name of its own, none of {taken}")
    header = tuple(_field(field, f"{where} header") for field in given.header)
    trailer = tuple(_field(field, f"{where} trailer") for field in given.trailer)
    _check_names(header, trailer, where)
    _check_parts(given, header, trailer, where)
    crc = _crc(given, where)
    declaration = Declaration(
        given.name,
        cast(Literal["little", "big"], given.byte_order),
        header,
        trailer,
        given.length,
        given.length_counts,
        given.length_add,
        given.length_max_bytes,
        given.sum,
        given.covers,
        crc,
        _mask(given, crc.width, where),
        given.align_bytes,
    )
    _check_sizes(declaration, where)
    return Framing(declaration)


def _field(given: FieldSettings, where: str) -> Field:
    if given.value is None:
        return Field(given.name, given.bytes)
    try:
        constant = bytes.fromhex(given.value)
    except ValueError:
        raise SettingsError(f"{where} {given.name} value = '{given.value}': must be hexadecimal digits") from None
    if len(constant) != given.bytes:
        raise SettingsError(f"{where} {given.name} value = '{given.value}': must have as many bytes as the field")
    return Field(given.name, given.bytes, constant)


def _check_names(header: tuple[Field, ...], trailer: tuple[Field, ...], where: str) -> None:
    names = [field.name for field in header + trailer]
    for name in names:
        if name == PAYLOAD or names.count(name) > 1:
            raise SettingsError(f"{where} name = '{name}': stands for two parts of the record; give each its own")


def _check_parts(given: FramingSettings, header: tuple[Field, ...], trailer: tuple[Field, ...], where: str) -> None:
    """The keys that name parts of the record name some that are there and can be what they are said to be."""
    fields = {field.name: field for field in header + trailer}
    for key, name, known in (
        ("length", given.length, {field.name: field for field in header}),
        ("sum", given.sum, fields),
    ):
        if name not in known:
            raise SettingsError(f"{where} {key} = '{name}': is no field; known are {', '.join(known) or 'none'}")
        if known[name].constant is not None:
            raise SettingsError(f"{where} {key} = '{name}': is a field that always holds the same; remove its value")
    if fields[given.length].size_bytes > 8:
        raise SettingsError(f"{where} length = '{given.length}': must have at most 8 bytes")
    if given.length == given.sum:
        raise SettingsError(f"{where} sum = '{given.sum}': can't be the field of the length too")
    for key, parts in (("covers", given.covers), ("length_counts", given.length_counts)):
        for name in parts:
            if name != PAYLOAD and name not in fields:
                known_parts = ", ".join((*fields, PAYLOAD))
                raise SettingsError(f"{where} {key}: '{name}' is no part of the record; known are {known_parts}")
            if parts.count(name) > 1:
                raise SettingsError(f"{where} {key}: '{name}' stands there twice; name it once")
        if PAYLOAD not in parts:
            raise SettingsError(f"{where} {key}: must name '{PAYLOAD}', or the records can't be verified")
    if given.sum in given.covers:
        raise SettingsError(f"{where} covers: '{given.sum}' holds the sum, which can't cover itself")


def _crc(given: FramingSettings, where: str) -> Crc:
    if isinstance(given.crc, str):
        try:
            crc = Crc.named(given.crc)
        except KeyError:
            raise SettingsError(
                f"{where} crc = '{given.crc}': crcmod knows none of that name; give its parameters"
            ) from None
    else:
        crc = Crc(given.crc.polynomial, given.crc.initial, given.crc.xor_out, given.crc.reflected)
    if crc.width not in WIDTHS:
        widths = ", ".join(map(str, WIDTHS))
        raise SettingsError(
            f"{where} crc polynomial = {crc.polynomial:#x}: has {crc.width} bits behind its highest; can be {widths}"
        )
    if crc.polynomial % 2 == 0:
        raise SettingsError(f"{where} crc polynomial = {crc.polynomial:#x}: its lowest bit must be set")
    for key, word in (("initial", crc.initial), ("xor_out", crc.xor_out)):
        if word >> crc.width:
            raise SettingsError(f"{where} crc {key} = {word:#x}: has more bits than the polynomial")
    if given.check is not None and given.check != crc.check:
        raise SettingsError(f"{where} check = {given.check:#x}: these parameters give {crc.check:#x} for 123456789")
    return crc


def _mask(given: FramingSettings, width: int, where: str) -> Mask:
    table = given.mask
    mask = Mask(table.rotate_right, table.add) if isinstance(table, MaskSettings) else _MASKS[table]
    if mask.rotate_right >= width or mask.add >> width:
        raise SettingsError(f"{where} mask: rotates by or adds more than the {width} bits of the sum")
    return mask


def _check_sizes(declaration: Declaration, where: str) -> None:
    """The sum fits its field, and some length that can be stored stands for a payload."""
    sizes = {field.name: field.size_bytes for field in declaration.header + declaration.trailer}
    width, field_bits = declaration.crc.width, 8 * sizes[declaration.sum]
    if field_bits != width:
        raise SettingsError(f"{where} crc: has {width} bits, but the field '{declaration.sum}' has {field_bits}")
    if declaration.payload_bytes_max < max(0, declaration.uncounted_bytes):
        raise SettingsError(f"{where} length_add = {declaration.length_add}: then no length stands for a payload")
