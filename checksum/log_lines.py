"""The log of every daemon: lines on stderr, whatever their words hold.

Enters: how a line is made up, in the terms of `logging`. Leaves: a root logger. A message is one line, so that no name
in it can forge another or talk to a terminal; the lines of a traceback are indented below it.
"""

import logging
import sys

from checksum.printable import printable


def to_stderr(form: str) -> None:
    """Lets all loggers write there, from the level INFO on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter(form))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _LineFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]
        return "\n".join(f"  {printable(line)}" for line in lines)
