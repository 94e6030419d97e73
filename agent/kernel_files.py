"""What stands in a small file of sysfs, procfs or tracefs, where it makes no difference why there is none.

Enters: the path. Leaves: the beginning of its text, empty if it can't be read. The content is anybody's: a directory
that stands in for sysfs may hold what it likes, so what is read is bounded and always text.
"""

from pathlib import Path

BYTES_MAX = 4096  # an attribute is at most one page


def text(file: Path, size_max: int = BYTES_MAX) -> str:
    """At most `size_max` bytes of the file; what isn't UTF-8 is replaced."""
    try:
        with file.open("rb") as stream:
            return stream.read(size_max).decode("utf-8", "replace")
    except OSError:
        return ""


def first_line(file: Path) -> str:
    """Without the spaces around it."""
    return text(file).partition("\n")[0].strip()
