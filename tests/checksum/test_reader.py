"""The reader for users of the library: intact records, and an end as soon as too much is lost."""

import re
from pathlib import Path

import pytest

from checksum import leveldb_log, tfrecord
from checksum.finding import Verdict
from checksum.reader import LostTooMuch, Records

PAYLOADS = [bytes([number]) * 1000 for number in range(100)]
README = Path(__file__).parent.parent.parent / "checksum/README.md"


def damaged(path: Path, *numbers: int) -> Path:
    """A file of which the records of these numbers have a flipped bit."""
    data = bytearray()
    for number, payload in enumerate(PAYLOADS):
        data += tfrecord.encode(payload, 0)
        if number in numbers:
            data[-500] ^= 1
    path.write_bytes(data)
    return path


def test_intact_records_are_returned_and_damage_is_passed_over(tmp_path: Path) -> None:
    with damaged(tmp_path / "file", 3, 4, 70).open("rb") as file:
        records = Records(file.fileno(), tfrecord, lost_max=0.05)
        data = [record.data for record in records]
    assert data == [payload for number, payload in enumerate(PAYLOADS) if number not in (3, 4, 70)]
    assert records.count == 97 and records.lost_bytes == 3 * 1016
    assert [finding.verdict for finding in records.findings] == [Verdict.flipped] * 3


def test_it_ends_as_soon_as_too_much_is_lost(tmp_path: Path) -> None:
    with damaged(tmp_path / "file", 10, 20, 30).open("rb") as file:
        records = iter(reading := Records(file.fileno(), tfrecord, lost_max=0.015))
        assert [next(records).data for _ in range(19)] == [*PAYLOADS[:10], *PAYLOADS[11:20]]
        with pytest.raises(LostTooMuch, match="2032 of 101600 bytes are lost already") as raised:
            next(records)
    assert raised.value.so_far is reading and len(reading.findings) == 2


def test_what_only_a_search_found_is_passed_over_unless_wanted(tmp_path: Path) -> None:
    path = damaged(tmp_path / "file")
    data = bytearray(path.read_bytes())
    data[:12] = b"\xff" * 12
    path.write_bytes(data)
    with path.open("rb") as file:
        careful = Records(file.fileno(), tfrecord, 1.0)
        assert list(careful) == [] and [span.records for span in careful.found] == [99]
        assert careful.lost_bytes == careful.size
        assert len(list(Records(file.fileno(), tfrecord, 0.02, keep_found=True))) == 99


def test_the_example_in_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"(?:^    .*\n|^\n)*^    .*Records\(.*\n(?:^    .*\n|^\n)*", README.read_text(), re.M)
    data = leveldb_log.encode(b"first", 0)
    (tmp_path / "records.log").write_bytes(data + leveldb_log.encode(b"second", len(data)))
    program = "\n".join(line[4:] for line in example.split("\n")).replace("records.log", str(tmp_path / "records.log"))
    exec(compile(program, "checksum/README.md", "exec"), {})
    assert capsys.readouterr().out == "b'first'\nb'second'\n0 bytes lost\n"
