"""RocksDB's own log reader, built for the benchmark from Debian's library and a few lines of C++.

Enters: nothing. Leaves: a function (bytes) -> number of records, or None where the library or a compiler is missing.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench.leveldb_reader import compiled


def reader() -> Callable[[bytes], int] | None:
    """With the CRC that Debian builds it with, which is portable C."""
    if shutil.which("g++") is None or not Path("/usr/include/rocksdb/version.h").exists():
        return None
    with tempfile.TemporaryDirectory() as directory:
        try:
            return compiled("rocksdb_reader.cc", Path(directory) / "reader.so", ["-lrocksdb"])
        except subprocess.CalledProcessError:  # another version
            return None
