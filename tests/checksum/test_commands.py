"""`flipwatch verify` and `flipwatch salvage`, through click and as real processes."""

import contextlib
import json
import os
import pty
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from checksum import commands, crc32c, diagnose, leveldb_log, tfrecord
from checksum import verify as verifying
from checksum.commands import locate, salvage, verify
from checksum.finding import Finding, Unreadable
from checksum.formats import Format
from checksum.leveldb_log import BLOCK_BYTES, scan
from checksum.verify import verify_file
from tests.checksum.faults import PristineLog, flip, write_back

LONG_AGO_S = 1_000_000_000
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def log() -> PristineLog:
    rng = random.Random(1)
    return PristineLog.of(rng.randbytes(rng.randrange(2000)) for _ in range(200))


def write(path: Path, data: bytes, *, mtime_s: float = LONG_AGO_S) -> Path:
    path.write_bytes(data)
    os.utime(path, (mtime_s, mtime_s))
    return path


def run(command: Any, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def verified(*args: object) -> tuple[int, list[dict[str, Any]]]:
    result = run(verify, "--json", *args)
    document = json.loads(result.stdout)
    assert set(document) == {"files", "seconds"}
    assert document["seconds"] >= 0
    return result.exit_code, document["files"]


# verify


def test_an_intact_file(tmp_path: Path, log: PristineLog) -> None:
    path = write(tmp_path / "log", log.data)
    code, files = verified(path)
    expected = {"path": str(path), "format": "leveldb-log", "bytes": len(log.data), "records": 200, "findings": []}
    assert (code, files) == (0, [expected])


def test_a_flipped_bit_is_named(tmp_path: Path, log: PristineLog) -> None:
    at = list(log.payloads)[100] + 50
    damaged, truth = flip(log.data, at, 3)
    path = write(tmp_path / "log", damaged)
    code, (file,) = verified(path)
    (finding,) = file["findings"]
    assert (code, file["records"]) == (1, 199)
    assert finding == {
        "begin": list(log.payloads)[100],
        "end": list(log.payloads)[101],
        "verdict": "flipped",
        "flip": {"offset_bytes": at, "bit": 3, "stored": truth.stored},
        "layer": "unknown",  # it was written just now, so that the disk may not have it yet
    }
    text = run(verify, path)
    assert text.exit_code == 1
    assert f"bit 3 of byte {at} is {truth.stored}, was {1 - truth.stored}" in text.stdout
    assert str(path) in text.stdout


def test_the_layer_of_damage_on_disk_is_told(disk: Path, log: PristineLog, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(disk / "log", flip(log.data, list(log.payloads)[100] + 50, 3)[0])
    write_back(path)
    monkeypatch.setattr(diagnose, "WRITTEN_BACK_S", 0)  # else what was written just now is unknown
    (file,) = verified(path)[1]
    (finding,) = file["findings"]
    assert (finding["verdict"], finding["layer"]) == ("flipped", "disk")
    assert "flipped, on disk: bit 3" in run(verify, path).stdout
    assert "flipped, on disk: bit 3" in run(locate, path).stdout
    (mismatch,) = json.loads(run(locate, "--json", path).stdout)["mismatches"]
    assert mismatch["layer"] == "disk"


def test_a_flip_in_memory_is_transient_and_counts(
    disk: Path, log: PristineLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = list(log.payloads)[100] + 50
    path = write(disk / "log", log.data)
    read_views = verifying.read_views

    def flipping(fd: int, begin: int, end: int, buffer: bytearray) -> Iterator[memoryview | Unreadable]:
        for piece in read_views(fd, begin, end, buffer):
            piece[at] ^= 1
            yield piece

    monkeypatch.setattr(verifying, "read_views", flipping)
    code, (file,) = verified(path)
    (finding,) = file["findings"]
    assert (code, finding["verdict"], finding["layer"]) == (1, "transient", "buffer")
    assert f"{finding['end']}: transient, in memory while it was read: bit 0 of byte {at}" in run(verify, path).stdout


def test_the_end_of_a_growing_file_is_marked_and_no_damage(tmp_path: Path, log: PristineLog) -> None:
    for data in (log.data[:-5], log.data + bytes(100_000), log.data[:BLOCK_BYTES] + bytes(99)):
        code, (file,) = verified(write(tmp_path / "fresh", data, mtime_s=time.time()))
        assert code == 0
        assert all(finding["settling"] for finding in file["findings"])
        assert len(file["findings"]) >= 1
        code, (file,) = verified(write(tmp_path / "old", data))
        assert code == 1
        assert not any("settling" in finding for finding in file["findings"])
    assert "still be growing" in run(verify, tmp_path / "fresh").stdout


def test_damage_in_a_fresh_file_counts(tmp_path: Path, log: PristineLog) -> None:
    last = list(log.payloads)[-1]
    for damaged in (flip(log.data, last + 8, 0)[0], log.data[: last + 4] + b"\xff\xff\xff", flip(log.data, 9, 0)[0]):
        assert verified(write(tmp_path / "log", damaged, mtime_s=time.time()))[0] == 1
    torn_within = log.data[:BLOCK_BYTES] + bytes(BLOCK_BYTES) + log.data[2 * BLOCK_BYTES :]
    assert verified(write(tmp_path / "log", torn_within, mtime_s=time.time()))[0] == 1


def test_a_file_changed_during_the_read_is_settling(tmp_path: Path, log: PristineLog) -> None:
    path = write(tmp_path / "log", log.data[:-5])
    fd = os.open(path, os.O_RDONLY)
    try:
        report = verify_file(fd, path, leveldb_log, LONG_AGO_S + 9999, lambda _: os.utime(path, (1, LONG_AGO_S + 1)))
    finally:
        os.close(fd)
    assert report.settling == len(report.findings) == 1


def test_a_file_that_shrinks_during_the_read_is_settling(tmp_path: Path) -> None:
    log = PristineLog.of(bytes(1000) for _ in range(3000))
    path = write(tmp_path / "log", log.data)
    fd = os.open(path, os.O_RDONLY)
    try:
        report = verify_file(fd, path, leveldb_log, LONG_AGO_S + 9999, lambda _: os.truncate(path, 2_000_000))
    finally:
        os.close(fd)
    assert [finding.verdict for finding in report.findings] == ["torn"]
    assert report.corrupt == ()
    assert report.records == sum(begin + 1007 <= 2_000_000 for begin in log.payloads)


def test_a_directory_is_walked_in_order(tmp_path: Path, log: PristineLog) -> None:
    for name in ("b", "a", "c/d", "c/b/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, log.data)
    write(tmp_path / "c" / "readme", b"plain text")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    code, files = verified(tmp_path)
    assert [str(Path(file["path"]).relative_to(tmp_path)) for file in files] == ["a", "b", "c/d", "c/readme", "c/b/x"]
    assert [file["format"] for file in files].count(None) == 1
    assert code == 2  # nobody can say whether the text is what was written
    stderr = run(verify, tmp_path).stderr
    assert f"1 of no known format:\n  {tmp_path}/c/readme\n" in stderr
    assert f"passed over:\n  {tmp_path}/link\n  {tmp_path}/pipe\n  {tmp_path}/c/loop\n" in stderr
    (tmp_path / "c" / "readme").unlink()
    assert verified(tmp_path)[0] == 0
    assert verified(tmp_path / "link")[0] == 0  # the user named this link


def test_trouble_is_one_sentence_and_the_rest_is_verified(tmp_path: Path, log: PristineLog) -> None:
    path = write(tmp_path / "log", log.data)
    os.mkfifo(tmp_path / "pipe")
    result = run(verify, tmp_path / "absent", tmp_path / "pipe", path)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"flipwatch: {tmp_path}/absent: No such file or directory",
        f"flipwatch: {tmp_path}/pipe: it is not a regular file",
    ]
    assert "200" in result.stdout
    write(path, flip(log.data, 9, 0)[0])
    assert run(verify, tmp_path / "absent", path).exit_code == 1  # corrupt outweighs trouble


def test_no_record_at_all_is_trouble(tmp_path: Path) -> None:
    assert verified(write(tmp_path / "empty", b""))[0] == 2
    code, (file,) = verified("--format", "leveldb-log", tmp_path / "empty")
    assert (code, file["format"], file["records"]) == (2, "leveldb-log", 0)
    code, (file,) = verified("--format", "leveldb-log", write(tmp_path / "text", b"plain text" * 99))
    assert (code, [finding["verdict"] for finding in file["findings"]]) == (1, ["skipped"])


def test_a_flipped_first_record_hides_nothing(tmp_path: Path, log: PristineLog) -> None:
    for data in (log.data, log.data[: list(log.payloads)[1]]):
        code, (file,) = verified(write(tmp_path / "log", flip(data, 20, 1)[0]))
        assert (code, file["format"], len(file["findings"])) == (1, "leveldb-log", 1)


def test_names_that_no_terminal_likes(tmp_path: Path, log: PristineLog) -> None:
    name = os.fsdecode(b"bad\xff\n\x1b[31mname")
    write(tmp_path / name, log.data)
    result = run(verify, tmp_path)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert verified(tmp_path)[1][0]["path"] == str(tmp_path / name)


def test_a_rate_delays_but_changes_nothing(tmp_path: Path, log: PristineLog) -> None:
    path = write(tmp_path / "log", log.data)
    begun_s = time.monotonic()
    assert verified("--rate", "1.5", path) == verified(path)
    assert time.monotonic() - begun_s >= len(log.data) / (1.5 * 2**20)  # a bound, whatever the machine is doing
    assert run(verify, "--rate", "0", path).exit_code == 2


@pytest.mark.parametrize("kernel", crc32c.kernels())
def test_every_kernel_finds_the_same(kernel: str, tmp_path: Path, log: PristineLog) -> None:
    path = write(tmp_path / "log", flip(log.data, 1000, 1)[0])
    before = crc32c.implementation()
    try:
        with_kernel = verified("--kernel", kernel, path)
        assert crc32c.implementation() == kernel
    finally:
        crc32c.use(before)
    assert with_kernel == verified(path)
    assert run(verify, "--kernel", "abacus", path).exit_code == 2


def test_verify_as_a_process(tmp_path: Path, log: PristineLog) -> None:
    path = write(tmp_path / "log", flip(log.data, 1000, 1)[0])
    command = [sys.executable, str(ROOT / "flipwatch.py"), "verify", "--json", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert len(json.loads(result.stdout)["files"][0]["findings"]) == 1
    assert result.stderr == ""  # no progress bar where nobody watches


def test_an_interrupt_is_neither_clean_nor_corrupt(tmp_path: Path, log: PristineLog) -> None:
    path = write(tmp_path / "log", log.data)
    command = [sys.executable, str(ROOT / "flipwatch.py"), "verify", "--rate", "0.001", str(path), str(path)]
    heeds_it = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts with & ignores it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeds_it) as process:
        while not _has_open(process.pid, path):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == "flipwatch: interrupted; not everything was read\n"


def test_a_terminal_shows_progress(tmp_path: Path, log: PristineLog) -> None:
    path = write(tmp_path / "log", log.data)
    screen, terminal = pty.openpty()
    command = [sys.executable, str(ROOT / "flipwatch.py"), "verify", str(path)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, timeout=60, check=False)
    os.close(terminal)
    shown = os.read(screen, 10_000).decode()
    os.close(screen)
    assert result.returncode == 0
    assert "100%" in shown
    assert b"%" not in result.stdout


def test_without_the_extension_the_user_is_told(tmp_path: Path, log: PristineLog) -> None:
    path = write(tmp_path / "log", flip(log.data[:20_000], 100, 2)[0])
    program = (
        "import sys; sys.modules['checksum._crc32c'] = None; sys.argv[0] = 'flipwatch'\n"
        "from checksum.commands import verify; verify()"
    )
    command = [sys.executable, "-c", program, "--json", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "pure Python" in result.stderr
    assert json.loads(result.stdout)["files"][0]["findings"] == verified(path)[1][0]["findings"]


def _has_open(pid: int, path: Path) -> bool:
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if fd.readlink() == path:
                return True
    return False


# salvage


def test_the_intact_records_are_copied(tmp_path: Path, log: PristineLog) -> None:
    begins = list(log.payloads)
    damaged = flip(flip(log.data, begins[20] + 9, 0)[0], begins[150] + 4, 7)[0]
    path, out = write(tmp_path / "in", damaged), tmp_path / "out"
    path.chmod(0o640)
    result = run(salvage, path, out, "--max-lost", "2%")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"left out bytes {begins[20]} to {begins[21]}: flipped: bit 0 of byte {begins[20] + 9}")
    assert lines[1].startswith(f"left out bytes {begins[150]} to {begins[151]}: flipped: bit 7")
    assert lines[2].startswith("198 records intact, ")
    kept = [payload for begin, payload in log.payloads.items() if begin not in (begins[20], begins[150])]
    assert [item.data for item in scan([out.read_bytes()]) if not isinstance(item, Finding)] == kept
    assert out.stat().st_mode & 0o777 == 0o640
    assert run(verify, out).exit_code == 0


@pytest.mark.parametrize(("limit", "code"), [("0", 1), ("0.0001%", 1), ("100%", 0), ("0.5", 0)])
def test_the_limit(tmp_path: Path, log: PristineLog, limit: str, code: int) -> None:
    path, out = write(tmp_path / "in", flip(log.data, 30, 1)[0]), tmp_path / "out"
    result = run(salvage, path, out, "--max-lost", limit)
    assert result.exit_code == code
    assert out.exists() == (code == 0)
    assert "left out bytes 0 to" in result.stdout
    assert len(list(tmp_path.iterdir())) == 1 + out.exists()
    assert run(salvage, write(tmp_path / "intact", log.data), out, "--force", "--max-lost", "0").exit_code == 0
    assert out.read_bytes() == log.data


@pytest.mark.parametrize("limit", ["2", "-1%", "nan", "x", "", "%"])
def test_a_senseless_limit_is_refused(tmp_path: Path, limit: str) -> None:
    result = run(salvage, tmp_path / "in", tmp_path / "out", f"--max-lost={limit}")
    assert result.exit_code == 2
    assert "no part of a whole" in result.stderr


def test_what_must_not_be_overwritten(tmp_path: Path, log: PristineLog) -> None:
    path, out = write(tmp_path / "in", log.data), write(tmp_path / "out", b"precious")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "hard").hardlink_to(path)
    for target, sentence in (
        (path, "is the file to be read itself"),
        (tmp_path / "link", "is the file to be read itself"),
        (tmp_path / "hard", "is the file to be read itself"),
        (tmp_path, "is not a regular file"),
        (Path("/dev/null"), "is not a regular file"),
    ):
        result = run(salvage, path, target, "--force")
        assert (result.exit_code, sentence in result.stderr, len(result.stderr.splitlines())) == (2, True, 1)
    result = run(salvage, path, out)
    assert (result.exit_code, "--force" in result.stderr) == (2, True)
    assert out.read_bytes() == b"precious"
    assert path.read_bytes() == log.data
    assert run(salvage, path, out, "--force").exit_code == 0
    assert out.read_bytes() == log.data


def test_salvage_trouble_is_one_sentence(tmp_path: Path, log: PristineLog) -> None:
    text, path = write(tmp_path / "text", b"plain"), write(tmp_path / "log", log.data)
    for source, out in (
        (tmp_path / "absent", tmp_path / "out"),
        (text, tmp_path / "out"),
        (path, tmp_path / "no" / "out"),
    ):
        result = run(salvage, source, out)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert result.stderr.startswith("flipwatch: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "text"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, log: PristineLog) -> None:
    path, out = write(tmp_path / "in", log.data), tmp_path / "out"
    command = [sys.executable, str(ROOT / "flipwatch.py"), "salvage", str(path), str(out)]
    limit = len(log.data) // 2
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 2
    assert result.stderr == f"flipwatch: {path} can't be salvaged to {out}: File too large\n"
    assert list(tmp_path.iterdir()) == [path]


# any size, any number


def within_memory(*args: object) -> tuple[int, str]:
    """The exit status and output of `flipwatch` in 48 MiB of new memory at most: bounded, whatever it is given."""
    program = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:];"
        "from checksum.commands import verify;"  # what is imported is no matter of the files
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096;"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 48 * 2**20,) * 2);"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", program, str(ROOT / "flipwatch.py"), *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert result.stderr == ""
    return result.returncode, result.stdout


@pytest.mark.parametrize("format", [leveldb_log, tfrecord], ids=lambda format: format.NAME)
def test_a_sparse_file_takes_neither_memory_nor_reading(format: Format, tmp_path: Path) -> None:
    assert format.encode is not None
    path, size = tmp_path / "sparse", 4 * 2**30
    with path.open("wb") as file:
        for _ in range(2):
            file.write(format.encode(b"payload", file.tell()))
        begin = file.tell()
        file.truncate(size)
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    code, text = within_memory("verify", "--json", "--rate", "1", path)  # at this rate reading it would take an hour
    (entry,) = json.loads(text)["files"]
    assert (code, entry["bytes"], entry["records"]) == (1, size, 2)
    assert [(found["begin"], found["end"], found["verdict"]) for found in entry["findings"]] == [(begin, size, "zeros")]


def test_records_behind_a_hole_are_found(tmp_path: Path) -> None:
    path, hole = tmp_path / "sparse", 2**30
    with path.open("wb") as file:
        file.write(2 * tfrecord.encode(b"payload", 0))
        file.seek(hole + 12_345)
        for number in range(100):
            file.write(tfrecord.encode(b"%d" % number, 0))
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    _, (entry,) = verified(path)
    assert entry["records"] == 102
    assert [(found["end"], found["verdict"]) for found in entry["findings"]] == [(hole + 12_345, "zeros")]


def test_many_files_are_summed_up(tmp_path: Path, log: PristineLog) -> None:
    for number in range(70):
        write(tmp_path / f"intact{number}", log.data)
        write(tmp_path / f"text{number}", b"plain text")
    for number in range(3):
        write(tmp_path / f"damaged{number}", flip(log.data, 1000, number)[0])
    result = run(verify, tmp_path)
    assert result.exit_code == 1
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["leveldb-log", "73", str(73 * len(log.data)), str(70 * 200 + 3 * 199), "3"] in rows
    assert ["unknown", "70", "700", "0", "0"] in rows
    listed = [row[0] for row in rows if row[1:2] == ["leveldb-log"]]
    assert listed == [str(tmp_path / f"damaged{number}") for number in range(3)]
    lines = result.stderr.splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("70 of no known format:", 12, "  and 60 more")
    assert len(verified(tmp_path)[1]) == 143


def test_many_findings_are_cut_short_for_a_person(tmp_path: Path) -> None:
    data = bytearray(PristineLog.of(bytes([number]) * 100 for number in range(100)).data)
    for at in range(50, len(data), 2 * 107):
        data[at] ^= 1
    path = write(tmp_path / "log", bytes(data))
    lines = run(verify, path).stdout.splitlines()
    assert sum("flipped" in line for line in lines) == 20
    assert lines[-1] == "  and 30 more: see --json"
    assert len(verified(path)[1][0]["findings"]) == 50


def test_many_damaged_files_are_cut_short_for_a_person(
    tmp_path: Path, log: PristineLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_FILES_LISTED_MAX", 4)
    monkeypatch.setattr(commands, "_DAMAGED_LISTED_MAX", 3)
    for number in range(5):
        write(tmp_path / f"log{number}", flip(log.data, 1000, number)[0])
    lines = run(verify, tmp_path).stdout.splitlines()
    assert lines[-1] == "and 2 more files with findings: see --json"
    assert sum("flipped" in line for line in lines) == 3


def test_a_directory_of_many_entries_is_walked_in_parts(
    tmp_path: Path, log: PristineLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_SORTED_MAX", 3)
    names = {f"{directory}/{number}" for directory in ("a", "b/c") for number in range(10)}
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, log.data)
    code, files = verified(tmp_path)
    assert (code, len(files)) == (0, 20)
    assert {str(Path(file["path"]).relative_to(tmp_path)) for file in files} == names


def test_an_unlisted_directory_is_trouble_and_the_rest_is_verified(tmp_path: Path, log: PristineLog) -> None:
    write(tmp_path / "log", log.data)
    walked = commands._Walk([tmp_path])
    files = walked.files()
    (tmp_path / "gone").mkdir()
    assert next(files).path == tmp_path / "log"
    (tmp_path / "gone").rmdir()
    assert list(files) == [] and walked.troubles == 1
