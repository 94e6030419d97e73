"""The demonstration tells the truth: it passes when all was seen, and fails when more happened than it knows of."""

import re
import subprocess
import sys

from click.testing import CliRunner

from deploy import demo, demo_world
from deploy.demo_stage import Stage


def test_the_demonstration_passes_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flipwatch", "demo", "--once"], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alert delivered by" in done.stdout and "resident memory" in done.stdout


def test_the_demonstration_fails_if_more_happened_than_it_knows_of(monkeypatch) -> None:
    inject, flip = demo._inject, demo._flip_bits

    def inject_one_too_many(stage: Stage, host: demo_world.Host, dimm: int, count: int, kind: str = "ce") -> None:
        inject(stage, host, dimm, count, kind)
        if count == demo.STORM_ERRORS:
            demo_world.count_error(host, dimm, 1)

    def flip_one_too_many(stage: Stage) -> None:
        flip(stage)
        untouched = next(host for host in stage.hosts if all(host.store not in f.path.parents for f in stage.flips))
        demo_world.flip_bit(sorted(untouched.store.iterdir())[0], stage.rng)

    monkeypatch.setattr(demo, "_inject", inject_one_too_many)
    monkeypatch.setattr(demo, "_flip_bits", flip_one_too_many)
    result = CliRunner().invoke(demo.demo, ["--once"])
    assert result.exit_code == 1
    assert re.search(r"counted \d+ errors, \d+ were injected", result.stderr)
    assert "but nobody touched it" in result.stderr
