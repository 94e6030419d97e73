"""Salvage of a format without a writer: intact records are copied as they stand, and judged again on the way."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from checksum import salvage, tfrecord
from checksum.files import ReadsDiffer, open_regular
from checksum.finding import Verdict
from checksum.reader import LostTooMuch, Records, Span
from checksum.salvage import salvage_file

PAYLOADS = [bytes([number]) * 1000 for number in range(100)]
# The real reader of a real format, which hides that it could also write.
READ_ONLY = SimpleNamespace(**{name: getattr(tfrecord, name) for name in ("NAME", "scan", "verify")}, encode=None)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    data = bytearray(b"".join(tfrecord.encode(payload, 0) for payload in PAYLOADS))
    data[50_000] ^= 1
    path.write_bytes(data)
    return path


def salvaged(path: Path, out: Path, lost_max: float = 0.5) -> Records:
    fd = open_regular(path, follow=False)
    try:
        return salvage_file(fd, READ_ONLY, out, lost_max)
    finally:
        os.close(fd)


def test_intact_records_are_copied_as_they_stand(damaged: Path, tmp_path: Path) -> None:
    outcome = salvaged(damaged, tmp_path / "out")
    assert outcome.count == 99
    assert [finding.verdict for finding in outcome.findings] == [Verdict.flipped]
    left_out = outcome.findings[0]
    data = damaged.read_bytes()
    assert (tmp_path / "out").read_bytes() == data[: left_out.begin] + data[left_out.end :]


def test_the_limit_holds(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(LostTooMuch):
        salvaged(damaged, tmp_path / "out", 0.001)
    assert sorted(tmp_path.iterdir()) == [damaged]


def test_a_file_that_changes_under_the_copy_is_not_copied(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans_of = salvage._spans

    def and_then_rot(records: Records) -> list[Span]:
        spans = spans_of(records)
        data = bytearray(damaged.read_bytes())
        data[10_000] ^= 1
        damaged.write_bytes(data)
        return spans

    monkeypatch.setattr(salvage, "_spans", and_then_rot)
    with pytest.raises(ReadsDiffer):
        salvaged(damaged, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == [damaged]
