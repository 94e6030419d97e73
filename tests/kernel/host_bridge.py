"""The memory controller of a Xeon E3, for the kernel's own ie31200_edac driver to find, poll and believe.

Enters: accesses to configuration space and registers, which QEMU's x-pci-proxy-dev sends over a socket; and errors to
inject. Leaves: what a real host bridge 8086:0158 would answer. Registers after drivers/edac/ie31200_edac.c of the Linux
kernel, messages after hw/remote/mpqemu-link.c of QEMU 7.2.
"""

import array
import contextlib
import os
import socket
import struct
import threading
from enum import IntEnum

VENDOR, DEVICE, CLASS_HOST_BRIDGE = 0x8086, 0x0158, 0x060000
BAR_BYTES = 0x8000  # what the driver maps
CONFIG_BAR0, CONFIG_MCHBAR, CONFIG_ERRSTS = 0x10, 0x48, 0xC8
MAD_DIMM = (0x5004, 0x5008)  # what is plugged into each channel
ECC_ERROR_LOG = (0x40C8, 0x44C8)
ERROR_CORRECTED, ERROR_UNCORRECTED = 1, 2
# One DIMM of 1 GiB per channel (in units of 256 MiB), with two ranks.
DIMM_SIZE_UNITS, TWO_RANKS = 4, 1 << 17

_MESSAGE = struct.Struct("=i4xQ")  # command, size of what follows
_CONFIG = struct.Struct("=IIi")  # address, value, length
_BAR = struct.Struct("=QQI?")  # absolute address, value, size, is it memory
_WORD = struct.Struct("=Q")


class Command(IntEnum):
    SYNC_SYSMEM = 0  # carries the guest's memory as file descriptors; wants no answer
    RET = 1
    CONFIG_WRITE = 2
    CONFIG_READ = 3
    BAR_WRITE = 4
    BAR_READ = 5
    SET_IRQFD = 6  # wants no answer
    DEVICE_RESET = 7


class HostBridge:
    """Answers on `ours`; `theirs` is the end to hand to QEMU."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._config = bytearray(256)
        struct.pack_into("<HH", self._config, 0, VENDOR, DEVICE)
        struct.pack_into("<I", self._config, 8, CLASS_HOST_BRIDGE << 8)
        self._registers = bytearray(BAR_BYTES)
        for at in MAD_DIMM:
            struct.pack_into("<I", self._registers, at, TWO_RANKS | DIMM_SIZE_UNITS)
        self._lock = threading.Lock()
        self._cleared = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._serve, name="host bridge", daemon=True)
        self._thread.start()

    def inject(self, *, channel: int, rank: int, uncorrected: bool = False, syndrome: int = 0) -> None:
        """One error, as soon as the driver has taken the one before it: the hardware logs one per channel.

        Raises:
            TimeoutError: the driver doesn't poll.
        """
        kind = ERROR_UNCORRECTED if uncorrected else ERROR_CORRECTED
        with self._lock:
            if not self._cleared.wait_for(lambda: not self._config[CONFIG_ERRSTS], timeout=30):
                raise TimeoutError("the driver never took the error before this one")
            struct.pack_into("<Q", self._registers, ECC_ERROR_LOG[channel], kind | syndrome << 16 | rank << 27)
            self._config[CONFIG_ERRSTS] |= kind

    def wait_until_taken(self) -> None:
        """Until the driver has read and cleared the last error."""
        with self._lock:
            if not self._cleared.wait_for(lambda: not self._config[CONFIG_ERRSTS], timeout=30):
                raise TimeoutError("the driver doesn't take the error")

    def close(self) -> None:
        self._hang_up()
        self._thread.join(10)
        self._ours.close()
        self.theirs.close()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):  # QEMU may have gone first
            self._ours.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        try:
            self._answer_all()
        finally:
            self._hang_up()  # so that QEMU doesn't wait for an answer for ever

    def _answer_all(self) -> None:
        while header := self._received(_MESSAGE.size):
            command, size = _MESSAGE.unpack(header)
            body = self._received(size)
            if command in (Command.SYNC_SYSMEM, Command.SET_IRQFD):
                continue
            with self._lock:
                answer = self._answer(Command(command), body)
            self._ours.sendall(_MESSAGE.pack(Command.RET, _WORD.size) + _WORD.pack(answer))

    def _received(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece, descriptors, _, _ = socket.recv_fds(self._ours, size - len(data), 16)
            for fd in array.array("i", descriptors):
                os.close(fd)
            if not piece:
                return b""
            data += piece
        return data

    def _answer(self, command: Command, body: bytes) -> int:
        if command in (Command.CONFIG_READ, Command.CONFIG_WRITE):
            at, value, length = _CONFIG.unpack_from(body)
            access = self._config_read if command is Command.CONFIG_READ else self._config_write
            return access(at, value, length)
        if command in (Command.BAR_READ, Command.BAR_WRITE):
            address, value, size, _ = _BAR.unpack_from(body)
            at = address - int.from_bytes(self._config[CONFIG_BAR0 : CONFIG_BAR0 + 4], "little")
            if command is Command.BAR_READ:
                return int.from_bytes(self._registers[at : at + size], "little")
            self._registers[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return 0

    def _config_read(self, at: int, _value: int, length: int) -> int:
        if CONFIG_MCHBAR <= at < CONFIG_MCHBAR + 4:  # the registers lie where BAR 0 was put
            at += CONFIG_BAR0 - CONFIG_MCHBAR
        return int.from_bytes(self._config[at : at + length], "little")

    def _config_write(self, at: int, value: int, length: int) -> int:
        data = (value & (1 << 8 * length) - 1).to_bytes(length, "little")
        if at == CONFIG_BAR0:
            # The low bits of an address aren't there; writing all ones is how software asks for the size.
            data = (value & ~(BAR_BYTES - 1) & 0xFFFFFFFF).to_bytes(4, "little")
        if at == CONFIG_ERRSTS:  # a one that is written clears
            data = bytes(old & ~new & 0xFF for old, new in zip(self._config[at : at + length], data, strict=True))
        if at < 0x40 and not CONFIG_BAR0 <= at < CONFIG_BAR0 + 4 and at not in (4, 5, 0x3C):
            return 0  # identity and the other BARs are fixed
        self._config[at : at + length] = data
        if at == CONFIG_ERRSTS and not self._config[CONFIG_ERRSTS]:
            for log in ECC_ERROR_LOG:
                struct.pack_into("<Q", self._registers, log, 0)
            self._cleared.notify_all()
        return 0
