"""The kernel log's records, and a reader that goes on where it stopped."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel_log import KernelLog, Record, parse
from tests.agent.kernel_log_device import KernelLogDevice


@pytest.mark.parametrize(
    ("data", "record"),
    [
        (b"6,339,5140900,-;NET: Registered PF_INET\n", Record(339, 5140900, "NET: Registered PF_INET")),
        (
            b"4,12,99,-,caller=T1;text;more,5\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
            Record(12, 99, "text;more,5"),
        ),
        (b"6,1,2,-;tab\\x09and\\x0aline, \\xff\n", Record(1, 2, "tab\tand\nline, �")),
        (b"6,1,2,-;\n", Record(1, 2, "")),
        (b" KEY=value\n", None),
        (b"6,x,2,-;text\n", None),
        (b"6,1,2", None),
    ],
)
def test_records(data: bytes, record: Record | None) -> None:
    assert parse(data) == record


@given(st.binary(max_size=200))
def test_no_bytes_are_an_exception(data: bytes) -> None:
    parse(data)


def test_a_reader_goes_on_where_it_stopped(tmp_path: Path) -> None:
    device, log = KernelLogDevice(tmp_path / "kmsg"), KernelLog()
    device.say("a", "b", "c")
    assert [record.text for record in log.records(device.path, 0)] == ["a", "b", "c"]
    assert list(log.records(device.path, 3)) == []
    device.say("d", "e")
    assert [record.text for record in log.records(device.path, 3)] == ["d", "e"]
    log.close()
    device.replay()
    assert [record.text for record in log.records(device.path, 4)] == ["e"], "found by its number"
    log.close()
    device.close()


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(KernelLog().records(tmp_path / "kmsg", 0))
