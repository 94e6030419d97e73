"""A tracefs tree with formats recorded from real kernels, whose buffers tests fill page by page.

Each processor's trace_pipe_raw is a FIFO, which like the kernel's file gives a page once.
"""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

from agent.ringbuffer import MISSED_EVENTS, MISSED_STORED, EventFormat, event_format
from agent.trace_instance import NAME

RECORDED = Path(__file__).parents[1] / "fixtures/tracefs"
KERNELS = ("6.1", "6.12")
PAGE_BYTES = 4096
NO_LOSS = "entries: 0\noverrun: {overrun}\ncommit overrun: 0\nbytes: 0\ndropped events: 0\nread events: {read}\n"


def formats(kernel: str) -> dict[str, EventFormat]:
    return {file.name.split(".")[1]: event_format(file.read_text()) for file in (RECORDED / kernel).glob("*.format")}


def payload(form: EventFormat, **values: int | str | bytes) -> bytes:
    """An event as the kernel writes it: fixed fields, and behind them what is of varying length."""
    end = max(item.offset_bytes + item.size_bytes for item in form.fields.values())
    content, tail = bytearray(end), b""
    for name, value in {"common_type": form.id, **values}.items():
        place = form.fields[name]
        if place.is_dynamic:
            data = value.encode() + b"\0" if isinstance(value, str) else bytes(value)
            value, tail = len(data) << 16 | end + len(tail), tail + data
        data = (
            value
            if isinstance(value, bytes)
            else (value % (1 << 8 * place.size_bytes)).to_bytes(place.size_bytes, "little")
        )
        content[place.offset_bytes : place.offset_bytes + place.size_bytes] = data.ljust(place.size_bytes, b"\0")
    return bytes(content) + tail


def page(entries: list[tuple[int, bytes]], lost: int | None = None) -> bytes:
    """A page of (time, payload), after `lost` events."""
    begin, data, at = (entries[0][0] if entries else 0), b"", None
    for time, content in entries:
        delta, at = time - (begin if at is None else at), time
        if delta >> 27:
            data += struct.pack("<II", 30 | (delta & (1 << 27) - 1) << 5, delta >> 27)
            delta = 0
        padded = content + bytes(-len(content) % 4)
        if len(padded) <= 28 * 4:
            data += struct.pack("<I", len(padded) // 4 | delta << 5) + padded
        else:
            data += struct.pack("<II", delta << 5, len(padded) + 4) + padded
    commit = len(data) | (MISSED_EVENTS | MISSED_STORED if lost is not None else 0)
    tail = struct.pack("<Q", lost) if lost is not None else b""
    return (struct.pack("<QQ", begin, commit) + data + tail).ljust(PAGE_BYTES, b"\0")


@dataclass
class Tracing:
    """A tracefs at `root` with a prepared instance."""

    root: Path
    kernel: str = "6.12"
    cpus: int = 2
    _fds: list[int] = field(default_factory=list)

    @property
    def instance(self) -> Path:
        return self.root / "instances" / NAME

    def create(self) -> "Tracing":
        for file in (RECORDED / self.kernel).glob("*.format"):
            group, name, _ = file.name.split(".")
            self.set(f"events/{group}/{name}/format", file.read_text())
            self.set(f"events/{group}/{name}/enable", "0\n")
        self.set("events/header_page", (RECORDED / "header_page").read_text())
        self.set("events/header_event", "")
        self.set("trace_clock", "local global [boot] tai\n")
        self.set("buffer_percent", "0\n")
        self.set("buffer_size_kb", "258\n")
        for cpu in range(self.cpus):
            self.set_stats(cpu)
            os.mkfifo(self.instance / f"per_cpu/cpu{cpu}/trace_pipe_raw")
            self._fds.append(os.open(self.instance / f"per_cpu/cpu{cpu}/trace_pipe_raw", os.O_RDWR | os.O_NONBLOCK))
        return self

    def set(self, name: str, text: str) -> None:
        file = self.instance / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def set_stats(self, cpu: int, overrun: int = 0, read: int = 0) -> None:
        self.set(f"per_cpu/cpu{cpu}/stats", NO_LOSS.format(overrun=overrun, read=read))

    def emit(self, cpu: int, *entries: tuple[int, bytes]) -> None:
        self.write(cpu, page(list(entries)))

    def write(self, cpu: int, data: bytes) -> None:
        os.write(self._fds[cpu], data)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
