"""Every benchmark still runs, and computes the same each time."""

import re

import pytest

from tests.bench.__main__ import NAMES, run


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_small(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(name, small=True)
    assert re.fullmatch("[0-9a-f]{16}", result)
    assert run(name, small=True) == result
    assert len(capsys.readouterr().out.splitlines()) > 4  # figures, not only a heading
