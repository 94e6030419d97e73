"""What the page cache holds of a file."""

import ctypes
import mmap
import os
from pathlib import Path

from agent.scrub import PAGE_BYTES


def resident_pages(path: Path) -> int:
    """How many pages of the file are in the page cache, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb+") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = -(-len(mapped) // PAGE_BYTES)
        present = (ctypes.c_ubyte * pages)()
        start = ctypes.byref(ctypes.c_char.from_buffer(mapped))
        failed = libc.mincore(start, ctypes.c_size_t(len(mapped)), present)
        del start
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(page & 1 for page in present)
