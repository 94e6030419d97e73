"""What people have said that they know of: a device's errors, as many as there were when they said so.

Enters: the agent's state directory. Leaves: acknowledgements, each a file of its own, whole or absent, so that neither
the agent nor two people at once can spoil another's. One error more, or another part in its place, and the device is
open again.

    acknowledged/dram%2Fmc0%2Fchannel1%2Fslot0
        {"errors": {"corrected": 12}, "reason": .., "by": .., "time_ns": .., "serial": "F0A1B20C"}

The agent makes the directory, writable for its group, and only reads it.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from agent.reconcile import devices
from checksum import durable

DIRECTORY, DIRECTORY_MODE = "acknowledged", 0o2770
FILE_BYTES_MAX = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    errors: Mapping[str, int]  # by severity, all that are known
    reason: str
    by: str
    time_ns: int
    serial: str = ""  # of the part that erred; empty where none is known


Acknowledged = dict[tuple[str, str], Acknowledgement]  # by stream and device


def make_directory(state_dir: Path) -> None:
    """Makes the directory, for the group that the state directory belongs to.

    Raises:
        OSError: it can't be made.
    """
    directory = state_dir / DIRECTORY
    if not directory.is_dir():
        directory.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # the group isn't one of ours: then it stays our own
            os.chown(directory, -1, state_dir.stat().st_gid)
        directory.chmod(DIRECTORY_MODE)


def read(state_dir: Path) -> tuple[Acknowledged, tuple[str, ...]]:
    """All that are there, and one sentence for each that can't be read."""
    found: Acknowledged = {}
    trouble: list[str] = []
    try:
        files = sorted(file for file in (state_dir / DIRECTORY).iterdir() if not file.name.startswith("."))
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        return {}, (f"{error.filename}: {error.strerror}",)
    for file in files:
        stream, _, device = unquote(file.name).partition("/")
        try:
            found[stream, device] = _parsed(file)
        except (OSError, ValueError, RecursionError) as error:
            trouble.append(f"{file}: {getattr(error, 'strerror', None) or 'not what flipwatch ack writes'}")
    return found, tuple(trouble)


def _parsed(file: Path) -> Acknowledgement:
    with file.open("rb") as stream:
        document = json.loads(stream.read(FILE_BYTES_MAX))
    errors = document.get("errors") if isinstance(document, dict) else None
    if not isinstance(errors, dict) or not all(type(count) is int for count in errors.values()):
        raise ValueError
    return Acknowledgement(
        errors=errors,
        reason=str(document.get("reason", "")),
        by=str(document.get("by", "")),
        time_ns=int(document.get("time_ns", 0)),
        serial=str(document.get("serial", "")),
    )


def of_part(acknowledged: Acknowledged, stream: str, name: str, device: Mapping[str, Any]) -> Acknowledgement | None:
    """What was said of the part that is remembered as `device`; what was said of the one before it doesn't count."""
    said, serial = acknowledged.get((stream, name)), serial_of(device)
    return None if said is None or (said.serial and serial and said.serial != serial) else said


def serial_of(device: Mapping[str, Any]) -> str:
    """Of the part whose errors these are, as long as it can be told."""
    return str(device["life"][0]) if "life" in device else ""


def erring(state: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The devices that have erred, as the agent's journal has them."""
    return {(stream, name): device for stream, name, device in devices(state) if device["errors"]}


def write(state_dir: Path, stream: str, device: str, acknowledgement: Acknowledgement) -> None:
    """Acknowledges; what was acknowledged of the device before is replaced.

    Raises:
        OSError: it can't be written.
    """
    content: dict[str, Any] = asdict(acknowledgement)
    with durable.replace_file(_file(state_dir, stream, device), mode=0o644) as file:
        file.write(json.dumps(content).encode())


def remove(state_dir: Path, stream: str, device: str) -> None:
    """Takes an acknowledgement back.

    Raises:
        FileNotFoundError: there is none.
        OSError: it can't be removed.
    """
    _file(state_dir, stream, device).unlink()


def _file(state_dir: Path, stream: str, device: str) -> Path:
    return state_dir / DIRECTORY / quote(f"{stream}/{device}", safe="")
