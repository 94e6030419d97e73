"""Trees of memory controllers as the kernel's EDAC core makes them, with errors in them; see pretended.c.

Enters: a guest. Leaves: the tree of each layout in tests/fixtures/edac, one line for each file, by

    python -m tests.kernel.edac_trees            (as root, on Debian, after `make test-kernel` has prepared it)
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.agent.edac_tree import FIXTURES
from tests.kernel.debian_kernel import built_module, unpacked
from tests.kernel.guest import Guest, started

SOURCE = Path(__file__).with_name("pretended.c")
MC = "/sys/devices/system/edac/mc"
PARAMETERS = "/sys/module/pretended/parameters"
CORRECTED, UNCORRECTED = 0, 1
SKX_DETAIL = (
    " err_code:0x0101:0x0090 ProcessorSocketId:0x0 MemoryControllerId:0x0 PhysicalRankId:0x1 Row:{row:#x} Column:0x100 "
    "Bank:0x3 BankGroup:0x1 retry_rd_err_log[0001a209 00000000 00800000 0440d001 000015da]"
)
SB_DETAIL = " area:DRAM err_code:0001:0090 socket:0 ha:0 channel_mask:8 rank:9"
# For each layout: controller, type, count, address, syndrome, the two layers, the message and what the driver adds.
ERRORS = {
    "skx": (
        (0, CORRECTED, 1, 0x12345040, 0, 0, 1, "memory read error", SKX_DETAIL.format(row=0x15DA)),
        (0, CORRECTED, 2, 0x12347040, 0, 0, 1, "memory read error", SKX_DETAIL.format(row=0x15DB)),
        (1, UNCORRECTED, 1, 0x98765000, 0, 2, 0, "memory scrubbing error", SKX_DETAIL.format(row=0x77)),
        (0, CORRECTED, 1, 0, 0, 0, -1, "memory read error", ""),
        (1, CORRECTED, 4, 0, 0, -1, -1, "Can't parse: it is not a mem", ""),
    ),
    "sb": (
        (0, CORRECTED, 1, 0x12345040, 0, 3, 2, "memory read error", SB_DETAIL),
        (0, UNCORRECTED, 1, 0x23456000, 0, 1, 0, "memory read error", SB_DETAIL),
        (0, CORRECTED, 1, 0x12345040, 0, -1, 2, "memory read error", SB_DETAIL),
    ),
    "amd64": (
        (0, CORRECTED, 1, 0x12345040, 0x5A, 2, 3, "", ""),
        (0, CORRECTED, 1, 0x12346040, 0x5A, 3, 3, "", ""),
        (0, UNCORRECTED, 1, 0x23456000, 0, 1, 7, "", ""),
        (0, CORRECTED, 1, 0, 0, 0, -1, "Cannot decode normalized address", ""),
    ),
}


@contextmanager
def registered(guest: Guest, layout: str) -> Iterator[None]:
    """The controllers of a layout, registered in the guest."""
    guest.run(f"insmod /root{built_module(guest.kernel, SOURCE)} layout={layout}")
    try:
        yield
    finally:
        guest.run("rmmod pretended")


def inject(guest: Guest, error: tuple) -> None:
    controller, kind, count, address, syndrome, top, middle, message, detail = error
    line = f"{controller} {kind} {count} {address:x} {syndrome:x} {top} {middle} {message}|{detail}"
    guest.run(f'echo "{line}" > {PARAMETERS}/inject')


def tree(guest: Guest) -> str:
    """Every file that can be read, as "path<tab>content"; how long ago the counters were reset isn't told."""
    unwanted = "-path '*/power/*' -o -name uevent -o -name reset_counters"
    files = f"find mc* -type f ! \\( {unwanted} \\) | sort"
    text = guest.run(f"cd {MC}; for file in $({files}); do printf '%s\\t' $file; cat $file; done")
    return re.sub(r"(seconds_since_reset\t)\d+", r"\g<1>60", text)


def main() -> None:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    kernel = unpacked("linux-image-6.12-amd64")
    with tempfile.TemporaryDirectory() as name, started(kernel, Path(name) / "guest", Path(name)) as guest:
        for layout, errors in ERRORS.items():
            with registered(guest, layout):
                for error in errors:
                    inject(guest, error)
                (FIXTURES / f"{layout}.tree").write_text(tree(guest))


if __name__ == "__main__":
    main()
