"""Looks for bytes that a reader can't bear, led by the coverage of the readers' code (Atheris, libFuzzer).

usage: python -m tests.fuzz SECONDS          every reader in turn, for so long in all
       python -m tests.fuzz READER ARGS...   one of them, with arguments for libFuzzer

What covers something new is added to tests/fuzz/corpus; what breaks a reader is kept in a file crash-READER-*.
"""

import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["checksum"]):
    from tests.fuzz.target import READERS, check

CORPUS = Path(__file__).parent / "corpus"
LENGTH_MAX = 512  # of an input; what is wrong with long ones is wrong with some short one


def fuzz_one(name: str, arguments: list[str]) -> None:
    again = f"{sys.executable} -m tests.fuzz {name}"  # how libFuzzer starts itself to merge
    atheris.Setup([again, *arguments], partial(check, name))
    atheris.Fuzz()


def fuzz_all(duration_s: float) -> int:
    limits = [f"-max_total_time={max(1, round(duration_s / len(READERS)))}", f"-max_len={LENGTH_MAX}", "-timeout=20"]
    for name in READERS:
        kept = CORPUS / name
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as found:
            done = run(name, *limits, f"-artifact_prefix=crash-{name}-", "-print_final_stats=1", found, kept)
            if done.returncode:
                print(f"{done.stderr}\nflipwatch: {name} can't bear the bytes in crash-{name}-*", file=sys.stderr)
                return 1
            run(name, "-merge=1", kept, found).check_returncode()
        (runs,) = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
        print(f"{name}: {runs} runs, {len(list(kept.iterdir()))} files in {kept}", flush=True)
    return 0


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since libFuzzer ends the one it runs in."""
    command = [sys.executable, "-m", "tests.fuzz", name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    if sys.argv[1] in READERS:
        fuzz_one(sys.argv[1], sys.argv[2:])
    else:
        sys.exit(fuzz_all(float(sys.argv[1])))
