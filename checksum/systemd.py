"""What systemd wants to hear from a service: sd_notify(3), and log lines as its journal reads them, sd-daemon(3).

Enters: READY, WATCHDOG, STATUS; log records. Leaves: a datagram to $NOTIFY_SOCKET, or nothing where systemd isn't
waiting for one; lines on stderr. It stands here because every daemon needs it, and this folder is what all may import.
"""

import logging
import os
import socket
import sys
import time

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def notify(*assignments: str) -> None:
    """Sends assignments such as "READY=1" or "STATUS=watching 32 devices".

    A service must not fail because its manager can't listen, so an unreachable socket is passed over.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path  # the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(assignments).encode(), address)
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


def start_log(format: str) -> None:
    """Logs to stderr in `format`; where that is systemd's journal, as bare sentences with their priority.

    The journal keeps time, name and level itself, so none of them stands in the text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JournalFormatter("%(message)s") if _is_journal() else logging.Formatter(format))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).splitlines()  # of a traceback too, each line is an entry of its own
        return "\n".join(f"<{PRIORITIES[record.levelno]}>{line}" for line in lines)


def _is_journal() -> bool:
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
