"""Runs the benchmarks: `python -m tests.bench [--small] [NAME...]`.

A benchmark is a module tests/bench/bench_NAME.py with `main(small: bool) -> str`: it prints its figures and returns a
hash of what was computed (not of the times), so that a benchmark that no longer computes anything is noticed.
"""

import argparse
import importlib
import os
from pathlib import Path

from tests.bench.timing import machine

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the front door does
NAMES = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def run(name: str, small: bool) -> str:
    """Runs one benchmark and returns the hash of its result."""
    print(f"# {name}\n")
    result: str = importlib.import_module(f"tests.bench.bench_{name}").main(small)
    print(f"\nresult {result}\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it still run?")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"no benchmark '{name}'; there are {', '.join(NAMES)}")
    print(f"{machine()}\n")
    for name in arguments.names or NAMES:
        run(name, arguments.small)


if __name__ == "__main__":
    main()
