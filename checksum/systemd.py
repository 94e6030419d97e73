"""What systemd wants to hear from a service: sd_notify(3).

Enters: READY, WATCHDOG, STATUS. Leaves: a datagram to $NOTIFY_SOCKET, or nothing where systemd isn't waiting for one.
It stands here because every daemon needs it, and this folder is what all may import.
"""

import os
import socket
import time

from checksum.printable import printable


def notify(*assignments: str) -> None:
    """Sends assignments such as "READY=1" or "STATUS=watching 32 devices".

    Each is one line, whatever it says: what looks like another assignment within a sentence is none. A service must not
    fail because its manager can't listen, so an unreachable socket is passed over.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path  # the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(map(printable, assignments)).encode(), address)
    except OSError:
        pass


def reloading() -> None:
    """Says that the configuration is being read again; READY=1 ends it. The time tells this reload from older ones."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """How often systemd wants to hear WATCHDOG=1: half its limit; None where it doesn't watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    return int(limit_us) / 2e6 if limit_us.isdecimal() and int(limit_us) else None
