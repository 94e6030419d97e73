"""The log of every daemon: lines on stderr, whatever their words hold, as systemd's journal reads them, sd-daemon(3).

Enters: how a line is made up, in the terms of `logging`. Leaves: a root logger. A message is one line, so that no name
in it can forge another or talk to a terminal; the lines of a traceback are indented below it.
"""

import logging
import os
import sys

from checksum.printable import printable

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def start(form: str) -> None:
    """Lets all loggers write to stderr, from the level INFO on; to the journal as bare sentences with their priority.

    The journal keeps time, name and level itself, so none of them stands in the text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JournalFormatter("%(message)s") if _is_journal() else _LineFormatter(form))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _LineFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]
        return "\n".join(f"  {printable(line)}" for line in lines)


class _JournalFormatter(_LineFormatter):
    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).splitlines()  # of a traceback too, each line is an entry of its own
        return "\n".join(f"<{PRIORITIES[record.levelno]}>{line}" for line in lines)


def _is_journal() -> bool:
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
