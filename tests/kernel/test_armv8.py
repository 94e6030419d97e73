"""The CRC-32C kernel for 64-bit ARM: compiled for it, and run by emulated processors."""

import random
import subprocess
from pathlib import Path

import pytest

from checksum.crc32c import crc32c
from tests.kernel.debian_kernel import ROOT

PROGRAM = r"""
#include "_native.h"
#include <stdio.h>
#include <stdlib.h>

/* From standard input: a line per case, with its length and its place in memory, then the bytes. */
int main(void) {
    build_kernels();
    for (size_t i = 0; i < kernel_count; i++)
        printf("%s ", kernels[i].name);
    printf("\n");
    for (size_t length, place; scanf("%zu %zu", &length, &place) == 2;) {
        uint8_t *memory = malloc(length + place + 1);
        getchar();
        if (fread(memory + place, 1, length, stdin) != length)
            return 1;
        for (size_t i = 0; i < kernel_count; i++) /* in two pieces, as a long buffer comes */
            printf("%u ", ~kernels[i].run(kernels[i].run(~0u, memory + place, length / 3), memory + place + length / 3,
                                          length - length / 3));
        printf("\n");
        free(memory);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("armv8")
    (directory / "main.c").write_text(PROGRAM)
    sources = [directory / "main.c", ROOT / "checksum/_kernels.c"]
    command = ["aarch64-linux-gnu-gcc", "-static", "-O3", "-Wall", "-Werror", f"-I{ROOT / 'checksum'}", *sources]
    subprocess.run([*map(str, command), "-o", str(directory / "program")], check=True)
    return directory / "program"


def run(program: Path, processor: str, cases: list[tuple[int, bytes]]) -> list[list[str]]:
    given = b"".join(b"%d %d\n%s" % (len(data), place, data) for place, data in cases)
    command = ["qemu-aarch64", "-cpu", processor, str(program)]
    done = subprocess.run(command, input=given, capture_output=True, check=True, timeout=120)
    return [line.split() for line in done.stdout.decode().splitlines()]


@pytest.mark.parametrize("processor", ["cortex-a53", "neoverse-n1"])
def test_the_instructions_compute_what_every_other_kernel_does(program: Path, processor: str) -> None:
    rng = random.Random(8)
    lengths = [*range(70), 383, 384, 385, 1151, 1152, 1153, *(rng.randrange(20_000) for _ in range(300))]
    cases = [(rng.randrange(64), rng.randbytes(length)) for length in lengths]
    names, *sums = run(program, processor, cases)
    assert names == ["armv8", "table"]
    assert sums == [[str(crc32c(data))] * 2 for _, data in cases]
