"""Log lines as systemd's journal wants them, and as people do elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging
from checksum import log_lines
log_lines.start("%(levelname)s %(message)s")
log = logging.getLogger("any")
log.info("all is well")
log.warning("a store of %d files", 3)
try:
    raise OSError("gone")
except OSError:
    log.exception("it failed")
"""


def logged(stream: Path, journal: str | None) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"}
    if journal is not None:
        environment["JOURNAL_STREAM"] = journal
    with stream.open("w") as file:
        subprocess.run([sys.executable, "-c", PROGRAM], stderr=file, env=environment, check=True)
    return stream.read_text().splitlines()


def test_the_journal_gets_a_priority_for_each_line(tmp_path: Path) -> None:
    stream = tmp_path / "log"
    stream.touch()
    status = stream.stat()
    lines = logged(stream, f"{status.st_dev}:{status.st_ino}")
    assert lines[:4] == [
        "<6>all is well",
        "<4>a store of 3 files",
        "<3>it failed",
        "<3>  Traceback (most recent call last):",
    ]
    assert all(line.startswith("<3>  ") for line in lines[4:])


@pytest.mark.parametrize("journal", [None, "", "1:2", "no device"])
def test_others_get_the_level_in_words(tmp_path: Path, journal: str | None) -> None:
    lines = logged(tmp_path / "log", journal)
    assert lines[:3] == ["INFO all is well", "WARNING a store of 3 files", "ERROR it failed"]
