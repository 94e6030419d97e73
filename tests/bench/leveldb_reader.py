"""LevelDB's own log reader, built for the benchmark from Debian's static library and a few lines of C++.

Enters: nothing. Leaves: functions (bytes) -> number of records, or none where the library or a compiler is missing.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
KERNELS = HERE.parent.parent / "checksum"


def readers() -> dict[str, Callable[[bytes], int]]:
    """By the CRC they use: "portable" is how Debian builds LevelDB, "hardware" has our SSE4.2 kernel in its place."""
    if shutil.which("g++") is None or not Path("/usr/include/leveldb/env.h").exists():
        return {}
    with tempfile.TemporaryDirectory() as directory:
        hardware = ["-DHARDWARE_CRC", f"-I{KERNELS}", str(_kernels_object(Path(directory)))]
        try:
            return {
                name: _reader(Path(directory) / f"{name}.so", flags)
                for name, flags in (("portable", []), ("hardware", hardware))
            }
        except subprocess.CalledProcessError:  # only the shared library is installed
            return {}


def _kernels_object(directory: Path) -> Path:
    output = directory / "kernels.o"
    command = ["gcc", "-O3", "-fPIC", "-c", str(KERNELS / "_kernels.c"), "-o", str(output)]
    subprocess.run(command, check=True)
    return output


def _reader(library: Path, flags: list[str]) -> Callable[[bytes], int]:
    return compiled("leveldb_reader.cc", library, [*flags, "-Wl,-Bstatic", "-lleveldb", "-Wl,-Bdynamic"])


def compiled(source: str, library: Path, flags: list[str]) -> Callable[[bytes], int]:
    """The `read_log` of a file of C++ beside this one.

    Raises:
        CalledProcessError: it can't be compiled, or something that it is linked to isn't there.
    """
    command = ["g++", "-O2", "-std=c++17", "-fPIC", "-shared", str(HERE / source), *flags, "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    read_log = ctypes.CDLL(str(library)).read_log
    read_log.restype, read_log.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t]

    def read(data: bytes) -> int:
        return int(read_log(data, len(data)))

    return read
