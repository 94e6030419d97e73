"""The C extension under AddressSanitizer and UndefinedBehaviorSanitizer: any bytes, never out of bounds."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from checksum import crc32c

ROOT = Path(__file__).parent.parent.parent
FUZZ_S = 2
FLAGS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def build(output: Path, sources: list[Path]) -> Path:
    include = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / 'checksum'}"]
    command = ["gcc", "-shared", "-fPIC", *FLAGS, *include, *map(str, sources), "-o", str(output)]
    subprocess.run(command, check=True, timeout=120)
    return output


def fuzz(extension: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """The interpreter isn't instrumented: the libraries come first, and PYTHONMALLOC shows them its memory."""
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(ROOT / "tests/checksum/fuzz_extension.py"), str(extension), str(seconds)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def sources() -> list[Path]:
    return sorted((ROOT / "checksum").glob("*.c"))


def test_no_input_leads_out_of_bounds(tmp_path: Path, sources: list[Path]) -> None:
    result = fuzz(build(tmp_path / "extension.so", sources), FUZZ_S)
    assert result.returncode == 0, result.stderr
    assert str(crc32c.kernels()) in result.stdout  # every kernel had its turn


def test_the_sanitizers_notice_a_byte_too_many(tmp_path: Path, sources: list[Path]) -> None:
    kernels = tmp_path / "_kernels.c"
    right = "for (; length > 0; bytes++, length--)\n        state = (state >> 8) ^ slices[0][(state ^ *bytes) & 0xff];"
    text = (ROOT / "checksum/_kernels.c").read_text()
    assert text.count(right) == 1
    kernels.write_text(text.replace(right, right.replace("*bytes)", "bytes[1])")))
    others = [path for path in sources if path.name != "_kernels.c"]
    result = fuzz(build(tmp_path / "overrun.so", [*others, kernels]), 0)
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
