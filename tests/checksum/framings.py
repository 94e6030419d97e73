"""Framings that are like real ones: how they are declared, and how somebody else writes them."""

import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import crc32c
import crcmod.predefined

from checksum.declaration import load
from checksum.framing import Framing
from tests.checksum.faults import PristineLog

ccitt = crcmod.predefined.mkCrcFun("crc-ccitt-false")
crc_64 = crcmod.predefined.mkCrcFun("crc-64-we")
crc_24 = crcmod.predefined.mkCrcFun("crc-24")
crc_8 = crcmod.predefined.mkCrcFun("crc-8")


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def pagestore(payload: bytes) -> bytes:
    kind = b"\7"
    crc = masked(crc32c.crc32c(kind + payload))
    return b"\xfa\x11" + struct.pack("<I", len(payload)) + kind + struct.pack("<I", crc) + payload


def kafka(payload: bytes) -> bytes:
    body = b"\0\1" + payload
    return struct.pack(">QII", 77, 4 + len(body), zlib.crc32(body)) + body


def tfrecord(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    sums = [struct.pack("<I", masked(crc32c.crc32c(part))) for part in (length, payload)]
    return length + sums[0] + payload + sums[1]


def radio(payload: bytes) -> bytes:
    frame = b"\x7e\x81" + struct.pack(">H", len(payload) + 8) + payload
    return frame + struct.pack(">H", ccitt(frame[2:])) + b"\r\n"


def wide(payload: bytes) -> bytes:
    length = struct.pack("<I", len(payload))
    record = length + struct.pack("<Q", crc_64(payload + length)) + payload
    return record + bytes(-len(record) % 8)


def bare(payload: bytes) -> bytes:
    return struct.pack("<II", len(payload), crc32c.crc32c(payload)) + payload


def medium(payload: bytes) -> bytes:
    frame = struct.pack(">H", len(payload)) + payload
    return frame + crc_24(frame).to_bytes(3, "big")


def tiny(payload: bytes) -> bytes:
    return b"\xa5" + bytes([len(payload), crc_8(payload)]) + payload


@dataclass(frozen=True)
class Declared:
    write: Callable[[bytes], bytes]
    toml: str
    payload_bytes_max: int = 10**6

    def file(self, payloads: Iterable[bytes]) -> PristineLog:
        data, begins = b"", {}
        for payload in payloads:
            begins[len(data)] = payload
            data += self.write(payload)
        return PristineLog(data, begins)


DECLARED = {
    "pagestore": Declared(pagestore, Path("deploy/examples/framing.toml").read_text()),
    "kafka": Declared(
        kafka,
        """
        byte_order = "big"
        header = [{ name = "offset", bytes = 8 }, { name = "size", bytes = 4 }, { name = "crc", bytes = 4 },
                  { name = "magic", bytes = 1, value = "00" }, { name = "attributes", bytes = 1 }]
        length = "size"
        length_counts = ["crc", "magic", "attributes", "payload"]
        sum = "crc"
        covers = ["magic", "attributes", "payload"]
        crc = "crc-32"
        """,
    ),
    "tfrecord-like": Declared(
        tfrecord,
        """
        byte_order = "little"
        header = [{ name = "length", bytes = 8 }, { name = "length_crc", bytes = 4 }]
        trailer = [{ name = "crc", bytes = 4 }]
        length = "length"
        sum = "crc"
        crc = "crc-32c"
        mask = "leveldb"
        """,
    ),
    "radio": Declared(
        radio,
        """
        byte_order = "big"
        header = [{ name = "sync", bytes = 2, value = "7e81" }, { name = "size", bytes = 2 }]
        trailer = [{ name = "fcs", bytes = 2 }, { name = "end", bytes = 2, value = "0d0a" }]
        length = "size"
        length_counts = ["sync", "size", "payload", "fcs", "end"]
        sum = "fcs"
        covers = ["size", "payload"]
        crc = { polynomial = 0x11021, initial = 0xffff }
        check = 0x29b1
        """,
        60_000,
    ),
    "wide": Declared(
        wide,
        """
        byte_order = "little"
        header = [{ name = "length", bytes = 4 }, { name = "crc", bytes = 8 }]
        length = "length"
        length_max_bytes = 1000000
        sum = "crc"
        covers = ["payload", "length"]
        crc = "crc-64-we"
        align_bytes = 8
        """,
    ),
    "bare": Declared(
        bare,
        """
        byte_order = "little"
        header = [{ name = "length", bytes = 4 }, { name = "crc", bytes = 4 }]
        length = "length"
        length_max_bytes = 100000
        sum = "crc"
        crc = "crc-32c"
        """,
        100_000,
    ),
    "medium": Declared(
        medium,
        """
        byte_order = "big"
        header = [{ name = "length", bytes = 2 }]
        trailer = [{ name = "crc", bytes = 3 }]
        length = "length"
        sum = "crc"
        covers = ["length", "payload"]
        crc = "crc-24"
        """,
        60_000,
    ),
    "tiny": Declared(
        tiny,
        """
        byte_order = "big"
        header = [{ name = "sync", bytes = 1, value = "a5" }, { name = "length", bytes = 1 },
                  { name = "crc", bytes = 1 }]
        length = "length"
        sum = "crc"
        crc = "crc-8"
        """,
        255,
    ),
}
STRONG = ("pagestore", "kafka", "tfrecord-like", "wide", "bare")  # with 32 bits or more, so that chance plays no part


@cache
def framing(name: str) -> Framing:
    text = DECLARED[name].toml
    if "[framing]" not in text:
        text = f'[framing]\nname = "{name}"\n{text}'
    with TemporaryDirectory() as directory:
        path = Path(directory, f"{name}.toml")
        path.write_text(text)
        return load(path)
